//! Several servers on one storage, killed and started again at random, while clients push and delete and everything
//! that nothing relies on is collected: what was acknowledged stays, no client fails for good, and nothing is left over.
//!
//! `SLIPWAY_CHAOS_UPLOADS` says how many images are pushed, and `SLIPWAY_CHAOS_STORAGE` where to, if not into a folder of
//! the test's own: the address of a bucket, or of an empty prefix in it; or `moto`, a bucket of the test's own.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use oci::{Algorithm, Digest};

use crate::support::moto::Moto;
use crate::support::{Registry, TestEnv, eventually, path};

/// How many servers there are.
const SERVERS: usize = 3;
/// How many clients push at once.
const CLIENTS: usize = 6;
/// For so long a client tries one thing again and again.
const PATIENCE: Duration = Duration::from_secs(180);
/// For so many pushes one server dies: a fast machine's clients wait for the next death, a slow one's see more of them.
const PUSHES_A_KILL: u64 = 8;

/// Numbers that look random, the same for the same seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        // xorshift64: any spread will do.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) % end
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            self.below(1);
            bytes.extend_from_slice(&self.0.to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}

/// How many servers have died at least when a push begins.
fn kills_before(push: u64) -> usize {
    usize::try_from(push / PUSHES_A_KILL).unwrap().saturating_sub(1)
}

/// How many servers have died at most after some pushes: with a slow store, they would die faster than anything is pushed.
fn kills_after(pushed: usize) -> usize {
    SERVERS + pushed / 2
}

fn serve(env: &TestEnv, storage: &str) -> Registry {
    // The servers that stand in for a bucket take their time for a list.
    let every = if storage.contains("://") { "10s" } else { "1s" };
    let upkeep = ["--grace", "3s", "--collect-every", every, "--scrub-rate", "8m"];
    Registry::start_with(env, [&["--storage", storage][..], &upkeep].concat())
}

