//! Tags of a repository: movable names of manifests.

use std::path::PathBuf;

use oci::{Digest, Tag};
use serde::{Deserialize, Serialize};

use super::{Page, Repository, RepositoryError, file_names, read_record, remove_file};

/// What a tag names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TagRecord {
    /// The manifest.
    pub digest: Digest,
}

impl Repository {
    /// Returns what a tag names, if there is such a tag. The manifest itself may be gone.
    pub fn tag(&self, tag: &Tag) -> Result<Option<TagRecord>, RepositoryError> {
        read_record(&self.tag_path(tag))
    }

    /// Returns tags in byte order: those after `after`, at most `limit`.
    pub fn tags(&self, after: Option<&str>, limit: usize) -> Result<Page<String>, RepositoryError> {
        Ok(Page::of(self.all_tags()?, after, limit))
    }

    /// Removes a tag, and tells whether it was there. The manifest stays.
    pub fn delete_tag(&self, tag: &Tag) -> Result<bool, RepositoryError> {
        Ok(remove_file(&self.tag_path(tag))?)
    }

    pub(super) fn all_tags(&self) -> Result<Vec<String>, RepositoryError> {
        let mut names = file_names(&self.folder.join("tags"))?;
        names.retain(|name| name.parse::<Tag>().is_ok());
        Ok(names)
    }

    pub(super) fn tag_path(&self, tag: &Tag) -> PathBuf {
        self.folder.join("tags").join(tag.as_str())
    }
}
