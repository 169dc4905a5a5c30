//! Records: small JSON that changes by compare-and-swap, and the tombstones that they leave.
//!
//! ```text
//! {"nonce":"…", …}            a record; on one line
//! {"nonce":"…", …}\nBYTES     a record with bytes that belong to it
//! NONCE SEQUENCE              a tombstone: 32 and 16 characters of 0-9a-f, no space between
//! ```
//!
//! Every body has a nonce, because some stores make versions of the content alone.

use bytes::Bytes;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::id::Id;
use super::keys::{Key, TOMBSTONE};
use super::objects::{Condition, Object, Put, Version};
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
            Self::Here(held) => Condition::Is(held.version.clone()),
        }
    }

    /// Returns the record, if there is one.
    pub(super) fn here(self) -> Option<Held<R>> {
        match self {
            Self::Here(held) => Some(held),
            Self::Absent | Self::Gone(_) => None,
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
    /// Reads a record.
    pub(super) async fn slot<R: DeserializeOwned>(&self, key: &Key) -> Result<Slot<R>, StorageError> {
        match self.objects().get(key).await? {
            None => Ok(Slot::Absent),
            Some(object) => parse(key, object),
        }
    }

    /// Tells whether there is a record, without looking into it.
    pub(super) async fn has_record(&self, key: &Key) -> Result<bool, StorageError> {
        Ok(self.objects().get(key).await?.is_some_and(|object| object.bytes.len() as u64 > TOMBSTONE))
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
                let now = self.objects().get(key).await?;
                Ok(now.filter(|object| object.bytes == body).map(|object| object.version))
            }
        }
    }
}

fn parse<R: DeserializeOwned>(key: &Key, object: Object) -> Result<Slot<R>, StorageError> {
    let Object { bytes, version, modified } = object;
    if bytes.len() as u64 <= TOMBSTONE {
        let text = std::str::from_utf8(&bytes).unwrap_or_default();
        let nonce = text.get(..Id::LEN).and_then(|text| text.parse().ok()).unwrap_or(Id::from_bits(0));
        let sequence = text.get(Id::LEN..).and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or(0);
        return Ok(Slot::Gone(Tombstone { nonce, sequence, version, modified }));
    }
    // JSON of ours has no line break.
    let end = memchr::memchr(b'\n', &bytes);
    let body: Body<R> = serde_json::from_slice(&bytes[..end.unwrap_or(bytes.len())])
        .map_err(|source| StorageError::DamagedRecord { key: key.as_str().to_owned(), source })?;
    let inline = end.map_or_else(Bytes::new, |end| bytes.slice(end + 1..));
    Ok(Slot::Here(Held { record: body.record, nonce: body.nonce, version, modified, bytes: inline }))
}
