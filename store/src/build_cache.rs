//! [`BuildCache`]: small records that the builder finds again by key.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use oci::{DiffId, Digest};
use rustix::fs::{AtFlags, Timespec, Timestamps, UTIME_NOW};

use crate::FileError;
use crate::blobs::names;
use crate::file_error::{During, found};
use crate::session::Home;

/// The build cache of a store.
#[derive(Clone, Debug)]
pub struct BuildCache {
    pub(crate) home: Arc<Home>,
}

/// Why the build cache could not be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum BuildCacheError {
    #[error(transparent)]
    File(#[from] FileError),
}

/// What stands at the beginning of a record's file, before the digest of all after the first line.
const MARK: &[u8] = b"slipway cache record ";

impl BuildCache {
    /// Returns the record of a key, and notes that it was of use. A damaged record counts as none.
    pub fn get(&self, key: &Digest) -> Result<Option<Vec<u8>>, BuildCacheError> {
        let path = self.home.layout().cache_record(key);
        let Some(bytes) = found(fs::read(&path)).during("read", &path)? else { return Ok(None) };
        let Some((_, record)) = parse(&bytes) else { return Ok(None) };
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps { last_access: now, last_modification: now };
        // The time of last use orders records for pruning; without it, one is merely forgotten too early.
        let _ = rustix::fs::utimensat(rustix::fs::CWD, &path, &times, AtFlags::empty());
        Ok(Some(record.to_vec()))
    }

    /// Files a record under a key, replacing what was there.
    ///
    /// `keeps` is the stack of layers, lowest first, that the record's result stands for: as long as the record
    /// is there, a collection leaves their blobs and snapshots alone.
    pub fn put(&self, key: &Digest, record: &[u8], keeps: &[DiffId]) -> Result<(), BuildCacheError> {
        let mut body = serde_json::to_vec(keeps).expect("a list of digests");
        body.push(b'\n');
        body.extend_from_slice(record);
        let mut bytes = MARK.to_vec();
        bytes.extend_from_slice(format!("{}\n", Digest::sha256(&body)).as_bytes());
        bytes.append(&mut body);
        // Not synced: what a crash damages is noticed by its digest, and counts as a miss.
        Ok(self.home.write_file(&self.home.layout().cache_record(key), &bytes, false)?)
    }

    /// Forgets a record, and tells whether there was one.
    pub fn remove(&self, key: &Digest) -> Result<bool, BuildCacheError> {
        let path = self.home.layout().cache_record(key);
        Ok(found(fs::remove_file(&path)).during("remove", &path)?.is_some())
    }

    /// Forgets all records, and returns how many there were.
    pub fn clear(&self) -> Result<u64, BuildCacheError> {
        let mut count = 0;
        for path in self.paths()? {
            fs::remove_file(&path).during("remove", &path)?;
            count += 1;
        }
        Ok(count)
    }

    /// Returns the stacks of layers that the records stand for.
    pub(crate) fn kept(&self) -> Result<Vec<Vec<DiffId>>, FileError> {
        let mut kept = Vec::new();
        for path in self.paths()? {
            let Some(bytes) = found(fs::read(&path)).during("read", &path)? else { continue };
            kept.extend(parse(&bytes).map(|(keeps, _)| keeps));
        }
        Ok(kept)
    }

    fn paths(&self) -> Result<Vec<PathBuf>, FileError> {
        let root = self.home.layout().cache();
        let mut paths = Vec::new();
        for prefix in names(&root)? {
            let folder = root.join(prefix);
            paths.extend(names(&folder)?.into_iter().map(|name| folder.join(name)));
        }
        Ok(paths)
    }
}

/// Takes a record's file apart; `None` when it is damaged.
fn parse(bytes: &[u8]) -> Option<(Vec<DiffId>, &[u8])> {
    let (digest, body) = split_line(bytes.strip_prefix(MARK)?)?;
    let digest: Digest = std::str::from_utf8(digest).ok()?.parse().ok()?;
    if Digest::of(digest.algorithm(), body) != digest {
        return None;
    }
    let (keeps, record) = split_line(body)?;
    Some((serde_json::from_slice(keeps).ok()?, record))
}

fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Store;

    #[test]
    fn a_record_is_found_until_it_is_damaged_or_removed() {
        let folder = tempfile::tempdir().expect("tempdir");
        let store = Store::open(&folder.path().join("home")).expect("opened");
        let cache = store.build_cache();
        let key = Digest::sha256(b"key");
        let keeps = [DiffId(Digest::sha256(b"layer"))];
        assert_eq!(cache.get(&key).expect("looked"), None);
        cache.put(&key, b"old\n\xff", &[]).expect("put");
        cache.put(&key, b"new\n\xff", &keeps).expect("replaced");
        assert_eq!(cache.get(&key).expect("looked").as_deref(), Some(b"new\n\xff".as_slice()));
        assert_eq!(cache.kept().expect("listed"), [keeps.to_vec()]);

        let path = store.layout().cache_record(&key);
        let whole = fs::read(&path).expect("read");
        for length in 0..whole.len() {
            crate::atomic_file::write(&path, &whole[..length]).expect("truncated");
            assert_eq!(cache.get(&key).expect("a miss"), None, "{length}");
        }
        assert!(cache.remove(&key).expect("removed"));
        assert_eq!(cache.get(&key).expect("looked"), None);
        cache.put(&key, b"x", &[]).expect("put");
        assert_eq!(cache.clear().expect("cleared"), 1);
    }
}
