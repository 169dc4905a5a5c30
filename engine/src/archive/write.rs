//! From the store to an archive.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};

use layer::hashing::HashingReader;
use layer::tar::{TarWriteError, Writer};
use layer::{Entry, EntryKind};
use oci::{Algorithm, Descriptor, Digest, Index, Parsed, Reference};
use store::{BlobError, FileError, Store};

use super::{CONTAINERD_NAME, DockerImage, OCI_NAME};

/// Which lists an archive has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// Only OCI's `index.json`.
    Oci,
    /// Docker's `manifest.json` as well.
    Docker,
}

/// An image that goes into an archive.
#[derive(Clone, Debug)]
pub struct ArchiveImage {
    /// Its manifest; it and all that it names are in the store.
    pub manifest: Descriptor,
    /// Its names; without any it is only found by its digest.
    pub names: Vec<Reference>,
    /// Notes about it in the list of images.
    pub annotations: BTreeMap<String, String>,
}

/// Why an archive was not written.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum WriteArchiveError {
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error("blob {digest} is damaged: its bytes hash to {actual}")]
    Damaged { digest: Digest, actual: Digest },
    #[error("manifest {digest} cannot be read")]
    Manifest { digest: Digest, source: oci::ManifestError },
    #[error("{digest} is an index of several images; choose one with --platform")]
    Index { digest: Digest },
    #[error("cannot write the archive")]
    Tar(#[from] TarWriteError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("cannot write the archive")]
    Write(#[from] io::Error),
}

const MAX_MANIFEST: u64 = 4 << 20;

/// Writes images as one archive. Its bytes depend on the images and their names alone.
///
/// Blobs are hashed on their way, so that a damaged one is an error instead of a bad archive.
///
/// # Errors
///
/// When a blob is missing or damaged, or the sink takes no more.
pub fn write<W: Write>(
    store: &Store,
    images: &[ArchiveImage],
    format: ArchiveFormat,
    sink: W,
) -> Result<W, WriteArchiveError> {
    let mut manifests = Vec::new();
    let mut docker_images: Vec<DockerImage> = Vec::new();
    let mut blobs = BTreeSet::new();
    for image in images {
        manifests.extend(index_lines(image));
        let manifest = match read_manifest(store, &image.manifest)? {
            Parsed::Manifest(manifest) => manifest,
            // Docker's list has no word for an index.
            Parsed::Index(_) if format == ArchiveFormat::Docker => {
                return Err(WriteArchiveError::Index { digest: image.manifest.digest.clone() });
            }
            Parsed::Index(_) => {
                collect(store, &image.manifest, &mut blobs)?;
                continue;
            }
        };
        collect(store, &image.manifest, &mut blobs)?;
        docker_images.push(DockerImage {
            config: blob_path(&manifest.config.digest),
            repo_tags: Some(image.names.iter().map(Reference::familiar).collect()),
            layers: Some(manifest.layers.iter().map(|layer| blob_path(&layer.digest)).collect()),
        });
    }
    let mut tar = Writer::new(sink);
    // The lists come first, so that whoever reads a stream knows what the blobs are.
    append_json(&mut tar, "oci-layout", &serde_json::json!({ "imageLayoutVersion": "1.0.0" }))?;
    append_json(&mut tar, "index.json", &Index::new(manifests))?;
    if format == ArchiveFormat::Docker {
        append_json(&mut tar, "manifest.json", &docker_images)?;
    }
    for folder in ["blobs".to_owned()].into_iter().chain(algorithms(&blobs)) {
        tar.append_empty(&Entry::new(folder, EntryKind::Directory, 0o755))?;
    }
    for digest in &blobs {
        append_blob(&mut tar, store, digest)?;
    }
    Ok(tar.finish()?)
}

/// Finds every blob that a manifest or an index names, itself included.
pub(super) fn collect(
    store: &Store,
    descriptor: &Descriptor,
    blobs: &mut BTreeSet<Digest>,
) -> Result<(), WriteArchiveError> {
    blobs.insert(descriptor.digest.clone());
    match read_manifest(store, descriptor)? {
        Parsed::Manifest(manifest) => {
            blobs.insert(manifest.config.digest.clone());
            blobs.extend(manifest.layers.iter().map(|layer| layer.digest.clone()));
            Ok(())
        }
        Parsed::Index(index) => index.manifests.iter().try_for_each(|manifest| collect(store, manifest, blobs)),
    }
}

fn read_manifest(store: &Store, descriptor: &Descriptor) -> Result<Parsed, WriteArchiveError> {
    let digest = &descriptor.digest;
    let bytes = store.blobs().read(digest, MAX_MANIFEST)?;
    Parsed::parse(&bytes, Some(&descriptor.media_type))
        .map_err(|source| WriteArchiveError::Manifest { digest: digest.clone(), source })
}

/// One line per name, or one without.
pub(super) fn index_lines(image: &ArchiveImage) -> Vec<Descriptor> {
    let line = |name: Option<&Reference>| {
        let mut descriptor = image.manifest.clone();
        descriptor.annotations.clone_from(&image.annotations);
        if let Some(name) = name {
            descriptor.annotations.insert(CONTAINERD_NAME.into(), name.to_string());
            descriptor.annotations.insert(OCI_NAME.into(), name.to_string());
        }
        descriptor
    };
    if image.names.is_empty() { vec![line(None)] } else { image.names.iter().map(|name| line(Some(name))).collect() }
}

fn algorithms(blobs: &BTreeSet<Digest>) -> Vec<String> {
    let used: BTreeSet<Algorithm> = blobs.iter().map(Digest::algorithm).collect();
    used.into_iter().map(|algorithm| format!("blobs/{}", algorithm.as_str())).collect()
}

pub(super) fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

fn append_json<W: Write>(
    tar: &mut Writer<W>,
    path: &str,
    value: &impl serde::Serialize,
) -> Result<(), WriteArchiveError> {
    let bytes = serde_json::to_vec(value).map_err(io::Error::from)?;
    let entry = Entry::new(path, EntryKind::File { size: bytes.len() as u64 }, 0o644);
    Ok(tar.append(&entry, &mut bytes.as_slice())?)
}

fn append_blob<W: Write>(tar: &mut Writer<W>, store: &Store, digest: &Digest) -> Result<(), WriteArchiveError> {
    let (blob, size) = store.blobs().stream(digest)?;
    let entry = Entry::new(blob_path(digest), EntryKind::File { size }, 0o644);
    let mut hashing = HashingReader::with_algorithm(blob.take(size), digest.algorithm());
    tar.append(&entry, &mut hashing)?;
    let (_, actual, _) = hashing.finish();
    if actual == *digest { Ok(()) } else { Err(WriteArchiveError::Damaged { digest: digest.clone(), actual }) }
}
