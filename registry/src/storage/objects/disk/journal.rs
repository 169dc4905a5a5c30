//! [`Journal`]: changes of small objects in their order, in files that are only added to.
//!
//! ```text
//! journal/LSN                      named by the number of its first change, 20 digits
//! ┌────────────────────────────────────────────────────────────────────────┐
//! │ "slipreg1"  lsn:8  chain:4  crc:4                           24 bytes   │
//! ├────────────────────────────────────────────────────────────────────────┤
//! │ length:4 crc:4 lsn:8 at:8 change:1 0:1 key:2 body:4, then key and body │ padded to 8
//! │ …                                                                      │
//! ├────────────────────────────────────────────────────────────────────────┤
//! │ zeros, written ahead, so that adding does not change how long it is    │
//! └────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Numbers are little endian. The checksum of an entry begins with that of the one before, so that what stands there from
//! a life before a crash is never taken for the next entry. An entry that is not whole is the end: its writer is about
//! to finish it, or died.
//!
//! Whoever adds something holds `lock`, and looks first what others added. Whoever reads looks, too.
//!
//! **Invariant:** nothing is added to a file before the one before is safe as a whole. So what ends early is the last that
//! has anything in it; otherwise it is damaged, and what follows is left alone.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use jiff::Timestamp;

use super::super::{Object, ObjectError};
use super::cache::Cache;
use super::io_log::Io;
use super::{failed, found, version};
use crate::storage::keys::{self, Key, Prefix};

const MAGIC: &[u8; 8] = b"slipreg1";
const FILE_HEADER: u64 = 24;
const HEADER: usize = 32;
/// So much is written ahead.
const AHEAD: u64 = 1024 * 1024;
/// The longest entry that is believed in.
const LONGEST: u32 = 64 * 1024 * 1024;

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It got a body.
    Put,
    /// It was removed.
    Delete,
    /// Nothing; the journal goes on in another file.
    Next,
}

impl Change {
    fn code(self) -> u8 {
        match self {
            Self::Put => 1,
            Self::Delete => 2,
            Self::Next => 3,
        }
    }

    fn of(code: u8) -> Option<Self> {
        [Self::Put, Self::Delete, Self::Next].into_iter().find(|change| change.code() == code)
    }
}

/// A file of the journal.
#[derive(Debug)]
pub(super) struct Segment {
    first: u64,
    file: File,
    path: PathBuf,
}

impl Segment {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn length(&self) -> Result<u64, ObjectError> {
        self.file.metadata().map(|it| it.len()).map_err(|error| failed("read", &self.path, error))
    }

    /// Makes what is in it safe, and its name.
    pub(super) fn sync(&self, io: &Io) -> io::Result<()> {
        io.sync(&self.file, &self.path)
    }
}

/// The latest change of a key, as long as it is not in a file.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) lsn: u64,
    pub(super) change: Change,
    segment: Arc<Segment>,
    /// Where the body is.
    offset: u64,
    length: u32,
    at: Timestamp,
}

impl Pending {
    pub(super) fn read(&self) -> Result<Object, ObjectError> {
        let mut bytes = vec![0; self.length as usize];
        let read = self.segment.file.read_exact_at(&mut bytes, self.offset);
        read.map_err(|error| failed("read", &self.segment.path, error))?;
        Ok(Object { bytes: bytes.into(), version: version(self.lsn), modified: self.at })
    }
}

/// The journal as far as this process has read it.
#[derive(Debug)]
pub(super) struct Journal {
    folder: PathBuf,
    io: Io,
    lock: Arc<File>,
    /// From how many bytes on the next file is begun.
    most: u64,
    /// Oldest first; the last one is added to. Never empty.
    segments: VecDeque<Arc<Segment>>,
    /// Those in which something may not be safe.
    unsynced: Vec<Arc<Segment>>,
    /// Where the next entry goes.
    position: u64,
    /// Up to where there are zeros.
    filled: u64,
    next: u64,
    chain: u32,
    last_at: Timestamp,
    pending: BTreeMap<Key, Pending>,
    generation: Arc<AtomicU64>,
    /// Counts what was, or may have been, a change of a tag's record.
    tag_changes: u64,
    pub(super) cache: Cache,
    /// How a file could not be made safe; from then on nothing can be believed.
    sync_failed: Option<io::ErrorKind>,
}

