//! Looking at everything: why a blob is kept, who uses how much, whether all fits together, and whether the store is fit
//! for a registry at all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use oci::{Digest, RepositoryName};

use super::blobs::{BlobRecord, BlobState, OwnRecord};
use super::keys::{self, Edge, EdgeKind, Key, TOMBSTONE};
use super::manifests::ManifestRecord;
use super::objects::{Condition, Entry, ObjectError, Put};
use super::sessions::hash_content;
use super::tags::TagRecord;
use super::{Storage, StorageError};

/// Something that keeps a blob.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reason {
    /// The repository that relies on it.
    pub repository: RepositoryName,
    /// The manifest that names it, or is it; none when the repository merely has it.
    pub manifest: Option<Digest>,
    /// Whether it holds now; otherwise a push is under way, or died.
    pub current: bool,
}

/// How much a repository uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryUsage {
    /// The repository.
    pub repository: RepositoryName,
    /// How many blobs it relies on, manifests among them.
    pub blobs: u64,
    /// How many bytes would be free without it.
    pub exclusive: u64,
    /// How many bytes others rely on, too.
    pub shared: u64,
}

/// How to look whether all fits together.
#[derive(Clone, Copy, Debug, Default)]
pub struct FsckOptions {
    /// Whether to put right what can be.
    pub repair: bool,
    /// Whether to hash all bytes.
    pub rehash: bool,
}

/// Something that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub key: String,
    /// What.
    pub what: String,
    /// Whether it was put right.
    pub repaired: bool,
}

/// What looking at everything gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// How many blobs were looked at.
    pub blobs: u64,
    /// How many manifests.
    pub manifests: u64,
    /// How many tags.
    pub tags: u64,
    /// What does not fit.
    pub problems: Vec<Problem>,
}

