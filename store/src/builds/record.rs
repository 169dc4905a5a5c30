//! [`BuildRecord`]: what is known of a build, and the [`Entry`]s that it is put together from.

use std::collections::BTreeMap;

use jiff::Timestamp;
use oci::{Descriptor, DiffId, Digest};
use serde::{Deserialize, Serialize};

use super::BuildId;

/// What a build was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// When, by the clock of whoever asked.
    pub at: Timestamp,
    /// The context, as it was given.
    pub context: String,
    /// The Dockerfile, as messages call it.
    pub dockerfile: String,
    /// The names for the image.
    pub tags: Vec<String>,
    /// The stage; `None` for the last one.
    pub target: Option<String>,
    /// The platforms; the machine's when empty.
    pub platforms: Vec<String>,
}

/// What is known of a build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BuildRecord {
    /// Its name.
    pub id: String,
    /// What it was asked for.
    #[serde(flatten)]
    pub asked: Asked,
    /// How it ended.
    pub status: BuildStatus,
    /// How long it took, in seconds; as far as is known when it was interrupted.
    pub seconds: f64,
    /// Why it failed, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it made.
    pub images: Vec<RecordedImage>,
    /// Its steps, in the order of the Dockerfile.
    pub steps: Vec<StepRecord>,
    /// What it warned of.
    pub warnings: Vec<String>,
    /// What each step of the graph made, by its number there; steps too that nobody is shown.
    pub results: BTreeMap<usize, Stack>,
}

/// How a build ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BuildStatus {
    /// It has not ended.
    Running,
    /// There is a result.
    Completed,
    /// It failed.
    Error,
    /// Somebody stopped it.
    Canceled,
    /// Its process was killed.
    Interrupted,
}

impl BuildStatus {
    /// Returns the word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "Running",
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::Canceled => "Canceled",
            Self::Interrupted => "Interrupted",
        }
    }
}

/// An image that a build made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedImage {
    /// For which platform.
    pub platform: String,
    /// The manifest's digest.
    pub digest: Digest,
    /// The image ID.
    pub id: Digest,
}

/// A step that is planned.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepPlan {
    /// Its number in the graph.
    pub id: usize,
    /// As views show it: `[build 2/5] RUN make`.
    pub name: String,
    /// The lines of the Dockerfile, first and last, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<(usize, usize)>,
    /// The steps that it takes from, by their numbers in the graph.
    pub needs: Vec<usize>,
    /// The one of them whose layers it stands on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<usize>,
    /// What a process in it sees beside the files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub surroundings: Option<Surroundings>,
    /// What a `RUN` mounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<RecordedMount>,
}

/// What a process sees beside the files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surroundings {
    /// `NAME=value`.
    pub env: Vec<String>,
    /// The working folder.
    pub cwd: String,
    /// `USER`.
    pub user: String,
    /// `SHELL`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shell: Vec<String>,
    /// The network: `default`, `none` or `host`.
    pub network: String,
    /// Whether it was `RUN --security=insecure`.
    #[serde(default)]
    pub insecure: bool,
}

/// A mount of a `RUN`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedMount {
    /// Where.
    pub target: String,
    /// `bind`, `cache`, `tmpfs`, `secret` or `script`.
    pub kind: String,
    /// The ID of a cache or secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Whether a cache begins with files of a stage or an image.
    #[serde(default)]
    pub seeded: bool,
    /// Whether writing is refused.
    #[serde(default)]
    pub read_only: bool,
    /// The size of a tmpfs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

/// A step of a build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Its number in this build, from 1: the `#5` of the plain view.
    pub number: usize,
    /// What was planned.
    #[serde(flatten)]
    pub plan: StepPlan,
    /// How it ended; `None` when it never began or never ended.
    pub outcome: Option<StepOutcome>,
    /// When it began, in seconds from the beginning of the build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<f64>,
    /// When it ended, in seconds from the beginning of the build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<f64>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Why the cache did not have it, when something told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub miss: Option<String>,
    /// How many bytes it printed.
    pub log_bytes: u64,
    /// The step of the graph whose layers are its files; its own mostly.
    pub result: usize,
    /// The boot of the machine in which its files were kept when it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepOutcome {
    /// It was done.
    Done,
    /// It came from the cache.
    Cached,
    /// It failed.
    Failed,
    /// It was stopped.
    Canceled,
}

/// The layers that a step made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stack {
    /// The step of the graph that it stands on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<usize>,
    /// What it adds, lowest first.
    pub layers: Vec<RecordedLayer>,
}

/// A layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordedLayer {
    /// Its identity.
    pub diff_id: DiffId,
    /// Its blob: a plain tar when the build made it.
    pub blob: Descriptor,
}

/// Something that happened, as the journal has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
#[expect(missing_docs, reason = "they say what the record's members say")]
pub enum Entry {
    Begun { asked: Asked },
    Planned { steps: Vec<StepPlan> },
    Started { step: usize, at: f64 },
    Missed { step: usize, why: String },
    Made { step: usize, stack: Stack, shown_as: Option<usize> },
    Ended { step: usize, at: f64, outcome: StepOutcome, error: Option<String> },
    Kept { step: usize, boot: String },
    Warned { text: String },
    Over { status: BuildStatus, seconds: f64, error: Option<String>, images: Vec<RecordedImage> },
}

