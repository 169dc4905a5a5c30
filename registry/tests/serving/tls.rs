//! TLS: what is spoken with a certificate, and how a renewed one comes into use.

#![expect(clippy::disallowed_methods, reason = "certificates are made by openssl, and written as anybody would")]

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use oci::Digest;
use registry::server::{Events, ServeError, ServeEvent, ServeOptions, Server, TlsFiles};
use reqwest::{Certificate, Client, Version};

use crate::kept;
use crate::running::Running;

/// Makes a certificate for 127.0.0.1 and its key in a folder, in place of those that are there.
fn certify(folder: &Path) {
    let config = "[req]\ndistinguished_name=name\nprompt=no\nx509_extensions=extensions\n[name]\nCN=registry\n\
                  [extensions]\nsubjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n";
    std::fs::write(folder.join("openssl.cnf"), config).expect("written");
    let arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -config openssl.cnf \
                     -keyout new-key -out new-cert";
    let mut command = Command::new("openssl");
    let made = command.args(arguments.split_whitespace()).current_dir(folder).stderr(Stdio::null()).status();
    assert!(made.expect("openssl is installed").success());
    for name in ["cert", "key"] {
        std::fs::rename(folder.join(format!("new-{name}")), folder.join(name)).expect("renamed");
    }
}

fn files(folder: &Path) -> TlsFiles {
    TlsFiles { cert: folder.join("cert"), key: folder.join("key") }
}

/// A client that believes the certificate that is in the folder now, and no other.
fn client(folder: &Path) -> Client {
    let pem = std::fs::read(folder.join("cert")).expect("readable");
    let builder = Client::builder().tls_certs_only([Certificate::from_pem(&pem).expect("a certificate")]);
    // A connection for each request: each is to shake hands.
    builder.pool_max_idle_per_host(0).build().expect("a client")
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(future)
}

fn start(folder: &Path) -> (Running, Receiver<ServeEvent>, Arc<tokio::sync::Notify>) {
    let (tell, told) = channel();
    let (reload, files) = (Arc::<tokio::sync::Notify>::default(), files(folder));
    let notify = reload.clone();
    let server = Running::start(move |options| {
        options.tls = Some(files);
        options.reload = notify;
        options.events = Events::to(move |event| {
            if matches!(event, ServeEvent::TlsReloaded | ServeEvent::TlsKept { .. }) {
                tell.send(event).expect("heard");
            }
        });
    });
    (server, told, reload)
}

#[test]
fn blobs_go_in_and_out_over_both_versions_of_http() {
    let folder = tempfile::tempdir().expect("tempdir");
    certify(folder.path());
    let (server, ..) = start(folder.path());
    let bytes: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let url = format!("https://{}/v2/a/blobs", server.addr);
    block_on(async {
        let pem = std::fs::read(folder.path().join("cert")).expect("readable");
        let builder = || Client::builder().tls_certs_only([Certificate::from_pem(&pem).expect("a certificate")]);
        let clients = [(builder().http1_only(), Version::HTTP_11), (builder(), Version::HTTP_2)];
        for (builder, version) in clients {
            let client = builder.build().expect("a client");
            let digest = Digest::sha256(&bytes);
            let pushed = client.post(format!("{url}/uploads/?digest={digest}")).body(bytes.clone()).send().await;
            let pushed = pushed.expect("an answer");
            assert_eq!((pushed.status().as_u16(), pushed.version()), (201, version));
            let pulled = client.get(format!("{url}/{digest}")).send().await.expect("an answer");
            assert!(pulled.bytes().await.expect("a body") == bytes);
        }
    });
}

#[test]
fn plain_http_is_told_what_is_spoken() {
    let folder = tempfile::tempdir().expect("tempdir");
    certify(folder.path());
    let (server, ..) = start(folder.path());
    let answer = server.send("GET", "/v2/", b"");
    assert_eq!(answer.status, 400);
    assert!(String::from_utf8_lossy(&answer.body).contains("https"), "{answer:?}");
    // Neither does half a handshake hold anything up.
    let mut stream = TcpStream::connect(&server.addr).expect("connected");
    stream.write_all(b"\x16\x03\x01").expect("sent");
    stream.shutdown(Shutdown::Write).expect("closed");
    let reachable = block_on(client(folder.path()).get(format!("https://{}/v2/", server.addr)).send());
    assert_eq!(reachable.expect("an answer").status(), 200);
}

