//! Patches: blobs that are kept as what they share with another, and what they do not.
//!
//! A layer in which one file of ten thousand changed differs from the one before in some kilobytes. Only these are
//! written; the whole is put together when somebody reads it, and its digest is verified then, as any blob's.
//!
//! ```text
//! patches/ALGORITHM/HH/HEX
//!   own bytes      what the base does not have
//!   extents        from the base (0) or from the own bytes (1), offset, length: three numbers each
//!   footer         digest of the base, bytes of the blob, own bytes, number of extents, mark,
//!                  SHA-256 of the extents and of the footer up to here
//! ```
//!
//! Numbers have 8 bytes, the lowest first. A patch never stands on a patch.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use oci::{Algorithm, Digest, Hasher};

use super::marks::{self, Marks, STRIDE};
use super::{BlobError, Blobs};
use crate::FileError;
use crate::atomic_file::place;
use crate::file_error::{During, found};
use crate::session::{Home, Unfinished};

const MARK: &[u8; 16] = b"slipway patch 1\n";
const EXTENT: usize = 24;
const FOOTER: usize = 32 + 3 * 8 + MARK.len() + 32;
/// A patch with more extents than this is damaged; each costs at least a file's header.
const MAX_EXTENTS: u64 = 1 << 24;
/// Own bytes that are collected before they are written and hashed.
const OWN: usize = 256 << 10;

/// Some bytes of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    own: bool,
    offset: u64,
    length: u64,
}

/// Takes a blob that shares most of its bytes with another, which is called its base. See [`Blobs::patch`].
#[derive(Debug)]
pub struct PatchWriter {
    home: Arc<Home>,
    base: Base,
    base_digest: Digest,
    file: File,
    path: PathBuf,
    own: u64,
    extents: Vec<Extent>,
    /// The last extent, which may still grow.
    tail: Option<Extent>,
    /// Own bytes of the tail that are neither in the file nor hashed.
    pending: Vec<u8>,
    size: u64,
    /// Bytes of the extents that are not the tail.
    ended: u64,
    /// `None` as long as all is a prefix of the base: then nothing needs hashing.
    hashing: Option<Hashing>,
    damaged: bool,
    placed: bool,
    _unfinished: Unfinished,
}

impl Blobs {
    /// Starts a blob that has most of its bytes from another one. `marks` are those of the base, from when it was written.
    pub fn patch(&self, base: &Digest, marks: Marks) -> Result<PatchWriter, BlobError> {
        self.home.pin(base)?;
        let path = self.path(base);
        let Some(base_file) = found(File::open(&path)).during("open", &path)? else {
            return Err(BlobError::NotFound { digest: base.clone() });
        };
        let size = base_file.metadata().during("read", &path)?.len();
        let path = self.home.temporary('b')?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).during("create", &path)?;
        Ok(PatchWriter {
            home: self.home.clone(),
            base: Base { file: base_file, size, marks, loaded: Vec::new(), current: None },
            base_digest: base.clone(),
            file,
            path,
            own: 0,
            extents: Vec::new(),
            tail: None,
            pending: Vec::new(),
            size: 0,
            ended: 0,
            hashing: None,
            damaged: false,
            placed: false,
            _unfinished: self.home.begin(),
        })
    }

    /// Returns how many bytes a blob has that is kept as a patch, if it can be put together.
    pub(super) fn patched_size(&self, digest: &Digest) -> Result<Option<u64>, FileError> {
        let Some(patch) = Patch::open(&self.home.layout().patch(digest))? else { return Ok(None) };
        self.home.pin(&patch.base)?;
        let base = self.path(&patch.base);
        let there = found(fs::metadata(&base)).during("read", &base)?;
        let whole = there.is_some_and(|there| there.len() >= patch.needs());
        Ok(whole.then_some(patch.size))
    }

    /// Returns the blob that another is a patch of.
    pub(crate) fn base(&self, digest: &Digest) -> Result<Option<Digest>, FileError> {
        Ok(Patch::open(&self.home.layout().patch(digest))?.map(|patch| patch.base))
    }

    /// Opens a blob that is kept as a patch for reading from its start to its end.
    pub(super) fn patched(&self, digest: &Digest) -> Result<Option<(PatchReader, u64)>, FileError> {
        let Some(patch) = Patch::open(&self.home.layout().patch(digest))? else { return Ok(None) };
        self.home.pin(&patch.base)?;
        let path = self.path(&patch.base);
        let Some(base) = found(File::open(&path)).during("open", &path)? else { return Ok(None) };
        let size = patch.size;
        Ok(Some((PatchReader { base, own: patch.file, extents: patch.extents.into_iter(), current: None }, size)))
    }

    /// Makes an ordinary blob of one that is kept as a patch; tells whether there is one now.
    pub(super) fn assemble(&self, digest: &Digest) -> Result<bool, BlobError> {
        let Some((mut reader, _)) = self.patched(digest)? else { return Ok(false) };
        let mut writer = self.begin_as(digest.algorithm())?;
        let path = self.home.layout().patch(digest);
        let mut buffer = vec![0; STRIDE];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => writer.write_all(&buffer[..count]).map_err(|error| writer.explain(error))?,
                // The base is shorter than it was.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                other => other.map(drop).during("read", &path)?,
            }
        }
        match writer.commit(Some(digest)) {
            Ok(_) => {
                // One that stays takes a little room until a collection.
                let _ = fs::remove_file(&path);
                Ok(true)
            }
            Err(BlobError::DigestMismatch { .. }) => {
                let base = self.base(digest)?;
                found(fs::remove_file(&path)).during("remove", &path)?;
                self.home.note_damaged();
                if let Some(base) = base {
                    // When it is the one that is damaged, it goes too; that this blob is lost is said below.
                    let _ = self.verify(&base);
                }
                Err(BlobError::Damaged { digest: digest.clone() })
            }
            Err(error) => Err(error),
        }
    }

    /// Removes a patch; tells whether there was one.
    pub(super) fn remove_patch(&self, digest: &Digest) -> Result<bool, FileError> {
        let path = self.home.layout().patch(digest);
        Ok(found(fs::remove_file(&path)).during("remove", &path)?.is_some())
    }
}

