//! A container's life as its starter sees it: start, signals, streams, and how it ended.

use crate::cgroups::Cgroups;
use crate::child::Descriptors;
use crate::mount_point::{MountPointMade, parse_made, remove_mount_point};
use crate::network::Network;
use crate::plan::Plan;
use crate::pool::{self, CgroupKey, Pool};
use crate::stack::Stack;
use crate::start_error::{StartError, Warning, describe, parse_failure, setup, start_error};
use crate::stdio::{Size, Stdio, Streams, open_streams};
use crate::sys;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::process::{WaitId, WaitIdOptions};
use std::fs::File;
use std::io::{self, Read as _};
use std::mem::MaybeUninit;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

/// The files that become `/`.
#[derive(Clone, Debug)]
pub enum Rootfs {
    /// A folder, used as it is.
    Folder(PathBuf),
    /// An overlay, mounted in the container's own mount namespace, so that no crash leaks a mount.
    Overlay {
        /// The read-only layers, topmost first.
        lower: Vec<PathBuf>,
        /// Where changes go.
        upper: PathBuf,
        /// The empty folder that overlayfs asks for, on the same filesystem as `upper`.
        work: PathBuf,
        /// Skip syncing at unmount: a crash of the machine then spoils `upper`.
        volatile: bool,
    },
}

/// All that [`start`] needs.
#[derive(Debug)]
pub struct ContainerConfig {
    /// A name for cgroups and leases: letters, digits, `-`, `_` and `.`, unique on this machine.
    pub id: String,
    /// What to run and how; see [`crate::default_spec`]. Its `root.path` is not used.
    pub spec: Spec,
    /// The files that become `/`.
    pub rootfs: Rootfs,
    /// The standard streams.
    pub stdio: Stdio,
    /// The network, from [`crate::network::prepare`]; it goes away with the container.
    pub network: Network,
    /// The cgroup under which the container's own is made; by default `slipway` below this process's.
    pub cgroup_parent: Option<String>,
    /// Kill the container when the thread that called [`start`] ends.
    pub die_with_parent: bool,
}

/// How a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitStatus {
    /// The exit code of the first process, if it exited.
    pub code: Option<i32>,
    /// The signal that killed the first process, if one did.
    pub signal: Option<i32>,
    /// Whether the kernel killed a process because the memory limit was reached.
    pub oom_killed: bool,
}

impl ExitStatus {
    /// The number that a shell would show: the exit code, or 128 and the signal.
    pub fn shell_code(&self) -> i32 {
        match (self.code, self.signal) {
            (Some(code), _) => code,
            (None, Some(signal)) => 128 + signal,
            (None, None) => 255,
        }
    }

    /// Whether the exit code is 0.
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }
}

