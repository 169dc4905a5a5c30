//! Runs one more program in a running container.

use std::fs::File;
use std::io::{self, Read as _};

use jiff::Timestamp;
use runtime::{ExecConfig, Size, Stdio, Stream};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use supervisor::start::{ExecOptions, StartContainerError, describe_exec};
use supervisor::{Container, ContainerError, Status};
use tokio::sync::{mpsc, oneshot};

use crate::Engine;
use crate::containers::{self, Control, DetachKeys, RunStreams};

pub use supervisor::start::ExecOptions as Program;

/// How to run it.
#[derive(Debug)]
pub struct ExecRequest {
    /// What to run.
    pub program: ExecOptions,
    /// How large its terminal is at first.
    pub size: Option<Size>,
    /// The streams and new sizes of the terminal; none runs it in the background.
    pub streams: Option<(RunStreams, mpsc::UnboundedReceiver<Control>)>,
    /// The keys that leave a program with a terminal.
    pub detach_keys: Vec<u8>,
}

/// Why a program was not run.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum ExecError {
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error("container {id} is not running")]
    NotRunning { id: String },
    #[error("Container {id} is restarting, wait until the container is running")]
    Restarting { id: String },
    #[error("container {name} is paused, unpause the container before exec")]
    Paused { name: String },
    #[error("cannot prepare the program")]
    Describe(#[from] StartContainerError),
    #[error("cannot prepare the program")]
    Files(#[from] containers::StartError),
    #[error("cannot run the program")]
    Start(#[from] runtime::StartError),
    #[error(transparent)]
    Wait(#[from] runtime::WaitError),
    #[error("cannot reach the program")]
    Streams(#[source] io::Error),
}

impl ExecError {
    /// The exit code that `docker exec` gives for it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Start(error) => match u8::try_from(error.exit_code()) {
                Ok(125) | Err(_) => 126,
                Ok(code) => code,
            },
            Self::Describe(_) => 126,
            _ => 1,
        }
    }
}

/// Runs a program in a container and gives its exit code; in the background that is 0 at once, and the same when the user
/// left it.
///
/// # Errors
///
/// When there is no such container, it does not run, or the program cannot be run.
pub async fn exec(
    engine: &Engine,
    name: String,
    request: ExecRequest,
    now: fn() -> Timestamp,
) -> Result<i32, ExecError> {
    let (all, store) = (containers::all(engine), engine.store().clone());
    let container = all.find(&name)?;
    let ExecRequest { program, size, streams, detach_keys } = request;
    let tty = program.tty;
    let stdio = match (&streams, tty) {
        (Some(_), true) => Stdio::Terminal { size },
        (None, true) => Stdio::Terminal { size: None },
        (None, false) => Stdio::null(),
        (Some((streams, _)), false) => Stdio::Streams {
            stdin: if streams.stdin.is_some() { Stream::Pipe } else { Stream::Null },
            stdout: Stream::Pipe,
            stderr: Stream::Pipe,
        },
    };
    // Nobody else is waited for meanwhile.
    let mut started = begin(&store, &container, &name, &program, stdio, now)?;
    let Some((RunStreams { stdin, stdout, stderr }, mut control)) = streams else {
        // It runs on when this process has ended; whoever reaps orphans reaps it.
        std::mem::forget(started);
        return Ok(0);
    };
    let controls = started.controls().map_err(ExecError::Streams)?;
    let (left, mut leaving) = mpsc::unbounded_channel();
    let (input, output) = match started.terminal() {
        Some(terminal) => {
            let clone = || terminal.try_clone().map_err(ExecError::Streams);
            (Some(clone()?), Some(clone()?))
        }
        None => (started.take_stdin(), started.take_stdout()),
    };
    if let (Some(source), Some(sink)) = (stdin, input) {
        // It may wait for a person for ever, so nobody waits for it.
        std::thread::spawn(move || {
            if feed(source, sink, &detach_keys) {
                // Nobody listens when the program has ended.
                let _: Result<(), _> = left.send(());
            }
        });
    }
    let errors = started.take_stderr();
    let (done, mut ended) = oneshot::channel();
    std::thread::spawn(move || {
        show([(output, stdout), (errors, stderr)]);
        // Nobody is told when the face has gone.
        let _: Result<(), _> = done.send(started.wait());
    });
    loop {
        tokio::select! {
            status = &mut ended => {
                let code = status.map_or(Ok(255), |status| status.map(|status| status.shell_code()))?;
                container.emit("exec_die", now(), &[("exitCode", &code.to_string())]);
                return Ok(code);
            }
            Some(()) = leaving.recv() => return Ok(0),
            Some(told) = control.recv() => match told {
                // A program that has just ended has no terminal, and needs no signal.
                Control::Resize(size) => controls.resize(size).unwrap_or_default(),
                Control::Signal(signal) => controls.kill(signal).unwrap_or_default(),
            },
        }
    }
}

fn begin(
    store: &store::Store,
    container: &Container,
    name: &str,
    program: &ExecOptions,
    stdio: Stdio,
    now: fn() -> Timestamp,
) -> Result<runtime::Container, ExecError> {
    let state = container.state(now())?;
    let id = || container.id().to_owned();
    match state.status {
        Status::Running => {}
        Status::Paused => return Err(ExecError::Paused { name: name.to_owned() }),
        Status::Restarting => return Err(ExecError::Restarting { id: id() }),
        _ => return Err(ExecError::NotRunning { id: id() }),
    }
    let process = state.process.ok_or_else(|| ExecError::NotRunning { id: id() })?;
    let lower = containers::lower(store, container)?;
    let spec = describe_exec(container, &lower, program)?;
    let described = spec.process().clone().ok_or_else(|| ExecError::NotRunning { id: id() })?;
    let words = program.args.join(" ");
    container.emit(&format!("exec_create: {words}"), now(), &[]);
    let config = ExecConfig {
        pid: process.pid,
        started: Some(process.start),
        spec: &spec,
        process: described,
        stdio,
        die_with_parent: false,
        kept: 0,
    };
    let started = runtime::exec(config)?;
    container.emit(&format!("exec_start: {words}"), now(), &[]);
    Ok(started)
}

/// Gives input to a program; says whether the user pressed the keys to leave.
fn feed(mut source: impl io::Read, mut sink: impl io::Write, detach_keys: &[u8]) -> bool {
    let mut keys = DetachKeys::new(detach_keys);
    let mut buffer = vec![0; 32 << 10];
    loop {
        let count = match source.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Ok(0) | Err(_) => return false,
            Ok(count) => count,
        };
        let (passed, leave) = keys.filter(&buffer[..count]);
        if leave || sink.write_all(&passed).is_err() {
            return leave;
        }
    }
}

