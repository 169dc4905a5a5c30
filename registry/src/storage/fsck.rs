//! Whether everything that the registry keeps fits together, and mending what does not, while it is served.
//!
//! Others work on the storage at the same time. What is looked at in the wrong moment looks wrong, so what looks wrong is
//! looked at again a moment later, and only what still does is a fault.
//!
//! Tombstones are read, too: a record that was cut to their length looks like one in a list.
//!
//! What a crash leaves behind is not wrong: edges, uploads and bytes that nobody will come back to are the collector's.

use std::collections::{BTreeSet, HashSet};
use std::pin::pin;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use oci::{Digest, Parsed, RepositoryName, Tag, media_type};
use serde::de::IgnoredAny;

use super::blobs::{Arrival, BlobRecord, BlobState, OwnRecord, Source};
use super::id::Id;
use super::inspect::{AT_ONCE, Sum};
use super::keys::{self, Edge, EdgeKind, Key, TOMBSTONE};
use super::manifests::{ManifestRecord, NewManifest};
use super::objects::ObjectError;
use super::records::{Held, Slot};
use super::scrub::Verdict;
use super::tags::TagRecord;
use super::{CommitError, PutManifestError, Repository, Storage, StorageError};

/// The longest manifest that is looked into.
const MAX_MANIFEST: u64 = 64 * 1024 * 1024;

/// How to check.
#[derive(Clone, Copy, Debug)]
pub struct FsckOptions {
    /// Whether to mend what can be mended.
    pub repair: bool,
    /// Whether to read all bytes.
    pub verify: bool,
    /// Whether images may lack their config and layers.
    pub sparse: bool,
    /// How long those who are at work get before what looks wrong is looked at again.
    pub settle: Duration,
}

impl Default for FsckOptions {
    fn default() -> Self {
        Self { repair: false, verify: false, sparse: false, settle: Duration::from_secs(2) }
    }
}

/// What a check found.
#[derive(Debug, Default)]
pub struct Checked {
    /// The blobs that are there.
    pub blobs: Sum,
    /// How many manifests there are.
    pub manifests: u64,
    /// How many tags there are.
    pub tags: u64,
    /// Edges that belong to no record.
    pub stale_edges: u64,
    /// Bytes that no record names.
    pub unnamed: Sum,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// Something that is wrong.
#[derive(Debug)]
pub struct Problem {
    /// What.
    pub fault: Fault,
    /// What was done about it.
    pub mending: Mending,
}

/// What was done about a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mending {
    /// Nothing: it was not asked for, or cannot be done.
    Nothing,
    /// The blob is as if it were not there, so that the next push heals it.
    Marked,
    /// It is mended.
    Done,
}

/// In what way something is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum Fault {
    #[error("the record `{}` cannot be read: {why}", .key.as_str())]
    DamagedRecord { key: Key, why: String },
    #[error("the bytes of {digest} are not there")]
    LostBytes { digest: Digest },
    #[error("the bytes of {digest} are not what the digest says")]
    BadBytes { digest: Digest },
    #[error("the disk does not give the bytes of {digest} back")]
    LostByDisk { digest: Digest },
    #[error("the bytes of {digest} cannot be read: {why}")]
    UnreadableBytes { digest: Digest, why: String },
    #[error("{digest} is marked as bad, and was not pushed again yet")]
    MarkedBad { digest: Digest },
    #[error("manifest {manifest} of `{repository}` names {digest}, which is not in the store")]
    MissingBlob { repository: RepositoryName, manifest: Digest, digest: Digest },
    #[error("manifest {manifest} of `{repository}` names {digest}, which is not in the repository")]
    NotInRepository { repository: RepositoryName, manifest: Digest, digest: Digest },
    #[error("`{repository}` has {digest}, which is not in the store")]
    OwnedButMissing { repository: RepositoryName, digest: Digest },
    #[error("`{}` has {}, and nothing keeps it from being collected", .0.repository, .0.blob)]
    MissingEdge(Edge),
    #[error("tag `{tag}` of `{repository}` names {digest}, which was deleted")]
    DanglingTag { repository: RepositoryName, tag: Tag, digest: Digest, incarnation: Id },
    #[error("`{repository}` has manifests, and is not in the catalog")]
    MissingFromCatalog { repository: RepositoryName },
    #[error("manifest {digest} of `{repository}` is not listed among the referrers of {subject}")]
    MissingReferrer { repository: RepositoryName, subject: Digest, digest: Digest },
}