/// Why waiting for a container failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot wait for the container")]
pub struct WaitError(#[from] io::Error);

/// A running container. Dropping it kills it and removes its cgroup.
#[derive(Debug)]
pub struct Container {
    pid: u32,
    pidfd: OwnedFd,
    stdin: Option<File>,
    stdout: Option<File>,
    stderr: Option<File>,
    terminal: Option<File>,
    cgroups: Cgroups,
    network: Network,
    warnings: Vec<Warning>,
    made: Vec<MountPointMade>,
    upper: Option<PathBuf>,
    /// Who gets the cgroups afterwards, and for what kind of container they are.
    pool: Option<(Arc<Pool>, CgroupKey)>,
    /// Whether its processes can change what outlives them in a pool.
    leaves_no_trace: bool,
    ended: bool,
    /// What the child works with until its program runs. Goes when that is known, or after the child is reaped.
    task: Option<Box<Task>>,
}

/// Starts a container; when this returns, its program runs.
///
/// Call it and [`Container::wait`] on one thread when `die_with_parent` is set.
pub fn start(config: ContainerConfig) -> Result<Container, StartError> {
    launch_one(config, None)?.started()
}

/// Does the same for one of several containers of a build, with what an ended one left in the pool.
pub fn start_in_pool(config: ContainerConfig, pool: &Arc<Pool>) -> Result<Container, StartError> {
    launch_in_pool(config, pool)?.started()
}

/// Makes the process of such a container, and does not wait until its program runs.
pub fn launch_in_pool(config: ContainerConfig, pool: &Arc<Pool>) -> Result<Launched, StartError> {
    launch_one(config, Some(pool))
}

fn launch_one(config: ContainerConfig, pool: Option<&Arc<Pool>>) -> Result<Launched, StartError> {
    let ContainerConfig { id, spec, cgroup_parent, .. } = &config;
    if id.is_empty() || id.len() > 128 || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    {
        return Err(StartError::BadSpec { what: format!("`{id}` is not a container id") });
    }
    let mut warnings = Vec::new();
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let key = CgroupKey { resources: resources.cloned(), parent: cgroup_parent.clone() };
    let cgroups = match pool.and_then(|pool| pool.cgroups(&key)) {
        Some(cgroups) => cgroups,
        None => Cgroups::create(id, resources, cgroup_parent.as_deref(), &mut warnings)?,
    };
    launch_in(config, cgroups, warnings, pool.map(|pool| (pool.clone(), key)))
}

/// Makes the process of a container in a cgroup that is there already.
pub(crate) fn launch_in(
    config: ContainerConfig,
    cgroups: Cgroups,
    warnings: Vec<Warning>,
    pool: Option<(Arc<Pool>, CgroupKey)>,
) -> Result<Launched, StartError> {
    let ContainerConfig { id: _, spec, rootfs, stdio, network, cgroup_parent, die_with_parent } = config;
    let (terminal, streams) = open_streams(stdio, spec.process().as_ref().map_or(0, |process| process.user().uid()))?;
    let new_network = has_new_network(&spec);
    let mut plan = Plan::new(&spec, &rootfs, &cgroups, network.plan(new_network), terminal, die_with_parent)?;
    plan.shares_memory &= cgroup_parent.is_none();
    if plan.network.join.is_some() {
        plan.clone_flags &= !(libc::CLONE_NEWNET as u64);
    }
    let (ours, theirs) = socket_pair().map_err(setup("socket pair"))?;
    let this = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())
        .map_err(setup("open a handle of this process"))?;
    let descriptors = Descriptors {
        socket: theirs.as_raw_fd(),
        parent_socket: ours.as_raw_fd(),
        parent: this.as_raw_fd(),
        joins: cgroups.joins().map(AsRawFd::as_raw_fd).collect(),
        stdio: streams.theirs.each_ref().map(AsRawFd::as_raw_fd),
    };
    let task = Task::new(plan, descriptors)?;
    let (pid, pidfd) = clone(&task, &cgroups)?;
    drop(theirs);
    let Streams { theirs: _, stdin, stdout, stderr } = streams;
    let upper = match rootfs {
        Rootfs::Overlay { upper, .. } => Some(upper),
        Rootfs::Folder(_) => None,
    };
    // From here on, dropping it kills the child.
    let mut container = Container {
        pid,
        pidfd,
        stdin,
        stdout,
        stderr,
        terminal: None,
        cgroups,
        network,
        warnings,
        made: Vec::new(),
        upper,
        pool,
        leaves_no_trace: pool::leaves_no_trace(&spec),
        ended: false,
        task: Some(task),
    };
    container.network.attach(pid, new_network)?;
    // A child that has failed already does not read; why it failed is read below.
    let _ = rustix::net::send(&ours, b"G", rustix::net::SendFlags::NOSIGNAL);
    Ok(Launched { container, news: News { socket: ours, exec_is_next: false } })
}

fn has_new_network(spec: &Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    namespaces.into_iter().flatten().any(|namespace| namespace.typ() == LinuxNamespaceType::Network)
}

