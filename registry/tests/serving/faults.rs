//! A store that does not answer: 503 with `Retry-After`, and everything goes on once it does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::{BoxFuture, FutureExt};
use oci::{Descriptor, Digest, Manifest, media_type};
use registry::storage::objects::memory::{Fate, Gate, Memory};
use registry::storage::{Storage, StorageOptions};

use crate::http::{Answer, path_of, request};
use crate::running::Running;

/// Lets calls pass, or none.
#[derive(Default)]
struct Switch {
    off: AtomicBool,
}

impl Gate for Switch {
    fn pass(&self, _call: &'static str, _what: &str) -> BoxFuture<'static, Fate> {
        let fate = if self.off.load(Ordering::SeqCst) { Fate::Refused } else { Fate::Done };
        std::future::ready(fate).boxed()
    }
}

fn start() -> (Running, Arc<Switch>) {
    let switch = Arc::<Switch>::default();
    let storage = Storage::new(Memory::default().behind(switch.clone()).backend(), StorageOptions::default());
    (Running::start(move |options| options.storage = storage), switch)
}

/// Fails everything from the moment on at which a manifest's record was written.
#[derive(Default)]
struct AfterManifest {
    armed: AtomicBool,
    off: AtomicBool,
}

impl Gate for AfterManifest {
    fn pass(&self, call: &'static str, what: &str) -> BoxFuture<'static, Fate> {
        let fate = if self.off.load(Ordering::SeqCst) { Fate::Refused } else { Fate::Done };
        if call == "put" && what.starts_with("m/") && self.armed.swap(false, Ordering::SeqCst) {
            self.off.store(true, Ordering::SeqCst);
        }
        std::future::ready(fate).boxed()
    }
}

#[test]
fn a_tag_of_a_manifest_that_was_half_deleted_does_not_come_back_with_it() {
    let gate = Arc::<AfterManifest>::default();
    let storage = Storage::new(Memory::default().behind(gate.clone()).backend(), StorageOptions::default());
    let server = Running::start(move |options| options.storage = storage);
    let manifest = br#"{"schemaVersion":2,"manifests":[]}"#;
    let by_digest = format!("/v2/a/manifests/{}", Digest::sha256(manifest));
    let put = |tag: &str| {
        let length = manifest.len().to_string();
        let headers = [("content-length", length.as_str()), ("content-type", media_type::OCI_INDEX)];
        request(&server.addr, "PUT", &format!("/v2/a/manifests/{tag}"), &headers, manifest).expect("an answer").status
    };
    let get = |tag: &str| server.send("GET", &format!("/v2/a/manifests/{tag}"), b"").status;
    assert_eq!((put("old"), get("old")), (201, 200));
    gate.armed.store(true, Ordering::SeqCst);
    assert_eq!(server.send("DELETE", &by_digest, b"").status, 503);
    gate.off.store(false, Ordering::SeqCst);
    assert_eq!((put("new"), get("new"), get("old")), (201, 200, 404));
    assert_eq!(server.send("DELETE", &by_digest, b"").status, 202);
    assert_eq!(server.send("GET", "/v2/a/tags/list", b"").body, server.send("GET", "/v2/a/tags/list?n=1", b"").body);
    assert!(!String::from_utf8_lossy(&server.send("GET", "/v2/a/tags/list", b"").body).contains("old"));
}

#[test]
fn a_manifest_whose_bytes_are_not_all_there_is_not_there_until_it_is_pushed_again() {
    // In its record, and beside it.
    for size in [1_000, 100_000] {
        let memory = Memory::default();
        let backend = memory.backend();
        let storage = Storage::new(backend.clone(), StorageOptions::default());
        let server = Running::start(move |options| options.storage = storage);
        let manifest = format!(r#"{{"schemaVersion":2,"manifests":[],"x":"{}"}}"#, "y".repeat(size));
        let put = || {
            let length = manifest.len().to_string();
            let headers = [("content-length", length.as_str()), ("content-type", media_type::OCI_INDEX)];
            request(&server.addr, "PUT", "/v2/a/manifests/t", &headers, manifest.as_bytes()).expect("an answer").status
        };
        let of = |method: &str| server.send(method, "/v2/a/manifests/t", b"");
        assert_eq!((put(), of("HEAD").status, of("GET").body), (201, 200, manifest.clone().into_bytes()));
        if let Some(id) = memory.data_ids().first() {
            memory.damage(*id, manifest.as_bytes()[..size / 2].to_vec().into());
        } else {
            let key = memory.keys().into_iter().find(|key| key.as_str().starts_with("b/")).expect("a record");
            let record =
                backend.objects.get(&key).now_or_never().expect("at once").expect("read").expect("there").bytes;
            memory.damage_object(&key, record.slice(..record.len() - 5));
        }
        assert_eq!((of("HEAD").status, of("GET").status), (404, 404), "{size}");
        assert!(String::from_utf8_lossy(&of("GET").body).contains("MANIFEST_UNKNOWN"), "{size}");
        assert_eq!((put(), of("HEAD").status, of("GET").body), (201, 200, manifest.into_bytes()), "{size}");
    }
}

#[track_caller]
fn unavailable(answer: &Answer) {
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.header("retry-after").is_some_and(|after| after.parse::<u32>().is_ok()), "{answer:?}");
}

#[test]
fn every_request_is_told_to_come_back_and_an_upload_goes_on() {
    let (server, switch) = start();
    let blob = vec![7; 300_000];
    let digest = Digest::sha256(&blob);
    let manifest = Manifest::new(Descriptor::of(media_type::OCI_CONFIG, &blob), Vec::new());
    let manifest = serde_json::to_vec(&manifest).expect("JSON");
    let upload = path_of(&server.send("POST", "/v2/a/blobs/uploads/", b"").location());
    assert_eq!(server.send("PATCH", &upload, &blob[..100_000]).status, 202);
    switch.off.store(true, Ordering::SeqCst);
    let requests: [(&str, String, &[u8]); 12] = [
        ("GET", format!("/v2/a/blobs/{digest}"), b""),
        ("GET", "/v2/a/manifests/v1".into(), b""),
        ("PUT", "/v2/a/manifests/v1".into(), &manifest),
        ("DELETE", "/v2/a/manifests/v1".into(), b""),
        ("GET", "/v2/a/tags/list".into(), b""),
        ("GET", "/v2/_catalog".into(), b""),
        ("GET", format!("/v2/a/referrers/{digest}"), b""),
        ("POST", format!("/v2/a/blobs/uploads/?digest={digest}"), &blob),
        ("POST", format!("/v2/b/blobs/uploads/?mount={digest}&from=a"), b""),
        ("GET", upload.clone(), b""),
        ("PATCH", upload.clone(), &blob[100_000..200_000]),
        ("PUT", format!("{upload}?digest={digest}"), &blob[100_000..]),
    ];
    for (method, path, body) in requests {
        unavailable(&server.send(method, &path, body));
    }
    let ready = server.send("GET", "/readyz", b"");
    assert_eq!((ready.status, server.send("GET", "/livez", b"").status), (503, 200));
    switch.off.store(false, Ordering::SeqCst);
    assert_eq!(server.send("GET", "/readyz", b"").status, 200);
    assert_eq!(server.send("GET", &upload, b"").header("range"), Some("0-99999"));
    assert_eq!(server.send("PATCH", &upload, &blob[100_000..200_000]).status, 202);
    assert_eq!(server.send("PUT", &format!("{upload}?digest={digest}"), &blob[200_000..]).status, 201);
    assert!(server.send("GET", &format!("/v2/a/blobs/{digest}"), b"").body == blob);
    let length = manifest.len().to_string();
    let headers = [("content-length", length.as_str()), ("content-type", media_type::OCI_MANIFEST)];
    let answer = request(&server.addr, "PUT", "/v2/a/manifests/v1", &headers, &manifest).expect("an answer");
    assert_eq!(answer.status, 201);
}

#[test]
fn bytes_that_are_lost_are_not_there_and_the_next_push_heals_them() {
    let memory = Memory::default();
    let storage = Storage::new(memory.backend(), StorageOptions::default());
    let server = Running::start(move |options| options.storage = storage);
    let blob = vec![9; 300_000];
    let digest = Digest::sha256(&blob);
    let (push, pull) = (format!("/v2/a/blobs/uploads/?digest={digest}"), format!("/v2/a/blobs/{digest}"));
    assert_eq!(server.send("POST", &push, &blob).status, 201);
    for id in memory.data_ids() {
        memory.backend().data.delete(id).now_or_never().expect("memory does not wait").expect("gone");
    }
    for method in ["GET", "HEAD"] {
        assert_eq!(server.send(method, &pull, b"").status, 404, "{method}");
    }
    assert_eq!(server.send("POST", &push, &blob).status, 201);
    assert!(server.send("GET", &pull, b"").body == blob);
}

#[test]
fn a_large_blob_of_a_store_that_is_no_disk_comes_in_parts() {
    let storage = Storage::new(Memory::default().backend(), StorageOptions::default());
    let server = Running::start(move |options| options.storage = storage);
    let blob: Vec<u8> = (0..7_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let digest = Digest::sha256(&blob);
    let pull = format!("/v2/a/blobs/{digest}");
    assert_eq!(server.send("POST", &format!("/v2/a/blobs/uploads/?digest={digest}"), &blob).status, 201);
    assert!(server.send("GET", &pull, b"").body == blob);
    for (range, expected) in [
        ("bytes=1-26999999", &blob[1..27_000_000]),
        ("bytes=27999999-", &blob[27_999_999..]),
        ("bytes=5-8388612", &blob[5..8_388_613]),
        ("bytes=5-8388613", &blob[5..8_388_614]),
    ] {
        let answer = request(&server.addr, "GET", &pull, &[("range", range)], b"").expect("an answer");
        assert!(answer.status == 206 && answer.body == expected, "{range}");
    }
}
