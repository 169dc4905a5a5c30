//! Runs a program in a container of an image, in the foreground.

use std::fs;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use builder::PullPolicy;
use jiff::Timestamp;
use oci::users::UserError;
use oci::{Platform, Reference};
use registry::client::TransferEvents;
use runtime::network::{NetworkError, PortMapping, PublishError};
use runtime::{Container, ContainerConfig, Controls, ExitStatus, Rootfs, Seccomp, Size, Stdio, Stream};
use store::{FindError, Image, Store};
use tokio::sync::{mpsc, oneshot};

use crate::devices::{Device, DeviceError};
use crate::image_source::{self, ObtainError};
use crate::machine::{self, MachineError, NetworkChoice};
use crate::output::files::{self, FilesError};
use crate::{Cancel, Engine};

pub(crate) mod describe;

use describe::describe;

/// What to run, and how. [`RunOptions::new`] gives docker's defaults.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The image: a name, or the beginning of an ID.
    pub image: String,
    /// For which platform.
    pub platform: Platform,
    /// When to ask the registry.
    pub pull: PullPolicy,
    /// The program's arguments; the image's when empty.
    pub command: Vec<String>,
    /// The program, in place of the image's; an empty one clears it.
    pub entrypoint: Option<Vec<String>>,
    /// `NAME=value`, over the image's.
    pub env: Vec<String>,
    /// Where the program starts.
    pub workdir: Option<String>,
    /// `user[:group]`.
    pub user: Option<String>,
    /// The host name; the beginning of the container's ID when `None`.
    pub hostname: Option<String>,
    /// Whether the program gets a terminal, and how large it is at first.
    pub terminal: Option<Option<Size>>,
    /// What is mounted.
    pub mounts: Vec<RunMount>,
    /// The network.
    pub network: NetworkChoice,
    /// Ports to publish.
    pub publish: Vec<PortMapping>,
    /// Further lines of `/etc/hosts`.
    pub add_hosts: Vec<(String, IpAddr)>,
    /// Name servers in place of the machine's.
    pub dns: Vec<IpAddr>,
    /// Size of `/dev/shm` in bytes.
    pub shm_size: Option<u64>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// How many processors' time, in billionths.
    pub nano_cpus: Option<i64>,
    /// How many processes.
    pub pids_limit: Option<i64>,
    /// Resource limits.
    pub ulimits: Vec<builder::Ulimit>,
    /// Capabilities to add.
    pub cap_add: Vec<String>,
    /// Capabilities to drop.
    pub cap_drop: Vec<String>,
    /// All capabilities and devices, no masks, no seccomp.
    pub privileged: bool,
    /// Whether `/` is read-only.
    pub read_only: bool,
    /// Forbid gaining privileges by set-uid programs.
    pub no_new_privileges: bool,
    /// The filter for system calls.
    pub seccomp: Seccomp,
    /// Devices of the machine.
    pub devices: Vec<Device>,
    /// The time.
    pub now: Timestamp,
}

impl RunOptions {
    /// Runs an image as it is.
    pub fn new(image: &str, now: Timestamp) -> Self {
        Self {
            image: image.into(),
            platform: Platform::host(),
            pull: PullPolicy::Missing,
            command: Vec::new(),
            entrypoint: None,
            env: Vec::new(),
            workdir: None,
            user: None,
            hostname: None,
            terminal: None,
            mounts: Vec::new(),
            network: NetworkChoice::Default,
            publish: Vec::new(),
            add_hosts: Vec::new(),
            dns: Vec::new(),
            shm_size: None,
            memory: None,
            nano_cpus: None,
            pids_limit: None,
            ulimits: Vec::new(),
            cap_add: Vec::new(),
            cap_drop: Vec::new(),
            privileged: false,
            read_only: false,
            no_new_privileges: false,
            seccomp: Seccomp::Default,
            devices: Vec::new(),
            now,
        }
    }
}

/// Something mounted into a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunMount {
    /// A file or folder of the machine.
    Bind {
        /// Where it is; absolute.
        source: PathBuf,
        /// Where it shall be.
        target: String,
        /// Forbid writing.
        read_only: bool,
        /// Make a folder when it is missing, as `-v` does.
        create: bool,
    },
    /// A new folder in memory.
    Tmpfs {
        /// Where it shall be.
        target: String,
        /// Its limit in bytes.
        size: Option<u64>,
        /// Its mode.
        mode: Option<u32>,
        /// Forbid writing.
        read_only: bool,
    },
    /// A folder of its own that starts with what the image has there, and goes away with the container.
    Volume {
        /// Where it shall be.
        target: String,
        /// Forbid writing.
        read_only: bool,
    },
}

