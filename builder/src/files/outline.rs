//! [`Outline`]: where each file lies in the tar of an earlier layer, so that a layer which is like it takes from there
//! what is the same.

use layer::{Entry, EntryKind};
use oci::{Algorithm, Digest, Hasher};
use store::{Marks, Store};

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
#[derive(Debug)]
pub(crate) struct Outline {
    /// The blob.
    pub(crate) base: Digest,
    /// What is needed to hash a tar that is like it.
    pub(crate) marks: Marks,
    // Invariant: whole places as they are kept, sorted by identity, from `HEAD` on. They stay as bytes: with many files
    // they are what takes memory.
    bytes: Vec<u8>,
}

/// A place of an outline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found(u32);

/// How many bytes the blob has, and how many places there are.
const HEAD: usize = 8 + 8;
const PLACE: usize = 16 + 8 + 8;
/// Layers of fewer bytes are as quickly written afresh.
const MIN_SIZE: u64 = 1 << 20;

impl Outline {
    /// Finds the outline of the last layer of a kind; none when it is gone or damaged.
    pub(crate) fn load(store: &Store, key: &CacheKey) -> Result<Option<Self>, Fault> {
        let Some((base, bytes)) = store.outlines().get(&key.0)? else { return Ok(None) };
        Ok(Self::parse(base, bytes))
    }

    fn parse(base: Digest, mut bytes: Vec<u8>) -> Option<Self> {
        let (head, rest) = bytes.split_at_checked(HEAD)?;
        let (size, count) = (number(&head[..8]), u32::try_from(number(&head[8..])).ok()?);
        let length = (count as usize).checked_mul(PLACE)?;
        let (_, marks) = rest.split_at_checked(length)?;
        let marks = Marks::parse(marks, size)?;
        bytes.truncate(HEAD + length);
        Some(Self { base, marks, bytes })
    }

    /// Keeps the outline of a layer, if it is of any use.
    pub(crate) fn save(
        store: &Store,
        key: &CacheKey,
        (base, size): (&Digest, u64),
        marks: &Marks,
        mut places: Vec<Place>,
    ) -> Result<(), Fault> {
        if size < MIN_SIZE {
            return Ok(());
        }
        places.sort_unstable_by_key(|place| place.identity);
        let mut bytes = Vec::with_capacity(HEAD + places.len() * PLACE);
        bytes.extend_from_slice(&size.to_le_bytes());
        bytes.extend_from_slice(&(places.len() as u64).to_le_bytes());
        for Place { identity, start, length } in &places {
            bytes.extend_from_slice(&identity.0);
            bytes.extend_from_slice(&start.to_le_bytes());
            bytes.extend_from_slice(&length.to_le_bytes());
        }
        bytes.extend_from_slice(&marks.to_bytes());
        Ok(store.outlines().put(&key.0, base, &bytes)?)
    }

    /// Finds an entry.
    pub(crate) fn find(&self, identity: Identity) -> Option<Found> {
        let places = self.bytes[HEAD..].as_chunks::<PLACE>().0;
        let at = places.binary_search_by(|place| place[..16].cmp(&identity.0)).ok()?;
        u32::try_from(at).ok().map(Found)
    }

    /// Returns where in the layer is what was found.
    pub(crate) fn place(&self, found: Found) -> Place {
        let place = &self.bytes[HEAD..].as_chunks::<PLACE>().0[found.0 as usize];
        let identity = Identity(place[..16].try_into().expect("16 bytes"));
        Place { identity, start: number(&place[16..24]), length: number(&place[24..]) }
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
