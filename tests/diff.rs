//! `slipway diff`.

use super::support::TestEnv;

#[test]
fn changes_are_told_by_path() {
    let Some(env) = TestEnv::for_containers() else { return };
    let script = "echo x > /new; rm /etc/group; echo y >> /etc/passwd; mkdir /tmp/d; echo z > /tmp/d/f";
    env.start("box", &["-v", "/data"], script);
    env.slipway(["wait", "box"]).success();
    let changes = env.slipway(["diff", "box"]).success();
    for line in ["A /new", "D /etc/group", "C /etc/passwd", "C /etc", "A /tmp/d", "A /tmp/d/f"] {
        assert!(changes.lines().any(|other| other == line), "{line}: {changes}");
    }
    assert!(
        !changes.contains("/data") && !changes.contains("resolv.conf"),
        "what is mounted is not the container's: {changes}"
    );
}
