//! [`BuildCache`]: small records that the builder finds again by key.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;

use oci::{Algorithm, ChainId, DiffId, Digest, Hasher};
use rustix::fs::{AtFlags, Timespec, Timestamps, UTIME_NOW};
use serde::{Deserialize, Serialize};

use crate::FileError;
use crate::blobs::names;
use crate::file_error::{During, found};
use crate::later::Job;
use crate::session::Home;

/// The build cache of a store.
#[derive(Clone, Debug)]
pub struct BuildCache {
    pub(crate) home: Arc<Home>,
}

/// What a record's result stands for: as long as the record is there, a collection leaves this alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keeps {
    /// The layers that are the record's own, lowest first. Those below them belong to other records, so that a record
    /// costs the same however many steps come before it.
    pub layers: Vec<DiffId>,
    /// The stack that they are the top of, and whose snapshot is kept.
    pub chain: Option<ChainId>,
    /// The stack below them.
    pub below: Option<ChainId>,
    /// What made them, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub about: String,
}

/// Why the build cache could not be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum BuildCacheError {
    #[error(transparent)]
    File(#[from] FileError),
}

/// A line of what was pruned: a key and its end.
const PRUNED_LINE: usize = 65;

/// What stands at the beginning of a record's file, before the digest of its key and all after the first line. So a record
/// that got into the place of another is damaged as well.
const MARK: &[u8] = b"slipway cache record ";

impl BuildCache {
    /// Returns the record of a key, and notes that it was of use. A damaged record counts as none.
    pub fn get(&self, key: &Digest) -> Result<Option<Vec<u8>>, BuildCacheError> {
        let path = self.home.layout().cache_record(key);
        self.home.later().await_record(&path);
        let Some(bytes) = found(fs::read(&path)).during("read", &path)? else { return Ok(None) };
        let Some((_, record)) = parse(key, &bytes) else { return Ok(None) };
        touch(&path);
        Ok(Some(record.to_vec()))
    }

    /// Notes that a record was of use, and tells whether there is one.
    pub fn touch(&self, key: &Digest) -> bool {
        let path = self.home.layout().cache_record(key);
        self.home.later().is_filing(&path) || touch(&path)
    }

    /// Returns the record of a key without noting that it was of use.
    pub fn peek(&self, key: &Digest) -> Result<Peeked, BuildCacheError> {
        let path = self.home.layout().cache_record(key);
        self.home.later().await_record(&path);
        let Some(bytes) = found(fs::read(&path)).during("read", &path)? else { return Ok(Peeked::Missing) };
        Ok(match parse(key, &bytes) {
            Some((_, record)) => Peeked::Record(record.to_vec()),
            None => Peeked::Damaged,
        })
    }

    /// Files a record under a key, replacing what was there.
    ///
    /// As long as the record is there, a collection leaves the blobs and snapshots that it `keeps` alone.
    pub fn put(&self, key: &Digest, record: &[u8], keeps: &Keeps) -> Result<(), BuildCacheError> {
        if self.home.later().holds_records_back() {
            // It may name a blob that is not safe yet: then it comes after that.
            self.put_later(key, record, keeps);
            return Ok(());
        }
        let (path, bytes) = self.describe(key, record, keeps);
        // Not synced: what a crash damages is noticed by its digest, and counts as a miss.
        Ok(self.home.write_file(&path, &bytes, false)?)
    }

    /// Does the same beside the caller's work. [`Store::settle`](crate::Store::settle) waits for it, and tells what went wrong.
    pub fn put_later(&self, key: &Digest, record: &[u8], keeps: &Keeps) {
        let (path, bytes) = self.describe(key, record, keeps);
        self.home.later().submit(Job::File { home: self.home.clone(), path, bytes });
    }

    /// Returns where a record goes, and what its file holds.
    fn describe(&self, key: &Digest, record: &[u8], keeps: &Keeps) -> (PathBuf, Vec<u8>) {
        let mut body = serde_json::to_vec(keeps).expect("lists of digests");
        body.push(b'\n');
        body.extend_from_slice(record);
        let mut bytes = MARK.to_vec();
        bytes.extend_from_slice(format!("{}\n", digest(Algorithm::Sha256, key, &body)).as_bytes());
        bytes.append(&mut body);
        self.home.note_cached();
        (self.home.layout().cache_record(key), bytes)
    }

    /// Tells whether anything was filed since the store was opened.
    pub(crate) fn has_written(&self) -> bool {
        self.home.has_cached()
    }

