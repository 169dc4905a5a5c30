//! Sends an image to a registry.

use layer::Compression;
use oci::{Descriptor, Parsed, Platform, Reference, media_type};
use registry::client::{self, Pushed, TransferEvents};
use store::{ImageError, Store};

use crate::Engine;
use crate::publish::{self, ReadyError};

/// How to send.
#[derive(Clone, Debug, Default)]
pub struct PushOptions {
    /// Only this platform of an index.
    pub platform: Option<Platform>,
    /// How layers that were built here are compressed.
    pub compression: Compression,
}

/// Why an image was not sent.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum PushError {
    #[error("an image does not exist locally with the name `{reference}`")]
    NotHere { reference: String },
    #[error("cannot make `{reference}` ready to be sent")]
    Ready { reference: String, source: ReadyError },
    #[error("cannot push `{reference}`")]
    Push { reference: String, source: Box<client::PushError> },
}

/// Sends an image, and the blobs the registry lacks, to a registry.
///
/// Blobs go first and the manifest last, so nobody ever pulls a manifest that names a missing blob.
///
/// # Errors
///
/// When the image is not here, or the registry refuses it.
pub async fn push(
    engine: &Engine,
    reference: &Reference,
    options: PushOptions,
    events: &dyn TransferEvents,
) -> Result<Pushed, PushError> {
    let name = reference.familiar();
    let (store, wanted) = (engine.store().clone(), reference.clone());
    let ready = store::blocking::run(move || prepare(&store, &wanted, &options)).await;
    let ready = ready.map_err(|source| PushError::Ready { reference: name.clone(), source })?;
    let Some(descriptor) = ready else { return Err(PushError::NotHere { reference: name }) };
    client::push(engine.client(), engine.store(), reference, &descriptor, events)
        .await
        .map_err(|source| PushError::Push { reference: name, source: Box::new(source) })
}

/// Returns the names of a repository that are here, for `--all-tags`.
///
/// # Errors
///
/// When the names cannot be read.
pub async fn all_tags(engine: &Engine, of: &Reference) -> Result<Vec<Reference>, ImageError> {
    let (store, of) = (engine.store().clone(), of.clone());
    store::blocking::run(move || {
        let names = store.images().list()?.into_iter().map(|tagged| tagged.reference);
        let same = |name: &Reference| (name.registry(), name.repository()) == (of.registry(), of.repository());
        Ok(names.filter(|name| name.tag().is_some() && same(name)).collect())
    })
    .await
}

fn prepare(store: &Store, reference: &Reference, options: &PushOptions) -> Result<Option<Descriptor>, ReadyError> {
    let Some(descriptor) = store.images().resolve(reference)? else { return Ok(None) };
    let chosen = match &options.platform {
        Some(platform) => store.images().image(&descriptor, platform)?.descriptor,
        None if is_complete(store, &descriptor)? => descriptor,
        // Of an index, only the part that was pulled is here.
        None => store.images().image(&descriptor, &Platform::host())?.descriptor,
    };
    publish::ready(store, &chosen, options.compression.into()).map(Some)
}

/// Tells whether all manifests of an index are here.
fn is_complete(store: &Store, descriptor: &Descriptor) -> Result<bool, ReadyError> {
    const MAX_MANIFEST: u64 = 4 << 20;
    if !media_type::is_index(&descriptor.media_type) {
        return Ok(true);
    }
    let bytes = store.blobs().read(&descriptor.digest, MAX_MANIFEST)?;
    let parsed = Parsed::parse(&bytes, Some(&descriptor.media_type));
    let Parsed::Index(index) =
        parsed.map_err(|source| ReadyError::Index { digest: descriptor.digest.clone(), source })?
    else {
        return Ok(true);
    };
    for manifest in &index.manifests {
        if !store.blobs().contains(&manifest.digest)? {
            return Ok(false);
        }
    }
    Ok(true)
}
