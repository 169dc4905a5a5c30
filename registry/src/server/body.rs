//! Bytes between sockets and threads that may wait for a disk: request bodies in batches, files in chunks.
//!
//! No thread is held while a peer is slow. A batch is collected first and then written by a job of its own,
//! while the next is being collected; a chunk is read by a job while the one before it is being sent.

use std::fs::File;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use rustix::buffer::spare_capacity;
use rustix::io::{pread, retry_on_intr};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::error::RequestError;
use super::{Memory, Sharer};

/// How many bytes are collected before they are written, if there is memory. Two such batches are all that an upload
/// keeps, beside what the connection has read ahead.
const BATCH: usize = 512 * 1024;
/// How many bytes of a file are read at once, if there is memory. While one chunk is sent, the next is read.
const CHUNK: usize = 1024 * 1024;
/// What comes in pieces of fewer bytes is copied together: each takes memory and a write beside its bytes, and one byte
/// keeps all that was read with it.
const WORTH_A_PIECE: usize = 4 * 1024;
/// How much of a refused request's body is read and thrown away, so that the client sees the answer.
const DRAIN: usize = 16 * 1024 * 1024;

/// Some of a request's body, and whether more follows.
pub(crate) struct Batch {
    pub(crate) pieces: Vec<Bytes>,
    /// How the body ended, if it did.
    pub(crate) end: Option<Result<(), RequestError>>,
}

/// A batch may take so many times as long as a client may be silent: whoever sends a byte now and then would otherwise
/// hold a connection for ever.
const SLOWEST_BATCH: u32 = 10;

/// Collects the next batch of a body; what came before an error is in it.
pub(crate) async fn next_batch(body: &mut Body, memory: &Memory, inactivity: Duration) -> Batch {
    let mut batch = Batch { pieces: Vec::new(), end: None };
    let (mut size, mut small) = (0, BytesMut::new());
    let (began, longest) = (Instant::now(), inactivity.saturating_mul(SLOWEST_BATCH));
    while batch.end.is_none() && size < memory.share(BATCH) {
        let left = longest.saturating_sub(began.elapsed());
        match tokio::time::timeout(inactivity.min(left), body.frame()).await {
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    size += data.len();
                    if data.len() < WORTH_A_PIECE {
                        small.extend_from_slice(&data);
                        continue;
                    }
                    if !small.is_empty() {
                        batch.pieces.push(small.split().freeze());
                    }
                    batch.pieces.push(data);
                }
            }
            Ok(Some(Err(_))) => batch.end = Some(Err(RequestError::BrokenBody)),
            Ok(None) => batch.end = Some(Ok(())),
            Err(_) => batch.end = Some(Err(RequestError::SlowBody)),
        }
    }
    if !small.is_empty() {
        batch.pieces.push(small.freeze());
    }
    batch
}

/// How many bytes of manifests there may be in memory at once.
#[derive(Clone, Debug)]
pub(crate) struct Manifests {
    memory: Arc<Semaphore>,
    /// The longest manifest.
    limit: usize,
}

