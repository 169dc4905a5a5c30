//! `slipway info`.

use super::support::TestEnv;

#[test]
fn what_is_here_and_what_the_machine_can_do_is_told() {
    let Some(env) = TestEnv::for_containers() else { return };
    env.slipway(["create", "--name=made", "busybox"]).success();
    env.start("lives", &[], "sleep 99");
    let counts = "{{.Containers}} {{.ContainersRunning}} {{.ContainersPaused}} {{.ContainersStopped}} {{.Images}}";
    assert_eq!(env.slipway(["info", "--format", counts]).success(), "2 1 0 1 1\n");
    let json: serde_json::Value =
        serde_json::from_str(&env.slipway(["system", "info", "--format", "json"]).success()).expect("JSON");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a kernel");
    assert_eq!(json["KernelVersion"], kernel.trim());
    assert_eq!(json["DockerRootDir"], super::support::path(&env.home()));
    // What this suite needs of every machine.
    assert_eq!((&json["Slipway"]["Overlay"], &json["Slipway"]["Nftables"]), (&true.into(), &true.into()));
    assert_eq!(json["Slipway"]["Rootless"], serde_json::Value::Null);
    let text = env.slipway(["info"]).success();
    for expected in ["Containers: 2\n Running: 1\n", "\nOverlay: yes\n", "\nnftables: yes\n", "\nRootless: no\n"] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    assert!(env.slipway(["info", "--format", "{{.Nope}}"]).failure(1).contains("Nope"));
}
