//! `slipway debug`.

use super::support::{TestEnv, path};

#[test]
fn a_dockerfile_is_printed_as_it_was_parsed() {
    let env = TestEnv::new();
    let file = env.write("Dockerfile", "FROM a AS b\nRUN --network=none echo hi\n");
    let json = env.slipway(["debug", "dockerfile", path(&file)]).success();
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["instructions"][0]["cmd"], "FROM");
    assert_eq!(json["instructions"][1]["flags"][0], "--network=none");
    assert_eq!(json["instructions"][1]["line"], 2);
}

#[test]
fn a_broken_dockerfile_is_refused_at_its_line() {
    let env = TestEnv::new();
    let file = env.write("Dockerfile", "FROM a\nRUNN x\n");
    let stderr = env.slipway(["debug", "dockerfile", path(&file)]).failure(1);
    assert!(stderr.contains("Dockerfile:2") && stderr.contains("RUNN"), "{stderr}");
    let stderr = env.slipway(["debug", "dockerfile", path(&env.path("missing"))]).failure(1);
    assert!(stderr.contains("cannot read") && stderr.contains("missing"), "{stderr}");
}

#[test]
fn a_dockerignore_tells_what_it_excludes() {
    let env = TestEnv::new();
    let file = env.write(".dockerignore", "*\n!src\nsrc/*.o\n");
    let lines = env.slipway(["debug", "dockerignore", path(&file), "src/a.c", "src/a.o", "README"]).success();
    insta::assert_snapshot!(lines, @r#"
    {"path":"src/a.c","excluded":false}
    {"path":"src/a.o","excluded":true}
    {"path":"README","excluded":true}
    "#);
}
