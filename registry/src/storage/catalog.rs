//! The catalog: which repositories have manifests.

use oci::RepositoryName;
use serde::{Deserialize, Serialize};

use super::keys::{self, TOMBSTONE};
use super::records::{Slot, TRIES};
use super::{Page, Repository, Storage, StorageError};

/// What the record of a repository says.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct CatalogRecord {
    /// The name, as the key has it.
    repository: String,
    /// Room for what is to come; it makes the record longer than a tombstone, too.
    version: String,
}

impl Storage {
    /// Returns the names of repositories that have a manifest: those after `after`, at most `limit`. They are in byte
    /// order, with `/` the lowest byte.
    pub async fn catalog(&self, after: Option<&str>, limit: usize) -> Result<Page<RepositoryName>, StorageError> {
        let mut page = Page { entries: Vec::new(), more: false };
        let mut after = after.map(keys::catalog_after);
        loop {
            let wanted = limit.saturating_add(1).saturating_sub(page.entries.len()).min(1000);
            let listed = self.objects().list(&keys::catalog(), after.as_ref(), wanted).await?;
            for entry in listed.entries.iter().filter(|entry| entry.size != TOMBSTONE) {
                let Some(name) = keys::parse_catalog(&entry.key) else { continue };
                if page.entries.len() == limit {
                    page.more = true;
                    return Ok(page);
                }
                page.entries.push(name);
            }
            match listed.entries.last().filter(|_| listed.more) {
                Some(last) => after = Some(last.key.clone()),
                None => return Ok(page),
            }
        }
    }
}

impl Repository {
    /// Tells whether the repository has, or ever had, a manifest.
    pub async fn is_known(&self) -> Result<bool, StorageError> {
        Ok(self.storage.objects().head(&keys::catalog_entry(&self.name)).await?.is_some())
    }

    /// Makes sure that the catalog has the repository, after it got a manifest.
    pub(super) async fn enter_catalog(&self) -> Result<(), StorageError> {
        let key = keys::catalog_entry(&self.name);
        for _ in 0..TRIES {
            let slot = self.storage.slot::<CatalogRecord>(&key).await?;
            if matches!(slot, Slot::Here(_)) {
                return Ok(());
            }
            let record =
                CatalogRecord { repository: self.name.as_str().to_owned(), version: "slipway registry 1".into() };
            if self.storage.replace(&key, &record, &[], slot.condition()).await?.is_some() {
                return Ok(());
            }
        }
        Err(StorageError::Contended { key: key.as_str().to_owned() })
    }

    /// Takes the repository out of the catalog if it has no manifest any more.
    ///
    /// A push notes its manifest first and looks into the catalog then; this removes first and looks for manifests then.
    /// So one of the two sees the other.
    pub(super) async fn leave_catalog(&self) -> Result<(), StorageError> {
        let key = keys::catalog_entry(&self.name);
        let slot = self.storage.slot::<CatalogRecord>(&key).await?;
        if matches!(slot, Slot::Absent | Slot::Gone(_)) || self.has_manifests().await? {
            return Ok(());
        }
        if self.storage.bury(&key, 0, slot.condition()).await?.is_some() && self.has_manifests().await? {
            self.enter_catalog().await?;
        }
        Ok(())
    }

    async fn has_manifests(&self) -> Result<bool, StorageError> {
        Ok(!self.manifests(None, 1).await?.entries.is_empty())
    }
}
