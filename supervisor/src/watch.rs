//! The process that starts one container and watches it to its end: the only thread of a small program.
//!
//! ```text
//! command -- fork, exec --> first -- setsid, fork --> watcher -- clone --> the container's first process
//!    |                        '- ends at once           |
//!    '---- a socket: claim, report, streams, exit -----'   and `socket` in the container's folder for whoever comes later
//! ```
//!
//! It never waits for anything but with `poll`: the container's end, its output, clients, and the next health check or
//! restart. When it is asked to end, it stops the container first, as `slipway stop` does; when it is killed the kernel kills the container with it, and whoever looks at the container next sees that by
//! the claim, a lock that the watcher held.

mod clients;
mod ending;
mod health;
mod memory;
mod streams;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use runtime::Size;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};
use store::Layout;

use crate::client::{IN_WORLD, short_address};
use crate::config::{HostConfig, RestartPolicy};
use crate::containers::{Container, ContainerError, Containers, Gone, forget_processes, read_json, write_json};
use crate::frames::{self, AttachRequest, Exited, Report};
use crate::log::{Log, LogOptions};
use crate::record::{Health, Process, State, Status};
use crate::start::{self, StartContainerError};
use clients::{Client, Clients};
use health::Checker;
use streams::Streams;

/// What the command prepared for every start.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Prepared {
    /// The folders of the image's layers, topmost first.
    pub lower: Vec<PathBuf>,
}

impl Prepared {
    /// Leaves it to the watcher.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write(&self, container: &Container) -> Result<(), ContainerError> {
        write_json(&path_of(container.folder()), self, false)
    }
}

fn path_of(folder: &Path) -> PathBuf {
    folder.join("start.json")
}

/// The first delay before a restart, and the longest.
const DELAYS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));

/// Who ran for so long did not fail at once, and is started again without delay.
const RAN_WELL: Duration = Duration::from_secs(10);

/// Who still runs then will do so for a while.
const SETTLED: Duration = Duration::from_secs(1);

/// How long to wait for clients that do not read how it ended.
const PARTING: Duration = Duration::from_secs(2);

/// Is the watcher; gives its exit code. The arguments are a container's folder, what the command is attached to, and
/// whether it is in a plain user's world.
///
/// `enter` enters the world of a plain user, who the command's caller is then.
pub fn main(arguments: &[OsString], now: fn() -> Timestamp, enter: fn() -> io::Result<()>) -> u8 {
    // There is nobody to tell: the command sees that the socket closes, and the state says the rest.
    u8::from(watch(arguments, now, enter).is_err())
}

fn watch(arguments: &[OsString], now: fn() -> Timestamp, enter: fn() -> io::Result<()>) -> io::Result<()> {
    let [folder, request, place, rest @ ..] = arguments else { return Err(io::ErrorKind::InvalidInput.into()) };
    // What the command got from whoever started it would be kept as long as the container runs.
    // SAFETY: nothing has been opened yet. A kernel that does not know the call changes nothing.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    enter()?;
    if place == IN_WORLD && runtime::rootless::world().is_none() {
        // Its keeper was killed in between: no later command would find the container.
        return Err(io::ErrorKind::NotFound.into());
    }
    let request: AttachRequest = serde_json::from_slice(request.as_encoded_bytes())?;
    let anew = rest.iter().any(|word| word == CLAIMED);
    let (socket, claim) = match anew {
        true => (above(rustix::stdio::stdin())?.into(), above(rustix::stdio::stdout())?.into()),
        false => {
            become_daemon()?;
            let socket = UnixStream::from(above(rustix::stdio::stdin())?);
            match frames::take_claim(&socket)? {
                Some(claim) => (socket, claim),
                // Nothing came of the container.
                None => return Ok(()),
            }
        }
    };
    let folder = PathBuf::from(folder);
    let missing = || io::Error::from(io::ErrorKind::NotFound);
    let (Some(id), Some(home)) = (folder.file_name(), folder.ancestors().nth(2)) else { return Err(missing()) };
    let layout = Layout::new(home);
    let container = Containers::new(&layout).open(&id.to_string_lossy()).map_err(io::Error::other)?;
    let container = container.ok_or_else(missing)?;
    if Checker::of(&container.record).is_some() && rustix::process::geteuid().is_root() && !anew {
        // Its checks join the running container. Without them this does not happen, and a start need not take longer.
        rustix::stdio::dup2_stdin(&socket)?;
        rustix::stdio::dup2_stdout(&claim)?;
        let arguments = std::env::args_os().chain([CLAIMED.into()]);
        runtime::restart_sealed(&arguments.collect::<Vec<_>>())?;
    }
    leave_standard_streams()?;
    let first = Client::attached(socket, request)?;
    let mut watch = Watch::new(container, claim, now)?;
    watch.run(first);
    if let Some(gone) = watch.gone.take() {
        // Whoever lists containers next sweeps up what resists.
        let _: Result<(), ContainerError> = gone.remove();
    }
    Ok(())
}

