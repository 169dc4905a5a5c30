//! `slipway pause`.

use super::support::{TestEnv, eventually};

#[test]
fn a_paused_container_does_nothing_until_it_goes_on() {
    let Some(env) = TestEnv::for_containers() else { return };
    env.start("box", &[], "while true; do echo tick; sleep 0.05; done");
    let ticks = || env.slipway(["logs", "box"]).stdout().len();
    eventually(20, "it ticks", || ticks() > 0);
    assert_eq!(env.slipway(["pause", "box"]).success(), "box\n");
    assert_eq!(env.look("box", "{{.State.Status}} {{.State.Paused}} {{.State.Running}}"), "paused true true");
    assert!(env.slipway(["ps"]).stdout().contains("(Paused)"));
    let before = ticks();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(ticks(), before);
    assert!(env.slipway(["pause", "box"]).failure(1).contains("is already paused"));
    assert!(env.slipway(["exec", "box", "true"]).failure(1).contains("is paused, unpause the container before exec"));
    assert!(env.slipway(["start", "box"]).failure(1).contains("cannot start a paused container, try unpause instead"));
    let error = env.slipway(["rm", "box"]).failure(1);
    assert!(error.contains("container is paused and must be unpaused first"), "{error}");
    env.slipway(["unpause", "box"]).success();
    eventually(20, "it ticks again", || ticks() > before);
    env.slipway(["pause", "box"]).success();
    assert_eq!(env.slipway(["stop", "-t", "1", "box"]).success(), "box\n");
    assert!(env.slipway(["pause", "box"]).failure(1).contains("is not running"));
}

#[test]
fn a_container_goes_on_that_was_frozen_by_who_could_not_note_it() {
    let Some(env) = TestEnv::for_containers() else { return };
    let id = env.start("box", &[], "while true; do echo tick; sleep 0.05; done");
    let state = env.home().join("containers").join(id).join("state.json");
    let ticks = || env.slipway(["logs", "box"]).stdout().len();
    let forget = || {
        env.slipway(["pause", "box"]).success();
        let text = std::fs::read_to_string(&state).unwrap();
        assert!(text.contains(r#""paused""#), "{text}");
        std::fs::write(&state, text.replace(r#""paused""#, r#""running""#)).unwrap();
    };
    forget();
    let before = ticks();
    env.slipway(["unpause", "box"]).success();
    eventually(20, "it ticks again", || ticks() > before);
    forget();
    env.slipway(["rm", "-f", "box"]).success();
}
