//! `slipway pull`.

use std::io::{Read, Write};
use std::net::TcpListener;

use super::support::{Ran, TestEnv, run};

fn in_other_home(env: &TestEnv, arguments: &[&str]) -> Ran {
    run(env.command(arguments).env("SLIPWAY_HOME", env.path("other")))
}

#[test]
fn an_image_comes_back_as_it_was_pushed() {
    let env = TestEnv::with_busybox();
    let registry = env.registry();
    let name = format!("{}/bb:1", registry.address);
    env.slipway(["tag", "busybox", &name]).success();
    let pushed = env.slipway(["push", &name]).success();
    let stdout = in_other_home(&env, &["pull", &name]).success();
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines[0], "1: Pulling from bb");
    let digest = lines[1].strip_prefix("Digest: ").expect("a digest");
    assert!(pushed.contains(digest), "{pushed}");
    assert_eq!(lines[2], format!("Status: Downloaded newer image for {name}"));
    assert_eq!(lines[3], name);
    let again = in_other_home(&env, &["pull", &name]).success();
    assert!(again.contains("Status: Image is up to date"), "{again}");
    // Exactly these bytes.
    let pinned = format!("{}/bb@{digest}", registry.address);
    in_other_home(&env, &["pull", "-q", &pinned]).success();
    let ids = |home: &str| run(env.command(["images", "-q", &name]).env("SLIPWAY_HOME", env.path(home))).success();
    assert_eq!(ids("home"), ids("other"));
}

#[test]
fn what_a_registry_does_not_have_is_told() {
    let env = TestEnv::new();
    let registry = env.registry();
    let name = format!("{}/nosuch:1", registry.address);
    let stderr = env.slipway(["pull", &name]).failure(1);
    assert!(stderr.contains(&name) && stderr.contains("not found"), "{stderr}");
    assert!(stderr.contains("hint: check the name and the tag"), "{stderr}");
    assert!(env.slipway(["pull", "Bad Name"]).failure(2).contains("Bad Name"));
}

/// A registry of one image whose layer is not what its digest says, or breaks off.
fn liar(body: &'static [u8], claimed: usize) -> String {
    let layer = format!("sha256:{}", "1".repeat(64));
    let config = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["LAYER"]}}"#;
    let config = config.replace("LAYER", &layer);
    let digest = |text: &str| oci::Digest::sha256(text.as_bytes()).to_string();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len() },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": claimed }],
    })
    .to_string();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let count = stream.read(&mut request).unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..count]).into_owned();
            let path = request.split(' ').nth(1).unwrap_or_default();
            let (kind, bytes, length) = if path.contains("/manifests/") {
                ("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes(), manifest.len())
            } else if path.ends_with(&digest(&config)) {
                ("application/octet-stream", config.as_bytes(), config.len())
            } else if path.contains("/blobs/") {
                ("application/octet-stream", body, claimed)
            } else {
                ("text/plain", &b""[..], 0)
            };
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            );
            let body = if request.starts_with("HEAD") { &b""[..] } else { bytes };
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        }
    });
    address
}

#[test]
fn wrong_bytes_are_refused_and_nothing_is_kept() {
    let env = TestEnv::new();
    let address = liar(b"these are not the bytes", 23);
    let stderr = env.slipway(["pull", &format!("{address}/bb:1")]).failure(1);
    assert!(stderr.contains(&address) && stderr.contains("hash to"), "{stderr}");
    assert!(stderr.contains("hint: nothing of it was kept"), "{stderr}");
    assert_eq!(env.slipway(["images", "-q"]).success(), "");
}

#[test]
fn a_registry_that_hangs_up_is_told_of() {
    let env = TestEnv::new();
    let address = liar(b"half", 1000);
    let stderr = env.slipway(["pull", &format!("{address}/bb:1")]).failure(1);
    assert!(stderr.contains(&address) && (stderr.contains("hung up after") || stderr.contains("broke")), "{stderr}");
    assert_eq!(env.slipway(["images", "-q"]).success(), "");
}
