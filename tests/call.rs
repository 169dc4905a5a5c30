//! `slipway build --call`: questions about a Dockerfile.

use super::support::{TestEnv, path};

const DOCKERFILE: &str =
    "FROM scratch AS a\n# V what is said\nARG V=1\nLABEL v=$V w=$W\n# app the program\nFROM a AS app\nMAINTAINER me\n";

#[test]
fn findings_are_shown_with_their_lines_and_fail_the_check() {
    let env = TestEnv::new();
    let context = env.context("app", DOCKERFILE);
    let found = env.slipway(["build", "--check", path(&context)]);
    let (stdout, code) = (found.stdout(), found.code());
    assert_eq!(code, 1);
    assert!(
        stdout.starts_with("Check complete, 2 warnings have been found!\n\nWARNING: UndefinedVar - https:"),
        "{stdout}"
    );
    assert!(stdout.contains("Dockerfile:4\n") && stdout.contains("\n   4 | >>> LABEL v=$V w=$W\n"), "{stdout}");
    env.slipway(["build", "--call=check,ignorestatus=true", path(&context)]).success();
    let clean = env.context("clean", "FROM scratch\nLABEL a=b\n");
    assert_eq!(env.slipway(["build", "--check", path(&clean)]).success(), "Check complete, no warnings found.\n");
    assert_eq!(env.slipway(["images", "-q"]).success(), "", "nothing was built");
}

#[test]
fn findings_come_as_json_and_sarif() {
    let env = TestEnv::new();
    let context = env.context("app", &format!("{DOCKERFILE}RUN --mount=type=nothing x\n"));
    let json = |format: &str| -> serde_json::Value {
        let output = env.slipway(["build", &format!("--call=check,format={format},ignorestatus"), path(&context)]);
        serde_json::from_str(&output.success()).expect("JSON")
    };
    let found = json("json");
    assert_eq!(found["warnings"][0]["ruleName"], "UndefinedVar");
    assert_eq!(found["warnings"][0]["location"]["ranges"][0]["start"]["line"], 4);
    assert_eq!(found["buildError"]["location"]["ranges"][0]["start"]["line"], 8);
    let run = &json("sarif")["runs"][0];
    assert_eq!(run["tool"]["driver"]["rules"].as_array().expect("rules").len(), 23);
    let results = run["results"].as_array().expect("results");
    let rules: Vec<_> = results.iter().map(|result| result["ruleId"].as_str().expect("a rule")).collect();
    assert_eq!(rules, ["UndefinedVar", "MaintainerDeprecated", "BuildError"]);
    assert_eq!(results[0]["locations"][0]["physicalLocation"]["region"]["startLine"], 4);
}

#[test]
fn the_outline_and_the_targets_are_listed() {
    let env = TestEnv::new();
    let context = env.context("app", DOCKERFILE);
    let outline = env.slipway(["build", "--call=outline", "--build-arg=V=2", path(&context)]).success();
    let expected = "TARGET:      app\nDESCRIPTION: the program\n\n\
                    BUILD ARG   VALUE   DESCRIPTION\nV           2       what is said\n";
    assert_eq!(outline, expected);
    let targets = env.slipway(["build", "--call=targets", path(&context)]).success();
    assert_eq!(targets, "TARGET          DESCRIPTION\na\napp (default)   the program\n");
    let json = env.slipway(["build", "--call=targets,format=json", path(&context)]).success();
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&json["targets"][1]["default"], &json["targets"][1]["base"]), (&true.into(), &"a".into()));
}
