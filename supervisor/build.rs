//! Builds the init for containers, which this crate carries along.

use std::path::PathBuf;
use std::process::Command;

#[expect(clippy::disallowed_methods, reason = "it is the compiler that builds this crate, too")]
fn main() {
    println!("cargo::rerun-if-changed=init/main.rs");
    let variable = |name: &str| std::env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name}"));
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args(["init/main.rs", "--crate-name=init", "--crate-type=bin", "--edition=2024", "--target"]);
    rustc.arg(variable("TARGET")).args(["-Copt-level=s", "-Cpanic=abort", "-Cstrip=symbols"]);
    // It has no library, not even that which starts a program, and so runs in images that have none.
    rustc.args(["-Crelocation-model=static", "-Clink-self-contained=no", "-Clink-args=-static -nostdlib"]);
    rustc.args(["-Clinker=rust-lld", "-Clinker-flavor=ld.lld"]);
    rustc.arg("-o").arg(PathBuf::from(variable("OUT_DIR")).join("init"));
    let status = rustc.status().expect("the compiler starts");
    assert!(status.success(), "the init for containers does not compile");
}
