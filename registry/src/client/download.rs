//! [`fetch`]: one blob from a registry into the store, carried on when the connection breaks.

use std::io::Write as _;

use bytes::Bytes;
use oci::{Descriptor, Digest, media_type};
use reqwest::header::{CONTENT_RANGE, RANGE};
use reqwest::{Method, StatusCode, Url};
use store::{BlobError, BlobWriter, FileError, Store};
use tokio::sync::{mpsc, oneshot};

use super::request::{Request, Response};
use super::session::{Backoff, Session};
use super::{BlobState, PullError, RequestError, TransferEvents};

/// How many chunks, of some 100 KiB, wait for the disk.
const CHUNKS_AHEAD: usize = 8;

/// Fetches a blob, and commits it when its length and its digest are right.
///
/// What a broken try brought is kept in the store and not fetched again, neither now nor by a later process. Bytes
/// that turn out wrong are thrown away, and the blob is fetched once more from its start before that is an error.
pub(super) async fn fetch(
    session: &Session,
    store: &Store,
    blob: &Descriptor,
    events: &dyn TransferEvents,
) -> Result<(), PullError> {
    let digest = &blob.digest;
    let keep = |source| PullError::Store { digest: digest.clone(), source };
    let mut sources = sources(session, blob);
    let mut backoff = Backoff::new(session.client.options());
    let mut again = true;
    loop {
        let mut sink = Sink::open(store, digest).await.map_err(keep)?;
        if sink.offset > blob.size {
            // Left by a try for a descriptor that lied. These bytes cannot have our digest: committing discards them.
            sink.commit().await.map(drop).or_else(|error| mismatch(error).map(drop).map_err(keep))?;
            sink = Sink::open(store, digest).await.map_err(keep)?;
        }
        events.state(digest, &BlobState::Downloading);
        events.progress(digest, sink.offset, blob.size);
        while sink.offset < blob.size {
            let before = sink.offset;
            let Err(error) = transfer(session, &sources[0], blob, &mut sink, events).await else { break };
            if sink.offset > before {
                backoff.progress();
            }
            match error {
                PullError::Request(error) => match backoff.next(&error) {
                    Some(wait) => {
                        events.retry(digest, wait, &error);
                        tokio::time::sleep(wait).await;
                    }
                    None if sources.len() > 1 => drop(sources.remove(0)),
                    None => return Err(error.into()),
                },
                error => return Err(error),
            }
        }
        events.state(digest, &BlobState::Verifying);
        match sink.commit().await {
            Ok(()) => {
                events.state(digest, &BlobState::DownloadComplete);
                return Ok(());
            }
            Err(error) => {
                let actual = mismatch(error).map_err(keep)?;
                if !std::mem::take(&mut again) {
                    let registry = session.registry.name.clone();
                    return Err(PullError::BlobDigest { registry, expected: digest.clone(), actual });
                }
            }
        }
    }
}

/// Takes the digest out of a mismatch.
fn mismatch(error: BlobError) -> Result<Digest, BlobError> {
    match error {
        BlobError::DigestMismatch { actual, .. } => Ok(actual),
        other => Err(other),
    }
}

/// Lists where a blob may be had: foreign layers elsewhere first, without credentials.
fn sources(session: &Session, blob: &Descriptor) -> Vec<Url> {
    let foreign = blob.urls.iter().filter(|_| media_type::is_nondistributable(&blob.media_type));
    let foreign = foreign.filter_map(|url| Url::parse(url).ok()).filter(|url| matches!(url.scheme(), "http" | "https"));
    foreign.chain([session.url(&format!("blobs/{}", blob.digest))]).collect()
}

