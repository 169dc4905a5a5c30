//! Referrers: which manifests of a repository are about a subject.

use std::path::PathBuf;

use oci::{Descriptor, Digest};

use super::{Repository, RepositoryError, file_names, remove_file};

impl Repository {
    /// Returns the digests of the manifests whose subject is `subject`, sorted.
    ///
    /// The subject itself need not be here. After a crash there may be some whose manifest is not: what counts is
    /// [`Self::referrer`].
    pub fn referrers(&self, subject: &Digest) -> Result<Vec<Digest>, RepositoryError> {
        let mut digests: Vec<Digest> =
            file_names(&self.referrers_folder(subject))?.iter().filter_map(|name| name.parse().ok()).collect();
        digests.sort_unstable();
        Ok(digests)
    }

    /// Describes a manifest whose subject is `subject`, if it is here.
    ///
    /// One at a time, because each may have annotations of megabytes, and anybody may push any number.
    pub fn referrer(&self, subject: &Digest, digest: &Digest) -> Result<Option<Descriptor>, RepositoryError> {
        let record = self.manifest(digest)?.filter(|record| record.subject.as_ref() == Some(subject));
        Ok(record.map(|record| record.descriptor(digest)))
    }

    pub(super) fn referrer_path(&self, subject: &Digest, digest: &Digest) -> PathBuf {
        self.referrers_folder(subject).join(digest.to_string())
    }

    pub(super) fn remove_referrer(&self, subject: &Digest, digest: &Digest) -> Result<bool, RepositoryError> {
        Ok(remove_file(&self.referrer_path(subject, digest))?)
    }

    fn referrers_folder(&self, subject: &Digest) -> PathBuf {
        self.folder.join("referrers").join(subject.to_string())
    }
}
