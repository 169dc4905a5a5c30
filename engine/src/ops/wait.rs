//! Waits until a container has ended.

use std::time::Duration;

use jiff::Timestamp;
use supervisor::client::{self, SupervisorError};
use supervisor::frames::{Exited, WaitCondition};
use supervisor::{Container, ContainerError, Status};

use crate::Engine;
use crate::containers;

/// Why waiting failed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum WaitError {
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
}

/// Waits until a container has ended, and gives its exit code; at once when it does not run.
///
/// # Errors
///
/// When there is no such container.
pub async fn wait(
    engine: &Engine,
    name: String,
    condition: WaitCondition,
    now: fn() -> Timestamp,
) -> Result<Exited, WaitError> {
    let all = containers::all(engine);
    containers::on_thread(move || wait_for(&all.find(&name)?, condition, now)).await
}

/// Does so on this thread.
pub(crate) fn wait_for(
    container: &Container,
    condition: WaitCondition,
    now: fn() -> Timestamp,
) -> Result<Exited, WaitError> {
    let mut last = Exited::default();
    loop {
        let state = match container.state(now()) {
            Err(ContainerError::NotFound { .. }) if condition == WaitCondition::Removed => return Ok(last),
            other => other?,
        };
        last = Exited { code: state.exit_code, oom_killed: state.oom_killed, error: state.error };
        let waits_for_start = condition == WaitCondition::NextExit && state.status == Status::Created;
        if !state.status.is_alive() && condition != WaitCondition::Removed && !waits_for_start {
            return Ok(last);
        }
        if let Some(mut stream) = client::wait(container, condition)?
            && let Some(exited) = client::exited(&mut stream)?
        {
            return Ok(exited);
        }
        // It has just ended, or its watcher was killed; or nobody has started or removed it yet.
        std::thread::sleep(Duration::from_millis(5));
    }
}
