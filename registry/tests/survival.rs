//! `kill -9` of a server that is being pushed to: what it acknowledged is there, whole, when it comes back.

#[path = "http/mod.rs"]
mod http;
#[path = "kept/mod.rs"]
mod kept;

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use oci::{Descriptor, Digest, Manifest, media_type};
use registry::server::{ServeOptions, Server};

use http::{Answer, path_of, request};

/// Set for the process that serves, to the folder that it serves.
const ROOT: &str = "SURVIVAL_TEST_ROOT";
const ROUNDS: u64 = 25;

/// Not a test of its own: what the other tests start in a process that they can kill.
#[test]
fn a_server_to_be_killed() {
    let Some(root) = std::env::var_os(ROOT) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let options = ServeOptions::new(kept::open(root.as_ref()), ([127, 0, 0, 1], 0).into());
        let server = Server::bind(options).await.expect("listening");
        println!("\nlistening {}", server.local_addr());
        server.run(std::future::pending()).await;
    });
}

struct Victim {
    process: Child,
    addr: String,
}

impl Victim {
    fn start(root: &Path) -> Self {
        Self::start_with(root, &[])
    }

    /// Starts it by another program, which gets the server's command line at the end of its own.
    #[expect(clippy::disallowed_methods, reason = "only a process of its own can be killed")]
    fn start_with(root: &Path, starter: &[&str]) -> Self {
        let server = std::env::current_exe().expect("a path").display().to_string();
        let line = [starter, &[&server, "--exact", "a_server_to_be_killed", "--nocapture"]].concat();
        let mut command = Command::new(line[0]);
        let mut process = command.args(&line[1..]).env(ROOT, root).stdout(Stdio::piped()).spawn().expect("started");
        let output = BufReader::new(process.stdout.take().expect("piped"));
        let mut lines = output.lines().map_while(Result::ok);
        let addr = lines.find_map(|line| line.strip_prefix("listening ").map(str::to_owned)).expect("an address");
        Self { process, addr }
    }

    fn kill(mut self) {
        self.process.kill().expect("killed");
        self.process.wait().expect("gone");
    }

    fn send(&self, method: &str, path: &str, body: &[u8]) -> io::Result<Answer> {
        let length = body.len().to_string();
        request(&self.addr, method, path, &[("content-length", &length), ("accept", media_type::OCI_MANIFEST)], body)
    }

    fn push_blob(&self, name: &str, bytes: &[u8], pieces: usize) -> io::Result<Digest> {
        let digest = Digest::sha256(bytes);
        let mut url = self.send("POST", &format!("/v2/{name}/blobs/uploads/"), b"")?.location();
        for piece in bytes.chunks(bytes.len().div_ceil(pieces).max(1)) {
            let answer = self.send("PATCH", &url, piece)?;
            assert_eq!(answer.status, 202, "{answer:?}");
            url = answer.location();
        }
        let answer = self.send("PUT", &format!("{url}?digest={digest}"), b"")?;
        assert_eq!(answer.status, 201, "{answer:?}");
        Ok(digest)
    }
}

/// What was acknowledged.
#[derive(Default)]
struct Acknowledged {
    blobs: Mutex<Vec<(String, Digest, Vec<u8>)>>,
    /// For each tag the manifests that it may name: the last that was acknowledged, and any tried since.
    tags: Mutex<HashMap<(String, String), Vec<Digest>>>,
}

/// Bytes that look random and come from a number.
fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(size).collect()
}

/// Pushes images until the server is gone.
fn push_images(victim: &Victim, acknowledged: &Acknowledged, worker: u64, counter: &AtomicU64, stop: &AtomicBool) {
    let name = format!("survival/{worker}");
    let work = || -> io::Result<()> {
        while !stop.load(Ordering::Relaxed) {
            let seed = counter.fetch_add(1, Ordering::Relaxed);
            let layer = noise(seed, [300, 40_000, 700_000, 1_500_000][(seed % 4) as usize]);
            let config = format!("{{\"seed\":{seed}}}").into_bytes();
            for bytes in [&layer, &config] {
                let digest = victim.push_blob(&name, bytes, 1 + (seed % 3) as usize)?;
                acknowledged.blobs.lock().expect("sound").push((name.clone(), digest, bytes.clone()));
            }
            let config = Descriptor::of(media_type::OCI_CONFIG, &config);
            let manifest = Manifest::new(config, vec![Descriptor::of(media_type::OCI_LAYER, &layer)]);
            let bytes = serde_json::to_vec(&manifest).expect("JSON");
            let digest = Digest::sha256(&bytes);
            let tag = format!("t{}", seed % 5);
            let key = (name.clone(), tag.clone());
            acknowledged.tags.lock().expect("sound").entry(key.clone()).or_default().push(digest.clone());
            let answer = victim.send("PUT", &format!("/v2/{name}/manifests/{tag}"), &bytes)?;
            assert_eq!(answer.status, 201, "{answer:?}");
            acknowledged.tags.lock().expect("sound").insert(key, vec![digest]);
        }
        Ok(())
    };
    // It ends when the server is killed, in the middle of whatever it does.
    let _ = work();
}