/// The right to add to the journal.
#[derive(Debug)]
pub(super) struct Lock(Arc<File>);

impl Drop for Lock {
    fn drop(&mut self) {
        // The kernel unlocks it with the file if this does not.
        let _ = self.0.unlock();
    }
}

/// How long an object is that is not in a file yet, and how old; none when it was deleted.
pub(super) type Latest = (Key, Option<(u64, Timestamp)>);

impl Journal {
    pub(super) fn open(folder: &Path, io: Io, most: u64, cache: usize) -> Result<Self, ObjectError> {
        let path = folder.join("lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = Arc::new(lock.map_err(|error| failed("open", &path, error))?);
        let folder = folder.join("journal");
        lock.lock().map_err(|error| failed("lock", &path, error))?;
        let _lock = Lock(lock.clone());
        let path = segment_path(&folder, 1);
        match numbers(&folder)?.as_slice() {
            [] => drop(create(&folder, &io, 1, 0)?),
            // It was being made when the machine crashed.
            [1] if path.exists() && open_segment(&folder, 1)?.is_none() => {
                io.remove(&path).map_err(|error| failed("remove", &path, error))?;
                create(&folder, &io, 1, 0)?;
            }
            _ => {}
        }
        let (first, chain) = oldest_segment(&folder, 0)?;
        let first = Arc::new(first);
        let mut journal = Self {
            folder,
            io,
            lock,
            most,
            unsynced: vec![first.clone()],
            position: FILE_HEADER,
            filled: first.length()?,
            next: first.first,
            segments: VecDeque::from([first]),
            chain,
            last_at: Timestamp::MIN,
            pending: BTreeMap::new(),
            generation: Arc::default(),
            tag_changes: 0,
            cache: Cache::new(cache),
            sync_failed: None,
        };
        journal.catch_up()?;
        journal.remove_unused()?;
        Ok(journal)
    }

    /// Removes files that were made to go on in, but never were. The caller holds the lock and has caught up.
    fn remove_unused(&self) -> Result<(), ObjectError> {
        let active = self.active();
        for number in numbers(&self.folder)?.into_iter().filter(|number| *number > active.first) {
            let path = segment_path(&self.folder, number);
            let file = File::open(&path).map_err(|error| failed("open", &path, error))?;
            let mut header = [0; HEADER];
            let used = read_at(&file, &mut header, FILE_HEADER).map_err(|error| failed("read", &path, error))?
                && header != [0; HEADER];
            if used {
                // All of a file is safe before the next one is used, so this is not what a crash leaves.
                let source = format!(
                    "it is damaged at byte {}, and changes follow in `{}`: restore it, or move those that follow away \
                     to go on without them",
                    self.position,
                    path.display()
                );
                let what = active.path.display().to_string();
                return Err(ObjectError::Failed { action: "read all of", what, source: source.into() });
            }
            self.io.remove(&path).map_err(|error| failed("remove", &path, error))?;
        }
        Ok(())
    }

    /// Begins again with what is in the folder: others went on so far that what comes next is in files already.
    fn reload(&mut self) -> Result<(), ObjectError> {
        let (first, chain) = oldest_segment(&self.folder, self.next + 1)?;
        self.filled = first.length()?;
        let first = Arc::new(first);
        self.generation.fetch_add(1, Ordering::SeqCst);
        // What the others did was not seen.
        self.tag_changes += 1;
        self.cache.clear();
        self.pending.clear();
        self.unsynced = vec![first.clone()];
        (self.position, self.next, self.chain) = (FILE_HEADER, first.first, chain);
        self.segments = VecDeque::from([first]);
        Ok(())
    }

    /// Waits for the right to add.
    pub(super) fn lock(&self) -> Result<Lock, ObjectError> {
        self.lock.lock().map_err(|error| failed("lock", &self.folder, error))?;
        Ok(Lock(self.lock.clone()))
    }

    fn active(&self) -> &Arc<Segment> {
        self.segments.back().expect("there is always one to add to")
    }

    /// Returns the number that the next change gets.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Returns a number that is another after each change of a tag's record.
    pub(super) fn tag_changes(&self) -> u64 {
        self.tag_changes
    }

    /// Returns when the latest change was made.
    pub(super) fn last_at(&self) -> Timestamp {
        self.last_at
    }

    /// Reads what others added.
    pub(super) fn catch_up(&mut self) -> Result<(), ObjectError> {
        while let Some(entry) = self.read_entry()? {
            self.take_in(entry)?;
        }
        Ok(())
    }

    /// Tells whether others added something that was not read yet.
    pub(super) fn is_behind(&self) -> Result<bool, ObjectError> {
        Ok(self.read_entry()?.is_some())
    }

    fn read_entry(&self) -> Result<Option<ReadEntry>, ObjectError> {
        let active = self.active();
        let mut header = [0; HEADER];
        let error = |error| failed("read", &active.path, error);
        if !read_at(&active.file, &mut header, self.position).map_err(error)? {
            return Ok(None);
        }
        let length = u32::from_le_bytes(header[..4].try_into().expect("4 bytes"));
        if !(HEADER as u32..=LONGEST).contains(&length) || number_in(&header) != self.next {
            return Ok(None);
        }
        let mut rest = vec![0; length as usize - HEADER];
        if !read_at(&active.file, &mut rest, self.position + HEADER as u64).map_err(error)? {
            return Ok(None);
        }
        let crc = u32::from_le_bytes(header[4..8].try_into().expect("4 bytes"));
        let key_length = usize::from(u16::from_le_bytes(header[26..28].try_into().expect("2 bytes")));
        let body_length = u32::from_le_bytes(header[28..32].try_into().expect("4 bytes"));
        let change = Change::of(header[24]);
        let fits = key_length + body_length as usize <= rest.len();
        let (Some(change), true, true) = (change, fits, checksum(self.chain, &header, &[&rest]) == crc) else {
            return Ok(None);
        };
        let key = std::str::from_utf8(&rest[..key_length]).unwrap_or_default();
        let millis = i64::from_le_bytes(header[16..24].try_into().expect("8 bytes"));
        Ok(Some(ReadEntry {
            length,
            crc,
            change,
            key: Key::listed(key),
            body: (key_length, body_length),
            at: Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MIN),
        }))
    }

