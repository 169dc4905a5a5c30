//! A view that also keeps what the build cache said of each step, for `build --explain`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use builder::{BuildEvent, BuildEvents, Miss, Outcome, StepId};
use oci::{Descriptor, Digest};
use registry::client::{BlobState, RequestError, TransferEvents};
use serde_json::{Value, json};

use super::View;
use crate::terminal;

/// Shows what another view shows, and keeps what the cache said.
pub(crate) struct Explained {
    view: Arc<dyn View>,
    steps: Mutex<BTreeMap<StepId, Step>>,
}

#[derive(Default)]
struct Step {
    name: String,
    lines: Option<[usize; 2]>,
    hit: bool,
    miss: Option<Miss>,
}

impl Explained {
    pub(crate) fn new(view: Arc<dyn View>) -> Self {
        Self { view, steps: Mutex::default() }
    }

    /// Says for each step whether it was in the cache, and if not, why.
    pub(crate) fn text(&self) -> String {
        let steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::from("cache:");
        for step in steps.values() {
            let name = step.name.split('\n').next().unwrap_or_default();
            let mut line = |head: &str, rest: &str| {
                text.push('\n');
                text.push_str(&terminal::printable(&format!("{head}{rest}")));
            };
            match &step.miss {
                None if step.hit => line("  hit   ", name),
                None => {}
                Some(miss) => {
                    line("  miss  ", name);
                    if let Some((first, others)) = miss.differences.split_first() {
                        line("        ", &first.to_string());
                        match others.len() + miss.more {
                            0 => {}
                            1 => line("        ", "and one more difference; --explain=json names it"),
                            more => {
                                line("        ", &format!("and {more} more differences; --explain=json names them"));
                            }
                        }
                    }
                }
            }
        }
        text
    }

    /// Says the same to programs.
    pub(crate) fn json(&self) -> Value {
        let steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        let steps = steps.values().filter(|step| step.hit || step.miss.is_some()).map(|step| match &step.miss {
            None => json!({ "step": step.name, "lines": step.lines, "cache": "hit" }),
            Some(miss) => json!({
                "step": step.name,
                "lines": step.lines,
                "cache": "miss",
                "reason": miss.differences.first().map(ToString::to_string),
                "nearest": miss.nearest,
                "differences": miss.differences,
                "more": miss.more,
            }),
        });
        json!({ "steps": steps.collect::<Vec<_>>() })
    }
}

impl View for Explained {
    fn finish(&self) {
        self.view.finish();
    }

    fn pause(&self) {
        self.view.pause();
    }

    fn resume(&self) {
        self.view.resume();
    }
}

impl BuildEvents for Explained {
    fn event(&self, event: BuildEvent<'_>) {
        let with = |id: StepId, change: &dyn Fn(&mut Step)| {
            change(self.steps.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default());
        };
        match &event {
            BuildEvent::Planned { steps } => {
                for planned in steps {
                    with(planned.id, &|step| {
                        step.name.clone_from(&planned.name);
                        step.lines = planned.lines.as_ref().map(|lines| [*lines.start(), *lines.end()]);
                    });
                }
            }
            BuildEvent::Missed { id, miss } => with(*id, &|step| step.miss = Some((*miss).clone())),
            BuildEvent::StepFinished { id, outcome: Outcome::Cached, .. } => with(*id, &|step| step.hit = true),
            _ => {}
        }
        self.view.event(event);
    }
}

impl TransferEvents for Explained {
    fn started(&self, blob: &Descriptor) {
        self.view.started(blob);
    }
    fn state(&self, digest: &Digest, state: &BlobState) {
        self.view.state(digest, state);
    }
    fn progress(&self, digest: &Digest, done: u64, total: u64) {
        self.view.progress(digest, done, total);
    }
    fn retry(&self, digest: &Digest, wait: Duration, error: &RequestError) {
        self.view.retry(digest, wait, error);
    }
}
