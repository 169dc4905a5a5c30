//! The whole: one async function for each thing that a user can ask for.
//!
//! | File | Owns |
//! | --- | --- |
//! | [`ops`] | one file per command, with the options it takes and the result it gives |
//! | [`executor`] | how a `RUN` step becomes a container: `builder::Executor` filled in with `runtime` |
//! | [`recorder`] | writes down what a build does while it does it |
//! | [`past`] | finding a past build, and a step in it, by what people call them |
//! | [`storage`] | where a registry keeps its things |
//! | [`timeline`] | a past build as a page for a browser |
//! | [`shell`] | a person's shell in the files of a build's step |
//! | [`image_source`] | where `FROM` and `run` find images: the store, else a registry |
//! | [`context_spec`] | what a user means by a build context: a folder, a tar, a repository, an image |
//! | [`contexts`] | opening it, and the Dockerfile |
//! | [`remote`] | how `ADD` and contexts fetch URLs and git repositories |
//! | [`ssh`] | agents of `--ssh`, and how a step reaches one |
//! | [`publish`] | images as registries and archives have them: with compressed layers |
//! | [`remote_cache`] | a build cache that travels by a registry, a folder or an image |
//! | [`archive`] | images in one file, as docker and OCI write them |
//! | [`commit_time`] | when the commit of a context was made |
//! | [`output`] | where `build -o` puts its result |
//! | [`machine`] | what a container sees of the machine: its name, `/etc/hosts`, its network |
//! | [`mounts`] | what users want mounted into a container, and making it so |
//! | [`interruptible`] | reading that stops when the user wants to stop |
//! | [`layout`] | the image of an OCI layout, into the store |
//! | [`verify`] | building twice, and what differs |
//! | [`advice`] | what a user can do about an error |
//!
//! Faces (the command line, later a daemon) build the options and show the events. Nothing here prints, reads the
//! environment or asks for the time.

pub mod advice;
pub mod archive;
pub mod attest;
pub mod call;
pub mod commit_time;
pub mod containers;
pub mod context_spec;
pub mod contexts;
pub mod executor;
pub mod image_source;
pub mod interruptible;
pub mod layout;
pub mod machine;
pub mod mounts;
pub mod ops;
pub mod output;
pub mod past;
pub mod publish;
pub mod recorder;
pub mod remote;
pub mod remote_cache;
pub mod shell;
pub mod ssh;
pub mod storage;
pub mod timeline;
pub mod verify;

use std::path::Path;

pub use builder::Cancel;
pub use layer::Compression;
/// What containers are made of, for faces that let users say how.
pub mod runtime {
    pub use ::runtime::network::{PortMapping, parse_ports};
    pub use ::runtime::rootless::{WorldError, enter, world};
    pub use ::runtime::{LinuxSeccomp, Seccomp, Size, StartError};
}

/// What networks and volumes are.
pub mod networks {
    pub use supervisor::networks::{NetworkRecord, NetworkWishes, Subnet, parse_net};
    pub use supervisor::record::Endpoint;
    pub use supervisor::volumes::{VolumeError, VolumeRecord};
}

pub use registry::client::{Client, ClientOptions};
/// The process that watches a container, for the program that is started as one.
pub mod supervisor {
    pub use ::supervisor::client::WORD;
    pub use ::supervisor::watch::main;
}

/// What is remembered of builds.
pub mod builds {
    pub use store::builds::{BuildRecord, BuildStatus, StepOutcome, StepRecord};
    pub use store::{BuildId, BuildLimits};
}

pub use ::supervisor::signals;
pub use store::{CacheEntry, CacheKind, CollectError, FindError, OpenStoreError, Store};

/// What every operation works on. Clones are the same engine.
#[derive(Clone)]
pub struct Engine {
    store: Store,
    client: Client,
}

impl Engine {
    /// Opens the store in a folder, making it when it is missing. No registry is contacted.
    ///
    /// # Errors
    ///
    /// When the folder cannot be used, or holds something else.
    pub fn open(home: &Path, client: ClientOptions) -> Result<Self, OpenStoreError> {
        Ok(Self { store: Store::open(home)?, client: Client::new(client) })
    }

    /// Returns where everything is kept.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Returns the way to registries.
    pub fn client(&self) -> &Client {
        &self.client
    }
}