impl Checked {
    /// Tells whether something is wrong and was not mended.
    pub fn is_wrong(&self) -> bool {
        self.problems.iter().any(|problem| problem.mending != Mending::Done)
    }
}

impl Storage {
    /// Checks everything, and mends what is to be mended.
    pub async fn fsck(&self, options: FsckOptions) -> Result<Checked, StorageError> {
        let mut checked = Checked::default();
        let mut suspects = Vec::new();
        let named = self.check_blobs(options, &mut checked, &mut suspects).await?;
        self.check_owns(&mut suspects).await?;
        self.check_manifests(options, &mut checked, &mut suspects).await?;
        self.check_tags(&mut checked, &mut suspects).await?;
        self.count_leftovers(&mut checked, &named).await?;
        if !suspects.is_empty() {
            tokio::time::sleep(options.settle).await;
        }
        for fault in suspects {
            if !self.holds(&fault, options).await? {
                continue;
            }
            let mending = if options.repair { self.mend(&fault).await? } else { Mending::Nothing };
            checked.problems.push(Problem { fault, mending });
        }
        self.sync().await?;
        Ok(checked)
    }

    /// Looks at all blobs, and returns the data objects that their records name.
    async fn check_blobs(
        &self,
        options: FsckOptions,
        checked: &mut Checked,
        suspects: &mut Vec<Fault>,
    ) -> Result<HashSet<Id>, StorageError> {
        let mut named = HashSet::new();
        let mut pages = pin!(self.pages(keys::blobs(), None));
        while let Some(page) = pages.try_next().await? {
            let digests: Vec<Digest> = page.iter().filter_map(|entry| keys::parse_blob(&entry.key)).collect();
            let looked = digests.iter().map(|digest| self.check_blob(digest, options));
            let mut looked = stream::iter(looked).buffered(AT_ONCE);
            while let Some((fault, record)) = looked.try_next().await? {
                suspects.extend(fault);
                let Some(record) = record else { continue };
                named.extend(record.data);
                if record.state != BlobState::Dead {
                    checked.blobs.blobs += 1;
                    checked.blobs.bytes += record.size;
                }
            }
        }
        Ok(named)
    }

    async fn check_blob(
        &self,
        digest: &Digest,
        options: FsckOptions,
    ) -> Result<(Option<Fault>, Option<BlobRecord>), StorageError> {
        let held = match self.read_record::<BlobRecord>(&keys::blob(digest)).await? {
            Ok(Some(held)) => held,
            Ok(None) => return Ok((None, None)),
            Err(fault) => return Ok((Some(fault), None)),
        };
        let fault = match self.check_bytes(digest, &held, options).await {
            Err(StorageError::Object(error @ ObjectError::Failed { .. })) => {
                let why = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
                Some(Fault::UnreadableBytes { digest: digest.clone(), why })
            }
            fault => fault?,
        };
        Ok((fault, Some(held.record)))
    }

    async fn check_bytes(
        &self,
        digest: &Digest,
        held: &Held<BlobRecord>,
        options: FsckOptions,
    ) -> Result<Option<Fault>, StorageError> {
        let digest = digest.clone();
        Ok(match (held.record.state, held.record.data) {
            (BlobState::Dead, _) => held.record.bad.then_some(Fault::MarkedBad { digest }),
            (_, Some(id)) if self.data().size(id).await? != Some(held.record.size) => Some(Fault::LostBytes { digest }),
            (_, Some(_)) if !options.verify => None,
            _ => match self.verify_blob(&digest, held, 0).await? {
                Verdict::Bad => Some(Fault::BadBytes { digest }),
                Verdict::Unreadable => Some(Fault::LostByDisk { digest }),
                Verdict::Whole | Verdict::Moot => None,
            },
        })
    }

