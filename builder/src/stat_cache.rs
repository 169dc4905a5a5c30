//! The digests of a context's files from build to build, so that files that did not change are not read again.
//!
//! A digest is filed under what the kernel says of the file: device, inode, size, mtime and ctime. A file that changed
//! in the two seconds before a build is not kept, since it may change again without its times changing.
//!
//! What earlier builds found is a sorted file. What this build finds is in memory until it is much; then it goes to
//! sorted files without names, and those of like size are made one.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Read};
use std::iter::Peekable;
use std::path::{Path, PathBuf};

use oci::{Algorithm, Digest};
use store::Store;

use crate::fault::Fault;
use crate::files::source::Stamp;
use crate::files::unpack::unnamed_file;

mod table;

use table::{Table, TableWriter};

const MAGIC: &[u8; 16] = b"slipway stats 3\n";
const STAMP: usize = 8 * 5 + 4 * 2;
const RECORD: usize = STAMP + 32;
/// How long a file must have rested to be kept.
const RESTED: i64 = 2;
/// Digests of this build that are in memory at most.
const IN_MEMORY: usize = 1 << 15;

/// A stamp as it is kept.
type Stamped = [u8; STAMP];
/// A stamp and what the file holds.
type Record = [u8; RECORD];

/// What is known of a context's files.
#[derive(Debug)]
pub(crate) struct Digests {
    /// Where files without names lie.
    folder: PathBuf,
    /// What earlier builds found.
    old: Option<Table>,
    /// For each of these, whether this build asked for it.
    used: Vec<bool>,
    /// What this build found, the older the larger.
    runs: Vec<Table>,
    /// What it found last.
    new: HashMap<Stamped, [u8; 32]>,
    /// How much stays in memory.
    limit: usize,
}

impl Digests {
    /// Knows nothing. What does not fit into memory later will lie in a folder of the disk.
    pub(crate) fn new(folder: &Path) -> Self {
        let folder = folder.to_owned();
        Self { folder, old: None, used: Vec::new(), runs: Vec::new(), new: HashMap::new(), limit: IN_MEMORY }
    }

    /// Returns the folder for what does not fit into memory.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn get(&mut self, stamp: &Stamp) -> Option<Digest> {
        let stamp = encode(stamp);
        if let Some(hash) = self.new.get(&stamp) {
            return Some(digest(hash));
        }
        if let Some((_, record)) = self.runs.iter_mut().rev().find_map(|run| run.find(&stamp)) {
            return Some(digest(hash_in(&record)));
        }
        let (at, record) = self.old.as_mut()?.find(&stamp)?;
        self.used[at] = true;
        Some(digest(hash_in(&record)))
    }

    pub(crate) fn contains(&mut self, stamp: &Stamp) -> bool {
        let stamp = encode(stamp);
        self.new.contains_key(&stamp)
            || self.runs.iter_mut().any(|run| run.find(&stamp).is_some())
            || self.old.as_mut().is_some_and(|old| old.find(&stamp).is_some())
    }

    pub(crate) fn insert(&mut self, stamp: &Stamp, digest: &Digest) {
        let Some(hash) = hash(digest) else { return };
        self.new.insert(encode(stamp), hash);
        if self.new.len() >= self.limit {
            // What cannot be kept is read again if it is asked for.
            let _ = self.spill();
            self.new.clear();
        }
    }

    /// Moves what is in memory to a file, together with the files before it that are not larger.
    fn spill(&mut self) -> io::Result<()> {
        let mut count = self.new.len();
        let mut merged = Vec::new();
        while let Some(run) = self.runs.pop_if(|run| run.count() <= count) {
            count += run.count();
            merged.push(run);
        }
        let file = unnamed_file(&self.folder)?;
        let mut writer = TableWriter::new(BufWriter::with_capacity(64 << 10, &file));
        let runs = merged.iter().rev().map(|run| Box::new(run.records().map(|(_, record)| record)) as Box<_>);
        for record in Merge::of(runs.chain([sorted(&self.new)])) {
            writer.push(&record)?;
        }
        writer.finish()?;
        self.runs.extend(Table::open(file, 0)?);
        Ok(())
    }
}

/// Yields records from several sorted lists in order; of those with the same stamp the one of the last list.
struct Merge<'a>(Vec<Peekable<Box<dyn Iterator<Item = Record> + 'a>>>);

impl<'a> Merge<'a> {
    fn of(lists: impl IntoIterator<Item = Box<dyn Iterator<Item = Record> + 'a>>) -> Self {
        Self(lists.into_iter().map(Iterator::peekable).collect())
    }
}

impl Iterator for Merge<'_> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        let stamp = self.0.iter_mut().filter_map(|list| list.peek().map(stamp_in).copied()).min()?;
        let same = self.0.iter_mut().filter_map(|list| list.next_if(|record| *stamp_in(record) == stamp));
        same.last()
    }
}

fn sorted<'a>(new: &HashMap<Stamped, [u8; 32]>) -> Box<dyn Iterator<Item = Record> + 'a> {
    let mut records: Vec<Record> = new.iter().map(|(stamp, hash)| record(stamp, hash)).collect();
    records.sort_unstable();
    Box::new(records.into_iter())
}

/// Reads what is known. A file that cannot be read or is damaged is the same as none.
pub(crate) fn load(store: &Store, folder: &Path) -> Digests {
    let mut digests = Digests::new(store.home());
    let open = || {
        let mut file = File::open(path(store, folder))?;
        let mut magic = [0; MAGIC.len()];
        file.read_exact(&mut magic)?;
        if magic == *MAGIC { Table::open(file, MAGIC.len() as u64) } else { Ok(None) }
    };
    digests.old = open().unwrap_or_default();
    digests.used = vec![false; digests.old.as_ref().map_or(0, Table::count)];
    digests
}

