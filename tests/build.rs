//! `slipway build`.

use std::path::Path;
use std::process::{Command, Stdio};

use super::support::{TestEnv, eventually, needs, path, run};

#[test]
fn an_image_is_built_named_and_run() {
    if !needs::root() {
        return;
    }
    let env = TestEnv::with_busybox();
    let dockerfile = "FROM busybox AS one\nARG WHO=nobody\nRUN echo hello $WHO > /greeting\n\
                      FROM busybox\nCOPY --from=one /greeting /g\nCMD [\"cat\", \"/g\"]\n";
    let context = env.context("app", dockerfile);
    let ran = env.slipway(["build", "-t", "app", "-t", "app:two", "--build-arg", "WHO=world", path(&context)]);
    assert!(ran.stderr().contains("RUN echo hello $WHO > /greeting"), "{}", ran.stderr());
    assert_eq!(ran.success(), "");
    assert_eq!(env.slipway(["run", "--rm", "--network=none", "app"]).success(), "hello world\n");
    // Everything comes from the cache, and the image is the same.
    let id = env.slipway(["images", "-q", "app:two"]).success();
    let ran = env.slipway(["build", "-t", "app", "--build-arg", "WHO=world", path(&context)]);
    assert!(ran.stderr().contains("CACHED"), "{}", ran.stderr());
    ran.success();
    assert_eq!(env.slipway(["images", "-q", "app:latest"]).success(), id);
}

#[test]
fn an_image_without_a_name_is_kept_and_its_id_printed() {
    let env = TestEnv::with_busybox();
    let context = env.context("app", "FROM busybox\nENV A=1\n");
    let id = env.slipway(["build", path(&context)]).success();
    assert!(id.starts_with("sha256:") && id.trim().len() == 71, "{id}");
    let dangling = env.slipway(["images", "-q", "--no-trunc", "-f", "dangling=true"]).success();
    assert_eq!(dangling, id);
    let iid = env.path("iid");
    let quiet = env.slipway(["build", "-q", "--iidfile", path(&iid), "-t", "named", path(&context)]);
    assert_eq!(quiet.stderr(), "");
    assert_eq!(quiet.success(), id);
    assert_eq!(std::fs::read_to_string(iid).unwrap(), id.trim());
}

#[test]
fn the_dockerfile_may_be_elsewhere_or_standard_input() {
    let env = TestEnv::with_busybox();
    env.write("ctx/data", "x");
    let other = env.write("docker/Other", "FROM busybox\nCOPY data /data\n");
    env.slipway(["build", "-t", "a", "-f", path(&other), path(&env.path("ctx"))]).success();
    let feed = |arguments: &[&str]| run(env.command(arguments).stdin(std::fs::File::open(&other).unwrap()));
    feed(&["build", "-t", "b", "-f", "-", path(&env.path("ctx"))]).success();
    let ids = |name: &str| env.slipway(["images", "-q", name]).success();
    assert_eq!(ids("a"), ids("b"));
    let plain = env.write("plain", "FROM busybox\nENV X=1\n");
    run(env.command(["build", "-t", "c", "-"]).stdin(std::fs::File::open(plain).unwrap())).success();
}

#[test]
fn results_go_where_they_are_sent() {
    let env = TestEnv::with_busybox();
    let context = env.context("app", "FROM scratch\nCOPY Dockerfile /dir/file\n");
    let (oci, docker, tar) = (env.path("oci.tar"), env.path("docker.tar"), env.path("files.tar"));
    let outputs = [
        format!("type=oci,dest={}", path(&oci)),
        format!("type=docker,dest={},name=app:1", path(&docker)),
        format!("type=tar,dest={}", path(&tar)),
        path(&env.path("folder")).to_owned(),
    ];
    let mut arguments = vec!["build".to_owned()];
    arguments.extend(outputs.into_iter().flat_map(|output| ["-o".to_owned(), output]));
    arguments.push(path(&context).into());
    assert_eq!(env.slipway(arguments).success(), "");
    let list = |file: &Path| run(Command::new("tar").arg("-tf").arg(file)).success();
    assert!(list(&oci).contains("index.json") && !list(&oci).contains("manifest.json"), "{}", list(&oci));
    assert!(list(&docker).contains("manifest.json"));
    assert_eq!(list(&tar).lines().filter(|line| *line == "dir/file").count(), 1, "{}", list(&tar));
    let copied = std::fs::read_to_string(env.path("folder/dir/file")).unwrap();
    assert_eq!(copied, std::fs::read_to_string(context.join("Dockerfile")).unwrap());
    // Nothing was put into the store, and the archive brings its name.
    assert_eq!(env.slipway(["images", "-q"]).success().lines().count(), 1);
    assert_eq!(env.slipway(["load", "-i", path(&docker)]).success(), "Loaded image: app:1\n");
    let stdout = run(env.command(["build", "-q", "-o", "-", path(&context)]).stdout(Stdio::piped()));
    assert!(stdout.success().contains("dir/file"));
}

