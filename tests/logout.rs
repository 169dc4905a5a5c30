//! `slipway logout`.

use super::login::{guarded, login};
use super::support::TestEnv;

#[test]
fn what_was_kept_is_forgotten() {
    let env = TestEnv::new();
    let address = guarded();
    login(&env, &address, "secret").success();
    let stdout = env.slipway(["logout", &address]).success();
    assert_eq!(stdout, format!("Removing login credentials for {address}\n"));
    let config = std::fs::read_to_string(env.path("docker/config.json")).unwrap();
    assert!(!config.contains("bWU6c2VjcmV0"), "{config}");
    assert_eq!(env.slipway(["logout", &address]).success(), format!("Not logged in to {address}\n"));
}
