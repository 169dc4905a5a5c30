//! A disk that is full: one message that says so, and a store that works on.

use std::process::Command;

use super::support::{SLIPWAY, TestEnv, busybox_tar, needs, path, run};

/// Runs shell commands while the home is a small disk that nobody else sees.
fn on_a_small_disk(env: &TestEnv, script: &str) -> super::support::Ran {
    std::fs::create_dir_all(env.home()).unwrap();
    let script = format!("mount -t tmpfs -o size=1m tmpfs \"$SLIPWAY_HOME\"\n{script}");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]).env("SLIPWAY_HOME", env.home()).env("slipway", SLIPWAY);
    run(command.env("HOME", env.path("")).env("DOCKER_CONFIG", env.path("docker")))
}

#[test]
fn what_does_not_fit_is_told_and_leaves_the_store_as_it_was() {
    if !needs::root() {
        return;
    }
    let env = TestEnv::new();
    let other = TestEnv::with_busybox();
    let archive = env.path("busybox.archive");
    other.slipway(["save", "-o", path(&archive), "busybox"]).success();
    let registry = env.registry();
    let name = format!("{}/busybox", registry.address);
    other.slipway(["tag", "busybox", &name]).success();
    other.slipway(["push", "--compression", "uncompressed", &name]).success();
    let context = env.context("app", "FROM scratch\nCOPY big /\n");
    env.write("app/big", vec![7; 2 << 20]);
    let commands = [
        format!("import {}", path(busybox_tar())),
        format!("load -i {}", path(&archive)),
        format!("build {}", path(&context)),
        format!("pull {name}"),
    ];
    for command in commands {
        // The second command finds a store that works, and as much room as before.
        let script = format!(
            "\"$slipway\" {command} && exit 9\n\"$slipway\" images -q || exit 8\n\
             printf 'FROM scratch\\nLABEL a=b\\n' | \"$slipway\" build -q - || exit 7"
        );
        let ran = on_a_small_disk(&env, &script);
        let (code, stderr) = (ran.code(), ran.stderr());
        assert_eq!(code, 0, "{command}: {stderr}");
        assert_eq!(stderr.lines().filter(|line| line.starts_with("error:")).count(), 1, "{command}: {stderr}");
        assert!(stderr.contains("no space left on the disk of"), "{command}: {stderr}");
        assert!(stderr.contains("SLIPWAY_HOME") && !stderr.contains("broken"), "{command}: {stderr}");
    }
}