/// Tells the supervisor that it has been started anew, with the socket and the claim as its standard streams.
const CLAIMED: &str = "claimed";

/// A copy of a descriptor that does not pass to other programs, and is no standard stream.
fn above(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 3)?)
}

/// Puts nothing in the place of the standard streams.
fn leave_standard_streams() -> io::Result<()> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(rustix::stdio::dup2_stderr(&null)?)
}

/// Leaves the command's session, and lets it go on.
fn become_daemon() -> io::Result<()> {
    rustix::process::setsid()?;
    ending::hold_signals();
    // SAFETY: this process has one thread.
    match unsafe { libc::fork() } {
        -1 => return Err(io::Error::last_os_error()),
        0 => {}
        // SAFETY: it ends this process at once, with nothing to clean up.
        _ => unsafe { libc::_exit(0) },
    }
    rustix::process::chdir("/")?;
    Ok(())
}

struct Watch {
    container: Container,
    now: fn() -> Timestamp,
    lower: Vec<PathBuf>,
    listener: UnixListener,
    clients: Clients,
    log: Option<Log>,
    live: Option<Live>,
    restart_at: Option<Instant>,
    /// Readable when this process is asked to end.
    asked_to_end: OwnedFd,
    /// When a program that does not stop is killed.
    kill_at: Option<Instant>,
    /// When memory is given back that only a start needs.
    shrink_at: Option<Instant>,
    delay: Duration,
    size: Option<Size>,
    /// Whether the keeper of a plain user's world was killed.
    stranded: bool,
    /// What is left of the container, to be removed once everybody knows how it ended.
    gone: Option<Gone>,
    /// Held to the end of this process.
    _claim: File,
}

/// The container while its program runs.
struct Live {
    container: runtime::Container,
    service: Option<runtime::network::Service>,
    streams: Streams,
    since: Instant,
    checker: Option<Checker>,
}

/// What there is to do.
#[derive(Clone, Copy, Debug)]
enum Source {
    Listener,
    Process,
    Stdin,
    Stdout,
    Stderr,
    Client(usize),
    Checker,
    Network,
    Keeper,
    AskedToEnd,
}

impl Watch {
    fn new(container: Container, claim: File, now: fn() -> Timestamp) -> io::Result<Self> {
        let prepared: Prepared = read_json(&path_of(container.folder())).map_err(io::Error::other)?.unwrap_or_default();
        let listener = listen(container.folder())?;
        let options = LogOptions::parse(&container.record.host_config.log_config).map_err(io::Error::other)?;
        let log = Log::open(&container.log(), options)?;
        Ok(Self {
            container,
            now,
            lower: prepared.lower,
            listener,
            clients: Clients::default(),
            log,
            live: None,
            restart_at: None,
            asked_to_end: ending::asked()?,
            kill_at: None,
            shrink_at: None,
            delay: DELAYS.0,
            size: None,
            stranded: false,
            gone: None,
            _claim: claim,
        })
    }