    async fn check_owns(&self, suspects: &mut Vec<Fault>) -> Result<(), StorageError> {
        let mut pages = pin!(self.pages(keys::all_owns(), None));
        while let Some(page) = pages.try_next().await? {
            let mut looked = stream::iter(&page).map(|entry| self.check_own(&entry.key)).buffered(AT_ONCE);
            while let Some(faults) = looked.try_next().await? {
                suspects.extend(faults);
            }
        }
        Ok(())
    }

    async fn check_own(&self, key: &Key) -> Result<Vec<Fault>, StorageError> {
        let Some((repository, blob)) = keys::parse_own(key) else { return Ok(Vec::new()) };
        let held = match self.read_record::<OwnRecord>(key).await? {
            Ok(Some(held)) => held,
            Ok(None) => return Ok(Vec::new()),
            Err(fault) => return Ok(vec![fault]),
        };
        let mut faults = Vec::new();
        if self.is_missing(&blob).await? {
            faults.push(Fault::OwnedButMissing { repository: repository.clone(), digest: blob.clone() });
        }
        let edge = Edge { blob, repository, incarnation: held.record.incarnation, kind: EdgeKind::Own };
        if self.objects().head(&edge.key()).await?.is_none() {
            faults.push(Fault::MissingEdge(edge));
        }
        Ok(faults)
    }

    async fn check_manifests(
        &self,
        options: FsckOptions,
        checked: &mut Checked,
        suspects: &mut Vec<Fault>,
    ) -> Result<(), StorageError> {
        let mut repositories = BTreeSet::new();
        let mut pages = pin!(self.pages(keys::all_manifests(), None));
        while let Some(page) = pages.try_next().await? {
            let looked = page.iter().map(|entry| self.check_manifest(&entry.key, options));
            let mut looked = stream::iter(looked).buffered(AT_ONCE);
            while let Some((faults, repository)) = looked.try_next().await? {
                suspects.extend(faults);
                checked.manifests += u64::from(repository.is_some());
                repositories.extend(repository);
            }
        }
        for repository in repositories {
            if !self.has_record(&keys::catalog_entry(&repository)).await? {
                suspects.push(Fault::MissingFromCatalog { repository });
            }
        }
        let mut pages = pin!(self.pages(keys::catalog(), None));
        while let Some(page) = pages.try_next().await? {
            for entry in &page {
                suspects.extend(self.read_record::<IgnoredAny>(&entry.key).await?.err());
            }
        }
        Ok(())
    }

    async fn check_manifest(
        &self,
        key: &Key,
        options: FsckOptions,
    ) -> Result<(Vec<Fault>, Option<RepositoryName>), StorageError> {
        let Some((repository, manifest)) = keys::parse_manifest(key) else { return Ok((Vec::new(), None)) };
        let record = match self.read_record::<ManifestRecord>(key).await? {
            Ok(Some(held)) => held.record,
            Ok(None) => return Ok((Vec::new(), None)),
            Err(fault) => return Ok((vec![fault], None)),
        };
        let mut faults = Vec::new();
        let name = || (repository.clone(), manifest.clone());
        for edge in self.repository(&repository).manifest_edges(&manifest, record.incarnation, &record.references) {
            if self.objects().head(&edge.key()).await?.is_none() {
                faults.push(Fault::MissingEdge(edge));
            }
        }
        if let Some(subject) = record.subject.clone() {
            let (repository, digest) = name();
            let referrer = keys::referrer(&repository, &subject, &digest, record.incarnation);
            if self.objects().head(&referrer).await?.is_none() {
                faults.push(Fault::MissingReferrer { repository, subject, digest });
            }
        }
        if self.is_missing(&manifest).await? {
            let (repository, digest) = name();
            faults.push(Fault::MissingBlob { repository, manifest: digest.clone(), digest });
        } else if !options.sparse {
            for digest in self.needed(&repository, &manifest, &record).await? {
                let (repository, manifest) = name();
                if self.is_missing(&digest).await? {
                    faults.push(Fault::MissingBlob { repository, manifest, digest });
                } else if !self.has_record(&keys::own(&repository, &digest)).await? {
                    faults.push(Fault::NotInRepository { repository, manifest, digest });
                }
            }
        }
        Ok((faults, Some(repository)))
    }

