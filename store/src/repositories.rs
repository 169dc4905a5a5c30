//! [`Repositories`]: what `slipway serve` knows beside the blobs: who owns which, manifests, tags, referrers, uploads.
//!
//! ```text
//! repositories/
//! └── NAME/                    a repository, `/` of its name written as `!`
//!     ├── lock                 shared while manifests are put, exclusive while one is deleted
//!     ├── blobs/DIGEST         empty: the repository has this blob, so it may be pulled from here
//!     ├── manifests/DIGEST     record: media type, size, what the manifest names
//!     ├── tags/TAG             record: the manifest that the tag names
//!     ├── referrers/SUBJECT/DIGEST   descriptor of a manifest whose subject is SUBJECT
//!     └── uploads/ID           bytes of a blob that is being sent, in order
//! ```
//!
//! `!` sorts below `-`, `.`, `_` and everything else in a name, so the order of the folders is the order of the
//! names. The bytes of manifests are blobs of the store, kept exactly as they were sent.
//!
//! **Invariant:** a blob is visible in a repository only through its file in `blobs/`. That some other
//! repository, or the builder, has the same blob in the store shows nowhere.
//!
//! **Invariant:** what is acknowledged is on disk: a file is synced before it is renamed into place, and its
//! folder after.

mod batch;
pub mod manifests;
pub mod owned;
pub mod referrers;
pub mod tags;
pub mod uploads;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use oci::{Digest, RepositoryName};

use crate::FileError;
use crate::atomic_file::{make_folders, sync_folder};
use crate::file_error::{During, found};
use crate::session::Home;

pub use manifests::{ManifestRecord, NewManifest};
pub use tags::TagRecord;
pub use uploads::{Midstate, Upload, UploadError, UploadId};

/// Why something that a repository has could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum RepositoryError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("`{path}` is damaged")]
    Damaged { path: PathBuf, source: serde_json::Error },
}

/// Some of a sorted list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The entries, in byte order.
    pub entries: Vec<T>,
    /// Whether more come after the last of them.
    pub more: bool,
}

impl<T: AsRef<str>> Page<T> {
    /// Cuts a page out of names in any order: those after `after`, at most `limit`.
    fn of(mut names: Vec<T>, after: Option<&str>, limit: usize) -> Self {
        if let Some(after) = after {
            names.retain(|name| name.as_ref() > after);
        }
        let more = names.len() > limit;
        if more && limit > 0 {
            names.select_nth_unstable_by(limit - 1, |a, b| a.as_ref().cmp(b.as_ref()));
        }
        names.truncate(limit);
        names.sort_unstable_by(|a, b| a.as_ref().cmp(b.as_ref()));
        Self { entries: names, more }
    }
}

/// All repositories of a store.
#[derive(Clone, Debug)]
pub struct Repositories {
    pub(crate) home: Arc<Home>,
}

impl Repositories {
    /// Names one repository, which need not exist.
    pub fn get(&self, name: &RepositoryName) -> Repository {
        let folder = self.home.layout().repositories().join(name.as_str().replace('/', "!"));
        Repository { home: self.home.clone(), name: name.clone(), folder }
    }

    /// Returns the names of repositories that have a manifest, in byte order: those after `after`, at most `limit`.
    pub fn names(&self, after: Option<&str>, limit: usize) -> Result<Page<String>, RepositoryError> {
        let mut all = self.all()?;
        // Byte order of the names, in which `/` is not the lowest byte, is what clients expect `last` to mean.
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all.retain(|repository| after.is_none_or(|after| repository.name.as_str() > after));
        let mut page = Page { entries: Vec::new(), more: false };
        for repository in all {
            if !has_entries(&repository.manifests_folder())? {
                continue;
            }
            if page.entries.len() == limit {
                page.more = true;
                break;
            }
            page.entries.push(repository.name.as_str().to_owned());
        }
        Ok(page)
    }

    /// Returns a repository that has a blob, if one has.
    pub fn owner_of(&self, digest: &Digest) -> Result<Option<RepositoryName>, RepositoryError> {
        for repository in self.all()? {
            if repository.has_blob(digest)? {
                return Ok(Some(repository.name));
            }
        }
        Ok(None)
    }

