//! Starts containers that exist.

use jiff::Timestamp;
use runtime::Size;
use supervisor::client::Watcher;
use supervisor::frames::AttachRequest;

use crate::Engine;
use crate::containers::{self, AttachEnd, Ends, StartError};

/// How to start.
#[derive(Clone, Debug)]
pub struct StartOptions {
    /// How large the terminal is at first.
    pub size: Option<Size>,
    /// The time.
    pub now: Timestamp,
}

/// Starts a container, unless it runs already; gives warnings.
///
/// # Errors
///
/// When there is no such container, or its program does not run.
pub async fn start(engine: &Engine, name: String, options: StartOptions) -> Result<Vec<String>, StartError> {
    start_by(None, engine, name, options).await
}

/// Does so by a watcher that waits already.
pub(super) async fn start_by(
    watcher: Option<Watcher>,
    engine: &Engine,
    name: String,
    options: StartOptions,
) -> Result<Vec<String>, StartError> {
    let (store, all) = (engine.store().clone(), containers::all(engine));
    containers::on_thread(move || {
        let container = all.find(&name)?;
        let attach = AttachRequest::default();
        let started = containers::start(&store, &container, watcher, attach, options.size, options.now)?;
        Ok(started.map(|started| started.warnings).unwrap_or_default())
    })
    .await
}

/// Starts a container and stays attached to it; when it runs already, gives none.
///
/// # Errors
///
/// When there is no such container, or its program does not run.
pub async fn start_attached(
    engine: &Engine,
    name: String,
    options: StartOptions,
    ends: Ends,
    running: impl FnOnce(Vec<String>),
) -> Result<Option<AttachEnd>, StartError> {
    start_attached_by(None, engine, name, options, ends, running).await
}

/// What is attached to a program with these ends.
pub(super) fn request(ends: &Ends) -> AttachRequest {
    AttachRequest { stdin: ends.streams.stdin.is_some(), stdout: true, stderr: true }
}

/// Does so by a watcher that waits already.
pub(super) async fn start_attached_by(
    watcher: Option<Watcher>,
    engine: &Engine,
    name: String,
    options: StartOptions,
    ends: Ends,
    running: impl FnOnce(Vec<String>),
) -> Result<Option<AttachEnd>, StartError> {
    let (store, all) = (engine.store().clone(), containers::all(engine));
    let request = request(&ends);
    let (container, started) = containers::on_thread(move || {
        let container = all.find(&name)?;
        let started = containers::start(&store, &container, watcher, request, options.size, options.now)?;
        Ok::<_, StartError>((container, started))
    })
    .await?;
    let Some(started) = started else { return Ok(None) };
    running(started.warnings);
    let end = containers::attached(started.stream, ends, &container).await;
    Ok(Some(end.unwrap_or(AttachEnd::Lost)))
}