    /// Returns what has to be there for an image to be pulled.
    async fn needed(
        &self,
        repository: &RepositoryName,
        manifest: &Digest,
        record: &ManifestRecord,
    ) -> Result<BTreeSet<Digest>, StorageError> {
        let bytes = self.repository(repository).manifest_bytes(manifest, MAX_MANIFEST).await?;
        let parsed = bytes.map(|bytes| Parsed::parse(&bytes, Some(&record.media_type)));
        // What cannot be parsed are bad bytes, which are told for themselves.
        let Some(Ok(Parsed::Manifest(image))) = parsed else { return Ok(BTreeSet::new()) };
        let named = std::iter::once(&image.config).chain(&image.layers);
        let here = named.filter(|descriptor| !media_type::is_nondistributable(&descriptor.media_type));
        Ok(here.map(|descriptor| descriptor.digest.clone()).collect())
    }

    async fn check_tags(&self, checked: &mut Checked, suspects: &mut Vec<Fault>) -> Result<(), StorageError> {
        let mut pages = pin!(self.pages(keys::all_tags(), None));
        while let Some(page) = pages.try_next().await? {
            checked.tags += page.iter().filter(|entry| entry.size != TOMBSTONE).count() as u64;
            let mut looked = stream::iter(&page).map(|entry| self.check_tag(&entry.key)).buffered(AT_ONCE);
            while let Some(fault) = looked.try_next().await? {
                suspects.extend(fault);
            }
        }
        Ok(())
    }

    async fn check_tag(&self, key: &Key) -> Result<Option<Fault>, StorageError> {
        let Some((repository, tag)) = keys::parse_tag(key) else { return Ok(None) };
        let record = match self.read_record::<TagRecord>(key).await? {
            Ok(Some(held)) => held.record,
            Ok(None) => return Ok(None),
            Err(fault) => return Ok(Some(fault)),
        };
        let TagRecord { digest, incarnation, .. } = record;
        // To clients, a tag of a manifest that was deleted names nothing, also when that was pushed again.
        let manifest = self.repository(&repository).manifest(&digest).await?;
        let dangles = manifest.is_none_or(|manifest| manifest.incarnation != incarnation);
        Ok(dangles.then_some(Fault::DanglingTag { repository, tag, digest, incarnation }))
    }

    /// Counts what crashes left behind.
    async fn count_leftovers(&self, checked: &mut Checked, named: &HashSet<Id>) -> Result<(), StorageError> {
        let mut pages = pin!(self.pages(keys::all_edges(), None));
        while let Some(page) = pages.try_next().await? {
            let edges: Vec<Edge> = page.iter().filter_map(|entry| Edge::parse(&entry.key)).collect();
            let mut looked = stream::iter(edges.iter().map(|edge| self.is_current(edge))).buffered(AT_ONCE);
            while let Some(current) = looked.try_next().await? {
                checked.stale_edges += u64::from(!current);
            }
        }
        let uploads = self.upload_data().await?;
        let mut after = None;
        loop {
            let page = self.data().list(after, 1000).await?;
            for (id, size, _) in &page.entries {
                if !named.contains(id) && !uploads.ids.contains(id) {
                    checked.unnamed.blobs += 1;
                    checked.unnamed.bytes += size;
                }
            }
            match page.entries.last().filter(|_| page.more) {
                Some((last, ..)) => after = Some(*last),
                None => return Ok(()),
            }
        }
    }

    /// Tells whether a fault is still there.
    async fn holds(&self, fault: &Fault, options: FsckOptions) -> Result<bool, StorageError> {
        Ok(match fault {
            Fault::DamagedRecord { key, .. } => self.is_damaged(key).await?,
            Fault::LostBytes { digest }
            | Fault::BadBytes { digest }
            | Fault::LostByDisk { digest }
            | Fault::MarkedBad { digest }
            | Fault::UnreadableBytes { digest, .. } => {
                self.check_blob(digest, options).await?.0.as_ref() == Some(fault)
            }
            Fault::MissingBlob { repository, manifest, .. }
            | Fault::NotInRepository { repository, manifest, .. }
            | Fault::MissingReferrer { repository, digest: manifest, .. } => {
                let key = keys::manifest(repository, manifest);
                self.check_manifest(&key, options).await?.0.contains(fault)
            }
            Fault::OwnedButMissing { repository, digest } => {
                self.check_own(&keys::own(repository, digest)).await?.contains(fault)
            }
            Fault::MissingEdge(edge) => {
                // In this order: who removes an edge removes the record that it belongs to before.
                self.objects().head(&edge.key()).await?.is_none() && self.is_current(edge).await?
            }
            Fault::DanglingTag { repository, tag, .. } => {
                self.check_tag(&keys::tag(repository, tag)).await?.as_ref() == Some(fault)
            }
            Fault::MissingFromCatalog { repository } => {
                !self.has_record(&keys::catalog_entry(repository)).await?
                    && !self.repository(repository).manifests(None, 1).await?.entries.is_empty()
            }
        })
    }

