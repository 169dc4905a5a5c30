//! What commands about containers share: finding them, starting them, and being attached to them.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use oci::ChainId;
use runtime::Size;
use store::{LayerError, SnapshotError, Store};
use supervisor::client::{self, SupervisorError, Watcher};
use supervisor::frames::{self, AttachRequest, Exited, Report};
use supervisor::watch::Prepared;
use supervisor::{Container, Containers};
use tokio::sync::{mpsc, oneshot};

use crate::Engine;
use crate::signals::KILL;

pub use supervisor::config;
pub use supervisor::frames::WaitCondition;
pub use supervisor::log::LogStream;
pub use supervisor::record::{Attached, Endpoint, Health, Mount, MountKind};
pub use supervisor::{ContainerError, Record, State, Status};

/// Returns the containers of the engine's home.
pub(crate) fn all(engine: &Engine) -> Containers {
    Containers::new(engine.store().layout())
}

/// Runs work that may wait for long on a thread of its own.
pub(crate) async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, waiting) = oneshot::channel();
    let thread = std::thread::spawn(move || {
        // Nobody waits for the result when the face has gone.
        let _: Result<(), T> = done.send(work());
    });
    match waiting.await {
        Ok(value) => value,
        Err(_) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => unreachable!("it has sent what it made"),
        },
    }
}

