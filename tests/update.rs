//! `slipway update`.

use super::support::{TestEnv, eventually};

#[test]
fn limits_change_while_a_container_runs() {
    let Some(env) = TestEnv::for_containers() else { return };
    env.start("box", &["-m", "64m", "--pids-limit", "50"], "sleep 100");
    assert_eq!(
        env.slipway(["update", "-m", "128m", "--pids-limit", "7", "--restart", "on-failure:2", "box"]).success(),
        "box\n"
    );
    let template = "{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}} {{.HostConfig.RestartPolicy.Name}}";
    assert_eq!(env.look("box", template), "134217728 7 on-failure");
    let forks = "i=0; while [ $i -lt 20 ]; do sleep 5 & i=$((i+1)); done";
    let ran = env.slipway(["exec", "box", "sh", "-c", forks]);
    eventually(5, "the new limit holds", || ran.stderr().contains("fork") || ran.code() != 0);
    assert!(env.slipway(["update", "-m", "1k", "box"]).failure(1).contains("minimum memory limit allowed is 6MB"));
    assert!(env.slipway(["update", "--restart", "x", "box"]).failure(1).contains("unknown policy 'x'"));
}
