//! Shows what a container printed.

use std::io;
use std::time::Duration;

use jiff::Timestamp;
use supervisor::ContainerError;
use supervisor::log::LogOptions;
use supervisor::log::read::{LogLine, LogReader, Selection};

use crate::Engine;
use crate::containers;

/// What to show.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogsOptions {
    /// Go on until the container ends.
    pub follow: bool,
    /// Only the last lines.
    pub tail: Option<usize>,
    /// Only what was printed from then on.
    pub since: Option<Timestamp>,
    /// Only what was printed until then.
    pub until: Option<Timestamp>,
}

/// Why a log was not shown.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum LogsError {
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error("configured logging driver does not support reading")]
    NotKept,
    #[error(transparent)]
    Options(#[from] supervisor::log::LogError),
    #[error("cannot read the log")]
    Read(#[source] io::Error),
}

/// How often a log is looked at for more.
const PAUSE: Duration = Duration::from_millis(50);

/// Gives the lines of a container's log, and with `follow` those that are added, until the container has ended.
///
/// # Errors
///
/// When there is no such container, or its log cannot be read.
pub async fn logs(
    engine: &Engine,
    name: String,
    options: LogsOptions,
    now: fn() -> Timestamp,
    mut each: impl FnMut(LogLine) -> io::Result<()>,
) -> Result<(), LogsError> {
    let container = containers::all(engine).find(&name)?;
    let format = LogOptions::parse(&container.record.host_config.log_config)?.format.ok_or(LogsError::NotKept)?;
    let selection = Selection { tail: options.tail, since: options.since, until: options.until };
    let mut reader = LogReader::open(&container.log(), format, &selection).map_err(LogsError::Read)?;
    loop {
        // Asked before it is read: what a container printed before its end is there afterwards.
        let lives = match container.state(now()) {
            Ok(state) => state.status.is_alive(),
            Err(ContainerError::NotFound { .. }) => false,
            Err(error) => return Err(error.into()),
        };
        let mut shown = Ok(());
        let read = reader.read(&mut |line| {
            if shown.is_ok() {
                shown = each(line);
            }
        });
        read.and(shown).map_err(LogsError::Read)?;
        if !options.follow || !lives || options.until.is_some_and(|until| until < now()) {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
}