#[test]
fn the_same_files_give_the_same_image_on_two_stores() {
    let env = TestEnv::new();
    let context = env.context("app", "FROM scratch\nCOPY . /\n");
    env.write("app/sub/file", "content");
    let id = |home: &str| {
        let mut command = env.command(["build", "-q", path(&context)]);
        run(command.env("SLIPWAY_HOME", env.path(home))).success()
    };
    assert_eq!(id("one"), id("two"));
}

#[test]
fn the_epoch_of_the_environment_makes_the_times() {
    let env = TestEnv::with_busybox();
    let context = env.context("app", "FROM busybox\nCOPY Dockerfile /a\n");
    let mut command = env.command(["build", "-t", "app", path(&context)]);
    run(command.env("SOURCE_DATE_EPOCH", "1000000000")).success();
    let json: serde_json::Value = serde_json::from_str(&env.slipway(["inspect", "app"]).success()).unwrap();
    assert_eq!(json[0]["Created"], "2001-09-09T01:46:40Z");
}

#[test]
fn what_is_wrong_is_shown_at_its_line() {
    let env = TestEnv::with_busybox();
    for (dockerfile, line, expected) in [
        ("FROM busybox\nRUNN x\n", 2, "RUNN"),
        ("FROM busybox\nENV A=1\nCOPY nosuch /\n", 3, "nosuch"),
        ("FROM busybox\n\nCOPY --from=nostage /a /b\n", 3, "nostage"),
    ] {
        let context = env.context("bad", dockerfile);
        let stderr = env.slipway(["build", path(&context)]).failure(1);
        assert!(stderr.contains(&format!("Dockerfile:{line}")), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
        assert_eq!(stderr.lines().filter(|line| line.starts_with("error:")).count(), 1, "{stderr}");
    }
    // Nothing that failed is in the store.
    assert_eq!(env.slipway(["images", "-q"]).success().lines().count(), 1);
}

#[test]
fn a_failing_run_shows_what_it_printed_and_its_code() {
    if !needs::root() {
        return;
    }
    let env = TestEnv::with_busybox();
    let context = env.context("bad", "FROM busybox\nRUN --network=none echo the reason; exit 3\n");
    for mode in ["plain", "quiet"] {
        let stderr = env.slipway(["build", "--progress", mode, path(&context)]).failure(1);
        assert!(stderr.contains("did not complete successfully: exit code: 3"), "{mode}: {stderr}");
        assert!(stderr.contains("Dockerfile:2") && stderr.contains("the reason"), "{mode}: {stderr}");
    }
}

#[test]
fn what_cannot_be_built_is_told_at_once() {
    let env = TestEnv::with_busybox();
    let stderr = env.slipway(["build"]).failure(1);
    assert!(stderr.contains("requires 1 argument") && stderr.contains("hint:"), "{stderr}");
    let stderr = env.slipway(["build", "/no/such/folder"]).failure(1);
    assert!(stderr.contains("path `/no/such/folder` not found"), "{stderr}");
    std::fs::create_dir(env.path("empty")).unwrap();
    let stderr = env.slipway(["build", path(&env.path("empty"))]).failure(1);
    assert!(stderr.contains("empty/Dockerfile`") && stderr.contains("-f"), "{stderr}");
    let context = env.context("app", "FROM busybox\n");
    let stderr = env.slipway(["build", "-o", "type=iso,dest=x", path(&context)]).failure(1);
    assert!(stderr.contains("there is no output of type `iso`") && stderr.contains("hint:"), "{stderr}");
    let stderr = env.slipway(["build", "-t", "UPPER", path(&context)]).failure(2);
    assert!(stderr.contains("repository name must be lowercase"), "{stderr}");
    let stderr = env.slipway(["build", "--target", "nosuch", path(&context)]).failure(1);
    assert!(stderr.contains("nosuch"), "{stderr}");
}

#[test]
fn an_output_that_cannot_be_written_leaves_nothing() {
    let env = TestEnv::new();
    let context = env.context("app", "FROM scratch\nCOPY Dockerfile /\n");
    let nowhere = format!("type=oci,dest={}/no/such/x.tar", path(&env.path(".")));
    let stderr = env.slipway(["build", "-o", &nowhere, path(&context)]).failure(1);
    assert!(stderr.contains("x.tar") && stderr.contains("No such file"), "{stderr}");
    if needs::root() {
        let stderr = env.slipway(["build", "-o", "type=oci,dest=/dev/full", path(&context)]).failure(1);
        assert!(stderr.contains("No space left"), "{stderr}");
    }
}

#[test]
fn steps_can_be_read_by_programs() {
    let env = TestEnv::with_busybox();
    let context = env.context("app", "FROM busybox\nCOPY Dockerfile /a\n");
    let ran = env.slipway(["build", "--progress", "rawjson", "-t", "app", path(&context)]);
    let stderr = ran.stderr();
    // The shape of BuildKit's SolveStatus: a step is planned, begins and ends.
    let statuses = stderr.lines().filter(|line| line.starts_with('{'));
    let statuses: Vec<serde_json::Value> = statuses.map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let vertexes = statuses.iter().filter_map(|status| status["vertexes"].as_array()).flatten();
    let copies: Vec<_> = vertexes.filter(|vertex| vertex["name"] == "[2/2] COPY Dockerfile /a").collect();
    assert!(copies.len() == 3 && copies.iter().all(|copy| copy["digest"] == copies[0]["digest"]), "{stderr}");
    assert!(copies[0].get("started").is_none() && copies[0]["inputs"].as_array().is_some(), "{stderr}");
    assert!(copies[2]["started"].is_string() && copies[2]["completed"].is_string(), "{stderr}");
    ran.success();
}

#[test]
fn a_terminal_shows_the_steps_live() {
    if !needs::root() || !needs::tools(&["script"]) {
        return;
    }
    let env = TestEnv::with_busybox();
    let context = env.context("app", "FROM busybox\nRUN --network=none echo working; sleep 1\n");
    let line = format!("{} build -t app {}", super::support::SLIPWAY, path(&context));
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).env("SLIPWAY_HOME", env.home()).env("TERM", "xterm").stdin(Stdio::null());
    let shown = run(&mut script).success();
    assert!(shown.contains("[+] Building") && shown.contains("=> => working"), "{shown}");
    assert!(shown.contains("FINISHED") && shown.contains("\x1b["), "{shown}");
}

