//! [`Graph`]: the steps that a build needs, with every variable expanded.
//!
//! The kinds of steps are those of LLB: a *source* brings layers, an *exec* runs a process on them, a *file* step changes
//! files without a process, *merge* puts layers on top of others that know nothing of them, and *diff* takes away the
//! layers that two stacks share at the bottom. Two steps that do the same on the same are one step, so stages and
//! platforms share what they can.

use std::collections::HashMap;
use std::sync::Arc;

use oci::{Descriptor, DiffId, Digest};

use crate::dockerfile::{Sharing, Span};
use crate::events::{PlannedMount, PlannedMountKind, Surroundings};
use crate::executor::{Network, Security};
use crate::files::copy::Selection;
use crate::git::GitSource;

/// The place of a step in its graph. A step only takes from steps before it.
pub(crate) type StepIndex = usize;

/// Steps in the order in which they can be done one by one.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    pub(crate) steps: Vec<Step>,
    by_definition: HashMap<String, StepIndex>,
    /// What processes see where a step stands in the Dockerfile; not part of what the step is.
    surroundings: HashMap<StepIndex, Arc<Surroundings>>,
}

/// A node of the graph.
#[derive(Debug)]
pub(crate) struct Step {
    /// What is done.
    pub(crate) kind: StepKind,
    /// As people see it: `[build 2/5] RUN make`.
    pub(crate) name: String,
    /// Where the instruction stands; `None` for what is part of another step.
    pub(crate) span: Option<Span>,
    /// Whether the cache must not answer (`--no-cache`).
    pub(crate) ignore_cache: bool,
}

/// What a step does.
#[derive(Clone, Debug)]
pub(crate) enum StepKind {
    /// Brings an image's layers.
    Source(SourceStep),
    /// Brings files from elsewhere.
    Fetch(FetchOperation),
    /// Runs a process.
    Exec(ExecOperation),
    /// Copies files.
    Copy(CopyOperation),
    /// Makes a folder.
    MakeFolder(MakeFolderOperation),
    /// Puts the layers of `top` on those of `base`.
    Merge {
        /// What is below; `None` for nothing.
        base: Option<StepIndex>,
        /// What is put on it.
        top: StepIndex,
    },
    /// Leaves of `upper` what is not in `lower`.
    #[expect(dead_code, reason = "no instruction asks for it yet; the solver does it")]
    Diff {
        /// What is taken away.
        lower: Option<StepIndex>,
        /// From what.
        upper: StepIndex,
    },
}

/// Brings an image's layers.
#[derive(Clone, Debug)]
pub(crate) struct SourceStep {
    /// Its layers, lowest first.
    pub(crate) layers: Vec<(DiffId, Descriptor)>,
    /// The digest of its manifest.
    pub(crate) digest: Digest,
    /// When it was made.
    pub(crate) created: Option<jiff::Timestamp>,
}

/// Brings files from elsewhere.
#[derive(Clone, Debug)]
pub(crate) enum FetchOperation {
    /// One file behind a URL.
    Http(HttpOperation),
    /// The files of a commit.
    Git(GitSource),
}

/// Fetches a URL.
#[derive(Clone, Debug)]
pub(crate) struct HttpOperation {
    /// The URL, with any credentials in it.
    pub(crate) url: String,
    /// `--checksum`.
    pub(crate) checksum: Option<Digest>,
}

/// Where files come from.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// The build context.
    Context,
    /// A named context with files.
    Named(String),
    /// What a step made; `None` has no files at all.
    Step(Option<StepIndex>),
}

/// Copies files.
#[derive(Clone, Debug)]
pub(crate) struct CopyOperation {
    /// What is below; also `None` for `--link`, which does not look.
    pub(crate) base: Option<StepIndex>,
    /// The sources, in order.
    pub(crate) sources: Vec<CopySource>,
    /// Where to: absolute; a folder when it ends in `/` or `/.`.
    pub(crate) destination: String,
    /// `--chown`.
    pub(crate) chown: Option<String>,
    /// `--chmod`.
    pub(crate) chmod: Option<String>,
}

/// A source of a copy.
#[derive(Clone, Debug)]
pub(crate) enum CopySource {
    /// Files.
    Files {
        /// Where from.
        origin: Origin,
        /// Which.
        selection: Selection,
        /// Whether archives are unpacked.
        unpack: bool,
    },
    /// A file written in the Dockerfile.
    Inline {
        /// Its name.
        name: String,
        /// Its bytes.
        content: Vec<u8>,
    },
}

/// Makes a folder and all above it.
#[derive(Clone, Debug)]
pub(crate) struct MakeFolderOperation {
    /// What is below.
    pub(crate) base: Option<StepIndex>,
    /// The folder, absolute.
    pub(crate) path: String,
    /// Whose it is, as `USER` says it.
    pub(crate) owner: String,
}

/// Runs a process.
#[derive(Clone, Debug)]
pub(crate) struct ExecOperation {
    /// What is below.
    pub(crate) base: Option<StepIndex>,
    /// The program and its arguments.
    pub(crate) argv: Vec<String>,
    /// Variables, without those that the runtime adds.
    pub(crate) env: Vec<(String, String)>,
    /// Which of them come from `ARG`.
    pub(crate) args: Vec<String>,
    /// Variables that do not change the result (proxies).
    pub(crate) hidden_env: Vec<(String, String)>,
    /// Where it starts.
    pub(crate) cwd: String,
    /// As whom, as `USER` says it.
    pub(crate) user: String,
    /// The host name.
    pub(crate) hostname: String,
    /// Mounts, in order.
    pub(crate) mounts: Vec<MountOperation>,
    /// The network.
    pub(crate) network: Network,
    /// The privileges.
    pub(crate) security: Security,
    /// What messages call the process.
    pub(crate) title: String,
}

