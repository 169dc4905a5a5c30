//! `slipway history`.

use super::support::{TestEnv, path};

#[test]
fn the_instructions_are_listed_newest_first() {
    let env = TestEnv::with_busybox();
    let dockerfile = "FROM busybox\nCOPY Dockerfile /a\nENV A=1\nCMD [\"sh\"]\n";
    let context = env.context("app", dockerfile);
    env.slipway(["build", "-t", "app", path(&context)]).success();
    let table = env.slipway(["history", "app"]).success();
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("IMAGE          CREATED"), "{table}");
    assert!(lines[1].contains("CMD [\"sh\"]") && lines[2].contains("ENV A=1"), "{table}");
    assert!(lines[3].contains("COPY Dockerfile /a # buildkit") && lines[3].starts_with("<missing>"), "{table}");
    let json = env.slipway(["history", "--format", "json", "--no-trunc", "app"]).success();
    let rows: Vec<serde_json::Value> = json.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(rows.len(), 4);
    assert_eq!((rows[1]["CreatedBy"].as_str(), rows[1]["Size"].as_str()), (Some("ENV A=1"), Some("0B")));
    assert!(rows[0]["ID"].as_str().is_some_and(|id| id.starts_with("sha256:")));
    let ids = env.slipway(["history", "-q", "app"]).success();
    assert_eq!(ids.lines().filter(|line| *line == "<missing>").count(), 3, "{ids}");
}

#[test]
fn a_missing_image_is_named() {
    let env = TestEnv::new();
    assert_eq!(
        env.slipway(["history", "nosuch"]).failure(1),
        "error: no such image: `nosuch`\nhint: `slipway images` lists what is here\n"
    );
}
