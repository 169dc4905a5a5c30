//! Images as registries and archives have them: with compressed layers.

use layer::Compression;
use oci::{Descriptor, Digest, Index, ManifestError, Parsed, media_type};
use store::{BlobError, ImageError, PublishError, Store};

/// Why an image could not be made ready to leave.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum ReadyError {
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("index {digest} cannot be read")]
    Index { digest: Digest, source: ManifestError },
    #[error("index {digest} cannot be written")]
    Serialize { digest: Digest, source: serde_json::Error },
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Blob(#[from] BlobError),
}

const MAX_MANIFEST: u64 = 4 << 20;

/// Makes an image, or an index with all its images, ready to leave, and returns what to send.
///
/// What came from elsewhere leaves with exactly the bytes it came with.
///
/// # Errors
///
/// When something that the image names is not here, or the store fails.
pub fn ready(store: &Store, descriptor: &Descriptor, compression: Compression) -> Result<Descriptor, ReadyError> {
    if !media_type::is_index(&descriptor.media_type) {
        let bytes = store.blobs().read(&descriptor.digest, MAX_MANIFEST)?;
        let platform = platform_of(store, descriptor, &bytes)?;
        let image = store.images().image(descriptor, &platform)?;
        let (published, _) = store.images().publishable(&image, compression)?;
        return Ok(Descriptor { platform: descriptor.platform.clone(), ..published });
    }
    let bytes = store.blobs().read(&descriptor.digest, MAX_MANIFEST)?;
    let broken = |source| ReadyError::Index { digest: descriptor.digest.clone(), source };
    let Parsed::Index(index) = Parsed::parse(&bytes, Some(&descriptor.media_type)).map_err(broken)? else {
        return Ok(descriptor.clone());
    };
    let manifests = index.manifests.iter().map(|manifest| ready(store, manifest, compression));
    let manifests: Vec<Descriptor> = manifests.collect::<Result<_, _>>()?;
    let same = index.manifests.iter().zip(&manifests).all(|(before, after)| before.digest == after.digest);
    if same {
        return Ok(descriptor.clone());
    }
    let index = Index { manifests, ..index };
    let bytes = serde_json::to_vec(&index)
        .map_err(|source| ReadyError::Serialize { digest: descriptor.digest.clone(), source })?;
    store.blobs().put(&bytes)?;
    Ok(Descriptor::of(&descriptor.media_type, &bytes))
}

/// Returns the platform that an image's own config names, so that it is found whatever this machine is.
fn platform_of(store: &Store, descriptor: &Descriptor, bytes: &[u8]) -> Result<oci::Platform, ReadyError> {
    let parsed = Parsed::parse(bytes, Some(&descriptor.media_type));
    let parsed = parsed.map_err(|source| ImageError::Manifest { digest: descriptor.digest.clone(), source })?;
    let Parsed::Manifest(manifest) = parsed else { return Ok(oci::Platform::host()) };
    let bytes = store.blobs().read(&manifest.config.digest, MAX_MANIFEST)?;
    let config: oci::ImageConfig = serde_json::from_slice(&bytes)
        .map_err(|source| ImageError::Config { digest: manifest.config.digest.clone(), source })?;
    Ok(config.platform())
}
