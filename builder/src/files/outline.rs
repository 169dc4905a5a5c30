//! [`Outline`]: where each file lies in the tar of an earlier layer, so that a layer which is like it takes from there
//! what is the same.

use std::cmp::Ordering;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use layer::{Entry, EntryKind};
use oci::{Algorithm, Digest, Hasher};
use store::{Marks, Store};

use super::path::walk_order;
use super::spool::{Records, Spool};
use crate::cache_key::CacheKey;
use crate::fault::Fault;

/// What an entry of a tar says and holds: the same identity is the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Identity([u8; 16]);

impl Identity {
    /// Returns the identity of an entry whose bytes, if it has any, have this digest.
    pub(crate) fn of(entry: &Entry, content: Option<&Digest>) -> Self {
        let Entry { path, kind, mode, uid, gid, mtime, xattrs } = entry;
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let mut bytes = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        bytes(path);
        let (kind, numbers, target) = match kind {
            EntryKind::File { size } => (0, [*size, 0], b"".as_slice()),
            EntryKind::Directory => (1, [0, 0], b"".as_slice()),
            EntryKind::Hardlink { target } => (2, [0, 0], target.as_slice()),
            EntryKind::Symlink { target } => (3, [0, 0], target.as_slice()),
            EntryKind::CharDevice { major, minor } => (4, [(*major).into(), (*minor).into()], b"".as_slice()),
            EntryKind::BlockDevice { major, minor } => (5, [(*major).into(), (*minor).into()], b"".as_slice()),
            EntryKind::Fifo => (6, [0, 0], b"".as_slice()),
        };
        bytes(target);
        let mut fixed = [0; 48];
        // Layers have whole seconds.
        let numbers = [kind, numbers[0], numbers[1], (u64::from(*uid) << 32) | u64::from(*gid), u64::from(*mode)];
        let numbers = numbers.into_iter().chain([mtime.seconds.cast_unsigned()]);
        for (room, number) in fixed.chunks_exact_mut(8).zip(numbers) {
            room.copy_from_slice(&number.to_le_bytes());
        }
        bytes(&fixed);
        for (name, value) in xattrs {
            bytes(name);
            bytes(value);
        }
        bytes(content.map(|digest| digest.hex().as_bytes()).unwrap_or_default());
        let hash = hasher.finish().to_bytes();
        Self(hash[..16].try_into().expect("SHA-256 has 32 bytes"))
    }
}

/// Where an entry lies in a tar, header and padding included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) identity: Identity,
    pub(crate) start: u64,
    pub(crate) length: u64,
}

/// The entries of a layer whose tar is a blob.
///
/// ```text
/// bytes of the blob, bytes of the marks, marks
/// for each entry, in the order of the tar: a record of identity, start, length, path
/// ```
#[derive(Debug)]
pub(crate) struct Outline {
    /// The blob.
    pub(crate) base: Digest,
    /// What is needed to hash a tar that is like it.
    pub(crate) marks: Marks,
    file: File,
    places: Range<u64>,
}

/// The places of a layer that is being written, to become an outline.
#[derive(Debug)]
pub(crate) struct Places {
    spool: Spool,
    last: Vec<u8>,
}

/// Finds places in the order of the tar.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    records: Records<'a>,
    place: Option<Place>,
    path: Vec<u8>,
}

const HEAD: usize = 8 + 8;
const PLACE: usize = 16 + 8 + 8;
/// Layers of fewer bytes are as quickly written afresh.
const MIN_SIZE: u64 = 1 << 20;

impl Outline {
    /// Finds the outline of the last layer of a kind; none when it is gone or damaged.
    pub(crate) fn load(store: &Store, key: &CacheKey) -> Result<Option<Self>, Fault> {
        let Some((base, file, range)) = store.outlines().open(&key.0)? else { return Ok(None) };
        Self::read(base, file, range).map_err(|error| Fault::because("cannot read the outline of a layer", &error))
    }

    fn read(base: Digest, file: File, range: Range<u64>) -> io::Result<Option<Self>> {
        let size = range.end - range.start;
        if size < HEAD as u64 {
            return Ok(None);
        }
        let mut head = [0; HEAD];
        file.read_exact_at(&mut head, range.start)?;
        let (blob, marks) = (number(&head[..8]), number(&head[8..]));
        if marks > size - HEAD as u64 {
            return Ok(None);
        }
        let mut bytes = vec![0; marks as usize];
        file.read_exact_at(&mut bytes, range.start + HEAD as u64)?;
        let places = range.start + HEAD as u64 + marks..range.end;
        Ok(Marks::parse(&bytes, blob).map(|marks| Self { base, marks, file, places }))
    }