    fn run(&mut self, first: Client) {
        self.size = first.size();
        self.clients.add(first);
        match self.start(true) {
            Ok(report) => self.clients.report(&report),
            Err(error) => {
                let report = Report { error: chain(&error), code: error.exit_code(), warnings: Vec::new() };
                self.refused(&report);
                self.clients.report(&report);
                self.part(&Exited { code: report.code, ..Exited::default() });
                return;
            }
        }
        while self.live.is_some() || self.restart_at.is_some() {
            self.turn();
        }
    }

    /// Starts the program; `asked` unless it is the restart policy's wish.
    fn start(&mut self, asked: bool) -> Result<Report, StartContainerError> {
        let start::Started { container, service, state: place, warning } =
            start::start(&self.container, &self.lower, self.size, (self.now)())?;
        let streams = Streams::of(container)
            .map_err(|source| StartContainerError::Write { path: "the container's streams".into(), source })?;
        let (container, streams) = streams;
        let notice = runtime::rootless::world().and_then(runtime::rootless::World::notice);
        let warnings = container.warnings().iter().map(ToString::to_string);
        let warnings = warnings.chain(warning).chain(notice.map(str::to_owned)).collect();
        let checker = Checker::of(&self.container.record);
        let health = checker.as_ref().map(|_| Health { status: "starting".into(), ..Health::default() });
        let (process, this, at) = (Process::of(container.pid()), Process::of(std::process::id()), (self.now)());
        let changed = self.container.change(|state| {
            state.status = Status::Running;
            // A program that has ended already is seen by the next turn.
            state.process = process;
            state.supervisor = this;
            (state.exit_code, state.oom_killed) = (0, false);
            state.error.clear();
            state.started_at = Some(at);
            state.health = health;
            state.networks = place.networks;
            state.ports = place.ports;
            if asked {
                (state.restart_count, state.stop_asked, state.keep) = (0, false, false);
            }
        });
        // Dropping the container kills it: nobody could find it.
        changed.map_err(|error| StartContainerError::Write {
            path: "state.json".into(),
            source: io::Error::other(error),
        })?;
        let since = Instant::now();
        self.live = Some(Live { container, service, streams, since, checker });
        self.shrink_at = Some(since + SETTLED);
        self.container.emit("start", at, &[]);
        Ok(Report { warnings, ..Report::default() })
    }

    /// Notes that it did not start.
    fn refused(&mut self, report: &Report) {
        let at = (self.now)();
        let done = self.container.change(|state| {
            if state.status != Status::Created {
                state.status = Status::Exited;
            }
            state.exit_code = report.code;
            state.error = report.error.join(": ");
            state.finished_at = Some(at);
            forget_processes(state);
        });
        if done.is_ok() && self.container.record.host_config.auto_remove {
            // Whoever lists containers next sweeps up what resists.
            let _: Result<(), ContainerError> = self.container.remove(true, at);
        }
    }

    /// Waits until there is something to do, and does it.
    fn turn(&mut self) {
        let ready = match self.wait() {
            Ok(ready) => ready,
            // Nothing is known of what failed; looking at everything is always right.
            Err(_) => vec![(Source::Listener, PollFlags::IN)],
        };
        let mut ended = false;
        for (source, flags) in ready {
            match source {
                Source::Listener => self.clients.accept(&self.listener),
                Source::Client(index) => self.client(index, flags),
                Source::Process => ended = true,
                Source::Stdin => {
                    if let Some(live) = &mut self.live {
                        live.streams.feed();
                    }
                }
                Source::Stdout => self.output(false),
                Source::Stderr => self.output(true),
                Source::Checker => {}
                Source::Keeper => self.strand(),
                Source::AskedToEnd => self.stop(),
                Source::Network => {
                    let service = self.live.as_mut().map(|live| &mut live.service);
                    // One that fails as a whole would fail again at once: the container goes on without.
                    if let Some(service) = service
                        && service.as_mut().is_some_and(|service| service.turn().is_err())
                    {
                        *service = None;
                    }
                }
            }
        }
        self.clients.sweep();
        self.close_input_of_the_last();
        if ended {
            self.ended();
        }
        self.check();
        if self.shrink_at.take_if(|at| *at <= Instant::now()).is_some() {
            memory::forget_program();
        }
        if self.kill_at.take_if(|at| *at <= Instant::now()).is_some() {
            self.kill();
        }
        if self.restart_at.is_some_and(|at| at <= Instant::now()) {
            self.restart();
        }
    }