fn socket_pair() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Makes the child. In the child this never returns.
fn clone(task: &Task, cgroups: &Cgroups) -> Result<(u32, OwnedFd), StartError> {
    let mut pidfd: i32 = -1;
    let mut arguments = sys::CloneArguments {
        // The cgroup namespace comes later: it starts at the cgroup that the child has joined.
        flags: task.plan.clone_flags & !(libc::CLONE_NEWCGROUP as u64) | libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..Default::default()
    };
    if let Some(cgroup) = cgroups.folder() {
        const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    let blocked = BlockedSignals::new();
    let pid = match &task.stack {
        // SAFETY: the child does raw system calls on memory that nobody writes to and that stays until it has execed or
        // ended (`Container::task`), and on the stack that is its own.
        Some(stack) => unsafe { stack.clone3(&mut arguments, run_task, (&raw const *task).cast()) },
        // SAFETY: the child does raw system calls on its copy of this thread's stack and heap only, then
        // execs or ends; it returns from here never. There is no CLONE_VM.
        None => unsafe { sys::clone3(&arguments) },
    };
    match pid {
        Ok(0) => crate::child::run(&task.plan, &task.descriptors),
        Ok(pid) => {
            drop(blocked);
            // SAFETY: the kernel has just put a new descriptor there.
            Ok((pid as u32, unsafe { OwnedFd::from_raw_fd(pidfd) }))
        }
        Err(error) => Err(StartError::Setup {
            what: "cannot make namespaces".to_owned(),
            source: io::Error::from_raw_os_error(error),
        }),
    }
}

/// What the child says until it execs.
struct News {
    socket: OwnedFd,
    exec_is_next: bool,
}

impl News {
    /// Takes one message, waiting for it. Gives whether the program runs, and so nothing more comes.
    fn take(&mut self, container: &mut Container) -> Result<bool, StartError> {
        let mut bytes = [0u8; crate::child::message::LONGEST];
        let (length, received) = receive(&self.socket, &mut bytes).map_err(setup("read from the child"))?;
        let bytes = &bytes[..length];
        let died = || StartError::Setup {
            what: "the child was killed while it prepared the container".to_owned(),
            source: io::Error::from(io::ErrorKind::UnexpectedEof),
        };
        let Some(plan) = container.task.as_ref().map(|task| &task.plan) else { return Ok(true) };
        match bytes.first() {
            None if self.exec_is_next => {
                container.task = None;
                return Ok(true);
            }
            None => return Err(died()),
            Some(b'X') => self.exec_is_next = true,
            Some(b'T') => container.terminal = received.map(File::from),
            Some(b'S') => container.made.extend(parse_made(bytes)),
            Some(b'W') => {
                if let Some(failure) = parse_failure(bytes) {
                    let reason = io::Error::from_raw_os_error(failure.errno).to_string();
                    container.warnings.push(Warning::LimitIgnored { limit: describe(plan, failure), reason });
                }
            }
            Some(_) => {
                return Err(parse_failure(bytes).map_or_else(died, |failure| start_error(plan, failure)));
            }
        }
        Ok(false)
    }
}

/// A container whose process is made, and whose program may run already. Dropping it kills it and removes its cgroup.
pub struct Launched {
    container: Container,
    news: News,
}

impl std::fmt::Debug for Launched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Launched").field("container", &self.container).finish_non_exhaustive()
    }
}

/// Why a container that was launched did not come to its end.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum RunError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Wait(#[from] WaitError),
}

impl Launched {
    /// A handle to send signals from other threads.
    pub fn controls(&self) -> io::Result<Controls> {
        self.container.controls()
    }

    /// Waits until the container has mounted everything: what it mounts may go away then.
    pub fn mounted(&mut self) -> Result<(), StartError> {
        while !self.news.exec_is_next {
            self.news.take(&mut self.container)?;
        }
        Ok(())
    }

