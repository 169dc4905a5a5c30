//! Attaches to a running container.

use std::io;
use std::os::unix::net::UnixStream;

use jiff::Timestamp;
use runtime::Size;
use supervisor::client::{self, SupervisorError};
use supervisor::frames::{self, AttachRequest};
use supervisor::{Container, ContainerError, Status};

use crate::Engine;
use crate::containers::{self, AttachEnd, Ends};

/// Why nobody was attached.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum AttachError {
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error("You cannot attach to a stopped container, start it first")]
    Stopped,
    #[error("You cannot attach to a paused container, unpause it first")]
    Paused,
    #[error("You cannot attach to a restarting container, wait until it is running")]
    Restarting,
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
    #[error("cannot reach the container's supervisor")]
    Stream(#[source] io::Error),
}

/// Somebody who is attached.
#[derive(Debug)]
pub struct Attachment {
    container: Container,
    stream: UnixStream,
}

/// Attaches to a container, of which everything is shown that it prints from now on.
///
/// # Errors
///
/// When there is no such container, or it does not run.
pub async fn attach(
    engine: &Engine,
    name: String,
    size: Option<Size>,
    now: Timestamp,
) -> Result<Attachment, AttachError> {
    let all = containers::all(engine);
    store::blocking::run(move || {
        let container = all.find(&name)?;
        match container.state(now)?.status {
            Status::Running => {}
            Status::Paused => return Err(AttachError::Paused),
            Status::Restarting => return Err(AttachError::Restarting),
            _ => return Err(AttachError::Stopped),
        }
        let request = AttachRequest { stdin: container.record.config.open_stdin, stdout: true, stderr: true };
        let mut stream = client::attach(&container, request)?.ok_or(AttachError::Stopped)?;
        if let Some(size) = size {
            frames::write(&mut stream, frames::SIZE, &frames::size(size)).map_err(AttachError::Stream)?;
        }
        Ok(Attachment { container, stream })
    })
    .await
}

impl Attachment {
    /// Passes streams on until the program ends or the user detaches.
    ///
    /// # Errors
    ///
    /// When a stream breaks.
    pub async fn follow(self, ends: Ends) -> Result<AttachEnd, AttachError> {
        containers::attached(self.stream, ends, &self.container).await.map_err(AttachError::Stream)
    }
}
