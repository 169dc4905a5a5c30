//! `slipway stop`.

use std::time::Instant;

use rustix::process::Signal;

use super::support::{TestEnv, eventually, is_alive, send};

#[test]
fn a_program_is_asked_first_and_killed_when_it_does_not_listen() {
    let Some(env) = TestEnv::for_containers() else { return };
    env.start("polite", &[], "trap 'echo bye; exit 5' TERM; echo ready; while true; do sleep 0.05; done");
    env.start("other", &["--stop-signal", "USR1"], "trap 'exit 6' USR1; echo ready; while true; do sleep 0.05; done");
    env.start("deaf", &[], "trap '' TERM; echo ready; while true; do sleep 0.05; done");
    for name in ["polite", "other", "deaf"] {
        eventually(20, "it is ready", || env.slipway(["logs", name]).stdout().contains("ready"));
    }
    let begun = Instant::now();
    assert_eq!(env.slipway(["stop", "-t", "1", "polite", "other", "deaf"]).success(), "polite\nother\ndeaf\n");
    assert!(begun.elapsed().as_secs() < 8, "at once, not one after another");
    let codes = ["polite", "other", "deaf"].map(|name| env.look(name, "{{.State.ExitCode}} {{.State.Status}}"));
    assert_eq!(codes, ["5 exited", "6 exited", "137 exited"]);
    assert!(env.slipway(["logs", "polite"]).stdout().ends_with("bye\n"));
    assert_eq!(env.slipway(["stop", "polite"]).success(), "polite\n", "what has ended is no error");
    assert!(env.slipway(["stop", "nosuch"]).failure(1).contains("No such container: nosuch"));
}

#[test]
fn a_terminals_signals_do_not_end_a_supervisor() {
    let Some(env) = TestEnv::for_containers() else { return };
    let id = env.start("lives", &[], "trap 'exit 7' TERM; echo ready; while true; do sleep 0.05; done");
    let supervisor = supervisor(&env, &id);
    eventually(20, "it is ready", || env.slipway(["logs", "lives"]).stdout().contains("ready"));
    for signal in [Signal::INT, Signal::HUP, Signal::QUIT] {
        send(supervisor, signal);
    }
    // A signal that ends a process has done so before it does anything else.
    assert_eq!(env.slipway(["exec", "lives", "echo", "there"]).success(), "there\n");
    assert!(is_alive(supervisor));
    // What is held back is held back from the supervisor alone.
    env.slipway(["stop", "lives"]).success();
    assert_eq!(env.look("lives", "{{.State.ExitCode}}"), "7");
}

#[test]
fn a_supervisor_that_is_to_end_stops_its_container_first() {
    let Some(env) = TestEnv::for_containers() else { return };
    // As when the machine goes down: the container gets its own signal and its own time.
    let own = "trap 'echo bye; exit 6' USR1; echo ready; while true; do sleep 0.05; done";
    let flags = ["--stop-signal=USR1", "--stop-timeout=-1", "--restart=always"];
    let deaf = "trap '' TERM; echo ready; while true; do sleep 0.05; done";
    let ids = [
        env.start("own", &flags, own),
        env.start("frozen", &flags, own),
        env.start("deaf", &["--stop-timeout=1"], deaf),
        env.start("gone", &["--stop-signal=USR1", "--rm"], own),
        env.start("fails", &["--restart=always"], "sleep 0.01; exit 4"),
    ];
    for name in ["own", "frozen", "deaf", "gone"] {
        eventually(20, "it is ready", || env.slipway(["logs", name]).stdout().contains("ready"));
    }
    // Its supervisor waits to start it again.
    let fails_again = || env.look("fails", "{{.State.Status}} {{gt .RestartCount 3}}") == "restarting true";
    eventually(60, "it waits to be started again", fails_again);
    env.slipway(["pause", "frozen"]).success();
    let supervisors = ids.map(|id| supervisor(&env, &id));
    for supervisor in supervisors {
        send(supervisor, Signal::TERM);
    }
    for supervisor in supervisors {
        eventually(60, "the supervisor ends", || !is_alive(supervisor));
    }
    let states = ["own", "frozen", "deaf", "fails"].map(|name| env.look(name, "{{.State.ExitCode}} {{.State.Status}}"));
    assert_eq!(states, ["6 exited", "6 exited", "137 exited", "4 exited"]);
    assert!(env.slipway(["logs", "own"]).stdout().ends_with("bye\n"));
    assert!(!env.slipway(["ps", "-a"]).success().contains("gone"));
    // As after `stop`, it can be started, and is restarted then.
    env.slipway(["start", "own"]).success();
    assert_eq!(env.look("own", "{{.State.Status}}"), "running");
}

/// The process that watches a container.
fn supervisor(env: &TestEnv, id: &str) -> u32 {
    let text = std::fs::read(env.home().join("containers").join(id).join("state.json")).expect("a state");
    let state: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    u32::try_from(state["supervisor"]["pid"].as_u64().expect("a number")).expect("a process")
}