    /// Waits until the program runs.
    pub fn started(mut self) -> Result<Container, StartError> {
        while !self.news.take(&mut self.container)? {}
        Ok(self.container)
    }

    /// Waits until the container has ended, and gives what it prints on pipes, output (1) and errors (2), as it comes.
    ///
    /// One thread waits for everything at once: every other way costs a short container more than it takes itself.
    pub fn run(mut self, output: &mut dyn FnMut(i32, &[u8])) -> Result<ExitStatus, RunError> {
        use rustix::event::{PollFd, PollFlags, poll};
        let mut pipes = [(1, self.container.stdout.take()), (2, self.container.stderr.take())];
        let mut news = Some(self.news);
        let mut buffer = vec![0; 32 << 10];
        loop {
            let open = pipes.iter().filter_map(|(_, pipe)| pipe.as_ref().map(AsFd::as_fd));
            let sources = open.chain(news.as_ref().map(|news| news.socket.as_fd()));
            let mut sources: Vec<_> = sources.map(|source| PollFd::from_borrowed_fd(source, PollFlags::IN)).collect();
            if sources.is_empty() {
                return Ok(self.container.wait()?);
            }
            match poll(&mut sources, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(WaitError(error.into()).into()),
            }
            let mut ready: Vec<bool> = sources.iter().map(|source| !source.revents().is_empty()).collect();
            if news.is_some()
                && ready.pop() == Some(true)
                && let Some(said) = &mut news
                && said.take(&mut self.container)?
            {
                news = None;
            }
            let ready = ready.into_iter();
            for ((number, pipe), _) in
                pipes.iter_mut().filter(|(_, pipe)| pipe.is_some()).zip(ready).filter(|(_, ready)| *ready)
            {
                match pipe.as_mut().map(|pipe| pipe.read(&mut buffer)) {
                    Some(Ok(count)) if count > 0 => output(*number, &buffer[..count]),
                    Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                    _ => *pipe = None,
                }
            }
        }
    }
}

/// What a child does, at a place that does not move: it may share this memory.
struct Task {
    plan: Plan,
    descriptors: Descriptors,
    stack: Option<Stack>,
}

// SAFETY: the pointers in it lead to texts that the plan owns.
unsafe impl Send for Task {}
// SAFETY: as above; nobody changes it.
unsafe impl Sync for Task {}

impl Task {
    fn new(plan: Plan, descriptors: Descriptors) -> Result<Box<Task>, StartError> {
        let stack = plan.shares_memory.then(Stack::new).transpose().map_err(setup("get memory for the child"))?;
        Ok(Box::new(Task { plan, descriptors, stack }))
    }
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task").finish_non_exhaustive()
    }
}

/// Where a child begins that shares this memory.
extern "C" fn run_task(task: *const libc::c_void) -> ! {
    // SAFETY: `clone` passes a task, which its parent keeps.
    let task = unsafe { &*task.cast::<Task>() };
    crate::child::run(&task.plan, &task.descriptors)
}

/// Keeps signals from reaching the child while it still has the handlers of this program.
struct BlockedSignals {
    before: libc::sigset_t,
}

impl BlockedSignals {
    fn new() -> BlockedSignals {
        // SAFETY: both sets live on this stack; zeros are a valid set.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, &raw mut before);
            BlockedSignals { before }
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: the set is the one that the kernel gave.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut());
        }
    }
}

impl Container {
    /// The first process's number in this PID namespace.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// A handle of the first process that becomes readable when it ends.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// The end of the pipe that the container reads from, once.
    pub fn take_stdin(&mut self) -> Option<File> {
        self.stdin.take()
    }

    /// The end of the pipe that the container writes output to, once.
    pub fn take_stdout(&mut self) -> Option<File> {
        self.stdout.take()
    }

    /// The end of the pipe that the container writes errors to, once.
    pub fn take_stderr(&mut self) -> Option<File> {
        self.stderr.take()
    }

