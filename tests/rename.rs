//! `slipway rename`.

use super::support::TestEnv;

#[test]
fn a_container_has_its_new_name_and_no_other() {
    let Some(env) = TestEnv::for_containers() else { return };
    for name in ["one", "two"] {
        env.slipway(["create", "--name", name, "busybox"]).success();
    }
    assert_eq!(env.slipway(["rename", "one", "three"]).success(), "");
    assert_eq!(env.look("three", "{{.Name}}"), "/three");
    assert!(env.slipway(["inspect", "one"]).failure(1).contains("one"));
    assert!(env.slipway(["rename", "three", "two"]).failure(1).contains("is already in use by container"));
    assert!(env.slipway(["rename", "three", "no/name"]).failure(1).contains("Invalid container name (no/name)"));
    env.slipway(["create", "--name", "one", "busybox"]).success();
}
