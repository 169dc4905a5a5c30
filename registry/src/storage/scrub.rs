//! Reading blobs again, to learn whether they still are what their digest says.
//!
//! A blob that is not becomes `dead` and `bad`: to clients it is not there, so the next that pushes an image with it sends
//! it again, and that heals it. What was in its place stays until then, and when it turns out to be whole after all, as
//! after a disk that had a bad moment, the blob is live again. Beside the record there is a hint, so that it can
//! be told which blobs are bad without looking at all of them.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use oci::{Algorithm, Digest, Hasher};

use super::blobs::{BlobRecord, BlobState};
use super::keys::{self, TOMBSTONE};
use super::objects::{Condition, Content, ObjectError};
use super::records::{Held, Slot, TRIES};
use super::referrers::gather;
use super::{Storage, StorageError};

/// How long a disk gets before what it could not read is read again.
const READ_AGAIN: Duration = Duration::from_secs(5);
/// So much is read at once, in bytes.
const PIECE: u64 = 1024 * 1024;

/// What came of reading all blobs.
#[derive(Debug, Default)]
pub struct Scrubbed {
    /// How many blobs were read.
    pub blobs: u64,
    /// How many bytes they have.
    pub bytes: u64,
    /// Those that are not what their digest says.
    pub bad: Vec<Digest>,
    /// How many could not be read.
    pub unread: u64,
    /// Why the first of those could not.
    pub why: Option<StorageError>,
}

/// What came of reading a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is what its digest says.
    Whole,
    /// It is something else, or its bytes are not there.
    Bad,
    /// The disk does not give its bytes back. If it does not the next time either, it is as bad.
    Unreadable,
    /// It is on its way out, or changed while it was read.
    Moot,
}

impl Storage {
    /// Reads all blobs after `after` and marks those that are bad. At most `rate` bytes a second are read, any number when
    /// it is 0.
    pub async fn scrub(&self, after: Option<&Digest>, rate: u64) -> Result<Scrubbed, StorageError> {
        let mut scrubbed = Scrubbed::default();
        let mut pages = pin!(self.pages(keys::blobs(), after.map(keys::blob)));
        while let Some(page) = pages.try_next().await? {
            for entry in page.iter().filter(|entry| entry.size != TOMBSTONE) {
                let Some(digest) = keys::parse_blob(&entry.key) else { continue };
                let Some(held) = self.slot::<BlobRecord>(&entry.key).await?.here() else { continue };
                let size = held.record.size;
                if held.record.bad {
                    match self.heal(&digest, &held, rate).await {
                        Err(error @ StorageError::Object(ObjectError::Unavailable { .. })) => return Err(error),
                        Err(error) => {
                            scrubbed.unread += 1;
                            scrubbed.why.get_or_insert(error);
                        }
                        Ok(healed) => {
                            scrubbed.blobs += u64::from(healed);
                            scrubbed.bytes += if healed { size } else { 0 };
                        }
                    }
                    continue;
                }
                let mut verdict = self.verify_blob(&digest, &held, rate).await;
                if let Ok(Verdict::Unreadable) = verdict {
                    tokio::time::sleep(READ_AGAIN).await;
                    verdict = self.verify_blob(&digest, &held, rate).await;
                }
                match verdict {
                    // There is no use in going on.
                    Err(error @ StorageError::Object(ObjectError::Unavailable { .. })) => return Err(error),
                    // That it cannot be read now does not say that it is bad.
                    Err(error) => {
                        scrubbed.unread += 1;
                        scrubbed.why.get_or_insert(error);
                        continue;
                    }
                    Ok(Verdict::Moot) => continue,
                    Ok(Verdict::Whole) => {}
                    Ok(Verdict::Bad | Verdict::Unreadable) => {
                        if self.mark_bad(&digest, &held).await? {
                            scrubbed.bad.push(digest);
                        }
                    }
                }
                scrubbed.blobs += 1;
                scrubbed.bytes += size;
            }
        }
        Ok(scrubbed)
    }

    /// Returns blobs that are known to be bad, at most `limit`.
    pub async fn bad_blobs(&self, limit: usize) -> Result<Vec<Digest>, StorageError> {
        let mut bad = Vec::new();
        let mut pages = pin!(self.pages(keys::bad_blobs(), None));
        while let Some(page) = pages.try_next().await? {
            for entry in &page {
                let Some(digest) = keys::parse_bad(&entry.key) else { continue };
                let slot = self.slot::<BlobRecord>(&keys::blob(&digest)).await?;
                if matches!(&slot, Slot::Here(held) if held.record.bad) {
                    bad.push(digest);
                } else {
                    // It was healed, or thrown away.
                    self.objects().delete(&entry.key).await?;
                }
                if bad.len() == limit {
                    return Ok(bad);
                }
            }
        }
        Ok(bad)
    }

