//! From an archive to the store, in one pass over its bytes.

use std::collections::HashMap;
use std::io::{self, Read, Write};

use jiff::Timestamp;
use layer::tar::{Limits, Reader, TarError};
use layer::{EntryKind, Format};
use oci::{Algorithm, Descriptor, DiffId, Digest, ImageConfig, Manifest, ManifestError, Parsed, Reference, media_type};
use store::{BlobError, ImageError, LayerError, Store};

use super::{CONTAINERD_NAME, DockerImage, OCI_NAME};

/// An image that came out of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Its name, if the archive gave it one.
    pub reference: Option<Reference>,
    /// The image ID, or the digest of the index when there are several.
    pub id: Digest,
    /// What the name stands for now.
    pub descriptor: Descriptor,
}

/// Why an archive was not read.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum ReadArchiveError {
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    #[error("cannot store a blob")]
    Write(#[source] io::Error),
    #[error("the archive is broken")]
    Tar(#[from] TarError),
    #[error("the archive holds no image: it has neither `index.json` nor `manifest.json`")]
    NoImage,
    #[error("`{path}` of the archive is not what it should be")]
    Json { path: String, source: serde_json::Error },
    #[error("`{path}` of the archive is larger than {MAX_JSON} bytes")]
    TooLarge { path: String },
    #[error("`{path}` of the archive is damaged: its bytes hash to {actual}")]
    Damaged { path: String, actual: Digest },
    #[error("`{path}` of the archive cannot be read as a manifest")]
    Manifest { path: String, source: ManifestError },
    #[error("indexes are nested more than {MAX_DEPTH} deep")]
    TooDeep,
    #[error("the archive lacks `{path}`")]
    Missing { path: String },
    #[error("layer `{path}` of the archive is damaged: its bytes hash to {actual}, the image says {expected}")]
    DiffId { path: String, expected: DiffId, actual: Digest },
    #[error("image `{config}` has {diff_ids} diff IDs, but the archive lists {layers} layers")]
    LayerCount { config: String, layers: usize, diff_ids: usize },
    #[error("the archive names an image `{name}`")]
    Name { name: String, source: oci::reference::ReferenceError },
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// No list or manifest is larger; a hostile one is not read into memory.
const MAX_JSON: u64 = 16 << 20;
/// An index of indexes is odd, but allowed.
const MAX_DEPTH: u32 = 4;
/// An image has some dozens of files; docker before 25 wrote three per layer.
const LIMITS: Limits = Limits { entries: 100_000, bytes: 1 << 40 };

/// Reads an archive, compressed or not, stores its images, and gives them their names.
///
/// Every blob is verified while it is written to the store. An archive that turns out to be broken changes no name;
/// blobs that were stored until then go with the next collection.
///
/// # Errors
///
/// When the archive is broken, damaged, or holds no image.
pub fn read(
    store: &Store,
    source: impl Read + Send + 'static,
    now: Timestamp,
) -> Result<Vec<Loaded>, ReadArchiveError> {
    let (_, plain) = layer::compress::decoder(source).map_err(ReadArchiveError::Read)?;
    let contents = Contents::read(store, plain)?;
    let images = match (contents.lists.get("index.json"), contents.lists.get("manifest.json")) {
        (Some(index), docker) => contents.oci_images(store, index, docker.map(Vec::as_slice))?,
        (None, Some(docker)) => contents.docker_images(store, docker)?,
        (None, None) => return Err(ReadArchiveError::NoImage),
    };
    for image in &images {
        match &image.reference {
            Some(reference) => store.images().tag(reference, &image.descriptor, now)?,
            None => store.images().keep(&image.descriptor, now)?,
        }
    }
    Ok(images)
}

/// The files of an archive: lists in memory, everything else in the store.
#[derive(Default)]
struct Contents {
    lists: HashMap<String, Vec<u8>>,
    blobs: HashMap<Vec<u8>, (Digest, u64)>,
    links: HashMap<Vec<u8>, Vec<u8>>,
}

impl Contents {
    fn read(store: &Store, source: impl Read) -> Result<Self, ReadArchiveError> {
        let mut tar = Reader::with_limits(source, LIMITS);
        let mut contents = Self::default();
        while let Some(entry) = tar.next_entry()? {
            let path = layer::entry::tidy_path(&entry.path);
            match entry.kind {
                EntryKind::File { size } => contents.add_file(store, &mut tar, path, size)?,
                // Docker links layers that are the same: `../OTHER/layer.tar`.
                EntryKind::Symlink { target } => {
                    let (folder, _) = layer::entry::split_path(&path);
                    let target = resolve(folder, &target);
                    contents.links.insert(path, target);
                }
                EntryKind::Hardlink { target } => {
                    contents.links.insert(path, layer::entry::tidy_path(&target));
                }
                EntryKind::Directory
                | EntryKind::CharDevice { .. }
                | EntryKind::BlockDevice { .. }
                | EntryKind::Fifo => {}
            }
        }
        tar.drain()?;
        Ok(contents)
    }

    fn add_file<R: Read>(
        &mut self,
        store: &Store,
        tar: &mut Reader<R>,
        path: Vec<u8>,
        size: u64,
    ) -> Result<(), ReadArchiveError> {
        let text = String::from_utf8_lossy(&path).into_owned();
        match text.as_str() {
            "index.json" | "manifest.json" => {
                if size > MAX_JSON {
                    return Err(ReadArchiveError::TooLarge { path: text });
                }
                let mut bytes = Vec::new();
                tar.read_to_end(&mut bytes).map_err(ReadArchiveError::Read)?;
                self.lists.insert(text, bytes);
                return Ok(());
            }
            "oci-layout" | "repositories" => return Ok(()),
            // Docker before 25 keeps a version and an old config beside each layer.
            _ if text.ends_with("/VERSION") || text.ends_with("/json") => return Ok(()),
            _ => {}
        }
        let named = digest_of_path(&text);
        if let Some(digest) = &named
            && store.blobs().size(digest)? == Some(size)
        {
            self.blobs.insert(path, (digest.clone(), size));
            return Ok(());
        }
        let algorithm = named.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let mut blob = store.blobs().begin_as(algorithm)?;
        copy(tar, &mut blob)?;
        let (digest, size) = blob.commit(named.as_ref()).map_err(|error| match error {
            BlobError::DigestMismatch { actual, .. } => ReadArchiveError::Damaged { path: text, actual },
            other => other.into(),
        })?;
        self.blobs.insert(path, (digest, size));
        Ok(())
    }

    /// Finds a file by its path in the archive, through links.
    fn blob(&self, path: &str) -> Result<&(Digest, u64), ReadArchiveError> {
        const MAX_LINKS: usize = 8;
        let mut name = layer::entry::tidy_path(path.as_bytes());
        for _ in 0..MAX_LINKS {
            if let Some(blob) = self.blobs.get(&name) {
                return Ok(blob);
            }
            match self.links.get(&name) {
                Some(target) => name.clone_from(target),
                None => break,
            }
        }
        Err(ReadArchiveError::Missing { path: path.into() })
    }

    fn oci_images(&self, store: &Store, index: &[u8], docker: Option<&[u8]>) -> Result<Vec<Loaded>, ReadArchiveError> {
        let path = || "index.json".to_owned();
        let parsed = Parsed::parse(index, Some(media_type::OCI_INDEX)).or_else(|_| Parsed::parse(index, None));
        let Parsed::Index(index) = parsed.map_err(|source| ReadArchiveError::Manifest { path: path(), source })? else {
            return Err(ReadArchiveError::NoImage);
        };
        let docker: Vec<DockerImage> = match docker {
            Some(bytes) => parse_json("manifest.json", bytes)?,
            None => Vec::new(),
        };
        let mut loaded = Vec::new();
        let mut checked = HashMap::new();
        for line in &index.manifests {
            let id = check_manifest(store, line, 0, &mut checked)?;
            let descriptor = Descriptor::new(&line.media_type, line.digest.clone(), line.size);
            let names = names_of_line(line, &id, &docker)?;
            if names.is_empty() {
                loaded.push(Loaded { reference: None, id, descriptor });
                continue;
            }
            for reference in names {
                loaded.push(Loaded { reference: Some(reference), id: id.clone(), descriptor: descriptor.clone() });
            }
        }
        // An archive may list an image once per name and once per tag of `manifest.json`.
        let mut seen = std::collections::HashSet::new();
        loaded.retain(|image| seen.insert((image.reference.clone(), image.id.clone())));
        if loaded.is_empty() { Err(ReadArchiveError::NoImage) } else { Ok(loaded) }
    }

    fn docker_images(&self, store: &Store, list: &[u8]) -> Result<Vec<Loaded>, ReadArchiveError> {
        let list: Vec<DockerImage> = parse_json("manifest.json", list)?;
        let mut loaded = Vec::new();
        for image in list {
            let (id, size) = self.blob(&image.config)?.clone();
            let bytes = store.blobs().read(&id, MAX_JSON)?;
            let config: ImageConfig = parse_json(&image.config, &bytes)?;
            let layers = self.docker_layers(store, &image, &config)?;
            let manifest = Manifest::new(Descriptor::new(media_type::OCI_CONFIG, id.clone(), size), layers);
            let bytes = serde_json::to_vec(&manifest)
                .map_err(|source| ReadArchiveError::Json { path: image.config.clone(), source })?;
            store.blobs().put(&bytes)?;
            let descriptor = Descriptor::of(media_type::OCI_MANIFEST, &bytes);
            let names = image.repo_tags.unwrap_or_default();
            if names.is_empty() {
                loaded.push(Loaded { reference: None, id, descriptor });
                continue;
            }
            for name in names {
                let reference = Some(parse_name(&name)?);
                loaded.push(Loaded { reference, id: id.clone(), descriptor: descriptor.clone() });
            }
        }
        if loaded.is_empty() { Err(ReadArchiveError::NoImage) } else { Ok(loaded) }
    }

    fn docker_layers(
        &self,
        store: &Store,
        image: &DockerImage,
        config: &ImageConfig,
    ) -> Result<Vec<Descriptor>, ReadArchiveError> {
        let paths = image.layers.as_deref().unwrap_or_default();
        let diff_ids = &config.rootfs.diff_ids;
        if paths.len() != diff_ids.len() {
            return Err(ReadArchiveError::LayerCount {
                config: image.config.clone(),
                layers: paths.len(),
                diff_ids: diff_ids.len(),
            });
        }
        let layers = paths.iter().zip(diff_ids).map(|(path, diff_id)| {
            let (digest, size) = self.blob(path)?;
            let descriptor = Descriptor::new(layer_media_type(store, digest)?, digest.clone(), *size);
            // A compressed layer is verified when it is unpacked.
            let is_plain = descriptor.media_type == media_type::OCI_LAYER;
            if is_plain && *digest != diff_id.0 && digest.algorithm() == diff_id.0.algorithm() {
                let (path, expected, actual) = (path.clone(), diff_id.clone(), digest.clone());
                return Err(ReadArchiveError::DiffId { path, expected, actual });
            }
            store.layers().record(diff_id, &descriptor)?;
            Ok(descriptor)
        });
        layers.collect()
    }
}

/// Tells the media type of a layer by its first bytes.
fn layer_media_type(store: &Store, digest: &Digest) -> Result<&'static str, ReadArchiveError> {
    let mut start = Vec::new();
    store.blobs().open(digest)?.file.take(16).read_to_end(&mut start).map_err(ReadArchiveError::Read)?;
    Ok(match layer::compress::sniff(&start) {
        Some(Format::Gzip) => media_type::OCI_LAYER_GZIP,
        Some(Format::Zstd) => media_type::OCI_LAYER_ZSTD,
        Some(Format::Plain | Format::Bzip2 | Format::Xz) | None => media_type::OCI_LAYER,
    })
}

/// Sees to it that a manifest, and all that it names, is in the store; returns the image ID.
///
/// What is in `checked` is not read again: indexes that name each other many times over would take for ever.
fn check_manifest(
    store: &Store,
    descriptor: &Descriptor,
    depth: u32,
    checked: &mut HashMap<(Digest, String), Digest>,
) -> Result<Digest, ReadArchiveError> {
    let key = (descriptor.digest.clone(), descriptor.media_type.clone());
    if let Some(id) = checked.get(&key) {
        return Ok(id.clone());
    }
    let path = |digest: &Digest| format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex());
    let missing = |digest: &Digest| ReadArchiveError::Missing { path: path(digest) };
    if depth > MAX_DEPTH {
        return Err(ReadArchiveError::TooDeep);
    }
    if !store.blobs().contains(&descriptor.digest)? {
        return Err(missing(&descriptor.digest));
    }
    let bytes = store.blobs().read(&descriptor.digest, MAX_JSON)?;
    let parsed = Parsed::parse(&bytes, Some(&descriptor.media_type))
        .map_err(|source| ReadArchiveError::Manifest { path: path(&descriptor.digest), source })?;
    let id = match parsed {
        Parsed::Manifest(manifest) => {
            for part in manifest.layers.iter().chain([&manifest.config]) {
                if !store.blobs().contains(&part.digest)? && !media_type::is_nondistributable(&part.media_type) {
                    return Err(missing(&part.digest));
                }
            }
            manifest.config.digest
        }
        Parsed::Index(index) => {
            // An index may name images of other platforms that were left out.
            let mut complete = false;
            for manifest in &index.manifests {
                if store.blobs().contains(&manifest.digest)? {
                    check_manifest(store, manifest, depth + 1, checked)?;
                    complete = true;
                }
            }
            if !complete {
                return Err(missing(&descriptor.digest));
            }
            descriptor.digest.clone()
        }
    };
    checked.insert(key, id.clone());
    Ok(id)
}

