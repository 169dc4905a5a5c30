//! The words of the house: what images, manifests and references are called and how they are written.
//!
//! | File | Owns |
//! | --- | --- |
//! | [`digest`] | [`Digest`], [`DiffId`], [`ChainId`] and the [`Hasher`] that makes them |
//! | [`media_type`] | the media types of OCI and Docker |
//! | [`descriptor`] | [`Descriptor`]: media type, digest and size of some content |
//! | [`platform`] | [`Platform`]: operating system, architecture, variant |
//! | [`manifest`] | [`Manifest`], [`Index`], and telling them apart safely |
//! | [`image_config`] | [`ImageConfig`]: what a container of the image starts with, and the image's history |
//! | [`mod@reference`] | [`Reference`], [`RepositoryName`], [`Tag`], with Docker's normalization |
//! | [`id_map`] | [`IdRange`]: who the users of a user namespace are outside of it
//! | [`users`] | `user[:group]` resolved against the text of `/etc/passwd` and `/etc/group` |
//!
//! **Invariant:** nothing here reads a file, a clock or the environment.

pub mod descriptor;
pub mod digest;
pub mod id_map;
pub mod image_config;
pub mod manifest;
pub mod media_type;
pub mod platform;
pub mod reference;
pub mod users;

pub use descriptor::Descriptor;
pub use digest::{Algorithm, ChainId, DiffId, Digest, Hasher};
pub use id_map::IdRange;
pub use image_config::{ContainerConfig, HealthConfig, History, ImageConfig, RootFs};
pub use manifest::{Index, Manifest, ManifestError, Parsed};
pub use platform::Platform;
pub use reference::{Reference, RepositoryName, Tag};