/// Why a store is not fit for a registry.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum ProbeError {
    #[error(
        "the store does not honor conditional writes ({what}), so no two may write to it; serve it with `--single-writer` from one process, or keep the registry elsewhere"
    )]
    Dishonest { what: &'static str },
    #[error(transparent)]
    Object(#[from] ObjectError),
}

impl Storage {
    /// Makes sure that the store honors conditional writes: of those who race one wins, and nobody replaces what they did
    /// not read.
    pub async fn probe(&self) -> Result<(), ProbeError> {
        let key = keys::probes().key(&self.draw().to_string());
        let probed = self.probe_at(&key).await;
        self.objects().delete(&key).await?;
        probed
    }

    async fn probe_at(&self, key: &Key) -> Result<(), ProbeError> {
        let dishonest = |what| ProbeError::Dishonest { what };
        let body = |number: usize| Bytes::from(format!("probe {number} {}", self.draw()));
        let put = |number, condition| self.objects().put(key, body(number), condition);
        let Put::Done(first) = put(0, Condition::Absent).await? else {
            return Err(dishonest("a new object cannot be created"));
        };
        if put(1, Condition::Absent).await? != Put::Lost {
            return Err(dishonest("an object can be created twice"));
        }
        let Put::Done(second) = put(2, Condition::Is(first.clone())).await? else {
            return Err(dishonest("an object cannot be replaced by who read it"));
        };
        if put(3, Condition::Is(first)).await? != Put::Lost {
            return Err(dishonest("an object can be replaced by who did not read it"));
        }
        let race = (0..16).map(|number| put(number, Condition::Is(second.clone())));
        let puts = futures_util::future::try_join_all(race).await?;
        match puts.iter().filter(|put| **put != Put::Lost).count() {
            1 => Ok(()),
            _ => Err(dishonest("of those who race not exactly one wins")),
        }
    }

    /// Makes sure that the store answers.
    pub async fn check(&self) -> Result<(), StorageError> {
        self.objects().head(&keys::secret()).await?;
        Ok(())
    }

    /// Returns the blobs whose bytes turned out not to be what their digests say, since this process began, and which
    /// nobody has pushed again.
    pub async fn known_bad(&self) -> Result<Vec<Digest>, StorageError> {
        let known = self.parts.bad.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut bad = Vec::new();
        for digest in known {
            let held = self.slot::<BlobRecord>(&keys::blob(&digest)).await?.here();
            if held.is_some_and(|held| held.record.bad) {
                bad.push(digest);
            } else {
                self.parts.bad.lock().unwrap_or_else(PoisonError::into_inner).remove(&digest);
            }
        }
        Ok(bad)
    }

    /// Says what keeps a blob.
    pub async fn why(&self, digest: &Digest) -> Result<Vec<Reason>, StorageError> {
        let mut reasons = Vec::new();
        for (edge, _) in self.edges(digest).await? {
            let current = self.is_current(&edge).await?;
            let manifest = match edge.kind {
                EdgeKind::Own => None,
                EdgeKind::Manifest(manifest) => Some(manifest),
            };
            reasons.push(Reason { repository: edge.repository, manifest, current });
        }
        reasons.sort();
        Ok(reasons)
    }

    /// Says who uses how much. Bytes of which several rely are shared by all of them.
    pub async fn usage(&self) -> Result<Vec<RepositoryUsage>, StorageError> {
        let mut users: BTreeMap<Digest, BTreeSet<RepositoryName>> = BTreeMap::new();
        self.each(&keys::all_edges(), async |entry| {
            if let Some(edge) = Edge::parse(&entry.key) {
                users.entry(edge.blob).or_default().insert(edge.repository);
            }
            Ok(())
        })
        .await?;
        let mut usage: BTreeMap<RepositoryName, RepositoryUsage> = BTreeMap::new();
        for (digest, repositories) in users {
            let Some(blob) = self.readable(&digest).await? else { continue };
            let shared = repositories.len() > 1;
            for repository in repositories {
                let of = usage.entry(repository.clone()).or_insert_with(|| RepositoryUsage {
                    repository,
                    blobs: 0,
                    exclusive: 0,
                    shared: 0,
                });
                of.blobs += 1;
                *if shared { &mut of.shared } else { &mut of.exclusive } += blob.size();
            }
        }
        Ok(usage.into_values().collect())
    }

    /// Looks whether everything fits together: records, edges and bytes.
    ///
    /// A crash leaves at worst what nothing refers to, which the collector removes. So what is found here comes from
    /// elsewhere: a disk, somebody who removed files, or a mistake of ours.
    pub async fn fsck(&self, options: FsckOptions) -> Result<Checked, StorageError> {
        let mut checked = Checked::default();
        self.check_blobs(options, &mut checked).await?;
        self.check_owns(options, &mut checked).await?;
        self.check_manifests(options, &mut checked).await?;
        self.check_tags(options, &mut checked).await?;
        Ok(checked)
    }

    /// Hashes every blob, waiting after each so that not more than `rate` bytes are read in a second, and marks those
    /// that are bad; returns them. The next push of such a blob heals it.
    pub async fn scrub(&self, rate: u64) -> Result<Vec<Digest>, StorageError> {
        let mut bad = Vec::new();
        self.each(&keys::blobs(), async |entry| {
            let Some(digest) = keys::parse_blob(&entry.key).filter(|_| entry.size > TOMBSTONE) else { return Ok(()) };
            let Some(size) = self.readable(&digest).await?.map(|blob| blob.size()) else { return Ok(()) };
            if !self.is_sound(&digest).await? && self.mark_bad(&digest).await? {
                bad.push(digest);
            }
            tokio::time::sleep(Duration::from_millis(size.saturating_mul(1000) / rate.max(1))).await;
            Ok(())
        })
        .await?;
        Ok(bad)
    }

    /// Does something with every object below a prefix.
    pub(super) async fn each(
        &self,
        prefix: &keys::Prefix,
        mut work: impl AsyncFnMut(&Entry) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let mut after: Option<Key> = None;
        loop {
            let page = self.objects().list(prefix, after.as_ref(), 1000).await?;
            for entry in &page.entries {
                work(entry).await?;
            }
            match page.entries.last().filter(|_| page.more) {
                Some(last) => after = Some(last.key.clone()),
                None => return Ok(()),
            }
        }
    }

    /// Hashes a blob. One that went meanwhile is sound.
    async fn is_sound(&self, digest: &Digest) -> Result<bool, StorageError> {
        let Some(blob) = self.readable(digest).await? else { return Ok(true) };
        match blob.read(0..blob.size()).await {
            Ok(Some(content)) => Ok(hash_content(content, digest.algorithm()).await? == *digest),
            Ok(None) => Ok(self.readable(digest).await?.is_none()),
            Err(StorageError::Object(ObjectError::Damaged { .. })) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Says that a blob's bytes are not what the digest says, so that nobody gets them and the next push heals it.
    async fn mark_bad(&self, digest: &Digest) -> Result<bool, StorageError> {
        let key = keys::blob(digest);
        let Some(held) = self.slot::<BlobRecord>(&key).await?.here() else { return Ok(false) };
        let dead = BlobRecord { state: BlobState::Dead, bad: true, ..held.record };
        let marked = self.replace(&key, &dead, &[], Condition::Is(held.version)).await?.is_some();
        if marked {
            self.parts.bad.lock().unwrap_or_else(PoisonError::into_inner).insert(digest.clone());
            self.sync().await?;
        }
        Ok(marked)
    }

    async fn check_blobs(&self, options: FsckOptions, checked: &mut Checked) -> Result<(), StorageError> {
        self.each(&keys::blobs(), async |entry| {
            let Some(digest) = keys::parse_blob(&entry.key).filter(|_| entry.size > TOMBSTONE) else { return Ok(()) };
            let Some(blob) = self.readable(&digest).await? else { return Ok(()) };
            checked.blobs += 1;
            let what = match blob.inline().map(|bytes| bytes.len() as u64) {
                Some(length) if length != blob.size() => Some("the record lacks bytes"),
                None if self.data_size(&digest).await? != Some(blob.size()) => {
                    Some("the data is not there, or not all of it")
                }
                _ if options.rehash && !self.is_sound(&digest).await? => Some("the bytes are not what the digest says"),
                _ => None,
            };
            if let Some(what) = what {
                let repaired = options.repair && self.mark_bad(&digest).await?;
                checked.problems.push(Problem { key: entry.key.as_str().to_owned(), what: what.to_owned(), repaired });
            }
            Ok(())
        })
        .await
    }

    async fn data_size(&self, digest: &Digest) -> Result<Option<u64>, StorageError> {
        let held = self.slot::<BlobRecord>(&keys::blob(digest)).await?.here();
        match held.and_then(|held| held.record.data) {
            Some(id) => Ok(self.data().size(id).await?),
            None => Ok(None),
        }
    }

    async fn check_owns(&self, options: FsckOptions, checked: &mut Checked) -> Result<(), StorageError> {
        self.each(&keys::owns(), async |entry| {
            let Some((repository, blob)) = keys::parse_own(&entry.key).filter(|_| entry.size > TOMBSTONE) else {
                return Ok(());
            };
            let Some(own) = self.slot::<OwnRecord>(&entry.key).await?.here() else { return Ok(()) };
            let edge = Edge { blob, repository, incarnation: own.record.incarnation, kind: EdgeKind::Own };
            self.check_edge(&edge, options, checked).await
        })
        .await
    }

    async fn check_manifests(&self, options: FsckOptions, checked: &mut Checked) -> Result<(), StorageError> {
        self.each(&keys::all_manifests(), async |entry| {
            let Some((repository, digest)) = keys::parse_manifest(&entry.key).filter(|_| entry.size > TOMBSTONE) else {
                return Ok(());
            };
            let Some(held) = self.slot::<ManifestRecord>(&entry.key).await?.here() else { return Ok(()) };
            checked.manifests += 1;
            for blob in held.record.references.iter().chain([&digest]) {
                let (repository, blob) = (repository.clone(), blob.clone());
                let kind = EdgeKind::Manifest(digest.clone());
                let edge = Edge { blob, repository, incarnation: held.record.incarnation, kind };
                self.check_edge(&edge, options, checked).await?;
            }
            if self.readable(&digest).await?.is_none() {
                let what = "the bytes of the manifest are not there".to_owned();
                checked.problems.push(Problem { key: entry.key.as_str().to_owned(), what, repaired: false });
            }
            Ok(())
        })
        .await
    }

    /// Looks whether a record that is there has its edge.
    async fn check_edge(&self, edge: &Edge, options: FsckOptions, checked: &mut Checked) -> Result<(), StorageError> {
        if self.objects().head(&edge.key()).await?.is_some() || !self.is_current(edge).await? {
            return Ok(());
        }
        if options.repair {
            self.objects().put(&edge.key(), Bytes::new(), Condition::Always).await?;
        }
        let what = format!("the edge to {} is not there", edge.blob);
        checked.problems.push(Problem { key: edge.owner().as_str().to_owned(), what, repaired: options.repair });
        Ok(())
    }

    async fn check_tags(&self, options: FsckOptions, checked: &mut Checked) -> Result<(), StorageError> {
        self.each(&keys::all_tags(), async |entry| {
            let Some((repository, tag)) = keys::parse_tag(&entry.key).filter(|_| entry.size > TOMBSTONE) else {
                return Ok(());
            };
            let Some(held) = self.slot::<TagRecord>(&entry.key).await?.here() else { return Ok(()) };
            checked.tags += 1;
            let digest = &held.record.digest;
            let repository = self.repository(&repository);
            if repository.manifest(digest).await?.is_none() {
                let fits = |now: &TagRecord| now.digest == *digest;
                let repaired = options.repair && repository.remove_tag(&tag, None, fits).await?;
                let what = format!("{digest} is not in the repository");
                checked.problems.push(Problem { key: entry.key.as_str().to_owned(), what, repaired });
            }
            Ok(())
        })
        .await
    }
}
