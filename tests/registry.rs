//! `slipway registry`.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::moto::Moto;
use crate::support::{Registry, TestEnv, path, run};

/// Pushes an image with a layer of its own, and one that all have; gives its name in the registry.
fn push(env: &TestEnv, registry: &Registry, name: &str, layer: &str) {
    env.write(&format!("{name}/own"), layer);
    env.write(&format!("{name}/shared"), "the same for all");
    let context = env.context(name, "FROM scratch\nCOPY shared /\nCOPY own /\n");
    let full = format!("{}/{name}", registry.address);
    env.slipway(["build", "-q", "--progress=quiet", "-t", &full, path(&context)]).success();
    env.slipway(["push", &full]).success();
}

fn json(env: &TestEnv, arguments: &[&str]) -> Vec<Value> {
    let stdout = env.slipway([&["registry"], arguments, &["--format", "json"]].concat()).success();
    stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn digest_of(env: &TestEnv, tag: &str) -> String {
    let log = json(env, &["tags", "log", tag]);
    log[0]["digest"].as_str().expect("it names something").to_owned()
}

/// Files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn tags_have_a_past_and_come_back() {
    let env = TestEnv::new();
    let registry = Registry::start(&env, &env.home());
    push(&env, &registry, "app:v1", "one");
    let first = digest_of(&env, "app:v1");
    push(&env, &registry, "app:v1", "two");
    let second = digest_of(&env, "app:v1");
    assert_ne!(first, second);
    // Everything is asked while the registry is served.
    env.slipway(["registry", "retention", "--keep", "0"]).success();
    let table = env.slipway(["registry", "tags", "log", "app"]).success();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 4, "{table}");
    assert!(lines[0].starts_with("TAG   CHANGE   WHEN") && lines[1].contains("<deleted>"), "{table}");
    assert!(lines[1].ends_with("retention") && lines[2].contains(&second) && lines[3].contains(&first), "{table}");
    let stdout = env.slipway(["registry", "tags", "undelete", "app:v1"]).success();
    assert_eq!(stdout, format!("app:v1 names {second}\n"));
    assert_eq!(digest_of(&env, "app:v1"), second);
    let stdout = env.slipway(["registry", "tags", "undelete", "app:v1"]).success();
    assert_eq!(stdout, format!("app:v1 names {first}\n"), "what it named before that");
    for (arguments, told) in [
        (["tags", "undelete", "app:other"], "named nothing before"),
        (["tags", "undelete", "app"], "names no tag"),
        (["tags", "log", "nobody"], "never had a tag"),
        (["tags", "log", "localhost:5000/app"], "without the registry before it"),
    ] {
        let stderr = env.slipway([&["registry"][..], &arguments].concat()).failure(1);
        assert!(stderr.contains(told) && stderr.contains("hint:"), "{stderr}");
    }
    assert_eq!(registry.stop(), 0);
}