#[test]
fn who_shakes_hands_and_says_nothing_is_let_go() {
    let folder = tempfile::tempdir().expect("tempdir");
    certify(folder.path());
    let files = files(folder.path());
    let server = Running::start(move |options| {
        options.tls = Some(files);
        options.limits.inactivity = Duration::from_secs(2);
    });
    for protocol in ["http/1.1", "h2"] {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-quiet", "-alpn", protocol, "-connect", &server.addr]);
        let mut client =
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started");
        let silent = client.stdin.take();
        // It ends when the server closes the connection.
        let ended = (0..6000).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            client.try_wait().expect("ours").is_some()
        });
        client.kill().expect("ours");
        assert!(ended, "{protocol}");
        drop(silent);
    }
}

#[test]
fn a_renewed_certificate_is_used_and_connections_go_on() {
    let folder = tempfile::tempdir().expect("tempdir");
    certify(folder.path());
    let (server, told, reload) = start(folder.path());
    let url = format!("https://{}/v2/", server.addr);
    let old = client(folder.path());
    let pem = std::fs::read(folder.path().join("cert")).expect("readable");
    let kept = Client::builder().tls_certs_only([Certificate::from_pem(&pem).expect("a certificate")]);
    let kept = kept.build().expect("a client");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let status = |client: &Client| {
        let (request, url) = (client.clone(), url.clone());
        runtime.block_on(async move { request.get(url).send().await.map(|answer| answer.status().as_u16()) })
    };
    assert_eq!(status(&kept).expect("an answer"), 200);
    assert_eq!(status(&old).expect("an answer"), 200);
    // Seen without being told.
    certify(folder.path());
    loop {
        // A look between the two renames finds a pair that does not fit, and keeps what it has.
        match told.recv_timeout(Duration::from_secs(120)).expect("an event") {
            ServeEvent::TlsReloaded => break,
            other => assert!(matches!(other, ServeEvent::TlsKept { .. }), "{other:?}"),
        }
    }
    assert!(status(&old).is_err(), "the old certificate is still shown");
    assert_eq!(status(&client(folder.path())).expect("an answer"), 200);
    assert_eq!(status(&kept).expect("the connection is still there"), 200);
    // What is of no use leaves what was there.
    std::fs::write(folder.path().join("key"), "no key").expect("written");
    reload.notify_one();
    let event = told.recv_timeout(Duration::from_secs(120)).expect("an event");
    assert!(matches!(&event, ServeEvent::TlsKept { error } if error.contains("key")), "{event:?}");
    assert_eq!(status(&client(folder.path())).expect("an answer"), 200);
}

#[test]
fn files_that_are_of_no_use_are_named() {
    let folder = tempfile::tempdir().expect("tempdir");
    let other = tempfile::tempdir().expect("tempdir");
    certify(folder.path());
    certify(other.path());
    std::fs::write(folder.path().join("empty"), "").expect("written");
    std::fs::write(folder.path().join("torn"), "-----BEGIN CERTIFICATE-----\nxx").expect("written");
    let path = |name: &str| folder.path().join(name);
    let cases = [
        (path("missing"), path("key"), "cannot read"),
        (path("cert"), path("missing"), "cannot read"),
        (path("empty"), path("key"), "no certificate"),
        (path("key"), path("key"), "no certificate"),
        (path("torn"), path("key"), "not PEM"),
        (path("cert"), path("cert"), "no private key"),
        (path("cert"), other.path().join("key"), "cannot be used with the key"),
    ];
    for (cert, key, expected) in cases {
        let home = tempfile::tempdir().expect("tempdir");
        let mut options = ServeOptions::new(kept::open(home.path()), ([127, 0, 0, 1], 0).into());
        options.tls = Some(TlsFiles { cert: cert.clone(), key: key.clone() });
        let error = block_on(Server::bind(options)).expect_err("no use");
        let ServeError::Tls(error) = error else { panic!("{error:?}") };
        assert!(error.to_string().contains(expected), "{error}");
    }
}
