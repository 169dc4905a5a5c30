//! `slipway stats`.

use super::support::{TestEnv, eventually};

#[test]
fn what_a_container_uses_is_measured() {
    let Some(env) = TestEnv::for_containers() else { return };
    env.start("busy", &["-m", "64m"], "while true; do :; done");
    let table = env.slipway(["stats", "--no-stream"]).success();
    assert!(table.starts_with("CONTAINER ID   NAME"), "{table}");
    let (mut json, mut usage) = (String::new(), serde_json::Value::Null);
    // On a machine with much to do it may get next to nothing for a moment.
    eventually(60, "it is busy", || {
        json = env.slipway(["stats", "--no-stream", "--format", "json", "busy"]).success();
        usage = serde_json::from_str(&json).unwrap();
        let share: f64 = usage["CPUPerc"].as_str().unwrap().trim_end_matches('%').parse().unwrap();
        share > 5.0
    });
    assert!(usage["MemUsage"].as_str().unwrap().ends_with(" / 64MiB") && usage["PIDs"] == "1", "{json}");
    assert!(env.slipway(["stats", "--no-stream", "nosuch"]).failure(1).contains("No such container: nosuch"));
}
