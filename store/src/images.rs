//! [`Images`]: what references name, and reading a whole [`Image`].

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use layer::Compression;
use oci::{Descriptor, DiffId, Digest, ImageConfig, Manifest, ManifestError, Parsed, Platform, Reference, media_type};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::atomic_file;
use crate::blobs::names;
use crate::file_error::{During, found};
use crate::layers::compression_of;
use crate::session::Home;
use crate::{BlobError, Blobs, FileError, Layers};

/// The images of a store.
#[derive(Clone, Debug)]
pub struct Images {
    pub(crate) home: Arc<Home>,
    pub(crate) blobs: Blobs,
    pub(crate) layers: Layers,
}

/// A name, and what it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaggedImage {
    /// The name.
    pub reference: Reference,
    /// The manifest or index that it names.
    pub descriptor: Descriptor,
    /// Since when.
    pub tagged_at: Timestamp,
}

/// An image that is here without a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UntaggedImage {
    /// The manifest or index.
    pub descriptor: Descriptor,
    /// Since when.
    pub kept_at: Timestamp,
}

/// What some text that a user typed means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The manifest or index.
    pub descriptor: Descriptor,
    /// The name that was typed; `None` when it was an image ID.
    pub reference: Option<Reference>,
    /// All names of the same image.
    pub references: Vec<Reference>,
}

/// One image: its manifest and its config, verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Of the manifest, never of an index.
    pub descriptor: Descriptor,
    /// Which blobs the image is made of.
    pub manifest: Manifest,
    /// What its containers start with.
    pub config: ImageConfig,
    /// The digest of the config: docker's image ID.
    pub config_digest: Digest,
}

impl Image {
    /// Pairs each layer's diff ID with its blob, lowest first.
    pub fn layers(&self) -> Result<Vec<(DiffId, Descriptor)>, ImageError> {
        let diff_ids = &self.config.rootfs.diff_ids;
        let layers = &self.manifest.layers;
        if diff_ids.len() != layers.len() {
            return Err(ImageError::LayerCount {
                digest: self.descriptor.digest.clone(),
                layers: layers.len(),
                diff_ids: diff_ids.len(),
            });
        }
        Ok(diff_ids.iter().cloned().zip(layers.iter().cloned()).collect())
    }
}

/// Why an image could not be read or named.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum ImageError {
    #[error("image {digest} names {layers} layers, but its config has {diff_ids} diff IDs")]
    LayerCount { digest: Digest, layers: usize, diff_ids: usize },
    #[error("image {digest} is not here for {platform}; it is for {offered}")]
    Platform { digest: Digest, platform: Box<Platform>, offered: String },
    #[error("manifest {digest} cannot be read")]
    Manifest { digest: Digest, source: ManifestError },
    #[error("{digest} is no image: its config is of type `{media_type}`")]
    NotAnImage { digest: Digest, media_type: String },
    #[error("image config {digest} cannot be read")]
    Config { digest: Digest, source: serde_json::Error },
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    File(#[from] FileError),
}