    /// Keeps the outline of a layer, if it is of any use.
    pub(crate) fn save(
        store: &Store,
        key: &CacheKey,
        (base, size): (&Digest, u64),
        marks: &Marks,
        places: &Places,
    ) -> Result<(), Fault> {
        if size < MIN_SIZE || places.spool.count() == 0 {
            return Ok(());
        }
        let marks = marks.to_bytes();
        store.outlines().put(&key.0, base, |out| {
            let mut write = || {
                out.write_all(&size.to_le_bytes())?;
                out.write_all(&(marks.len() as u64).to_le_bytes())?;
                out.write_all(&marks)?;
                places.spool.write_to(out)
            };
            write().map_err(|error| Fault::because("cannot write the outline of a layer", &error))
        })
    }

    /// Looks for entries from the first on.
    pub(crate) fn cursor(&self) -> Cursor<'_> {
        Cursor { records: Records::new(Some(&self.file), self.places.clone()), place: None, path: Vec::new() }
    }
}

impl Places {
    pub(crate) fn new(spool: &Path) -> Self {
        Self { spool: Spool::new(spool), last: Vec::new() }
    }

    /// Notes where an entry lies; one that is not in the order of a walk is left out, since nobody would find it.
    pub(crate) fn push(&mut self, path: &[u8], place: &Place) -> Result<(), Fault> {
        if walk_order(&self.last, path) != Ordering::Less {
            return Ok(());
        }
        self.last.clear();
        self.last.extend_from_slice(path);
        self.spool.push(|bytes| {
            bytes.extend_from_slice(&place.identity.0);
            bytes.extend_from_slice(&place.start.to_le_bytes());
            bytes.extend_from_slice(&place.length.to_le_bytes());
            bytes.extend_from_slice(path);
        })
    }
}

impl Cursor<'_> {
    /// Finds an entry by its path, which comes after the last that was asked for.
    pub(crate) fn find(&mut self, path: &[u8]) -> Result<Option<Place>, Fault> {
        loop {
            if let Some(place) = self.place {
                match walk_order(&self.path, path) {
                    Ordering::Less => {}
                    Ordering::Equal => return Ok(Some(place)),
                    Ordering::Greater => return Ok(None),
                }
            }
            let Some(record) = self.records.next()? else { return Ok(None) };
            let Some((head, path)) = record.split_first_chunk::<PLACE>() else { return Ok(None) };
            let identity = Identity(*head.first_chunk().expect("32 bytes"));
            self.place = Some(Place { identity, start: number(&head[16..24]), length: number(&head[24..]) });
            self.path.clear();
            self.path.extend_from_slice(path);
        }
    }
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("8 bytes"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use layer::Timestamp;

    use super::*;

    #[test]
    fn whatever_is_in_a_header_is_in_the_identity() {
        let file = Entry::new("a", EntryKind::File { size: 1 }, 0o644);
        let digest = Digest::sha256(b"1");
        let with = |change: &dyn Fn(&mut Entry)| {
            let mut entry = file.clone();
            change(&mut entry);
            Identity::of(&entry, Some(&digest))
        };
        let same = Identity::of(&file, Some(&digest));
        assert_eq!(with(&|entry| entry.mtime.nanos = 5), same);
        let link = |kind: fn(Vec<u8>) -> EntryKind| with(&move |entry| entry.kind = kind(b"t".to_vec()));
        let all = [
            same,
            Identity::of(&file, None),
            Identity::of(&file, Some(&Digest::sha256(b"2"))),
            with(&|entry| entry.path = b"b".to_vec()),
            with(&|entry| entry.kind = EntryKind::File { size: 2 }),
            with(&|entry| entry.kind = EntryKind::Directory),
            with(&|entry| entry.kind = EntryKind::Fifo),
            with(&|entry| entry.kind = EntryKind::CharDevice { major: 1, minor: 2 }),
            with(&|entry| entry.kind = EntryKind::CharDevice { major: 2, minor: 1 }),
            with(&|entry| entry.kind = EntryKind::BlockDevice { major: 1, minor: 2 }),
            link(|target| EntryKind::Hardlink { target }),
            link(|target| EntryKind::Symlink { target }),
            with(&|entry| entry.mode = 0o755),
            with(&|entry| entry.uid = 1),
            with(&|entry| entry.gid = 1),
            with(&|entry| entry.mtime = Timestamp::from_seconds(1)),
            with(&|entry| entry.xattrs = BTreeMap::from([(b"n".to_vec(), b"v".to_vec())])),
        ];
        let mut sorted = all.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), all.len());
    }
}
