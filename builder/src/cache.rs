//! The build cache: what a step made, filed under its key.

use oci::{Descriptor, DiffId, media_type};
use serde::{Deserialize, Serialize};
use store::Store;

use crate::cache_key::CacheKey;
use crate::fault::Fault;

/// What a step made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The layer's tar.
    pub(crate) diff_id: DiffId,
    /// Its size.
    pub(crate) size: u64,
    /// The time that the image's history says.
    pub(crate) created: jiff::Timestamp,
    /// The step, for people who look into the cache.
    pub(crate) step: String,
}

impl Record {
    /// Describes the layer's blob.
    pub(crate) fn descriptor(&self) -> Descriptor {
        Descriptor::new(media_type::OCI_LAYER, self.diff_id.0.clone(), self.size)
    }
}

/// Finds what a key's step made, if its layer is still there.
pub(crate) fn get(store: &Store, key: &CacheKey) -> Result<Option<Record>, Fault> {
    let Some(bytes) = store.build_cache().get(&key.0)? else { return Ok(None) };
    // A record of another version is no record.
    let Ok(record) = serde_json::from_slice::<Record>(&bytes) else { return Ok(None) };
    Ok(store.blobs().has(&record.descriptor())?.then_some(record))
}

/// Files what a key's step made; `below` are the layers it stands on.
pub(crate) fn put(store: &Store, key: &CacheKey, below: &[DiffId], record: &Record) -> Result<(), Fault> {
    let bytes = serde_json::to_vec(record).expect("a record is plain text and numbers");
    let mut keeps = below.to_vec();
    keeps.push(record.diff_id.clone());
    Ok(store.build_cache().put(&key.0, &bytes, &keeps)?)
}

/// Tells whether a step like this one, whatever its files held, was ever done. Without that, looking for the key of the
/// files is in vain, and they need to be read only once.
pub(crate) fn was_tried(store: &Store, definition: &CacheKey) -> Result<bool, Fault> {
    Ok(store.build_cache().get(&definition.0)?.is_some())
}

/// Remembers for [`was_tried`].
pub(crate) fn tried(store: &Store, definition: &CacheKey) -> Result<(), Fault> {
    Ok(store.build_cache().put(&definition.0, b"{}", &[])?)
}