    fn wait(&self) -> rustix::io::Result<Vec<(Source, PollFlags)>> {
        let mut sources = vec![Source::Listener, Source::AskedToEnd];
        let mut fds = vec![PollFd::new(&self.listener, PollFlags::IN), PollFd::new(&self.asked_to_end, PollFlags::IN)];
        if let Some(live) = &self.live {
            sources.push(Source::Process);
            fds.push(PollFd::from_borrowed_fd(live.container.pidfd(), PollFlags::IN));
            if let Some(stdin) = live.streams.hungry() {
                sources.push(Source::Stdin);
                fds.push(PollFd::new(stdin, PollFlags::OUT));
            }
            // Whoever is attached and does not read stops the container, as docker does.
            if self.clients.have_room() {
                for (stream, source) in [(&live.streams.stdout, Source::Stdout), (&live.streams.stderr, Source::Stderr)]
                {
                    if let Some(stream) = stream {
                        sources.push(source);
                        fds.push(PollFd::new(stream, PollFlags::IN));
                    }
                }
            }
            if let Some(service) = &live.service {
                sources.push(Source::Network);
                fds.push(PollFd::new(service, PollFlags::IN));
            }
            for descriptor in live.checker.iter().flat_map(Checker::descriptors) {
                sources.push(Source::Checker);
                fds.push(PollFd::from_borrowed_fd(descriptor, PollFlags::IN));
            }
        }
        if let Some(world) = runtime::rootless::world()
            && !self.stranded
        {
            sources.push(Source::Keeper);
            fds.push(PollFd::from_borrowed_fd(world.keeper(), PollFlags::IN));
        }
        let input_is_full = self.live.as_ref().is_some_and(|live| live.streams.is_full());
        for (index, client) in self.clients.all().iter().enumerate() {
            let flags = client.flags(input_is_full);
            sources.push(Source::Client(index));
            fds.push(PollFd::from_borrowed_fd(client.stream().as_fd(), flags));
        }
        let timeout = self.next_moment().map(|at| {
            let wait = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            Timespec { tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX), tv_nsec: wait.subsec_nanos().into() }
        });
        poll(&mut fds, timeout.as_ref())?;
        let ready = sources.into_iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        Ok(ready.map(|(source, fd)| (source, fd.revents())).collect())
    }

    fn next_moment(&self) -> Option<Instant> {
        let check = self.live.as_ref().and_then(|live| live.checker.as_ref()).and_then(Checker::next_moment);
        [self.restart_at, self.kill_at, self.shrink_at, check].into_iter().flatten().min()
    }

    fn client(&mut self, index: usize, flags: PollFlags) {
        if flags.contains(PollFlags::OUT) {
            self.clients.flush(index);
        }
        if !flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            return;
        }
        for (kind, content) in self.clients.read(index) {
            match kind {
                frames::STDIN => {
                    if let Some(live) = &mut self.live {
                        live.streams.push(&content);
                    }
                }
                frames::STDIN_END => {
                    if let Some(live) = self.live.as_mut().filter(|_| !self.container.record.config.tty) {
                        live.streams.end_input();
                    }
                }
                frames::SIZE => {
                    self.size = clients::size(&content).or(self.size);
                    if let (Some(live), Some(size)) = (&self.live, self.size) {
                        // A terminal whose last user is gone has no size.
                        let _: io::Result<()> = live.container.resize(size);
                    }
                }
                frames::LOOK => self.look(),
                _ => {}
            }
        }
    }

    /// Looks at what a command has changed.
    fn look(&mut self) {
        if let Ok(Some(container)) = self.container.all().open(self.container.id()) {
            self.container = container;
        }
        let Ok(state) = self.container.peek() else { return };
        if let Some(checker) = self.live.as_mut().and_then(|live| live.checker.as_mut()) {
            checker.paused = state.status == Status::Paused;
        }
        if state.stop_asked && self.live.is_none() && self.restart_at.take().is_some() {
            let exited = Exited { code: state.exit_code, oom_killed: state.oom_killed, error: String::new() };
            self.finish(|_| {});
            self.part(&exited);
        }
    }

    /// Ends the container, because no later command could signal or join it.
    fn strand(&mut self) {
        self.stranded = true;
        // A container that was removed ends all the same.
        let _: Result<State, ContainerError> = self.container.change(|state| state.stop_asked = true);
        self.kill();
        self.look();
    }

    /// The input ends with the one who fed it, if it was asked to.
    fn close_input_of_the_last(&mut self) {
        let config = &self.container.record.config;
        let ends = self.clients.take_fed() && config.stdin_once && !config.tty;
        if let Some(live) = self.live.as_mut().filter(|_| ends) {
            live.streams.end_input();
        }
    }

    /// Passes on what the container printed.
    fn output(&mut self, errors: bool) {
        let Some(live) = &mut self.live else { return };
        let mut buffer = [0; 16 << 10];
        let Some(bytes) = live.streams.read(errors, &mut buffer) else { return };
        let (stream, kind) = match errors {
            false => (crate::log::LogStream::Stdout, frames::STDOUT),
            true => (crate::log::LogStream::Stderr, frames::STDERR),
        };
        if let Some(log) = &mut self.log {
            // The disk may be full; the container runs on without its log, as under docker.
            let _: io::Result<()> = log.write(stream, bytes, (self.now)());
        }
        self.clients.output(kind, bytes);
    }

    /// The program has ended.
    fn ended(&mut self) {
        // All its processes are gone; what they printed last is still to be read.
        for errors in [false, true] {
            while self.live.as_ref().is_some_and(|live| live.streams.has_more(errors)) {
                self.output(errors);
            }
        }
        if let Some(log) = &mut self.log {
            let _: io::Result<()> = log.finish((self.now)());
        }
        let Some(Live { mut container, service, since, .. }) = self.live.take() else { return };
        (self.shrink_at, self.kill_at) = (None, None);
        drop(service);
        let status = container.end().ok();
        let code = status.map_or(255, |status| status.shell_code());
        let oom_killed = status.is_some_and(|status| status.oom_killed);
        // Whoever waits for its end need not wait until everything is unmounted, but what the next command may want to use:
        // folders of the host, whose file systems stay in use till then, and writes, which unmounting brings to the disk.
        let HostConfig { auto_remove, .. } = self.container.record.host_config;
        let later = (auto_remove && self.container.record.mounts.is_empty()).then_some(container);
        let at = (self.now)();
        if oom_killed {
            self.container.emit("oom", at, &[]);
        }
        if let Ok(Some(container)) = self.container.all().open(self.container.id()) {
            self.container = container;
        }
        let policy = self.container.record.host_config.restart_policy.clone();
        let state = self.container.change(|state| {
            (state.exit_code, state.oom_killed, state.finished_at) = (code, oom_killed, Some(at));
            forget_processes(state);
            state.status = Status::Exited;
            if !state.stop_asked && wants_restart(&policy, code, state.restart_count) {
                state.status = Status::Restarting;
                state.restart_count += 1;
                state.supervisor = Process::of(std::process::id());
            }
        });
        self.container.emit("die", at, &[("exitCode", &code.to_string())]);
        let exited = Exited { code, oom_killed, error: String::new() };
        match state {
            Ok(State { status: Status::Restarting, .. }) => {
                self.delay = if since.elapsed() > RAN_WELL { DELAYS.0 } else { self.delay };
                self.restart_at = Some(Instant::now() + self.delay);
                self.delay = (self.delay * 2).min(DELAYS.1);
                self.clients.ended_once(&exited);
            }
            _ => {
                self.finish(|_| {});
                self.part(&exited);
            }
        }
        drop(later);
    }

    fn restart(&mut self) {
        self.restart_at = None;
        // A stop may have come between the two without having been told yet.
        if self.container.peek().is_ok_and(|state| state.stop_asked) {
            self.restart_at = Some(Instant::now());
            self.look();
            return;
        }
        if let Err(error) = self.start(false) {
            let report = Report { error: chain(&error), code: error.exit_code(), warnings: Vec::new() };
            self.refused(&report);
            self.part(&Exited { code: report.code, oom_killed: false, error: report.error.join(": ") });
        }
    }

    /// It has ended for good: it is gone, or its state says so.
    fn finish(&mut self, change: impl FnOnce(&mut State)) {
        let at = (self.now)();
        let keep = self.container.peek().is_ok_and(|state| state.keep);
        if self.container.record.host_config.auto_remove && !keep {
            // What cannot be moved away has been already.
            self.gone = self.container.take_away(true, at).ok();
            return;
        }
        // It may have been removed meanwhile.
        let _: Result<State, ContainerError> = self.container.change(|state| {
            if state.status.is_alive() {
                state.status = Status::Exited;
            }
            state.supervisor = None;
            change(state);
        });
    }

    /// Tells everybody how it ended, and closes the door.
    fn part(&mut self, exited: &Exited) {
        // Who comes from now on reads the state.
        let _: io::Result<()> = fs::remove_file(self.container.folder().join("socket"));
        self.clients.accept(&self.listener);
        for index in 0..self.clients.all().len() {
            // What these want is in their first frame.
            self.clients.read(index);
        }
        self.clients.part(exited, PARTING);
    }

    /// Begins or ends a health check, if it is time.
    fn check(&mut self) {
        let Some(live) = &mut self.live else { return };
        let Some(checker) = &mut live.checker else { return };
        let Some(outcome) = checker.turn(&self.container, &self.lower, live.container.pid(), self.now) else { return };
        let mut told = None;
        // A container that was removed has no health.
        let _: Result<State, ContainerError> = self.container.change(|state| {
            if let Some(health) = &mut state.health {
                told = outcome.apply(health);
            }
        });
        if let Some(status) = told {
            self.container.emit(&format!("health_status: {status}"), (self.now)(), &[]);
        }
    }
}