    fn take_in(&mut self, entry: ReadEntry) -> Result<(), ObjectError> {
        let (key_length, length) = entry.body;
        let offset = self.position + (HEADER + key_length) as u64;
        match entry.change {
            Change::Next => {
                // First the file: until it is open, nothing has changed, and the next call tries again.
                let number = self.next + 1;
                let Some((segment, _)) = open_segment(&self.folder, number)? else {
                    let path = segment_path(&self.folder, number);
                    if path.exists() {
                        return Err(ObjectError::Damaged { what: path.display().to_string(), version: None });
                    }
                    return self.reload();
                };
                let filled = segment.length()?;
                self.advance(u64::from(entry.length), entry.crc, entry.at);
                self.go_on_in(segment, filled);
                self.forget_removed();
                Ok(())
            }
            change => {
                self.advance(u64::from(entry.length), entry.crc, entry.at);
                let (lsn, segment) = (self.next - 1, self.active().clone());
                self.cache.remove(&entry.key);
                self.tag_changes += u64::from(keys::is_tag(&entry.key));
                self.pending.insert(entry.key, Pending { lsn, change, segment, offset, length, at: entry.at });
                Ok(())
            }
        }
    }

    fn advance(&mut self, length: u64, crc: u32, at: Timestamp) {
        self.position += length;
        self.next += 1;
        self.chain = crc;
        self.last_at = self.last_at.max(at);
        let active = self.active().clone();
        if !self.unsynced.iter().any(|segment| segment.first == active.first) {
            self.unsynced.push(active);
        }
    }