impl BuildRecord {
    /// Begins a record.
    pub(super) fn new(id: &BuildId, asked: Asked) -> Self {
        Self {
            id: id.as_str().to_owned(),
            asked,
            status: BuildStatus::Running,
            seconds: 0.0,
            error: None,
            images: Vec::new(),
            steps: Vec::new(),
            warnings: Vec::new(),
            results: BTreeMap::new(),
        }
    }

    /// Reads a journal as far as it is whole; `None` when not even its first line is.
    pub(super) fn of_journal(id: &BuildId, bytes: &[u8]) -> Option<Self> {
        let mut lines = bytes.split(|&byte| byte == b'\n');
        let Entry::Begun { asked } = serde_json::from_slice(lines.next()?).ok()? else { return None };
        let mut record = Self::new(id, asked);
        for entry in lines.map_while(|line| serde_json::from_slice(line).ok()) {
            record.add(entry);
        }
        Some(record)
    }

    /// Adds something that happened.
    pub(super) fn add(&mut self, entry: Entry) {
        match entry {
            Entry::Begun { asked } => self.asked = asked,
            Entry::Planned { steps } => {
                for plan in steps {
                    self.push(plan);
                }
            }
            Entry::Started { step, at } => {
                self.seconds = self.seconds.max(at);
                self.step_mut(step).started = Some(at);
            }
            Entry::Missed { step, why } => self.step_mut(step).miss = Some(why),
            Entry::Made { step, stack, shown_as } => {
                self.results.insert(step, stack);
                if let Some(shown) = shown_as {
                    self.step_mut(shown).result = step;
                }
            }
            Entry::Ended { step, at, outcome, error } => {
                self.seconds = self.seconds.max(at);
                let step = self.step_mut(step);
                (step.outcome, step.ended, step.error) = (Some(outcome), Some(at), error);
            }
            Entry::Kept { step, boot } => self.step_mut(step).kept = Some(boot),
            Entry::Warned { text } => self.warnings.push(text),
            Entry::Over { status, seconds, error, images } => {
                (self.status, self.seconds, self.error, self.images) = (status, seconds, error, images);
            }
        }
    }

    /// Says of a build that runs no more that it was interrupted.
    pub(super) fn interrupt(&mut self) {
        if self.status == BuildStatus::Running {
            self.status = BuildStatus::Interrupted;
        }
    }

    /// Returns a step by its number in the graph.
    pub fn step_of(&self, id: usize) -> Option<&StepRecord> {
        // Steps mostly come in the order of the graph.
        match self.steps.binary_search_by_key(&id, |step| step.plan.id) {
            Ok(at) => self.steps.get(at),
            Err(_) => self.steps.iter().find(|step| step.plan.id == id),
        }
    }

    /// Returns the layers that a step's files are made of, lowest first; `None` when it made none, or somebody of those
    /// it stands on did not.
    pub fn stack(&self, step: usize) -> Option<Vec<&RecordedLayer>> {
        let mut stacks = Vec::new();
        let mut next = Some(step);
        while let Some(step) = next {
            let stack = self.results.get(&step)?;
            // A record comes from a disk; one that goes in circles is damaged.
            next = stack.below.filter(|below| *below < step);
            if next != stack.below {
                return None;
            }
            stacks.push(stack);
        }
        Some(stacks.into_iter().rev().flat_map(|stack| &stack.layers).collect())
    }

    /// Counts the steps: those from the cache, those that ended, and all.
    pub fn count(&self) -> (usize, usize, usize) {
        let count = |wanted: &dyn Fn(&StepRecord) -> bool| self.steps.iter().filter(|step| wanted(step)).count();
        let cached = count(&|step| step.outcome == Some(StepOutcome::Cached));
        (cached, count(&|step| step.outcome.is_some()), self.steps.len())
    }

    pub(super) fn step_mut(&mut self, id: usize) -> &mut StepRecord {
        let at = match self.steps.binary_search_by_key(&id, |step| step.plan.id) {
            Ok(at) => Some(at),
            Err(_) => self.steps.iter().position(|step| step.plan.id == id),
        };
        let at = at.unwrap_or_else(|| {
            self.push(StepPlan { id, name: format!("step {id}"), ..StepPlan::default() });
            self.steps.len() - 1
        });
        &mut self.steps[at]
    }

    fn push(&mut self, plan: StepPlan) {
        let (number, result) = (self.steps.len() + 1, plan.id);
        self.steps.push(StepRecord {
            number,
            plan,
            outcome: None,
            started: None,
            ended: None,
            error: None,
            miss: None,
            log_bytes: 0,
            result,
            kept: None,
        });
    }
}

impl StepRecord {
    /// Returns the stage and the platform that the name tells: `build` of `[build 2/5] RUN make`; nothing when the
    /// build has one stage.
    pub fn stage(&self) -> &str {
        let inside = self.plan.name.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        inside.and_then(|(inside, _)| inside.rsplit_once(' ')).map_or("", |(stage, _)| stage)
    }

    /// Returns how long it took, in seconds.
    pub fn took(&self) -> f64 {
        match (self.started, self.ended) {
            (Some(started), Some(ended)) => (ended - started).max(0.0),
            _ => 0.0,
        }
    }
}