/// Finds the names of a line of `index.json`: containerd's annotation, OCI's, or docker's list.
fn names_of_line(line: &Descriptor, id: &Digest, docker: &[DockerImage]) -> Result<Vec<Reference>, ReadArchiveError> {
    if let Some(name) = line.annotations.get(CONTAINERD_NAME) {
        return Ok(vec![parse_name(name)?]);
    }
    let listed = docker.iter().filter(|image| image.config.ends_with(id.hex()));
    let listed: Vec<&String> = listed.filter_map(|image| image.repo_tags.as_ref()).flatten().collect();
    if !listed.is_empty() {
        return listed.into_iter().map(|name| parse_name(name)).collect();
    }
    // Here others than docker write whatever they like; what is no name is none.
    Ok(line.annotations.get(OCI_NAME).and_then(|name| name.parse().ok()).into_iter().collect())
}

fn parse_name(name: &str) -> Result<Reference, ReadArchiveError> {
    name.parse().map_err(|source| ReadArchiveError::Name { name: name.into(), source })
}

fn parse_json<T: serde::de::DeserializeOwned>(path: &str, bytes: &[u8]) -> Result<T, ReadArchiveError> {
    serde_json::from_slice(bytes).map_err(|source| ReadArchiveError::Json { path: path.into(), source })
}

