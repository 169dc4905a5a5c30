//! Manifests: reading, pushing, deleting.
//!
//! The bytes of a manifest are a blob, which the manifest's own edge keeps, like the blobs that it names.

use std::collections::BTreeSet;
use std::pin::pin;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use jiff::{SignedDuration, Timestamp};
use oci::{Descriptor, Digest, Parsed, Tag, media_type};
use serde::{Deserialize, Serialize};

use super::blobs::{Arrival, OwnRecord, Source, at_once};
use super::id::Id;
use super::keys::{self, Edge, EdgeKind};
use super::objects::{Condition, ObjectError};
use super::records::{Slot, TRIES};
use super::tags::{Named, TagRecord, TagTest};
use super::{Blob, Repository, StorageError};

/// A server notes the pulls of one manifest at most this often, in seconds, so a note may be so much older than the last.
pub const PULLS_NOTED_EVERY: i64 = 60 * 60;

/// What is known about a manifest of a repository without reading it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestRecord {
    /// Names this stay of the manifest in the repository.
    pub incarnation: Id,
    /// What the sender called it.
    pub media_type: String,
    /// How long it is, in bytes.
    pub size: u64,
    /// The config, layers or manifests that it names.
    pub references: Vec<Digest>,
    /// The manifest that it is about, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Digest>,
    /// Who pushed it, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// When it was pushed.
    pub at: Timestamp,
}

/// A manifest that is to be put into a repository.
#[derive(Clone, Copy, Debug)]
pub struct NewManifest<'a> {
    /// The digest of its bytes; the caller has made sure.
    pub digest: &'a Digest,
    /// Exactly what was sent.
    pub bytes: &'a Bytes,
    /// What they say.
    pub parsed: &'a Parsed,
    /// What the sender called it.
    pub media_type: &'a str,
    /// The tags that are to name it from now on.
    pub tags: &'a [Tag],
    /// What the first tag must name now, if the client said so.
    pub holds: Option<TagTest<'a>>,
    /// Whether an image may lack its config and layers.
    pub sparse: bool,
    /// Who pushes it, if that is known.
    pub by: Option<&'a str>,
}

/// Why a manifest was not put into a repository.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum PutManifestError {
    #[error("the manifest names {digest}, which is not in this repository")]
    MissingReference { digest: Digest },
    #[error("tag `{tag}` names something else by now")]
    TagMoved { tag: Tag },
    #[error("tag `{tag}` is immutable, and names {digest}")]
    TagImmutable { tag: Tag, digest: Digest },
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<ObjectError> for PutManifestError {
    fn from(error: ObjectError) -> Self {
        Self::Storage(error.into())
    }
}

/// What a manifest names, and which of that has to be there.
struct References {
    all: Vec<Digest>,
    needed: BTreeSet<Digest>,
}

impl References {
    fn of(parsed: &Parsed, sparse: bool) -> Self {
        let mut all = BTreeSet::new();
        let mut needed = BTreeSet::new();
        match parsed {
            // An index may name platforms that are not here (distribution-spec, "Pushing Manifests").
            Parsed::Index(index) => all.extend(index.manifests.iter().map(|it| it.digest.clone())),
            Parsed::Manifest(manifest) => {
                for descriptor in std::iter::once(&manifest.config).chain(&manifest.layers) {
                    all.insert(descriptor.digest.clone());
                    if !sparse && !media_type::is_nondistributable(&descriptor.media_type) {
                        needed.insert(descriptor.digest.clone());
                    }
                }
            }
        }
        Self { all: all.into_iter().collect(), needed }
    }
}

impl Repository {
    /// Returns what is known about a manifest, if it is here.
    pub async fn manifest(&self, digest: &Digest) -> Result<Option<ManifestRecord>, StorageError> {
        let slot = self.storage.slot::<ManifestRecord>(&keys::manifest(&self.name, digest)).await?;
        Ok(slot.here().map(|held| held.record))
    }

    /// Returns the bytes of a manifest that is here, if they all are.
    pub async fn manifest_blob(&self, digest: &Digest) -> Result<Option<Blob>, StorageError> {
        self.storage.whole(digest).await
    }

