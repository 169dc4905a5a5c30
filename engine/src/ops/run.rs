//! Makes a container of an image and starts it.

use std::time::Duration;

use builder::Cancel;
use runtime::Size;
use supervisor::ContainerError;
use supervisor::client::Watcher;
use supervisor::frames::AttachRequest;
use tokio::sync::mpsc;

use super::create::{CreateError, CreateEvents, CreateOptions, create};
use super::start::{StartOptions, request, start_attached_by, start_by};
use crate::Engine;
use crate::containers::{AttachEnd, Control, Ends, StartError};

/// Why a container did not run.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum RunError {
    #[error(transparent)]
    Create(#[from] CreateError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error("interrupted before the container started")]
    Interrupted { signal: i32 },
}

impl RunError {
    /// The exit code that `docker run` gives for it: 125, 126 or 127.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Start(StartError::Refused(refused)) => u8::try_from(refused.code).unwrap_or(125),
            _ => 125,
        }
    }
}

/// What a starting container tells.
pub trait RunEvents: CreateEvents {
    /// Something that was asked for could not be had, but need not stop the container.
    fn warning(&self, message: &str);
    /// The program runs.
    fn running(&self);
}

/// Runs a program in a new container, in the background; gives the container's ID.
///
/// # Errors
///
/// When the container cannot be made or started. One that did not start stays, as under docker, unless it removes itself.
pub async fn run_detached(
    engine: &Engine,
    options: CreateOptions,
    events: &(dyn RunEvents + Sync),
    cancel: &Cancel,
) -> Result<String, RunError> {
    let now = options.now;
    let watcher = watcher(engine, &options, AttachRequest::default())?;
    let container = create(engine, options, events, cancel).await?;
    let id = container.id().to_owned();
    for warning in start_by(Some(watcher), engine, id.clone(), StartOptions { size: None, now }).await? {
        events.warning(&warning);
    }
    events.running();
    Ok(id)
}

/// Runs a program in a new container and shows what it prints until it ends or the user detaches.
///
/// # Errors
///
/// When the container cannot be made or started. A program that fails is not an error.
pub async fn run(
    engine: &Engine,
    options: CreateOptions,
    size: Option<Size>,
    mut ends: Ends,
    events: &(dyn RunEvents + Sync),
    cancel: &Cancel,
) -> Result<AttachEnd, RunError> {
    let now = options.now;
    let mut resized = size;
    let watcher = watcher(engine, &options, request(&ends))?;
    let mut creating = std::pin::pin!(create(engine, options, events, cancel));
    let container = tokio::select! {
        made = &mut creating => made?,
        signal = first_signal(&mut ends.control, &mut resized) => {
            cancel.cancel();
            // What it has begun it throws away; what is there already is of no use to anybody.
            if let Ok(Ok(container)) = tokio::time::timeout(GRACE, creating).await {
                container.remove(true, now)?;
            }
            return Err(RunError::Interrupted { signal });
        }
    };
    let start = StartOptions { size: resized, now };
    let running = |warnings: Vec<String>| {
        for warning in warnings {
            events.warning(&warning);
        }
        events.running();
        // While the program runs there is time to clean up after those that were killed. A short one does not wait for it.
        tokio::spawn(async {
            tokio::time::sleep(LONG).await;
            std::thread::spawn(crate::machine::sweep);
        });
    };
    let id = container.id().to_owned();
    let end = start_attached_by(Some(watcher), engine, id, start, ends, running).await?;
    Ok(end.unwrap_or(AttachEnd::Lost))
}

/// The process that will watch a container which is about to be made.
fn watcher(engine: &Engine, options: &CreateOptions, attach: AttachRequest) -> Result<Watcher, StartError> {
    Ok(Watcher::spawn(&engine.store().layout().container(&options.id), attach)?)
}

/// Whoever runs so long has time.
const LONG: Duration = Duration::from_millis(100);

/// How long a container that is being made may take to go away after Ctrl-C.
const GRACE: Duration = Duration::from_millis(800);

/// Waits for the first signal, while there is no container that could get it; keeps the terminal's last size.
async fn first_signal(control: &mut mpsc::UnboundedReceiver<Control>, resized: &mut Option<Size>) -> i32 {
    loop {
        match control.recv().await {
            Some(Control::Signal(signal)) => return signal,
            Some(Control::Resize(size)) => *resized = Some(size),
            None => std::future::pending().await,
        }
    }
}