#[test]
fn what_was_acknowledged_survives_a_kill_at_any_moment() {
    let home = tempfile::tempdir().expect("tempdir");
    let acknowledged = Acknowledged::default();
    let counter = AtomicU64::new(0);
    for round in 0..ROUNDS {
        let victim = Victim::start(home.path());
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (victim, acknowledged, counter, stop) = (&victim, &acknowledged, &counter, &stop);
            let pushed = || acknowledged.blobs.lock().expect("sound").len();
            let before = pushed();
            let push = |worker| scope.spawn(move || push_images(victim, acknowledged, worker, counter, stop));
            let workers: Vec<_> = (0..3).map(push).collect();
            // Killed after some pushes of this round, or none, and a moment later.
            let enough = before + (round % 4) as usize;
            while pushed() < enough && !workers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
                std::thread::sleep(Duration::from_millis(1));
            }
            let moment = u64::from(noise(round, 1)[0]);
            std::thread::sleep(Duration::from_millis(moment));
            let killed = kill_now(victim.process.id());
            assert!(killed);
            stop.store(true, Ordering::Relaxed);
        });
        victim.kill();
    }
    let victim = Victim::start(home.path());
    let blobs = acknowledged.blobs.into_inner().expect("sound");
    assert!(blobs.len() > 20, "only {} blobs were pushed", blobs.len());
    for (name, digest, bytes) in &blobs {
        let answer = victim.send("GET", &format!("/v2/{name}/blobs/{digest}"), b"").expect("an answer");
        assert_eq!(answer.status, 200, "{digest}");
        assert!(answer.body == *bytes, "{digest}");
    }
    for ((name, tag), possible) in acknowledged.tags.into_inner().expect("sound") {
        let answer = victim.send("GET", &format!("/v2/{name}/manifests/{tag}"), b"").expect("an answer");
        if answer.status == 404 && possible.len() == 1 {
            continue; // It was tried once and never acknowledged.
        }
        assert_eq!(answer.status, 200, "{name}:{tag}");
        let manifest: Manifest = serde_json::from_slice(&answer.body).expect("a manifest");
        for descriptor in std::iter::once(&manifest.config).chain(&manifest.layers) {
            let path = format!("/v2/{name}/blobs/{}", descriptor.digest);
            assert_eq!(victim.send("HEAD", &path, b"").expect("an answer").status, 200, "{path}");
        }
    }
    victim.kill();
}

/// Sends SIGKILL while requests still run; [`Victim::kill`] reaps later.
#[expect(clippy::disallowed_methods, reason = "std can only kill through a unique borrow, which the pushers share")]
fn kill_now(pid: u32) -> bool {
    Command::new("kill").args(["-9", &pid.to_string()]).status().is_ok_and(|status| status.success())
}

#[test]
fn an_upload_goes_on_after_the_server_was_killed() {
    let home = tempfile::tempdir().expect("tempdir");
    let bytes = noise(7, 3_000_000);
    let victim = Victim::start(home.path());
    let url = victim.send("POST", "/v2/a/blobs/uploads/", b"").expect("an answer").location();
    assert_eq!(victim.send("PATCH", &url, &bytes[..1_000_000]).expect("an answer").status, 202);
    victim.kill();
    let victim = Victim::start(home.path());
    let status = victim.send("GET", &url, b"").expect("an answer");
    assert_eq!((status.status, status.header("range")), (204, Some("0-999999")));
    let url = path_of(&status.location());
    assert_eq!(victim.send("PATCH", &url, &bytes[1_000_000..]).expect("an answer").status, 202);
    let digest = Digest::sha256(&bytes);
    assert_eq!(victim.send("PUT", &format!("{url}?digest={digest}"), b"").expect("an answer").status, 201);
    let answer = victim.send("GET", &format!("/v2/a/blobs/{digest}"), b"").expect("an answer");
    assert!(answer.body == bytes);
    victim.kill();
}

#[test]
fn a_full_disk_is_told_and_what_is_there_stays() {
    let home = tempfile::tempdir().expect("tempdir");
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "needs root, to mount a small disk");
        return;
    }
    // A disk of 4 MiB that only the server sees.
    let mount = format!("mount -t tmpfs -o size=4m tmpfs \"${ROOT}\" && exec \"$@\"");
    let victim = Victim::start_with(home.path(), &["unshare", "--mount", "sh", "-c", &mount, "sh"]);
    let push = |bytes: &[u8]| {
        let url = format!("/v2/a/blobs/uploads/?digest={}", Digest::sha256(bytes));
        victim.send("POST", &url, bytes).expect("an answer")
    };
    let (small, large) = (noise(1, 500_000), noise(2, 6_000_000));
    assert_eq!(push(&small).status, 201);
    let manifest = Manifest::new(Descriptor::of(media_type::OCI_CONFIG, &small), Vec::new());
    let manifest = serde_json::to_vec(&manifest).expect("JSON");
    let put = |tag: &str| victim.send("PUT", &format!("/v2/a/manifests/{tag}"), &manifest).expect("an answer").status;
    assert_eq!(put("v1"), 201);
    let refused = push(&large);
    assert_eq!(refused.status, 507, "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.body).contains("INSUFFICIENT_STORAGE"), "{refused:?}");
    // Small ones until nothing fits any more: each is there whole, or refused.
    let (mut kept, mut full) = (Vec::new(), false);
    for seed in 10..400 {
        let bytes = noise(seed, 40_000);
        match push(&bytes).status {
            201 => kept.push(bytes),
            507 => {
                full = true;
                break;
            }
            other => panic!("{other}"),
        }
    }
    assert!(full, "{} blobs of 40 kB on a disk of 4 MB", kept.len());
    for bytes in kept.iter().chain([&small]) {
        let answer = victim.send("GET", &format!("/v2/a/blobs/{}", Digest::sha256(bytes)), b"").expect("an answer");
        assert!(answer.status == 200 && answer.body == *bytes);
    }
    assert_eq!(victim.send("GET", "/v2/a/manifests/v1", b"").expect("an answer").body, manifest);
    victim.kill();
}