    /// Files what is too long for a record, and is asked for only by people, beside the record of a key. `write` is given
    /// where its bytes go; returns their digest.
    pub fn put_list<E: From<BuildCacheError>>(
        &self,
        key: &Digest,
        write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
    ) -> Result<Digest, E> {
        let path = self.home.layout().cache_list(key);
        let mut digest = None;
        let streamed = self.home.stream_file(&path, false, |file| {
            let hashing = HashingWriter { file, hasher: Hasher::new(Algorithm::Sha256) };
            let mut buffered = BufWriter::with_capacity(64 << 10, hashing);
            write(&mut buffered).map_err(ListError::Write)?;
            let hashing = buffered.into_inner().map_err(io::IntoInnerError::into_error).during("write", &path)?;
            digest = Some(hashing.hasher.finish());
            Ok(())
        });
        match streamed {
            Ok(()) => Ok(digest.expect("what was written was hashed")),
            Err(ListError::File(error)) => Err(BuildCacheError::from(error).into()),
            Err(ListError::Write(error)) => Err(error),
        }
    }

    /// Removes what [`put_list`](Self::put_list) filed for a key that comes to nothing.
    pub fn drop_list(&self, key: &Digest) {
        // What resists is in nobody's way.
        let _: io::Result<()> = fs::remove_file(self.home.layout().cache_list(key));
    }

    /// Returns what [`put_list`](Self::put_list) filed, as it is on the disk: nothing says that it is whole.
    pub fn list(&self, key: &Digest) -> Result<Option<Vec<u8>>, BuildCacheError> {
        let path = self.home.layout().cache_list(key);
        Ok(found(fs::read(&path)).during("read", &path)?)
    }

    /// Returns when a record was last of use, if there is one.
    pub fn last_used(&self, key: &Digest) -> Option<std::time::SystemTime> {
        fs::metadata(self.home.layout().cache_record(key)).and_then(|metadata| metadata.modified()).ok()
    }

    /// Tells whether a record was removed by pruning, as far back as that is remembered.
    pub fn was_pruned(&self, key: &Digest) -> bool {
        let pruned = fs::read(self.home.layout().cache_pruned()).unwrap_or_default();
        pruned.chunks_exact(PRUNED_LINE).any(|line| line.strip_suffix(b"\n") == Some(key.hex().as_bytes()))
    }

    /// Remembers that records are gone because of pruning: the last few thousand of them.
    pub(crate) fn note_pruned(&self, keys: &[Digest]) -> Result<(), FileError> {
        let path = self.home.layout().cache_pruned();
        let mut pruned = fs::read(&path).unwrap_or_default();
        for key in keys {
            pruned.extend_from_slice(key.hex().as_bytes());
            pruned.push(b'\n');
        }
        let first = pruned.len().saturating_sub(PRUNED_LINE * 4096);
        self.home.write_file(&path, &pruned[first..], false)
    }

    /// Forgets a record, and tells whether there was one.
    pub fn remove(&self, key: &Digest) -> Result<bool, BuildCacheError> {
        let list = self.home.layout().cache_list(key);
        found(fs::remove_file(&list)).during("remove", &list)?;
        let path = self.home.layout().cache_record(key);
        Ok(found(fs::remove_file(&path)).during("remove", &path)?.is_some())
    }

    /// Forgets all records, and returns how many there were.
    pub fn clear(&self) -> Result<u64, BuildCacheError> {
        let mut count = 0;
        for key in self.keys()? {
            count += u64::from(self.remove(&key)?);
        }
        Ok(count)
    }

    /// Returns the keys of all records, sorted; some may be damaged.
    pub fn keys(&self) -> Result<Vec<Digest>, BuildCacheError> {
        let root = self.home.layout().cache();
        let mut keys = Vec::new();
        for prefix in names(&root)? {
            // What is not a key in its right folder was not put there by us, or is a list beside a record.
            let parsed = names(&root.join(&prefix))?.into_iter().filter(|name| name.starts_with(&prefix));
            keys.extend(parsed.filter_map(|name| format!("sha256:{name}").parse::<Digest>().ok()));
        }
        keys.sort_unstable();
        Ok(keys)
    }

    /// Returns what the records keep.
    pub(crate) fn kept(&self) -> Result<Vec<Keeps>, BuildCacheError> {
        Ok(self.all()?.into_iter().filter_map(|(_, keeps, _)| keeps).collect())
    }

