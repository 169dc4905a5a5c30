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

use super::deflate::{Deflater, WINDOW};

/// Input bytes of a block.
const BLOCK: usize = 128 << 10;

/// Up to this level, except 0, the blocks are our own encoder's; above, zlib's.
pub(super) const FAST: u32 = 3;

/// No name, no time, no operating system: 1f 8b, deflate, no flags, mtime 0, no extra flags, OS unknown.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// A part of the input to compress.
struct Job {
    /// What the block may refer back to, and the block.
    data: Vec<u8>,
    start: usize,
    done: SyncSender<io::Result<Compressed>>,
}

struct Compressed {
    bytes: Vec<u8>,
    crc: Crc,
}

/// Compresses what is written to it into one gzip member.
pub(super) struct GzipEncoder<W: Write> {
    inner: W,
    level: u32,
    threads: usize,
    /// The open block, after the end of the one before.
    data: Vec<u8>,
    start: usize,
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
            level,
            threads: threads.clamp(1, 64),
            data: Vec::with_capacity(BLOCK),
            start: 0,
            crc: Crc::new(),
            pending: VecDeque::new(),
            workers: Workers { jobs: None, handles: Vec::new() },
        })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.data.len() == self.start + BLOCK {
            self.submit()?;
        }
        let count = bytes.len().min(self.start + BLOCK - self.data.len());
        self.data.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        // The last block is the one that is open now, be it full or empty.
        let last = Coder::new(self.level).compress(&self.data, self.start, true)?;
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
        let mut next = Vec::with_capacity(WINDOW + BLOCK);
        next.extend_from_slice(&self.data[self.data.len() - WINDOW..]);
        let data = std::mem::replace(&mut self.data, next);
        let start = std::mem::replace(&mut self.start, WINDOW);
        let (done, result) = sync_channel(1);
        self.workers.submit(Job { data, start, done }, self.level, self.threads)?;
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
    fn submit(&mut self, job: Job, level: u32, threads: usize) -> io::Result<()> {
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

fn work(jobs: &Mutex<Receiver<Job>>, level: u32) {
    let mut coder = Coder::new(level);
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        let result = coder.compress(&job.data, job.start, false);
        // Nobody waits any more when the encoder was dropped.
        drop(job.done.send(result));
    }
}

/// What compresses blocks.
enum Coder {
    Fast(Box<Deflater>),
    Zlib(Compression),
}

impl Coder {
    fn new(level: u32) -> Self {
        match level {
            1..=FAST => Self::Fast(Box::new(Deflater::new())),
            _ => Self::Zlib(Compression::new(level)),
        }
    }

    /// Compresses what is in `data` from `start` on.
    fn compress(&mut self, data: &[u8], start: usize, is_last: bool) -> io::Result<Compressed> {
        let bytes = match self {
            Self::Fast(deflater) => deflater.compress(data, start, is_last),
            Self::Zlib(level) => zlib(*level, data, start, is_last)?,
        };
        let mut crc = Crc::new();
        crc.update(&data[start..]);
        Ok(Compressed { bytes, crc })
    }
}

/// Compresses a block with zlib, in a state of its own.
///
/// A state that is reset still holds the last block in its window, and `set_dictionary` hashes one byte past the
/// dictionary's end: the bytes would tell which block the thread had before.
fn zlib(level: Compression, data: &[u8], start: usize, is_last: bool) -> io::Result<Vec<u8>> {
    let mut state = Compress::new(level, false);
    let (before, data) = data.split_at(start);
    if !before.is_empty() {
        state.set_dictionary(before).map_err(io::Error::other)?;
    }
    let flush = if is_last { FlushCompress::Finish } else { FlushCompress::Sync };
    let mut bytes = Vec::with_capacity(data.len() / 2 + 1024);
    loop {
        let taken = usize::try_from(state.total_in()).map_err(io::Error::other)?;
        let status = state.compress_vec(&data[taken..], &mut bytes, flush).map_err(io::Error::other)?;
        // Room that is left over shows that nothing waits inside.
        let done = match status {
            Status::StreamEnd => true,
            Status::Ok | Status::BufError => !is_last && bytes.len() < bytes.capacity(),
        };
        if done {
            return Ok(bytes);
        }
        bytes.reserve(data.len() / 2 + 1024);
    }
}
