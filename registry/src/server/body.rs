//! Bytes between sockets and threads that may wait for a disk: request bodies in batches, files in chunks.
//!
//! No thread is held while a peer is slow. A batch is collected first and then written by a job of its own,
//! while the next is being collected; a chunk is read by a job while the one before it is being sent.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use tokio::task::JoinHandle;

use super::error::RequestError;
use super::{Memory, Sharer};

/// How many bytes are collected before they are written, if there is memory. Two such batches are all that an upload
/// keeps, beside what the connection has read ahead.
const BATCH: usize = 512 * 1024;
/// How many bytes of a file are read at once, if there is memory. While one chunk is sent, the next is read.
const CHUNK: usize = 1024 * 1024;
/// How much of a refused request's body is read and thrown away, so that the client sees the answer.
const DRAIN: usize = 16 * 1024 * 1024;

/// Some of a request's body, and whether more follows.
pub(crate) struct Batch {
    pub(crate) pieces: Vec<Bytes>,
    /// How the body ended, if it did.
    pub(crate) end: Option<Result<(), RequestError>>,
}

/// Collects the next batch of a body; what came before an error is in it.
pub(crate) async fn next_batch(body: &mut Body, memory: &Memory, inactivity: Duration) -> Batch {
    let mut batch = Batch { pieces: Vec::new(), end: None };
    let mut size = 0;
    while batch.end.is_none() && size < memory.share(BATCH) {
        match tokio::time::timeout(inactivity, body.frame()).await {
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    size += data.len();
                    batch.pieces.push(data);
                }
            }
            Ok(Some(Err(_))) => batch.end = Some(Err(RequestError::BrokenBody)),
            Ok(None) => batch.end = Some(Ok(())),
            Err(_) => batch.end = Some(Err(RequestError::SlowBody)),
        }
    }
    batch
}

/// Reads a body of at most `limit` bytes into memory.
pub(crate) async fn read_all(
    body: &mut Body,
    headers: &HeaderMap,
    limit: usize,
    memory: &Memory,
    inactivity: Duration,
) -> Result<Bytes, RequestError> {
    let too_large = || RequestError::ManifestTooLarge { limit };
    if content_length(headers).is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    loop {
        let batch = next_batch(body, memory, inactivity).await;
        for piece in &batch.pieces {
            if piece.len() > limit - bytes.len() {
                return Err(too_large());
            }
            bytes.extend_from_slice(piece);
        }
        if let Some(end) = batch.end {
            return end.map(|()| Bytes::from(bytes));
        }
    }
}

/// Reads what is left of a refused request, within reason: a client that is still sending when the connection
/// closes may never see why.
pub(crate) async fn drain(body: &mut Body, headers: &HeaderMap) {
    // A client that asked first sends nothing when it is refused.
    if headers.contains_key(header::EXPECT) || content_length(headers).is_some_and(|length| length > DRAIN as u64) {
        return;
    }
    let drained = async {
        let mut size = 0;
        while let Some(Ok(frame)) = body.frame().await {
            size += frame.data_ref().map_or(0, Bytes::len);
            if size > DRAIN {
                break;
            }
        }
    };
    // Late or not, the answer goes out next.
    let _ = tokio::time::timeout(Duration::from_secs(3), drained).await;
}

/// Returns how long the client says the body is.
pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Part of a file, on its way to a client.
pub(crate) struct FileBody {
    /// The chunk that is being read; nothing when all was.
    next: Option<JoinHandle<io::Result<(File, Bytes)>>>,
    /// Where the chunk after that begins.
    offset: u64,
    /// How many bytes are still to be sent, the chunk that is being read among them.
    left: u64,
    memory: Memory,
    _sharer: Sharer,
}

impl FileBody {
    /// Makes a body of `size` bytes of a file, which the file has. The first of them are read before this returns, so that
    /// they leave together with the headers.
    pub(crate) async fn body(file: File, offset: u64, size: u64, memory: Memory) -> io::Result<Body> {
        let _sharer = memory.enter();
        let (file, bytes) = read_chunk(file, offset, chunk(size, &memory)).await?;
        let read = bytes.len() as u64;
        if read == size {
            return Ok(Body::from(bytes));
        }
        let ready = tokio::spawn(std::future::ready(Ok((file, bytes))));
        Ok(Body::new(Self { next: Some(ready), offset: offset + read, left: size, memory, _sharer }))
    }
}

impl hyper::body::Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Some(next) = &mut self.next else { return Poll::Ready(None) };
        let read = ready!(Pin::new(next).poll(context));
        self.next = None;
        let (file, bytes) = read.map_err(io::Error::other)??;
        self.left = self.left.saturating_sub(bytes.len() as u64);
        if self.left > 0 {
            let want = chunk(self.left, &self.memory);
            self.next = Some(tokio::spawn(read_chunk(file, self.offset, want)));
            self.offset += want as u64;
        }
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }
}

/// Returns how much of a file is read at once when so much of it is left to send.
fn chunk(left: u64, memory: &Memory) -> usize {
    let most = memory.share(CHUNK);
    usize::try_from(left).unwrap_or(most).min(most)
}

/// Reads bytes of a file that has them.
async fn read_chunk(file: File, offset: u64, want: usize) -> io::Result<(File, Bytes)> {
    store::blocking::run(move || {
        let mut bytes = vec![0; want];
        // A file that is shorter than it was must not become a response that is shorter than announced.
        file.read_exact_at(&mut bytes, offset)?;
        Ok((file, Bytes::from(bytes)))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_on_their_way_share_memory_also_on_one_connection() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let memory = Memory::default();
        assert_eq!(memory.share(CHUNK), CHUNK);
        let open = || File::open("/dev/zero").expect("opened");
        let bodies = || async {
            let mut bodies = Vec::new();
            for _ in 0..64 {
                bodies.push(FileBody::body(open(), 0, 9 << 20, memory.clone()).await.expect("readable"));
            }
            bodies
        };
        let bodies = runtime.block_on(bodies());
        assert_eq!(memory.share(CHUNK), CHUNK / 4);
        drop(bodies);
        assert_eq!(memory.share(CHUNK), CHUNK);
    }
}
