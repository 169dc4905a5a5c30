//! [`TransferEvents`]: what a face hears while blobs move.

use std::fmt;
use std::time::Duration;

use oci::{Descriptor, Digest, RepositoryName};

use super::RequestError;

/// Where one blob is on its way; shown with docker's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlobState {
    /// Pull: known, not yet asked for.
    PullingFsLayer,
    /// Pull: bytes arrive.
    Downloading,
    /// Pull: all bytes are there, the digest is being compared.
    Verifying,
    /// Pull: the blob is in the store.
    DownloadComplete,
    /// Pull: the blob was in the store before.
    AlreadyExists,
    /// Pull: the blob and all that goes with it is done; for whoever unpacks, the client never says it.
    PullComplete,
    /// Push: known, not yet asked for.
    Preparing,
    /// Push: bytes leave.
    Pushing,
    /// Push: the registry has acknowledged the blob.
    Pushed,
    /// Push: the registry had the blob.
    LayerAlreadyExists,
    /// Push: the registry took the blob over from another of its repositories.
    MountedFrom(RepositoryName),
    /// Push: the registry took the blob over from what it has on its machine, without saying from where.
    Mounted,
}

impl BlobState {
    /// Tells whether nothing follows for this blob.
    pub fn is_final(&self) -> bool {
        match self {
            Self::PullingFsLayer | Self::Downloading | Self::Verifying | Self::Preparing | Self::Pushing => false,
            Self::DownloadComplete
            | Self::AlreadyExists
            | Self::PullComplete
            | Self::Pushed
            | Self::LayerAlreadyExists
            | Self::MountedFrom(_)
            | Self::Mounted => true,
        }
    }
}

impl fmt::Display for BlobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PullingFsLayer => f.write_str("Pulling fs layer"),
            Self::Downloading => f.write_str("Downloading"),
            Self::Verifying => f.write_str("Verifying Checksum"),
            Self::DownloadComplete => f.write_str("Download complete"),
            Self::AlreadyExists => f.write_str("Already exists"),
            Self::PullComplete => f.write_str("Pull complete"),
            Self::Preparing => f.write_str("Preparing"),
            Self::Pushing => f.write_str("Pushing"),
            Self::Pushed => f.write_str("Pushed"),
            Self::LayerAlreadyExists => f.write_str("Layer already exists"),
            Self::MountedFrom(repository) => write!(f, "Mounted from {}", repository.as_str()),
            Self::Mounted => f.write_str("Mounted"),
        }
    }
}

/// Hears what happens to each blob of a pull or push.
///
/// # Contract
///
/// - `started` comes once per blob, in the order of the image: its layers, lowest first, then its config.
/// - Exactly one final state follows, unless the whole transfer fails.
/// - `progress` may fall: a broken transfer that cannot be resumed starts again from 0.
/// - Calls come from async code and must return at once.
pub trait TransferEvents: Send + Sync {
    /// A blob belongs to the image.
    fn started(&self, blob: &Descriptor);
    /// A blob came into a state.
    fn state(&self, digest: &Digest, state: &BlobState);
    /// `done` of `total` bytes have moved.
    fn progress(&self, digest: &Digest, done: u64, total: u64);
    /// A transfer broke, and is tried again after `wait`.
    fn retry(&self, digest: &Digest, wait: Duration, error: &RequestError);
}

/// Hears nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoEvents;

impl TransferEvents for NoEvents {
    fn started(&self, _: &Descriptor) {}
    fn state(&self, _: &Digest, _: &BlobState) {}
    fn progress(&self, _: &Digest, _: u64, _: u64) {}
    fn retry(&self, _: &Digest, _: Duration, _: &RequestError) {}
}
