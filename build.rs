//! How the program is linked.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // The static program corrects all pointers in its data at each start. Packed, their list is 15 KiB and not 920 KiB.
    if std::env::var("CARGO_CFG_TARGET_ENV").as_deref() == Ok("musl") {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
