//! Freezes the processes of containers.

use std::io;

use jiff::Timestamp;
use runtime::CgroupFolders;
use supervisor::client::{self, SupervisorError};
use supervisor::record::{Process, State};
use supervisor::{Container, ContainerError, Status};

use crate::Engine;
use crate::containers;

/// Why a container was not frozen or thawed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum PauseError {
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error("Container {name} is not running")]
    NotRunning { name: String },
    #[error("Container {name} is restarting, wait until the container is running")]
    Restarting { name: String },
    #[error("Container {name} is already paused")]
    Paused { name: String },
    #[error("Container {name} is not paused")]
    NotPaused { name: String },
    #[error("cannot freeze or thaw the container")]
    Freeze(#[source] io::Error),
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
}

/// Freezes the processes of a container.
///
/// # Errors
///
/// When there is no such container, it does not run, or the kernel cannot.
pub async fn pause(engine: &Engine, name: String, now: Timestamp) -> Result<(), PauseError> {
    let all = containers::all(engine);
    store::blocking::run(move || {
        let container = all.find(&name)?;
        match container.state(now)?.status {
            Status::Running => {}
            Status::Paused => return Err(PauseError::Paused { name }),
            Status::Restarting => return Err(PauseError::Restarting { name }),
            _ => return Err(PauseError::NotRunning { name }),
        }
        freeze(&container, true)?;
        container.emit("pause", now, &[]);
        Ok(())
    })
    .await
}

/// Freezes or thaws the processes of a container, and notes it.
pub(crate) fn freeze(container: &Container, frozen: bool) -> Result<(), PauseError> {
    let gone = || PauseError::NotRunning { name: container.record.name.clone() };
    let process = container.peek()?.process.ok_or_else(gone)?;
    // Held, so that it is surely this process that we ask about.
    let _handle = process.open().ok_or_else(gone)?;
    let folders = CgroupFolders::of_process(process.pid).map_err(PauseError::Freeze)?;
    folders.freeze(frozen).map_err(PauseError::Freeze)?;
    let noted = container.change(|state| match (frozen, state.status) {
        (true, Status::Running) => state.status = Status::Paused,
        (false, Status::Paused) => state.status = Status::Running,
        // It ended meanwhile.
        _ => {}
    });
    if noted.is_err() && frozen {
        // Nobody would know why it does nothing.
        folders.freeze(false).map_err(PauseError::Freeze)?;
    }
    noted?;
    Ok(client::look(container)?)
}

/// Tells whether the processes of a container are frozen, also when who froze them did not come to note it.
pub(crate) fn is_frozen(state: &State) -> bool {
    let ask = |process: &Process| process.look(CgroupFolders::of_process)?.ok().map(|folders| folders.is_frozen());
    state.status == Status::Paused || state.process.as_ref().and_then(ask).unwrap_or(false)
}
