//! `slipway build --explain`.

use super::support::{TestEnv, path};

#[test]
fn a_build_says_what_was_cached_and_why_the_rest_was_not() {
    let env = TestEnv::new();
    let context = env.context("app", "FROM scratch\nCOPY a /\nCOPY d /d\nWORKDIR /w\n");
    env.write("app/a", "1");
    env.write("app/d/x", "1");
    let build = |more: &[&str]| {
        let arguments = ["build", "--progress=quiet", "-t", "app", path(&context)];
        env.slipway(arguments.iter().chain(more))
    };
    build(&[]).success();
    env.write("app/d/x", "2");
    let ran = build(&["--explain"]);
    let text = ran.stderr();
    ran.success();
    let expected = "cache:\n  hit   [1/3] COPY a /\n  miss  [2/3] COPY d /d\n        file `d/x` has other content\n  miss  [3/3] \
                    WORKDIR /w\n        the step before it, `[2/3] COPY d /d`, has another result\n";
    assert!(text.starts_with(expected), "{text}");
    env.write("app/d/y", "2");
    let stdout = build(&["--explain=json"]).success();
    let json: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    let difference = &json["steps"][1]["differences"][0];
    assert_eq!((difference["kind"].as_str(), difference["name"].as_str()), (Some("file-added"), Some("d/y")));
    assert_eq!(json["steps"][0]["cache"], "hit");
    let file = env.path("cache.json");
    build(&[&format!("--explain=json,dest={}", path(&file))]).success();
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).expect("written")).expect("JSON");
    assert!(json["steps"].as_array().expect("steps").iter().all(|step| step["cache"] == "hit"), "{json}");
    assert!(build(&["--explain=xml"]).failure(2).contains("text|json"));
}

#[test]
fn a_build_that_fails_is_explained_too() {
    let env = TestEnv::new();
    env.write("app/a", "1");
    let context = env.context("app", "FROM scratch\nCOPY a /\nCOPY missing /\n");
    let stderr = env.slipway(["build", "--progress=quiet", "--explain", path(&context)]).failure(1);
    assert!(stderr.contains("  miss  [1/2] COPY a /\n        nothing like it was built here before\n"), "{stderr}");
}
