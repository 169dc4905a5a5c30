//! `slipway version`, and the help that every command has.

use super::support::TestEnv;

#[test]
fn the_version_is_told_without_touching_the_home() {
    let env = TestEnv::new();
    let text = env.slipway(["version"]).success();
    assert!(text.starts_with("slipway version 0."), "{text}");
    let json: serde_json::Value =
        serde_json::from_str(&env.slipway(["version", "--format", "json"]).success()).unwrap();
    assert_eq!(json["Os"], "linux");
    assert_eq!(env.slipway(["--version"]).success(), format!("slipway {}\n", env!("CARGO_PKG_VERSION")));
    assert!(!env.home().exists());
}

#[test]
fn every_command_has_a_help_that_fits_a_screen() {
    let env = TestEnv::new();
    let help = env.slipway(["--help"]).success();
    let commands = help.split("Commands:\n").nth(1).expect("a list of commands");
    let commands = commands.lines().take_while(|line| !line.is_empty());
    let names: Vec<&str> = commands.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(names.len() >= 18, "{names:?}");
    for name in names {
        let help = env.slipway([name, "--help"]).success();
        assert!(help.contains("Usage: slipway"), "{name}: {help}");
        assert!(help.lines().all(|line| line.chars().count() <= 110), "{name}: {help}");
    }
}

#[test]
fn what_is_no_command_is_a_usage_error() {
    let env = TestEnv::new();
    assert!(env.slipway(["biuld"]).failure(2).contains("unrecognized subcommand"));
    assert!(env.slipway(["images", "--nonsense"]).failure(2).contains("unexpected argument"));
    // docker's code for wrong arguments of `run`.
    assert!(env.slipway(["run", "--nonsense"]).failure(125).contains("unexpected argument"));
}

#[test]
fn an_unusable_home_is_one_message() {
    let env = TestEnv::new();
    let file = env.write("file", "x");
    let stderr = super::support::run(env.command(["images"]).env("SLIPWAY_HOME", &file)).failure(1);
    assert!(stderr.contains("is not a folder") && stderr.contains("file"), "{stderr}");
    assert_eq!(stderr.lines().filter(|line| line.starts_with("error:")).count(), 1, "{stderr}");
    let strange = env.write("strange/thing", "x");
    let strange = strange.parent().unwrap();
    let stderr = super::support::run(env.command(["images"]).env("SLIPWAY_HOME", strange)).failure(1);
    assert!(stderr.contains("other things than a slipway store"), "{stderr}");
}