    fn go_on_in(&mut self, segment: Segment, filled: u64) {
        self.segments.push_back(Arc::new(segment));
        (self.position, self.filled) = (FILE_HEADER, filled);
    }

    /// Adds a change, and returns its number. The caller holds the lock and has caught up.
    pub(super) fn append(&mut self, key: &Key, change: Change, body: Bytes, at: Timestamp) -> Result<u64, ObjectError> {
        // Time does not run backwards here, whatever the clock does.
        let at = at.max(self.last_at);
        let at = Timestamp::from_millisecond(at.as_millisecond()).unwrap_or(at);
        let length = entry_length(key.as_str().len(), body.len());
        if self.position + length + entry_length(0, 0) > self.most && self.position > FILE_HEADER {
            self.rotate(at)?;
        }
        if self.position == FILE_HEADER {
            self.sync_previous()?;
        }
        let offset = self.position + (HEADER + key.as_str().len()) as u64;
        let lsn = self.write(key.as_str(), change, &body, at)?;
        match change {
            Change::Put => {
                let object = Object { bytes: body.clone(), version: version(lsn), modified: at };
                self.cache.put(key, &object);
            }
            Change::Delete | Change::Next => self.cache.remove(key),
        }
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let pending = Pending { lsn, change, segment: self.active().clone(), offset, length, at };
        self.tag_changes += u64::from(keys::is_tag(key));
        self.pending.insert(key.clone(), pending);
        Ok(lsn)
    }

    fn write(&mut self, key: &str, change: Change, body: &[u8], at: Timestamp) -> Result<u64, ObjectError> {
        let length = entry_length(key.len(), body.len());
        let too_long =
            || ObjectError::Failed { action: "write", what: key.to_owned(), source: "it is too long".into() };
        let stored = u32::try_from(length).ok().filter(|length| *length <= LONGEST).ok_or_else(too_long)?;
        let key_length = u16::try_from(key.len()).map_err(|_| too_long())?;
        let body_length = u32::try_from(body.len()).map_err(|_| too_long())?;
        let mut entry = Vec::with_capacity(stored as usize);
        entry.extend_from_slice(&stored.to_le_bytes());
        entry.extend_from_slice(&[0; 4]);
        entry.extend_from_slice(&self.next.to_le_bytes());
        entry.extend_from_slice(&at.as_millisecond().to_le_bytes());
        entry.extend_from_slice(&[change.code(), 0]);
        entry.extend_from_slice(&key_length.to_le_bytes());
        entry.extend_from_slice(&body_length.to_le_bytes());
        entry.extend_from_slice(key.as_bytes());
        entry.extend_from_slice(body);
        entry.resize(stored as usize, 0);
        let header: &[u8; HEADER] = entry[..HEADER].try_into().expect("a header");
        let crc = checksum(self.chain, header, &[&entry[HEADER..]]);
        entry[4..8].copy_from_slice(&crc.to_le_bytes());
        let active = self.active().clone();
        let error = |error| failed("write", &active.path, error);
        let end = self.position + length;
        if end > self.filled {
            // As one write, so that the disk learns of the new length once in a while only.
            let zeros = (end + AHEAD).min(self.most.max(end)) - end;
            entry.resize(entry.len() + usize::try_from(zeros).unwrap_or(0), 0);
            self.io.write(&active.file, &active.path, self.position, &entry).map_err(error)?;
            self.filled = end + zeros;
        } else {
            self.io.write(&active.file, &active.path, self.position, &entry).map_err(error)?;
        }
        self.advance(length, crc, at);
        Ok(self.next - 1)
    }

