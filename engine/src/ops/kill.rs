//! Sends signals to containers.

use std::io;

use jiff::Timestamp;
use supervisor::client::SupervisorError;
use supervisor::{Container, ContainerError};

use crate::Engine;
use crate::signals::SignalError;
use crate::{containers, signals};

/// Why a container was not signalled or stopped.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum KillError {
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error("cannot kill container: {name}: container {id} is not running")]
    NotRunning { name: String, id: String },
    #[error(transparent)]
    BadSignal(#[from] SignalError),
    #[error("cannot signal the container")]
    Signal(#[source] io::Error),
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
    #[error("cannot let the paused container go on")]
    Thaw(#[source] Box<super::pause::PauseError>),
    #[error("container {id} does not end although it was killed")]
    Stuck { id: String },
}

/// Sends a signal to the first process of a container.
///
/// # Errors
///
/// When there is no such container or signal, or it does not run.
pub async fn kill(engine: &Engine, name: String, signal: String, now: fn() -> Timestamp) -> Result<(), KillError> {
    let all = containers::all(engine);
    store::blocking::run(move || kill_container(&all.find(&name)?, &signal, &name, now)).await
}

fn kill_container(container: &Container, signal: &str, name: &str, now: fn() -> Timestamp) -> Result<(), KillError> {
    let signal = signals::parse(signal)?;
    let state = container.state(now())?;
    let not_running = || KillError::NotRunning { name: name.to_owned(), id: container.id().into() };
    if !state.status.is_alive() {
        return Err(not_running());
    }
    // As docker has it: who kills or asks to stop does not want it to start again.
    if signal == signals::KILL || signal == container.record.config.stops_by(None).unwrap_or(signals::TERM) {
        container.change(|state| state.stop_asked = true)?;
    }
    match &state.process {
        Some(process) if process.signal(signal).map_err(KillError::Signal)? => {}
        Some(_) => return Err(not_running()),
        None => supervisor::client::look(container)?,
    }
    if signal == signals::KILL && super::pause::is_frozen(&state) {
        super::unpause::thaw(container)?;
    }
    container.emit("kill", now(), &[("signal", &signal.to_string())]);
    Ok(())
}
