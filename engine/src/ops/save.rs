//! Writes images to an archive.

use std::io::Write;

use oci::{Platform, Reference};
use store::{FindError, Store};

use super::find;
use crate::Engine;
use crate::archive::{self, ArchiveFormat, ArchiveImage, WriteArchiveError};

/// Why no archive was written.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum SaveError {
    #[error(transparent)]
    Find(#[from] FindError),
    #[error(transparent)]
    Archive(#[from] WriteArchiveError),
}

/// Writes images, found by name or ID, to one archive that docker, podman and [`load`](super::load::load) read.
///
/// Layers are written as they are stored. `open` gives the sink, once all images are found.
///
/// # Errors
///
/// When an image is missing or damaged, or the sink takes no more.
pub async fn save<W: Write + Send + 'static>(
    engine: &Engine,
    images: Vec<String>,
    platform: Option<Platform>,
    open: impl FnOnce() -> std::io::Result<W> + Send + 'static,
) -> Result<W, SaveError> {
    let store = engine.store().clone();
    store::blocking::run(move || {
        let images = collect(&store, &images, platform.as_ref())?;
        let sink = open().map_err(WriteArchiveError::Write)?;
        Ok(archive::write(&store, &images, ArchiveFormat::Docker, sink)?)
    })
    .await
}

/// Finds the images, and puts those that are the same together with all the names that were typed.
fn collect(store: &Store, images: &[String], platform: Option<&Platform>) -> Result<Vec<ArchiveImage>, SaveError> {
    let mut collected: Vec<ArchiveImage> = Vec::new();
    for text in images {
        let (found, image) = find::find(store, text, platform)?;
        let name: Option<Reference> = found.reference.filter(|reference| reference.digest().is_none());
        match collected.iter_mut().find(|other| other.manifest.digest == image.descriptor.digest) {
            Some(other) => other.names.extend(name.filter(|name| !other.names.contains(name))),
            None => collected.push(ArchiveImage {
                manifest: image.descriptor,
                names: name.into_iter().collect(),
                annotations: Default::default(),
            }),
        }
    }
    Ok(collected)
}
