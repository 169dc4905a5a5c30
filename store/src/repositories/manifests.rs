//! Manifests of a repository: which are here, and what is known about each without parsing it again.

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci::{Descriptor, Digest, Parsed, Tag};
use serde::{Deserialize, Serialize};

use super::batch::Batch;
use super::{Lock, Repository, RepositoryError, TagRecord, read_record, remove_file, written};

/// What is known about a manifest beside its bytes, which are a blob of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestRecord {
    /// What the sender called it.
    pub media_type: String,
    /// How long it is, in bytes.
    pub size: u64,
    /// The config, layers or manifests that it names.
    pub references: Vec<Digest>,
    /// The manifest that it is about, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Digest>,
    /// Its artifact type, as a list of referrers shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Its annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl ManifestRecord {
    /// Notes what a manifest says.
    pub fn of(parsed: &Parsed, media_type: &str, size: u64) -> Self {
        let references = match parsed {
            Parsed::Manifest(manifest) => {
                std::iter::once(&manifest.config).chain(&manifest.layers).map(|it| it.digest.clone()).collect()
            }
            Parsed::Index(index) => index.manifests.iter().map(|it| it.digest.clone()).collect(),
        };
        Self {
            media_type: media_type.to_owned(),
            size,
            references,
            subject: parsed.subject().map(|subject| subject.digest.clone()),
            artifact_type: parsed.artifact_type().map(str::to_owned),
            annotations: parsed.annotations().clone(),
        }
    }

    /// Describes the manifest as a list of referrers does (distribution-spec, "Listing Referrers").
    pub fn descriptor(&self, digest: &Digest) -> Descriptor {
        let mut descriptor = Descriptor::new(&self.media_type, digest.clone(), self.size);
        descriptor.artifact_type = self.artifact_type.clone();
        descriptor.annotations = self.annotations.clone();
        descriptor
    }
}

/// A manifest that is to be put into a repository.
#[derive(Debug)]
pub struct NewManifest<'a> {
    /// The digest of its bytes; the caller has made sure.
    pub digest: &'a Digest,
    /// Exactly what was sent.
    pub bytes: &'a [u8],
    /// What it says.
    pub record: &'a ManifestRecord,
    /// The tags that are to name it from now on.
    pub tags: &'a [Tag],
}

impl Repository {
    /// Returns what is known about a manifest, if it is here.
    pub fn manifest(&self, digest: &Digest) -> Result<Option<ManifestRecord>, RepositoryError> {
        read_record(&self.manifest_path(digest))
    }

    /// Stores a manifest, puts it into the repository, and then moves tags to it.
    ///
    /// All of it is on the disk when this returns. After a crash in the middle, no tag names a manifest that is not
    /// there.
    pub fn put_manifest(&self, new: &NewManifest<'_>) -> Result<(), RepositoryError> {
        let _lock = self.lock(Lock::Shared)?;
        self.write_manifest(new)
    }

    /// Does the same, if `holds` says so of what `tag` names now; otherwise changes nothing. Tells whether it did. No
    /// other change of the repository comes between.
    pub fn put_manifest_if(
        &self,
        new: &NewManifest<'_>,
        tag: &Tag,
        holds: impl FnOnce(Option<&Digest>) -> bool,
    ) -> Result<bool, RepositoryError> {
        let _lock = self.lock(Lock::Exclusive)?;
        let current = self.tag(tag)?;
        if !holds(current.as_ref().map(|named| &named.digest)) {
            return Ok(false);
        }
        self.write_manifest(new).map(|()| true)
    }

    /// Writes a manifest and its tags. The caller holds the repository's lock.
    fn write_manifest(&self, new: &NewManifest<'_>) -> Result<(), RepositoryError> {
        let NewManifest { digest, bytes, record, tags } = new;
        // The blob comes before the record that keeps it.
        let _unfinished = self.home.begin();
        let mut batch = Batch::new(&self.home);
        batch.add(self.home.layout().blob(digest), bytes)?;
        // The referrer goes first: one that names no manifest is skipped, a manifest that nobody finds is not.
        if let Some(subject) = &record.subject {
            let path = self.referrer_path(subject, digest);
            let descriptor = written(&path, &record.descriptor(digest))?;
            batch.add(path, &descriptor)?;
        }
        let path = self.manifest_path(digest);
        let bytes = written(&path, record)?;
        batch.add(path, &bytes)?;
        for tag in *tags {
            let path = self.tag_path(tag);
            let bytes = written(&path, &TagRecord { digest: (*digest).clone() })?;
            batch.add(path, &bytes)?;
        }
        Ok(batch.place()?)
    }

    /// Deletes a manifest and the tags that name it, and tells whether it was here.
    ///
    /// What it refers to stays, and so do the manifests that are about it.
    pub fn delete_manifest(&self, digest: &Digest) -> Result<bool, RepositoryError> {
        if !self.exists()? {
            return Ok(false);
        }
        let _lock = self.lock(Lock::Exclusive)?;
        let Some(record) = self.manifest(digest)? else { return Ok(false) };
        // Tags go first, so that a crash never leaves one that names nothing.
        for tag in self.all_tags()?.iter().filter_map(|tag| tag.parse::<Tag>().ok()) {
            if self.tag(&tag)?.is_some_and(|named| named.digest == *digest) {
                self.delete_tag(&tag)?;
            }
        }
        remove_file(&self.manifest_path(digest))?;
        if let Some(subject) = &record.subject {
            self.remove_referrer(subject, digest)?;
        }
        Ok(true)
    }

    pub(super) fn manifests_folder(&self) -> PathBuf {
        self.folder.join("manifests")
    }

    fn manifest_path(&self, digest: &Digest) -> PathBuf {
        self.manifests_folder().join(digest.to_string())
    }
}
