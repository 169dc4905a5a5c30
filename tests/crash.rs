//! `kill -9` at random moments: what was acknowledged stays, every blob hashes to its name, and nothing leaks.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Registry, TestEnv, eventually, needs, path};

/// How often each of build, push, pull and serve is killed.
const KILLS: u32 = 25;

/// Moments that differ from run to run; the seed is printed, so that a failure can be looked at.
struct Moments(u64);

impl Moments {
    fn new() -> Self {
        let seed = RandomState::new().build_hasher().finish();
        eprintln!("moments of death from seed {seed}");
        Self(seed | 1)
    }

    /// Returns a moment before `end`, or shortly after it.
    fn within(&mut self, end: Duration) -> Duration {
        // xorshift64: any spread over the span will do.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let share = u32::try_from(self.0 >> 40).expect("24 bits");
        end * share / (1 << 24) + end * share / (1 << 27)
    }
}

fn start(mut command: Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start slipway")
}

/// Kills a command after a while; tells whether it had ended well before.
fn kill_after(command: Command, wait: Duration) -> bool {
    let mut child = start(command);
    std::thread::sleep(wait);
    let _ = child.kill();
    child.wait().expect("wait for slipway").success()
}

fn time(env: &TestEnv, arguments: &[&str]) -> Duration {
    let started = Instant::now();
    env.slipway(arguments).success();
    started.elapsed()
}

/// Hashes every blob below a store; gives how many there are.
fn assert_blobs_hash_to_their_names(home: &Path) -> usize {
    let mut count = 0;
    for algorithm in ["sha256", "sha512"] {
        let Ok(prefixes) = std::fs::read_dir(home.join("blobs").join(algorithm)) else { continue };
        for prefix in prefixes {
            for blob in std::fs::read_dir(prefix.expect("readable").path()).expect("a folder of blobs") {
                let blob = blob.expect("readable").path();
                let name = format!("{algorithm}:{}", blob.file_name().expect("a name").to_string_lossy());
                let digest: oci::Digest = name.parse().unwrap_or_else(|error| panic!("{}: {error}", blob.display()));
                let bytes = std::fs::read(&blob).expect("read a blob");
                assert_eq!(oci::Digest::of(digest.algorithm(), &bytes), digest, "{} is torn", blob.display());
                count += 1;
            }
        }
    }
    count
}

/// The cgroups of containers that a process started.
fn cgroups_of(pid: u32) -> Vec<PathBuf> {
    let mark = format!(".{pid}.");
    let children = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten();
    let named = |name: &str| name.starts_with("slipway-") && name.contains(&mark);
    let hierarchies = children(Path::new("/sys/fs/cgroup")).map(|entry| entry.path());
    let groups = hierarchies.flat_map(|folder| children(&folder).map(|entry| entry.path()).collect::<Vec<_>>());
    groups.filter(|path| path.file_name().is_some_and(|name| named(&name.to_string_lossy()))).collect()
}

#[test]
fn the_next_run_removes_the_cgroups_of_a_killed_one() {
    if !needs::root() {
        return;
    }
    let env = TestEnv::with_busybox();
    let id = env.start("box", &[], "sleep 100");
    let state = std::fs::read(env.home().join("containers").join(id).join("state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
    let supervisor = u32::try_from(state["supervisor"]["pid"].as_u64().unwrap()).unwrap();
    assert!(!cgroups_of(supervisor).is_empty(), "the container has a cgroup");
    super::support::send(supervisor, rustix::process::Signal::KILL);
    // Another home: what is the machine's does not wait for its own.
    let other = TestEnv::with_busybox();
    eventually(10, "the cgroups are gone", || {
        other.slipway(["run", "--rm", "--network=none", "busybox", "true"]).success();
        cgroups_of(supervisor).is_empty()
    });
}

/// Asserts that the dead left nothing that the run after them did not clean.
fn assert_nothing_leaks(env: &TestEnv) {
    env.slipway(["run", "--rm", "--network=none", "busybox", "true"]).success();
    let home = env.home();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    assert!(!mounts.contains(path(&home)), "mounts are left:\n{mounts}");
    let staging: Vec<_> =
        std::fs::read_dir(home.join("staging")).expect("staging").flatten().map(|e| e.path()).collect();
    assert!(staging.is_empty(), "staging holds {staging:?}");
    eventually(10, "no process of the dead is left", || processes_of(&home).is_empty());
}

/// The processes that were started with this home.
fn processes_of(home: &Path) -> Vec<String> {
    let mark = format!("SLIPWAY_HOME={}", path(home));
    let entries = std::fs::read_dir("/proc").expect("proc").flatten();
    let has_mark = |pid: &String| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|variable| variable == mark.as_bytes())
    };
    let pids = entries.filter_map(|entry| entry.file_name().into_string().ok());
    pids.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).filter(has_mark).collect()
}