#[test]
fn what_nothing_relies_on_goes_and_the_rest_is_accounted_for() {
    let env = TestEnv::new();
    let registry = Registry::start(&env, &env.home());
    push(&env, &registry, "a:1", "of a");
    push(&env, &registry, "b:1", "of b");
    let usage = json(&env, &["du"]);
    assert_eq!((usage.len(), &usage[0]["repository"], &usage[1]["repository"]), (3, &"a".into(), &"b".into()));
    for repository in &usage[..2] {
        // A layer, a config and the manifest; the other layer is in both.
        assert_eq!(repository["exclusive"]["blobs"], 3, "{repository}");
        assert_eq!(repository["shared"]["blobs"], 1, "{repository}");
    }
    assert_eq!((&usage[2]["total"]["blobs"], &usage[2]["unreferenced"]["blobs"]), (&7.into(), &0.into()));
    let table = env.slipway(["registry", "du"]).success();
    assert!(table.starts_with("REPOSITORY   BLOBS   EXCLUSIVE") && table.contains("in 7 blobs"), "{table}");

    let digest = digest_of(&env, "b:1");
    let why = json(&env, &["why", &digest]);
    assert_eq!((&why[0]["repository"], &why[0]["tags"]), (&"b".into(), &serde_json::json!(["1"])), "{why:?}");
    let gone = format!("sha256:{}", "0".repeat(64));
    assert!(env.slipway(["registry", "why", &gone]).failure(1).contains("is not in the registry"));
    assert!(env.slipway(["registry", "why", "sha256:1"]).failure(1).contains("`sha256:1` is not a digest"));

    let rules = ["retention", "--match", "b:*", "--keep", "0", "--untagged", "0"];
    let dry = json(&env, &[&rules[..], &["--dry-run"]].concat());
    let done = json(&env, &rules);
    assert_eq!((dry.len(), done.len()), (2, 2), "a tag and its manifest: {dry:?} {done:?}");
    assert_eq!((&done[0]["tag"], &done[1]["digest"]), (&"1".into(), &digest.as_str().into()));
    assert!(env.slipway(["registry", "retention", "--dry-run"]).failure(1).contains("no rule"));

    let blobs = |arguments: &[&str]| json(&env, arguments)[0]["blobs"].clone();
    assert_eq!(blobs(&["gc"]), 0, "it was in use a moment ago");
    assert_eq!(blobs(&["gc", "--grace", "0", "--dry-run"]), 3);
    assert_eq!(blobs(&["gc", "--grace", "0"]), 3);
    assert_eq!(blobs(&["gc", "--grace", "0"]), 0);
    let usage = json(&env, &["du"]);
    assert_eq!(usage.last().expect("a total")["unreferenced"]["blobs"], 0, "{usage:?}");
    assert!(usage[1]["exclusive"]["blobs"].as_u64().unwrap_or(0) == 0, "nothing is there for b alone: {usage:?}");
    let name = format!("{}/a:1", registry.address);
    env.slipway(["rmi", &name]).success();
    env.slipway(["pull", &name]).success();
    assert_eq!(registry.stop(), 0);
}

#[test]
fn damage_is_found_told_and_healed_by_the_next_push() {
    let env = TestEnv::new();
    let registry = Registry::start_with(&env, ["--scrub-rate", "0"]);
    // Too long to be kept in its record.
    let layer: String = (0..40_000).map(|number| format!("{:08x}", number * 7_919)).collect();
    push(&env, &registry, "app:1", &layer);
    let ok = env.slipway(["registry", "fsck", "--verify"]).success();
    assert!(ok.contains("1 manifests, 1 tags: 0 wrong"), "{ok}");
    let data = files(&env.home().join("registry/data"));
    let file = data.iter().max_by_key(|file| file.metadata().unwrap().len()).expect("a data object").clone();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[1_000] ^= 1;
    // Not through a link that the local store may share.
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, &bytes).unwrap();
    env.slipway(["registry", "fsck"]).success();
    let wrong = env.slipway(["registry", "fsck", "--verify"]);
    assert_eq!(
        (wrong.code(), wrong.stdout().contains("are not what the digest says")),
        (1, true),
        "{}",
        wrong.stdout()
    );
    let marked = env.slipway(["registry", "fsck", "--verify", "--repair"]);
    assert!(marked.code() == 1 && marked.stdout().contains("the next push heals it"), "{}", marked.stdout());
    let full = format!("{}/app:1", registry.address);
    env.slipway(["push", &full]).success();
    env.slipway(["registry", "fsck", "--verify"]).success();
    // Without its bytes, too.
    let data = files(&env.home().join("registry/data"));
    data.iter().for_each(|file| std::fs::remove_file(file).unwrap());
    let lost = env.slipway(["registry", "fsck"]);
    assert!(lost.code() == 1 && lost.stdout().contains("are not there"), "{}", lost.stdout());
    env.slipway(["push", &full]).success();
    env.slipway(["registry", "fsck", "--verify"]).success();
    assert_eq!(registry.stop(), 0);
}

#[test]
fn what_is_no_registry_is_left_alone() {
    let env = TestEnv::new();
    let folder = env.path("nothing");
    for command in ["gc", "du", "fsck"] {
        let stderr = env.slipway(["registry", command, "--storage", path(&folder)]).failure(1);
        assert!(stderr.contains("no registry is kept in") && stderr.contains("hint:"), "{stderr}");
    }
    assert!(!folder.exists());
    assert!(env.slipway(["registry", "du", "--storage", "ftp://x"]).failure(2).contains("`ftp://`"));
}

