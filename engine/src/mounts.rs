//! What users want mounted into a container, and making it so: volumes are made, and seeded from the image.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;

use jiff::Timestamp;
use supervisor::record::{Mount, MountKind};
use supervisor::volumes::{VolumeError, VolumeRecord};
use supervisor::{ContainerError, Containers, Volumes};

use crate::machine;
use crate::output::files::{self, FilesError};

/// Something that is to be mounted into a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountRequest {
    /// A file or folder of the machine.
    Bind {
        /// Where it is; absolute.
        source: PathBuf,
        /// Where it shall be.
        target: String,
        /// Forbid writing.
        read_only: bool,
        /// Make a folder when it is missing, as `-v` does.
        create: bool,
        /// With what is mounted below it.
        recursive: bool,
        /// `rprivate`, `rshared`…; empty is docker's default.
        propagation: String,
    },
    /// A new folder in memory.
    Tmpfs {
        /// Where it shall be.
        target: String,
        /// Its limit in bytes.
        size: Option<u64>,
        /// Its mode.
        mode: Option<u32>,
        /// Forbid writing.
        read_only: bool,
        /// Further options, such as `exec` and `uid=5`.
        options: Vec<String>,
    },
    /// A volume.
    Volume {
        /// Its name; one of its own, which goes away with the container, when `None`.
        name: Option<String>,
        /// Where it shall be.
        target: String,
        /// Forbid writing.
        read_only: bool,
        /// Do not put in what the image has there.
        no_copy: bool,
        /// What the user notes about it, if it is new.
        labels: BTreeMap<String, String>,
    },
}

impl MountRequest {
    /// Where it shall be.
    pub fn target(&self) -> &str {
        match self {
            Self::Bind { target, .. } | Self::Tmpfs { target, .. } | Self::Volume { target, .. } => target,
        }
    }
}

/// Tells whether a word says how mounts spread.
pub fn is_propagation(word: &str) -> bool {
    ["private", "rprivate", "shared", "rshared", "slave", "rslave"].contains(&word)
}

/// Why something cannot be mounted.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum MountError {
    #[error("Duplicate mount point: {target}")]
    Duplicate { target: String },
    #[error("invalid mount config for type \"bind\": bind source path does not exist: {}", path.display())]
    Source { path: PathBuf, source: io::Error },
    #[error("error while creating mount source path '{}'", path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("invalid volumes-from `{text}`: {what}")]
    VolumesFrom { text: String, what: &'static str },
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error("cannot put the image's files into the volume at `{target}`")]
    Seed { target: String, source: FilesError },
}

/// Mounts of a container that is being made: if it never is, its volumes are given up again.
#[derive(Debug)]
pub(crate) struct Made {
    volumes: Volumes,
    container: String,
    mounts: Vec<Mount>,
}

impl Made {
    /// The container is there.
    pub(crate) fn keep(mut self) {
        self.mounts.clear();
    }

    /// What is mounted, in the order in which it was asked for.
    pub(crate) fn mounts(&self) -> &[Mount] {
        &self.mounts
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for mount in self.mounts.iter().filter(|mount| !mount.name.is_empty()) {
            // What resists is found by `volume prune`.
            let _: Result<(), VolumeError> = self.volumes.take_back(&mount.name, &self.container, mount.anonymous);
        }
    }
}

/// Whose mounts are to be made, and out of what.
#[derive(Debug)]
pub(crate) struct Making<'a> {
    pub(crate) containers: &'a Containers,
    /// The ID of the container.
    pub(crate) container: &'a str,
    /// The image's files.
    pub(crate) tree: &'a layer::Tree,
    pub(crate) now: Timestamp,
}