    /// Puts a manifest into the repository, and then moves tags to it (registry.md, 9.4).
    ///
    /// All of it survives a crash of the machine when this returns. A manifest that may not be has left nothing behind
    /// that can be seen; when a tag does not move, the manifest and the tags before it may be there.
    pub async fn put_manifest(&self, new: &NewManifest<'_>) -> Result<(), PutManifestError> {
        if let (Some(holds), Some(tag)) = (new.holds, new.tags.first()) {
            self.check_tag(tag, holds).await?;
        }
        for tag in new.tags {
            self.check_immutable(tag, new.digest).await?;
        }
        for attempt in 0..TRIES {
            let incarnation = self.ensure_manifest(new).await?;
            if let Some(subject) = new.parsed.subject() {
                self.put_referrer(&subject.digest, new, incarnation).await?;
            }
            self.enter_catalog().await?;
            for (number, tag) in new.tags.iter().enumerate() {
                let named =
                    Named { digest: new.digest, incarnation, media_type: new.media_type, size: new.bytes.len() as u64 };
                // A second attempt moved it already.
                let holds = new.holds.filter(|_| number == 0 && attempt == 0);
                self.set_tag(tag, named, holds, new.by).await?;
            }
            // Deleted meanwhile? Then whoever did that may have come too early to see these tags.
            let now = self.manifest(new.digest).await?;
            if now.is_some_and(|record| record.incarnation == incarnation) {
                self.storage.sync().await?;
                return Ok(());
            }
        }
        let key = keys::manifest(&self.name, new.digest).as_str().to_owned();
        Err(StorageError::Contended { key }.into())
    }

    /// Makes sure that the manifest is here, and returns which incarnation is.
    async fn ensure_manifest(&self, new: &NewManifest<'_>) -> Result<Id, PutManifestError> {
        let key = keys::manifest(&self.name, new.digest);
        let references = References::of(new.parsed, new.sparse);
        let body = self.body(new).await?;
        let mut mine = false;
        for _ in 0..TRIES {
            let slot = self.storage.slot::<ManifestRecord>(&key).await?;
            let condition = slot.condition();
            let known = match slot {
                Slot::Damaged(_) => self.incarnation_of_damaged(new.digest).await?,
                _ => None,
            };
            if let Slot::Here(held) = slot {
                // Its edges keep all that it names. Only bytes that were lost are put back.
                mine |= self.storage.rely_on(new.digest, &body).await? == Source::Mine;
                self.spare(&body, mine).await?;
                return Ok(held.record.incarnation);
            }
            let incarnation = known.unwrap_or_else(|| self.storage.draw());
            let edges = self.manifest_edges(new.digest, incarnation, &references.all);
            let missing = self
                .storage
                .with_edges(&edges, async || {
                    let missing = self.missing(&references).await?;
                    if missing.is_none() {
                        mine |= self.storage.rely_on(new.digest, &body).await? == Source::Mine;
                    }
                    Ok(missing)
                })
                .await?;
            // Those of an incarnation that was here before are not only ours.
            let drop_edges = async || if known.is_none() { self.storage.drop_edges(&edges).await } else { Ok(()) };
            if let Some(digest) = missing {
                drop_edges().await?;
                self.spare(&body, mine).await?;
                return Err(PutManifestError::MissingReference { digest });
            }
            let record = ManifestRecord {
                incarnation,
                media_type: new.media_type.to_owned(),
                size: new.bytes.len() as u64,
                references: references.all.clone(),
                subject: new.parsed.subject().map(|subject| subject.digest.clone()),
                by: new.by.map(str::to_owned),
                at: self.storage.objects().now().await?,
            };
            if self.storage.replace(&key, &record, &[], condition).await?.is_some() {
                self.spare(&body, mine).await?;
                return Ok(incarnation);
            }
            drop_edges().await?;
        }
        Err(StorageError::Contended { key: key.as_str().to_owned() }.into())
    }