    async fn mend(&self, fault: &Fault) -> Result<Mending, StorageError> {
        let done = |done: bool| if done { Mending::Done } else { Mending::Nothing };
        Ok(match fault {
            Fault::DamagedRecord { key, .. } => self.mend_record(key).await?,
            // Perhaps it can be, another time.
            Fault::MissingBlob { .. } | Fault::UnreadableBytes { .. } => Mending::Nothing,
            Fault::MarkedBad { digest } => {
                let held = self.slot::<BlobRecord>(&keys::blob(digest)).await?.here();
                let healed = match held {
                    Some(held) => self.heal(digest, &held, 0).await,
                    None => Ok(false),
                };
                match healed {
                    // Perhaps it can be read, another time.
                    Ok(false) | Err(StorageError::Object(ObjectError::Failed { .. })) => Mending::Marked,
                    healed => done(healed?),
                }
            }
            Fault::LostBytes { digest } | Fault::BadBytes { digest } | Fault::LostByDisk { digest } => {
                let held = self.slot::<BlobRecord>(&keys::blob(digest)).await?.here();
                match held {
                    Some(held) if self.mark_bad(digest, &held).await? => Mending::Marked,
                    _ => Mending::Nothing,
                }
            }
            Fault::NotInRepository { repository, digest, .. } => done(self.mend_own(repository, digest).await?),
            // To clients it is not there, and the next who pushes it puts it there.
            Fault::OwnedButMissing { repository, digest } => {
                done(self.repository(repository).delete_blob(digest).await?)
            }
            Fault::MissingEdge(edge) => {
                self.put_edges(std::slice::from_ref(edge)).await?;
                done(self.rely_on(&edge.blob, &Arrival::Known).await? != Source::Nobodys)
            }
            Fault::DanglingTag { repository, tag, digest, incarnation } => {
                let same = |now: Option<&TagRecord>| {
                    now.is_some_and(|now| now.digest == *digest && now.incarnation == *incarnation)
                };
                done(self.repository(repository).remove_tag(tag, Some("fsck"), same).await?)
            }
            Fault::MissingFromCatalog { repository } => {
                self.repository(repository).enter_catalog().await?;
                Mending::Done
            }
            Fault::MissingReferrer { repository, subject, digest } => {
                done(self.mend_referrer(repository, subject, digest).await?)
            }
        })
    }

    /// Writes a record that cannot be read again, from what else is known of what it said.
    async fn mend_record(&self, key: &Key) -> Result<Mending, StorageError> {
        let mended = if let Some((repository, digest)) = keys::parse_own(key) {
            if self.has_edge_of(&digest, &repository, &EdgeKind::Own).await? {
                self.mend_own(&repository, &digest).await?
            } else {
                self.bury_damaged(key).await?
            }
        } else if let Some((repository, digest)) = keys::parse_manifest(key) {
            let mend = async |new: NewManifest<'_>, repository: &Repository| repository.put_manifest(&new).await;
            if self.has_edge_of(&digest, &repository, &EdgeKind::Manifest(digest.clone())).await? {
                self.with_manifest(&repository, &digest, None, mend).await?
            } else {
                self.bury_damaged(key).await?
            }
        } else if let Some((repository, tag)) = keys::parse_tag(key) {
            match self.repository(&repository).mend_tag(&tag, Some("fsck")).await {
                Ok(mended) => mended,
                Err(PutManifestError::Storage(error)) => return Err(error),
                // Somebody set it meanwhile.
                Err(_) => true,
            }
        } else if let Some(repository) = keys::parse_catalog(key) {
            self.repository(&repository).enter_catalog().await?;
            self.repository(&repository).leave_catalog().await?;
            true
        } else {
            // Only the next push knows what a blob has.
            return Ok(if keys::parse_blob(key).is_some() { Mending::Marked } else { Mending::Nothing });
        };
        Ok(if mended { Mending::Done } else { Mending::Nothing })
    }

