//! Servers with other options than the usual, TLS among them, and how a server stops.

#[path = "serving/faults.rs"]
mod faults;
#[path = "http/mod.rs"]
mod http;
#[path = "kept/mod.rs"]
mod kept;
#[path = "serving/running.rs"]
mod running;
#[path = "serving/tls.rs"]
mod tls;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use oci::{Digest, media_type};
use registry::server::Permissions;

use http::{connect, path_of, read_answer, request};
use running::Running;

#[test]
fn a_registry_to_read_refuses_every_way_to_change_it() {
    let writable = Running::start(|_| {});
    let digest = Digest::sha256(b"blob");
    let pushed = writable.send("POST", &format!("/v2/a/blobs/uploads/?digest={digest}"), b"blob");
    assert_eq!(pushed.status, 201);
    let upload = path_of(&writable.send("POST", "/v2/a/blobs/uploads/", b"").location());
    let (_, home) = writable.stop();
    let readable = Running::start_in(home, |options| {
        options.permissions = Permissions { push: false, delete: false };
    });
    assert_eq!(readable.send("GET", &format!("/v2/a/blobs/{digest}"), b"").body, b"blob");
    let changes = [
        ("POST", "/v2/a/blobs/uploads/".to_owned()),
        ("POST", format!("/v2/a/blobs/uploads/?digest={digest}")),
        ("POST", format!("/v2/b/blobs/uploads/?mount={digest}&from=a")),
        ("PATCH", upload.clone()),
        ("PUT", format!("{upload}?digest={digest}")),
        ("DELETE", upload),
        ("PUT", "/v2/a/manifests/v1".into()),
        ("PUT", format!("/v2/a/manifests/{digest}?tag=v1")),
        ("DELETE", "/v2/a/manifests/v1".into()),
        ("DELETE", format!("/v2/a/manifests/{digest}")),
        ("DELETE", format!("/v2/a/blobs/{digest}")),
    ];
    for (method, path) in changes {
        let answer = readable.send(method, &path, b"");
        assert_eq!(answer.status, 405, "{method} {path}");
        assert!(String::from_utf8_lossy(&answer.body).contains("UNSUPPORTED"));
    }
}

#[test]
fn a_sparse_registry_takes_images_before_their_layers() {
    let image = r#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0},"layers":[]}"#;
    for (sparse, status) in [(false, 404), (true, 201)] {
        let server = Running::start(move |options| options.sparse = sparse);
        let length = image.len().to_string();
        let headers = [("content-length", length.as_str()), ("content-type", media_type::OCI_MANIFEST)];
        let answer = request(&server.addr, "PUT", "/v2/a/manifests/v1", &headers, image.as_bytes());
        assert_eq!(answer.expect("an answer").status, status);
    }
}

/// Begins to add `abcd` to an upload, and returns when the server waits for the bytes.
fn begin_patch(server: &Running, url: &str) -> TcpStream {
    let mut stream = connect(&server.addr).expect("connected");
    let head = format!(
        "PATCH {url} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("sent");
    let mut answer = [0; 25];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"ab").expect("sent");
    stream
}

#[test]
fn stopping_waits_for_requests_but_not_for_idle_connections() {
    let server = Running::start(|options| options.limits.grace = Duration::from_secs(600));
    let mut idle = TcpStream::connect(&server.addr).expect("connected");
    idle.write_all(b"GET /v2/ HTTP/1.1\r\nhost: x\r\n\r\n").expect("sent");
    assert!(idle.read(&mut [0; 1024]).expect("read") > 0);
    let url = server.send("POST", "/v2/a/blobs/uploads/", b"").location();
    let mut busy = begin_patch(&server, &url);
    let rest = std::thread::spawn(move || {
        // The server is stopping when it closes what is idle, and only then the request goes on.
        idle.read_to_end(&mut Vec::new()).expect("closed");
        busy.write_all(b"cd").expect("sent");
        read_answer(&mut busy, false).expect("an answer").status
    });
    server.stop();
    assert_eq!(rest.join().expect("sent"), 202);
}

#[test]
fn stopping_does_not_wait_forever_for_a_stalled_request() {
    let server = Running::start(|options| {
        options.limits.grace = Duration::from_millis(200);
        options.limits.inactivity = Duration::from_secs(3600);
    });
    let url = server.send("POST", "/v2/a/blobs/uploads/", b"").location();
    let stalled = begin_patch(&server, &url);
    assert!(server.stop().0 < Duration::from_secs(600));
    drop(stalled);
}

