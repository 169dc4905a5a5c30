//! Records: small JSON that changes by compare-and-swap, and the tombstones that they leave.
//!
//! ```text
//! {"nonce":"…", …}            a record; on one line
//! {"nonce":"…", …}\nBYTES     a record with bytes that belong to it
//! NONCE SEQUENCE              a tombstone: 32 and 16 characters of 0-9a-f, no space between
//! ```
//!
//! Every body has a nonce, because some stores make versions of the content alone.

use std::pin::pin;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use jiff::Timestamp;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use super::blobs::{BlobRecord, OwnRecord};
use super::id::Id;
use super::keys::{self, Key, TOMBSTONE};
use super::manifests::ManifestRecord;
use super::objects::{Condition, Object, ObjectError, Put, Version};
use super::tags::TagRecord;
use super::{Storage, StorageError};

/// So often a record that others keep changing is tried again.
pub(super) const TRIES: usize = 100;

/// What is under the key of a record.
#[derive(Clone, Debug)]
pub(super) enum Slot<R> {
    /// Nothing ever was.
    Absent,
    /// Something was.
    Gone(Tombstone),
    /// Something is, and cannot be read. Who would rely on it does as if nothing were; who would put something there
    /// replaces it; and who would throw something away does as if it were in use.
    Damaged(Damage),
    /// A record.
    Here(Held<R>),
}

/// What is left of a record.
#[derive(Clone, Debug)]
pub(super) struct Tombstone {
    pub(super) nonce: Id,
    /// The number of the change that removed it, where changes are numbered.
    pub(super) sequence: u64,
    pub(super) version: Version,
    pub(super) modified: Timestamp,
}

/// Something that is not what was written.
#[derive(Clone, Debug)]
pub(super) struct Damage {
    pub(super) why: String,
    version: Version,
}

/// A record as it was read.
#[derive(Clone, Debug)]
pub(super) struct Held<R> {
    pub(super) record: R,
    pub(super) nonce: Id,
    pub(super) version: Version,
    pub(super) modified: Timestamp,
    /// The bytes that belong to it.
    pub(super) bytes: Bytes,
}

impl<R> Slot<R> {
    /// Returns the condition under which a write replaces exactly this.
    pub(super) fn condition(&self) -> Condition {
        match self {
            Self::Absent => Condition::Absent,
            Self::Gone(tombstone) => Condition::Is(tombstone.version.clone()),
            Self::Damaged(damage) => Condition::Is(damage.version.clone()),
            Self::Here(held) => Condition::Is(held.version.clone()),
        }
    }