    /// Tells whether a repository has an edge to a blob, which it loses when it loses what the edge is of.
    async fn has_edge_of(
        &self,
        blob: &Digest,
        repository: &RepositoryName,
        kind: &EdgeKind,
    ) -> Result<bool, StorageError> {
        Ok(self.edges(blob).await?.iter().any(|(edge, _)| edge.repository == *repository && edge.kind == *kind))
    }

    /// Makes a tombstone of what was one before it was damaged.
    async fn bury_damaged(&self, key: &Key) -> Result<bool, StorageError> {
        let condition = self.slot::<IgnoredAny>(key).await?.condition();
        Ok(self.is_damaged(key).await? && self.bury(key, 0, condition).await?.is_some())
    }

    /// Makes sure that a repository has a blob that is in the store.
    async fn mend_own(&self, repository: &RepositoryName, digest: &Digest) -> Result<bool, StorageError> {
        match self.repository(repository).commit(digest, &Arrival::Known).await {
            Ok(()) => Ok(true),
            Err(CommitError::Unknown { .. }) => Ok(false),
            Err(CommitError::Storage(error)) => Err(error),
        }
    }

    async fn mend_referrer(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        digest: &Digest,
    ) -> Result<bool, StorageError> {
        let Some(record) = self.repository(repository).manifest(digest).await? else { return Ok(false) };
        let mend = async |new: NewManifest<'_>, repository: &Repository| {
            repository.put_referrer(subject, &new, record.incarnation).await.map_err(Into::into)
        };
        self.with_manifest(repository, digest, Some(&record.media_type), mend).await
    }

    /// Does something with a manifest as if it were pushed again, and tells whether that could be done.
    async fn with_manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        media_type: Option<&str>,
        mend: impl AsyncFnOnce(NewManifest<'_>, &Repository) -> Result<(), PutManifestError>,
    ) -> Result<bool, StorageError> {
        let repository = self.repository(repository);
        let Some(bytes) = repository.manifest_bytes(digest, MAX_MANIFEST).await? else { return Ok(false) };
        // What is pushed was hashed when it came; nobody has looked at this since.
        if Digest::of(digest.algorithm(), &bytes) != *digest {
            return Ok(false);
        }
        let Ok(parsed) = Parsed::parse(&bytes, media_type) else { return Ok(false) };
        let new = NewManifest {
            digest,
            bytes: &bytes,
            parsed: &parsed,
            media_type: media_type.unwrap_or(parsed.media_type()),
            tags: &[],
            holds: None,
            sparse: true,
            by: None,
        };
        match mend(new, &repository).await {
            Ok(()) => Ok(true),
            Err(PutManifestError::Storage(error)) => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// Tells whether a blob cannot be relied upon. That its bytes are there is looked at elsewhere.
    async fn is_missing(&self, digest: &Digest) -> Result<bool, StorageError> {
        let held = self.read_record::<BlobRecord>(&keys::blob(digest)).await?;
        // One that is damaged, or marked, is told for itself.
        Ok(matches!(held, Ok(None)) || held.is_ok_and(|held| held.is_some_and(|it| is_gone(&it.record))))
    }

    /// Reads a record that may be damaged.
    async fn read_record<R: serde::de::DeserializeOwned>(
        &self,
        key: &Key,
    ) -> Result<Result<Option<Held<R>>, Fault>, StorageError> {
        Ok(match self.slot::<R>(key).await? {
            Slot::Damaged(damage) => Err(Fault::DamagedRecord { key: key.clone(), why: damage.why }),
            slot => Ok(slot.here()),
        })
    }
}

fn is_gone(record: &BlobRecord) -> bool {
    record.state == BlobState::Dead && !record.bad
}
