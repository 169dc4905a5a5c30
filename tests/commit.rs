//! `slipway commit`.

use super::support::TestEnv;

#[test]
fn an_image_has_what_the_container_changed() {
    let Some(env) = TestEnv::for_containers() else { return };
    env.start("box", &["-e", "A=1", "-w", "/tmp"], "echo mine > /new; rm /etc/group; sleep 100");
    super::support::eventually(20, "it has written", || {
        env.slipway(["exec", "box", "cat", "/new"]).stdout() == "mine\n"
    });
    let id =
        env.slipway(["commit", "-a", "me", "-m", "a note", "-c", "CMD [\"cat\", \"/new\"]", "box", "made:1"]).success();
    assert!(id.starts_with("sha256:"), "{id}");
    assert_eq!(env.look("box", "{{.State.Status}}"), "running", "it goes on");
    assert_eq!(env.slipway(["run", "--rm", "--network=none", "made:1"]).success(), "mine\n");
    let told =
        env.slipway(["run", "--rm", "--network=none", "made:1", "sh", "-c", "echo $A $PWD; ls /etc/group || true"]);
    assert_eq!(told.stdout(), "1 /tmp\n");
    let history = env.slipway(["history", "--no-trunc", "made:1"]).success();
    assert!(history.contains("a note"), "{history}");
    assert!(env.slipway(["commit", "-c", "RUN true", "box"]).failure(1).contains("RUN cannot change"));
    assert!(env.slipway(["commit", "nosuch"]).failure(1).contains("No such container: nosuch"));
}
