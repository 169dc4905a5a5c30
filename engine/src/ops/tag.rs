//! Gives an image one more name.

use jiff::Timestamp;
use oci::Reference;
use store::{FindError, ImageError};

use crate::Engine;

/// Why an image got no name.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum TagError {
    #[error(transparent)]
    Find(#[from] FindError),
    #[error("`{target}` names an image by its digest, which cannot be given")]
    Digest { target: Reference },
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// Gives the image that `source` means the name `target`, taking it from the image that had it.
///
/// # Errors
///
/// When there is no such image, or `target` is a digest.
pub async fn tag(engine: &Engine, source: String, target: Reference, now: Timestamp) -> Result<(), TagError> {
    if target.digest().is_some() {
        return Err(TagError::Digest { target });
    }
    let store = engine.store().clone();
    store::blocking::run(move || {
        let found = store.images().find(&source)?;
        Ok(store.images().tag(&target, &found.descriptor, now)?)
    })
    .await
}
