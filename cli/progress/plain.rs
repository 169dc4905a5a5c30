//! A build as lines that only ever follow each other: `#5 [2/4] RUN …`, `#5 0.312 text`, `#5 DONE 0.3s`.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use builder::{BuildEvent, BuildEvents, Outcome, StepId};
use oci::{Descriptor, Digest};
use registry::client::{BlobState, RequestError, TransferEvents};

use super::View;
use super::steps::{Lines, Steps};
use crate::{terminal, units};

/// The plain view.
pub(crate) struct Plain(Mutex<State>);

#[derive(Default)]
struct State {
    steps: Steps,
    lines: HashMap<(StepId, bool), Lines>,
    /// Whether something was printed, so that a blank line sets the next step apart.
    printed: bool,
    /// While something else has the terminal: what is to be printed afterwards.
    held: Option<Vec<String>>,
}

/// So many lines are held while something else has the terminal; all of them are in the logs.
const MOST_HELD: usize = 10_000;

impl Plain {
    pub(crate) fn new() -> Self {
        Self(Mutex::default())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn say(&mut self, text: &str) {
        match &mut self.held {
            Some(held) if held.len() < MOST_HELD => held.push(text.to_owned()),
            Some(_) => {}
            None => terminal::note(text),
        }
    }

    fn headline(&mut self, id: StepId) {
        let step = self.steps.get(id);
        let text = format!("#{} {}", step.number, step.name);
        if std::mem::replace(&mut self.printed, true) {
            self.say("");
        }
        self.say(&text);
    }

    fn print(&mut self, id: StepId, line: &str) {
        let step = self.steps.get(id);
        let elapsed = step.started.map_or(0.0, |started| started.elapsed().as_secs_f64());
        let text = format!("#{} {elapsed:.3} {line}", step.number);
        self.say(&text);
    }
}

impl View for Plain {
    fn finish(&self) {
        if let Some(warnings) = self.state().steps.warnings() {
            terminal::note(&format!("\n{warnings}"));
        }
    }

    fn pause(&self) {
        self.state().held.get_or_insert_default();
    }

    fn resume(&self) {
        let held = self.state().held.take();
        held.into_iter().flatten().for_each(|line| terminal::note(&line));
    }
}

impl BuildEvents for Plain {
    fn event(&self, event: BuildEvent<'_>) {
        let mut state = self.state();
        match event {
            BuildEvent::Planned { steps } => state.steps.plan(&steps),
            BuildEvent::StepStarted { id } => {
                state.steps.get(id).started = Some(std::time::Instant::now());
                state.headline(id);
            }
            BuildEvent::Output { id, stream, bytes } => {
                let key = (id, stream == builder::Stream::Stderr);
                let lines = state.lines.entry(key).or_default().push(bytes);
                for line in lines {
                    state.print(id, &line);
                }
            }
            BuildEvent::Made { .. } => {}
            BuildEvent::Missed { .. } => {}
            BuildEvent::StepFinished { id, outcome, took } => {
                for key in [(id, false), (id, true)] {
                    if let Some(rest) = state.lines.remove(&key).and_then(|mut lines| lines.rest()) {
                        state.print(id, &rest);
                    }
                }
                if state.steps.get(id).started.is_none() {
                    state.headline(id);
                }
                let number = state.steps.get(id).number;
                let text = match outcome {
                    Outcome::Done => format!("#{number} DONE {}", units::took(took)),
                    Outcome::Cached => format!("#{number} CACHED"),
                    Outcome::Failed { message } => format!("#{number} ERROR: {}", terminal::printable(&message)),
                    Outcome::Cancelled => format!("#{number} CANCELED"),
                };
                state.say(&text);
            }
            BuildEvent::Warning { message, lines } => state.steps.warn(&message, lines.as_ref()),
        }
    }
}

impl TransferEvents for Plain {
    fn started(&self, _: &Descriptor) {}

    fn state(&self, digest: &Digest, state: &BlobState) {
        use BlobState::{DownloadComplete, Mounted, MountedFrom, Pushed};
        if matches!(state, DownloadComplete | Pushed | MountedFrom(_) | Mounted) {
            self.state().say(&terminal::printable(&format!("{}: {state}", digest.short())));
        }
    }

    fn progress(&self, _: &Digest, _: u64, _: u64) {}

    fn retry(&self, digest: &Digest, wait: Duration, error: &RequestError) {
        self.state().say(&super::retrying(digest, wait, error));
    }
}
