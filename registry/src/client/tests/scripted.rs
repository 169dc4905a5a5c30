//! A registry that does what a test tells it, on raw sockets; and a wire that breaks.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oci::Digest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::fixtures::Parts;

/// What a client asked.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) method: String,
    /// Path and query.
    pub(super) target: String,
    /// Names in lower case.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Asked {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn is(&self, method: &str, start: &str) -> bool {
        self.method == method && self.target.starts_with(start)
    }
}

/// Exactly these bytes, and then.
pub(super) struct Reply {
    bytes: Vec<u8>,
    then: Then,
}

#[derive(Clone, Copy)]
enum Then {
    GoOn,
    HangUp,
    Stall,
}

impl Reply {
    /// A whole answer.
    pub(super) fn new(status: u16, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let mut reply = Self::head(status, headers, &format!("content-length: {}\r\n", body.len()));
        reply.bytes.extend_from_slice(body);
        reply
    }

    /// An answer that announces `body`, but hangs up after some of it.
    pub(super) fn cut(status: u16, headers: &[(&str, &str)], body: &[u8], after: usize) -> Self {
        let mut reply = Self::head(status, headers, &format!("content-length: {}\r\n", body.len()));
        reply.bytes.extend_from_slice(&body[..after]);
        reply.then = Then::HangUp;
        reply
    }

    /// An answer that announces `body`, but stops after some of it without hanging up.
    pub(super) fn stalled(body: &[u8], after: usize) -> Self {
        Self { then: Then::Stall, ..Self::cut(200, &[], body, after) }
    }

    /// A whole answer that does not say how long it is.
    pub(super) fn chunked(body: &[u8]) -> Self {
        let mut reply = Self::head(200, &[], "transfer-encoding: chunked\r\n");
        for chunk in body.chunks(1000) {
            reply.bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            reply.bytes.extend_from_slice(chunk);
            reply.bytes.extend_from_slice(b"\r\n");
        }
        reply.bytes.extend_from_slice(b"0\r\n\r\n");
        reply
    }

    /// Bytes that need not be HTTP.
    pub(super) fn raw(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), then: Then::HangUp }
    }

    fn head(status: u16, headers: &[(&str, &str)], length: &str) -> Self {
        let mut text = format!("HTTP/1.1 {status} Scripted\r\n{length}");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        Self { bytes: text.into_bytes(), then: Then::GoOn }
    }
}

/// A server that runs as long as the test.
pub(super) struct Scripted {
    pub(super) host: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Scripted {
    /// Answers each request with what `script` makes of it.
    pub(super) async fn start(script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, script) = (asked.clone(), Arc::new(script));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, log.clone(), script.clone()));
            }
        });
        Self { host, asked, task }
    }

    /// Returns all requests so far.
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Returns the requests so far that look like this.
    pub(super) fn asked_for(&self, method: &str, start: &str) -> Vec<Asked> {
        self.asked().into_iter().filter(|asked| asked.is(method, start)).collect()
    }
}

async fn serve(
    mut stream: TcpStream,
    log: Arc<Mutex<Vec<Asked>>>,
    script: Arc<impl Fn(&Asked) -> Reply + Send + Sync + 'static>,
) {
    while let Some(asked) = read(&mut stream).await {
        log.lock().unwrap().push(asked.clone());
        let reply = script(&asked);
        let head_only = asked.method == "HEAD";
        let end = reply.bytes.windows(4).position(|four| four == b"\r\n\r\n").map_or(reply.bytes.len(), |at| at + 4);
        let bytes = if head_only { &reply.bytes[..end] } else { &reply.bytes[..] };
        if stream.write_all(bytes).await.is_err() {
            return;
        }
        match reply.then {
            Then::GoOn => {}
            Then::HangUp => return,
            Then::Stall => tokio::time::sleep(Duration::from_secs(60)).await,
        }
    }
}

async fn read(stream: &mut TcpStream) -> Option<Asked> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        if bytes[0] == 0x16 {
            // TLS: answered as Go's servers do.
            stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\nnot TLS").await.ok()?;
            return None;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: usize = length.map_or(0, |(_, value)| value.parse().unwrap());
    // A server need not read what it refuses.
    let length = if target.contains("/unread") { 0 } else { length };
    let mut body = bytes[end..].to_vec();
    while body.len() < length {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    Some(Asked { method, target, headers, body })
}

/// Answers as a registry that holds one image, ranges and all.
pub(super) fn honest(parts: &Parts, asked: &Asked) -> Reply {
    if asked.target == "/v2/" {
        return Reply::new(200, &[], "{}");
    }
    if asked.target.contains("/manifests/") {
        let digest = Digest::sha256(&parts.manifest).to_string();
        let headers = [("content-type", oci::media_type::OCI_MANIFEST), ("docker-content-digest", digest.as_str())];
        return Reply::new(200, &headers, &parts.manifest);
    }
    let mut blobs = parts.layers.iter().chain([&parts.config]);
    let Some(blob) = blobs.find(|blob| asked.target.ends_with(Digest::sha256(blob).hex())) else {
        return Reply::new(404, &[], r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown"}]}"#);
    };
    part(blob, asked)
}

/// Answers with a blob, or with the part of it that was asked for.
pub(super) fn part(blob: &[u8], asked: &Asked) -> Reply {
    match start_of(asked) {
        Some(start) => {
            let range = format!("bytes {start}-{}/{}", blob.len() - 1, blob.len());
            Reply::new(206, &[("content-range", &range)], &blob[start..])
        }
        None => Reply::new(200, &[], blob),
    }
}

/// Returns the offset from which on a client wants a blob.
pub(super) fn start_of(asked: &Asked) -> Option<usize> {
    asked.header("range").map(|range| range.strip_prefix("bytes=").unwrap().trim_end_matches('-').parse().unwrap())
}

/// A wire to another server. Each connection breaks after so many bytes from the client; those after, never.
pub(super) async fn breaking_wire(to: &str, cuts: Vec<usize>) -> String {
    let to: SocketAddr = to.parse().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut cuts = cuts.into_iter();
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut far = TcpStream::connect(to).await.unwrap();
            let cut = cuts.next();
            tokio::spawn(async move {
                let (near_read, mut near_write) = near.split();
                let (mut far_read, mut far_write) = far.split();
                let mut limited = near_read.take(cut.map_or(u64::MAX, |cut| cut as u64));
                // Whichever ends first ends the connection.
                tokio::select! {
                    _ = tokio::io::copy(&mut limited, &mut far_write) => {}
                    _ = tokio::io::copy(&mut far_read, &mut near_write) => {}
                }
            });
        }
    });
    host
}
