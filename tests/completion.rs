//! `slipway completion`.

use super::support::TestEnv;

#[test]
fn shells_get_a_script_that_knows_the_commands() {
    let env = TestEnv::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = env.slipway(["completion", shell]).success();
        for word in ["build", "--build-arg", "serve"] {
            // fish writes long flags without their dashes.
            assert!(script.contains(word.trim_start_matches('-')), "{shell} lacks {word}");
        }
    }
    assert!(env.slipway(["completion", "tcsh"]).failure(2).contains("possible values"));
}
