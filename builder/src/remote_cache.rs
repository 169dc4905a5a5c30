//! [`RemoteCache`]: a build cache somewhere else, whose layers are fetched when a step needs their bytes. The engine fills
//! it in.
//!
//! ```text
//! a step's key ── local record? ──► its layer is here
//!       │ no
//!       └──────── remote record? ─► its layer is known, not here ── somebody reads its files ──► RemoteCache::bring
//! ```

mod document;
mod ledger;

use std::fmt::Debug;
use std::sync::Arc;

use oci::{Descriptor, DiffId, Digest};
use serde::{Deserialize, Serialize};

use crate::cache::Record;
use crate::cancel::Cancel;

pub(crate) use document::write_inline;
pub use document::{CacheDocument, CacheLayer, INLINE_MEMBER, LayerNotes, read_inline};
pub use ledger::{Ledger, Mode};

/// A build cache somewhere else.
///
/// # Contract
///
/// - `get` answers with what is filed under the very key, or with nothing; it never fails. It may wait for a network.
/// - `bring` sees to it that the blobs are in the store, each of which is then the layer that its diff ID names.
/// - A layer that `bring` could not have is lost: `lost` is larger afterwards, and `get` answers no more with a record of
///   it. So a build that fails for that reason succeeds when it is done once more.
/// - All are called from several threads at once.
pub trait RemoteCache: Debug + Send + Sync {
    /// Finds what is filed under a key.
    fn get(&self, key: &Digest) -> Option<CachedStep>;

    /// Tells whether there is any record at all.
    fn has_records(&self) -> bool;

    /// Fetches layers.
    ///
    /// # Errors
    ///
    /// When one of them cannot be had, or `cancel` is cancelled.
    fn bring(&self, layers: &[(DiffId, Descriptor)], cancel: &Cancel) -> Result<(), BringError>;

    /// Counts the layers that could not be had.
    fn lost(&self) -> usize;
}

/// Why a layer of a remote cache is not here.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum BringError {
    #[error("layer {diff_id} cannot be fetched from the cache")]
    Layer { diff_id: DiffId, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("cancelled")]
    Cancelled,
}

/// A step's key, and what is filed under it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachedStep {
    /// The key.
    #[serde(rename = "digest")]
    pub key: Digest,
    /// What the step made.
    #[serde(rename = "slipway")]
    pub(crate) record: Record,
}

impl CachedStep {
    /// Returns the layer that the step made.
    pub fn diff_id(&self) -> &DiffId {
        &self.record.diff_id
    }

    /// Returns when the step was done.
    pub fn created(&self) -> jiff::Timestamp {
        self.record.created
    }

    /// Describes the plain tar of the layer.
    pub fn descriptor(&self) -> Descriptor {
        self.record.descriptor()
    }

    /// Returns the step as people see it.
    pub fn step(&self) -> &str {
        &self.record.step
    }
}

/// How a build takes from other caches, and gives to them.
#[derive(Clone, Debug, Default)]
pub struct CacheTransfer {
    /// What is asked when the store knows no answer.
    pub remote: Option<Arc<dyn RemoteCache>>,
    /// Takes down what the steps made, for whoever exports it. A build begins with an empty one.
    pub ledger: Option<Arc<Ledger>>,
    /// Writes the records of the image's layers into its config (`type=inline`).
    pub inline: bool,
    /// Leaves layers of the image where they are when no step needed them: the image is only sent on.
    pub lazy: bool,
}
