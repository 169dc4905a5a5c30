//! The registry under test, and what the tests ask of it.

use std::net::{SocketAddr, TcpStream};
use std::sync::OnceLock;
use std::time::Duration;

use oci::{Descriptor, Digest, Manifest, media_type};
use registry::server::{ServeOptions, Server};

pub(crate) use crate::http::{Answer, path_of};
use crate::{http, kept};

/// An OCI image manifest.
pub(crate) const IMAGE: &str = media_type::OCI_MANIFEST;
/// An OCI index.
pub(crate) const INDEX: &str = media_type::OCI_INDEX;

static OURS: OnceLock<SocketAddr> = OnceLock::new();

/// Returns the address of the registry under test.
pub(crate) fn addr() -> String {
    match std::env::var("REGISTRY_CONFORMANCE") {
        Ok(addr) => addr,
        Err(_) => OURS.get_or_init(start_ours).to_string(),
    }
}

/// Tells whether the registry under test is ours, and says that a test is left out if it is not.
pub(crate) fn is_ours() -> bool {
    let ours = std::env::var_os("REGISTRY_CONFORMANCE").is_none();
    if !ours {
        eprintln!("skipped: only our registry promises this");
    }
    ours
}

fn start_ours() -> SocketAddr {
    let home = tempfile::tempdir().expect("tempdir").keep();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let mut options = ServeOptions::new(kept::open(&home), ([127, 0, 0, 1], 0).into());
            options.limits.inactivity = Duration::from_secs(2);
            let server = Server::bind(options).await.expect("listening");
            tell.send(server.local_addr()).expect("heard");
            server.run(std::future::pending()).await;
        });
    });
    told.recv().expect("an address")
}

impl Answer {
    /// Returns all headers of a name.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
    }

    /// Returns the body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// Checks the status, and that an error has the shape and one of the codes of the specification.
    #[track_caller]
    pub(crate) fn refused(&self, statuses: &[u16], codes: &[&str]) {
        assert!(statuses.contains(&self.status), "{self:?}");
        // HEAD has no body, and a registry need not say more than the status.
        let Ok(json) = serde_json::from_slice::<serde_json::Value>(&self.body) else { return };
        let code = json["errors"][0]["code"].as_str().unwrap_or_default();
        assert!(codes.contains(&code), "{json}");
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{:?} {}", self.headers, String::from_utf8_lossy(&self.body));
        self
    }
}

/// Adds a parameter to a URL that may already have some.
pub(crate) fn with(url: &str, parameter: &str) -> String {
    format!("{url}{}{parameter}", if url.contains('?') { '&' } else { '?' })
}

/// Sends a request whose length is announced.
pub(crate) fn send(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let length = body.len().to_string();
    let mut all = headers.to_vec();
    if path.contains("/manifests/") && matches!(method, "GET" | "HEAD") {
        // A registry may convert what a client does not say it takes.
        all.extend([("accept", IMAGE), ("accept", INDEX)]);
    }
    if !matches!(method, "GET" | "HEAD" | "DELETE") {
        all.push(("content-length", &length));
    }
    raw(method, path, &all, body)
}

/// Sends a request in chunks, without announcing a length.
pub(crate) fn send_chunked(method: &str, path: &str, chunks: &[&[u8]]) -> Answer {
    let mut body = Vec::new();
    for chunk in chunks {
        body.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        body.extend_from_slice(chunk);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"0\r\n\r\n");
    raw(method, path, &[("transfer-encoding", "chunked")], &body)
}

/// Sends exactly these headers and bytes.
pub(crate) fn raw(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    http::request(&addr(), method, path, headers, body).expect("an answer")
}

pub(crate) fn connect() -> TcpStream {
    http::connect(&addr()).expect("connected")
}

pub(crate) fn read_answer(stream: &mut TcpStream, head: bool) -> Answer {
    http::read_answer(stream, head).expect("an answer")
}

pub(crate) fn get(path: &str) -> Answer {
    send("GET", path, &[], &[])
}

pub(crate) fn head(path: &str) -> Answer {
    send("HEAD", path, &[], &[])
}

pub(crate) fn delete(path: &str) -> Answer {
    send("DELETE", path, &[], &[])
}

/// Starts an upload and returns its location.
pub(crate) fn start(repository: &str) -> String {
    send("POST", &format!("/v2/{repository}/blobs/uploads/"), &[], &[]).expect(202).location()
}

/// Pushes a blob by POST and PUT.
pub(crate) fn push_blob(repository: &str, bytes: &[u8]) -> Digest {
    let digest = Digest::sha256(bytes);
    let url = with(&start(repository), &format!("digest={digest}"));
    send("PUT", &url, &[("content-type", "application/octet-stream")], bytes).expect(201);
    digest
}

/// Pushes a config and a layer, and returns a manifest that names them.
pub(crate) fn image(repository: &str, seed: &str) -> Manifest {
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","seed":"{seed}","rootfs":{{"type":"layers","diff_ids":[]}}}}"#
    );
    let layer = format!("layer of {seed}");
    push_blob(repository, config.as_bytes());
    push_blob(repository, layer.as_bytes());
    let config = Descriptor::of(media_type::OCI_CONFIG, config.as_bytes());
    Manifest::new(config, vec![Descriptor::of(media_type::OCI_LAYER, layer.as_bytes())])
}

/// Writes a manifest or index.
pub(crate) fn written<T: serde::Serialize>(manifest: &T) -> Vec<u8> {
    serde_json::to_vec(manifest).expect("JSON")
}

pub(crate) fn put_manifest(repository: &str, reference: &str, media_type: &str, bytes: &[u8]) -> Answer {
    send("PUT", &format!("/v2/{repository}/manifests/{reference}"), &[("content-type", media_type)], bytes)
}

/// Pushes an image under a tag and returns its digest.
pub(crate) fn push_image(repository: &str, seed: &str, tag: &str) -> Digest {
    let bytes = written(&image(repository, seed));
    put_manifest(repository, tag, IMAGE, &bytes).expect(201);
    Digest::sha256(&bytes)
}
