//! [`BlobWriter`]: a blob on its way, hashed while it is written.
//!
//! Large blobs go through a pipeline of two threads, so that reading, writing and hashing overlap:
//!
//! ```text
//! caller -> full buffers -> writes to the file -> hashes -> empty buffers -> caller
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use oci::{Algorithm, Digest, Hasher};
use rustix::fs::FlockOperation;

use super::marks::{MarkingHasher, Marks};
use super::{BlobError, hash_file};
use crate::FileError;
use crate::atomic_file::{self, place};
use crate::file_error::{During, found};
use crate::later::{Job, Source};
use crate::session::{Home, Unfinished};

mod buffer;
mod sink;

use buffer::Buffer;
use sink::Sink;

/// From how many bytes on the file is written and hashed by threads of their own.
const OWN_THREADS: u64 = 4 * buffer::CAPACITY as u64;

/// A blob on its way: hashed while it is written, invisible until [`BlobWriter::commit`].
///
/// Dropped without a commit, it is gone, unless it was made by [`super::Blobs::begin_resumable`] and the disk has room.
#[derive(Debug)]
pub struct BlobWriter {
    home: Arc<Home>,
    file: File,
    path: PathBuf,
    /// The digest that a resumable download is kept under; such a file outlives its writer.
    partial: Option<Digest>,
    algorithm: Algorithm,
    stage: Stage,
    buffer: Buffer,
    /// Bytes in the file, or on their way to it.
    written: u64,
    /// Whether the bytes are read again soon, and stay in the page cache.
    read_soon: bool,
    /// Whether a write failed: then the file is not what was hashed.
    broken: bool,
    /// Whether the file has its name no more.
    placed: bool,
    _unfinished: Unfinished,
}

/// Who writes and hashes.
#[derive(Debug)]
enum Stage {
    /// The caller.
    Here(Box<MarkingHasher>, Sink),
    /// Two threads; buffers travel through both and come back.
    Threads {
        full: SyncSender<Buffer>,
        empty: Receiver<Buffer>,
        writing: JoinHandle<io::Result<()>>,
        hashing: JoinHandle<Box<MarkingHasher>>,
    },
    /// Nobody any more.
    Done,
}

