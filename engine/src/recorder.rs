//! Writes down what a build does while it does it, and passes it on to whoever watches.

use std::sync::Arc;
use std::time::Instant;

use builder::remote::without_credentials;
use builder::{BuildEvent, BuildEvents, BuildRequest, Outcome, PlannedMountKind, PlannedStep, StepId};
use store::builds::{
    Asked, BuildStatus, Entry, RecordedImage, RecordedLayer, RecordedMount, Stack, StepOutcome, StepPlan, Surroundings,
};
use store::{BuildId, BuildLimits, BuildWriter, Store};

use crate::machine;
use crate::ops::build::BuildView;
use crate::shell::ShellOnError;

/// How a build is remembered.
#[derive(Clone)]
pub struct Recording {
    /// What it is called.
    pub id: BuildId,
    /// The context, as the user gave it.
    pub context: String,
    /// How much is remembered of this build and those before it.
    pub limits: BuildLimits,
    /// Opens a shell in the first step that fails.
    pub shell_on_error: Option<Arc<dyn ShellOnError>>,
}

impl Recording {
    /// Remembers a build under a new name.
    pub fn new(context: &str) -> Self {
        let id = machine::new_id()[..12].parse().expect("twelve hexadecimal digits are a name");
        Self { id, context: without_credentials(context), limits: BuildLimits::default(), shell_on_error: None }
    }
}

impl std::fmt::Debug for Recording {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recording").field("id", &self.id).field("context", &self.context).finish_non_exhaustive()
    }
}

/// A build's events on their way to its record and to a view.
pub(crate) struct Recorder {
    began: Instant,
    /// `None` when there is to be no record, or it could not be begun.
    pub(crate) writer: Option<BuildWriter>,
    view: Arc<dyn BuildView>,
}

/// More of a Dockerfile than this is not kept beside its build.
const LONGEST_DOCKERFILE: usize = 4 << 20;

impl Recorder {
    /// Begins the record. That there can be none is a warning: the build does not need it.
    pub(crate) fn begin(
        store: &Store,
        recording: Option<&Recording>,
        request: &BuildRequest,
        tags: &[oci::Reference],
        view: Arc<dyn BuildView>,
    ) -> Self {
        let mut recorder = Self { began: Instant::now(), writer: None, view };
        let Some(recording) = recording else { return recorder };
        let asked = Asked {
            at: request.now,
            context: recording.context.clone(),
            dockerfile: request.dockerfile.name.clone(),
            tags: tags.iter().map(oci::Reference::familiar).map(|tag| tag.to_string()).collect(),
            target: request.target.clone(),
            platforms: request.platforms.iter().map(ToString::to_string).collect(),
        };
        let bytes = &request.dockerfile.bytes;
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST_DOCKERFILE)]);
        match store.builds().begin(&recording.id, asked, without_credentials(&text).as_bytes()) {
            Ok(writer) => recorder.writer = Some(writer),
            Err(error) => recorder.lost(&error),
        }
        recorder
    }

    /// Ends the record.
    pub(crate) fn finish(&self, status: BuildStatus, error: Option<String>, images: Vec<RecordedImage>) {
        let Some(writer) = &self.writer else { return };
        if let Err(error) = writer.finish(status, self.now(), error, images) {
            self.lost(&error);
        }
    }

    fn lost(&self, error: &store::FileError) {
        let message = format!("this build cannot be remembered: {error}");
        self.view.event(BuildEvent::Warning { message, lines: None });
    }

    /// Seconds since the build began; a millionth is as much as anybody wants to know.
    fn now(&self) -> f64 {
        (self.began.elapsed().as_secs_f64() * 1e6).round() / 1e6
    }

    fn record(&self, writer: &BuildWriter, event: &BuildEvent<'_>) {
        match event {
            BuildEvent::Planned { steps } => {
                writer.add(Entry::Planned { steps: steps.iter().map(plan).collect() });
            }
            BuildEvent::StepStarted { id } => writer.add(Entry::Started { step: id.0, at: self.now() }),
            BuildEvent::Output { id, bytes, .. } => writer.log(id.0, bytes),
            BuildEvent::Made { id, below, layers, shown_as } => {
                let layers =
                    layers.iter().map(|(diff_id, blob)| RecordedLayer { diff_id: diff_id.clone(), blob: blob.clone() });
                let stack = Stack { below: below.map(|below| below.0), layers: layers.collect() };
                writer.add(Entry::Made { step: id.0, stack, shown_as: shown_as.map(|shown| shown.0) });
            }
            BuildEvent::Missed { id, miss } => {
                let why = miss.differences.first().map_or_else(String::new, ToString::to_string);
                writer.add(Entry::Missed { step: id.0, why });
            }
            BuildEvent::StepFinished { id, outcome, .. } => {
                let (outcome, error) = match outcome {
                    Outcome::Done => (StepOutcome::Done, None),
                    Outcome::Cached => (StepOutcome::Cached, None),
                    Outcome::Failed { message } => (StepOutcome::Failed, Some(message.clone())),
                    Outcome::Cancelled => (StepOutcome::Canceled, None),
                };
                let cached = outcome == StepOutcome::Cached;
                writer.add(Entry::Ended { step: id.0, at: self.now(), outcome, error });
                if !cached {
                    writer.close_log(id.0);
                }
            }
            BuildEvent::Warning { message, lines } => {
                let text = match lines {
                    Some(lines) => format!("{message} (line {})", lines.start()),
                    None => message.clone(),
                };
                writer.add(Entry::Warned { text });
            }
        }
    }
}

impl BuildEvents for Recorder {
    fn event(&self, event: BuildEvent<'_>) {
        if let Some(writer) = &self.writer {
            self.record(writer, &event);
        }
        self.view.event(event);
    }
}

fn plan(step: &PlannedStep) -> StepPlan {
    let surroundings = step.surroundings.as_deref().map(|here| Surroundings {
        env: here.env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        cwd: here.cwd.clone(),
        user: here.user.clone(),
        shell: here.shell.clone(),
        network: match here.network {
            builder::Network::Default => "default",
            builder::Network::None => "none",
            builder::Network::Host => "host",
        }
        .into(),
        insecure: here.security == builder::Security::Insecure,
    });
    let mounts = step.mounts.iter().map(|mount| {
        let mut recorded = RecordedMount { target: mount.target.clone(), ..RecordedMount::default() };
        recorded.kind = match &mount.kind {
            PlannedMountKind::Bind => "bind",
            PlannedMountKind::Cache { id, seeded, read_only } => {
                (recorded.id, recorded.seeded, recorded.read_only) = (Some(id.clone()), *seeded, *read_only);
                "cache"
            }
            PlannedMountKind::Tmpfs { size } => {
                recorded.size = *size;
                "tmpfs"
            }
            PlannedMountKind::Secret { id } => {
                recorded.id = Some(id.clone());
                "secret"
            }
            PlannedMountKind::Ssh { id } => {
                recorded.id = Some(id.clone());
                "ssh"
            }
            PlannedMountKind::Script => "script",
        }
        .into();
        recorded
    });
    StepPlan {
        id: step.id.0,
        name: step.name.clone(),
        lines: step.lines.as_ref().map(|lines| (*lines.start(), *lines.end())),
        needs: step.needs.iter().map(|StepId(need)| *need).collect(),
        below: step.below.map(|StepId(below)| below),
        surroundings,
        mounts: mounts.collect(),
    }
}
