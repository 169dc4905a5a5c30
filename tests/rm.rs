//! `slipway rm`.

use super::support::TestEnv;

#[test]
fn what_runs_is_only_removed_by_force_and_nothing_is_left() {
    let Some(env) = TestEnv::for_containers() else { return };
    env.start("box", &["-v", "/data"], "sleep 100");
    env.slipway(["create", "--name", "new", "busybox"]).success();
    let error = env.slipway(["rm", "box"]).failure(1);
    let text =
        "cannot remove container \"box\": container is running: stop the container before removing or force remove";
    assert!(error.contains(text), "{error}");
    assert_eq!(env.slipway(["rm", "-fv", "box", "nosuch", "new"]).success(), "box\nnew\n");
    assert_eq!(env.slipway(["ps", "-aq"]).success(), "");
    assert!(env.slipway(["rm", "new"]).failure(1).contains("No such container: new"));
    for folder in ["containers", "container-names", "staging"] {
        assert_eq!(std::fs::read_dir(env.home().join(folder)).unwrap().count(), 0, "{folder}");
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(env.home().to_str().unwrap()), "{mounts}");
}