    /// Returns all records: key, what it keeps unless it is damaged, and how many bytes it takes.
    pub(crate) fn all(&self) -> Result<Vec<(Digest, Option<Keeps>, u64)>, BuildCacheError> {
        let mut all = Vec::new();
        for key in self.keys()? {
            let path = self.home.layout().cache_record(&key);
            let Some(bytes) = found(fs::read(&path)).during("read", &path)? else { continue };
            let list = fs::metadata(self.home.layout().cache_list(&key)).map_or(0, |list| list.len());
            let size = bytes.len() as u64 + list;
            let keeps = parse(&key, &bytes).map(|(keeps, _)| keeps);
            all.push((key, keeps, size));
        }
        Ok(all)
    }
}

/// Why a list was not filed: because of where it goes, or of where its bytes come from.
enum ListError<E> {
    File(FileError),
    Write(E),
}

impl<E> From<FileError> for ListError<E> {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

/// Hashes what is written to a file.
struct HashingWriter<'a> {
    file: &'a mut File,
    hasher: Hasher,
}

impl Write for HashingWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// What [`BuildCache::peek`] saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peeked {
    /// There is a record.
    Record(Vec<u8>),
    /// There is one, but it is not what was written.
    Damaged,
    /// There is none.
    Missing,
}

/// Sets the times of a record's file: they order records for pruning. Without it, one is merely forgotten too early.
fn touch(path: &std::path::Path) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, AtFlags::empty()).is_ok()
}

/// Takes a record's file apart; `None` when it is damaged.
fn parse<'a>(key: &Digest, bytes: &'a [u8]) -> Option<(Keeps, &'a [u8])> {
    let (expected, body) = split_line(bytes.strip_prefix(MARK)?)?;
    let expected: Digest = std::str::from_utf8(expected).ok()?.parse().ok()?;
    if digest(expected.algorithm(), key, body) != expected {
        return None;
    }
    let (keeps, record) = split_line(body)?;
    Some((serde_json::from_slice(keeps).ok()?, record))
}

/// Returns what stands in the first line of the record of a key.
fn digest(algorithm: Algorithm, key: &Digest, body: &[u8]) -> Digest {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(key.to_string().as_bytes());
    hasher.update(b"\n");
    hasher.update(body);
    hasher.finish()
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
        let keeps = Keeps { layers: vec![DiffId(Digest::sha256(b"layer"))], ..Keeps::default() };
        assert_eq!(cache.get(&key).expect("looked"), None);
        cache.put(&key, b"old\n\xff", &Keeps::default()).expect("put");
        cache.put(&key, b"new\n\xff", &keeps).expect("replaced");
        assert_eq!(cache.get(&key).expect("looked").as_deref(), Some(b"new\n\xff".as_slice()));
        assert_eq!(cache.kept().expect("listed"), [keeps]);
        let list = |out: &mut dyn Write| -> Result<(), BuildCacheError> {
            out.write_all(b"list").expect("written");
            Ok(())
        };
        assert_eq!(cache.put_list(&key, list).expect("put"), Digest::sha256(b"list"));
        assert_eq!(cache.list(&key).expect("looked").as_deref(), Some(b"list".as_slice()));
        assert_eq!(cache.keys().expect("listed"), std::slice::from_ref(&key), "a list is no record");

        let path = store.layout().cache_record(&key);
        let whole = fs::read(&path).expect("read");
        for length in 0..whole.len() {
            crate::atomic_file::write(&path, &whole[..length]).expect("truncated");
            assert_eq!(cache.get(&key).expect("a miss"), None, "{length}");
            assert_eq!(cache.peek(&key).expect("looked"), Peeked::Damaged, "{length}");
        }
        crate::atomic_file::write(&path, &whole).expect("written");
        assert!(matches!(cache.peek(&key).expect("looked"), Peeked::Record(_)));
        let other = Digest::sha256(b"other");
        cache.put(&other, b"other", &Keeps::default()).expect("put");
        fs::copy(store.layout().cache_record(&other), &path).expect("copied");
        assert_eq!(cache.peek(&key).expect("looked"), Peeked::Damaged, "the record of another key");
        assert!(cache.remove(&key).expect("removed"));
        assert_eq!(cache.get(&key).expect("looked"), None);
        assert_eq!(cache.peek(&key).expect("looked"), Peeked::Missing);
        assert_eq!(cache.list(&key).expect("looked"), None, "it went with its record");
        cache.put(&key, b"x", &Keeps::default()).expect("put");
        assert_eq!(cache.clear().expect("cleared"), 2);
    }
}
