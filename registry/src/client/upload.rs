//! [`send`]: one blob from the store to a registry, carried on when the connection breaks.
//!
//! ```text
//! POST blobs/uploads/ ──► Location ──► PATCH bytes ──► PUT ?digest=      large blobs, as docker does
//!                            │             │ broke
//!                            │             └► GET Location ──► PATCH the rest
//!                            └────────► PUT ?digest= with the bytes      small ones
//! ```
//!
//! All that is left of a blob goes in one request, so a registry's `OCI-Chunk-Min-Length` is always met.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt as _};
use oci::Descriptor;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use reqwest::{Method, StatusCode, Url};
use tokio::sync::mpsc;

use super::request::{Body, Request, Response};
use super::session::{Backoff, Session};
use super::{RequestError, TransferEvents};

/// Up to how many bytes a blob goes in the closing request itself.
const SMALL: u64 = 1 << 20;
/// How much is read from disk at a time.
const CHUNK: u64 = 512 << 10;
/// How many chunks are read ahead of the network.
const CHUNKS_AHEAD: usize = 2;
/// For how many inactivity times a registry may think about a whole blob: some copy it to its place then.
const PATIENCE: u32 = 10;
/// How often an upload that the registry forgot is begun again.
const MAX_RESTARTS: u32 = 3;

/// A part of a file, from an offset to its end, as the body of a request.
#[derive(Clone)]
pub(super) struct FilePart {
    file: Arc<File>,
    offset: u64,
    end: u64,
}

impl FilePart {
    pub(super) fn len(&self) -> u64 {
        self.end - self.offset
    }

    /// Reads the part in a thread of its own, a little ahead, and counts what is taken.
    pub(super) fn stream(&self, counter: &Arc<AtomicU64>) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
        let part = self.clone();
        let failed = sender.clone();
        let reading = move || {
            let mut offset = part.offset;
            while offset < part.end {
                let length = CHUNK.min(part.end - offset);
                let mut chunk = vec![0; length as usize];
                let read = part.file.read_exact_at(&mut chunk, offset).map(|()| Bytes::from(chunk));
                let failed = read.is_err();
                // Nobody takes it any more when the request broke off.
                if sender.blocking_send(read).is_err() || failed {
                    return;
                }
                offset += length;
            }
        };
        if let Err(error) = std::thread::Builder::new().name("upload".into()).spawn(reading) {
            // There is room: nothing else was sent.
            let _ = failed.try_send(Err(error));
        }
        let counter = counter.clone();
        stream::unfold(receiver, async |mut receiver| receiver.recv().await.map(|chunk| (chunk, receiver))).inspect(
            move |chunk| {
                if let Ok(chunk) = chunk {
                    counter.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                }
            },
        )
    }
}

/// Sends a blob. `location` is of an upload that was begun already, by a mount that the registry did not take.
pub(super) async fn send(
    session: &Session,
    blob: &Descriptor,
    file: File,
    location: Option<Url>,
    events: &dyn TransferEvents,
) -> Result<(), RequestError> {
    let mut upload = Upload { session, blob, file: Arc::new(file), location, offset: 0, events };
    let mut backoff = Backoff::new(session.client.options());
    let mut restarts = 0;
    loop {
        let before = upload.offset;
        let resumed = upload.location.is_some();
        let Err(error) = upload.run().await else { return Ok(()) };
        let wait = match backoff.next(&error) {
            Some(wait) => wait,
            None if resumed && is_forgotten(&error) && restarts < MAX_RESTARTS => {
                restarts += 1;
                upload.location = None;
                session.client.options().first_wait
            }
            None => return Err(error),
        };
        events.retry(&blob.digest, wait, &error);
        tokio::time::sleep(wait).await;
        // Perhaps only the answer was lost.
        let head = session.attempt(&head(session, blob), &mut |_| {}).await;
        if head.is_ok_and(|response| response.status.is_success()) {
            return Ok(());
        }
        upload.find_offset().await;
        if upload.offset > before {
            backoff.progress();
        }
    }
}

/// Tells whether the repository has a blob.
pub(super) async fn exists(session: &Session, blob: &Descriptor) -> Result<bool, RequestError> {
    let request = head(session, blob);
    let response = session.send(&request).await?;
    match response.status {
        // Some registries refuse to say what they would not let be pulled; the upload will tell.
        StatusCode::NOT_FOUND | StatusCode::FORBIDDEN | StatusCode::METHOD_NOT_ALLOWED => Ok(false),
        _ => session.expect_success(&request, response).await.map(|_| true),
    }
}

fn head(session: &Session, blob: &Descriptor) -> Request {
    Request::new(Method::HEAD, session.url(&format!("blobs/{}", blob.digest)))
}