impl PatchWriter {
    /// Appends bytes of the base.
    ///
    /// # Errors
    ///
    /// Also when the base turns out damaged; then [`PatchWriter::is_base_damaged`].
    pub fn keep(&mut self, offset: u64, length: u64) -> io::Result<()> {
        if offset.checked_add(length).is_none_or(|end| end > self.base.size) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the base of a patch has no such bytes"));
        }
        if length == 0 {
            return Ok(());
        }
        match &mut self.tail {
            Some(tail) if !tail.own && tail.offset + tail.length == offset => tail.length += length,
            _ => {
                self.end_tail()?;
                self.tail = Some(Extent { own: false, offset, length });
            }
        }
        self.size += length;
        Ok(())
    }

    /// Tells whether an error came from a base that is not what it was.
    pub fn is_base_damaged(&self) -> bool {
        self.damaged
    }

    /// Makes the blob visible, and returns its digest and size. When this returns, it survives a crash of the machine.
    pub fn commit(mut self) -> Result<(Digest, u64), BlobError> {
        let digest = match self.finish() {
            Err(_) if self.damaged => return Err(BlobError::Damaged { digest: self.base_digest.clone() }),
            other => other.map_err(|error| FileError::of_write(&self.path, error))?,
        };
        self.home.pin(&digest)?;
        let path = self.home.layout().blob(&digest);
        let there = found(fs::metadata(&path)).during("read", &path)?;
        if there.is_some_and(|there| there.is_file() && there.len() == self.size) {
            return Ok((digest, self.size));
        }
        self.file.sync_data().during("write", &self.path)?;
        place(&self.path, &self.home.layout().patch(&digest), true)?;
        self.placed = true;
        Ok((digest, self.size))
    }

    fn finish(&mut self) -> io::Result<Digest> {
        self.end_tail()?;
        let mut table = Vec::with_capacity(self.extents.len() * EXTENT + FOOTER);
        for extent in &self.extents {
            for number in [u64::from(extent.own), extent.offset, extent.length] {
                table.extend_from_slice(&number.to_le_bytes());
            }
        }
        table.extend_from_slice(&self.base_digest.to_bytes());
        for number in [self.size, self.own, self.extents.len() as u64] {
            table.extend_from_slice(&number.to_le_bytes());
        }
        table.extend_from_slice(MARK);
        let check = Digest::sha256(&table).to_bytes();
        table.extend_from_slice(&check);
        self.file.write_all(&table)?;
        self.start_hashing()?;
        self.hashing.take().map_or_else(|| Err(io::Error::other("the patch was finished before")), Hashing::finish)
    }

    /// Hashes the tail, unless all so far is what the base begins with.
    fn end_tail(&mut self) -> io::Result<()> {
        let Some(tail) = self.tail.take() else { return Ok(()) };
        if tail.own {
            let bytes = std::mem::take(&mut self.pending);
            self.file.write_all(&bytes)?;
            let end = bytes.len();
            self.start_hashing()?.put(Part { bytes: Arc::new(bytes), start: 0, end })?;
            self.own += tail.length;
        } else if self.hashing.is_some() || tail.offset != self.ended {
            self.start_hashing()?;
            self.hash_base(tail.offset, tail.length)?;
        }
        self.ended += tail.length;
        match self.extents.last_mut() {
            Some(last) if last.own == tail.own && last.offset + last.length == tail.offset => {
                last.length += tail.length;
            }
            _ => self.extents.push(tail),
        }
        Ok(())
    }

    /// Takes the hash up where the base's own was at the last mark.
    fn start_hashing(&mut self) -> io::Result<&Hashing> {
        if self.hashing.is_none() {
            let (hasher, stretches) = self.base.marks.hasher_at((self.ended / STRIDE as u64) as usize);
            self.hashing = Some(Hashing::start(hasher)?);
            let marked = (stretches * STRIDE) as u64;
            self.hash_base(marked, self.ended - marked)?;
        }
        self.hashing.as_ref().ok_or_else(|| io::Error::other("the hash was not started"))
    }

    fn hash_base(&mut self, mut offset: u64, mut length: u64) -> io::Result<()> {
        while length > 0 {
            let (stretch, start) = ((offset / STRIDE as u64) as usize, (offset % STRIDE as u64) as usize);
            let bytes = match self.base.load(stretch) {
                Ok(Some(bytes)) => bytes,
                Ok(None) => {
                    self.damaged = true;
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "the base of a patch is damaged"));
                }
                Err(error) => return Err(error),
            };
            let end = bytes.len().min(start.saturating_add(usize::try_from(length).unwrap_or(usize::MAX)));
            let count = (end - start) as u64;
            let hashing = self.hashing.as_ref().ok_or_else(|| io::Error::other("the hash was not started"))?;
            hashing.put(Part { bytes, start, end })?;
            (offset, length) = (offset + count, length - count);
        }
        Ok(())
    }
}

