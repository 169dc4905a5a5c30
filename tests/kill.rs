//! `slipway kill`.

use super::support::{TestEnv, eventually};

#[test]
fn signals_reach_the_program_by_name_and_number() {
    let Some(env) = TestEnv::for_containers() else { return };
    env.start("box", &[], "trap 'echo got hup' HUP; echo ready; while true; do sleep 0.05; done");
    let logs = || env.slipway(["logs", "box"]).stdout();
    eventually(20, "it is ready", || logs().contains("ready"));
    env.slipway(["kill", "-s", "SIGHUP", "box"]).success();
    eventually(20, "the signal arrives", || logs().contains("got hup"));
    assert_eq!(env.look("box", "{{.State.Running}}"), "true");
    assert!(env.slipway(["kill", "-s", "NOPE", "box"]).failure(1).contains("Invalid signal: NOPE"));
    assert_eq!(env.slipway(["kill", "box"]).success(), "box\n");
    assert_eq!(env.slipway(["wait", "box"]).success(), "137\n");
    let error = env.slipway(["kill", "box"]).failure(1);
    assert!(error.contains("cannot kill container: box: container ") && error.contains(" is not running"), "{error}");
}