/// Sends each connection to one of the servers that are up.
fn balance(listener: &TcpListener, servers: &Mutex<Vec<Option<Registry>>>, over: &AtomicBool) {
    let turn = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for client in listener.incoming() {
            if over.load(Ordering::SeqCst) {
                return;
            }
            let Ok(client) = client else { continue };
            let turn = turn.fetch_add(1, Ordering::SeqCst);
            let addresses: Vec<Option<String>> =
                servers.lock().unwrap().iter().map(|it| it.as_ref().map(|it| it.address.clone())).collect();
            let ways = (0..SERVERS).filter_map(|way| addresses[(turn + way) % SERVERS].clone());
            // With no server there, the client sees its connection closed.
            let Some(server) = ways.filter_map(|address| TcpStream::connect(address).ok()).next() else { continue };
            for (mut from, mut to) in [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)] {
                scope.spawn(move || {
                    let _ = io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

fn request(address: &str, line: &str, headers: &str, body: &[u8]) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let length = body.len();
    let head = format!("{line} HTTP/1.1\r\nhost: r\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let torn = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").ok_or_else(torn)?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.get(9..12).and_then(|status| status.parse().ok()).ok_or_else(torn)?;
    let answer = Answer { status, head, body: bytes.split_off(end + 4) };
    match answer.header("content-length").and_then(|length| length.parse::<usize>().ok()) {
        Some(length) if length != answer.body.len() => Err(torn()),
        _ => Ok(answer),
    }
}

/// A client that does not give up.
struct Client<'a> {
    address: &'a str,
    retries: &'a AtomicUsize,
}

impl Client<'_> {
    /// Asks again until the answer is one that `ends` takes.
    fn insist<T>(&self, what: &str, mut attempt: impl FnMut() -> io::Result<Option<T>>) -> T {
        let began = Instant::now();
        loop {
            if let Ok(Some(value)) = attempt() {
                return value;
            }
            assert!(began.elapsed() < PATIENCE, "{what} fails for good");
            self.retries.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn ask(&self, line: &str, headers: &str, body: &[u8], wanted: &[u16]) -> Answer {
        self.insist(line, || {
            let answer = request(self.address, line, headers, body)?;
            assert!(answer.status < 500 || answer.status == 503, "{line}: {}", answer.head);
            Ok(Some(answer).filter(|answer| wanted.contains(&answer.status)))
        })
    }

    /// Sends a blob in pieces, going on where an upload stands after whatever happened.
    fn push_blob(&self, repository: &str, bytes: &[u8], piece: usize) {
        let digest = Digest::sha256(bytes);
        self.insist("an upload", || {
            let started = request(self.address, &format!("POST /v2/{repository}/blobs/uploads/"), "", b"")?;
            let Some(mut location) = started.header("location").map(str::to_owned) else { return Ok(None) };
            let (mut at, mut failures) = (0, 0);
            loop {
                let end = bytes.len().min(at + piece);
                let answer = if at < bytes.len() {
                    let range = format!("content-range: {at}-{}\r\n", end - 1);
                    request(self.address, &format!("PATCH {location}"), &range, &bytes[at..end])
                } else {
                    let and = if location.contains('?') { '&' } else { '?' };
                    request(self.address, &format!("PUT {location}{and}digest={digest}"), "", b"")
                };
                match answer {
                    Ok(answer) if answer.status == 201 => return Ok(Some(())),
                    Ok(answer) if answer.status == 202 => {
                        location = answer.header("location").unwrap().to_owned();
                        at = end;
                        continue;
                    }
                    Ok(answer) if answer.status == 404 => return Ok(None),
                    Ok(_) | Err(_) => {}
                }
                failures += 1;
                if failures > 20 {
                    return Ok(None);
                }
                self.retries.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(50));
                let Ok(status) = request(self.address, &format!("GET {location}"), "", b"") else { continue };
                if status.status == 404 {
                    // It was finished, and only the answer was lost; or it has to begin again.
                    let there = request(self.address, &format!("HEAD /v2/{repository}/blobs/{digest}"), "", b"");
                    return Ok(there.is_ok_and(|there| there.status == 200).then_some(()));
                }
                let range = status.header("range").and_then(|range| range.strip_prefix("0-"));
                at = match range.and_then(|last| last.parse().ok()) {
                    Some(0) | None => 0,
                    Some(last) => last + 1,
                };
            }
        });
    }

    fn push_image(&self, image: &Image) {
        self.insist("a push", || {
            for blob in &image.blobs {
                self.push_blob(&image.repository, blob, 150_000);
            }
            let line = format!("PUT /v2/{}/manifests/{}", image.repository, image.tag);
            let kind = "content-type: application/vnd.oci.image.manifest.v1+json\r\n";
            // 404: what the manifest names was collected meanwhile.
            let answer = self.ask(&line, kind, &image.manifest, &[201, 400, 404]);
            Ok((answer.status == 201).then_some(()))
        });
    }
}

struct Image {
    repository: String,
    tag: String,
    blobs: Vec<Vec<u8>>,
    manifest: Vec<u8>,
}

impl Image {
    fn new(number: u64) -> Self {
        let mut numbers = Numbers(number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let own = 1_000 + usize::try_from(numbers.below(600_000)).unwrap();
        // Some layers are those of others, also of other repositories, and of images that are deleted.
        let shared = Numbers(number % 7 + 1).bytes(200_000);
        let config = format!("{{\"created\":\"2026-11-20T12:00:00Z\",\"author\":\"{number}\"}}").into_bytes();
        let blobs = vec![config, shared, numbers.bytes(own)];
        let describe = |media_type: &str, blob: &[u8]| {
            let (digest, size) = (Digest::sha256(blob), blob.len());
            format!(
                "{{\"mediaType\":\"application/vnd.oci.image.{media_type}\",\"digest\":\"{digest}\",\"size\":{size}}}"
            )
        };
        let manifest = format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"config\":{},\"layers\":[{},{}]}}",
            describe("config.v1+json", &blobs[0]),
            describe("layer.v1.tar", &blobs[1]),
            describe("layer.v1.tar", &blobs[2]),
        );
        let repository = format!("team/app{}", number % 4);
        Self { repository, tag: format!("t{number}"), blobs, manifest: manifest.into_bytes() }
    }

    fn is_deleted(number: u64) -> bool {
        number % 5 == 3
    }

    fn digests(&self) -> Vec<Digest> {
        let digest = |bytes: &Vec<u8>| Digest::of(Algorithm::Sha256, bytes);
        self.blobs.iter().chain([&self.manifest]).map(digest).collect()
    }
}

#[test]
fn servers_on_one_storage_die_and_nothing_is_lost() {
    let env = TestEnv::new();
    let named = std::env::var("SLIPWAY_CHAOS_STORAGE").ok();
    let moto = named.as_ref().filter(|named| *named == "moto").map(|_| Moto::start(&env).expect("moto is installed"));
    let own = || path(&env.path("storage")).to_owned();
    let storage = moto.as_ref().map(|moto| moto.bucket("images")).or(named).unwrap_or_else(own);
    let uploads = std::env::var("SLIPWAY_CHAOS_UPLOADS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let servers = Arc::new(Mutex::new((0..SERVERS).map(|_| Some(serve(&env, &storage))).collect::<Vec<_>>()));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (over, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let (next, pushed, kills, retries) =
        (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let client = Client { address: &address, retries: &retries };
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| balance(&listener, &servers, &over));
        let killer = scope.spawn(|| {
            let mut numbers = Numbers(u64::from(std::process::id()) | 1);
            while !done.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(20 + numbers.below(200)));
                if kills.load(Ordering::SeqCst) > kills_after(pushed.load(Ordering::SeqCst)) {
                    continue;
                }
                let victim = usize::try_from(numbers.below(SERVERS as u64)).unwrap();
                let server = servers.lock().unwrap()[victim].take().expect("only this thread takes them");
                server.kill();
                kills.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(numbers.below(300)));
                let server = serve(&env, &storage);
                servers.lock().unwrap()[victim] = Some(server);
            }
        });
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::SeqCst) as u64;
                        if number >= uploads {
                            return;
                        }
                        eventually(180, "servers die", || kills.load(Ordering::SeqCst) >= kills_before(number));
                        let image = Image::new(number);
                        client.push_image(&image);
                        pushed.fetch_add(1, Ordering::SeqCst);
                        if Image::is_deleted(number) {
                            let digest = Digest::sha256(&image.manifest);
                            let line = format!("DELETE /v2/{}/manifests/{digest}", image.repository);
                            client.ask(&line, "", b"", &[202, 404]);
                        }
                    }
                })
            })
            .collect();
        let ended: Vec<_> = clients.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::SeqCst);
        killer.join().unwrap();
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            assert!(ended.iter().all(Result::is_ok), "no client fails for good");
            check_all(&client, uploads);
        }));
        over.store(true, Ordering::SeqCst);
        // Wakes the balancer, so that it sees that it is over.
        let _ = TcpStream::connect(&address);
        checked.unwrap();
    });
    let (kills, retries) = (kills.into_inner(), retries.into_inner());
    eprintln!("{uploads} pushes, {kills} kills, {retries} retries in {:.1?}", began.elapsed());
    assert!(kills >= kills_before(uploads - 1), "servers were killed {kills} times");
    servers.lock().unwrap().clear();
    nothing_is_left_over(&env, &storage, uploads);
}

