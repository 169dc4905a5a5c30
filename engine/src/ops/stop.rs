//! Stops containers: asks their programs to end, and kills those that do not.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use supervisor::client;
use supervisor::frames::WaitCondition;
use supervisor::{Container, ContainerError};

use super::kill::KillError;
use crate::Engine;
use crate::{containers, signals};

/// How to stop.
#[derive(Clone, Debug, Default)]
pub struct StopOptions {
    /// The signal, in place of the container's own.
    pub signal: Option<String>,
    /// How many seconds to wait before killing; for ever when negative.
    pub timeout: Option<i64>,
}

/// Stops a container and waits for its end; nothing happens when it does not run.
///
/// # Errors
///
/// When there is no such container, or it cannot be signalled.
pub async fn stop(
    engine: &Engine,
    name: String,
    options: StopOptions,
    now: fn() -> Timestamp,
) -> Result<(), KillError> {
    let all = containers::all(engine);
    containers::on_thread(move || stop_container(&all.find(&name)?, &options, now)).await
}

/// Does so on this thread.
pub(crate) fn stop_container(
    container: &Container,
    options: &StopOptions,
    now: fn() -> Timestamp,
) -> Result<(), KillError> {
    let config = &container.record.config;
    let signal = config.stops_by(options.signal.as_deref())?;
    let patience = config.stops_within(options.timeout);
    let state = container.state(now())?;
    if !state.status.is_alive() {
        return Ok(());
    }
    container.change(|state| state.stop_asked = true)?;
    if super::pause::is_frozen(&state) {
        super::unpause::thaw(container)?;
    }
    if signal_and_wait(container, signal, patience, now)? {
        container.emit("stop", now(), &[]);
        return Ok(());
    }
    if !signal_and_wait(container, signals::KILL, Some(Duration::from_secs(30)), now)? {
        return Err(KillError::Stuck { id: container.id().into() });
    }
    container.emit("stop", now(), &[]);
    Ok(())
}

/// Sends a signal and says whether the container ended in time.
pub(crate) fn signal_and_wait(
    container: &Container,
    signal: i32,
    patience: Option<Duration>,
    now: fn() -> Timestamp,
) -> Result<bool, KillError> {
    let until = patience.and_then(|patience| Instant::now().checked_add(patience));
    // Before the signal, so that its end is not missed.
    let mut waiting = client::wait(container, WaitCondition::NotRunning)?;
    let signalled = match container.state(now()) {
        Ok(state) => state,
        Err(ContainerError::NotFound { .. }) => return Ok(true),
        Err(error) => return Err(error.into()),
    };
    match &signalled.process {
        Some(process) => {
            process.signal(signal).map_err(KillError::Signal)?;
            container.emit("kill", now(), &[("signal", &signal.to_string())]);
        }
        // Between two runs; its watcher has to see that there shall not be another.
        None => client::look(container)?,
    }
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        if let Some(stream) = &mut waiting {
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(false);
            }
            stream.set_read_timeout(left).map_err(KillError::Signal)?;
            match client::exited(stream) {
                Ok(Some(_)) => return Ok(true),
                Ok(None) => {}
                Err(_) => continue,
            }
        }
        match container.state(now()) {
            Ok(state) if !state.status.is_alive() => return Ok(true),
            Err(ContainerError::NotFound { .. }) => return Ok(true),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(5));
        waiting = client::wait(container, WaitCondition::NotRunning)?;
    }
}
