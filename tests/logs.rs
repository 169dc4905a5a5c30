//! `slipway logs`.

use super::support::TestEnv;

#[test]
fn lines_come_back_on_the_stream_they_were_printed_on() {
    let Some(env) = TestEnv::for_containers() else { return };
    env.start("box", &[], "for i in 1 2 3; do echo out $i; echo err $i >&2; sleep 0.2; done; printf end");
    let followed = env.slipway(["logs", "-f", "box"]);
    assert_eq!(followed.stdout(), "out 1\nout 2\nout 3\nend");
    assert_eq!(followed.stderr(), "err 1\nerr 2\nerr 3\n");
    let logs = |flags: &[&str]| env.slipway([&["logs"], flags, &["box"]].concat()).stdout();
    assert_eq!(logs(&["--tail", "1"]), "end");
    assert_eq!(logs(&["--tail", "0"]), "");
    let times = logs(&["-t"]);
    let first = times.lines().next().unwrap();
    let (time, text) = first.split_once(' ').unwrap();
    assert!(time.len() == "2026-11-30T12:00:00.123456789Z".len() && text == "out 1", "{first}");
    assert_eq!(logs(&["--until", time]), "out 1\n");
    assert_eq!(logs(&["--since", "2099-01-01"]), "");
    assert_eq!(logs(&["--since", "1h"]).lines().count(), 4);
    assert!(env.slipway(["logs", "nosuch"]).failure(1).contains("No such container: nosuch"));
    assert!(env.slipway(["logs", "--since", "yesterday", "box"]).failure(1).contains("`yesterday`"));
}

#[test]
fn logs_are_as_asked_for() {
    let Some(env) = TestEnv::for_containers() else { return };
    env.start("none", &["--log-driver", "none"], "echo x");
    env.slipway(["wait", "none"]).success();
    assert!(env.slipway(["logs", "none"]).failure(1).contains("configured logging driver does not support reading"));
    let flags = ["--log-driver", "k8s-file", "--log-opt", "max-size=2k", "--log-opt", "max-file=2"];
    env.start("cri", &flags, "for i in $(seq 200); do echo line $i; done");
    env.slipway(["wait", "cri"]).success();
    let logs = env.slipway(["logs", "cri"]).stdout();
    assert!(logs.ends_with("line 199\nline 200\n") && logs.lines().count() < 150, "{logs}");
    let raw = std::fs::read_to_string(env.look("cri", "{{.LogPath}}")).unwrap();
    assert!(raw.lines().all(|line| line.contains(" stdout F line ")), "{raw}");
}