/// A mount of a process.
#[derive(Clone, Debug)]
pub(crate) struct MountOperation {
    /// Where, absolute.
    pub(crate) target: String,
    /// What.
    pub(crate) source: MountSource,
}

/// What is mounted.
#[derive(Clone, Debug)]
pub(crate) enum MountSource {
    /// Files of a context, a stage or an image. Writes are thrown away.
    Bind { origin: Origin, path: String, read_only: bool },
    /// A folder that outlives the build.
    Cache {
        id: String,
        sharing: Sharing,
        /// The step whose files the folder holds when it is made.
        seed: Option<StepIndex>,
        mode: u32,
        uid: u32,
        gid: u32,
        read_only: bool,
    },
    /// Memory.
    Tmpfs { size: Option<u64> },
    /// A secret.
    Secret { id: String, file: Option<SecretFile>, env: Option<String>, required: bool },
    /// A socket of an SSH agent.
    Ssh { id: String, socket: SecretFile, required: bool },
    /// An executable file written in the Dockerfile.
    Script { name: String, content: Vec<u8> },
}

/// How a secret looks as a file, and an agent as a socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SecretFile {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Graph {
    /// Adds a step, or finds the one that does the same.
    pub(crate) fn add(&mut self, step: Step) -> StepIndex {
        let definition = format!("{:?} {}", step.kind, step.ignore_cache);
        *self.by_definition.entry(definition).or_insert_with(|| {
            self.steps.push(step);
            self.steps.len() - 1
        })
    }

    /// Notes what processes see at a step; the first that asked for the step is the one that counts.
    pub(crate) fn surround(&mut self, step: StepIndex, surroundings: impl FnOnce() -> Surroundings) {
        self.surroundings.entry(step).or_insert_with(|| Arc::new(surroundings()));
    }

    /// Returns what processes see at a step.
    pub(crate) fn surroundings(&self, step: StepIndex) -> Option<Arc<Surroundings>> {
        self.surroundings.get(&step).cloned()
    }
}

impl StepKind {
    /// Returns the step whose layers this one stands on.
    pub(crate) fn below(&self) -> Option<StepIndex> {
        match self {
            Self::Exec(exec) => exec.base,
            Self::Copy(copy) => copy.base,
            Self::MakeFolder(folder) => folder.base,
            Self::Merge { base, .. } => *base,
            Self::Source(_) | Self::Fetch(_) | Self::Diff { .. } => None,
        }
    }

    /// Returns what a process mounts, as events tell it.
    pub(crate) fn planned_mounts(&self) -> Vec<PlannedMount> {
        let Self::Exec(exec) = self else { return Vec::new() };
        let planned = exec.mounts.iter().map(|mount| {
            let kind = match &mount.source {
                MountSource::Bind { .. } => PlannedMountKind::Bind,
                MountSource::Cache { id, read_only, seed, .. } => {
                    PlannedMountKind::Cache { id: id.clone(), seeded: seed.is_some(), read_only: *read_only }
                }
                MountSource::Tmpfs { size } => PlannedMountKind::Tmpfs { size: *size },
                MountSource::Secret { id, .. } => PlannedMountKind::Secret { id: id.clone() },
                MountSource::Ssh { id, .. } => PlannedMountKind::Ssh { id: id.clone() },
                MountSource::Script { .. } => PlannedMountKind::Script,
            };
            PlannedMount { target: mount.target.clone(), kind }
        });
        planned.collect()
    }

    /// Returns the steps that this one takes from.
    pub(crate) fn needs(&self) -> Vec<StepIndex> {
        let origin = |origin: &Origin| match origin {
            Origin::Step(step) => *step,
            Origin::Context | Origin::Named(_) => None,
        };
        let mut needs: Vec<StepIndex> = match self {
            Self::Source(_) | Self::Fetch(_) => Vec::new(),
            Self::Exec(exec) => {
                let mounts = exec.mounts.iter().filter_map(|mount| match &mount.source {
                    MountSource::Bind { origin: from, .. } => origin(from),
                    MountSource::Cache { seed, .. } => *seed,
                    MountSource::Tmpfs { .. }
                    | MountSource::Secret { .. }
                    | MountSource::Ssh { .. }
                    | MountSource::Script { .. } => None,
                });
                exec.base.into_iter().chain(mounts).collect()
            }
            Self::Copy(copy) => {
                let sources = copy.sources.iter().filter_map(|source| match source {
                    CopySource::Files { origin: from, .. } => origin(from),
                    CopySource::Inline { .. } => None,
                });
                copy.base.into_iter().chain(sources).collect()
            }
            Self::MakeFolder(folder) => folder.base.into_iter().collect(),
            Self::Merge { base, top } => base.iter().chain([top]).copied().collect(),
            Self::Diff { lower, upper } => lower.iter().chain([upper]).copied().collect(),
        };
        needs.sort_unstable();
        needs.dedup();
        needs
    }
}
