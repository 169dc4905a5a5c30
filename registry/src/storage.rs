//! What the registry keeps, and how: records that change by compare-and-swap, on a disk or in a bucket.
//!
//! | File | Owns |
//! | --- | --- |
//! | [`keys`] | every key, drawn as a tree |
//! | [`objects`] | what is asked of whoever keeps the bytes, and the three who do |
//! | `records` | records and tombstones under a condition |
//! | [`blobs`] | blobs of repositories: reading, taking in, mounting, deleting |
//! | [`sessions`] | uploads: blobs that arrive in pieces, at any replica |
//! | [`manifests`] | manifests: reading, pushing, deleting |
//! | [`tags`] | tags and their history |
//! | [`referrers`] | the manifests that are about another one |
//! | [`catalog`] | which repositories there are |
//! | [`collector`] | throwing away what nothing relies on, while everybody pushes |
//! | [`fsck`] | whether everything fits together, and mending what does not |
//! | [`scrub`] | whether blobs still are what their digest says |
//! | [`retention`] | rules which tags and manifests go |
//! | [`inspect`] | what people ask: how much, and why |
//! | [`probe`] | whether the store is fit for a registry at all |
//! | `walk` | going through all of something |
//! | [`id`] | names that nobody ever used before |
//!
//! Any number of processes may work on the same store, without a lock, a leader or a database. Three rules make that
//! safe; [`docs/REGISTRY-STORAGE.md`](../../../docs/REGISTRY-STORAGE.md) argues why they do:
//!
//! 1. A record is never deleted, it becomes a tombstone. What is deleted has an ID in its key, and never comes back.
//! 2. Whoever relies on a blob first writes an edge to it, and then reads its record.
//! 3. No clock decides what is safe. Time is compared only with the store's own, and only to be polite.

pub mod id;
pub mod keys;
pub mod objects;

mod records;

pub mod blobs;
pub mod catalog;
pub mod collector;
pub mod fsck;
pub mod inspect;
pub mod manifests;
pub mod probe;
pub mod referrers;
pub mod retention;
pub mod scrub;
pub mod sessions;
pub mod tags;
mod walk;

use std::sync::Arc;
use std::time::Duration;

use oci::RepositoryName;
use tokio::sync::OnceCell;

pub use blobs::{Blob, CommitError};
pub use id::{Id, Ids};
pub use manifests::{ManifestRecord, NewManifest, PULLS_NOTED_EVERY, PutManifestError};
pub use objects::{Backend, Content, Data, ObjectError, Objects, Page};
pub use sessions::{Upload, UploadError, UploadId};
pub use tags::{Change, TagPatterns, TagRecord};

/// Why something that the registry keeps could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum StorageError {
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error("the record `{key}` is damaged")]
    DamagedRecord { key: String, source: serde_json::Error },
    #[error("the record `{key}` changes all the time")]
    Contended { key: String },
}

/// How a registry is kept.
#[derive(Clone, Debug)]
pub struct StorageOptions {
    /// Where IDs come from.
    pub ids: Ids,
    /// For how long what nothing refers to is left alone.
    pub grace: Duration,
    /// Tags that, once set, name the same manifest for ever.
    pub immutable: TagPatterns,
    /// The longest blob or manifest that is kept in its record, in bytes.
    pub inline: usize,
    /// A protocol that is wrong on purpose.
    #[cfg(test)]
    pub(crate) weakness: Option<collector::Weakness>,
}

impl Default for StorageOptions {
    fn default() -> Self {
        Self {
            ids: Ids::Random,
            grace: Duration::from_secs(24 * 60 * 60),
            immutable: TagPatterns::default(),
            inline: 64 * 1024,
            #[cfg(test)]
            weakness: None,
        }
    }
}

/// Everything that a registry keeps. Clones are the same.
#[derive(Clone, Debug)]
pub struct Storage {
    parts: Arc<Parts>,
}

#[derive(Debug)]
struct Parts {
    backend: Backend,
    options: StorageOptions,
    secret: OnceCell<[u8; 32]>,
}

impl Storage {
    /// Works on what a backend keeps.
    pub fn new(backend: Backend, options: StorageOptions) -> Self {
        Self { parts: Arc::new(Parts { backend, options, secret: OnceCell::new() }) }
    }

    /// Names one repository, which need not exist.
    pub fn repository(&self, name: &RepositoryName) -> Repository {
        Repository { storage: self.clone(), name: name.clone() }
    }

    /// Waits until what was written and seen so far survives a crash of the machine.
    pub async fn sync(&self) -> Result<(), StorageError> {
        Ok(self.objects().sync().await?)
    }

    /// Tells in a sentence what goes wrong although everything can be read and written still, or fails when it cannot.
    pub async fn trouble(&self) -> Result<Option<String>, StorageError> {
        Ok(self.objects().trouble().await?)
    }

    /// Returns how the registry is kept.
    pub fn options(&self) -> &StorageOptions {
        &self.parts.options
    }

    /// Returns whoever keeps the bytes.
    pub fn backend(&self) -> &Backend {
        &self.parts.backend
    }

    fn objects(&self) -> &dyn Objects {
        &*self.parts.backend.objects
    }

    fn data(&self) -> &dyn Data {
        &*self.parts.backend.data
    }

    fn draw(&self) -> Id {
        self.parts.options.ids.draw()
    }
}

/// One repository, which exists from the first thing that is put into it.
#[derive(Clone, Debug)]
pub struct Repository {
    storage: Storage,
    name: RepositoryName,
}

impl Repository {
    /// Returns its name.
    pub fn name(&self) -> &RepositoryName {
        &self.name
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
