//! Images as registries and archives have them: with compressed layers.

use layer::Compression;
use oci::{Descriptor, Digest, Index, ManifestError, Parsed, media_type};
use store::layers::compression_of;
use store::{BlobError, Image, ImageError, PublishError, Store};

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

/// In which form an image leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Form {
    /// How layers are compressed.
    pub compression: Compression,
    /// The level of that; the compression's own when `None`.
    pub level: Option<i32>,
    /// Whether layers that came compressed in another way are compressed again.
    pub force: bool,
    /// Whether manifests have Docker's media types instead of OCI's. There are none for zstd, nor for annotations.
    pub docker_types: bool,
}

impl From<Compression> for Form {
    fn from(compression: Compression) -> Self {
        Self { compression, ..Self::default() }
    }
}

/// Makes an image, or an index with all its images, ready to leave, and returns what to send.
///
/// What came from elsewhere leaves with exactly the bytes it came with, unless the form forces another.
///
/// # Errors
///
/// When something that the image names is not here, or the store fails.
pub fn ready(store: &Store, descriptor: &Descriptor, form: Form) -> Result<Descriptor, ReadyError> {
    if !media_type::is_index(&descriptor.media_type) {
        let bytes = store.blobs().read(&descriptor.digest, MAX_MANIFEST)?;
        let platform = platform_of(store, descriptor, &bytes)?;
        let image = store.images().image(descriptor, &platform)?;
        let published = if form == Form::from(form.compression) {
            store.images().publishable(&image, form.compression)?.0
        } else {
            reshape(store, &image, form)?
        };
        let (platform, annotations) = (descriptor.platform.clone(), descriptor.annotations.clone());
        return Ok(Descriptor { platform, annotations, ..published });
    }
    let bytes = store.blobs().read(&descriptor.digest, MAX_MANIFEST)?;
    let broken = |source| ReadyError::Index { digest: descriptor.digest.clone(), source };
    let Parsed::Index(index) = Parsed::parse(&bytes, Some(&descriptor.media_type)).map_err(broken)? else {
        return Ok(descriptor.clone());
    };
    let manifests = index.manifests.iter().map(|manifest| ready(store, manifest, form));
    let manifests: Vec<Descriptor> = manifests.collect::<Result<_, _>>()?;
    let docker_types = form.docker_types && form.compression != Compression::Zstd && index.annotations.is_empty();
    let docker_types = docker_types && manifests.iter().all(|child| child.media_type == media_type::DOCKER_MANIFEST);
    let media_type = if docker_types { media_type::DOCKER_INDEX } else { &descriptor.media_type };
    let same = index.manifests.iter().zip(&manifests).all(|(before, after)| before.digest == after.digest);
    if same && media_type == descriptor.media_type {
        return Ok(descriptor.clone());
    }
    let index = Index { manifests, media_type: Some(media_type.to_owned()), ..index };
    let bytes = serde_json::to_vec(&index)
        .map_err(|source| ReadyError::Serialize { digest: descriptor.digest.clone(), source })?;
    store.blobs().put(&bytes)?;
    Ok(Descriptor { annotations: descriptor.annotations.clone(), ..Descriptor::of(media_type, &bytes) })
}

/// Brings one image into a form that is not the usual one.
fn reshape(store: &Store, image: &Image, form: Form) -> Result<Descriptor, ReadyError> {
    let mut manifest = image.manifest.clone();
    for ((diff_id, old), new) in image.layers()?.iter().zip(&mut manifest.layers) {
        // What is of an unknown kind, or is not to be handed on, stays as it is.
        let Some(kind) = compression_of(&old.media_type).filter(|_| !media_type::is_nondistributable(&old.media_type))
        else {
            continue;
        };
        let changes = if kind == form.compression { form.level.is_some() } else { true };
        if changes && (form.force || kind == Compression::None) {
            let made = store.layers().compressed_at(diff_id, form.compression, form.level);
            *new = made.map_err(PublishError::from)?;
        }
    }
    let kinds: Option<Vec<_>> = manifest.layers.iter().map(|layer| compression_of(&layer.media_type)).collect();
    let has_names = |kinds: Vec<Compression>| !kinds.contains(&Compression::Zstd);
    let docker_types = form.docker_types && manifest.annotations.is_empty() && kinds.is_some_and(has_names);
    for layer in &mut manifest.layers {
        let named = match compression_of(&layer.media_type) {
            Some(Compression::None) if docker_types => media_type::DOCKER_LAYER,
            Some(Compression::Gzip) if docker_types => media_type::DOCKER_LAYER_GZIP,
            Some(Compression::None) => media_type::OCI_LAYER,
            Some(Compression::Gzip) => media_type::OCI_LAYER_GZIP,
            Some(Compression::Zstd) | None => continue,
        };
        if !media_type::is_nondistributable(&layer.media_type) {
            layer.media_type = named.into();
        }
    }
    let (own, config) = match docker_types {
        true => (media_type::DOCKER_MANIFEST, media_type::DOCKER_CONFIG),
        false => (media_type::OCI_MANIFEST, media_type::OCI_CONFIG),
    };
    manifest.media_type = Some(own.into());
    manifest.config.media_type = config.into();
    let bytes = serde_json::to_vec(&manifest)
        .map_err(|source| ReadyError::Serialize { digest: image.descriptor.digest.clone(), source })?;
    store.blobs().put(&bytes)?;
    Ok(Descriptor::of(own, &bytes))
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
