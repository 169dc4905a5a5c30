//! [`send_on`]: an image to a registry whose layers are not all here, because no step needed them.
//!
//! What the registry has, or mounts from the repository of the cache, does not move at all; the rest is fetched first.

use builder::{Built, BuiltImage, Cancel, RemoteCache};
use layer::Compression;
use oci::{Descriptor, Index, Manifest, Reference, media_type};
use registry::client;
use store::images::MAX_MANIFEST;
use store::layers::compression_of;
use store::{LayerError, Store};

use super::CacheError;
use super::place::Place;
use super::remote::Remote;
use crate::Engine;
use crate::ops::build::BuildView;

/// Tells whether a layer of an image is not here.
pub(super) fn lacks_layers(store: &Store, built: &Built) -> Result<bool, CacheError> {
    for image in &built.images {
        for layer in manifest(store, image)?.layers {
            if !store.blobs().has(&layer)? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Sends what was built under all names, and returns what they stand for.
pub(super) async fn send_on(
    engine: &Engine,
    remote: &Remote,
    built: &Built,
    names: &[Reference],
    view: &dyn BuildView,
    cancel: &Cancel,
) -> Result<Descriptor, CacheError> {
    let mut manifests = Vec::new();
    for image in &built.images {
        let (engine, remote, image, cancel) = (engine.clone(), remote.clone(), image.clone(), cancel.clone());
        manifests.push(store::blocking::run(move || sendable(engine.store(), &remote, &image, &cancel)).await?);
    }
    let descriptor = match manifests.as_slice() {
        [only] => only.clone(),
        _ => {
            let bytes = serde_json::to_vec(&Index::new(manifests)).expect("text keys only");
            let descriptor = Descriptor::of(media_type::OCI_INDEX, &bytes);
            let store = engine.store().clone();
            store::blocking::run(move || store.blobs().put(&bytes)).await?;
            descriptor
        }
    };
    for name in names {
        loop {
            let sent = client::push(engine.client(), engine.store(), name, &descriptor, view).await;
            let Err(error) = sent.map_err(CacheError::Push) else { break };
            match Place::missing(&error) {
                // Once it is here, it is missing no more.
                Some(digest) => remote.fetch_blob(digest).await?,
                None => return Err(error),
            }
        }
    }
    Ok(descriptor)
}

/// Writes the manifest to send: the same as if all layers were here and were compressed now. Blocks.
fn sendable(store: &Store, remote: &Remote, image: &BuiltImage, cancel: &Cancel) -> Result<Descriptor, CacheError> {
    const COMPRESSION: Compression = Compression::Gzip;
    let mut manifest = manifest(store, image)?;
    for (diff_id, layer) in image.config.rootfs.diff_ids.iter().zip(&mut manifest.layers) {
        if compression_of(&layer.media_type) != Some(Compression::None) {
            continue;
        }
        let form = match store.layers().compressed(diff_id, COMPRESSION) {
            Err(LayerError::NotFound { .. }) => {
                let known = remote.known(diff_id).filter(|blob| compression_of(&blob.media_type) == Some(COMPRESSION));
                match known {
                    Some(blob) => Descriptor::new(media_type::OCI_LAYER_GZIP, blob.digest, blob.size),
                    None => {
                        let wanted = [(diff_id.clone(), layer.clone())];
                        remote.bring(&wanted, cancel).map_err(|_| CacheError::Gone { diff_id: diff_id.clone() })?;
                        store.layers().compressed(diff_id, COMPRESSION)?
                    }
                }
            }
            other => other?,
        };
        *layer = form;
    }
    let bytes = serde_json::to_vec(&manifest).expect("text keys only");
    store.blobs().put(&bytes)?;
    let mut descriptor = Descriptor::of(media_type::OCI_MANIFEST, &bytes);
    // In an index it says what it is for.
    descriptor.platform = image.descriptor.platform.clone().or_else(|| Some(image.config.platform()));
    Ok(descriptor)
}

fn manifest(store: &Store, image: &BuiltImage) -> Result<Manifest, CacheError> {
    let bytes = store.blobs().read(&image.descriptor.digest, MAX_MANIFEST)?;
    serde_json::from_slice(&bytes).map_err(CacheError::Records)
}
