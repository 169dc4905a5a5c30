//! [`BuildEvents`]: what a build tells while it goes on.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use oci::{Descriptor, DiffId};

use crate::executor::{Network, Security, Stream};
use crate::explain::Miss;

/// Takes the events of a build, from several threads at once, and must be quick.
pub trait BuildEvents: Send + Sync {
    /// Takes an event.
    fn event(&self, event: BuildEvent<'_>);
}

/// Names a step within one build; smaller ones come earlier in the Dockerfile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepId(pub usize);

/// Something that happened in a build.
#[derive(Clone, Debug)]
pub enum BuildEvent<'a> {
    /// What will be done is known; comes once per platform, before any other event of its steps.
    Planned {
        /// The steps, in the order of the Dockerfile.
        steps: Vec<PlannedStep>,
    },
    /// A step begins.
    StepStarted {
        /// Which.
        id: StepId,
    },
    /// A step printed something.
    Output {
        /// Which step.
        id: StepId,
        /// Where it printed.
        stream: Stream,
        /// What: any bytes, not always whole lines.
        bytes: &'a [u8],
    },
    /// A step has a result, new or from the cache; comes before its end, and for steps too that people are not shown.
    Made {
        /// Which.
        id: StepId,
        /// The step whose layers it stands on; `None` for one that stands on nothing.
        below: Option<StepId>,
        /// What it adds to them, lowest first.
        layers: Vec<(DiffId, Descriptor)>,
        /// The step that people are shown in place of this one, when there is such: a `COPY --link` for putting its
        /// layer in place.
        shown_as: Option<StepId>,
    },
    /// The build cache has no result for a step; told only when the request asks for it, before the step ends.
    Missed {
        /// Which step.
        id: StepId,
        /// Why.
        miss: &'a Miss,
    },
    /// A step is over.
    StepFinished {
        /// Which.
        id: StepId,
        /// How it ended.
        outcome: Outcome,
        /// How long it took.
        took: Duration,
    },
    /// Something in the Dockerfile or the request is probably not what its author wants.
    Warning {
        /// What.
        message: String,
        /// The lines of the Dockerfile, from 1.
        lines: Option<RangeInclusive<usize>>,
    },
}

/// A step, as events name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedStep {
    /// How events call it.
    pub id: StepId,
    /// As BuildKit shows it: `[stage 2/5] RUN make`.
    pub name: String,
    /// The steps whose results it takes.
    pub needs: Vec<StepId>,
    /// The one of them whose layers it stands on.
    pub below: Option<StepId>,
    /// The lines of the Dockerfile, from 1.
    pub lines: Option<RangeInclusive<usize>>,
    /// What a process in it sees beside the files; `None` when nothing says so.
    pub surroundings: Option<Arc<Surroundings>>,
    /// What a `RUN` mounts.
    pub mounts: Vec<PlannedMount>,
}

/// What a process at some place in a Dockerfile sees beside the files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Variables, those of `ARG` included; never the value of a secret or of a proxy.
    pub env: Vec<(String, String)>,
    /// The working folder.
    pub cwd: String,
    /// `USER`.
    pub user: String,
    /// `SHELL`; empty when nothing chose one.
    pub shell: Vec<String>,
    /// The network of processes.
    pub network: Network,
    /// Their privileges.
    pub security: Security,
}

/// A mount of a `RUN`, without what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedMount {
    /// Where, absolute.
    pub target: String,
    /// What.
    pub kind: PlannedMountKind,
}

/// What a [`PlannedMount`] mounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlannedMountKind {
    /// Files of a context, a stage or an image.
    Bind,
    /// A cache.
    Cache {
        /// Its ID.
        id: String,
        /// Whether it begins with files of a stage or an image.
        seeded: bool,
        /// Whether writing is refused.
        read_only: bool,
    },
    /// Memory.
    Tmpfs {
        /// Its largest size in bytes.
        size: Option<u64>,
    },
    /// A secret.
    Secret {
        /// Its ID.
        id: String,
    },
    /// A socket of an SSH agent.
    Ssh {
        /// The agent's ID.
        id: String,
    },
    /// A script written in the Dockerfile.
    Script,
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done,
    /// Its result was in the build cache.
    Cached,
    /// It failed; the build's error tells why in full.
    Failed {
        /// Why, in one line.
        message: String,
    },
    /// It was stopped, because another one failed or the build was cancelled.
    Cancelled,
}