/// Why a container that exists did not start.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum StartError {
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error("cannot start a paused container, try unpause instead")]
    Paused,
    #[error("container {id} does not come to its end")]
    Ending { id: String },
    #[error("cannot prepare the container's files")]
    Snapshot(#[from] SnapshotError),
    #[error("cannot prepare the container's files")]
    Layer(#[from] LayerError),
    #[error("layer {diff_id} of the container's image is gone")]
    LayerGone { diff_id: oci::DiffId },
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// What kept a container from starting, as its supervisor tells it.
#[derive(Debug)]
pub struct Refused {
    what: String,
    cause: Option<Box<Refused>>,
    /// What docker's exit code is for it: 125, 126 or 127.
    pub code: i32,
}

impl Refused {
    fn of(report: &Report) -> Self {
        let mut cause = None;
        for what in report.error.iter().skip(1).rev() {
            cause = Some(Box::new(Self { what: what.clone(), cause, code: report.code }));
        }
        Self { what: report.error.first().cloned().unwrap_or_default(), cause, code: report.code }
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Refused {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as &dyn std::error::Error)
    }
}

/// What a container started with.
#[derive(Debug)]
pub(crate) struct StartedContainer {
    pub(crate) stream: UnixStream,
    pub(crate) warnings: Vec<String>,
}

/// How long a container that has ended may take until it can be started again.
const ENDING: Duration = Duration::from_secs(10);

/// Starts a container, unless it runs already: then gives none. Its watcher may be waiting for it.
pub(crate) fn start(
    store: &Store,
    container: &Container,
    watcher: Option<Watcher>,
    attach: AttachRequest,
    size: Option<Size>,
    now: Timestamp,
) -> Result<Option<StartedContainer>, StartError> {
    let until = Instant::now() + ENDING;
    let claim = loop {
        match container.state(now)?.status {
            Status::Paused => return Err(StartError::Paused),
            status if status.is_alive() => return Ok(None),
            _ => {}
        }
        if let Some(claim) = container.claim()? {
            break claim;
        }
        // Another command starts it, or its watcher is about to end.
        if Instant::now() > until {
            return Err(StartError::Ending { id: container.id().into() });
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let watcher = match watcher {
        Some(watcher) => watcher,
        None => Watcher::spawn(container.folder(), attach)?,
    };
    Prepared { lower: lower(store, container)? }.write(container)?;
    let mut stream = watcher.begin(claim, size)?;
    let report = client::report(&mut stream)?;
    if !report.error.is_empty() {
        return Err(Refused::of(&report).into());
    }
    Ok(Some(StartedContainer { stream, warnings: report.warnings }))
}

/// Returns the folders of a container's image, topmost first, unpacking those that are missing.
pub(crate) fn lower(store: &Store, container: &Container) -> Result<Vec<PathBuf>, StartError> {
    let layers = &container.record.layers;
    let chain = layers.iter().fold(None, |chain: Option<ChainId>, diff_id| {
        Some(chain.map_or_else(|| ChainId::base(diff_id), |chain| chain.then(diff_id)))
    });
    let or_empty = |dirs: Vec<PathBuf>| if dirs.is_empty() { vec![store.layout().empty()] } else { dirs };
    let Some(chain) = chain else { return Ok(or_empty(Vec::new())) };
    if let Some(snapshot) = store.snapshots().get(&chain)? {
        return Ok(or_empty(snapshot.dirs));
    }
    // The image itself may be gone: the container keeps its layers, and that is enough.
    let mut forms = Vec::new();
    for diff_id in layers {
        let form = store.layers().forms(diff_id)?.into_iter().next();
        forms.push((diff_id.clone(), form.ok_or_else(|| StartError::LayerGone { diff_id: diff_id.clone() })?));
    }
    Ok(or_empty(store.snapshots().ensure(&forms, &|_| {})?.dirs))
}

/// The ends of a program's standard streams.
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

/// What a face tells a running program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Send this signal to the program.
    Signal(i32),
    /// The terminal has another size.
    Resize(Size),
}

/// What somebody who is attached to a program has of it.
#[derive(Debug)]
pub struct Ends {
    /// The streams.
    pub streams: RunStreams,
    /// The keys that leave a program with a terminal; none leave it.
    pub detach_keys: Vec<u8>,
    /// Signals and new sizes of the terminal; when the other end is dropped the program runs on.
    pub control: mpsc::UnboundedReceiver<Control>,
}

/// How being attached ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttachEnd {
    /// The program ended.
    Exited(Exited),
    /// The user pressed the keys for it; the program runs on.
    Detached,
    /// The watcher was killed.
    Lost,
}

/// Passes the streams of a program on until it ends or the user detaches.
pub(crate) async fn attached(stream: UnixStream, ends: Ends, container: &Container) -> io::Result<AttachEnd> {
    let Ends { streams: RunStreams { stdin, stdout, stderr }, detach_keys, mut control } = ends;
    let detach_keys = if container.record.config.tty { detach_keys } else { Vec::new() };
    let sink = Arc::new(Mutex::new(stream.try_clone()?));
    let (told, mut telling) = mpsc::unbounded_channel();
    let output = told.clone();
    std::thread::spawn(move || {
        let end = read_output(stream, stdout, stderr);
        // Nobody is told when the face has gone.
        let _: Result<(), _> = output.send(end);
    });
    if let Some(stdin) = stdin {
        let sink = sink.clone();
        std::thread::spawn(move || {
            // A watcher that is gone takes no input; what else it means is told by the output's end.
            if feed(stdin, &sink, &detach_keys).unwrap_or(false) {
                let _: Result<(), _> = told.send(AttachEnd::Detached);
            }
        });
    }
    let mut ended_by = None;
    let mut undecided = None;
    loop {
        tokio::select! {
            Some(end) = telling.recv() => {
                return Ok(match (end, ended_by) {
                    // Say which signal it was that the user sent.
                    (AttachEnd::Exited(exited), Some(signal)) if exited.code == 128 + KILL => {
                        AttachEnd::Exited(Exited { code: 128 + signal, ..exited })
                    }
                    (end, _) => end,
                });
            }
            Some(told) = control.recv() => match told {
                Control::Resize(size) => send_size(&sink, size),
                Control::Signal(signal) => match tell(container, signal) {
                    Told::Sent => {}
                    Told::Killed => ended_by = Some(signal),
                    Told::Early | Told::Blocked => undecided = Some((signal, Instant::now())),
                },
            },
            () = tokio::time::sleep(AGAIN), if undecided.is_some() => {
                if let Some((signal, since)) = undecided.take() {
                    match tell(container, signal) {
                        Told::Sent => {}
                        Told::Killed => ended_by = Some(signal),
                        // A busy machine may take any time to start it.
                        Told::Early => undecided = Some((signal, Instant::now())),
                        Told::Blocked => undecided = Some((signal, since)).filter(|_| since.elapsed() < SETTLED),
                    }
                }
            }
        }
    }
}

/// How soon a program that is being started is looked at again.
const AGAIN: Duration = Duration::from_millis(10);
/// After what time a program that blocks a signal surely does so itself.
const SETTLED: Duration = Duration::from_secs(2);

/// What became of a signal.
enum Told {
    /// The program has it, or is gone.
    Sent,
    /// The container was killed in its place.
    Killed,
    /// There is no program yet.
    Early,
    /// The program may still be being started, so that it may yet be lost.
    Blocked,
}

/// Tells a terminal's size.
fn send_size(sink: &Mutex<UnixStream>, size: Size) {
    let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
    // A program that has just ended has no terminal.
    let _: io::Result<()> = frames::write(&mut *sink, frames::SIZE, &frames::size(size));
}

/// Passes a signal on, or kills the container in its place.
///
/// The kernel keeps signals without a handler from the first process of a PID namespace, so that Ctrl-C would do
/// nothing to most programs. What would end the program anywhere else ends it here.
fn tell(container: &Container, signal: i32) -> Told {
    let Some(process) = container.peek().ok().and_then(|state| state.process) else { return Told::Early };
    let masks = Masks::of(process.pid).filter(|_| DEADLY.contains(&signal));
    let lost = masks.as_ref().is_some_and(|masks| masks.lack(signal));
    // A container that has just ended needs no signal.
    let _: io::Result<bool> = process.signal(if lost { KILL } else { signal });
    match masks {
        Some(_) if lost => Told::Killed,
        // Until the program runs, all signals are blocked; what arrives then is dropped when nobody handles it.
        Some(masks) if masks.blocked & bit(signal) != 0 => Told::Blocked,
        _ => Told::Sent,
    }
}

/// Signals that end a program that does not handle them.
const DEADLY: [i32; 4] = [1, 2, 3, 15];

fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// What a program does about signals.
struct Masks {
    blocked: u64,
    ignored: u64,
    caught: u64,
}

impl Masks {
    /// Reads those of a process that lives.
    fn of(pid: u32) -> Option<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let mask = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            u64::from_str_radix(line.trim(), 16).ok()
        };
        Some(Self { blocked: mask("SigBlk:")?, ignored: mask("SigIgn:")?, caught: mask("SigCgt:")? })
    }

    /// Tells whether the program neither handles, ignores nor blocks a signal.
    fn lack(&self, signal: i32) -> bool {
        (self.blocked | self.ignored | self.caught) & bit(signal) == 0
    }
}

