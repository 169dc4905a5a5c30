//! Takes names from images, and removes those that have no name left.

use oci::{Digest, Reference};
use store::{CollectError, FindError, ImageError, Reclaimed, Store};

use crate::Engine;

/// How to remove.
#[derive(Clone, Copy, Debug, Default)]
pub struct RmiOptions {
    /// Remove an image by its ID although it has several names.
    pub force: bool,
}

/// What removing did, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// A name was taken away.
    Untagged(Reference),
    /// An image has no name left.
    Deleted(Digest),
}

/// Why an image was not removed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum RmiError {
    #[error(transparent)]
    Find(#[from] FindError),
    #[error("image {id} has several names: {}", names(references))]
    SeveralNames { id: String, references: Vec<Reference> },
    #[error(transparent)]
    Image(#[from] ImageError),
}

fn names(references: &[Reference]) -> String {
    references.iter().map(Reference::familiar).collect::<Vec<_>>().join(", ")
}

/// Removes a name, or an image by its ID. Blobs stay until [`prune`].
///
/// # Errors
///
/// When there is no such image, or an ID has several names and `force` is not set.
pub async fn rmi(engine: &Engine, image: String, options: RmiOptions) -> Result<Vec<Removed>, RmiError> {
    let store = engine.store().clone();
    store::blocking::run(move || remove(&store, &image, options)).await
}

fn remove(store: &Store, text: &str, options: RmiOptions) -> Result<Vec<Removed>, RmiError> {
    let found = store.images().find(text)?;
    // What cannot be read can still be removed, under the digest that is known.
    let id = super::find::read(store, &found.descriptor, None)
        .map_or_else(|_| found.descriptor.digest.clone(), |image| image.config_digest);
    let mut removed = Vec::new();
    let left = match &found.reference {
        Some(reference) => {
            store.images().untag(reference)?;
            removed.push(Removed::Untagged(reference.clone()));
            found.references.iter().filter(|other| *other != reference).count()
        }
        None => {
            let repositories = |references: &[Reference]| {
                let mut names: Vec<_> = references.iter().map(|r| (r.registry(), r.repository())).collect();
                names.dedup();
                names.len()
            };
            if repositories(&found.references) > 1 && !options.force {
                return Err(RmiError::SeveralNames { id: id.short().into(), references: found.references });
            }
            for reference in &found.references {
                store.images().untag(reference)?;
                removed.push(Removed::Untagged(reference.clone()));
            }
            0
        }
    };
    if left == 0 {
        store.images().forget(&found.descriptor.digest)?;
        removed.push(Removed::Deleted(id));
    }
    Ok(removed)
}

/// Removes the blobs and snapshots that nothing needs any more.
///
/// # Errors
///
/// [`CollectError::Busy`] when another process uses the store: the next one will do it.
pub async fn prune(engine: &Engine) -> Result<Reclaimed, CollectError> {
    let store = engine.store().clone();
    store::blocking::run(move || store.collect()).await
}