/// Keeps what is known, if there is anything new.
pub(crate) fn save(store: &Store, folder: &Path, digests: &Digests, now: jiff::Timestamp) -> Result<(), Fault> {
    let limit = now.as_second() - RESTED;
    let rested = |record: &Record| changed(stamp_in(record)) < limit;
    if digests.runs.is_empty() && !sorted(&digests.new).any(|record| rested(&record)) {
        return Ok(());
    }
    // Another Dockerfile may use other files of the folder; but what nobody uses any more must go some day.
    let new = digests.runs.iter().map(Table::count).sum::<usize>() + digests.new.len();
    let used = digests.used.iter().filter(|used| **used).count() + new;
    let keep_all = digests.used.len() + new <= 5 * used + 20_000;
    let old = digests.old.iter().flat_map(Table::records);
    let old = old.filter(|(at, _)| keep_all || digests.used[*at]).map(|(_, record)| record);
    let runs =
        digests.runs.iter().map(|run| Box::new(run.records().map(|(_, record)| record).filter(&rested)) as Box<_>);
    let lists =
        [Box::new(old) as Box<_>].into_iter().chain(runs).chain([Box::new(sorted(&digests.new).filter(rested)) as _]);
    // Not synced: what a crash damages is noticed, and counts as nothing known.
    let path = path(store, folder);
    store.remember(&path, |file| {
        let write = || {
            let mut out = BufWriter::with_capacity(64 << 10, file);
            io::Write::write_all(&mut out, MAGIC)?;
            let mut writer = TableWriter::new(out);
            Merge::of(lists).try_for_each(|record| writer.push(&record))?;
            writer.finish()
        };
        write().map_err(|error| Fault::because(format!("cannot write `{}`", path.display()), &error))
    })
}

fn path(store: &Store, folder: &Path) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    store.layout().context_digests(&Digest::sha256(folder.as_os_str().as_bytes()))
}

/// Writes a stamp so that bytes are sorted as inodes are: mostly those of one folder lie side by side.
fn encode(stamp: &Stamp) -> Stamped {
    let Stamp { dev, ino, size, mtime, ctime } = stamp;
    let mut bytes = [0; STAMP];
    let numbers = [*dev, *ino, *size, mtime.seconds.cast_unsigned(), ctime.seconds.cast_unsigned()];
    for (room, number) in bytes.chunks_exact_mut(8).zip(numbers) {
        room.copy_from_slice(&number.to_be_bytes());
    }
    bytes[40..44].copy_from_slice(&mtime.nanos.to_be_bytes());
    bytes[44..].copy_from_slice(&ctime.nanos.to_be_bytes());
    bytes
}

/// Returns the second in which a file changed last.
fn changed(stamp: &Stamped) -> i64 {
    let second = |at: usize| i64::from_be_bytes(stamp[at..at + 8].try_into().expect("8 bytes"));
    second(24).max(second(32))
}

fn record(stamp: &Stamped, hash: &[u8; 32]) -> Record {
    let mut record = [0; RECORD];
    record[..STAMP].copy_from_slice(stamp);
    record[STAMP..].copy_from_slice(hash);
    record
}

fn stamp_in(record: &Record) -> &Stamped {
    record.first_chunk().expect("a record begins with a stamp")
}

fn hash_in(record: &Record) -> &[u8; 32] {
    record.last_chunk().expect("a record ends with a hash")
}

fn digest(hash: &[u8; 32]) -> Digest {
    Digest::from_bytes(Algorithm::Sha256, hash).expect("SHA-256 has 32 bytes")
}

fn hash(digest: &Digest) -> Option<[u8; 32]> {
    digest.to_bytes().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use layer::Timestamp;

    fn stamp(ino: u64) -> Stamp {
        let time = Timestamp::from_seconds(1000);
        Stamp { dev: 1, ino, size: 3, mtime: time, ctime: time }
    }

    #[test]
    fn what_does_not_fit_into_memory_is_found_again_in_this_build_and_the_next() {
        let folder = tempfile::tempdir().expect("tempdir");
        let store = Store::open(&folder.path().join("home")).expect("opened");
        let context = folder.path();
        let content = |ino: u64| Digest::sha256(&ino.to_le_bytes());
        let mut digests = load(&store, context);
        digests.limit = 16;
        // In an order that is not that of the inodes, some twice.
        let order = |count: u64| (0..2 * count).map(move |index| index * 7919 % count);
        order(1000).for_each(|ino| digests.insert(&stamp(ino), &content(ino)));
        assert!(!digests.runs.is_empty() && digests.runs.len() < 10, "{}", digests.runs.len());
        let all = |digests: &mut Digests| {
            (0..1000).all(|ino| digests.contains(&stamp(ino)) && digests.get(&stamp(ino)) == Some(content(ino)))
                && !digests.contains(&stamp(1000))
        };
        assert!(all(&mut digests));
        let now = jiff::Timestamp::from_second(2000).expect("a time");
        save(&store, context, &digests, now).expect("saved");
        let mut digests = load(&store, context);
        assert_eq!(digests.used.len(), 1000);
        assert!(all(&mut digests));
        // One more, and one that has changed just now.
        digests.insert(&stamp(5000), &content(5000));
        let fresh = Stamp { mtime: Timestamp::from_seconds(1999), ..stamp(5001) };
        digests.insert(&fresh, &content(5001));
        save(&store, context, &digests, now).expect("saved");
        let mut digests = load(&store, context);
        assert!(all(&mut digests) && digests.contains(&stamp(5000)) && !digests.contains(&fresh));
    }
}
