//! The commands in README.md work as they are written there, so the first five minutes always do.

use std::path::Path;
use std::process::Command;

use super::support::{SLIPWAY, TestEnv, busybox_tar, needs, path, run};

fn readme() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap()
}

/// Returns the lines of the blocks that are marked as `language`.
fn block<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let start = format!("```{language}");
    let mut inside = false;
    let kept = text.lines().filter(|line| {
        let fence = line.starts_with("```");
        inside = if fence { *line == start } else { inside };
        inside && !fence
    });
    kept.collect()
}

/// Runs lines of bash in a folder with a Dockerfile, where `slipway` is found and has a store with `busybox`.
fn bash(env: &TestEnv, lines: &str) -> super::support::Ran {
    let context = env.context("app", "FROM busybox\nCMD [\"echo\", \"hello from the container\"]\n");
    let search = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", path(Path::new(SLIPWAY).parent().unwrap()));
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", lines]).current_dir(context).stdin(std::process::Stdio::null());
    command.env("PATH", search).env("SLIPWAY_HOME", env.home()).env("DOCKER_CONFIG", env.path("docker"));
    run(&mut command)
}

#[test]
fn the_example_at_the_top_works() {
    if !needs::root() {
        return;
    }
    let text = readme();
    let lines: Vec<&str> = block(&text, "console").into_iter().filter_map(|line| line.strip_prefix("$ ")).collect();
    assert!(lines.len() >= 4, "{lines:?}");
    let env = TestEnv::with_busybox();
    // The registry of the example may not get its port here: another one takes its place.
    let registry = env.registry();
    let (serve, others): (Vec<&str>, Vec<&str>) = lines.into_iter().partition(|line| line.ends_with('&'));
    assert_eq!(serve, ["slipway serve --addr 127.0.0.1:5000 &"]);
    let stdout = bash(&env, &others.join("\n").replace("127.0.0.1:5000", &registry.address)).success();
    assert!(stdout.contains("hello from the container") && stdout.contains("latest: digest: sha256:"), "{stdout}");
}

#[test]
fn every_command_of_the_table_works() {
    if !needs::root() {
        return;
    }
    let text = readme();
    let table = text.lines().filter(|line| line.starts_with("| "));
    let spans = table.flat_map(|line| line.split('`').skip(1).step_by(2)).filter(|span| span.contains("slipway "));
    let env = TestEnv::with_busybox();
    let registry = env.registry();
    std::fs::create_dir_all(env.path("app")).unwrap();
    std::fs::copy(busybox_tar(), env.path("app/rootfs.tar")).unwrap();
    let mut ran = 0;
    for span in spans {
        // These ask a person: for a password, and at a terminal.
        if span.contains("login") || span.contains("-it") {
            continue;
        }
        bash(&env, &span.replace("HOST", &registry.address)).success();
        ran += 1;
    }
    assert!(ran >= 10, "only {ran} commands were found");
}

#[test]
fn every_make_target_exists() {
    let text = readme();
    let makefile = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Makefile")).unwrap();
    let targets: Vec<&str> =
        text.split("make ").skip(1).filter_map(|rest| rest.split([' ', '`', '\n']).next()).collect();
    for expected in ["demo", "test", "release"] {
        assert!(targets.contains(&expected), "README.md does not tell of `make {expected}`");
        assert!(makefile.contains(&format!("\n{expected}:")), "there is no `make {expected}`");
    }
}
