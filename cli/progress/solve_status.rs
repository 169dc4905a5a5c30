//! A build for programs: one JSON object per line, in the shape of BuildKit's `SolveStatus`, as `docker buildx` prints it
//! with `--progress rawjson`.
//!
//! A vertex is a step; it comes once when it is planned, once when it begins and once when it ends. `data` of logs and
//! `short` of warnings are base64.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use builder::{BuildEvent, BuildEvents, Outcome, StepId};
use oci::{Descriptor, Digest};
use registry::client::{BlobState, RequestError, TransferEvents};
use serde_json::{Value, json};

use super::View;
use crate::{clock, terminal};

/// The view for programs.
pub(crate) struct SolveStatus(Mutex<State>);

#[derive(Default)]
struct State {
    vertexes: HashMap<StepId, Vertex>,
    /// The vertex that stands for what is fetched and sent, once something is.
    transfers: Option<Vertex>,
    blobs: HashMap<Digest, Blob>,
}

#[derive(Clone)]
struct Vertex {
    digest: Digest,
    inputs: Vec<Digest>,
    name: String,
    started: Option<String>,
}

struct Blob {
    started: String,
    current: u64,
    total: u64,
}

impl SolveStatus {
    pub(crate) fn new() -> Self {
        Self(Mutex::default())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now() -> String {
    clock::now().to_string()
}

fn print(value: &Value) {
    terminal::note(&value.to_string());
}

impl Vertex {
    fn new(digest: Digest, inputs: Vec<Digest>, name: String) -> Self {
        Self { digest, inputs, name, started: None }
    }

    /// Returns the vertex as it stands, without what is not known yet.
    fn json(&self) -> Value {
        let mut vertex = json!({ "digest": self.digest });
        if !self.inputs.is_empty() {
            vertex["inputs"] = json!(self.inputs);
        }
        vertex["name"] = json!(self.name);
        if let Some(started) = &self.started {
            vertex["started"] = json!(started);
        }
        vertex
    }

    fn ended(&self, cached: bool, error: Option<String>) -> Value {
        let mut vertex = self.json();
        vertex["completed"] = json!(now());
        if cached {
            vertex["cached"] = json!(true);
        }
        if let Some(error) = error {
            vertex["error"] = json!(error);
        }
        vertex
    }
}

fn digest(id: StepId) -> Digest {
    Digest::sha256(format!("slipway step {}", id.0).as_bytes())
}

impl State {
    fn vertex(&mut self, id: StepId) -> &mut Vertex {
        self.vertexes.entry(id).or_insert_with(|| Vertex::new(digest(id), Vec::new(), format!("step {}", id.0)))
    }

    /// Returns the vertex of transfers, telling of it the first time.
    fn transfers(&mut self) -> Digest {
        let vertex = self.transfers.get_or_insert_with(|| {
            let digest = Digest::sha256(b"slipway transfers");
            let mut vertex = Vertex::new(digest, Vec::new(), "[internal] transfer images".into());
            vertex.started = Some(now());
            print(&json!({ "vertexes": [vertex.json()] }));
            vertex
        });
        vertex.digest.clone()
    }

    fn status(&mut self, digest: &Digest, progress: Option<(u64, u64)>, completed: bool) {
        let vertex = self.transfers();
        let now = now();
        let blob =
            self.blobs.entry(digest.clone()).or_insert_with(|| Blob { started: now.clone(), current: 0, total: 0 });
        if let Some((current, total)) = progress {
            (blob.current, blob.total) = (current, total);
        }
        let mut status = json!({ "id": digest, "vertex": vertex });
        if blob.total > 0 {
            status["total"] = json!(blob.total);
        }
        status["current"] = json!(if completed { blob.total } else { blob.current });
        status["timestamp"] = json!(now);
        status["started"] = json!(blob.started);
        if completed {
            status["completed"] = json!(now);
        }
        print(&json!({ "statuses": [status] }));
    }
}

impl View for SolveStatus {
    fn finish(&self) {
        if let Some(vertex) = self.state().transfers.take() {
            print(&json!({ "vertexes": [vertex.ended(false, None)] }));
        }
    }
}

impl BuildEvents for SolveStatus {
    fn event(&self, event: BuildEvent<'_>) {
        let mut state = self.state();
        match event {
            BuildEvent::Planned { steps } => {
                let vertexes = steps.into_iter().map(|step| {
                    let inputs = step.needs.iter().copied().map(digest).collect();
                    let vertex = Vertex::new(digest(step.id), inputs, step.name);
                    let json = vertex.json();
                    state.vertexes.insert(step.id, vertex);
                    json
                });
                let vertexes: Vec<Value> = vertexes.collect();
                print(&json!({ "vertexes": vertexes }));
            }
            BuildEvent::StepStarted { id } => {
                let vertex = state.vertex(id);
                vertex.started = Some(now());
                print(&json!({ "vertexes": [vertex.json()] }));
            }
            BuildEvent::Output { id, stream, bytes } => {
                let stream = match stream {
                    builder::Stream::Stdout => 1,
                    builder::Stream::Stderr => 2,
                };
                let data = BASE64_STANDARD.encode(bytes);
                print(&json!({
                    "logs": [{ "vertex": digest(id), "stream": stream, "data": data, "timestamp": now() }],
                }));
            }
            BuildEvent::StepFinished { id, outcome, .. } => {
                let (cached, error) = match outcome {
                    Outcome::Done => (false, None),
                    Outcome::Cached => (true, None),
                    Outcome::Failed { message } => (false, Some(message)),
                    Outcome::Cancelled => (false, Some("context canceled".into())),
                };
                let ended = state.vertex(id).ended(cached, error);
                print(&json!({ "vertexes": [ended] }));
            }
            BuildEvent::Warning { message, lines } => {
                let mut warning = json!({ "level": 1, "short": BASE64_STANDARD.encode(message) });
                if let Some(lines) = lines {
                    let range = json!({ "start": { "line": lines.start() }, "end": { "line": lines.end() } });
                    warning["range"] = json!([range]);
                }
                print(&json!({ "warnings": [warning] }));
            }
            BuildEvent::Made { .. } | BuildEvent::Missed { .. } => {}
        }
    }
}

impl TransferEvents for SolveStatus {
    fn started(&self, blob: &Descriptor) {
        SolveStatus::state(self).status(&blob.digest, Some((0, blob.size)), false);
    }

    fn state(&self, digest: &Digest, state: &BlobState) {
        if state.is_final() {
            SolveStatus::state(self).status(digest, None, true);
        }
    }

    fn progress(&self, digest: &Digest, done: u64, total: u64) {
        SolveStatus::state(self).status(digest, Some((done, total)), false);
    }

    fn retry(&self, digest: &Digest, wait: Duration, error: &RequestError) {
        let vertex = SolveStatus::state(self).transfers();
        let data = BASE64_STANDARD.encode(format!("{}\n", super::retrying(digest, wait, error)));
        print(&json!({ "logs": [{ "vertex": vertex, "stream": 2, "data": data, "timestamp": now() }] }));
    }
}