#[test]
fn a_client_that_comes_back_need_not_wait_for_its_old_connection() {
    let server = Running::start(|options| options.limits.inactivity = Duration::from_secs(3600));
    let url = server.send("POST", "/v2/a/blobs/uploads/", b"").location();
    let mut old = begin_patch(&server, &url);
    let headers = [("content-length", "4"), ("content-range", "0-3")];
    // The server would wait an hour for the old one.
    assert_eq!(request(&server.addr, "PATCH", &url, &headers, b"0123").expect("an answer").status, 202);
    assert_eq!(read_answer(&mut old, false).expect("an answer").status, 409);
    let url = format!("{url}?digest={}", Digest::sha256(b"0123"));
    assert_eq!(server.send("PUT", &url, b"").status, 201);
}

#[test]
fn connections_beyond_the_limit_wait_for_their_turn() {
    let server = Running::start(|options| options.limits.connections = 2);
    let held: Vec<TcpStream> = (0..2).map(|_| TcpStream::connect(&server.addr).expect("connected")).collect();
    std::thread::sleep(Duration::from_millis(100));
    let addr = server.addr.clone();
    let waiting = std::thread::spawn(move || request(&addr, "GET", "/v2/", &[], b"").expect("an answer").status);
    std::thread::sleep(Duration::from_millis(200));
    assert!(!waiting.is_finished());
    drop(held);
    assert_eq!(waiting.join().expect("answered"), 200);
}

#[test]
fn one_listener_speaks_http_2_too() {
    let server = Running::start(|_| {});
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = reqwest::Client::builder().http2_prior_knowledge().build().expect("a client");
        let bytes: Vec<u8> = (0..800_000_u32).flat_map(u32::to_le_bytes).collect();
        let digest = Digest::sha256(&bytes);
        let url = format!("http://{}/v2/a/blobs", server.addr);
        let answer = client.post(format!("{url}/uploads/?digest={digest}")).body(bytes.clone()).send().await;
        assert_eq!(answer.expect("an answer").status(), 201);
        let answer = client.get(format!("{url}/{digest}")).send().await.expect("an answer");
        assert_eq!(answer.version(), reqwest::Version::HTTP_2);
        assert!(answer.bytes().await.expect("a body") == bytes);
    });
}

#[test]
fn only_a_trusted_proxy_says_where_clients_see_us() {
    let digest = Digest::sha256(b"blob");
    let headers = [
        ("content-length", "4"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "registry.example"),
        ("x-forwarded-prefix", "/images"),
    ];
    for (trusted, expected) in [("127.0.0.0/8", "https://registry.example/images/v2/a/"), ("10.0.0.0/8", "/v2/a/")] {
        let server = Running::start(move |options| options.trusted_proxies = vec![trusted.parse().expect("a net")]);
        let url = format!("/v2/a/blobs/uploads/?digest={digest}");
        let answer = request(&server.addr, "POST", &url, &headers, b"blob").expect("an answer");
        assert_eq!(answer.header("location"), Some(format!("{expected}blobs/{digest}").as_str()));
        let answer = request(&server.addr, "POST", "/v2/a/blobs/uploads/", &headers, b"blob").expect("an answer");
        assert!(answer.header("location").is_some_and(|url| url.starts_with(expected)), "{answer:?}");
    }
}

#[test]
fn those_who_watch_servers_are_told_how_it_is() {
    let server = Running::start(|options| options.permissions = Permissions { push: false, delete: false });
    for path in ["/healthz", "/livez", "/readyz"] {
        let answer = server.send("GET", path, b"");
        assert_eq!(answer.status, 200, "{path}");
        assert!(String::from_utf8_lossy(&answer.body).contains("\"status\":\"ok\""), "{answer:?}");
        assert_eq!(server.send("POST", path, b"").status, 405, "{path}");
    }
}

#[test]
fn a_client_of_a_mirror_is_told_whose_content_it_gets() {
    let server = Running::start(|_| {});
    let answer = server.send("GET", "/v2/a/manifests/latest?ns=docker.io", b"");
    assert_eq!((answer.status, answer.header("oci-namespace")), (404, Some("docker.io")));
    assert_eq!(server.send("GET", "/v2/a/manifests/latest", b"").header("oci-namespace"), None);
}

#[test]
fn longer_manifests_are_a_setting() {
    let server = Running::start(|options| options.limits.manifest_bytes = 10 << 20);
    let manifests = |bytes: usize| {
        let index = r#"{"schemaVersion":2,"manifests":[],"x":"_"}"#;
        index.replace('_', &"y".repeat(bytes)).into_bytes()
    };
    let put = |bytes: &[u8]| {
        let length = bytes.len().to_string();
        let headers = [("content-length", length.as_str()), ("content-type", media_type::OCI_INDEX)];
        request(&server.addr, "PUT", "/v2/a/manifests/v1", &headers, bytes).expect("an answer").status
    };
    assert_eq!(put(&manifests(9 << 20)), 201);
    assert_eq!(put(&manifests(10 << 20)), 413);
    assert_eq!(server.send("GET", "/v2/a/manifests/v1", b"").body.len(), manifests(9 << 20).len());
}