#[test]
fn two_builds_at_once_share_a_home() {
    if !needs::root() {
        return;
    }
    let env = TestEnv::with_busybox();
    let children: Vec<_> = (0..2)
        .map(|number| {
            let name = format!("app{number}");
            let context = env.context(&name, "FROM busybox\nRUN --network=none echo x > /x; sleep 0.3\n");
            env.command(["build", "-q", "-t", &name, path(&context)]).stdout(Stdio::null()).spawn().unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(env.slipway(["images", "app*", "-q"]).success().lines().count(), 2);
    eventually(5, "nothing unfinished is left", || super::interrupt::leftovers(&env).is_empty());
}

#[test]
fn a_shell_opens_in_the_step_that_fails() {
    if !needs::root() || !needs::tools(&["script"]) {
        return;
    }
    let env = TestEnv::with_busybox();
    let dockerfile = "FROM busybox\nENV A=b\nWORKDIR /w\n\
                      RUN --mount=type=secret,id=s echo part > part; exit 3\n";
    let context = env.context("app", dockerfile);
    let secret = env.write("secret", "hidden");
    let stderr = env.slipway(["build", "--shell-on-error", path(&context)]).failure(1);
    assert!(stderr.contains("needs a terminal"), "{stderr}");
    for progress in ["plain", "tty"] {
        let line = format!(
            "{} build --shell-on-error --network=none --progress {progress} --secret id=s,src={} {}",
            super::support::SLIPWAY,
            path(&secret),
            path(&context)
        );
        let input = env.write("input", "echo [$(cat part)-$A-$(pwd)-$(cat /run/secrets/s)]\nexit\n");
        let mut script = Command::new("script");
        script.args(["-qec", &line, "/dev/null"]).env("SLIPWAY_HOME", env.home()).env("TERM", "xterm");
        let ran = run(script.stdin(std::fs::File::open(input).unwrap()));
        assert!(ran.stdout().contains("[part-b-/w-hidden]"), "{}", ran.stdout());
        // Then it fails as it would have.
        assert!(ran.stdout().contains("exit code: 3"), "{}", ran.stdout());
        assert_eq!(ran.code(), 1);
    }
}