impl RunMount {
    fn target(&self) -> &str {
        match self {
            Self::Bind { target, .. } | Self::Tmpfs { target, .. } | Self::Volume { target, .. } => target,
        }
    }
}

/// The ends of the program's standard streams.
pub struct RunStreams {
    /// What the program reads; nothing when `None`.
    pub stdin: Option<Box<dyn Read + Send>>,
    /// What takes its output, or all that it shows on its terminal.
    pub stdout: Box<dyn Write + Send>,
    /// What takes its errors.
    pub stderr: Box<dyn Write + Send>,
}

impl std::fmt::Debug for RunStreams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunStreams").field("stdin", &self.stdin.is_some()).finish_non_exhaustive()
    }
}

/// What a face tells a running container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Send this signal to the program.
    Signal(i32),
    /// The terminal has another size.
    Resize(Size),
}

/// How a container ended, and what could not be had on the way.
#[derive(Clone, Debug)]
pub struct Finished {
    /// How the program ended.
    pub status: ExitStatus,
}

/// Why a container did not run to its end.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum RunError {
    #[error(transparent)]
    Find(#[from] FindError),
    #[error(transparent)]
    Obtain(#[from] ObtainError),
    #[error("cannot prepare the container's files")]
    Files(#[from] FilesError),
    #[error("cannot prepare the container's files")]
    Snapshot(#[from] store::SnapshotError),
    #[error(transparent)]
    User(#[from] UserError),
    #[error("cannot use the volume `{target}`")]
    Volume { target: String, source: io::Error },
    #[error("`{}`, to be mounted at `{target}`, is not there", path.display())]
    MountSource { path: PathBuf, target: String, source: io::Error },
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error("cannot set the network up")]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error("cannot describe the container")]
    Spec(#[from] runtime::SpecError),
    #[error("ports cannot be published on the network `{network}`")]
    NoPorts { network: &'static str },
    #[error("cannot start the container")]
    Start(#[from] runtime::StartError),
    #[error("cannot publish a port")]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Wait(#[from] runtime::WaitError),
    #[error("cannot reach the container")]
    Handle(#[source] io::Error),
    #[error("interrupted before the container started")]
    Interrupted { signal: i32 },
    #[error("the container's thread ended")]
    Lost,
}

/// What a starting container tells.
pub trait RunEvents: TransferEvents {
    /// Something that was asked for could not be had, but need not stop the container.
    fn warning(&self, message: &str);
    /// The image is not here and will be pulled.
    fn pulling(&self, image: &str);
    /// The program runs.
    fn running(&self);
}

/// Runs a program in a new container, to its end.
///
/// The image is pulled when it is missing. What the container writes goes away with it. `control` brings signals and
/// new sizes of the terminal; when its other end is dropped the container runs on.
///
/// # Errors
///
/// When the container cannot be started. A program that fails is not an error.
pub async fn run(
    engine: &Engine,
    options: RunOptions,
    streams: RunStreams,
    mut control: mpsc::UnboundedReceiver<Control>,
    events: &(dyn RunEvents + Sync),
    cancel: &Cancel,
) -> Result<Finished, RunError> {
    if !options.publish.is_empty() && options.network != NetworkChoice::Default {
        let network = if options.network == NetworkChoice::Host { "host" } else { "none" };
        return Err(RunError::NoPorts { network });
    }
    // Builds may prune beside a container, which may run for long. Without that they merely do not.
    let _ = engine.store().pin_all();
    let mut resized = None;
    let image = tokio::select! {
        image = find_image(engine, &options, events, cancel) => image?,
        signal = first_signal(&mut control, &mut resized) => return Err(RunError::Interrupted { signal }),
    };
    let (told, mut telling) = mpsc::unbounded_channel();
    let (done, mut finished) = oneshot::channel();
    let store = engine.store().clone();
    // One thread of its own starts the container and waits for it: the kernel kills the container when that ends.
    std::thread::spawn(move || {
        let result = live(&store, &image, &options, streams, &told);
        // A process that ends when it has the result shall not leave its session behind.
        drop(store);
        // Nobody waits for the result when the face has gone.
        let _: Result<(), _> = done.send(result);
    });
    let mut reach: Option<Reach> = None;
    let mut ended_by = None;
    let mut interrupted = None;
    loop {
        tokio::select! {
            result = &mut finished => {
                if let Some(signal) = interrupted {
                    return Err(RunError::Interrupted { signal });
                }
                // The thread always sends before it ends, unless it panics.
                let status = result.unwrap_or(Err(RunError::Lost))?;
                let signal = if status.signal == Some(SIGKILL) { ended_by.or(status.signal) } else { status.signal };
                return Ok(Finished { status: ExitStatus { signal, ..status } });
            }
            Some(told) = telling.recv() => match told {
                Told::Warning(message) => events.warning(&message),
                Told::Started(started) if interrupted.is_some() => {
                    // It was on its way when the user had enough; its end cleans up after it.
                    let _: Option<i32> = started.tell(Control::Signal(SIGKILL));
                }
                Told::Started(started) => {
                    if let Some(size) = resized.take() {
                        let _: Option<i32> = started.tell(Control::Resize(size));
                    }
                    reach = Some(started);
                    // While the program runs there is time to clean up after those that were killed.
                    std::thread::spawn(machine::sweep);
                    events.running();
                }
            },
            Some(control) = control.recv() => match &reach {
                Some(reach) => ended_by = reach.tell(control).or(ended_by),
                None => match control {
                    Control::Resize(size) => resized = Some(size),
                    Control::Signal(signal) if interrupted.is_some() => return Err(RunError::Interrupted { signal }),
                    Control::Signal(signal) => interrupted = Some(signal),
                },
            },
            // Unpacking a large image takes longer than anybody waits.
            () = tokio::time::sleep(GRACE), if interrupted.is_some() => {
                return Err(RunError::Interrupted { signal: interrupted.unwrap_or(SIGKILL) });
            }
        }
    }
}

/// How long a container that is being started may take to end after Ctrl-C.
const GRACE: Duration = Duration::from_millis(800);

/// Waits for the first signal, while there is no container that could get it; keeps the terminal's last size.
async fn first_signal(control: &mut mpsc::UnboundedReceiver<Control>, resized: &mut Option<Size>) -> i32 {
    loop {
        match control.recv().await {
            Some(Control::Signal(signal)) => return signal,
            Some(Control::Resize(size)) => *resized = Some(size),
            None => std::future::pending().await,
        }
    }
}

async fn find_image(
    engine: &Engine,
    options: &RunOptions,
    events: &(dyn RunEvents + Sync),
    cancel: &Cancel,
) -> Result<Image, RunError> {
    let reference: Result<Reference, _> = options.image.parse();
    if options.pull != PullPolicy::Always {
        let (store, text, platform) = (engine.store().clone(), options.image.clone(), options.platform.clone());
        let found = store::blocking::run(move || super::find::find(&store, &text, Some(&platform))).await;
        match (found, &reference) {
            (Ok((_, image)), _) => return Ok(image),
            // Missing, or there for another platform: the registry may have it.
            (Err(FindError::NotFound { .. } | FindError::Image(_)), Ok(reference)) => {
                if options.pull == PullPolicy::Missing {
                    events.pulling(&reference.familiar());
                }
            }
            (Err(error), _) => return Err(error.into()),
        }
    }
    let reference = reference.map_err(|_| FindError::NotFound { text: options.image.clone() })?;
    let obtained =
        image_source::obtain(engine, &reference, &options.platform, options.pull, events, options.now, cancel).await?;
    Ok(obtained)
}

/// What the container's thread tells.
enum Told {
    Warning(String),
    Started(Reach),
}

/// A running container, as other threads reach it.
struct Reach {
    controls: Controls,
    pid: u32,
}

impl Reach {
    /// Passes a face's wish on, and returns the signal when the container was killed in its place.
    ///
    /// The kernel keeps signals without a handler from the first process of a PID namespace, so that Ctrl-C would do
    /// nothing to most programs. What would end the program anywhere else ends it here.
    fn tell(&self, control: Control) -> Option<i32> {
        // A container that has just ended needs no signal, and has no terminal.
        let tell = |done: io::Result<()>| done.unwrap_or_default();
        match control {
            Control::Resize(size) => tell(self.controls.resize(size)),
            Control::Signal(signal) if self.is_lost(signal) => {
                tell(self.controls.kill(SIGKILL));
                return Some(signal);
            }
            Control::Signal(signal) => tell(self.controls.kill(signal)),
        }
        None
    }

    /// Tells whether the program neither handles, ignores nor blocks a signal that ends programs.
    fn is_lost(&self, signal: i32) -> bool {
        const ENDING: [i32; 4] = [1, 2, 3, 15];
        if !ENDING.contains(&signal) {
            return false;
        }
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let masks = ["SigBlk:", "SigIgn:", "SigCgt:"].map(|name| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        });
        masks.iter().all(|mask| mask.is_some_and(|mask| mask & (1 << (signal - 1)) == 0))
    }
}

/// Kills at once.
const SIGKILL: i32 = 9;

/// A container's whole life, on one thread.
fn live(
    store: &Store,
    image: &Image,
    options: &RunOptions,
    streams: RunStreams,
    told: &mpsc::UnboundedSender<Told>,
) -> Result<ExitStatus, RunError> {
    let snapshot = files::snapshot(store, image)?;
    let active = store.snapshots().begin(&snapshot)?;
    let mut network = machine::prepare_network(options.network)?;
    network.publish(&options.publish)?;
    let service = network.take_service();
    let id = machine::new_id();
    // Beside the overlay's folders lies what goes away with them.
    let beside = active.work().parent().map_or_else(|| active.work(), Path::to_owned);
    let spec = describe(image, options, &snapshot, &network, &id, &beside)?;
    let has_stdin = streams.stdin.is_some();
    let mut container = runtime::start(ContainerConfig {
        id,
        spec,
        rootfs: Rootfs::Overlay { lower: active.lower(), upper: active.upper(), work: active.work(), volatile: true },
        stdio: match options.terminal {
            Some(size) => Stdio::Terminal { size },
            None => Stdio::Streams {
                stdin: if has_stdin { Stream::Pipe } else { Stream::Null },
                stdout: Stream::Pipe,
                stderr: Stream::Pipe,
            },
        },
        network,
        cgroup_parent: None,
        die_with_parent: true,
    })?;
    for warning in container.warnings() {
        tell(told, Told::Warning(warning.to_string()));
    }
    let _serving = service.map(runtime::network::Service::spawn).transpose().map_err(RunError::Handle)?;
    tell(
        told,
        Told::Started(Reach { controls: container.controls().map_err(RunError::Handle)?, pid: container.pid() }),
    );
    let pumps = pump(&mut container, streams)?;
    let status = container.wait()?;
    for pump in pumps {
        // A pump only copies bytes; if it panicked, what it copied is lost, and the exit code is not.
        let _: std::thread::Result<()> = pump.join();
    }
    Ok(status)
}

fn tell(told: &mpsc::UnboundedSender<Told>, what: Told) {
    // When the face has gone there is nobody to tell.
    let _: Result<(), _> = told.send(what);
}

/// Starts to copy the streams, and returns the threads to wait for: those that end when the container does.
pub(crate) fn pump(
    container: &mut Container,
    streams: RunStreams,
) -> Result<Vec<std::thread::JoinHandle<()>>, RunError> {
    if let Some(terminal) = container.terminal() {
        let clone = || terminal.try_clone().map_err(RunError::Handle);
        let (input, output) = (clone()?, clone()?);
        if let Some(stdin) = streams.stdin {
            std::thread::spawn(move || copy(stdin, input));
        }
        return Ok(vec![std::thread::spawn(move || copy(output, streams.stdout))]);
    }
    if let (Some(source), Some(sink)) = (streams.stdin, container.take_stdin()) {
        // It may wait for a person for ever, so nobody waits for it.
        std::thread::spawn(move || copy(source, sink));
    }
    let stdout = container.take_stdout().map(|source| std::thread::spawn(move || copy(source, streams.stdout)));
    let stderr = container.take_stderr().map(|source| std::thread::spawn(move || copy(source, streams.stderr)));
    Ok([stdout, stderr].into_iter().flatten().collect())
}

/// Copies until either side ends. Dropping the source then tells the container that nobody reads.
fn copy(mut source: impl Read, mut sink: impl Write) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = match source.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // A terminal whose last user is gone says so with an error.
            Err(_) => return,
        };
        if sink.write_all(&buffer[..count]).and_then(|()| sink.flush()).is_err() {
            return;
        }
    }
}
