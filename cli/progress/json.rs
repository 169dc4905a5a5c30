//! One JSON object per event, for programs.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use builder::{BuildEvent, BuildEvents, Outcome};
use oci::{Descriptor, Digest};
use registry::client::{BlobState, RequestError, TransferEvents};
use serde_json::{Value, json};

use super::View;
use crate::terminal;

/// The view for programs.
pub(crate) struct Json {
    announced: Mutex<HashSet<Digest>>,
}

impl Json {
    pub(crate) fn new() -> Self {
        Self { announced: Mutex::default() }
    }
}

fn print(value: &Value) {
    terminal::note(&value.to_string());
}

impl View for Json {
    fn finish(&self) {}
}

impl BuildEvents for Json {
    fn event(&self, event: BuildEvent<'_>) {
        let lines = |lines: Option<std::ops::RangeInclusive<usize>>| lines.map(|lines| [*lines.start(), *lines.end()]);
        match event {
            BuildEvent::Planned { steps } => {
                for step in steps {
                    let needs: Vec<usize> = step.needs.iter().map(|id| id.0).collect();
                    print(&json!({
                        "event": "planned", "step": step.id.0, "name": step.name, "needs": needs, "lines": lines(step.lines),
                    }));
                }
            }
            BuildEvent::StepStarted { id } => print(&json!({ "event": "started", "step": id.0 })),
            BuildEvent::Output { id, stream, bytes } => {
                let stream = match stream {
                    builder::Stream::Stdout => "stdout",
                    builder::Stream::Stderr => "stderr",
                };
                let text = String::from_utf8_lossy(bytes);
                print(&json!({ "event": "output", "step": id.0, "stream": stream, "text": text }));
            }
            BuildEvent::Made { .. } => {}
            BuildEvent::Missed { id, miss } => {
                print(&json!({ "event": "missed", "step": id.0, "miss": miss }));
            }
            BuildEvent::StepFinished { id, outcome, took } => {
                let (outcome, error) = match outcome {
                    Outcome::Done => ("done", None),
                    Outcome::Cached => ("cached", None),
                    Outcome::Failed { message } => ("failed", Some(message)),
                    Outcome::Cancelled => ("canceled", None),
                };
                let seconds = took.as_secs_f64();
                print(&json!({
                    "event": "finished", "step": id.0, "outcome": outcome, "error": error, "seconds": seconds,
                }));
            }
            BuildEvent::Warning { message, lines: at } => {
                print(&json!({ "event": "warning", "message": message, "lines": lines(at) }));
            }
        }
    }
}

impl TransferEvents for Json {
    fn started(&self, blob: &Descriptor) {
        let mut announced = self.announced.lock().unwrap_or_else(PoisonError::into_inner);
        if announced.insert(blob.digest.clone()) {
            print(&json!({ "id": blob.digest, "mediaType": blob.media_type, "size": blob.size }));
        }
    }

    fn state(&self, digest: &Digest, state: &BlobState) {
        print(&json!({ "id": digest, "status": state.to_string() }));
    }

    fn progress(&self, digest: &Digest, done: u64, total: u64) {
        print(&json!({ "id": digest, "progressDetail": { "current": done, "total": total } }));
    }

    fn retry(&self, digest: &Digest, wait: Duration, error: &RequestError) {
        let seconds = wait.as_secs_f64();
        print(&json!({ "id": digest, "status": "Retrying", "error": error.to_string(), "seconds": seconds }));
    }
}
