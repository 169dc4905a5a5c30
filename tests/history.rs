//! `slipway history`: of images, and of builds.

use std::process::Stdio;

use super::support::{TestEnv, eventually, needs, path};

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

#[test]
fn builds_are_listed_and_told_of() {
    let env = TestEnv::with_busybox();
    let context = env.context("app", "FROM busybox\nCOPY Dockerfile /a\nWORKDIR /w\n");
    assert_eq!(env.slipway(["history", "-q"]).success(), "");
    env.slipway(["build", "-t", "app", path(&context)]).success();
    env.slipway(["build", path(&context)]).success();
    let table = env.slipway(["history"]).success();
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("BUILD ID       NAME") && lines.len() == 3, "{table}");
    assert!(lines[1].contains("app ") && lines[1].contains("Completed") && lines[1].ends_with("2/3"), "{table}");
    assert!(lines[2].contains("app:latest") && lines[2].ends_with("0/3"), "{table}");
    let row: serde_json::Value =
        serde_json::from_str(env.slipway(["history", "ls", "--format", "json"]).success().lines().next().unwrap())
            .unwrap();
    assert_eq!((&row["CachedSteps"], &row["TotalSteps"]), (&2.into(), &3.into()));
    let ids = env.slipway(["history", "ls", "-q"]).success();
    let ids: Vec<&str> = ids.lines().collect();
    let logs = env.slipway(["history", "logs", &ids[1][..8]]).success();
    assert!(logs.contains("#2 [2/3] COPY Dockerfile /a\n#2 DONE"), "{logs}");
    let shown = env.slipway(["history", "inspect", "^1"]).success();
    assert!(shown.contains(ids[1]) && shown.contains("Status:     Completed"), "{shown}");
    let json = env.slipway(["history", "inspect", ids[0], "--format", "json"]).success();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["status"], &json["steps"][1]["outcome"]), (&"completed".into(), &"cached".into()));
    assert_eq!(env.slipway(["history", "rm", ids[0]]).success(), format!("{}\n", ids[0]));
    assert!(env.slipway(["history", "inspect", ids[0]]).failure(1).contains("`slipway history` lists the builds"));
    env.slipway(["history", "rm", "--all"]).success();
    assert_eq!(env.slipway(["history", "ls", "-q"]).success(), "");
    // An image may be called as a command is.
    env.slipway(["tag", "app", "logs"]).success();
    assert!(env.slipway(["history", "--", "logs"]).success().contains("COPY Dockerfile /a"));
}

#[test]
fn the_limits_of_what_is_remembered_can_be_set() {
    let env = TestEnv::with_busybox();
    let context = env.context("app", "FROM busybox\n");
    let build = |history: &str| {
        super::support::run(env.command(["build", "-q", path(&context)]).env("SLIPWAY_HISTORY", history))
    };
    for _ in 0..3 {
        build("2").success();
    }
    // What is too much goes when the next build begins.
    assert_eq!(env.slipway(["history", "-q"]).success().lines().count(), 2);
    build("0").success();
    assert!(build("many").failure(1).contains("BUILDS[,SIZE[,FAILED]]"));
}

#[test]
fn a_failed_step_says_where_its_whole_log_is() {
    if !needs::root() {
        return;
    }
    let env = TestEnv::with_busybox();
    let context = env.context("app", "FROM busybox\nRUN seq 1 500; exit 3\n");
    let stderr = env.slipway(["build", "-q", path(&context)]).failure(1);
    let line = stderr.lines().find(|line| line.starts_with("log: ")).expect("where the log is");
    let (file, command) = line["log: ".len()..].split_once(" (`").expect("a file and a command");
    let whole: String = (1..=500).map(|number| format!("{number}\n")).collect();
    assert_eq!(std::fs::read_to_string(file).unwrap(), whole);
    let command = command.trim_end_matches("`)").split(' ').skip(1);
    assert_eq!(env.slipway(command).success(), whole);
}

#[test]
fn a_page_with_the_timeline_is_written() {
    let env = TestEnv::with_busybox();
    env.write("app/<script>alert(1)", "x");
    let context = env.context("app", "FROM busybox AS base\nFROM base\nCOPY * /a/\n");
    env.slipway(["build", "-q", path(&context)]).success();
    let printed = env.slipway(["history", "open"]).success();
    let page = std::fs::read_to_string(printed.trim_end()).unwrap();
    assert!(page.contains("COPY * /a/") && page.contains("a/&lt;script&gt;alert(1)<"), "{page}");
    assert!(!page.contains("<script>alert"), "{page}");
    assert_eq!(env.slipway(["history", "open", "-o", "-"]).success(), page);
    let other = env.path("other.html");
    env.slipway(["history", "open", "^0", "-o", path(&other)]).success();
    assert_eq!(std::fs::read_to_string(other).unwrap(), page);
    assert!(env.slipway(["history", "open", "nosuch"]).failure(1).contains("no such build"));
}

#[test]
fn a_killed_build_is_interrupted_as_far_as_it_came() {
    if !needs::root() {
        return;
    }
    let env = TestEnv::with_busybox();
    let context = env.context("app", "FROM busybox\nRUN echo begun; sleep 600\n");
    let mut command = env.command(["build", "--network=none", path(&context)]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually(60, "the step prints", || {
        let ran = env.slipway(["history", "logs", "^0", "2"]);
        ran.code() == 0 && ran.stdout() == "begun\n"
    });
    assert!(env.slipway(["history"]).success().contains("Running"));
    assert!(env.slipway(["history", "rm", "^0"]).failure(1).contains("still running"));
    child.kill().unwrap();
    child.wait().unwrap();
    let shown = env.slipway(["history", "inspect"]).success();
    assert!(shown.contains("Interrupted") && shown.contains("unfinished"), "{shown}");
    assert!(env.slipway(["history", "logs"]).success().contains("#2 begun\n#2 INTERRUPTED"));
    env.slipway(["history", "rm", "^0"]).success();
}
