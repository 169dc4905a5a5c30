//! `slipway top`.

use super::support::{TestEnv, eventually};

#[test]
fn the_processes_are_those_of_the_container() {
    let Some(env) = TestEnv::for_containers() else { return };
    env.start("box", &[], "sleep 101 & sleep 102; true");
    eventually(20, "all run", || env.slipway(["top", "box"]).stdout().lines().count() == 4);
    let table = env.slipway(["top", "box"]).success();
    let headings: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(headings, ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]);
    assert!(table.contains("sleep 101") && table.contains("sleep 102") && table.contains("root"), "{table}");
    assert!(table.contains(&format!(" {} ", env.look("box", "{{.State.Pid}}"))), "{table}");
    assert_eq!(env.slipway(["top", "box", "-o", "comm"]).success(), "COMMAND\nsh\nsleep\nsleep\n");
    env.slipway(["kill", "box"]).success();
    env.slipway(["wait", "box"]).success();
    assert!(env.slipway(["top", "box"]).failure(1).contains("is not running"));
}
