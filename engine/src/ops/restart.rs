//! Stops containers and starts them again.

use jiff::Timestamp;

use super::kill::KillError;
use super::stop::{StopOptions, stop_container};
use crate::Engine;
use crate::containers::{self, StartError};

/// Why a container was not restarted.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum RestartError {
    #[error(transparent)]
    Stop(#[from] KillError),
    #[error(transparent)]
    Start(#[from] StartError),
}

/// Stops a container, if it runs, and starts it.
///
/// # Errors
///
/// When there is no such container, or it does not stop or start.
pub async fn restart(
    engine: &Engine,
    name: String,
    options: StopOptions,
    now: fn() -> Timestamp,
) -> Result<(), RestartError> {
    let (all, store) = (containers::all(engine), engine.store().clone());
    containers::on_thread(move || {
        let container = all.find(&name).map_err(KillError::Container)?;
        // One that removes itself when it ends does not do so now.
        container.change(|state| state.keep = true).map_err(KillError::Container)?;
        stop_container(&container, &options, now)?;
        containers::start(&store, &container, None, Default::default(), None, now())?;
        container.emit("restart", now(), &[]);
        Ok(())
    })
    .await
}
