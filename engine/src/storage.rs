//! Where a registry keeps its things, and opening that.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use jiff::Timestamp;
use registry::storage::objects::bucket::{Bucket, BucketError, BucketOptions, is_bucket};
use registry::storage::objects::disk::{Disk, DiskOptions};
use registry::storage::objects::single_writer::SingleWriter;
use registry::storage::{Backend, ObjectError, Storage, StorageOptions};
use store::Layout;

/// Where a registry keeps its things: the value of `--storage`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// In a folder.
    Folder(PathBuf),
    /// In a bucket, by its address.
    Bucket(String),
}

/// How a registry's things are reached.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// What a bucket is opened with.
    pub bucket: BucketOptions,
    /// Whether nobody else writes there, so that conditions can be looked at here.
    pub single_writer: bool,
}

/// Why some text does not say where a registry keeps its things.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum LocationError {
    #[error("a registry cannot be kept in an empty path")]
    Empty,
    #[error(
        "a registry cannot be kept in `{scheme}://`; it is kept in a folder, or in a bucket: `s3://`, `gs://` or `az://`"
    )]
    UnknownScheme { scheme: String },
}

impl Location {
    /// Returns where the registry of a home is.
    pub fn of_home(home: &Path) -> Self {
        Self::Folder(Layout::new(home).registry())
    }
}

impl FromStr for Location {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        match text.split_once("://") {
            _ if text.is_empty() => Err(LocationError::Empty),
            _ if is_bucket(text) => Ok(Self::Bucket(text.to_owned())),
            None => Ok(Self::Folder(text.into())),
            Some(("file", "")) => Err(LocationError::Empty),
            Some(("file", path)) => Ok(Self::Folder(path.into())),
            Some((scheme, _)) => Err(LocationError::UnknownScheme { scheme: scheme.to_owned() }),
        }
    }
}

/// Why a registry's things cannot be reached.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum OpenStorageError {
    #[error("no registry is kept in `{path}`")]
    NoRegistry { path: PathBuf },
    #[error("cannot open the registry in `{path}`")]
    Folder { path: PathBuf, source: ObjectError },
    #[error(transparent)]
    Bucket(#[from] BucketError),
}

/// Opens what a registry keeps, which others may be serving. Blocks.
///
/// With `create`, a folder that holds nothing yet becomes one that does. Nothing is sent to a bucket yet.
///
/// # Errors
///
/// When nothing is there, or it cannot be read.
pub fn open(
    location: &Location,
    access: &Access,
    create: bool,
    options: StorageOptions,
    clock: fn() -> Timestamp,
) -> Result<Storage, OpenStorageError> {
    let mut backend = match location {
        Location::Folder(path) => folder(path, create, clock)?,
        Location::Bucket(url) => Bucket::open(url, &access.bucket)?.backend(),
    };
    if access.single_writer {
        backend.objects = Arc::new(SingleWriter::new(backend.objects));
    }
    Ok(Storage::new(backend, options))
}

fn folder(path: &Path, create: bool, clock: fn() -> Timestamp) -> Result<Backend, OpenStorageError> {
    if !create && !path.join("journal").is_dir() {
        return Err(OpenStorageError::NoRegistry { path: path.to_owned() });
    }
    let failed = |source| OpenStorageError::Folder { path: path.to_owned(), source };
    Ok(Disk::open(path, DiskOptions::new(clock)).map_err(failed)?.backend())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_a_folder_or_a_bucket() {
        for (text, folder) in [("/srv/a", "/srv/a"), ("a", "a"), ("file:///srv/a", "/srv/a"), ("a:b", "a:b")] {
            assert_eq!(text.parse(), Ok(Location::Folder(folder.into())), "{text}");
        }
        for bucket in ["s3://a/b?endpoint=http://c", "gs://a", "az://a/b"] {
            assert_eq!(bucket.parse(), Ok(Location::Bucket(bucket.into())));
        }
        for bad in ["", "file://", "ftp://x/y", "http://x"] {
            assert!(bad.parse::<Location>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_what_is_to_be_created_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let location = Location::of_home(folder.path());
        let open = |create| open(&location, &Access::default(), create, StorageOptions::default(), Timestamp::now);
        assert!(matches!(open(false), Err(OpenStorageError::NoRegistry { .. })));
        assert_eq!(folder.path().read_dir().expect("readable").count(), 0);
        open(true).expect("created");
        open(false).expect("there");
    }
}
