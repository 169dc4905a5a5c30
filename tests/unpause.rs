//! `slipway unpause`.

use super::support::TestEnv;

#[test]
fn only_what_is_paused_goes_on() {
    let Some(env) = TestEnv::for_containers() else { return };
    env.start("box", &[], "sleep 100");
    assert!(env.slipway(["unpause", "box"]).failure(1).contains("Container box is not paused"));
    env.slipway(["pause", "box"]).success();
    assert_eq!(env.slipway(["unpause", "box"]).success(), "box\n");
    assert_eq!(env.look("box", "{{.State.Status}}"), "running");
    env.slipway(["pause", "box"]).success();
    env.slipway(["kill", "box"]).success();
    assert_eq!(env.slipway(["wait", "box"]).success(), "137\n");
}