    /// Finds which incarnation of a manifest tags name that is here and whose record cannot be read. With a record of the
    /// same incarnation, all tags and edges fit again at once.
    ///
    /// An edge alone may be of somebody who pushes the manifest right now, and takes it back.
    async fn incarnation_of_damaged(&self, digest: &Digest) -> Result<Option<Id>, StorageError> {
        let hints = keys::named_ever(&self.name, digest);
        let mut tagged = BTreeSet::new();
        let mut pages = pin!(self.storage.pages(hints.clone(), None));
        while let Some(page) = pages.try_next().await? {
            let named = page.iter().filter_map(|entry| keys::parse_named(&hints, &entry.key));
            tagged.extend(named.map(|(incarnation, _)| incarnation));
        }
        if tagged.is_empty() {
            return Ok(None);
        }
        let kind = EdgeKind::Manifest(digest.clone());
        let mut edges = self.storage.edges(digest).await?;
        edges.retain(|(edge, _)| {
            edge.repository == self.name && edge.kind == kind && tagged.contains(&edge.incarnation)
        });
        // An older one was deleted, and what was its own is about to go.
        Ok(edges.into_iter().max_by_key(|(_, written)| *written).map(|(edge, _)| edge.incarnation))
    }

    /// Gets the bytes of a manifest to where the record can name them.
    async fn body(&self, new: &NewManifest<'_>) -> Result<Arrival, StorageError> {
        if new.bytes.len() <= self.storage.options().inline {
            return Ok(Arrival::Inline(new.bytes.clone()));
        }
        let id = self.storage.draw();
        let mut writer = self.storage.data().begin(id).await?;
        writer.write(std::slice::from_ref(new.bytes)).await?;
        let size = writer.finish().await?;
        Ok(Arrival::Data { id, size })
    }

    /// Throws bytes away unless a record names them.
    async fn spare(&self, body: &Arrival, named: bool) -> Result<(), StorageError> {
        match body {
            Arrival::Data { id, .. } if !named => Ok(self.storage.data().delete(*id).await?),
            Arrival::Data { .. } | Arrival::Inline(_) | Arrival::Known => Ok(()),
        }
    }

    pub(super) fn manifest_edges(&self, digest: &Digest, incarnation: Id, references: &[Digest]) -> Vec<Edge> {
        let named = references.iter().filter(|reference| *reference != digest);
        let edge = |blob: &Digest| self.edge(blob, incarnation, EdgeKind::Manifest(digest.clone()));
        std::iter::once(digest).chain(named).map(edge).collect()
    }

    /// Makes sure that what a manifest names can be relied upon, and returns something needed that is not here.
    async fn missing(&self, references: &References) -> Result<Option<Digest>, StorageError> {
        let missing = std::sync::Mutex::new(None);
        let check = |reference: &Digest| {
            let (reference, missing) = (reference.clone(), &missing);
            async move {
                let here = self.relies_on(&reference).await?;
                if !here
                    && references.needed.contains(&reference)
                    && let Ok(mut missing) = missing.lock()
                {
                    missing.get_or_insert(reference);
                }
                Ok::<_, StorageError>(())
            }
        };
        at_once(references.all.iter().map(check)).await?;
        Ok(missing.into_inner().unwrap_or_default())
    }

    /// Makes sure that a blob, to which there is an edge, stays in the repository, and tells whether it is there.
    async fn relies_on(&self, digest: &Digest) -> Result<bool, StorageError> {
        let key = keys::own(&self.name, digest);
        let mut owned = false;
        for _ in 0..TRIES {
            let Some(own) = self.storage.slot::<OwnRecord>(&key).await?.here() else { break };
            owned = self.storage.keep_own(&key, own).await?;
            if owned {
                break;
            }
        }
        // A manifest that an index names has no own record.
        let known = self.storage.rely_on(digest, &Arrival::Known).await? != Source::Nobodys;
        Ok(owned && known)
    }

