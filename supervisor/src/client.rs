//! The other end of a container's socket: starting a supervisor, being attached, waiting.

use std::io::{self, Read as _};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use runtime::Size;
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::containers::{Claim, Container};
use crate::frames::{self, AttachRequest, Exited, Report, WaitCondition};

/// Why a supervisor could not be asked.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum SupervisorError {
    #[error("cannot start the container's supervisor")]
    Spawn(#[source] io::Error),
    #[error("the container's supervisor ended before it said whether the container runs")]
    Silent,
    #[error("cannot reach the container's supervisor")]
    Reach(#[source] io::Error),
}

/// The word by which the program knows that it is to watch a container.
pub const WORD: &str = "supervisor";

/// The process that will start a container and watch it, and still waits for the right to do so.
///
/// Such a process takes as long to be ready as a container takes to be made; both go on at once. Dropping it ends it.
#[derive(Debug)]
pub struct Watcher {
    /// None once it has what it waits for.
    stream: Option<UnixStream>,
    process: Child,
}

impl Watcher {
    /// Starts it for the container that is, or will be, in a folder, with the command attached to what is asked for.
    ///
    /// # Errors
    ///
    /// When the process cannot be started.
    pub fn spawn(folder: &Path, attach: AttachRequest) -> Result<Self, SupervisorError> {
        let (ours, theirs) = UnixStream::pair().map_err(SupervisorError::Spawn)?;
        let request = serde_json::to_string(&attach).expect("text keys only");
        #[expect(clippy::disallowed_methods, reason = "it is this very program")]
        let mut command = Command::new("/proc/self/exe");
        let place = if runtime::rootless::world().is_some() { IN_WORLD } else { "" };
        command.args([WORD, &folder.to_string_lossy(), &request, place]);
        // As a standard stream, because those alone pass to this process and to no other.
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().map_err(SupervisorError::Spawn)?;
        Ok(Self { stream: Some(ours), process })
    }

    /// Gives it the claim: it starts the container.
    ///
    /// The stream that comes back is attached to what was asked for; [`report`] reads its first frame.
    ///
    /// # Errors
    ///
    /// When the process is gone.
    pub fn begin(mut self, claim: Claim, size: Option<Size>) -> Result<UnixStream, SupervisorError> {
        let mut stream = self.stream.take().expect("it is taken here alone");
        frames::give_claim(&stream, &claim.0).map_err(SupervisorError::Spawn)?;
        if let Some(size) = size {
            frames::write(&mut stream, frames::SIZE, &frames::size(size)).map_err(SupervisorError::Spawn)?;
        }
        Ok(stream)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if let Some(mut stream) = self.stream.take() {
            // It ends when nothing comes; it is gone when its end is closed.
            let _: io::Result<()> = stream.shutdown(Shutdown::Write);
            let _: io::Result<usize> = stream.read(&mut [0]);
        }
        // It has forked at once, so that nobody has to wait for the other one.
        let _: io::Result<ExitStatus> = self.process.wait();
    }
}

/// Tells the supervisor that its command is in a plain user's world.
pub(crate) const IN_WORLD: &str = "world";

/// Reads whether the container started.
///
/// # Errors
///
/// When the supervisor ended before it said so.
pub fn report(stream: &mut UnixStream) -> Result<Report, SupervisorError> {
    match frames::read(stream) {
        Ok(Some((frames::REPORT, content))) => serde_json::from_slice(&content).map_err(|_| SupervisorError::Silent),
        Ok(_) => Err(SupervisorError::Silent),
        Err(error) => Err(SupervisorError::Reach(error)),
    }
}

/// Connects to the supervisor of a container; none when there is none.
///
/// # Errors
///
/// When the socket cannot be reached.
pub fn connect(container: &Container) -> Result<Option<UnixStream>, SupervisorError> {
    let connected = || -> rustix::io::Result<UnixStream> {
        let folder = rustix::fs::open(container.folder(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let address = short_address(&folder)?;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        rustix::net::connect(&socket, &address)?;
        Ok(socket.into())
    };
    match connected() {
        Ok(stream) => Ok(Some(stream)),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::CONNREFUSED) => Ok(None),
        Err(error) => Err(SupervisorError::Reach(error.into())),
    }
}

/// The address of the socket in a container's folder: a path of any length would not fit.
pub(crate) fn short_address(folder: &OwnedFd) -> rustix::io::Result<SocketAddrUnix> {
    use std::os::fd::AsRawFd;
    SocketAddrUnix::new(format!("/proc/self/fd/{}/socket", folder.as_raw_fd()))
}

/// Attaches to a container; none when nobody watches it.
///
/// # Errors
///
/// When the socket cannot be reached.
pub fn attach(container: &Container, request: AttachRequest) -> Result<Option<UnixStream>, SupervisorError> {
    ask(container, frames::ATTACH, &serde_json::to_vec(&request).expect("text keys only"))
}

/// Waits on a container; the stream gives one frame when the condition holds. None when nobody watches it.
///
/// # Errors
///
/// When the socket cannot be reached.
pub fn wait(container: &Container, condition: WaitCondition) -> Result<Option<UnixStream>, SupervisorError> {
    ask(container, frames::WAIT, &serde_json::to_vec(&condition).expect("text keys only"))
}

/// Tells the supervisor that the state was changed; it may be gone.
///
/// # Errors
///
/// When the socket cannot be reached.
pub fn look(container: &Container) -> Result<(), SupervisorError> {
    ask(container, frames::LOOK, b"").map(drop)
}

fn ask(container: &Container, kind: u8, content: &[u8]) -> Result<Option<UnixStream>, SupervisorError> {
    let Some(mut stream) = connect(container)? else { return Ok(None) };
    match frames::write(&mut stream, kind, content) {
        Ok(()) => Ok(Some(stream)),
        // It ended between the two.
        Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => Ok(None),
        Err(error) => Err(SupervisorError::Reach(error)),
    }
}

/// Reads how a container ended; none when the supervisor was killed.
///
/// # Errors
///
/// When the stream breaks.
pub fn exited(stream: &mut UnixStream) -> Result<Option<Exited>, SupervisorError> {
    loop {
        match frames::read(stream).map_err(SupervisorError::Reach)? {
            Some((frames::EXITED, content)) => return Ok(serde_json::from_slice(&content).ok()),
            Some(_) => {}
            None => return Ok(None),
        }
    }
}
