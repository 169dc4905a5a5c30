//! What people ask: how much repositories take, what keeps a blob, which tags there ever were.

use std::collections::BTreeMap;
use std::pin::pin;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use oci::{Digest, RepositoryName, Tag};

use super::blobs::{BlobRecord, BlobState};
use super::id::Id;
use super::keys::{self, Edge, EdgeKind, TOMBSTONE};
use super::objects::Entry;
use super::records::Slot;
use super::tags::TagRecord;
use super::{Repository, Storage, StorageError};

/// So many requests are made to the store at once.
pub(super) const AT_ONCE: usize = 16;

/// How much is stored, and for whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// By repository, in the order of their names.
    pub repositories: Vec<RepositoryUsage>,
    /// All blobs, each counted once.
    pub total: Sum,
    /// Blobs that no repository relies on: the collector takes them once they are old enough.
    pub unreferenced: Sum,
}

/// Some blobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// How many.
    pub blobs: u64,
    /// How many bytes they have.
    pub bytes: u64,
}

impl Sum {
    fn add(&mut self, bytes: u64) {
        self.blobs += 1;
        self.bytes += bytes;
    }
}

/// How much a repository takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryUsage {
    /// The repository.
    pub repository: RepositoryName,
    /// What no other repository relies on: deleting the repository would free it.
    pub exclusive: Sum,
    /// What others rely on, too.
    pub shared: Sum,
}

/// A blob, and what keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// How many bytes it has.
    pub size: u64,
    /// Whether it turned out that its bytes are not what the digest says, so that it waits for the next push.
    pub bad: bool,
    /// What keeps it; when nothing does, the collector takes it once it is old enough.
    pub by: Vec<Keeper>,
}

/// Something that keeps a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keeper {
    /// In which repository.
    pub repository: RepositoryName,
    /// Since when.
    pub since: Timestamp,
    /// What.
    pub reason: Reason,
}

/// Why a repository keeps a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It was pushed or mounted. Unless a manifest names it, that lapses with the grace.
    Pushed,
    /// A manifest names it, or is it.
    Manifest {
        /// Which manifest.
        digest: Digest,
        /// The tags that name the manifest.
        tags: Vec<Tag>,
    },
    /// Whoever wrote that died, or has not come to the rest yet. The collector removes it once it is old enough.
    Unfinished,
}

impl Storage {
    /// Tells how much is stored, by repository.
    pub async fn usage(&self) -> Result<Usage, StorageError> {
        let mut usage = Usage::default();
        let mut repositories: BTreeMap<RepositoryName, RepositoryUsage> = BTreeMap::new();
        let mut pages = pin!(self.pages(keys::blobs(), None));
        while let Some(page) = pages.try_next().await? {
            let blobs = page.into_iter().filter(|entry| entry.size != TOMBSTONE);
            let mut blobs = stream::iter(blobs).map(|entry| self.size_and_owners(entry)).buffered(AT_ONCE);
            while let Some(found) = blobs.try_next().await? {
                let Some((bytes, owners)) = found else { continue };
                usage.total.add(bytes);
                if owners.is_empty() {
                    usage.unreferenced.add(bytes);
                }
                let alone = owners.len() == 1;
                for repository in owners {
                    let none = (Sum::default(), Sum::default());
                    let known = repositories.entry(repository.clone()).or_insert_with(|| RepositoryUsage {
                        repository,
                        exclusive: none.0,
                        shared: none.1,
                    });
                    if alone { known.exclusive.add(bytes) } else { known.shared.add(bytes) }
                }
            }
        }
        usage.repositories = repositories.into_values().collect();
        Ok(usage)
    }

    async fn size_and_owners(&self, entry: Entry) -> Result<Option<(u64, Vec<RepositoryName>)>, StorageError> {
        let Some(digest) = keys::parse_blob(&entry.key) else { return Ok(None) };
        let Some(held) = self.slot::<BlobRecord>(&entry.key).await?.here() else { return Ok(None) };
        let edges = self.edges(&digest).await?.into_iter();
        let mut owners: Vec<RepositoryName> = edges.map(|(edge, _)| edge.repository).collect();
        owners.sort();
        owners.dedup();
        Ok(Some((held.record.size, owners)))
    }

    /// Tells what keeps a blob; `None` when it is not in the store.
    pub async fn why(&self, digest: &Digest) -> Result<Option<Kept>, StorageError> {
        let Some(held) = self.slot::<BlobRecord>(&keys::blob(digest)).await?.here() else { return Ok(None) };
        let BlobRecord { state, size, bad, .. } = held.record;
        if state == BlobState::Dead && !bad {
            return Ok(None);
        }
        let edges = self.edges(digest).await?;
        let keepers = edges.into_iter().map(|(edge, since)| self.keeper(edge, since));
        let mut by: Vec<Keeper> = stream::iter(keepers).buffered(AT_ONCE).try_collect().await?;
        by.sort_by(|a, b| (&a.repository, a.since).cmp(&(&b.repository, b.since)));
        Ok(Some(Kept { size, bad, by }))
    }

    async fn keeper(&self, edge: Edge, since: Timestamp) -> Result<Keeper, StorageError> {
        let reason = match &edge.kind {
            _ if !self.is_current(&edge).await? => Reason::Unfinished,
            EdgeKind::Own => Reason::Pushed,
            EdgeKind::Manifest(digest) => {
                let tags = self.repository(&edge.repository).tags_of(digest, edge.incarnation).await?;
                Reason::Manifest { digest: digest.clone(), tags }
            }
        };
        Ok(Keeper { repository: edge.repository, since, reason })
    }
}

impl Repository {
    /// Returns the tags that name an incarnation of a manifest, or may.
    pub(super) async fn tags_of(&self, digest: &Digest, incarnation: Id) -> Result<Vec<Tag>, StorageError> {
        let mut tags = Vec::new();
        for tag in self.tags_once_of(digest, incarnation).await? {
            let names = match self.storage.slot::<TagRecord>(&keys::tag(&self.name, &tag)).await? {
                Slot::Here(held) => held.record.digest == *digest && held.record.incarnation == incarnation,
                Slot::Damaged(_) => true,
                Slot::Absent | Slot::Gone(_) => false,
            };
            if names {
                tags.push(tag);
            }
        }
        Ok(tags)
    }

    /// Returns the tags that named, name, or were about to name an incarnation of a manifest.
    pub(super) async fn tags_once_of(&self, digest: &Digest, incarnation: Id) -> Result<Vec<Tag>, StorageError> {
        let hints = keys::named_by(&self.name, digest, incarnation);
        let mut tags = Vec::new();
        let mut pages = pin!(self.storage.pages(hints.clone(), None));
        while let Some(page) = pages.try_next().await? {
            tags.extend(page.iter().filter_map(|entry| hints.rest(&entry.key)?.parse::<Tag>().ok()));
        }
        Ok(tags)
    }

    /// Returns all tags that there are or ever were, in byte order.
    pub async fn tags_ever(&self) -> Result<Vec<Tag>, StorageError> {
        let prefix = keys::tags(&self.name);
        let mut tags = Vec::new();
        let mut pages = pin!(self.storage.pages(prefix.clone(), None));
        while let Some(page) = pages.try_next().await? {
            tags.extend(page.iter().filter_map(|entry| prefix.rest(&entry.key)?.parse::<Tag>().ok()));
        }
        Ok(tags)
    }
}