impl Write for PatchWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        if self.tail.is_none_or(|tail| !tail.own) || self.pending.len() >= OWN {
            self.end_tail()?;
        }
        let tail = self.tail.get_or_insert(Extent { own: true, offset: self.own, length: 0 });
        tail.length += bytes.len() as u64;
        self.pending.extend_from_slice(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for PatchWriter {
    fn drop(&mut self) {
        if !self.placed {
            // What stays is swept with the session.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The blob that a patch stands on, read a stretch at a time.
#[derive(Debug)]
struct Base {
    file: File,
    size: u64,
    marks: Marks,
    /// Memory for stretches; what the hash has done with is used again.
    loaded: Vec<Arc<Vec<u8>>>,
    current: Option<(usize, Arc<Vec<u8>>)>,
}

impl Base {
    /// Reads a stretch; `None` when it is not what it was when the base was written.
    fn load(&mut self, stretch: usize) -> io::Result<Option<Arc<Vec<u8>>>> {
        if let Some((loaded, bytes)) = &self.current
            && *loaded == stretch
        {
            return Ok(Some(bytes.clone()));
        }
        self.current = None;
        let offset = (stretch * STRIDE) as u64;
        let length = self.size.saturating_sub(offset).min(STRIDE as u64) as usize;
        let free = self.loaded.iter_mut().position(|bytes| Arc::get_mut(bytes).is_some());
        let at = free.unwrap_or_else(|| {
            self.loaded.push(Arc::new(vec![0; STRIDE]));
            self.loaded.len() - 1
        });
        let Some(bytes) = Arc::get_mut(&mut self.loaded[at]) else {
            return Err(io::Error::other("a free buffer is not free"));
        };
        bytes.resize(length, 0);
        match self.file.read_exact_at(bytes, offset) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        if length == 0 || self.marks.sum(stretch) != Some(marks::sum(bytes)) {
            return Ok(None);
        }
        let bytes = self.loaded[at].clone();
        self.current = Some((stretch, bytes.clone()));
        Ok(Some(bytes))
    }
}

/// Bytes to hash.
struct Part {
    bytes: Arc<Vec<u8>>,
    start: usize,
    end: usize,
}

/// A hash that is taken by a thread of its own while the next bytes are read.
#[derive(Debug)]
struct Hashing {
    parts: SyncSender<Part>,
    thread: JoinHandle<Hasher>,
}

impl Hashing {
    fn start(mut hasher: Hasher) -> io::Result<Self> {
        let (parts, take) = sync_channel::<Part>(4);
        let work = move || {
            for part in take {
                hasher.update(&part.bytes[part.start..part.end]);
            }
            hasher
        };
        Ok(Self { parts, thread: std::thread::Builder::new().name("hash".into()).spawn(work)? })
    }

    fn put(&self, part: Part) -> io::Result<()> {
        self.parts.send(part).map_err(|_| io::Error::other("the hashing thread panicked"))
    }

    fn finish(self) -> io::Result<Digest> {
        drop(self.parts);
        Ok(self.thread.join().map_err(|_| io::Error::other("the hashing thread panicked"))?.finish())
    }
}

/// A patch as it is kept.
struct Patch {
    file: File,
    base: Digest,
    size: u64,
    extents: Vec<Extent>,
}

impl Patch {
    /// Reads a patch. One that is missing or damaged is the same as none.
    fn open(path: &Path) -> Result<Option<Self>, FileError> {
        let Some(file) = found(File::open(path)).during("open", path)? else { return Ok(None) };
        let length = file.metadata().during("read", path)?.len();
        Self::read(file, length).during("read", path)
    }

    fn read(file: File, length: u64) -> io::Result<Option<Self>> {
        let mut footer = [0; FOOTER];
        let Some(footer_at) = length.checked_sub(FOOTER as u64) else { return Ok(None) };
        file.read_exact_at(&mut footer, footer_at)?;
        let number = |at: usize| u64::from_le_bytes(footer[32 + at * 8..40 + at * 8].try_into().expect("8 bytes"));
        let (size, own, count) = (number(0), number(1), number(2));
        let table_at = count.checked_mul(EXTENT as u64).and_then(|table| footer_at.checked_sub(table));
        let Some(table_at) = table_at.filter(|table_at| *table_at == own && count <= MAX_EXTENTS) else {
            return Ok(None);
        };
        let mut table = vec![0; count as usize * EXTENT];
        file.read_exact_at(&mut table, table_at)?;
        let mut check = Hasher::new(Algorithm::Sha256);
        check.update(&table);
        check.update(&footer[..FOOTER - 32]);
        if check.finish().to_bytes() != footer[FOOTER - 32..] || !footer[..FOOTER - 32].ends_with(MARK) {
            return Ok(None);
        }
        let Some(base) = Digest::from_bytes(Algorithm::Sha256, &footer[..32]) else { return Ok(None) };
        let extent = |bytes: &[u8]| {
            let number = |at: usize| u64::from_le_bytes(bytes[at * 8..at * 8 + 8].try_into().expect("8 bytes"));
            Extent { own: number(0) == 1, offset: number(1), length: number(2) }
        };
        Ok(Some(Self { file, base, size, extents: table.chunks_exact(EXTENT).map(extent).collect() }))
    }

    /// Returns how many bytes the base must have.
    fn needs(&self) -> u64 {
        let ends = self.extents.iter().filter(|extent| !extent.own).map(|extent| extent.offset + extent.length);
        ends.max().unwrap_or(0)
    }
}

/// Reads a blob that is kept as a patch.
#[derive(Debug)]
pub(super) struct PatchReader {
    base: File,
    own: File,
    extents: std::vec::IntoIter<Extent>,
    current: Option<Extent>,
}

impl Read for PatchReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(extent) = self.current.filter(|extent| extent.length > 0).or_else(|| self.extents.next()) else {
            return Ok(0);
        };
        let most = usize::try_from(extent.length).map_or(buffer.len(), |length| length.min(buffer.len()));
        let file = if extent.own { &self.own } else { &self.base };
        let count = file.read_at(&mut buffer[..most], extent.offset)?;
        if count == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let read = count as u64;
        self.current = Some(Extent { offset: extent.offset + read, length: extent.length - read, ..extent });
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
