//! `slipway export`.

use super::support::{TestEnv, path};

#[test]
fn a_tar_has_the_files_as_the_container_sees_them() {
    let Some(env) = TestEnv::for_containers() else { return };
    env.start("box", &[], "echo mine > /new; rm /etc/group; chown 33 /new");
    env.slipway(["wait", "box"]).success();
    let tar = env.path("files.tar");
    env.slipway(["export", "-o", path(&tar), "box"]).success();
    env.slipway(["import", path(&tar), "exported"]).success();
    let script = "cat /new; stat -c %u /new; ls /etc/group 2>&1";
    let ran = env.slipway(["run", "--rm", "--network=none", "exported", "sh", "-c", script]);
    assert!(ran.stdout().starts_with("mine\n33\n") && ran.stdout().contains("No such file"), "{}", ran.stdout());
    assert!(
        env.slipway(["export", "-o", path(&env.path("x")), "nosuch"]).failure(1).contains("No such container: nosuch")
    );
    assert!(!env.path("x").exists());
}