/// Builds a small image whose bytes no other image has.
fn unique_image(env: &TestEnv, name: &str, seed: u32) {
    let bytes: Vec<u8> =
        (0..3_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> (8 + seed % 8)) as u8 ^ seed as u8).collect();
    env.write(&format!("{name}/payload"), bytes);
    let context = env.context(name, &format!("FROM scratch\nLABEL seed={seed}\nCOPY payload /\n"));
    env.slipway(["build", "-q", "-t", name, path(&context)]).success();
}

#[test]
fn a_hundred_kills_lose_nothing_and_leak_nothing() {
    if !needs::root() {
        return;
    }
    let mut moments = Moments::new();
    let env = TestEnv::with_busybox();
    let root = env.path("registry");

    // Build: layers, active snapshots and the cache are cut off half way.
    for file in 0..40_u8 {
        env.write(&format!("app/files/{file}"), vec![file; 100_000]);
    }
    let dockerfile =
        "FROM busybox\nCOPY files /files\nRUN cp -r /files /copy && sleep 0.05\nRUN rm /copy/1\nCOPY files/2 /two\n";
    let context = env.context("app", dockerfile);
    let whole = time(&env, &["build", "--no-cache", "-q", "--network=none", "-t", "app", path(&context)]);
    for kill in 0..KILLS {
        let tag = format!("killed:{kill}");
        let build = env.command(["build", "--no-cache", "-q", "--network=none", "-t", &tag, path(&context)]);
        if kill_after(build, moments.within(whole)) {
            env.slipway(["inspect", &tag]).success();
        }
    }
    assert_nothing_leaks(&env);
    assert_blobs_hash_to_their_names(&env.home());
    env.slipway(["run", "--rm", "--network=none", "app", "cat", "/two"]).success();

    // Push: the registry lives, its client dies, and the next one carries on.
    let registry = Registry::start(&env, &root);
    let mut acknowledged = Vec::new();
    for kill in 0..KILLS {
        unique_image(&env, &format!("push{kill}"), kill);
    }
    let reference = |kill: u32| format!("{}/push{kill}:v", registry.address);
    env.slipway(["tag", "push0", &reference(0)]).success();
    let whole = time(&env, &["push", &reference(0)]);
    acknowledged.push("push0:v".to_owned());
    for kill in 1..KILLS {
        env.slipway(["tag", &format!("push{kill}"), &reference(kill)]).success();
        if !kill_after(env.command(["push", &reference(kill)]), moments.within(whole)) {
            env.slipway(["push", &reference(kill)]).success();
        }
        acknowledged.push(format!("push{kill}:v"));
    }

    // Pull: downloads are cut off, and the next one carries on.
    let other = TestEnv::new();
    env.slipway(["tag", "app", &format!("{}/app:v", registry.address)]).success();
    env.slipway(["push", &format!("{}/app:v", registry.address)]).success();
    acknowledged.push("app:v".to_owned());
    let image = format!("{}/app:v", registry.address);
    let whole = time(&other, &["pull", &image]);
    for _ in 0..KILLS {
        other.slipway(["rmi", &image]).success();
        if !kill_after(other.command(["pull", &image]), moments.within(whole)) {
            assert_blobs_hash_to_their_names(&other.home());
        }
        other.slipway(["pull", &image]).success();
    }
    other.slipway(["run", "--rm", "--network=none", &image, "true"]).success();

    // Serve: the registry dies under its clients.
    registry.kill();
    for kill in 0..KILLS {
        let registry = Registry::start(&env, &root);
        let name = format!("serve{kill}");
        unique_image(&env, &name, 1000 + kill);
        let reference = format!("{}/{name}:v", registry.address);
        env.slipway(["tag", &name, &reference]).success();
        let mut push = start(env.command(["push", &reference]));
        std::thread::sleep(moments.within(whole));
        registry.kill();
        // The client may go on trying; what counts is what it had been told by now.
        let _ = push.kill();
        if push.wait().expect("wait for push").success() {
            acknowledged.push(format!("{name}:v"));
        }
    }

    // A pull believes no byte that it has not hashed.
    let registry = Registry::start(&env, &root);
    let fresh = TestEnv::new();
    for name in &acknowledged {
        fresh.slipway(["pull", "-q", &format!("{}/{name}", registry.address)]).success();
    }
    assert!(assert_blobs_hash_to_their_names(&fresh.home()) >= acknowledged.len());
    assert_eq!(registry.stop(), 0);
    assert_nothing_leaks(&env);
}
