//! `slipway prune`, and what builds remove by themselves.

use std::process::Stdio;

use super::du::{cached_build, entries};
use super::support::{TestEnv, needs, path};

fn blobs(env: &TestEnv) -> usize {
    fn count(folder: &std::path::Path) -> usize {
        let entries = std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
        entries.map(|path| if path.is_dir() { count(&path) } else { 1 }).sum()
    }
    count(&env.home().join("blobs"))
}

/// Makes the records of a step look as if they were last used some days ago.
fn age(env: &TestEnv, days: u64) {
    let then = std::time::SystemTime::now() - std::time::Duration::from_secs(days * 24 * 60 * 60);
    for prefix in std::fs::read_dir(env.home().join("cache")).expect("a cache") {
        for record in std::fs::read_dir(prefix.unwrap().path()).expect("a folder of records") {
            std::fs::File::options().write(true).open(record.unwrap().path()).unwrap().set_modified(then).unwrap();
        }
    }
}

#[test]
fn nothing_goes_without_a_word_and_everything_with_it() {
    let env = TestEnv::new();
    cached_build(&env, "a", 1_000);
    let stderr = env.slipway(["prune"]).failure(1);
    assert!(stderr.contains("nothing was removed") && stderr.contains("--force"), "{stderr}");
    assert_eq!(entries(&env, &["--filter", "type=regular"]).len(), 2);
    for bad in ["until=soon", "colour=red"] {
        env.slipway(["prune", "-f", "--filter", bad]).failure(1);
    }
    assert_eq!(entries(&env, &["--filter", "type=regular"]).len(), 2, "a bad filter does not mean all");
    let stdout = env.slipway(["prune", "-f"]).success();
    assert!(stdout.contains("COPY payload /") && stdout.contains("\nTotal:   "), "{stdout}");
    assert_eq!(entries(&env, &["--filter", "type=regular"]).len(), 0);
    env.slipway(["prune", "-af"]).success();
    assert_eq!((entries(&env, &[]).len(), blobs(&env)), (0, 0));
    let context = env.path("a");
    let explained = env.slipway(["build", "--progress=quiet", "--explain", "-t", "a", path(&context)]);
    let stderr = explained.stderr();
    explained.success();
    assert_eq!(stderr.matches("its record was pruned").count(), 2, "{stderr}");
}

#[test]
fn an_image_keeps_its_layers() {
    let env = TestEnv::new();
    cached_build(&env, "a", 1_000);
    env.slipway(["build", "-q", "-t", "a", path(&env.path("a"))]).success();
    assert_eq!(env.slipway(["prune", "-f", "--filter", "type=regular"]).success(), "Total:   0B\n");
    env.slipway(["prune", "-af"]).success();
    assert_eq!(entries(&env, &[]).len(), 0);
    env.slipway(["save", "-o", path(&env.path("a.tar")), "a"]).success();
}

#[test]
fn what_was_of_no_use_for_longest_goes_first() {
    let env = TestEnv::new();
    cached_build(&env, "old", 1_000_000);
    age(&env, 30);
    cached_build(&env, "new", 1_000_000);
    let left = || -> Vec<String> {
        let list = entries(&env, &["--filter", "description=COPY"]);
        list.iter().map(|entry| entry["LastUsedAt"].as_str().expect("text").to_owned()).collect()
    };
    let before = left();
    assert_eq!(before.len(), 2);
    env.slipway(["prune", "-f", "--filter", "until=720h30m"]).success();
    assert_eq!(left().len(), 2, "it is not that old");
    env.slipway(["prune", "-f", "--max-used-space", "1500k"]).success();
    assert_eq!(left(), before[..1], "the newest comes first in the list");
    env.slipway(["prune", "-f", "--max-used-space", "0", "--reserved-space", "1g"]).success();
    assert_eq!(left().len(), 1);

    // A build does the same when a limit is given.
    let context = env.context("more", "FROM scratch\nCOPY payload /\n");
    env.write("more/payload", vec![7; 1_000_000]);
    env.slipway(["build", "-q", "-t", "more", "--cache-limit", "0", path(&context)]).success();
    assert_eq!(left().len(), 1, "only what it uses itself");
    assert_ne!(left(), before[..1]);
    assert!(env.slipway(["build", "--cache-limit", "x", path(&context)]).failure(2).contains("x"));
}

