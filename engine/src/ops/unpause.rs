//! Lets the processes of paused containers go on.

use jiff::Timestamp;
use supervisor::Container;

use super::kill::KillError;
use super::pause::{PauseError, freeze, is_frozen};
use crate::Engine;
use crate::containers;

/// Lets the processes of a container go on.
///
/// # Errors
///
/// When there is no such container, or it is not paused.
pub async fn unpause(engine: &Engine, name: String, now: Timestamp) -> Result<(), PauseError> {
    let all = containers::all(engine);
    store::blocking::run(move || {
        let container = all.find(&name)?;
        if !is_frozen(&container.state(now)?) {
            return Err(PauseError::NotPaused { name });
        }
        freeze(&container, false)?;
        container.emit("unpause", now, &[]);
        Ok(())
    })
    .await
}

/// Lets a container go on that is to be stopped, so that it can take the signal.
pub(crate) fn thaw(container: &Container) -> Result<(), KillError> {
    match freeze(container, false) {
        // It has ended meanwhile.
        Ok(()) | Err(PauseError::NotRunning { .. }) => Ok(()),
        Err(error) => Err(KillError::Thaw(Box::new(error))),
    }
}