    /// Calls `each` with every blob and manifest that a repository stands on: what a collection must keep.
    pub fn held(&self, each: &mut dyn FnMut(Digest)) -> Result<(), RepositoryError> {
        for repository in self.all()? {
            for folder in [repository.owned_folder(), repository.manifests_folder()] {
                file_names(&folder)?.iter().filter_map(|name| name.parse().ok()).for_each(&mut *each);
            }
        }
        Ok(())
    }

    /// Throws away uploads to which nothing was added for `age`, and returns how many.
    ///
    /// Ages are measured against the clock that stamps the files, by touching a file now; one that is being
    /// written by any process is locked, and stays.
    pub fn expire_uploads(&self, age: Duration) -> Result<u64, RepositoryError> {
        let root = self.home.layout().repositories();
        if found(fs::metadata(&root)).during("read", &root)?.is_none() {
            return Ok(0);
        }
        let marker = root.join(".now");
        let now = File::create(&marker).and_then(|file| file.metadata()?.modified()).during("write", &marker)?;
        let mut expired = 0;
        for repository in self.all()? {
            expired += repository.expire_uploads(now, age)?;
        }
        Ok(expired)
    }

    fn all(&self) -> Result<Vec<Repository>, RepositoryError> {
        let names = file_names(&self.home.layout().repositories())?;
        Ok(names.iter().filter_map(|name| name.replace('!', "/").parse().ok()).map(|name| self.get(&name)).collect())
    }
}

/// One repository of the server, which exists from the first thing that is put into it.
#[derive(Clone, Debug)]
pub struct Repository {
    home: Arc<Home>,
    name: RepositoryName,
    folder: PathBuf,
}

impl Repository {
    /// Returns its name.
    pub fn name(&self) -> &RepositoryName {
        &self.name
    }

    /// Tells whether anything was ever put into it.
    pub fn exists(&self) -> Result<bool, RepositoryError> {
        Ok(found(fs::metadata(&self.folder)).during("read", &self.folder)?.is_some())
    }

    /// Waits for the lock under which manifests and tags change; it is free again when the file is dropped.
    fn lock(&self, how: Lock) -> Result<File, RepositoryError> {
        make_folders(&self.folder, true)?;
        let path = self.folder.join("lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path).during("open", &path)?;
        match how {
            Lock::Shared => file.lock_shared(),
            Lock::Exclusive => file.lock(),
        }
        .during("lock", &path)?;
        Ok(file)
    }
}

/// Who else may hold the lock of a repository.
#[derive(Clone, Copy)]
enum Lock {
    /// Others that put.
    Shared,
    /// Nobody.
    Exclusive,
}

/// Returns the names in a folder, in no order; none when it is not there.
fn file_names(folder: &Path) -> Result<Vec<String>, RepositoryError> {
    let Some(entries) = found(fs::read_dir(folder)).during("read", folder)? else { return Ok(Vec::new()) };
    let mut names = Vec::new();
    for entry in entries {
        // A name that is not text is none of ours.
        names.extend(entry.during("read", folder)?.file_name().into_string().ok());
    }
    Ok(names)
}

/// Tells whether there is anything in a folder.
fn has_entries(folder: &Path) -> Result<bool, RepositoryError> {
    Ok(found(fs::read_dir(folder)).during("read", folder)?.is_some_and(|mut entries| entries.next().is_some()))
}

/// Removes a file for good, and tells whether it was there.
fn remove_file(path: &Path) -> Result<bool, FileError> {
    let removed = found(fs::remove_file(path)).during("remove", path)?.is_some();
    if removed && let Some(folder) = path.parent() {
        sync_folder(folder)?;
    }
    Ok(removed)
}

/// Writes a record as JSON.
fn written<T: serde::Serialize>(path: &Path, record: &T) -> Result<Vec<u8>, RepositoryError> {
    serde_json::to_vec(record).map_err(|source| RepositoryError::Damaged { path: path.to_owned(), source })
}

/// Reads a record, if it is there.
fn read_record<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, RepositoryError> {
    let Some(bytes) = found(fs::read(path)).during("read", path)? else { return Ok(None) };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|source| RepositoryError::Damaged { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
