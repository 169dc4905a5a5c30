//! [`BuildEvents`]: what a build tells while it goes on.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::executor::Stream;

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
    /// The lines of the Dockerfile, from 1.
    pub lines: Option<RangeInclusive<usize>>,
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