impl Making<'_> {
    /// Makes what was asked for, what other containers have, and a volume for each path of `volumes` that nothing else is
    /// mounted on.
    pub(crate) fn make<'b>(
        &self,
        asked: Vec<MountRequest>,
        others: &[String],
        volumes: impl Iterator<Item = &'b String>,
    ) -> Result<Made, MountError> {
        let store = Volumes::new(self.containers.layout());
        let mut made = Made { volumes: store, container: self.container.to_owned(), mounts: Vec::new() };
        let mut taken = BTreeSet::new();
        for request in &asked {
            if !taken.insert(tidy(request.target())) {
                return Err(MountError::Duplicate { target: request.target().to_owned() });
            }
        }
        for other in others {
            for mount in self.mounts_of(other)? {
                // What is asked for wins.
                if !taken.insert(tidy(&mount.target)) {
                    continue;
                }
                if !mount.name.is_empty() {
                    made.volumes.give(&self.record(&mount.name, BTreeMap::new()), self.container)?;
                }
                made.mounts.push(mount);
            }
        }
        let further = volumes.filter(|path| !taken.contains(&tidy(path))).map(|target| MountRequest::Volume {
            name: None,
            target: target.clone(),
            read_only: false,
            no_copy: false,
            labels: BTreeMap::new(),
        });
        for request in further.collect::<Vec<_>>().into_iter().chain(asked) {
            self.make_one(request, &mut made)?;
        }
        Ok(made)
    }

    fn make_one(&self, request: MountRequest, made: &mut Made) -> Result<(), MountError> {
        let mount = match request {
            MountRequest::Bind { source, target, read_only, create, recursive, propagation } => {
                if create && !source.exists() {
                    fs::create_dir_all(&source)
                        .map_err(|error| MountError::Create { path: source.clone(), source: error })?;
                }
                if let Err(error) = fs::canonicalize(&source) {
                    return Err(MountError::Source { path: source, source: error });
                }
                let mode = if recursive { String::new() } else { NOT_RECURSIVE.to_owned() };
                Mount { kind: MountKind::Bind, source, target, read_only, propagation, mode, ..Mount::default() }
            }
            MountRequest::Tmpfs { target, size, mode, read_only, options } => {
                let (permissions, mode) = (mode, options.join(","));
                Mount { kind: MountKind::Tmpfs, target, read_only, size, permissions, mode, ..Mount::default() }
            }
            MountRequest::Volume { name, target, read_only, no_copy, labels } => {
                let anonymous = name.is_none();
                let record = VolumeRecord { anonymous, ..self.record(&name.unwrap_or_else(machine::new_id), labels) };
                made.volumes.give(&record, self.container)?;
                let source = made.volumes.data(&record.name);
                let (kind, name) = (MountKind::Volume, record.name);
                made.mounts.push(Mount { kind, name, source, target, read_only, anonymous, ..Mount::default() });
                let mount = made.mounts.last().expect("just pushed");
                if !no_copy && let Some(seeding) = made.volumes.begin_seeding(&mount.name)? {
                    let seeded = files::copy_out(self.tree, &mount.target, &mount.source);
                    seeded.map_err(|source| MountError::Seed { target: mount.target.clone(), source })?;
                    seeding.finish()?;
                }
                return Ok(());
            }
        };
        made.mounts.push(mount);
        Ok(())
    }

    fn record(&self, name: &str, labels: BTreeMap<String, String>) -> VolumeRecord {
        let (created, options) = (self.now, BTreeMap::new());
        VolumeRecord { name: name.to_owned(), created, anonymous: false, labels, options }
    }

    /// The mounts of another container, `NAME[:ro|:rw]`: all but those in memory, which are its own.
    fn mounts_of(&self, text: &str) -> Result<Vec<Mount>, MountError> {
        let (name, mode) = text.split_once(':').unwrap_or((text, ""));
        let read_only = match mode.split(',').next().unwrap_or_default() {
            "" | "rw" | "z" | "Z" => false,
            "ro" => true,
            _ => return Err(MountError::VolumesFrom { text: text.to_owned(), what: "its mode is neither ro nor rw" }),
        };
        let other = self.containers.find(name)?;
        let theirs = other.record.mounts.into_iter().filter(|mount| mount.kind != MountKind::Tmpfs);
        Ok(theirs.map(|mount| Mount { read_only: mount.read_only || read_only, ..mount }).collect())
    }
}

/// How the record of a bind says that what is mounted below it is left out.
const NOT_RECURSIVE: &str = "bind";

fn tidy(path: &str) -> PathBuf {
    let names = std::path::Path::new(path).components();
    names.filter(|part| matches!(part, std::path::Component::Normal(_))).collect()
}