    /// Deletes a manifest and the tags that name it, and tells whether it was here. When this fails half way, doing it
    /// again finishes it. A manifest that an immutable tag names stays.
    ///
    /// What it refers to loses its edges, and goes when nothing else relies on it. Manifests that are about it stay.
    pub async fn delete_manifest(&self, digest: &Digest, by: Option<&str>) -> Result<bool, PutManifestError> {
        let key = keys::manifest(&self.name, digest);
        for _ in 0..TRIES {
            let slot = self.storage.slot::<ManifestRecord>(&key).await?;
            let condition = slot.condition();
            let (gone, held) = match slot {
                Slot::Absent => return Ok(false),
                Slot::Gone(_) => (true, None),
                Slot::Damaged(_) => (false, None),
                Slot::Here(held) => (false, Some(held)),
            };
            if !gone {
                self.check_untagged(digest).await?;
            }
            let buried = if gone { None } else { self.storage.bury(&key, 0, condition).await? };
            if !gone && buried.is_none() {
                continue;
            }
            if let (Some((buried, _)), Some(held)) = (buried, &held)
                && let Err(error) = self.check_untagged(digest).await
            {
                // An immutable tag came after the first look.
                if self.storage.replace(&key, &held.record, &[], Condition::Is(buried)).await?.is_none() {
                    self.restore_manifest(digest, &held.record).await?;
                }
                return Err(error);
            }
            if let Some(held) = held {
                self.forget_manifest(digest, &held.record, by).await?;
            } else {
                // Whoever deleted it may not have come to the rest; or nobody knows what it named, which is the
                // collector's then.
                self.forget_tags(digest, by).await?;
                self.leave_catalog().await?;
            }
            self.storage.sync().await?;
            return Ok(!gone);
        }
        Err(StorageError::Contended { key: key.as_str().to_owned() }.into())
    }

    /// Puts a manifest back whose place others have changed since it was buried. When a new incarnation is there, that gets
    /// its tags.
    async fn restore_manifest(&self, digest: &Digest, record: &ManifestRecord) -> Result<(), PutManifestError> {
        let key = keys::manifest(&self.name, digest);
        let edges = self.manifest_edges(digest, record.incarnation, &record.references);
        for _ in 0..TRIES {
            let slot = self.storage.slot::<ManifestRecord>(&key).await?;
            let condition = slot.condition();
            if let Slot::Here(now) = slot {
                if now.record.incarnation == record.incarnation {
                    return Ok(());
                }
                self.move_tags(digest, record, &now.record).await?;
                // Deleted meanwhile? Then whoever did that may have come too early to see these tags.
                if self.manifest(digest).await?.is_some_and(|it| it.incarnation == now.record.incarnation) {
                    self.forget_manifest(digest, record, None).await?;
                    return Ok(self.storage.sync().await?);
                }
                continue;
            }
            // A collector may have found the edges to be nobody's.
            let rely = async || {
                for reference in &record.references {
                    self.relies_on(reference).await?;
                }
                self.storage.rely_on(digest, &Arrival::Known).await
            };
            self.storage.with_edges(&edges, rely).await?;
            if self.storage.replace(&key, record, &[], condition).await?.is_some() {
                self.enter_catalog().await?;
                return Ok(self.storage.sync().await?);
            }
        }
        Err(StorageError::Contended { key: key.as_str().to_owned() }.into())
    }

    /// Has the tags that name one incarnation of a manifest name another.
    async fn move_tags(
        &self,
        digest: &Digest,
        from: &ManifestRecord,
        to: &ManifestRecord,
    ) -> Result<(), PutManifestError> {
        let named = Named { digest, incarnation: to.incarnation, media_type: &to.media_type, size: to.size };
        let same = |now: Option<&Digest>| now == Some(digest);
        let hints = keys::named_ever(&self.name, digest);
        let mut pages = pin!(self.storage.pages(hints.clone(), None));
        while let Some(page) = pages.try_next().await? {
            for (_, tag) in page.iter().filter_map(|entry| keys::parse_named(&hints, &entry.key)) {
                let Some(record) = self.tag(&tag).await? else { continue };
                if record.digest != *digest || record.incarnation != from.incarnation {
                    continue;
                }
                match self.set_tag(&tag, named, Some(TagTest(&same)), record.by.as_deref()).await {
                    // Somebody else set it.
                    Err(PutManifestError::TagMoved { .. }) => {}
                    moved => moved?,
                }
            }
        }
        Ok(())
    }