/// A manifest that was sent to us, and the memory that it takes until this is dropped.
pub(crate) struct Sent {
    pub(crate) bytes: Bytes,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Manifests {
    /// As long as most manifests are. So much of each is always taken, so that they need not wait for long ones.
    const SHORT: usize = Memory::LEAST;

    pub(crate) fn new(limit: usize) -> Self {
        Self { memory: Arc::new(Semaphore::new(limit.clamp(Memory::SHARED, u32::MAX as usize))), limit }
    }

    /// For so long the rest of a long manifest may take: others wait for its memory.
    const REST: Duration = Duration::from_secs(10);

    /// Reads a body into memory. One that is long waits for its turn no longer than `inactivity`, and has then to be
    /// there soon.
    pub(crate) async fn read(
        &self,
        body: &mut Body,
        headers: &HeaderMap,
        inactivity: Duration,
    ) -> Result<Sent, RequestError> {
        let announced = content_length(headers).map(|length| usize::try_from(length).unwrap_or(usize::MAX));
        if announced.is_some_and(|length| length > self.limit) {
            return Err(RequestError::ManifestTooLarge { limit: self.limit });
        }
        let mut bytes = Vec::new();
        if self.read_until(Self::SHORT, body, &mut bytes, inactivity).await? {
            return Ok(Sent { bytes: bytes.into(), _permit: None });
        }
        let most = u32::try_from(announced.unwrap_or(self.limit)).unwrap_or(u32::MAX);
        let turn = tokio::time::timeout(inactivity, self.memory.clone().acquire_many_owned(most)).await;
        let permit = turn.map_err(|_| RequestError::TooManyManifests)?.expect("the semaphore is never closed");
        let rest = self.read_until(usize::MAX, body, &mut bytes, inactivity);
        tokio::time::timeout(inactivity.min(Self::REST), rest).await.map_err(|_| RequestError::SlowBody)??;
        Ok(Sent { bytes: bytes.into(), _permit: Some(permit) })
    }

    /// Reads until there are more than `enough` bytes, or the body ends, and tells whether it did.
    async fn read_until(
        &self,
        enough: usize,
        body: &mut Body,
        bytes: &mut Vec<u8>,
        inactivity: Duration,
    ) -> Result<bool, RequestError> {
        while bytes.len() <= enough {
            let frame = tokio::time::timeout(inactivity, body.frame()).await.map_err(|_| RequestError::SlowBody)?;
            let Some(frame) = frame else { return Ok(true) };
            let Ok(data) = frame.map_err(|_| RequestError::BrokenBody)?.into_data() else { continue };
            if data.len() > self.limit - bytes.len() {
                return Err(RequestError::ManifestTooLarge { limit: self.limit });
            }
            bytes.extend_from_slice(&data);
        }
        Ok(false)
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
    buffers: Buffers,
    memory: Memory,
    _sharer: Sharer,
}

impl FileBody {
    /// Makes a body of `size` bytes of a file, which the file has. The first of them are read before this returns, so that
    /// they leave together with the headers.
    pub(crate) async fn body(file: File, offset: u64, size: u64, memory: Memory) -> io::Result<Body> {
        let _sharer = memory.enter();
        let buffers = Buffers::default();
        let (file, bytes) = read_chunk(file, offset, chunk(size, &memory), buffers.clone()).await?;
        let read = bytes.len() as u64;
        if read == size {
            return Ok(Body::from(bytes));
        }
        let ready = tokio::spawn(std::future::ready(Ok((file, bytes))));
        Ok(Body::new(Self { next: Some(ready), offset: offset + read, left: size, buffers, memory, _sharer }))
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
            self.next = Some(tokio::spawn(read_chunk(file, self.offset, want, self.buffers.clone())));
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
async fn read_chunk(file: File, offset: u64, want: usize, buffers: Buffers) -> io::Result<(File, Bytes)> {
    store::blocking::run(move || {
        let mut buffer = buffers.take(want);
        while buffer.bytes.len() < want {
            let at = offset + buffer.bytes.len() as u64;
            // A file that is shorter than it was must not become a response that is shorter than announced.
            if retry_on_intr(|| pread(&file, spare_capacity(&mut buffer.bytes), at))? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        buffer.bytes.truncate(want);
        Ok((file, Bytes::from_owner(buffer)))
    })
    .await
}

/// Buffers of one answer that were sent, to be read into again: memory that the system has to find and clear first
/// costs as much as what is read.
#[derive(Clone, Debug, Default)]
struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

/// A buffer that goes back when it is sent.
struct Buffer {
    bytes: Vec<u8>,
    home: Buffers,
}

impl Buffers {
    /// Returns an empty buffer with room for so many bytes, and for not many more.
    fn take(&self, size: usize) -> Buffer {
        let used = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut bytes = used.filter(|used| (size..2 * size).contains(&used.capacity())).unwrap_or_default();
        bytes.clear();
        bytes.reserve_exact(size);
        Buffer { bytes, home: self.clone() }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut sent = self.home.0.lock().unwrap_or_else(PoisonError::into_inner);
        if sent.is_empty() {
            sent.push(std::mem::take(&mut self.bytes));
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn the_smallest_chunks_become_few_pieces() {
        let frame = |size: usize| Ok::<_, io::Error>(Bytes::from(vec![7; size]));
        let memory = Memory::default();
        let sizes = (0..BATCH + 1000).map(|_| 1);
        let mut body = Body::from_stream(futures_util::stream::iter(sizes.map(frame)));
        let first = next_batch(&mut body, &memory, Duration::from_secs(60)).await;
        assert_eq!(first.pieces.iter().map(Bytes::len).collect::<Vec<_>>(), [BATCH]);
        let last = next_batch(&mut body, &memory, Duration::from_secs(60)).await;
        assert_eq!(last.pieces.iter().map(Bytes::len).collect::<Vec<_>>(), [1000]);
        assert!(matches!(last.end, Some(Ok(()))));
        // In their order, whatever their size.
        let sizes = [1, 2, WORTH_A_PIECE, 3, WORTH_A_PIECE - 1, WORTH_A_PIECE + 1];
        let mut body = Body::from_stream(futures_util::stream::iter(sizes.map(frame)));
        let batch = next_batch(&mut body, &memory, Duration::from_secs(60)).await;
        let expected = [3, WORTH_A_PIECE, WORTH_A_PIECE + 2, WORTH_A_PIECE + 1];
        assert_eq!(batch.pieces.iter().map(Bytes::len).collect::<Vec<_>>(), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn long_manifests_take_turns_and_short_ones_do_not_wait() {
        let inactivity = Duration::from_secs(60);
        let manifests = Manifests::new(Memory::SHARED);
        let headers = HeaderMap::new();
        // A byte each second is not silence, but too slow for whoever takes all of the memory.
        let trickle = (0..).map(|number| if number == 0 { vec![7; 100_000] } else { vec![7] });
        let slow = futures_util::stream::iter(trickle).then(|piece| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok::<_, io::Error>(Bytes::from(piece))
        });
        let mut slow = Body::from_stream(slow);
        let mut long = Body::from(vec![7; 200_000]);
        let mut short = Body::from(vec![7; Manifests::SHORT]);
        let began = Instant::now();
        let slow = async { (manifests.read(&mut slow, &headers, inactivity).await, began.elapsed()) };
        let after = |seconds: u64| tokio::time::sleep(Duration::from_secs(seconds));
        let long = async {
            after(5).await;
            (manifests.read(&mut long, &headers, inactivity).await, began.elapsed())
        };
        let short = async {
            after(10).await;
            (manifests.read(&mut short, &headers, inactivity).await, began.elapsed())
        };
        let (slow, long, short) = tokio::join!(slow, long, short);
        assert!(matches!(slow.0, Err(RequestError::SlowBody)));
        assert_eq!(long.0.map_err(|error| error.to_string()).map(|sent| sent.bytes.len()), Ok(200_000));
        assert_eq!(short.0.map_err(|error| error.to_string()).map(|sent| sent.bytes.len()), Ok(Manifests::SHORT));
        assert_eq!(short.1.as_secs(), 10);
        assert!(long.1 >= slow.1 && long.1.as_secs() < 15, "{:?}", long.1);
        assert_eq!(manifests.memory.available_permits(), Memory::SHARED);

        // Who gets no turn is told so.
        let _all = manifests.memory.clone().acquire_many_owned(u32::try_from(Memory::SHARED).expect("fits")).await;
        let refused = manifests.read(&mut Body::from(vec![7; 200_000]), &headers, inactivity).await;
        assert!(matches!(refused, Err(RequestError::TooManyManifests)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_now_and_then_is_too_slow() {
        let inactivity = Duration::from_secs(60);
        let trickle = futures_util::stream::iter(0..).then(|_| async {
            tokio::time::sleep(Duration::from_secs(59)).await;
            Ok::<_, io::Error>(Bytes::from_static(b"x"))
        });
        let batch = next_batch(&mut Body::from_stream(trickle), &Memory::default(), inactivity).await;
        assert!(matches!(batch.end, Some(Err(RequestError::SlowBody))));
        assert_eq!(batch.pieces.iter().map(Bytes::len).sum::<usize>(), 10);
    }

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
    #[tokio::test]
    async fn a_file_goes_through_a_few_buffers() {
        use std::io::Write as _;
        let mut file = tempfile::tempfile().expect("a file");
        let bytes: Vec<u8> = (0..9 << 18).flat_map(|number: u32| number.to_le_bytes()).collect();
        file.write_all(&bytes).expect("written");
        let (start, size) = (5, bytes.len() - 5 - 7);
        let mut body = FileBody::body(file, start as u64, size as u64, Memory::default()).await.expect("readable");
        let (mut all, mut places) = (Vec::new(), std::collections::HashSet::new());
        while let Some(frame) = body.frame().await {
            let piece = frame.expect("read").into_data().expect("data");
            places.insert(piece.as_ptr());
            all.extend_from_slice(&piece);
        }
        assert!(all == bytes[start..start + size]);
        // One is sent while the next is read; the last chunk is shorter.
        assert!(places.len() <= 3, "{places:?}");
    }
}