/// Passes on what comes on each stream until it ends: one thread waits for all, as making one takes longer than `true`. Who
/// does not read one of them keeps the other waiting, as with docker's client.
fn show(mut streams: [(Option<File>, Box<dyn io::Write + Send>); 2]) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let sources = streams.iter().filter_map(|(source, _)| source.as_ref());
        let mut sources: Vec<_> = sources.map(|source| PollFd::new(source, PollFlags::IN)).collect();
        if sources.is_empty() {
            return;
        }
        let polled = poll(&mut sources, None);
        // Who cannot wait for all at once reads them in turns.
        let ready: Vec<bool> = sources.iter().map(|one| polled.is_err() || !one.revents().is_empty()).collect();
        if polled == Err(Errno::INTR) {
            continue;
        }
        let open = streams.iter_mut().filter(|(source, _)| source.is_some());
        for ((stream, sink), _) in open.zip(ready).filter(|(_, ready)| *ready) {
            let shown = match stream.as_mut().map(|source| source.read(&mut buffer)) {
                Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => true,
                Some(Ok(count @ 1..)) => sink.write_all(&buffer[..count]).and_then(|()| sink.flush()).is_ok(),
                // A terminal whose last user is gone says so with an error.
                _ => false,
            };
            if !shown {
                *stream = None;
            }
        }
    }
}