    /// Goes on in another file.
    fn rotate(&mut self, at: Timestamp) -> Result<(), ObjectError> {
        // First the file, so that whoever reads that it goes on finds where. Its name is safe when this returns.
        let number = self.next + 1;
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&(HEADER as u32).to_le_bytes());
        header[8..16].copy_from_slice(&self.next.to_le_bytes());
        header[16..24].copy_from_slice(&at.as_millisecond().to_le_bytes());
        header[24] = Change::Next.code();
        let chain = checksum(self.chain, &header, &[&[]]);
        // What somebody began who died, or had no space.
        self.remove_unused()?;
        let segment = create(&self.folder, &self.io, number, chain)?;
        self.write("", Change::Next, &[], at)?;
        self.go_on_in(segment, FILE_HEADER);
        Ok(())
    }

    /// Makes the file before the active one safe.
    fn sync_previous(&mut self) -> Result<(), ObjectError> {
        // One that is applied is safe.
        let Some(previous) = self.segments.iter().rev().nth(1).cloned() else { return Ok(()) };
        previous.sync(&self.io).map_err(|error| {
            self.sync_failed = Some(error.kind());
            failed("sync", &previous.path, error)
        })
    }

    /// Returns the latest change of a key that is not in a file.
    pub(super) fn pending(&self, key: &Key) -> Option<Pending> {
        self.pending.get(key).cloned()
    }

    /// Returns what the journal says of keys below a prefix and after a key: what is there, and what is not any more. It
    /// stops after one more than `limit` that are there, and says where.
    pub(super) fn pending_below(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> (Vec<Latest>, Option<Key>) {
        let start = prefix.key("");
        let from = after.map_or(Bound::Included(&start), Bound::Excluded);
        let below = self.pending.range((from, Bound::Unbounded));
        let (mut found, mut there) = (Vec::new(), 0);
        for (key, pending) in below.take_while(|(key, _)| key.as_str().starts_with(prefix.as_str())) {
            let entry = (pending.change == Change::Put).then(|| (u64::from(pending.length), pending.at));
            there += usize::from(entry.is_some());
            found.push((key.clone(), entry));
            if there > limit {
                return (found, Some(key.clone()));
            }
        }
        (found, None)
    }

    /// Returns a number that changes whenever something is not pending any more: what was read of files before is old.
    pub(super) fn generation(&self) -> Arc<AtomicU64> {
        self.generation.clone()
    }

    /// Returns the files in which something may not be safe, oldest first.
    pub(super) fn unsynced(&self) -> io::Result<Vec<Arc<Segment>>> {
        self.sync_failed.map_or_else(|| Ok(self.unsynced.clone()), |kind| Err(kind.into()))
    }

    /// Notes that files were synced, as they were when [`Self::unsynced`] returned them.
    pub(super) fn synced(&mut self, segments: &[Arc<Segment>]) {
        // To the last one more may have been added since, also if it is not the last any more.
        let closed = segments.split_last().map_or(&[][..], |(_, closed)| closed);
        self.unsynced.retain(|it| !closed.iter().any(|synced| synced.first == it.first));
    }

    /// Tells whether there are files to which nothing is added any more.
    pub(super) fn has_closed(&self) -> bool {
        self.segments.len() > 1
    }

    /// Tells of how many files the journal is.
    pub(super) fn files(&self) -> usize {
        self.segments.len()
    }

    /// Returns the oldest file to which nothing is added any more.
    pub(super) fn oldest_closed(&self) -> Option<Arc<Segment>> {
        self.segments.front().filter(|_| self.has_closed()).cloned()
    }

    /// Returns the changes of a file that are the latest of their keys.
    pub(super) fn pending_of(&self, segment: &Segment) -> Vec<(Key, Pending)> {
        let of = self.pending.iter().filter(|(_, pending)| pending.segment.first == segment.first);
        of.map(|(key, pending)| (key.clone(), pending.clone())).collect()
    }

    /// Notes that the changes of a file are in files of their own.
    pub(super) fn applied(&mut self, segment: &Segment, changes: &[(Key, Pending)]) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        for (key, applied) in changes {
            if self.pending.get(key).is_some_and(|pending| pending.lsn == applied.lsn) {
                self.pending.remove(key);
            }
        }
        self.segments.retain(|it| it.first != segment.first);
        self.unsynced.retain(|it| it.first != segment.first);
    }

    /// Forgets what is in files that another process has applied.
    pub(super) fn forget_removed(&mut self) {
        while self.has_closed() {
            let Some(oldest) = self.segments.front().cloned() else { break };
            if oldest.path.exists() {
                break;
            }
            let changes = self.pending_of(&oldest);
            self.applied(&oldest, &changes);
        }
    }
}

