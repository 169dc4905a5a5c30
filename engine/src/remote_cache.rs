//! A build cache that travels: `--cache-to` and `--cache-from`, by way of a registry, a folder, or an image itself.
//!
//! ```text
//! --cache-from ──► place ──► contents ──► remote ──► builder asks by key, and for layers that steps read
//! the builder's ledger ──► export ──► place           read what is there, put ours to it, replace it if it is the same
//! ```
//!
//! | File | Owns |
//! | --- | --- |
//! | [`place`] | where a cache is: manifests and blobs in a registry or a folder |
//! | `folder` | an OCI layout in a folder, changed atomically |
//! | `contents` | what a place holds: records and layers, of a cache or of an image |
//! | `remote` | `builder::RemoteCache` filled in: read when a key is missed, layers when they are needed |
//! | `export` | writing a cache, together with what others wrote |
//! | `send_on` | an image to a registry whose layers are not all here |
//! | `transfer` | what a build does about caches before and after |
//!
//! **Invariant:** what a cache says about a layer is believed only after the tar was hashed. What it says about which layer
//! a step makes is believed as such: whoever names a cache trusts it as they trust a base image.

mod contents;
mod export;
mod folder;
pub mod place;
mod remote;
mod send_on;
mod transfer;

use std::path::PathBuf;

pub use builder::remote_cache::Mode;
use layer::Compression;
use oci::{Digest, Reference};
use registry::client::{PullError, PushError};
use store::{BlobError, FileError, LayerError};

pub(crate) use transfer::{Sending, Transfer};

/// How a build takes from caches elsewhere, and gives to them.
#[derive(Clone, Debug, Default)]
pub struct CacheOptions {
    /// `--cache-from`: where to look, in this order.
    pub from: Vec<CacheSource>,
    /// `--cache-to`: what to write.
    pub to: Vec<CacheExport>,
    /// Whether an image that is only sent is to be here whole all the same (`--load`).
    pub load: bool,
}

impl CacheOptions {
    /// Returns the names in registries.
    pub fn references(&self) -> impl Iterator<Item = &Reference> {
        let from = self.from.iter().filter_map(|source| match source {
            CacheSource::Registry { reference } => Some(reference),
            CacheSource::Folder { .. } => None,
        });
        let to = self.to.iter().filter_map(|export| match &export.target {
            CacheTarget::Registry { reference, .. } => Some(reference),
            CacheTarget::Folder { .. } | CacheTarget::Inline => None,
        });
        from.chain(to)
    }
}

/// Where a cache is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheSource {
    /// A cache, or an image with an inline cache, in a registry.
    Registry {
        /// Its name.
        reference: Reference,
    },
    /// An OCI layout in a folder.
    Folder {
        /// The folder.
        path: PathBuf,
        /// Which of the caches in it.
        tag: String,
        /// Exactly this one, whatever the tag says.
        digest: Option<Digest>,
    },
}

/// A cache to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheExport {
    /// Where.
    pub target: CacheTarget,
    /// Which steps it is to know.
    pub mode: Mode,
    /// How layers that were built here are compressed.
    pub compression: Compression,
    /// Whether a failure is only a warning.
    pub ignore_error: bool,
}

/// Where a cache is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheTarget {
    /// Into the config of the image.
    Inline,
    /// To a registry.
    Registry {
        /// Under this name.
        reference: Reference,
        /// What the document that names the layers is.
        shape: Shape,
    },
    /// To an OCI layout in a folder.
    Folder {
        /// The folder; it is made when it is missing.
        path: PathBuf,
        /// What to call it there.
        tag: String,
        /// What the document that names the layers is.
        shape: Shape,
        /// Whether what was there under the tag is dropped.
        reset: bool,
    },
}

/// What the document is that names a cache's layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// A manifest with the records as its config, which every registry takes; else an index of layers, as older BuildKits
    /// write it.
    pub image_manifest: bool,
    /// OCI's media types, rather than docker's.
    pub oci_types: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Self { image_manifest: true, oci_types: true }
    }
}

/// Why a cache could not be read or written.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum CacheError {
    #[error(transparent)]
    Pull(#[from] PullError),
    #[error(transparent)]
    Push(#[from] PushError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("`{}` is not an OCI layout", path.display())]
    NotALayout { path: PathBuf },
    #[error("`{}` has no cache `{name}`", path.display())]
    NotThere { path: PathBuf, name: String },
    #[error("blob {digest} of the cache is damaged")]
    Damaged { digest: Digest },
    #[error("blob {digest} of the cache is larger than {limit} bytes")]
    TooLarge { digest: Digest, limit: u64 },
    #[error("manifest {digest} of the cache cannot be read")]
    Manifest { digest: Digest, source: oci::ManifestError },
    #[error("the records of the cache cannot be read")]
    Records(#[source] serde_json::Error),
    #[error("layer blob {blob} cannot be decompressed")]
    Decompress { blob: Digest, source: std::io::Error },
    #[error("layer blob {blob} is not the layer that the cache says it is")]
    OtherLayer { blob: Digest },
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error("no place has layer {diff_id} any more")]
    Gone { diff_id: oci::DiffId },
    #[error("others kept changing the cache for {rounds} rounds")]
    Contended { rounds: u32 },
}

/// Why a cache was not written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the cache to {to}")]
pub struct CacheExportError {
    /// Where it was to go.
    pub to: String,
    /// Why it did not.
    pub source: Box<CacheError>,
}
