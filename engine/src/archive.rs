//! Images in one file, as docker and OCI write them.
//!
//! ```text
//! oci-layout                    {"imageLayoutVersion":"1.0.0"}
//! index.json                    the manifests, with their names in annotations
//! manifest.json                 docker's list: config, names and layers by path
//! blobs/sha256/HEX              manifests, configs and layers
//! ```
//!
//! Docker before 25 has only `manifest.json`, `HEX.json` configs and `HEX/layer.tar`; both are read, and both in one
//! file are written, so that every client finds what it knows.

mod layout;
mod read;
mod write;

#[cfg(test)]
mod tests;

pub use layout::write_layout;
pub use read::{Loaded, ReadArchiveError, read};
pub use write::{ArchiveFormat, ArchiveImage, WriteArchiveError, write};

/// In `index.json`: the full name of an image, as containerd and docker write it.
pub(crate) const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// In `index.json`: the name of an image (image-spec, `annotations.md`).
pub(crate) const OCI_NAME: &str = "org.opencontainers.image.ref.name";

/// A line of docker's `manifest.json`.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}