/// Reads all that was acknowledged, and not deleted.
fn check_all(client: &Client<'_>, uploads: u64) {
    for number in 0..uploads {
        let image = Image::new(number);
        let line = format!("GET /v2/{}/manifests/{}", image.repository, image.tag);
        if Image::is_deleted(number) {
            client.ask(&line, "", b"", &[404]);
            continue;
        }
        assert!(client.ask(&line, "", b"", &[200]).body == image.manifest, "{line} is what was pushed");
        for blob in &image.blobs {
            let line = format!("GET /v2/{}/blobs/{}", image.repository, Digest::sha256(blob));
            assert!(client.ask(&line, "", b"", &[200]).body == *blob, "{line} is what was pushed");
        }
    }
}

fn nothing_is_left_over(env: &TestEnv, storage: &str, uploads: u64) {
    let json = |arguments: &[&str]| -> serde_json::Value {
        let stdout = env.slipway([arguments, &["--storage", storage, "--format", "json"]].concat()).success();
        serde_json::from_str(stdout.lines().last().expect("a line")).expect("JSON")
    };
    json(&["registry", "gc", "--grace", "0", "--uploads", "0", "--unnamed", "0"]);
    let checked = json(&["registry", "fsck", "--verify"]);
    assert_eq!(checked["ok"], true, "{checked}");
    assert_eq!((&checked["staleEdges"], &checked["unnamedData"]), (&0.into(), &0.into()), "{checked}");
    let kept = (0..uploads).filter(|number| !Image::is_deleted(*number)).map(Image::new);
    let (mut digests, mut tags) = (BTreeSet::new(), BTreeMap::new());
    for image in kept {
        digests.extend(image.digests());
        *tags.entry(image.repository).or_insert(0) += 1;
    }
    assert_eq!(checked["blobs"], digests.len(), "{checked}");
    assert_eq!(checked["tags"], tags.values().sum::<i32>(), "{checked}");
    assert_eq!(json(&["registry", "du"])["unreferenced"]["blobs"], 0);
}
