//! Build contexts that are no folder.

use std::process::Command;

use super::support::{TestEnv, path, run};

#[test]
fn g11_a_tar_on_standard_input_is_the_context() {
    let env = TestEnv::new();
    env.write("ctx/Dockerfile", "FROM scratch\nCOPY . /all\nCOPY sub/f /f\n");
    env.write("ctx/Other", "FROM scratch\nCOPY sub/f /other\n");
    env.write("ctx/sub/f", "content");
    // Nothing is ignored in a tar, and its owners are kept.
    env.write("ctx/.dockerignore", "sub\n");
    let tar = |more: &[&str], to: &str| {
        let mut command = Command::new("tar");
        command.args(["--owner=7", "--group=8", "-C", path(&env.path("ctx"))]).args(more);
        run(command.args(["-cf", path(&env.path(to)), "."])).success();
    };
    tar(&[], "plain");
    tar(&["-z"], "gzip");
    let feed = |arguments: &[&str], from: &str| {
        run(env.command(arguments).stdin(std::fs::File::open(env.path(from)).unwrap()))
    };
    let id = feed(&["build", "-q", "-"], "plain").success();
    let again = feed(&["build", "-"], "gzip");
    assert_eq!(again.stderr().matches("CACHED").count(), 2, "{}", again.stderr());
    assert_eq!(again.success(), id);
    let files = env.path("files.tar");
    feed(&["build", "-o", &format!("type=tar,dest={}", path(&files)), "-f", "Other", "-"], "plain").success();
    let listed = run(Command::new("tar").args(["--numeric-owner", "-tvf", path(&files)])).success();
    assert!(listed.contains(" 7/8 ") && listed.trim_end().ends_with("other"), "{listed}");
    let staging = std::fs::read_dir(env.home().join("staging")).unwrap();
    assert_eq!(staging.count(), 0, "what was unpacked is gone");
    for (arguments, expected) in [
        (&["build", "-f", "nosuch", "-"][..], "cannot read `nosuch`"),
        (&["build", "-f", "-", "-"], "cannot be both the context and the Dockerfile"),
    ] {
        let stderr = feed(arguments, "plain").failure(1);
        assert!(stderr.contains(expected), "{stderr}");
    }
    let stderr = feed(&["build", "-f", "Other", "-"], "ctx/Dockerfile").failure(1);
    assert!(stderr.contains("is a Dockerfile") && stderr.contains("hint:"), "{stderr}");
}
