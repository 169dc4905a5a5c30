//! The digests of a context's files from build to build, so that files that did not change are not read again.
//!
//! A digest is filed under what the kernel says of the file: device, inode, size, mtime and ctime. A file that changed
//! in the two seconds before a build is not kept, since it may change again without its times changing.

use std::collections::HashMap;
use std::path::Path;

use layer::Timestamp;
use oci::{Algorithm, Digest};
use store::Store;

use crate::fault::Fault;
use crate::files::source::Stamp;

const MAGIC: &[u8; 16] = b"slipway stats 1\n";
const RECORD: usize = 8 * 5 + 4 * 2 + 32;
/// How long a file must have rested to be kept.
const RESTED: i64 = 2;

/// What is known of a context's files.
#[derive(Debug, Default)]
pub(crate) struct Digests {
    known: HashMap<Stamp, Known>,
}

#[derive(Debug)]
struct Known {
    hash: [u8; 32],
    /// Whether this build asked for it.
    used: bool,
    /// Whether it is not in the file.
    is_new: bool,
}

impl Digests {
    pub(crate) fn get(&mut self, stamp: &Stamp) -> Option<Digest> {
        let known = self.known.get_mut(stamp)?;
        known.used = true;
        Some(digest(&known.hash))
    }

    pub(crate) fn contains(&self, stamp: &Stamp) -> bool {
        self.known.contains_key(stamp)
    }

    pub(crate) fn insert(&mut self, stamp: Stamp, digest: &Digest) {
        if let Some(hash) = hash(digest) {
            self.known.insert(stamp, Known { hash, used: true, is_new: true });
        }
    }
}

/// Reads what is known. A file that cannot be read or is damaged is the same as none.
pub(crate) fn load(store: &Store, folder: &Path) -> Digests {
    let bytes = std::fs::read(path(store, folder)).unwrap_or_default();
    let mut digests = Digests::default();
    let Some(records) = bytes.strip_prefix(MAGIC) else { return digests };
    // The last 32 bytes tell whether the rest is whole.
    let Some((records, check)) = records.split_last_chunk::<32>() else { return digests };
    if hash(&Digest::sha256(records)).as_ref() != Some(check) {
        return digests;
    }
    digests.known = records.chunks_exact(RECORD).map(decode).collect();
    digests
}

/// Keeps what is known, if there is anything new.
pub(crate) fn save(store: &Store, folder: &Path, digests: &Digests, now: jiff::Timestamp) -> Result<(), Fault> {
    let limit = now.as_second() - RESTED;
    let rested = |stamp: &Stamp| stamp.mtime.seconds.max(stamp.ctime.seconds) < limit;
    if !digests.known.iter().any(|(stamp, known)| known.is_new && rested(stamp)) {
        return Ok(());
    }
    // Another Dockerfile may use other files of the folder; but what nobody uses any more must go some day.
    let used = digests.known.values().filter(|known| known.used).count();
    let keep_all = digests.known.len() <= 5 * used + 20_000;
    let mut bytes = Vec::with_capacity(MAGIC.len() + digests.known.len() * RECORD + 32);
    bytes.extend_from_slice(MAGIC);
    for (stamp, known) in digests.known.iter().filter(|(stamp, known)| (keep_all || known.used) && rested(stamp)) {
        encode(&mut bytes, stamp, &known.hash);
    }
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

fn encode(bytes: &mut Vec<u8>, stamp: &Stamp, hash: &[u8; 32]) {
    let Stamp { dev, ino, size, mtime, ctime } = stamp;
    for number in [*dev, *ino, *size, mtime.seconds.cast_unsigned(), ctime.seconds.cast_unsigned()] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    for number in [mtime.nanos, ctime.nanos] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(hash);
}

fn decode(record: &[u8]) -> (Stamp, Known) {
    let long = |at: usize| u64::from_le_bytes(record[at * 8..at * 8 + 8].try_into().expect("8 bytes"));
    let short = |at: usize| u32::from_le_bytes(record[40 + at * 4..44 + at * 4].try_into().expect("4 bytes"));
    let time = |seconds: u64, nanos: u32| Timestamp { seconds: seconds.cast_signed(), nanos };
    let stamp = Stamp {
        dev: long(0),
        ino: long(1),
        size: long(2),
        mtime: time(long(3), short(0)),
        ctime: time(long(4), short(1)),
    };
    (stamp, Known { hash: record[48..].try_into().expect("32 bytes"), used: false, is_new: false })
}

fn digest(hash: &[u8; 32]) -> Digest {
    Digest::from_bytes(Algorithm::Sha256, hash).expect("SHA-256 has 32 bytes")
}

fn hash(digest: &Digest) -> Option<[u8; 32]> {
    digest.to_bytes().try_into().ok()
}
