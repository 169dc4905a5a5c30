//! From what a user typed to an image.

use oci::{Descriptor, Digest, Parsed, Platform};
use store::{FindError, Found, Image, ImageError, Store};

/// Finds an image by name or ID, and reads it for a platform.
pub(crate) fn find(store: &Store, text: &str, platform: Option<&Platform>) -> Result<(Found, Image), FindError> {
    let found = store.images().find(text)?;
    let image = read(store, &found.descriptor, platform)?;
    Ok((found, image))
}

/// Reads the image that a descriptor names.
///
/// Without a platform it is the one for this machine, or else the first of an index that is here: whoever lists or
/// looks at images wants to see those of other machines too.
pub(crate) fn read(store: &Store, descriptor: &Descriptor, platform: Option<&Platform>) -> Result<Image, ImageError> {
    if let Some(platform) = platform {
        return store.images().image(descriptor, platform);
    }
    let not_for_us = match store.images().image(descriptor, &Platform::host()) {
        Err(error @ ImageError::Platform { .. }) => error,
        other => return other,
    };
    for candidate in platforms(store, descriptor)? {
        if let Ok(image) = store.images().image(descriptor, &candidate) {
            return Ok(image);
        }
    }
    Err(not_for_us)
}

/// Returns the platforms that an index, or a single image's config, says it is for.
fn platforms(store: &Store, descriptor: &Descriptor) -> Result<Vec<Platform>, ImageError> {
    const MAX_MANIFEST: u64 = 4 << 20;
    let parse = |digest: &Digest, media_type: Option<&str>| -> Result<Parsed, ImageError> {
        let bytes = store.blobs().read(digest, MAX_MANIFEST)?;
        Parsed::parse(&bytes, media_type).map_err(|source| ImageError::Manifest { digest: digest.clone(), source })
    };
    match parse(&descriptor.digest, Some(&descriptor.media_type))? {
        Parsed::Index(index) => Ok(index.manifests.into_iter().filter_map(|manifest| manifest.platform).collect()),
        Parsed::Manifest(manifest) => {
            let bytes = store.blobs().read(&manifest.config.digest, MAX_MANIFEST)?;
            let config: oci::ImageConfig = serde_json::from_slice(&bytes)
                .map_err(|source| ImageError::Config { digest: manifest.config.digest.clone(), source })?;
            Ok(vec![config.platform()])
        }
    }
}

/// Adds up the layers of an image: the bytes of their tars where those are known, else as they are stored.
pub(crate) fn size(store: &Store, image: &Image) -> Result<u64, ImageError> {
    Ok(layer_sizes(store, image)?.into_iter().sum())
}

/// Returns the size of each layer, lowest first.
pub(crate) fn layer_sizes(store: &Store, image: &Image) -> Result<Vec<u64>, ImageError> {
    let layers = image.layers()?;
    let sizes = layers.into_iter().map(|(diff_id, descriptor)| {
        if is_plain(&descriptor.media_type) {
            return descriptor.size;
        }
        // The forms are a convenience: without them the stored size is shown.
        let forms = store.layers().forms(&diff_id).unwrap_or_default();
        forms.into_iter().find(|form| is_plain(&form.media_type)).map_or(descriptor.size, |form| form.size)
    });
    Ok(sizes.collect())
}

/// Tells whether a layer of this media type is a tar that is not compressed.
pub(crate) fn is_plain(media_type: &str) -> bool {
    matches!(media_type, oci::media_type::OCI_LAYER | oci::media_type::DOCKER_LAYER)
}

/// Tells whether a registry can have this image under its digest: not when it was built here and names plain tars.
pub(crate) fn is_distributed(image: &Image) -> bool {
    !image.manifest.layers.iter().any(|layer| is_plain(&layer.media_type))
}
