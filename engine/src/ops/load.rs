//! Reads images from an archive.

use std::io::Read;

use jiff::Timestamp;

use crate::archive::{self, Loaded, ReadArchiveError};
use crate::interruptible::Interruptible;
use crate::{Cancel, Engine};

/// Reads an archive of docker or OCI, compressed or not, and gives its images their names.
///
/// # Errors
///
/// When the archive is broken, or holds no image; no name is changed then.
pub async fn load(
    engine: &Engine,
    source: impl Read + Send + 'static,
    now: Timestamp,
    cancel: &Cancel,
) -> Result<Vec<Loaded>, ReadArchiveError> {
    let store = engine.store().clone();
    let source = Interruptible::new(source, cancel);
    store::blocking::run(move || archive::read(&store, source, now)).await
}