    /// Reads a blob as its record says.
    pub(super) async fn verify_blob(
        &self,
        digest: &Digest,
        held: &Held<BlobRecord>,
        rate: u64,
    ) -> Result<Verdict, StorageError> {
        if held.record.state == BlobState::Dead {
            return Ok(Verdict::Moot);
        }
        let unreadable = match self.hash(digest.algorithm(), &held.record, &held.bytes, rate).await {
            Ok(hashed) if hashed.as_ref() == Some(digest) => return Ok(Verdict::Whole),
            Ok(_) => false,
            Err(StorageError::Object(error)) if error.is_of_the_medium() => true,
            Err(error) => return Err(error),
        };
        // It may have gone, or been healed, while it was read.
        let now = self.slot::<BlobRecord>(&keys::blob(digest)).await?.here();
        let same = now.is_some_and(|now| now.record.data == held.record.data && now.record.state != BlobState::Dead);
        Ok(match same {
            true if unreadable => Verdict::Unreadable,
            true => Verdict::Bad,
            false => Verdict::Moot,
        })
    }

    /// Makes a bad blob live again when its bytes are whole after all and something keeps it, and tells whether it did.
    pub(super) async fn heal(&self, digest: &Digest, held: &Held<BlobRecord>, rate: u64) -> Result<bool, StorageError> {
        match self.hash(digest.algorithm(), &held.record, &held.bytes, rate).await {
            Ok(hashed) if hashed.as_ref() == Some(digest) => {}
            Ok(_) => return Ok(false),
            Err(StorageError::Object(error)) if error.is_of_the_medium() => return Ok(false),
            Err(error) => return Err(error),
        }
        if !held.record.bad || !self.has_edge(digest).await? {
            return Ok(false);
        }
        let live = BlobRecord { state: BlobState::Live, bad: false, ..held.record.clone() };
        let condition = Condition::Is(held.version.clone());
        let healed = self.replace(&keys::blob(digest), &live, &held.bytes, condition).await?.is_some();
        self.sync().await?;
        Ok(healed)
    }

    /// Hashes the bytes of a blob, `bytes` being those in its record; `None` when they are not as many as the record says.
    pub(super) async fn hash(
        &self,
        algorithm: Algorithm,
        record: &BlobRecord,
        bytes: &Bytes,
        rate: u64,
    ) -> Result<Option<Digest>, StorageError> {
        let size = record.size;
        let there = match record.data {
            Some(id) => self.data().size(id).await?,
            None => Some(bytes.len() as u64),
        };
        if there != Some(size) {
            return Ok(None);
        }
        let mut hasher = Hasher::new(algorithm);
        let mut at = 0;
        while at < size {
            let end = size.min(at + PIECE);
            let content = match record.data {
                Some(id) => self.data().read(id, at..end).await?,
                None => Some(Content::Bytes(bytes.slice(range(at, end)))),
            };
            let Some(content) = content else { return Ok(None) };
            let piece = gather(content, end - at).await?;
            if piece.len() as u64 != end - at {
                return Ok(None);
            }
            hasher = store::blocking::run(move || {
                hasher.update(&piece);
                hasher
            })
            .await;
            if rate > 0 {
                #[expect(clippy::cast_precision_loss, reason = "it is a time to wait")]
                tokio::time::sleep(Duration::from_secs_f64((end - at) as f64 / rate as f64)).await;
            }
            at = end;
        }
        Ok(Some(hasher.finish()))
    }

    /// Marks a blob that turned out to be bad, so that it is as if it were not there until somebody pushes it again.
    /// `false` when it changed meanwhile.
    pub(super) async fn mark_bad(&self, digest: &Digest, found: &Held<BlobRecord>) -> Result<bool, StorageError> {
        let key = keys::blob(digest);
        self.objects().put(&keys::bad(digest), Bytes::new(), Condition::Always).await?;
        for _ in 0..TRIES {
            let Some(held) = self.slot::<BlobRecord>(&key).await?.here() else { return Ok(false) };
            if held.record.data != found.record.data || held.record.state == BlobState::Dead {
                return Ok(false);
            }
            let record = BlobRecord { state: BlobState::Dead, bad: true, ..held.record };
            if self.replace(&key, &record, &held.bytes, Condition::Is(held.version)).await?.is_some() {
                self.sync().await?;
                return Ok(true);
            }
        }
        Err(StorageError::Contended { key: key.as_str().to_owned() })
    }
}

fn range(start: u64, end: u64) -> std::ops::Range<usize> {
    let at = |position: u64| usize::try_from(position).unwrap_or(usize::MAX);
    at(start)..at(end)
}