/// Fetches what is missing of a blob, in one request.
async fn transfer(
    session: &Session,
    source: &Url,
    blob: &Descriptor,
    sink: &mut Sink,
    events: &dyn TransferEvents,
) -> Result<(), PullError> {
    let mut request = Request::new(Method::GET, source.clone());
    if sink.offset > 0 {
        request = request.header(RANGE, &format!("bytes={}-", sink.offset));
    }
    let response = session.attempt(&request, &mut |_| {}).await?;
    let mut response = session.expect_success(&request, response).await?;
    let start = start(&response).ok_or_else(|| session.protocol("it sent another part of the blob than asked for"))?;
    if start > sink.offset {
        return Err(session.protocol("it sent a later part of the blob than asked for").into());
    }
    let wrong_size = |actual| PullError::BlobSize {
        registry: session.registry.name.clone(),
        digest: blob.digest.clone(),
        expected: blob.size,
        actual,
    };
    if let Some(actual) = response.content_length().map(|length| start.saturating_add(length))
        && actual != blob.size
    {
        return Err(wrong_size(actual));
    }
    // A server without ranges sends again what is here already.
    let mut skip = sink.offset - start;
    while let Some(mut chunk) = response.chunk().await? {
        let known = skip.min(chunk.len() as u64);
        skip -= known;
        // `known` is at most the length of a chunk.
        let fresh = chunk.split_off(known as usize);
        if fresh.is_empty() {
            continue;
        }
        let offset = sink.offset + fresh.len() as u64;
        if offset > blob.size {
            return Err(wrong_size(offset));
        }
        sink.write(fresh).await.map_err(|source| PullError::Store { digest: blob.digest.clone(), source })?;
        events.progress(&blob.digest, offset, blob.size);
    }
    if sink.offset < blob.size {
        return Err(PullError::Request(RequestError::HungUp {
            registry: session.registry.name.clone(),
            digest: blob.digest.clone(),
            done: sink.offset,
            total: blob.size,
        }));
    }
    Ok(())
}

/// Returns the offset in the blob at which an answer starts.
fn start(response: &Response) -> Option<u64> {
    if response.status != StatusCode::PARTIAL_CONTENT {
        return Some(0);
    }
    let range = response.header(&CONTENT_RANGE)?.trim().strip_prefix("bytes")?.trim_start();
    range.split_once('-')?.0.parse().ok()
}

/// A thread that writes a blob. It waits for a network, so it is none of the store's bounded ones.
struct Sink {
    steps: mpsc::Sender<Step>,
    outcome: oneshot::Receiver<Result<(), BlobError>>,
    offset: u64,
}

enum Step {
    Bytes(Bytes),
    Commit,
}

impl Sink {
    async fn open(store: &Store, digest: &Digest) -> Result<Self, BlobError> {
        let (blobs, expected) = (store.blobs().clone(), digest.clone());
        // This hashes what an earlier try left.
        let writer = store::blocking::run(move || blobs.begin_resumable(&expected)).await?;
        let offset = writer.offset();
        let (steps, receiver) = mpsc::channel(CHUNKS_AHEAD);
        let (sender, outcome) = oneshot::channel();
        let expected = digest.clone();
        let writing = move || {
            // Nobody listens any more when the pull was given up.
            let _ = sender.send(write(writer, receiver, &expected));
        };
        std::thread::Builder::new()
            .name("download".into())
            .spawn(writing)
            .map_err(|error| FileError::new("start a thread that writes", &store.layout().partial(digest), error))?;
        Ok(Self { steps, outcome, offset })
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        let count = bytes.len() as u64;
        if self.steps.send(Step::Bytes(bytes)).await.is_err() {
            return Err(self.failure().await);
        }
        self.offset += count;
        Ok(())
    }

    async fn commit(mut self) -> Result<(), BlobError> {
        if self.steps.send(Step::Commit).await.is_err() {
            return Err(self.failure().await);
        }
        (&mut self.outcome).await.expect("the writing thread does not panic")
    }

    async fn failure(&mut self) -> BlobError {
        let outcome = (&mut self.outcome).await.expect("the writing thread does not panic");
        outcome.expect_err("the writing thread ends early only when it fails")
    }
}

/// Writes until told to commit. When the other end is dropped instead, what was written stays for the next try.
fn write(mut writer: BlobWriter, mut steps: mpsc::Receiver<Step>, expected: &Digest) -> Result<(), BlobError> {
    while let Some(step) = steps.blocking_recv() {
        match step {
            Step::Bytes(bytes) => writer.write_all(&bytes).map_err(|error| writer.explain(error))?,
            Step::Commit => return writer.commit(Some(expected)).map(drop),
        }
    }
    Ok(())
}