#[test]
fn immutable_tags_do_not_move() {
    let env = TestEnv::new();
    let registry = Registry::start_with(&env, ["--immutable-tags", "v*"]);
    push(&env, &registry, "app:v1", "one");
    let first = digest_of(&env, "app:v1");
    env.write("app:v1/own", "two");
    let full = format!("{}/app:v1", registry.address);
    env.slipway(["build", "-q", "--progress=quiet", "-t", &full, path(&env.path("app:v1"))]).success();
    env.slipway(["push", &full]).failure(1);
    assert_eq!(digest_of(&env, "app:v1"), first);
    // The server said which they are.
    let rules = ["retention", "--keep", "0", "--dry-run"];
    assert_eq!(json(&env, &rules).len(), 0);
    assert_eq!(registry.stop(), 0);
    assert_eq!(json(&env, &rules).len(), 0, "also when it is not served");
    assert_eq!(Registry::start(&env, &env.home()).stop(), 0);
    assert_eq!(json(&env, &rules).len(), 0, "who says nothing takes nothing back");
    assert_eq!(Registry::start_with(&env, ["--immutable-tags", ""]).stop(), 0);
    assert_eq!(json(&env, &[&rules[..], &["--immutable-tags", "v*"]].concat()).len(), 0);
    assert_eq!(json(&env, &rules).len(), 1, "this server says that there are none");
}

#[test]
fn a_bucket_is_served_and_looked_after() {
    let env = TestEnv::new();
    let Some(moto) = Moto::start(&env) else { return };
    let bucket = moto.bucket("images");
    let serve = |flags: &[&str]| Registry::start_with(&env, [&["--storage", bucket.as_str()], flags].concat());
    let (one, other) = (serve(&["--redirect"]), serve(&[]));
    // Too long to be kept in its record.
    let layer: String = (0..40_000).map(|number| format!("{:08x}", number * 7_919)).collect();
    push(&env, &one, "app:1", &layer);
    for server in [&one, &other] {
        let name = format!("{}/app:1", server.address);
        env.slipway(["rmi", "-f", &name]);
        env.slipway(["pull", &name]).success();
    }
    let here = ["--storage", &bucket];
    let usage = json(&env, &[&["du"][..], &here].concat());
    assert_eq!((&usage[0]["repository"], &usage[0]["exclusive"]["blobs"]), (&"app".into(), &4.into()));
    assert_eq!(json(&env, &[&["gc", "--grace", "0"][..], &here].concat())[0]["blobs"], 0);
    // A bucket's clock counts whole seconds: what is younger than one may not be old enough yet.
    let mut collected = 0;
    crate::support::eventually(20, "what nothing names is collected", || {
        env.slipway([&["registry", "retention", "--keep", "0", "--untagged", "0"][..], &here].concat()).success();
        collected += json(&env, &[&["gc", "--grace", "0"][..], &here].concat())[0]["blobs"].as_u64().expect("a number");
        collected == 4
    });
    assert_eq!(json(&env, &[&["fsck", "--verify"][..], &here].concat())[0]["blobs"], 0);
    assert_eq!((one.stop(), other.stop()), (0, 0));
}

#[test]
fn a_bucket_that_is_not_there_is_told_at_the_start() {
    let env = TestEnv::new();
    let Some(moto) = Moto::start(&env) else { return };
    let missing = moto.bucket("images").replace("s3://images/", "s3://others/");
    let serve = |storage: &str| run(&mut env.command(["serve", "--addr", "127.0.0.1:0", "--storage", storage]));
    let stderr = serve(&missing).failure(1);
    assert!(stderr.contains("the storage cannot be used") && stderr.contains("hint:"), "{stderr}");
    let stderr = serve("s3://images?ednpoint=x").failure(1);
    assert!(stderr.contains("`ednpoint`") && stderr.contains("hint:"), "{stderr}");
}

#[test]
fn what_a_bucket_is_asked_again_is_noted() {
    let env = TestEnv::new();
    env.write(".aws/credentials", "[default]\naws_access_key_id = key\naws_secret_access_key = secret\n");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let status = if number < 2 { "503 Slow Down" } else { "403 Forbidden" };
            let (mut stream, mut request) = (stream.expect("a connection"), [0; 65536]);
            // Whoever is answered sends nothing else.
            let _ = stream.read(&mut request);
            let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    let storage = format!("s3://images?endpoint=http://127.0.0.1:{port}&region=us-east-1");
    let stderr = run(&mut env.command(["serve", "--addr", "127.0.0.1:0", "--storage", &storage])).failure(1);
    let (noted, failed) = stderr.split_once("error:").expect("it fails");
    assert!(noted.contains("is sent again") && noted.contains("503"), "{stderr}");
    assert!(failed.contains("the storage cannot be used"), "{stderr}");
}
