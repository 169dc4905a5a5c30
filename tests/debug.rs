//! `slipway debug`.

use super::support::{TestEnv, needs, path, run};

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

#[test]
fn a_shell_opens_in_any_step_of_a_past_build() {
    if !needs::root() {
        return;
    }
    let env = TestEnv::with_busybox();
    let dockerfile = "FROM busybox AS one\nARG WHO=you\nENV A=1\nUSER www-data\nWORKDIR /w\n\
                      RUN --mount=type=cache,target=/c,uid=33 --network=none echo $WHO > /tmp/f; touch /c/kept\n\
                      FROM one AS two\nUSER root\n\
                      RUN --mount=type=cache,target=/c,from=one,source=/w --network=none touch /c/begun\n\
                      FROM scratch\nCOPY --link --from=one /tmp/f /f\n\
                      FROM one AS last\nCOPY --from=2 /f /g\nCOPY --from=two /w /two\nRUN --network=none echo part > /tmp/part; exit 3\n";
    let context = env.context("app", dockerfile);
    env.slipway(["build", "--network=none", path(&context)]).failure(1);
    let debug = |arguments: &[&str]| env.slipway([&["debug"], arguments].concat());
    // Without a step it is the one that failed, with what it had written.
    let failed = run(env
        .command(["debug"])
        .stdin(std::fs::File::open(env.write("in", "cat /tmp/part /g; pwd; echo $A; id -u; rm /tmp/part\n")).unwrap()));
    assert_eq!(failed.success(), "part\nyou\n/w\n1\n33\n");
    // What a shell does is gone with it.
    assert_eq!(debug(&["^0", "exit 3", "cat", "/tmp/part"]).success(), "part\n");
    // A step that was done, by its stage, with the cache that it mounted.
    assert_eq!(debug(&["^0", "one", "ls", "/c"]).success(), "kept\n");
    // One that begins with something is another one.
    assert_eq!(debug(&["^0", "two", "ls", "/c"]).success(), "begun\n");
    assert_eq!(debug(&["--user", "0", "^0", "one", "id", "-u"]).success(), "0\n");
    assert_eq!(debug(&["^0", "one", "sh", "-c", "exit 7"]).code(), 7);
    for (arguments, message) in [
        (["^0", "99"], "has no step `99`"),
        (["^0", "COPY"], "may be any of these steps"),
        (["nosuch", "1"], "no such build: `nosuch`"),
    ] {
        let stderr = debug(&arguments).failure(1);
        assert!(stderr.contains(message) && stderr.contains("hint: "), "{stderr}");
    }
}

#[test]
fn files_without_a_shell_borrow_one() {
    if !needs::root() {
        return;
    }
    let env = TestEnv::with_busybox();
    let context = env.context("app", "FROM scratch\nCOPY Dockerfile /f\n");
    env.slipway(["build", path(&context)]).success();
    let input = env.write("input", "cat /f\nls /\n");
    let ran = run(env.command(["debug"]).stdin(std::fs::File::open(input).unwrap()));
    assert!(ran.stderr().contains("busybox"), "{}", ran.stderr());
    let stdout = ran.success();
    assert!(stdout.starts_with("FROM scratch\nCOPY Dockerfile /f\n") && stdout.contains("\nf\n"), "{stdout}");
}
