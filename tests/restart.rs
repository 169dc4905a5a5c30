//! `slipway restart`, and what `--restart` does.

use super::support::{TestEnv, eventually};

#[test]
fn a_container_runs_again_and_one_that_removes_itself_stays() {
    let Some(env) = TestEnv::for_containers() else { return };
    env.start("box", &["--rm"], "echo begun; sleep 100");
    eventually(20, "it has begun", || env.slipway(["logs", "box"]).stdout() == "begun\n");
    let pid = env.look("box", "{{.State.Pid}}");
    assert_eq!(env.slipway(["restart", "-t", "0", "box"]).success(), "box\n");
    assert_ne!(env.look("box", "{{.State.Pid}}"), pid);
    eventually(20, "it begins again", || env.slipway(["logs", "box"]).stdout() == "begun\nbegun\n");
    env.slipway(["stop", "-t", "0", "box"]).success();
    eventually(20, "now it removes itself", || env.slipway(["ps", "-aq"]).stdout().is_empty());
}

#[test]
fn policies_start_what_failed_until_it_is_stopped() {
    let Some(env) = TestEnv::for_containers() else { return };
    env.start("twice", &["--restart", "on-failure:2"], "echo run; exit 3");
    env.start("always", &["--restart", "always"], "echo run; exit 0");
    env.start("fine", &["--restart", "on-failure"], "exit 0");
    let look = |name: &str| env.look(name, "{{.State.Status}} {{.RestartCount}} {{.State.ExitCode}}");
    eventually(20, "it gives up", || look("twice") == "exited 2 3");
    assert_eq!(env.slipway(["logs", "twice"]).stdout(), "run\nrun\nrun\n");
    assert_eq!(look("fine"), "exited 0 0");
    eventually(20, "it goes on", || env.slipway(["logs", "always"]).stdout().lines().count() >= 3);
    assert!(["running", "restarting"].contains(&env.look("always", "{{.State.Status}}").as_str()));
    env.slipway(["stop", "-t", "1", "always"]).success();
    assert_eq!(env.look("always", "{{.State.Status}}"), "exited");
    let count = env.slipway(["logs", "always"]).stdout().lines().count();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(env.slipway(["logs", "always"]).stdout().lines().count(), count, "it stays stopped");
}

#[test]
fn checks_tell_whether_a_container_is_well() {
    let Some(env) = TestEnv::for_containers() else { return };
    let check = ["--health-cmd", "echo looked; cat /well", "--health-interval", "100ms", "--health-retries", "2"];
    env.start("box", &check, "sleep 100");
    let health = || env.look("box", "{{.State.Health.Status}}");
    eventually(20, "it is not well", || health() == "unhealthy");
    assert!(env.slipway(["ps"]).stdout().contains("(unhealthy)"));
    env.slipway(["exec", "box", "touch", "/well"]).success();
    eventually(20, "it is well", || health() == "healthy");
    let told = env.look("box", "{{range .State.Health.Log}}{{.Output}}{{end}}{{.State.Health.FailingStreak}}");
    assert!(told.ends_with("looked\n0"), "{told}");
    assert_eq!(env.slipway(["ps", "-q", "-f", "health=healthy"]).stdout().lines().count(), 1);
    env.start(
        "slow",
        &[
            "--health-cmd",
            "sleep 50",
            "--health-interval",
            "50ms",
            "--health-timeout",
            "100ms",
            "--health-retries",
            "1",
        ],
        "sleep 100",
    );
    eventually(20, "checks that hang end", || env.look("slow", "{{.State.Health.Status}}") == "unhealthy");
    assert!(env.look("slow", "{{json .State.Health.Log}}").contains("Health check exceeded timeout (0.1s)"));
    env.start("none", &["--no-healthcheck"], "sleep 100");
    assert!(!env.look("none", "{{json .State}}").contains("Health"));
}