/// Why text does not name one image.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum FindError {
    #[error("no such image: `{text}`")]
    NotFound { text: String },
    #[error("image ID `{text}` is ambiguous: it is the beginning of {}", candidates.join(", "))]
    Ambiguous { text: String, candidates: Vec<String> },
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// Why an image could not be made ready for other stores.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum PublishError {
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Layer(#[from] crate::LayerError),
    #[error(transparent)]
    Blob(#[from] BlobError),
}

/// The longest manifest that is read.
pub const MAX_MANIFEST: u64 = 8 * 1024 * 1024;
/// The longest image config that is read.
pub const MAX_CONFIG: u64 = 8 * 1024 * 1024;
/// How deep indexes may stand in indexes.
const MAX_DEPTH: usize = 4;
/// How many candidates an ambiguous ID lists.
const MAX_CANDIDATES: usize = 10;

#[derive(Debug, Serialize, Deserialize)]
struct TagRecord {
    reference: Reference,
    descriptor: Descriptor,
    tagged_at: Timestamp,
}

#[derive(Debug, Serialize, Deserialize)]
struct UntaggedRecord {
    descriptor: Descriptor,
    kept_at: Timestamp,
}

impl Images {
    /// Gives an image a name, taking it from the image that had it. That one, if it has no other name, is kept
    /// as an untagged image. A name that means this image already changes nothing, not even its time.
    pub fn tag(&self, reference: &Reference, descriptor: &Descriptor, now: Timestamp) -> Result<(), ImageError> {
        let _changing = self.home.hold("images")?;
        let named = self.list()?;
        let path = self.path(reference);
        let previous = named.iter().find(|image| self.path(&image.reference) == path);
        if previous.is_some_and(|previous| previous.reference == *reference && previous.descriptor == *descriptor) {
            // A rebuild from the cache ends here. Whoever wrote the record may have died before it was durable.
            atomic_file::sync_folder(path.parent().unwrap_or(&path))?;
            return self.forget(&descriptor.digest).map(|_| ());
        }
        if let Some(previous) = previous.filter(|previous| previous.descriptor.digest != descriptor.digest) {
            let digest = &previous.descriptor.digest;
            if named.iter().filter(|image| image.descriptor.digest == *digest).count() == 1 {
                // First, so that a crash in between keeps it.
                self.keep(&previous.descriptor, now)?;
            }
        }
        let record = TagRecord { reference: reference.clone(), descriptor: descriptor.clone(), tagged_at: now };
        self.write(&path, &record)?;
        self.forget(&descriptor.digest)?;
        Ok(())
    }

    /// Takes a name away, and returns what it named. The image's blobs go with the next collection.
    pub fn untag(&self, reference: &Reference) -> Result<Option<Descriptor>, ImageError> {
        let _changing = self.home.hold("images")?;
        self.untag_held(reference)
    }

    /// Takes a name away if it still means this image, and tells whether it did.
    pub fn untag_from(&self, reference: &Reference, digest: &Digest) -> Result<bool, ImageError> {
        let _changing = self.home.hold("images")?;
        let is_its = self.resolve(reference)?.is_some_and(|named| named.digest == *digest);
        if is_its {
            self.untag_held(reference)?;
        }
        Ok(is_its)
    }

    /// The caller holds the lock.
    fn untag_held(&self, reference: &Reference) -> Result<Option<Descriptor>, ImageError> {
        let named = self.resolve(reference)?;
        let path = self.path(reference);
        if found(fs::remove_file(&path)).during("remove", &path)?.is_some() {
            let repository = path.parent().unwrap_or(&path);
            atomic_file::sync_folder(repository)?;
            // Only if they are empty now.
            if fs::remove_dir(repository).is_ok() {
                let _ = fs::remove_dir(repository.parent().unwrap_or(repository));
            }
        }
        Ok(named)
    }

    /// Returns what a reference names. A damaged record counts as none.
    pub fn resolve(&self, reference: &Reference) -> Result<Option<Descriptor>, ImageError> {
        Ok(self.read(&self.path(reference))?.map(|image| image.descriptor))
    }

    /// Returns all names, sorted. Damaged records are left out.
    pub fn list(&self) -> Result<Vec<TaggedImage>, ImageError> {
        let mut images = Vec::new();
        let root = self.home.layout().images();
        for registry in names(&root)? {
            let registry = root.join(registry);
            for repository in names(&registry)? {
                let repository = registry.join(repository);
                for name in names(&repository)? {
                    images.extend(self.read(&repository.join(name))?);
                }
            }
        }
        images.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(images)
    }

    /// Keeps an image that has no name, such as a build's without `--tag`.
    pub fn keep(&self, descriptor: &Descriptor, now: Timestamp) -> Result<(), ImageError> {
        let record = UntaggedRecord { descriptor: descriptor.clone(), kept_at: now };
        self.write(&self.home.layout().untagged(&descriptor.digest), &record)
    }

    /// Stops keeping an image that has no name, and tells whether it was kept.
    pub fn forget(&self, digest: &Digest) -> Result<bool, ImageError> {
        let path = self.home.layout().untagged(digest);
        Ok(found(fs::remove_file(&path)).during("remove", &path)?.is_some())
    }

    /// Returns the images that are kept without a name, oldest first.
    pub fn list_untagged(&self) -> Result<Vec<UntaggedImage>, ImageError> {
        let named: HashSet<Digest> = self.list()?.into_iter().map(|image| image.descriptor.digest).collect();
        let root = self.home.layout().untagged_all();
        let mut images = Vec::new();
        for name in names(&root)? {
            let path = root.join(name);
            let record: Option<UntaggedRecord> = read_json(&path)?;
            let image = record.filter(|record| self.home.layout().untagged(&record.descriptor.digest) == path);
            images.extend(image.map(|UntaggedRecord { descriptor, kept_at }| UntaggedImage { descriptor, kept_at }));
        }
        images.retain(|image| !named.contains(&image.descriptor.digest));
        images.sort_by(|a, b| (a.kept_at, &a.descriptor.digest).cmp(&(b.kept_at, &b.descriptor.digest)));
        Ok(images)
    }

    /// Finds the image that a user means: by name, else by the beginning of an image ID or of a manifest digest.
    ///
    /// `name@digest` also finds an image that the repository has under a tag. Of an index, an image ID finds the
    /// one manifest.
    pub fn find(&self, text: &str) -> Result<Found, FindError> {
        let named = self.list()?;
        let references = |digest: &Digest| -> Vec<Reference> {
            let same = named.iter().filter(|image| image.descriptor.digest == *digest);
            same.map(|image| image.reference.clone()).collect()
        };
        if let Ok(reference) = text.parse::<Reference>() {
            let path = self.path(&reference);
            if let Some(image) = named.iter().find(|image| self.path(&image.reference) == path) {
                let (descriptor, references) = (image.descriptor.clone(), references(&image.descriptor.digest));
                return Ok(Found { descriptor, reference: Some(image.reference.clone()), references });
            }
            let in_repository = |image: &&TaggedImage| {
                image.reference.registry() == reference.registry()
                    && image.reference.repository() == reference.repository()
                    && Some(&image.descriptor.digest) == reference.digest()
            };
            if let Some(image) = named.iter().find(in_repository) {
                let references = references(&image.descriptor.digest);
                return Ok(Found { descriptor: image.descriptor.clone(), reference: None, references });
            }
        }
        let found = self.by_id(text, &named)?;
        let (parent, descriptor) = found.ok_or_else(|| FindError::NotFound { text: clip(text) })?;
        Ok(Found { descriptor, reference: None, references: references(&parent) })
    }

    /// Finds an image by the beginning of its ID; gives what has the names, and the image.
    fn by_id(&self, text: &str, named: &[TaggedImage]) -> Result<Option<(Digest, Descriptor)>, FindError> {
        let prefix = text.strip_prefix("sha256:").unwrap_or(text);
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if prefix.is_empty() || prefix.len() > 128 || !prefix.bytes().all(is_hex) {
            return Ok(None);
        }
        let untagged = self.list_untagged()?;
        let tops = named.iter().map(|image| &image.descriptor);
        let tops = tops.chain(untagged.iter().map(|image| &image.descriptor));
        // One image may have several manifests (plain, compressed): the first, a named one, stands for it.
        let mut matches: BTreeMap<Digest, (Digest, Descriptor)> = BTreeMap::new();
        let mut seen = HashSet::new();
        for top in tops.filter(|top| seen.insert(top.digest.clone())) {
            let images = self.manifests(top)?;
            if media_type::is_index(&top.media_type) && top.digest.hex().starts_with(prefix) {
                matches.entry(top.digest.clone()).or_insert((top.digest.clone(), top.clone()));
                continue;
            }
            for (descriptor, config) in images {
                if config.hex().starts_with(prefix) || descriptor.digest.hex().starts_with(prefix) {
                    matches.entry(config).or_insert((top.digest.clone(), descriptor));
                }
            }
        }
        if matches.len() > 1 {
            let candidates = matches.keys().take(MAX_CANDIDATES).map(|digest| digest.short().to_owned()).collect();
            return Err(FindError::Ambiguous { text: clip(text), candidates });
        }
        Ok(matches.into_values().next())
    }

    /// Returns the manifests that a descriptor stands for and their configs' digests, as far as they are here and
    /// whole.
    pub fn manifests(&self, descriptor: &Descriptor) -> Result<Vec<(Descriptor, Digest)>, ImageError> {
        let mut manifests = Vec::new();
        let mut waiting = vec![(descriptor.clone(), 0)];
        let mut seen = HashSet::new();
        while let Some((descriptor, depth)) = waiting.pop() {
            if !seen.insert(descriptor.digest.clone()) {
                continue;
            }
            match self.parse(&descriptor) {
                Ok(Parsed::Manifest(manifest)) => manifests.push((descriptor, manifest.config.digest)),
                Ok(Parsed::Index(index)) if depth < MAX_DEPTH => {
                    waiting.extend(index.manifests.into_iter().rev().map(|child| (child, depth + 1)));
                }
                Ok(Parsed::Index(_)) | Err(ImageError::Manifest { .. }) => {}
                Err(ImageError::Blob(BlobError::File(error))) => return Err(error.into()),
                Err(ImageError::Blob(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(manifests)
    }

    /// Reads a manifest or index, verified.
    pub fn parse(&self, descriptor: &Descriptor) -> Result<Parsed, ImageError> {
        let bytes = self.blobs.read(&descriptor.digest, MAX_MANIFEST)?;
        Parsed::parse(&bytes, Some(&descriptor.media_type))
            .map_err(|source| ImageError::Manifest { digest: descriptor.digest.clone(), source })
    }

    /// Reads an image; of an index, the one that suits the platform best and is here.
    ///
    /// A manifest that is not in an index is taken as it is, whatever platform its config says.
    pub fn image(&self, descriptor: &Descriptor, platform: &Platform) -> Result<Image, ImageError> {
        self.image_within(descriptor, platform, 0)
    }

    fn image_within(&self, descriptor: &Descriptor, platform: &Platform, depth: usize) -> Result<Image, ImageError> {
        let index = match self.parse(descriptor)? {
            Parsed::Manifest(manifest) => return self.with_config(descriptor, manifest),
            Parsed::Index(index) => index,
        };
        let mut ranked = Vec::new();
        for child in &index.manifests {
            ranked.extend(self.rank(child, platform)?.map(|rank| (rank, child)));
        }
        ranked.sort_by_key(|(rank, _)| *rank);
        if depth >= MAX_DEPTH {
            ranked.clear();
        }
        let mut missing = None;
        for (_, child) in ranked {
            match self.image_within(child, platform, depth + 1) {
                Err(error @ (ImageError::Blob(BlobError::NotFound { .. }) | ImageError::Platform { .. })) => {
                    missing.get_or_insert(error);
                }
                other => return other,
            }
        }
        Err(missing.unwrap_or_else(|| {
            let offered = index.manifests.iter().filter_map(|child| child.platform.as_ref()).map(ToString::to_string);
            let offered: Vec<String> = offered.filter(|text| text != "unknown/unknown").take(20).collect();
            let offered = if offered.is_empty() { "none".to_owned() } else { offered.join(", ") };
            ImageError::Platform { digest: descriptor.digest.clone(), platform: Box::new(platform.clone()), offered }
        }))
    }

    /// Tells how well a member of an index suits a platform; the lower the better.
    fn rank(&self, child: &Descriptor, platform: &Platform) -> Result<Option<u32>, ImageError> {
        if let Some(offered) = &child.platform {
            return Ok(platform.rank(offered));
        }
        if media_type::is_index(&child.media_type) {
            return Ok(Some(u32::MAX));
        }
        if !media_type::is_manifest(&child.media_type) || !self.blobs.has(child)? {
            return Ok(None);
        }
        // Some tools leave the platform to the config.
        Ok(match self.parse(child)? {
            Parsed::Manifest(manifest) => {
                self.with_config(child, manifest).ok().and_then(|image| platform.rank(&image.config.platform()))
            }
            Parsed::Index(_) => None,
        })
    }

    fn with_config(&self, descriptor: &Descriptor, manifest: Manifest) -> Result<Image, ImageError> {
        let config_digest = manifest.config.digest.clone();
        let bytes = self.blobs.read(&config_digest, MAX_CONFIG)?;
        let is_config = matches!(&*manifest.config.media_type, media_type::OCI_CONFIG | media_type::DOCKER_CONFIG);
        let config: ImageConfig = serde_json::from_slice(&bytes).map_err(|source| {
            if is_config {
                return ImageError::Config { digest: config_digest.clone(), source };
            }
            let media_type = manifest.config.media_type.clone();
            ImageError::NotAnImage { digest: descriptor.digest.clone(), media_type }
        })?;
        Ok(Image { descriptor: descriptor.clone(), manifest, config, config_digest })
    }

    /// Makes an image ready for other stores, and returns its manifest's descriptor and bytes, which are then a
    /// blob like all that it names.
    ///
    /// An image that was built here names plain tars. Each is compressed once, and the new manifest names those
    /// instead; the config stays as it is. An image without plain layers is returned as it is.
    pub fn publishable(&self, image: &Image, compression: Compression) -> Result<(Descriptor, Vec<u8>), PublishError> {
        let is_plain = |layer: &Descriptor| compression_of(&layer.media_type) == Some(Compression::None);
        if compression == Compression::None || !image.manifest.layers.iter().any(is_plain) {
            let bytes = self.blobs.read(&image.descriptor.digest, MAX_MANIFEST)?;
            return Ok((image.descriptor.clone(), bytes));
        }
        let mut manifest = image.manifest.clone();
        manifest.media_type = Some(media_type::OCI_MANIFEST.into());
        if manifest.config.media_type == media_type::DOCKER_CONFIG {
            manifest.config.media_type = media_type::OCI_CONFIG.into();
        }
        for ((diff_id, old), new) in image.layers()?.iter().zip(&mut manifest.layers) {
            if is_plain(old) {
                let form = self.layers.compressed(diff_id, compression)?;
                new.media_type = form.media_type;
                new.digest = form.digest;
                new.size = form.size;
            } else if old.media_type == media_type::DOCKER_LAYER_GZIP {
                new.media_type = media_type::OCI_LAYER_GZIP.into();
            }
        }
        let bytes = serde_json::to_vec(&manifest).expect("a manifest has text keys only");
        let mut descriptor = Descriptor::of(media_type::OCI_MANIFEST, &bytes);
        descriptor.platform = image.descriptor.platform.clone();
        self.blobs.put(&bytes)?;
        Ok((descriptor, bytes))
    }

    fn path(&self, reference: &Reference) -> PathBuf {
        self.home.layout().image(reference)
    }

    fn read(&self, path: &Path) -> Result<Option<TaggedImage>, ImageError> {
        let record: Option<TagRecord> = read_json(path)?;
        // A record in another's place is as good as damaged.
        let record = record.filter(|record| self.path(&record.reference) == path);
        Ok(record.map(|TagRecord { reference, descriptor, tagged_at }| TaggedImage {
            reference,
            descriptor,
            tagged_at,
        }))
    }

    fn write<T: Serialize>(&self, path: &Path, record: &T) -> Result<(), ImageError> {
        let bytes = serde_json::to_vec(record).expect("records have text keys only");
        Ok(self.home.write_file(path, &bytes, true)?)
    }
}

/// Reads a record; `None` when it is missing or damaged.
fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, FileError> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => None,
        other => found(other).during("read", path)?,
    };
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// Keeps hostile text short in messages.
fn clip(text: &str) -> String {
    if text.chars().count() <= 300 { text.to_owned() } else { text.chars().take(300).chain(['…']).collect() }
}

#[cfg(test)]
mod tests;
