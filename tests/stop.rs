//! `slipway stop`.

use std::time::Instant;

use super::support::{TestEnv, is_alive, send};

#[test]
fn a_program_is_asked_first_and_killed_when_it_does_not_listen() {
    let Some(env) = TestEnv::for_containers() else { return };
    env.start("polite", &[], "trap 'echo bye; exit 5' TERM; echo ready; while true; do sleep 0.05; done");
    env.start("other", &["--stop-signal", "USR1"], "trap 'exit 6' USR1; echo ready; while true; do sleep 0.05; done");
    env.start("deaf", &[], "trap '' TERM; echo ready; while true; do sleep 0.05; done");
    for name in ["polite", "other", "deaf"] {
        super::support::eventually(20, "it is ready", || env.slipway(["logs", name]).stdout().contains("ready"));
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
fn who_asks_a_supervisor_to_end_does_not_lose_its_container() {
    use rustix::process::Signal;
    let Some(env) = TestEnv::for_containers() else { return };
    let id = env.start("lives", &[], "trap 'exit 7' TERM; echo ready; while true; do sleep 0.05; done");
    let text = std::fs::read(env.home().join("containers").join(&id).join("state.json")).expect("a state");
    let state: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    let supervisor = u32::try_from(state["supervisor"]["pid"].as_u64().expect("a number")).expect("a process");
    super::support::eventually(20, "it is ready", || env.slipway(["logs", "lives"]).stdout().contains("ready"));
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
        send(supervisor, signal);
    }
    // A signal that ends a process has done so before it does anything else.
    assert_eq!(env.slipway(["exec", "lives", "echo", "there"]).success(), "there\n");
    assert!(is_alive(supervisor));
    // What is held back is held back from the supervisor alone.
    env.slipway(["stop", "lives"]).success();
    assert_eq!(env.look("lives", "{{.State.ExitCode}}"), "7");
}
