//! The views of a build and of transfers: a live one for terminals, plain lines, JSON, or nothing.
//!
//! Everything here goes to standard error, so that results on standard output stay clean.

mod explained;
mod json;
mod live;
mod plain;
mod solve_status;
mod steps;
mod transfers;

use std::sync::Arc;

use builder::{BuildEvent, BuildEvents};
use engine::ops::create::CreateEvents;
use engine::ops::run::RunEvents;
use oci::{Descriptor, Digest};
use registry::client::{BlobState, RequestError, TransferEvents};

pub(crate) use self::explained::Explained;
pub(crate) use steps::Lines;

use crate::args::ProgressMode;
use crate::commands::create::CidFile;
use crate::{terminal, units};

/// Shows what goes on. It is drawn a last time by [`View::finish`]; nothing may be printed beside it before.
pub(crate) trait View: BuildEvents + TransferEvents {
    /// Shows the end, and nothing more.
    fn finish(&self);

    /// Leaves the terminal to something else for a while.
    fn pause(&self) {}

    /// Takes the terminal back.
    fn resume(&self) {}
}

/// Returns the view for a build.
pub(crate) fn of_build(mode: ProgressMode) -> Arc<dyn View> {
    match choose(if mode == ProgressMode::Auto { docker_mode() } else { mode }) {
        Chosen::Live => Arc::new(live::Live::start()),
        Chosen::Plain => Arc::new(plain::Plain::new()),
        Chosen::Json => Arc::new(solve_status::SolveStatus::new()),
        Chosen::Quiet => Arc::new(Quiet),
    }
}

/// Returns the view for a pull or a push.
pub(crate) fn of_transfer(mode: ProgressMode) -> Arc<dyn View> {
    match choose(mode) {
        Chosen::Live => Arc::new(transfers::Bars::new()),
        Chosen::Plain => Arc::new(transfers::Lines::new()),
        Chosen::Json => Arc::new(json::Json::new()),
        Chosen::Quiet => Arc::new(Quiet),
    }
}

/// The line for a blob that is asked for again.
fn retrying(digest: &Digest, wait: std::time::Duration, error: &RequestError) -> String {
    terminal::printable(&format!("{}: {error}; trying again in {}", digest.short(), units::took(wait)))
}

enum Chosen {
    Live,
    Plain,
    Json,
    Quiet,
}

fn choose(mode: ProgressMode) -> Chosen {
    match mode {
        ProgressMode::Auto if terminal::is_live() => Chosen::Live,
        ProgressMode::Tty => Chosen::Live,
        ProgressMode::Auto | ProgressMode::Plain => Chosen::Plain,
        ProgressMode::RawJson => Chosen::Json,
        ProgressMode::Quiet => Chosen::Quiet,
    }
}

/// Returns what users of docker have set for their builds. What we do not know is as good as nothing.
fn docker_mode() -> ProgressMode {
    let mode = std::env::var("BUILDKIT_PROGRESS").unwrap_or_default();
    <ProgressMode as clap::ValueEnum>::from_str(&mode, false).unwrap_or(ProgressMode::Auto)
}

/// Shows nothing.
struct Quiet;

impl View for Quiet {
    fn finish(&self) {}
}

impl BuildEvents for Quiet {
    fn event(&self, _: BuildEvent<'_>) {}
}

impl TransferEvents for Quiet {
    fn started(&self, _: &Descriptor) {}
    fn state(&self, _: &Digest, _: &BlobState) {}
    fn progress(&self, _: &Digest, _: u64, _: u64) {}
    fn retry(&self, _: &Digest, _: std::time::Duration, _: &RequestError) {}
}

/// A view made part of a build, which the engine owns for its time.
pub(crate) struct Shared(pub(crate) Arc<dyn View>);

impl BuildEvents for Shared {
    fn event(&self, event: BuildEvent<'_>) {
        self.0.event(event);
    }
}

impl TransferEvents for Shared {
    fn started(&self, blob: &Descriptor) {
        self.0.started(blob);
    }
    fn state(&self, digest: &Digest, state: &BlobState) {
        self.0.state(digest, state);
    }
    fn progress(&self, digest: &Digest, done: u64, total: u64) {
        self.0.progress(digest, done, total);
    }
    fn retry(&self, digest: &Digest, wait: std::time::Duration, error: &RequestError) {
        self.0.retry(digest, wait, error);
    }
}

/// What `run` shows before the program has the terminal.
pub(crate) struct OfRun<F> {
    view: Arc<dyn View>,
    /// Where the container's ID is noted.
    cidfile: CidFile,
    /// Called when the program has the terminal.
    running: F,
}

impl<F: Fn()> OfRun<F> {
    /// Shows what a view shows, and calls `running` when the view is over.
    pub(crate) fn new(view: Arc<dyn View>, cidfile: CidFile, running: F) -> Self {
        Self { view, cidfile, running }
    }
}

impl<F: Fn() + Send + Sync> TransferEvents for OfRun<F> {
    fn started(&self, blob: &Descriptor) {
        self.view.started(blob);
    }
    fn state(&self, digest: &Digest, state: &BlobState) {
        self.view.state(digest, state);
    }
    fn progress(&self, digest: &Digest, done: u64, total: u64) {
        self.view.progress(digest, done, total);
    }
    fn retry(&self, digest: &Digest, wait: std::time::Duration, error: &RequestError) {
        self.view.retry(digest, wait, error);
    }
}

impl<F: Fn() + Send + Sync> CreateEvents for OfRun<F> {
    fn pulling(&self, image: &str) {
        terminal::note(&format!("image `{image}` is not here, pulling it"));
    }
    fn created(&self, id: &str) {
        if let Err(error) = self.cidfile.write(id) {
            terminal::note(&terminal::printable(&format!("warning: {error:#}")));
        }
    }
}

impl<F: Fn() + Send + Sync> RunEvents for OfRun<F> {
    fn warning(&self, message: &str) {
        terminal::note(&terminal::printable(&format!("warning: {message}")));
    }
    fn running(&self) {
        self.view.finish();
        (self.running)();
    }
}
