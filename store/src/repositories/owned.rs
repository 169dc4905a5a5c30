//! Which blobs a repository has: the check that stands before the store is asked for any bytes.

use std::fs::{self, File};
use std::path::PathBuf;

use oci::Digest;

use super::{Repository, RepositoryError, remove_file};
use crate::atomic_file::{make_folders, sync_folder};
use crate::file_error::{During, found};

impl Repository {
    /// Tells whether the blob may be pulled from here.
    pub fn has_blob(&self, digest: &Digest) -> Result<bool, RepositoryError> {
        let path = self.owned(digest);
        Ok(found(fs::symlink_metadata(&path)).during("read", &path)?.is_some())
    }

    /// Makes a blob of the store one of this repository; `false` means that the store does not have it.
    pub fn add_blob(&self, digest: &Digest) -> Result<bool, RepositoryError> {
        let _unfinished = self.home.begin();
        let path = self.home.layout().blob(digest);
        if found(fs::metadata(&path)).during("read", &path)?.is_none() {
            return Ok(false);
        }
        self.note_blob(digest)?;
        sync_folder(&self.owned_folder())?;
        Ok(true)
    }

    /// Notes that the repository has a blob, and leaves it to the caller to sync the folder.
    pub(super) fn note_blob(&self, digest: &Digest) -> Result<(), RepositoryError> {
        let path = self.owned(digest);
        make_folders(&self.owned_folder(), true)?;
        File::options().create(true).truncate(false).write(true).open(&path).during("create", &path)?;
        Ok(())
    }

    /// Takes a blob out of this repository, and tells whether it was in it. The bytes stay until a collection.
    pub fn remove_blob(&self, digest: &Digest) -> Result<bool, RepositoryError> {
        Ok(remove_file(&self.owned(digest))?)
    }

    pub(super) fn owned_folder(&self) -> PathBuf {
        self.folder.join("blobs")
    }

    fn owned(&self, digest: &Digest) -> PathBuf {
        self.owned_folder().join(digest.to_string())
    }
}