fn read_output(mut stream: UnixStream, mut stdout: impl Write, mut stderr: impl Write) -> AttachEnd {
    loop {
        // A reader that is gone does not end the program: what it prints is in the log, and its end is waited for.
        let show = |sink: &mut dyn Write, bytes: &[u8]| {
            let _: io::Result<()> = sink.write_all(bytes).and_then(|()| sink.flush());
        };
        match frames::read(&mut stream) {
            Ok(Some((frames::STDOUT, bytes))) => show(&mut stdout, &bytes),
            Ok(Some((frames::STDERR, bytes))) => show(&mut stderr, &bytes),
            Ok(Some((frames::EXITED, content))) => {
                return serde_json::from_slice(&content).map_or(AttachEnd::Lost, AttachEnd::Exited);
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return AttachEnd::Lost,
        }
    }
}

/// Gives input to the watcher; says whether the user pressed the keys to detach.
fn feed(mut source: impl Read, sink: &Mutex<UnixStream>, detach_keys: &[u8]) -> io::Result<bool> {
    let mut keys = DetachKeys::new(detach_keys);
    let mut buffer = vec![0; 32 << 10];
    loop {
        let count = match source.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => 0,
        };
        let (passed, detach) = keys.filter(&buffer[..count]);
        let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
        if !passed.is_empty() {
            frames::write(&mut *sink, frames::STDIN, &passed)?;
        }
        if detach {
            return Ok(true);
        }
        if count == 0 {
            frames::write(&mut *sink, frames::STDIN_END, b"")?;
            return Ok(false);
        }
    }
}

/// Looks for a sequence of keys in what a user types.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DetachKeys<'a> {
    keys: &'a [u8],
    seen: usize,
}

impl<'a> DetachKeys<'a> {
    /// Looks for nothing when there are no keys.
    pub(crate) fn new(keys: &'a [u8]) -> Self {
        Self { keys, seen: 0 }
    }

    /// Returns what is to be passed on, and whether the sequence is complete.
    pub(crate) fn filter(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        if self.keys.is_empty() {
            return (bytes.to_vec(), false);
        }
        let mut passed = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            if byte == self.keys[self.seen] {
                self.seen += 1;
                if self.seen == self.keys.len() {
                    return (passed, true);
                }
                continue;
            }
            // What looked like the sequence was not it.
            passed.extend_from_slice(&self.keys[..self.seen]);
            self.seen = usize::from(byte == self.keys[0]);
            if self.seen == 0 {
                passed.push(byte);
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_to_detach_are_found_across_reads_and_others_pass() {
        let mut keys = DetachKeys::new(&[16, 17]);
        assert_eq!(keys.filter(b"ab"), (b"ab".to_vec(), false));
        assert_eq!(keys.filter(&[16]), (Vec::new(), false));
        assert_eq!(keys.filter(b"x"), (vec![16, b'x'], false));
        assert_eq!(keys.filter(&[16, 16]), (vec![16], false));
        assert_eq!(keys.filter(&[17, b'y']), (Vec::new(), true));
        assert_eq!(DetachKeys::new(&[]).filter(&[16, 17]), (vec![16, 17], false));
    }

    #[test]
    fn a_refusal_tells_its_causes() {
        let report = Report { error: vec!["a".into(), "b".into(), "c".into()], code: 127, warnings: Vec::new() };
        let refused = Refused::of(&report);
        let cause = std::error::Error::source(&refused).expect("b");
        assert_eq!((refused.to_string(), cause.to_string(), refused.code), ("a".into(), "b".into(), 127));
        assert_eq!(cause.source().map(ToString::to_string), Some("c".into()));
    }
}