/// Tells whether a container that ended is to be started again.
fn wants_restart(policy: &RestartPolicy, code: i32, count: u32) -> bool {
    match policy.name.as_str() {
        "always" | "unless-stopped" => true,
        "on-failure" => code != 0 && (policy.maximum_retry_count == 0 || count < policy.maximum_retry_count),
        _ => false,
    }
}

/// Listens in the container's folder, in place of whoever did before.
fn listen(folder: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(folder.join("socket")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let folder = rustix::fs::open(folder, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &short_address(&folder)?)?;
    rustix::net::listen(&socket, 64)?;
    Ok(socket.into())
}

fn chain(error: &dyn std::error::Error) -> Vec<String> {
    let mut texts = vec![error.to_string()];
    let mut source = error.source();
    while let Some(cause) = source {
        texts.push(cause.to_string());
        source = cause.source();
    }
    texts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_dockers() {
        let policy = |name: &str, maximum_retry_count| RestartPolicy { name: name.into(), maximum_retry_count };
        for (name, most, code, count, again) in [
            ("no", 0, 1, 0, false),
            ("", 0, 1, 0, false),
            ("always", 0, 0, 9, true),
            ("unless-stopped", 0, 1, 9, true),
            ("on-failure", 0, 0, 0, false),
            ("on-failure", 0, 1, 99, true),
            ("on-failure", 2, 1, 1, true),
            ("on-failure", 2, 1, 2, false),
        ] {
            assert_eq!(wants_restart(&policy(name, most), code, count), again, "{name} {most} {code} {count}");
        }
    }
}