    /// Removes what belonged to a manifest that is gone: tags, what made it a referrer, edges, and the repository's
    /// place in the catalog if it was the last.
    pub(super) async fn forget_manifest(
        &self,
        digest: &Digest,
        record: &ManifestRecord,
        by: Option<&str>,
    ) -> Result<(), StorageError> {
        self.forget_tags(digest, by).await?;
        if let Some(subject) = &record.subject {
            let referrer = keys::referrer(&self.name, subject, digest, record.incarnation);
            self.storage.objects().delete(&referrer).await?;
        }
        let edges = self.manifest_edges(digest, record.incarnation, &record.references);
        self.storage.drop_edges(&edges).await?;
        self.leave_catalog().await
    }

    /// Removes the tags that name incarnations of a manifest which are gone.
    pub(super) async fn forget_tags(&self, digest: &Digest, by: Option<&str>) -> Result<(), StorageError> {
        let hints = keys::named_ever(&self.name, digest);
        let mut after = None;
        loop {
            let page = self.storage.objects().list(&hints, after.as_ref(), 1000).await?;
            // Read after the hints, which come after the record: an incarnation with a hint that is not here now never
            // will be.
            let here = self.manifest(digest).await?.map(|record| record.incarnation);
            for entry in &page.entries {
                let Some((incarnation, tag)) = keys::parse_named(&hints, &entry.key) else { continue };
                if Some(incarnation) == here {
                    continue;
                }
                let same = |record: Option<&TagRecord>| {
                    record.is_some_and(|it| it.digest == *digest && it.incarnation == incarnation)
                };
                self.remove_tag(&tag, by, same).await?;
                self.storage.objects().delete(&entry.key).await?;
            }
            match page.entries.last().filter(|_| page.more) {
                Some(last) => after = Some(last.key.clone()),
                None => return Ok(()),
            }
        }
    }

    /// Returns the digests of manifests in byte order: those after `after`, at most `limit`.
    pub async fn manifests(&self, after: Option<&Digest>, limit: usize) -> Result<super::Page<Digest>, StorageError> {
        let prefix = keys::manifests(&self.name);
        let mut page = super::Page { entries: Vec::new(), more: false };
        let mut after = after.map(|after| keys::manifest(&self.name, after));
        loop {
            let listed = self.storage.objects().list(&prefix, after.as_ref(), 1000).await?;
            for entry in listed.entries.iter().filter(|entry| entry.size != keys::TOMBSTONE) {
                let Some((_, digest)) = keys::parse_manifest(&entry.key) else { continue };
                if page.entries.len() == limit {
                    page.more = true;
                    return Ok(page);
                }
                page.entries.push(digest);
            }
            match listed.entries.last().filter(|_| listed.more) {
                Some(last) => after = Some(last.key.clone()),
                None => return Ok(page),
            }
        }
    }

    /// Notes, for retention rules, that a manifest is pulled now.
    pub async fn note_pull(&self, digest: &Digest) -> Result<(), StorageError> {
        self.storage.objects().put(&keys::pull(&self.name, digest), Bytes::new(), Condition::Always).await?;
        Ok(())
    }

    /// Tells whether a manifest was pulled at some moment or later.
    pub async fn was_pulled_since(&self, digest: &Digest, moment: Timestamp) -> Result<bool, StorageError> {
        let entry = self.storage.objects().head(&keys::pull(&self.name, digest)).await?;
        let noted_since = moment.checked_sub(SignedDuration::from_secs(PULLS_NOTED_EVERY)).unwrap_or(Timestamp::MIN);
        Ok(entry.is_some_and(|entry| entry.modified >= noted_since))
    }

    pub(super) async fn put_referrer(
        &self,
        subject: &Digest,
        new: &NewManifest<'_>,
        incarnation: Id,
    ) -> Result<(), StorageError> {
        let mut descriptor = Descriptor::new(new.media_type, new.digest.clone(), new.bytes.len() as u64);
        descriptor.artifact_type = new.parsed.artifact_type().map(str::to_owned);
        descriptor.annotations = new.parsed.annotations().clone();
        let key = keys::referrer(&self.name, subject, new.digest, incarnation);
        let body = serde_json::to_vec(&descriptor)
            .map_err(|source| StorageError::DamagedRecord { key: key.as_str().to_owned(), source })?;
        self.storage.objects().put(&key, body.into(), Condition::Always).await?;
        Ok(())
    }
}
