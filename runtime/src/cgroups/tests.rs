//! Cgroups on this machine, which needs root; v2 is tried wherever a v2 tree is mounted, be it a hybrid's.

use super::*;
use crate::container::{ContainerConfig, Extras, Rootfs, launch_in};
use crate::network::Network;
use crate::stdio::Stdio;
use crate::{SpecOptions, default_spec};
use std::io::Read;
use std::os::unix::fs::symlink;

#[test]
fn a_machine_without_cgroups_gives_a_warning() {
    let mut warnings = Vec::new();
    let cgroups = Cgroups::create_in(Vec::new(), "slipway-x", None, None, &mut warnings).unwrap();
    assert!(matches!(warnings.as_slice(), [Warning::NoCgroup { .. }]), "{warnings:?}");
    assert!(cgroups.views().is_empty());
}

#[test]
fn a_folder_that_cannot_be_made_gives_a_warning() {
    let mounts = "1 2 0:1 / /proc/self rw - cgroup cgroup rw,memory\n";
    let hierarchies = hierarchy::parse(&hierarchy::USUAL, mounts, "", |_| String::new());
    let mut warnings = Vec::new();
    let cgroups = Cgroups::create_in(hierarchies, "slipway-x", None, None, &mut warnings).unwrap();
    assert!(matches!(warnings.as_slice(), [Warning::NoCgroup { .. }]), "{warnings:?}");
    assert_eq!(cgroups.joins().count(), 0);
}

/// The v2 tree as if it were all there is.
fn v2_alone() -> Vec<Hierarchy> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts: String =
        mounts.lines().filter(|line| line.contains(" - cgroup2 ")).map(|line| format!("{line}\n")).collect();
    hierarchy::parse(&hierarchy::USUAL, &mounts, "0::/\n", |path| {
        std::fs::read_to_string(path.join("cgroup.controllers")).unwrap()
    })
}

#[test]
fn on_v2_a_container_is_cloned_into_its_cgroup_and_devices_are_filtered() {
    let able = rustix::process::geteuid().is_root() && Path::new("/bin/busybox").exists() && !v2_alone().is_empty();
    if !able {
        assert!(std::env::var_os("CI").is_none(), "this test needs root, busybox and a v2 hierarchy");
        eprintln!("skipped: this test needs root, busybox and a v2 hierarchy");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("bin")).unwrap();
    std::fs::copy("/bin/busybox", folder.path().join("bin/busybox")).unwrap();
    symlink("busybox", folder.path().join("bin/sh")).unwrap();
    let script =
        "cat /sys/fs/cgroup/cgroup.procs; grep 0:: /proc/self/cgroup; cat /dev/null; head -c 2 /dev/zero | wc -c
        mknod /kmsg c 1 11; cat /kmsg";
    let script = script.replace("cat ", "busybox cat ").replace("head", "busybox head").replace("wc", "busybox wc");
    let script = script.replace("mknod", "busybox mknod").replace("grep", "busybox grep");
    let options = SpecOptions { args: vec!["sh".to_owned(), "-c".to_owned(), script], ..SpecOptions::default() };
    let spec = default_spec(&options).unwrap();
    let mut warnings = Vec::new();
    let resources = spec.linux().as_ref().unwrap().resources().as_ref();
    let cgroups = Cgroups::create_in(v2_alone(), &owner::name("test-v2"), resources, None, &mut warnings).unwrap();
    let path = cgroups.places[0].path.clone();
    let config = ContainerConfig {
        id: "test-v2".to_owned(),
        spec,
        rootfs: Rootfs::Folder(folder.path().to_path_buf()),
        stdio: Stdio::pipes(),
        network: Network::none(),
        cgroup_parent: None,
        die_with_parent: true,
    };
    let launched = launch_in(config, &mut Extras::default(), cgroups, warnings, None).unwrap();
    let mut container = launched.started().unwrap();
    let (mut stdout, mut stderr) = (String::new(), String::new());
    container.take_stdout().unwrap().read_to_string(&mut stdout).unwrap();
    container.take_stderr().unwrap().read_to_string(&mut stderr).unwrap();
    assert!(container.wait().unwrap().code.is_some());
    let lines: Vec<_> = stdout.lines().collect();
    assert_eq!(lines[0], "1", "{stdout}{stderr}");
    assert_eq!(lines[lines.len() - 2..], ["0::/", "2"], "{stdout}{stderr}");
    assert!(stderr.contains("not permitted"), "{stderr}");
    assert!(!path.exists());
}
