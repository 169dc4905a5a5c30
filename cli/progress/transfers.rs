//! A pull or push: bars on a terminal, docker's lines elsewhere.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use builder::{BuildEvent, BuildEvents};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use oci::{Descriptor, Digest};
use registry::client::{BlobState, RequestError, TransferEvents};

use super::View;
use crate::{terminal, units};

/// One bar per blob.
pub(crate) struct Bars {
    all: MultiProgress,
    bars: Mutex<HashMap<Digest, ProgressBar>>,
}

impl Bars {
    pub(crate) fn new() -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(12));
        Self { all, bars: Mutex::default() }
    }

    fn with(&self, digest: &Digest, work: impl FnOnce(&ProgressBar)) {
        if let Some(bar) = self.bars.lock().unwrap_or_else(PoisonError::into_inner).get(digest) {
            work(bar);
        }
    }
}

fn waiting() -> ProgressStyle {
    style("{prefix}: {msg}")
}

fn moving() -> ProgressStyle {
    style("{prefix}: {msg:<18} [{bar:30}] {decimal_bytes:>9}/{decimal_total_bytes:<9} {decimal_bytes_per_sec}")
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants above; a wrong one would show in the first test.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

impl View for Bars {
    fn finish(&self) {
        let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        if bars.is_empty() {
            return;
        }
        for (_, bar) in bars.drain() {
            if !bar.is_finished() {
                bar.abandon();
            }
        }
        // The last bar ends without a line feed.
        terminal::write("\n");
    }
}

impl BuildEvents for Bars {
    fn event(&self, _: BuildEvent<'_>) {}
}

impl TransferEvents for Bars {
    fn started(&self, blob: &Descriptor) {
        let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        if bars.contains_key(&blob.digest) {
            return;
        }
        let bar = self.all.add(ProgressBar::new(blob.size).with_style(waiting()));
        bar.set_prefix(blob.digest.short().to_owned());
        bar.set_message("Waiting");
        bars.insert(blob.digest.clone(), bar);
    }

    fn state(&self, digest: &Digest, state: &BlobState) {
        self.with(digest, |bar| {
            let is_moving = matches!(state, BlobState::Downloading | BlobState::Pushing);
            bar.set_style(if is_moving { moving() } else { waiting() });
            bar.set_message(terminal::printable(&state.to_string()));
            if state.is_final() {
                bar.abandon();
            }
        });
    }

    fn progress(&self, digest: &Digest, done: u64, total: u64) {
        self.with(digest, |bar| {
            bar.set_length(total);
            bar.set_position(done);
        });
    }

    fn retry(&self, digest: &Digest, wait: Duration, error: &RequestError) {
        self.with(digest, |bar| {
            bar.set_style(waiting());
            bar.set_message(terminal::printable(&format!("{error}; trying again in {}", units::took(wait))));
        });
    }
}

/// Docker's lines: `3f4ca61aafcd: Download complete`.
pub(crate) struct Lines;

impl Lines {
    pub(crate) fn new() -> Self {
        Self
    }
}

impl View for Lines {
    fn finish(&self) {}
}

impl BuildEvents for Lines {
    fn event(&self, _: BuildEvent<'_>) {}
}

impl TransferEvents for Lines {
    fn started(&self, _: &Descriptor) {}

    fn state(&self, digest: &Digest, state: &BlobState) {
        terminal::note(&terminal::printable(&format!("{}: {state}", digest.short())));
    }

    fn progress(&self, _: &Digest, _: u64, _: u64) {}

    fn retry(&self, digest: &Digest, wait: Duration, error: &RequestError) {
        terminal::note(&super::retrying(digest, wait, error));
    }
}