    /// The terminal's master side; `File::try_clone` gives one to keep.
    pub fn terminal(&self) -> Option<&File> {
        self.terminal.as_ref()
    }

    /// The address on the bridge.
    pub fn address(&self) -> Option<Ipv4Addr> {
        self.network.address()
    }

    /// What was asked for and could not be had.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Sends a signal to the first process.
    pub fn kill(&self, signal: i32) -> io::Result<()> {
        send_signal(self.pidfd.as_fd(), signal)
    }

    /// A handle to send signals and resize the terminal from other threads, while one waits.
    pub fn controls(&self) -> io::Result<Controls> {
        let terminal = self.terminal.as_ref().map(File::try_clone).transpose()?;
        Ok(Controls { pidfd: self.pidfd.try_clone()?, terminal })
    }

    /// Sets the terminal's size.
    pub fn resize(&self, size: Size) -> io::Result<()> {
        set_size(self.terminal.as_ref(), size)
    }

    /// Waits until the first process has ended, then removes what the container needed.
    ///
    /// Empty files and folders that were made in `upper` only to be mounted on are removed again.
    pub fn wait(mut self) -> Result<ExitStatus, WaitError> {
        self.reap()
    }

    fn reap(&mut self) -> Result<ExitStatus, WaitError> {
        let status = loop {
            match rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED) {
                Ok(Some(status)) => break status,
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(WaitError(error.into())),
            }
        };
        self.ended = true;
        let oom_killed = self.cgroups.oom_killed();
        self.clean_up(oom_killed);
        Ok(ExitStatus { code: status.exit_status(), signal: status.terminating_signal(), oom_killed })
    }

    /// Removes what the container needed; its processes are all gone with the first.
    fn clean_up(&mut self, oom_killed: bool) {
        match self.pool.take().filter(|_| self.leaves_no_trace && !oom_killed) {
            Some((pool, key)) => pool.keep_cgroups(key, std::mem::take(&mut self.cgroups)),
            None => self.cgroups.remove(),
        }
        self.network.release(self.leaves_no_trace);
        if let Some(upper) =
            self.upper.as_ref().filter(|_| !self.made.is_empty()).and_then(|path| path.canonicalize().ok())
        {
            for made in self.made.drain(..).rev() {
                remove_mount_point(&upper, &made);
            }
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if !self.ended {
            // Both fail only when it is gone already.
            let _ = self.kill(libc::SIGKILL);
            let _ = self.reap();
        }
    }
}

/// Reads one message, and the descriptor that came with it.
fn receive(socket: &OwnedFd, bytes: &mut [u8]) -> rustix::io::Result<(usize, Option<OwnedFd>)> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        let mut buffers = [io::IoSliceMut::new(bytes)];
        match recvmsg(socket, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC) {
            // A child that ended without reading what we sent: its own last words are still to come.
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNRESET) => {}
            other => break other?,
        }
    };
    let mut received = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            received = rights.last().or(received);
        }
    }
    Ok((message.bytes, received))
}

fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: the descriptor is open; the kernel checks the signal's number.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, 0, 0) };
    if sent == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn set_size(terminal: Option<&File>, size: Size) -> io::Result<()> {
    let Some(terminal) = terminal else { return Ok(()) };
    let size = rustix::termios::Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}

/// Reaches a container from any thread; harmless once it has ended.
#[derive(Debug)]
pub struct Controls {
    pidfd: OwnedFd,
    terminal: Option<File>,
}

impl Controls {
    /// Sends a signal to the first process.
    pub fn kill(&self, signal: i32) -> io::Result<()> {
        send_signal(self.pidfd.as_fd(), signal)
    }

    /// Sets the terminal's size.
    pub fn resize(&self, size: Size) -> io::Result<()> {
        set_size(self.terminal.as_ref(), size)
    }
}
