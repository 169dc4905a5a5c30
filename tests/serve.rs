//! `slipway serve`.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::support::{SLIPWAY, TestEnv, path};

#[test]
fn it_tells_where_it_listens_and_stops_when_asked_to() {
    let env = TestEnv::new();
    let registry = env.registry();
    let port: u16 = registry.address.strip_prefix("127.0.0.1:").unwrap().parse().unwrap();
    assert_ne!(port, 0);
    assert_eq!(registry.stop(), 0);
}

#[test]
fn what_was_pushed_is_there_after_a_restart() {
    let env = TestEnv::with_busybox();
    let first = env.registry();
    let name = format!("{}/bb:1", first.address);
    env.slipway(["tag", "busybox", &name]).success();
    env.slipway(["push", &name]).success();
    first.kill();
    let second = env.registry();
    let name = format!("{}/bb:1", second.address);
    let other = super::support::run(env.command(["pull", &name]).env("SLIPWAY_HOME", env.path("other")));
    assert!(other.success().contains("Downloaded newer image"));
}

#[test]
fn a_home_is_served_while_it_is_used() {
    let env = TestEnv::with_busybox();
    let registry = super::support::Registry::start(&env, &env.home());
    let name = format!("{}/bb:1", registry.address);
    env.slipway(["tag", "busybox", &name]).success();
    env.slipway(["push", &name]).success();
    assert_eq!(registry.stop(), 0);
}

#[test]
fn an_address_that_cannot_be_had_is_named() {
    let env = TestEnv::new();
    let registry = env.registry();
    let stderr = env.slipway(["serve", "--addr", &registry.address, "--root", path(&env.path("x"))]).failure(1);
    assert!(stderr.contains(&registry.address) && stderr.contains("in use"), "{stderr}");
    let stderr = env.slipway(["serve", "--addr", "nonsense"]).failure(1);
    assert!(stderr.contains("`nonsense`") && stderr.contains("hint:"), "{stderr}");
}

#[test]
fn it_takes_as_many_open_files_as_it_may() {
    let env = TestEnv::new();
    let script = "ulimit -Sn 64; exec \"$0\" serve --addr 127.0.0.1:0 --root \"$1\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, SLIPWAY, path(&env.path("root"))]).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let [soft, hard] = [3, 4].map(|column| files.split_whitespace().nth(column).unwrap());
    assert!(soft == hard && soft != "64", "{files}");
}

#[test]
fn settings_that_cannot_be_are_named() {
    let env = TestEnv::new();
    let root = env.path("root");
    let serve = |flags: &[&str]| {
        let mut all = vec!["serve", "--addr", "127.0.0.1:0", "--root", path(&root)];
        all.extend(flags);
        env.slipway(all)
    };
    let stderr = serve(&["--trusted-proxies", "10.0.0.0/8,nonsense"]).failure(1);
    assert!(stderr.contains("`nonsense`") && stderr.contains("hint:"), "{stderr}");
    let stderr = serve(&["--tls-cert", "no-such-file", "--tls-key", "no-such-file"]).failure(1);
    assert!(stderr.contains("`no-such-file`") && stderr.contains("No such file"), "{stderr}");
    let stderr = serve(&["--tls-cert", "cert"]).failure(2);
    assert!(stderr.contains("--tls-key"), "{stderr}");
}