/// Returns where an upload goes on.
pub(super) fn next_location(session: &Session, response: &Response) -> Result<Url, RequestError> {
    let text = response.header(&LOCATION).ok_or_else(|| session.protocol("an upload has no Location"))?;
    let mut url = response.url.join(text).map_err(|_| session.protocol("the Location of an upload is not a URL"))?;
    let base = &session.registry.endpoint.base;
    // A registry that does not know of the TLS in front of it.
    if base.scheme() == "https" && url.scheme() == "http" && url.host_str() == base.host_str() {
        let port = url.port().filter(|port| *port != 80).or(base.port());
        let changed = url.set_scheme("https").and_then(|()| url.set_port(port));
        changed.map_err(|()| session.protocol("the Location of an upload is not HTTP"))?;
    }
    Ok(url)
}

/// Tells whether an error is what a registry says about an upload that it does not know, or sees otherwise.
fn is_forgotten(error: &RequestError) -> bool {
    match error {
        RequestError::NotFound { said, .. } => said.code != "NAME_UNKNOWN",
        RequestError::Status { status: 416, .. } => true,
        RequestError::Status { status: 400, said, .. } => said.code != "DIGEST_INVALID",
        _ => false,
    }
}

struct Upload<'a> {
    session: &'a Session,
    blob: &'a Descriptor,
    file: Arc<File>,
    location: Option<Url>,
    /// How much the registry has.
    offset: u64,
    events: &'a dyn TransferEvents,
}

impl Upload<'_> {
    async fn run(&mut self) -> Result<(), RequestError> {
        let location = match self.location.take() {
            Some(location) => location,
            None => {
                self.offset = 0;
                let request = Request::new(Method::POST, self.session.url("blobs/uploads/"));
                let response = self.session.attempt(&request, &mut |_| {}).await?;
                next_location(self.session, &self.session.expect_success(&request, response).await?)?
            }
        };
        // From here on the upload may be worth resuming.
        self.location = Some(location.clone());
        if self.offset == 0 && self.blob.size <= SMALL {
            return self.close(location, self.rest()).await;
        }
        let mut location = location;
        while self.offset < self.blob.size {
            location = self.patch(location).await?;
            self.location = Some(location.clone());
        }
        self.close(location, Body::None).await
    }

    fn rest(&self) -> Body {
        Body::File(FilePart { file: self.file.clone(), offset: self.offset, end: self.blob.size })
    }

    /// Sends all that the registry lacks.
    async fn patch(&mut self, location: Url) -> Result<Url, RequestError> {
        let mut request =
            Request::new(Method::PATCH, location).header(CONTENT_TYPE, "application/octet-stream").body(self.rest());
        request.patience = PATIENCE;
        if self.offset > 0 {
            request = request.header(CONTENT_RANGE, &format!("{}-{}", self.offset, self.blob.size - 1));
        }
        let response = self.transfer(&request).await?;
        let next = match response.header(&LOCATION) {
            Some(_) => next_location(self.session, &response)?,
            None => request.url,
        };
        let taken = response.header(&RANGE).and_then(end_of_range).unwrap_or(self.blob.size);
        if taken <= self.offset || taken > self.blob.size {
            return Err(self.session.protocol(format!("after an upload it has {taken} bytes of {}", self.blob.size)));
        }
        self.offset = taken;
        Ok(next)
    }

    /// Ends the upload: the registry compares the digest.
    async fn close(&self, mut location: Url, body: Body) -> Result<(), RequestError> {
        location.query_pairs_mut().append_pair("digest", &self.blob.digest.to_string());
        let mut request =
            Request::new(Method::PUT, location).header(CONTENT_TYPE, "application/octet-stream").body(body);
        request.patience = PATIENCE;
        self.transfer(&request).await.map(drop)
    }

    async fn transfer(&self, request: &Request) -> Result<Response, RequestError> {
        let report = |sent| self.events.progress(&self.blob.digest, self.offset + sent, self.blob.size);
        let mut last = None;
        let response = self
            .session
            .attempt(request, &mut |sent| {
                if last.replace(sent) != Some(sent) && sent > 0 {
                    report(sent);
                }
            })
            .await?;
        self.session.expect_success(request, response).await
    }

    /// Asks how much of a broken upload has arrived. If the registry does not say, the upload starts anew.
    async fn find_offset(&mut self) {
        let Some(location) = self.location.take() else { return };
        let request = Request::new(Method::GET, location);
        let Ok(response) = self.session.attempt(&request, &mut |_| {}).await else { return };
        if !matches!(response.status, StatusCode::NO_CONTENT | StatusCode::OK | StatusCode::ACCEPTED) {
            return;
        }
        // `0-0` is what registries say of nothing as well as of one byte; of one byte, nothing is lost.
        let taken = response.header(&RANGE).and_then(end_of_range).filter(|taken| *taken > 1).unwrap_or(0);
        if taken > self.blob.size {
            return;
        }
        self.offset = taken;
        let next = response.header(&LOCATION).map(|_| next_location(self.session, &response));
        self.location = Some(next.and_then(Result::ok).unwrap_or(request.url));
    }
}

/// Reads the number of bytes out of `0-N` or `bytes=0-N`.
fn end_of_range(text: &str) -> Option<u64> {
    let text = text.trim();
    let range = text.strip_prefix("bytes=").unwrap_or(text);
    let (start, end) = range.split_once('-')?;
    (start == "0").then(|| end.parse::<u64>().ok()?.checked_add(1)).flatten()
}
