//! Containers where the second version of cgroups is all that there is: so it is in a mount namespace, whatever the machine
//! has.

use std::process::Command;
use std::time::Duration;

use crate::support::{Ran, SLIPWAY, TestEnv, eventually, needs, run};

/// Prepares a program there.
fn on_v2(program: &str, arguments: &[&str]) -> Command {
    let script = "umount --recursive /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation=private", "sh", "-ec", script, "sh", program]).args(arguments);
    command
}

/// Runs `slipway` there.
fn slipway(env: &TestEnv, arguments: &[&str]) -> Ran {
    let mut command = on_v2(SLIPWAY, arguments);
    command.envs(env.command(arguments).get_envs().filter_map(|(name, value)| Some((name, value?))));
    run(&mut command)
}

#[test]
fn a_container_lives_in_a_cgroup_of_the_second_version() {
    let Some(env) = TestEnv::for_containers().filter(|_| needs::tools(&["unshare", "umount"])) else { return };
    let v2 = |arguments: &[&str]| slipway(&env, arguments);
    let script = "while true; do echo x; sleep 0.01; done";
    let id = v2(&["run", "-d", "--name=one", "--network=none", "busybox", "sh", "-c", script]).success();
    // Its own cgroup is the top that it sees, and who joins it is in there.
    let seen = v2(&["exec", "one", "cat", "/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/cgroup.type"]).success();
    assert!(seen.starts_with("1\n") && seen.lines().count() >= 3 && seen.ends_with("domain\n"), "{seen}");
    assert!(v2(&["exec", "one", "sh", "-c", "mkdir /sys/fs/cgroup/x"]).failure(1).contains("Read-only"));
    assert!(v2(&["top", "one"]).success().contains(script));
    assert!(v2(&["stats", "--no-stream", "one"]).success().contains("one"));

    eventually(20, "it prints", || v2(&["logs", "one"]).success().contains('x'));
    v2(&["pause", "one"]).success();
    assert_eq!(env.look("one", "{{.State.Status}}"), "paused");
    let printed = v2(&["logs", "one"]).success();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(v2(&["logs", "one"]).success(), printed, "nobody is awake");
    v2(&["unpause", "one"]).success();
    eventually(20, "it goes on", || v2(&["logs", "one"]).success() != printed);
    v2(&["pause", "one"]).success();
    v2(&["kill", "one"]).success();
    assert_eq!(v2(&["wait", "one"]).success(), "137\n");
    let left = run(&mut on_v2("ls", &["/sys/fs/cgroup"])).success();
    assert!(!left.contains(id.trim()), "{left}");
}

#[test]
fn limits_of_the_second_version_hold_or_their_absence_is_told() {
    let Some(env) = TestEnv::for_containers().filter(|_| needs::tools(&["unshare", "umount"])) else { return };
    let script = "cd /sys/fs/cgroup; cat memory.max memory.swap.max pids.max cpu.max 2>/dev/null; true";
    let flags = ["--memory=64m", "--memory-swap=96m", "--pids-limit=50", "--cpus=1.5", "--network=none"];
    let ran = slipway(&env, &[&["run", "--rm"], &flags[..], &["busybox", "sh", "-c", script]].concat());
    let said = ran.stderr();
    // A hybrid machine has the controllers elsewhere.
    let text = ran.success();
    for (controller, lines) in [("memory", "67108864\n33554432\n"), ("pids", "50\n"), ("cpu", "150000 100000\n")] {
        let told = said.contains(&format!("controller {controller}"));
        assert!(told || text.contains(lines), "{controller}: {text}{said}");
    }
}
