//! Starts `/bin/true` again and again in a container of Docker's defaults, and prints how long each took.
//!
//! `cargo run -p runtime --example true --release -- ROOTFS [COMMAND...]`, with `BRIDGE=1` on the bridge.
#![expect(clippy::print_stdout, reason = "an example shows something")]

use runtime::network::{Mode, prepare};
use runtime::{ContainerConfig, Rootfs, SpecOptions, Stdio, default_spec, start};
use std::path::PathBuf;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let bridged = std::env::var_os("BRIDGE").is_some();
    let rootfs = PathBuf::from(arguments.next().ok_or("usage: true ROOTFS [COMMAND...]")?);
    let command: Vec<String> = arguments.collect();
    let runs = if command.is_empty() { 40 } else { 1 };
    let args = if command.is_empty() { vec!["/bin/true".to_owned()] } else { command };
    let state = rootfs.parent().ok_or("the rootfs has no parent")?.join("state");
    let mut times = Vec::new();
    for run in 0..runs {
        let folder = state.join(run.to_string());
        let (upper, work) = (folder.join("upper"), folder.join("work"));
        std::fs::create_dir_all(&upper)?;
        std::fs::create_dir_all(&work)?;
        let before = Instant::now();
        let options = SpecOptions { args: args.clone(), hostname: "example".to_owned(), ..SpecOptions::default() };
        let container = start(ContainerConfig {
            id: format!("example-{run}"),
            spec: default_spec(&options)?,
            rootfs: Rootfs::Overlay { lower: vec![rootfs.clone()], upper, work, volatile: true },
            stdio: Stdio::inherit(),
            network: prepare(if bridged { Mode::Bridge(state.join("leases")) } else { Mode::None })?,
            cgroup_parent: None,
            die_with_parent: true,
        })?;
        for warning in container.warnings() {
            println!("warning: {warning}");
        }
        let started = before.elapsed();
        let status = container.wait()?;
        times.push((before.elapsed(), started));
        std::fs::remove_dir_all(&folder)?;
        if !status.success() {
            println!("{status:?}");
        }
    }
    times.sort_unstable();
    let (median, least) = (times[times.len() / 2], times[0]);
    println!("start to exit: median {:?} (exec after {:?}), least {:?}", median.0, median.1, least.0);
    Ok(())
}