/// Reads `blobs/ALGORITHM/HEX` as a digest.
fn digest_of_path(path: &str) -> Option<Digest> {
    let (algorithm, hex) = path.strip_prefix("blobs/")?.split_once('/')?;
    format!("{algorithm}:{hex}").parse().ok()
}

/// Follows a relative link inside the archive; `..` at the top stays there.
fn resolve(folder: &[u8], target: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = Vec::new();
    let start: &[u8] = if target.starts_with(b"/") { b"" } else { folder };
    for name in start.split(|&byte| byte == b'/').chain(target.split(|&byte| byte == b'/')) {
        match name {
            b"" | b"." => {}
            b".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    names.join(&b'/')
}

/// Copies an entry to a blob, telling errors of reading from errors of writing.
fn copy(source: &mut impl Read, blob: &mut store::BlobWriter) -> Result<(), ReadArchiveError> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => blob.write_all(&buffer[..count]).map_err(ReadArchiveError::Write)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ReadArchiveError::Read(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_inside_the_archive() {
        for (folder, target, expected) in [
            ("a", "../b/layer.tar", "b/layer.tar"),
            ("a", "layer.tar", "a/layer.tar"),
            ("a", "../../../etc/passwd", "etc/passwd"),
            ("a", "/x", "x"),
        ] {
            assert_eq!(resolve(folder.as_bytes(), target.as_bytes()), expected.as_bytes(), "{target}");
        }
    }

    #[test]
    fn blob_paths_are_digests_only_when_well_formed() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert!(digest_of_path(&format!("blobs/sha256/{hex}")).is_some());
        for path in [hex.to_owned(), format!("blobs/sha256/{hex}x"), "blobs/sha256/../x".into(), "blobs/md5/00".into()]
        {
            assert!(digest_of_path(&path).is_none(), "{path}");
        }
    }
}
