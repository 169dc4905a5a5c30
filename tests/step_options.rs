//! What options of `slipway build` do to its steps.

use super::support::{TestEnv, needs, path};

/// Builds a Dockerfile whose steps check what they see, and returns what went wrong, if something did.
fn build(env: &TestEnv, name: &str, steps: &str, options: &[&str]) -> Result<(), String> {
    let context = env.context(name, &format!("FROM busybox\n{steps}\n"));
    let ran = env.slipway(["build", "-q", "-t", name].iter().chain(options).chain(&[path(&context)]));
    if ran.code() == 0 { Ok(()) } else { Err(ran.stderr()) }
}

#[test]
fn steps_run_within_what_the_options_say() {
    if !needs::root() {
        return;
    }
    let env = TestEnv::with_busybox();
    for (number, (step, options)) in [
        ("RUN grep -q '^10.1.2.3.*db$' /etc/hosts", ["--add-host=db:10.1.2.3", "--network=none"].as_slice()),
        ("RUN grep -q '^fd00::1.*six$' /etc/hosts", &["--add-host=six=[fd00::1]", "--network=none"]),
        ("RUN grep -q '^127.0.0.1.*up$' /etc/hosts", &["--add-host=up:host-gateway", "--network=none"]),
        (
            "RUN grep -q \"^$(ip route | sed -n 's/^default via //; s/ .*//p').*up$\" /etc/hosts",
            &["--add-host=up:host-gateway"],
        ),
        ("RUN [ $(df -k /dev/shm | awk 'END { print $2 }') = 1024 ]", &["--shm-size=1m", "--network=none"]),
        // Word for word what BuildKit mounts then.
        ("RUN grep -q '^tmpfs /dev/shm tmpfs rw,nosuid,relatime,size=1024k' /proc/mounts", &["--shm-size=1m"]),
        ("RUN [ $(ulimit -n)-$(ulimit -Hn) = 123-456 ]", &["--ulimit=nofile=123:456", "--network=none"]),
        ("RUN [ $(grep -c : /proc/net/dev) = 1 ]", &["--network=none"]),
    ]
    .into_iter()
    .enumerate()
    {
        build(&env, &format!("app{number}"), step, options)
            .unwrap_or_else(|error| panic!("{step} {options:?}: {error}"));
    }
    for (option, part) in [
        ("--add-host=db", "HOST:IP"),
        ("--add-host=db:nowhere", "HOST:IP"),
        ("--ulimit=files=1", "unknown limit `files`"),
        ("--network=nosuch", "none of default, none and host"),
        ("--allow=everything", "neither network.host nor security.insecure"),
    ] {
        let error = build(&env, "bad", "", &[option]).unwrap_err();
        assert!(error.contains(part), "{option}: {error}");
    }
}

#[test]
fn r6_secrets_come_from_files_and_the_environment() {
    if !needs::root() {
        return;
    }
    let env = TestEnv::with_busybox();
    let file = env.write("value", "of a file");
    let of_file = format!("--secret=id=one,src={}", path(&file));
    let steps = "RUN --network=none --mount=type=secret,id=one [ \"$(cat /run/secrets/one)\" = 'of a file' ]\n\
                 RUN --network=none --mount=type=secret,id=two,env=TWO [ \"$TWO\" = 'of a variable' ]";
    let context = env.context("app", &format!("FROM busybox\n{steps}\n"));
    let mut command = env.command(["build", "-q", &of_file, "--secret=id=two,env=VALUE", path(&context)]);
    super::support::run(command.env("VALUE", "of a variable")).success();
    let error = build(&env, "missing", "", &["--secret=id=one,src=/no/such/file"]).unwrap_err();
    assert!(error.contains("cannot read `/no/such/file`"), "{error}");
    let error = build(&env, "unset", "", &["--secret=id=one,env=NO_SUCH_VARIABLE"]).unwrap_err();
    assert!(error.contains("$NO_SUCH_VARIABLE is not set"), "{error}");
    let required = "RUN --network=none --mount=type=secret,id=gone,required=true true";
    let error = build(&env, "required", required, &[]).unwrap_err();
    assert!(error.contains("gone") && error.contains("Dockerfile:2"), "{error}");
}

#[test]
fn rights_are_given_by_the_user_and_not_by_the_dockerfile() {
    if !needs::root() {
        return;
    }
    let env = TestEnv::with_busybox();
    let host = "RUN --network=host true";
    let error = build(&env, "host", host, &[]).unwrap_err();
    assert!(error.contains("network.host"), "{error}");
    build(&env, "host", host, &["--allow=network.host"]).unwrap();
    let insecure = "RUN --network=none --security=insecure true";
    let error = build(&env, "insecure", insecure, &[]).unwrap_err();
    assert!(error.contains("security.insecure"), "{error}");
    build(&env, "insecure", insecure, &["--allow=security.insecure,network.host"]).unwrap();
}

#[test]
fn labels_of_the_command_line_win() {
    let env = TestEnv::with_busybox();
    build(&env, "app", "LABEL a=file b=file", &["--label=a=line", "--label=c", "--label=d=e=f"]).unwrap();
    let shown: serde_json::Value = serde_json::from_str(&env.slipway(["inspect", "app"]).success()).unwrap();
    let labels = &shown[0]["Config"]["Labels"];
    assert_eq!(*labels, serde_json::json!({ "a": "line", "b": "file", "c": "", "d": "e=f" }));
    let error = build(&env, "bad", "", &["--label==x"]).unwrap_err();
    assert!(error.contains("has no name"), "{error}");
}