    /// Returns the record, if there is one.
    pub(super) fn here(self) -> Option<Held<R>> {
        match self {
            Self::Here(held) => Some(held),
            Self::Absent | Self::Gone(_) | Self::Damaged(_) => None,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Body<R> {
    nonce: Id,
    #[serde(flatten)]
    record: R,
}

impl Storage {
    /// Reads a record. That it is damaged is noted, for those who watch the registry.
    pub(super) async fn slot<R: DeserializeOwned>(&self, key: &Key) -> Result<Slot<R>, StorageError> {
        let slot = self.slot_quietly(key).await?;
        if let Slot::Damaged(_) = slot {
            // Without the hint as well: where nothing can be written, what is there can still be read.
            let _ = self.note_damaged(key).await;
        }
        Ok(slot)
    }

    async fn note_damaged(&self, key: &Key) -> Result<(), ObjectError> {
        let hint = keys::damaged(key);
        if self.objects().head(&hint).await?.is_none() {
            self.objects().put(&hint, Bytes::new(), Condition::Always).await?;
        }
        Ok(())
    }

    async fn slot_quietly<R: DeserializeOwned>(&self, key: &Key) -> Result<Slot<R>, StorageError> {
        match self.objects().get(key).await {
            Ok(None) => Ok(Slot::Absent),
            Ok(Some(object)) => Ok(parse(object)),
            Err(ObjectError::Damaged { version: Some(version), .. }) => {
                Ok(Slot::Damaged(Damage { why: "its bytes are not those that were written".into(), version }))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Tells whether there is a record, without looking into it.
    pub(super) async fn has_record(&self, key: &Key) -> Result<bool, StorageError> {
        match self.objects().get(key).await {
            Ok(object) => Ok(object.is_some_and(|object| parse_tombstone(&object.bytes).is_none())),
            // How long it is can be known all the same.
            Err(ObjectError::Damaged { version: Some(_), .. }) => {
                Ok(self.objects().head(key).await?.is_some_and(|it| it.size != TOMBSTONE))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Reads an object that others can do without: one that is damaged is as good as not there.
    pub(super) async fn intact(&self, key: &Key) -> Result<Option<Bytes>, StorageError> {
        match self.objects().get(key).await {
            Ok(object) => Ok(object.map(|object| object.bytes)),
            Err(ObjectError::Damaged { version: Some(_), .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the keys of records that cannot be read and that somebody came across, at most `limit`.
    pub async fn damaged_records(&self, limit: usize) -> Result<Vec<String>, StorageError> {
        let mut damaged = Vec::new();
        let mut pages = pin!(self.pages(keys::all_damaged(), None));
        while let Some(page) = pages.try_next().await? {
            for entry in &page {
                if damaged.len() == limit {
                    return Ok(damaged);
                }
                let Some(key) = keys::parse_damaged(&entry.key) else { continue };
                if self.is_damaged(&key).await? {
                    damaged.push(key.as_str().to_owned());
                } else {
                    self.objects().delete(&entry.key).await?;
                }
            }
        }
        Ok(damaged)
    }

    pub(super) async fn is_damaged(&self, key: &Key) -> Result<bool, StorageError> {
        async fn of<R: DeserializeOwned>(storage: &Storage, key: &Key) -> Result<bool, StorageError> {
            Ok(matches!(storage.slot_quietly::<R>(key).await?, Slot::Damaged(_)))
        }
        match key.as_str().split_once('/') {
            Some(("b", _)) => of::<BlobRecord>(self, key).await,
            Some(("o", _)) => of::<OwnRecord>(self, key).await,
            Some(("m", _)) => of::<ManifestRecord>(self, key).await,
            Some(("t", _)) => of::<TagRecord>(self, key).await,
            _ => of::<IgnoredAny>(self, key).await,
        }
    }

    /// Writes a record under a condition; `None` when that did not hold. With it comes the nonce that it got.
    pub(super) async fn replace<R: Serialize + Sync>(
        &self,
        key: &Key,
        record: &R,
        bytes: &[u8],
        condition: Condition,
    ) -> Result<Option<(Version, Id)>, StorageError> {
        let nonce = self.draw();
        let body = Body { nonce, record };
        let damaged = |source| StorageError::DamagedRecord { key: key.as_str().to_owned(), source };
        let mut body = serde_json::to_vec(&body).map_err(damaged)?;
        debug_assert!(body.len() as u64 > TOMBSTONE, "a record is longer than a tombstone");
        if !bytes.is_empty() {
            body.push(b'\n');
            body.extend_from_slice(bytes);
        }
        Ok(self.swap(key, body.into(), condition).await?.map(|version| (version, nonce)))
    }

    /// Makes a tombstone of a record under a condition; `None` when that did not hold.
    pub(super) async fn bury(
        &self,
        key: &Key,
        sequence: u64,
        condition: Condition,
    ) -> Result<Option<(Version, Id)>, StorageError> {
        let nonce = self.draw();
        let body = format!("{nonce}{sequence:016x}");
        Ok(self.swap(key, body.into(), condition).await?.map(|version| (version, nonce)))
    }

    async fn swap(&self, key: &Key, body: Bytes, condition: Condition) -> Result<Option<Version>, StorageError> {
        match self.objects().put(key, body.clone(), condition).await? {
            Put::Done(version) => Ok(Some(version)),
            // A store whose answer was lost is asked again on the way, and then it was us who made the condition fail.
            Put::Lost => {
                let now = match self.objects().get(key).await {
                    Err(ObjectError::Damaged { version: Some(_), .. }) => None,
                    now => now?,
                };
                Ok(now.filter(|object| object.bytes == body).map(|object| object.version))
            }
        }
    }
}

fn parse<R: DeserializeOwned>(object: Object) -> Slot<R> {
    let Object { bytes, version, modified } = object;
    if let Some((nonce, sequence)) = parse_tombstone(&bytes) {
        return Slot::Gone(Tombstone { nonce, sequence, version, modified });
    }
    if bytes.len() as u64 <= TOMBSTONE {
        return Slot::Damaged(Damage { why: "it is cut short".into(), version });
    }
    // JSON of ours has no line break.
    let end = memchr::memchr(b'\n', &bytes);
    let body: Body<R> = match serde_json::from_slice(&bytes[..end.unwrap_or(bytes.len())]) {
        Ok(body) => body,
        Err(error) => return Slot::Damaged(Damage { why: error.to_string(), version }),
    };
    let inline = end.map_or_else(Bytes::new, |end| bytes.slice(end + 1..));
    Slot::Here(Held { record: body.record, nonce: body.nonce, version, modified, bytes: inline })
}

/// Reads what is left of a record; a record that was cut to the same length is something else.
fn parse_tombstone(bytes: &[u8]) -> Option<(Id, u64)> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() as u64 == TOMBSTONE)?;
    Some((text.get(..Id::LEN)?.parse().ok()?, u64::from_str_radix(text.get(Id::LEN..)?, 16).ok()?))
}
