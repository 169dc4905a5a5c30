//! [`GzipEncoder`]: one gzip member, compressed in blocks by several threads.
//!
//! ```text
//! input    | 128 KiB       | 128 KiB       | rest |
//!                   '32 KiB'        '32 KiB'          what a block may refer back to
//! output   header, deflate … sync, deflate … sync, deflate … end, CRC-32 and length
//! ```
//!
//! The blocks are cut by position in the input, so neither the number of threads nor the sizes of writes show.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use flate2::{Compress, Compression, Crc, FlushCompress, Status};

/// Input bytes of a block.
const BLOCK: usize = 128 << 10;

/// How far deflate refers back.
const WINDOW: usize = 32 << 10;

/// No name, no time, no operating system: 1f 8b, deflate, no flags, mtime 0, no extra flags, OS unknown.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// A part of the input to compress.
struct Job {
    data: Arc<Vec<u8>>,
    before: Option<Arc<Vec<u8>>>,
    done: SyncSender<io::Result<Compressed>>,
}

struct Compressed {
    bytes: Vec<u8>,
    crc: Crc,
}

/// Compresses what is written to it into one gzip member.
pub(super) struct GzipEncoder<W: Write> {
    inner: W,
    level: Compression,
    threads: usize,
    block: Vec<u8>,
    before: Option<Arc<Vec<u8>>>,
    crc: Crc,
    // Blocks under way, in order.
    pending: VecDeque<Receiver<io::Result<Compressed>>>,
    workers: Workers,
}

impl<W: Write> GzipEncoder<W> {
    pub(super) fn new(mut inner: W, level: u32, threads: usize) -> io::Result<Self> {
        inner.write_all(&HEADER)?;
        Ok(Self {
            inner,
            level: Compression::new(level),
            threads: threads.clamp(1, 64),
            block: Vec::with_capacity(BLOCK),
            before: None,
            crc: Crc::new(),
            pending: VecDeque::new(),
            workers: Workers { jobs: None, handles: Vec::new() },
        })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.block.len() == BLOCK {
            self.submit()?;
        }
        let count = bytes.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        // The last block is the one that is open now, be it full or empty.
        let block = std::mem::take(&mut self.block);
        let last = compress(self.level, &block, self.before.as_deref().map(Vec::as_slice), true)?;
        while !self.pending.is_empty() {
            self.take_oldest()?;
        }
        self.put(&last)?;
        self.inner.write_all(&self.crc.sum().to_le_bytes())?;
        self.inner.write_all(&self.crc.amount().to_le_bytes())?;
        Ok(self.inner)
    }

    /// Hands the full block to the workers, waiting for the oldest when too many are under way.
    fn submit(&mut self) -> io::Result<()> {
        let data = Arc::new(std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK)));
        let (done, result) = sync_channel(1);
        let before = self.before.replace(data.clone());
        self.workers.submit(Job { data, before, done }, self.level, self.threads)?;
        self.pending.push_back(result);
        if self.pending.len() > 2 * self.threads + 1 {
            self.take_oldest()?;
        }
        Ok(())
    }

    fn take_oldest(&mut self) -> io::Result<()> {
        let Some(oldest) = self.pending.pop_front() else { return Ok(()) };
        let block = oldest.recv().map_err(|_| io::Error::other("a thread that compresses died"))??;
        self.put(&block)
    }

    fn put(&mut self, block: &Compressed) -> io::Result<()> {
        self.crc.combine(&block.crc);
        self.inner.write_all(&block.bytes)
    }
}

/// Where the threads take blocks from, one at a time.
type Jobs = Arc<Mutex<Receiver<Job>>>;

/// Threads that compress blocks. They start when there is something to do, and end with the encoder.
struct Workers {
    jobs: Option<(Sender<Job>, Jobs)>,
    handles: Vec<JoinHandle<()>>,
}

impl Workers {
    fn submit(&mut self, job: Job, level: Compression, threads: usize) -> io::Result<()> {
        let (sender, receiver) = self.jobs.get_or_insert_with(|| {
            let (sender, receiver) = channel();
            (sender, Arc::new(Mutex::new(receiver)))
        });
        if self.handles.len() < threads {
            let receiver = receiver.clone();
            let work = move || work(&receiver, level);
            self.handles.push(std::thread::Builder::new().name("gzip".into()).spawn(work)?);
        }
        sender.send(job).map_err(|_| io::Error::other("the threads that compress died"))
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.jobs = None;
        for handle in self.handles.drain(..) {
            // A panic was already told by the block that never came.
            drop(handle.join());
        }
    }
}

fn work(jobs: &Mutex<Receiver<Job>>, level: Compression) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        let result = compress(level, &job.data, job.before.as_deref().map(Vec::as_slice), false);
        // Nobody waits any more when the encoder was dropped.
        drop(job.done.send(result));
    }
}

/// Compresses one block, in a state of its own.
///
/// A state that is reset still holds the last block in its window, and `set_dictionary` hashes one byte past the
/// dictionary's end: the bytes would tell which block the thread had before.
fn compress(level: Compression, data: &[u8], before: Option<&[u8]>, last: bool) -> io::Result<Compressed> {
    let mut state = Compress::new(level, false);
    if let Some(before) = before {
        let window = &before[before.len().saturating_sub(WINDOW)..];
        state.set_dictionary(window).map_err(io::Error::other)?;
    }
    let flush = if last { FlushCompress::Finish } else { FlushCompress::Sync };
    let mut bytes = Vec::with_capacity(data.len() / 2 + 1024);
    loop {
        let taken = usize::try_from(state.total_in()).map_err(io::Error::other)?;
        let status = state.compress_vec(&data[taken..], &mut bytes, flush).map_err(io::Error::other)?;
        // Room that is left over shows that nothing waits inside.
        let done = match status {
            Status::StreamEnd => true,
            Status::Ok | Status::BufError => !last && bytes.len() < bytes.capacity(),
        };
        if done {
            break;
        }
        bytes.reserve(data.len() / 2 + 1024);
    }
    let mut crc = Crc::new();
    crc.update(data);
    Ok(Compressed { bytes, crc })
}
