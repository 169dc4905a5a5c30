//! Removes containers.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use supervisor::{Container, ContainerError, Containers, Status};

use super::kill::KillError;
use super::stop::signal_and_wait;
use crate::Engine;
use crate::{containers, signals};

/// How to remove.
#[derive(Clone, Copy, Debug, Default)]
pub struct RmOptions {
    /// Kill it first when it runs, and do not mind when it is not there.
    pub force: bool,
    /// Remove its anonymous volumes, too.
    pub volumes: bool,
}

/// Why a container was not removed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum RmError {
    #[error(
        "cannot remove container \"{name}\": container is {status}: stop the container before removing or force remove"
    )]
    Running { name: String, status: Status },
    #[error("cannot remove container \"{name}\": container is paused and must be unpaused first")]
    Paused { name: String },
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error(transparent)]
    Kill(#[from] KillError),
    #[error("cannot remove container \"{name}\": its supervisor does not end")]
    Ending { name: String },
}

/// Removes a container.
///
/// # Errors
///
/// When there is no such container, or it runs and `force` is not set.
pub async fn rm(engine: &Engine, name: String, options: RmOptions, now: fn() -> Timestamp) -> Result<(), RmError> {
    let all = containers::all(engine);
    containers::on_thread(move || remove(&all, &name, options, now)).await
}

fn remove(all: &Containers, name: &str, options: RmOptions, now: fn() -> Timestamp) -> Result<(), RmError> {
    let container = all.find(name)?;
    match remove_container(&container, name, options, now) {
        // It removed itself, or somebody else was faster.
        Err(RmError::Container(ContainerError::NotFound { .. })) if options.force => Ok(()),
        other => other,
    }
}

/// Does so on this thread.
pub(crate) fn remove_container(
    container: &Container,
    name: &str,
    options: RmOptions,
    now: fn() -> Timestamp,
) -> Result<(), RmError> {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let state = container.state(now())?;
        match state.status {
            status if status.is_alive() && options.force => {
                container.change(|state| state.stop_asked = true)?;
                if super::pause::is_frozen(&state) {
                    super::unpause::thaw(container)?;
                }
                signal_and_wait(container, signals::KILL, Some(Duration::from_secs(10)), now)?;
            }
            Status::Paused => return Err(RmError::Paused { name: name.to_owned() }),
            status if status.is_alive() => return Err(RmError::Running { name: name.to_owned(), status }),
            _ => {}
        }
        // With the claim nobody starts it, and its watcher is gone.
        if let Some(_claim) = container.claim()? {
            return Ok(container.remove(options.volumes, now())?);
        }
        if Instant::now() > until {
            return Err(RmError::Ending { name: name.to_owned() });
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