impl BlobWriter {
    pub(super) fn temporary(home: &Arc<Home>, algorithm: Algorithm) -> Result<Self, FileError> {
        let path = home.temporary('b')?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).during("create", &path)?;
        Ok(Self::new(home, file, path, Hasher::new(algorithm), algorithm, 0))
    }

    /// Opens the unfinished download of a blob, or returns `None` when another process is at it.
    pub(crate) fn partial(home: &Arc<Home>, digest: &Digest) -> Result<Option<Self>, FileError> {
        let path = home.layout().partial(digest);
        loop {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
            let file = file.during("open", &path)?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(FileError::new("lock", &path, error.into())),
            }
            // Whoever held the lock until now may have finished: then the file is a blob, and not ours to write.
            let metadata = file.metadata().during("read", &path)?;
            let named = found(fs::metadata(&path)).during("read", &path)?;
            if named.is_none_or(|named| (named.dev(), named.ino()) != (metadata.dev(), metadata.ino())) {
                continue;
            }
            let (hasher, size) = hash_file(&file, digest.algorithm()).during("read", &path)?;
            let mut writer = Self::new(home, file, path, hasher, digest.algorithm(), size);
            writer.partial = Some(digest.clone());
            writer.read_soon = true;
            return Ok(Some(writer));
        }
    }

    fn new(home: &Arc<Home>, file: File, path: PathBuf, hasher: Hasher, algorithm: Algorithm, written: u64) -> Self {
        Self {
            home: home.clone(),
            file,
            path,
            partial: None,
            algorithm,
            stage: Stage::Here(Box::new(MarkingHasher::plain(hasher)), Sink::at(written)),
            buffer: Buffer::default(),
            written,
            read_soon: false,
            broken: false,
            placed: false,
            _unfinished: home.begin(),
        }
    }

    /// Notes while hashing what [`super::Blobs::patch`] needs to know of this blob some day. For a writer that has no
    /// bytes yet.
    #[must_use]
    pub fn with_marks(mut self) -> Self {
        let is_empty = self.offset() == 0;
        if let (Stage::Here(hasher, _), true) = (&mut self.stage, is_empty) {
            hasher.mark();
        }
        self
    }

    /// Leaves the bytes in the page cache, for somebody who reads them soon.
    #[must_use]
    pub fn read_soon(mut self) -> Self {
        self.read_soon = true;
        self
    }

    /// Returns how many bytes there are so far.
    pub fn offset(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Makes the blob visible under its digest, and returns that and the size.
    ///
    /// Bytes that do not hash to `expected` are thrown away. When this returns, the blob survives a crash of the
    /// machine. Committing what is already there succeeds and changes nothing, except that a blob of the wrong
    /// size (a disk's accident) is replaced.
    pub fn commit(self, expected: Option<&Digest>) -> Result<(Digest, u64), BlobError> {
        self.commit_marked(expected).map(|(digest, size, _)| (digest, size))
    }

    /// Does what [`BlobWriter::commit`] does, and returns what [`BlobWriter::with_marks`] asked for.
    pub fn commit_marked(mut self, expected: Option<&Digest>) -> Result<(Digest, u64, Option<Marks>), BlobError> {
        self.write_out().map_err(|error| self.explain(error))?;
        let (digest, marks) = self.digest(expected).map_err(|error| self.explain(error))?;
        if let Some(expected) = expected.filter(|expected| **expected != digest) {
            if self.partial.take().is_some() {
                fs::remove_file(&self.path).during("remove", &self.path)?;
            }
            return Err(BlobError::DigestMismatch { expected: expected.clone(), actual: digest });
        }
        self.home.pin(&digest)?;
        let path = self.home.layout().blob(&digest);
        let there = found(fs::metadata(&path)).during("read", &path)?;
        if there.is_some_and(|there| there.is_file() && there.len() == self.written) {
            self.discard();
            // The one who put it there may not have come to this yet.
            atomic_file::sync_folder(path.parent().unwrap_or(&path))?;
        } else {
            self.file.sync_data().during("write", &self.path)?;
            place(&self.path, &path, true)?;
            self.placed = true;
        }
        Ok((digest, self.written, marks))
    }

    /// Returns the digest and the size at once, and makes the blob visible, and safe from a crash of the machine, beside
    /// whatever the caller does next: [`Store::settle`](crate::Store::settle) waits for that.
    ///
    /// This process finds the blob as if it was there already.
    pub fn commit_later(mut self) -> Result<(Digest, u64), BlobError> {
        self.write_out().map_err(|error| self.explain(error))?;
        let (digest, _) = self.digest(None).map_err(|error| self.explain(error))?;
        let (home, written) = (self.home.clone(), self.written);
        home.pin(&digest)?;
        home.later().submit(Job::Place { source: Source::File(self), digest: digest.clone() });
        Ok((digest, written))
    }

    /// Makes the bytes survive a crash of the machine.
    pub(crate) fn sync(&self) -> Result<(), BlobError> {
        Ok(self.file.sync_data().during("write", &self.path)?)
    }

    /// Makes a synced blob visible, unless it is; returns the folder that is to be synced now.
    pub(crate) fn place_synced(mut self, digest: &Digest) -> Result<Option<PathBuf>, BlobError> {
        let path = self.home.layout().blob(digest);
        let there = found(fs::metadata(&path)).during("read", &path)?;
        if there.is_some_and(|there| there.is_file() && there.len() == self.written) {
            self.discard();
        } else {
            if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
                atomic_file::make_folders(folder, true)?;
            }
            place(&self.path, &path, false)?;
            self.placed = true;
        }
        Ok(path.parent().map(PathBuf::from))
    }

    /// Throws the bytes away, also those of a resumable download.
    pub fn abandon(mut self) {
        self.discard();
    }

    /// Returns an I/O error of this writer with its path, and with what to do when the disk is full.
    pub fn explain(&self, error: io::Error) -> FileError {
        FileError::of_write(&self.path, error)
    }

    /// Returns the digest of the file, all of which was handed on; when this returns, it is in the file.
    fn digest(&mut self, expected: Option<&Digest>) -> io::Result<(Digest, Option<Marks>)> {
        let hasher = match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Here(hasher, _) => hasher,
            Stage::Threads { full, writing, hashing, .. } => {
                drop(full);
                let written = writing.join().map_err(|_| io::Error::other("the writing thread panicked"))?;
                written.map_err(|error| self.broken_by(error))?;
                hashing.join().map_err(|_| io::Error::other("the hashing thread panicked"))?
            }
            Stage::Done => return Err(io::Error::other("the blob was hashed before")),
        };
        match expected {
            // Known too late: it takes a second look.
            Some(expected) if expected.algorithm() != self.algorithm => {
                io::Seek::rewind(&mut self.file)?;
                Ok((hash_file(&self.file, expected.algorithm())?.0.finish(), None))
            }
            _ => Ok(hasher.finish()),
        }
    }

    /// Writes the buffer to the file and hashes it, or hands it on to the threads that do.
    fn write_out(&mut self) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("an earlier write to this blob failed"));
        }
        if self.buffer.is_empty() {
            return Ok(());
        }
        let count = self.buffer.len() as u64;
        match &mut self.stage {
            Stage::Here(hasher, sink) => {
                if let Err(error) = sink.write(&self.file, &self.buffer) {
                    return Err(self.broken_by(error));
                }
                hasher.update(&self.buffer);
                self.buffer.clear();
            }
            Stage::Threads { full, empty, .. } => {
                let next = empty.try_recv().unwrap_or_default();
                if full.send(std::mem::replace(&mut self.buffer, next)).is_err() {
                    // The writing thread ended early, and tells why.
                    let failed = self.digest(None).err();
                    return Err(failed.unwrap_or_else(|| io::Error::other("the writing thread ended early")));
                }
            }
            Stage::Done => return Err(io::Error::other("the blob is finished")),
        }
        self.written += count;
        if self.written >= OWN_THREADS {
            self.start_threads();
        }
        Ok(())
    }

    fn broken_by(&mut self, error: io::Error) -> io::Error {
        self.broken = true;
        if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            // What is kept for the next try would leave no room for anything, that try included.
            self.partial = None;
        }
        io::Error::new(error.kind(), FileError::new("write", self.home.layout().home(), error))
    }

    /// Moves writing and hashing to threads of their own, unless they are there or there can be no more threads.
    fn start_threads(&mut self) {
        let Stage::Here(hasher, sink) = &self.stage else { return };
        let Ok(file) = self.file.try_clone() else { return };
        let around_cache = !self.read_soon;
        let (mut hasher, mut sink) = (hasher.clone(), sink.clone());
        let (full, take) = sync_channel::<Buffer>(2);
        let (pass, hash) = sync_channel::<Buffer>(2);
        let (give, empty) = sync_channel::<Buffer>(4);
        let write = move || {
            if around_cache {
                sink.go_around_cache();
            }
            for buffer in take {
                sink.write(&file, &buffer)?;
                // Refused only when the hashing thread panicked, which `digest` reports.
                let _ = pass.send(buffer);
            }
            sink.finish(&file);
            Ok(())
        };
        let work = move || {
            for mut buffer in hash {
                hasher.update(&buffer);
                buffer.clear();
                // The writer has buffers enough, or is gone.
                let _ = give.try_send(buffer);
            }
            hasher
        };
        // When the second thread cannot start, the first sees its channel closed and ends.
        let Ok(hashing) = std::thread::Builder::new().name("hash".into()).spawn(work) else { return };
        let Ok(writing) = std::thread::Builder::new().name("write".into()).spawn(write) else { return };
        self.stage = Stage::Threads { full, empty, writing, hashing };
    }

    fn discard(&mut self) {
        // Temporary files are swept with the session, partial ones by a collection.
        let _ = fs::remove_file(&self.path);
        self.placed = true;
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.is_full() {
            self.write_out()?;
        }
        Ok(self.buffer.take_in(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_out()
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if self.placed {
            return;
        }
        if self.partial.is_some() {
            // What cannot be kept is downloaded again.
            let _ = self.write_out();
            let _ = self.digest(None);
        }
        if self.partial.is_none() {
            self.discard();
        }
    }
}
