//! The digests of a context's files from build to build, so that files that did not change are not read again.
//!
//! A digest is filed under what the kernel says of the file: device, inode, size, mtime and ctime. A file that changed
//! in the two seconds before a build is not kept, since it may change again without its times changing.

use std::collections::HashMap;
use std::path::Path;

use oci::{Algorithm, Digest};
use store::Store;

use crate::fault::Fault;
use crate::files::source::Stamp;

const MAGIC: &[u8; 16] = b"slipway stats 2\n";
const STAMP: usize = 8 * 5 + 4 * 2;
const RECORD: usize = STAMP + 32;
/// How long a file must have rested to be kept.
const RESTED: i64 = 2;

/// What is known of a context's files.
#[derive(Debug, Default)]
pub(crate) struct Digests {
    /// What earlier builds found: whole records as they are kept, sorted, behind the magic. They stay as bytes, since with
    /// many files they take memory.
    bytes: Vec<u8>,
    /// For each of these, whether this build asked for it.
    used: Vec<bool>,
    /// What this build found.
    new: HashMap<[u8; STAMP], [u8; 32]>,
}

impl Digests {
    pub(crate) fn get(&mut self, stamp: &Stamp) -> Option<Digest> {
        let stamp = encode(stamp);
        if let Some(hash) = self.new.get(&stamp) {
            return Some(digest(hash));
        }
        let at = self.find(&stamp)?;
        self.used[at] = true;
        Some(digest(self.records()[at].last_chunk().expect("a record ends with a hash")))
    }

    pub(crate) fn contains(&self, stamp: &Stamp) -> bool {
        let stamp = encode(stamp);
        self.new.contains_key(&stamp) || self.find(&stamp).is_some()
    }

    pub(crate) fn insert(&mut self, stamp: &Stamp, digest: &Digest) {
        if let Some(hash) = hash(digest) {
            self.new.insert(encode(stamp), hash);
        }
    }

    fn records(&self) -> &[[u8; RECORD]] {
        self.bytes.get(MAGIC.len()..).unwrap_or_default().as_chunks().0
    }

    fn find(&self, stamp: &[u8; STAMP]) -> Option<usize> {
        self.records().binary_search_by(|record| record[..STAMP].cmp(stamp)).ok()
    }
}

/// Reads what is known. A file that cannot be read or is damaged is the same as none.
pub(crate) fn load(store: &Store, folder: &Path) -> Digests {
    let mut bytes = std::fs::read(path(store, folder)).unwrap_or_default();
    let Some(records) = bytes.strip_prefix(MAGIC) else { return Digests::default() };
    // The last 32 bytes tell whether the rest is whole.
    let Some((records, check)) = records.split_last_chunk::<32>() else { return Digests::default() };
    if hash(&Digest::sha256(records)).as_ref() != Some(check) {
        return Digests::default();
    }
    let count = records.len() / RECORD;
    bytes.truncate(MAGIC.len() + count * RECORD);
    Digests { bytes, used: vec![false; count], new: HashMap::new() }
}

/// Keeps what is known, if there is anything new.
pub(crate) fn save(store: &Store, folder: &Path, digests: &Digests, now: jiff::Timestamp) -> Result<(), Fault> {
    let limit = now.as_second() - RESTED;
    let mut new: Vec<_> = digests.new.iter().filter(|(stamp, _)| changed(stamp) < limit).collect();
    if new.is_empty() {
        return Ok(());
    }
    new.sort_unstable();
    // Another Dockerfile may use other files of the folder; but what nobody uses any more must go some day.
    let records = digests.records();
    let used = digests.used.iter().filter(|used| **used).count() + digests.new.len();
    let keep_all = records.len() + digests.new.len() <= 5 * used + 20_000;
    let mut bytes = Vec::with_capacity(MAGIC.len() + (records.len() + new.len()) * RECORD + 32);
    bytes.extend_from_slice(MAGIC);
    let mut new = new.into_iter().peekable();
    let mut add = |(stamp, hash): (&[u8; STAMP], &[u8; 32])| {
        bytes.extend_from_slice(stamp);
        bytes.extend_from_slice(hash);
    };
    for (record, used) in records.iter().zip(&digests.used) {
        while let Some(new) = new.next_if(|(stamp, _)| stamp[..] < record[..STAMP]) {
            add(new);
        }
        // What was found once more counts.
        let again = new.peek().is_some_and(|(stamp, _)| stamp[..] == record[..STAMP]);
        if (keep_all || *used) && !again {
            let (stamp, hash) = record.split_first_chunk().expect("a record begins with a stamp");
            add((stamp, hash.try_into().expect("32 bytes")));
        }
    }
    new.for_each(add);
    let check = hash(&Digest::sha256(&bytes[MAGIC.len()..])).expect("SHA-256 has 32 bytes");
    bytes.extend_from_slice(&check);
    // Not synced: what a crash damages is noticed, and counts as nothing known.
    Ok(store.remember(&path(store, folder), &bytes)?)
}

fn path(store: &Store, folder: &Path) -> std::path::PathBuf {
    use std::os::unix::ffi::OsStrExt;
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    store.layout().context_digests(&Digest::sha256(folder.as_os_str().as_bytes()))
}

/// Writes a stamp so that bytes are sorted as inodes are: mostly those of one folder lie side by side.
fn encode(stamp: &Stamp) -> [u8; STAMP] {
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
fn changed(stamp: &[u8; STAMP]) -> i64 {
    let second = |at: usize| i64::from_be_bytes(stamp[at..at + 8].try_into().expect("8 bytes"));
    second(24).max(second(32))
}

fn digest(hash: &[u8; 32]) -> Digest {
    Digest::from_bytes(Algorithm::Sha256, hash).expect("SHA-256 has 32 bytes")
}

fn hash(digest: &Digest) -> Option<[u8; 32]> {
    digest.to_bytes().try_into().ok()
}
