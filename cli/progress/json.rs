//! A pull or push as one JSON object per event, for programs; in docker's shape.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use builder::{BuildEvent, BuildEvents};
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
    fn event(&self, _: BuildEvent<'_>) {}
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