struct ReadEntry {
    length: u32,
    crc: u32,
    change: Change,
    key: Key,
    /// How long the key is, and how long the body.
    body: (usize, u32),
    at: Timestamp,
}

fn number_in(header: &[u8; HEADER]) -> u64 {
    u64::from_le_bytes(header[8..16].try_into().expect("8 bytes"))
}

fn entry_length(key: usize, body: usize) -> u64 {
    ((HEADER + key + body) as u64).next_multiple_of(8)
}

/// Checks the header but for the checksum in it, and what comes after.
fn checksum(chain: u32, header: &[u8; HEADER], rest: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&chain.to_le_bytes());
    hasher.update(&header[..4]);
    hasher.update(&header[8..]);
    rest.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

/// Reads all of a buffer; `false` when the file ends before.
fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<bool> {
    match file.read_exact_at(buffer, at) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn segment_path(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{first:020}"))
}

fn numbers(folder: &Path) -> Result<Vec<u64>, ObjectError> {
    let error = |error| failed("list", folder, error);
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder).map_err(error)? {
        let name = entry.map_err(error)?.file_name();
        numbers.extend(name.to_str().filter(|name| name.len() == 20).and_then(|name| name.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn create(folder: &Path, io: &Io, first: u64, chain: u32) -> Result<Segment, ObjectError> {
    let path = segment_path(folder, first);
    let error = |error| failed("create", &path, error);
    let file = io.create(&path).map_err(error)?;
    let mut header = [0; FILE_HEADER as usize];
    header[..8].copy_from_slice(MAGIC);
    header[8..16].copy_from_slice(&first.to_le_bytes());
    header[16..20].copy_from_slice(&chain.to_le_bytes());
    let crc = crc32fast::hash(&header[..20]);
    header[20..].copy_from_slice(&crc.to_le_bytes());
    io.write(&file, &path, 0, &header).map_err(error)?;
    io.sync(&file, &path).map_err(error)?;
    io.sync_folder(folder).map_err(error)?;
    Ok(Segment { first, file, path })
}

/// Opens the oldest file of the journal that begins with a change or a later one: all before are in files of their own.
fn oldest_segment(folder: &Path, from: u64) -> Result<(Segment, u32), ObjectError> {
    loop {
        let damaged = |path: &Path| ObjectError::Damaged { what: path.display().to_string(), version: None };
        let oldest = numbers(folder)?.into_iter().find(|number| *number >= from).ok_or_else(|| damaged(folder))?;
        if let Some(opened) = open_segment(folder, oldest)? {
            return Ok(opened);
        }
        let path = segment_path(folder, oldest);
        if path.exists() {
            return Err(damaged(&path));
        }
        // It was applied and removed since the folder was listed.
    }
}

/// Opens a file of the journal, and returns the checksum that its first entry begins with; `None` when it has no whole
/// beginning.
fn open_segment(folder: &Path, first: u64) -> Result<Option<(Segment, u32)>, ObjectError> {
    let path = segment_path(folder, first);
    let error = |error| failed("open", &path, error);
    let Some(file) = found(File::options().read(true).write(true).open(&path)).map_err(error)? else { return Ok(None) };
    let mut header = [0; FILE_HEADER as usize];
    let whole = read_at(&file, &mut header, 0).map_err(error)?
        && header[..8] == *MAGIC
        && header[8..16] == first.to_le_bytes()
        && header[20..] == crc32fast::hash(&header[..20]).to_le_bytes();
    let chain = u32::from_le_bytes(header[16..20].try_into().expect("4 bytes"));
    Ok(whole.then_some((Segment { first, file, path }, chain)))
}