#[test]
fn a_cache_mount_goes_unless_it_is_mounted() {
    if !needs::root() {
        return;
    }
    let env = TestEnv::with_busybox();
    let wait = "while [ ! -e /c/go ]; do sleep 0.01; done";
    let dockerfile = |run: &str| format!("FROM busybox\nRUN --mount=type=cache,target=/c --network=none {run}\n");
    let first = env.context("first", &dockerfile("echo kept > /c/file"));
    env.slipway(["build", "-q", path(&first)]).success();
    let mounts = || entries(&env, &["--filter", "type=exec.cachemount"]);
    let mount = mounts().remove(0);
    assert_eq!((mount["Description"].as_str(), &mount["Reclaimable"]), (Some("cache mount /c"), &true.into()));
    let second = env.context("second", &dockerfile(&format!("cat /c/file && touch /c/here && {wait}")));
    let mut build = env.command(["build", "-q", path(&second)]);
    let build = build.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start slipway");
    let data = env.home().join("cache-mounts").join(mount["ID"].as_str().expect("text")).join("data");
    super::support::eventually(20, "the build has it mounted", || data.join("here").exists());
    assert_eq!(mounts()[0]["InUse"], true);
    env.slipway(["prune", "-af"]).success();
    assert!(data.join("file").exists(), "it is mounted");
    std::fs::write(data.join("go"), "").expect("written");
    let output = build.wait_with_output().expect("wait for slipway");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    env.slipway(["prune", "-f", "--filter", "type=exec.cachemount"]).success();
    assert!(!data.exists());
    assert_eq!(mounts().len(), 0);
    let third = env.context("third", &dockerfile("test ! -e /c/file"));
    env.slipway(["build", "-q", path(&third)]).success();
}

#[test]
fn builds_go_on_while_everything_is_pruned_again_and_again() {
    let env = TestEnv::new();
    let rounds = 12;
    std::thread::scope(|scope| {
        let (env, mut builders) = (&env, Vec::new());
        for builder in 0..2 {
            builders.push(scope.spawn(move || {
                for round in 0..rounds {
                    let name = format!("b{builder}");
                    // Some layers both have, some come back, some are new.
                    env.write(&format!("{name}/shared"), "the same");
                    env.write(&format!("{name}/own"), format!("{}", round % 3));
                    env.write(&format!("{name}/new"), format!("{builder} {round}"));
                    let dockerfile = "FROM scratch AS a\nCOPY shared /\nCOPY own /\nFROM scratch\nCOPY --from=a / /\nCOPY new /\nWORKDIR /w\n";
                    let context = env.context(&name, dockerfile);
                    let tag = format!("{name}:{}", round % 2);
                    env.slipway(["build", "-q", "--cache-limit", "0", "-t", &tag, path(&context)]).success();
                    env.slipway(["save", "-o", path(&env.path(&format!("{name}.tar"))), &tag]).success();
                }
            }));
        }
        while builders.iter().any(|builder| !builder.is_finished()) {
            let ran = env.slipway(["prune", "-af"]);
            assert!(ran.code() == 0 || ran.stderr().contains("at work in the store"), "{}", ran.stderr());
        }
        builders.into_iter().for_each(|builder| builder.join().expect("all builds succeed"));
    });
    for builder in 0..2 {
        for tag in 0..2 {
            let archive = env.path("last.tar");
            env.slipway(["save", "-o", path(&archive), &format!("b{builder}:{tag}")]).success();
        }
    }
}
