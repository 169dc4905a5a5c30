//! [`FileError`]: what went wrong with which path.

use std::io;
use std::path::{Path, PathBuf};

/// Why a file of the store could not be worked with.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum FileError {
    #[error("no space left on the disk of `{path}`; free some, or move the store with SLIPWAY_HOME")]
    NoSpace { path: PathBuf },
    #[error("cannot {action} `{path}`")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

impl FileError {
    /// Says what was being done to which path when an error came up.
    pub fn new(action: &'static str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { path: path.to_owned() },
            _ => Self::Io { action, path: path.to_owned(), source },
        }
    }

    /// Unwraps the error of a [`std::io::Write`] that may have passed through other people's writers on its way.
    pub fn of_write(path: &Path, error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(error) => error,
            Err(error) => Self::new("write to", path, error),
        }
    }

    /// Tells whether the path was not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Adds what was being done, and to which path, to an I/O error.
pub(crate) trait During<T> {
    /// Turns an I/O error into a [`FileError`].
    fn during(self, action: &'static str, path: &Path) -> Result<T, FileError>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, action: &'static str, path: &Path) -> Result<T, FileError> {
        self.map_err(|error| FileError::new(action, path, error.into()))
    }
}

/// Turns "not found" into `None`.
pub(crate) fn found<T, E: Into<io::Error>>(result: Result<T, E>) -> io::Result<Option<T>> {
    match result.map_err(Into::into) {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}
