//! A container's life as its starter sees it: start, signals, streams, and how it ended.

use crate::cgroups::{CgroupFolders, Cgroups};
use crate::child::Descriptors;
use crate::mount_point::{MountPointMade, parse_made, remove_mount_point};
use crate::network::Network;
use crate::plan::{Plan, PlanOptions, StateText};
use crate::pool::{self, CgroupKey, Pool};
use crate::stack::Stack;
use crate::start_error::{StartError, Warning, describe, parse_failure, setup, start_error};
use crate::stdio::{Size, Stdio, Streams, open_streams};
use crate::sys;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::fs::{Mode, OFlags};
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
    /// How it ended, once that is known.
    status: Option<ExitStatus>,
    /// Whether nothing is left to be done about it.
    ended: bool,
    /// Its mount namespace, once its program runs. Without it, unmounting everything would be part of the end of its last
    /// process, and take longer than all the rest of that.
    mounts: Option<OwnedFd>,
    /// What the child works with until its program runs. Goes when that is known, or after the child is reaped.
    task: Option<Box<Task>>,
}

type RunHooks<'a> = dyn FnMut(u32) -> Result<(), StartError> + 'a;
type TakeListener<'a> = dyn FnMut(u32, OwnedFd) -> Result<(), StartError> + 'a;

/// What a bundle may want beyond what [`start`] does.
#[derive(Default)]
pub(crate) struct Extras<'a> {
    /// A listening socket: the program starts when somebody says so there.
    pub(crate) start: Option<OwnedFd>,
    /// How many descriptors from 3 on the program gets, too.
    pub(crate) kept: u32,
    /// Move the root over the old one instead of exchanging them.
    pub(crate) no_pivot: bool,
    /// Leave the program in the session keyring of this process.
    pub(crate) keep_keyring: bool,
    /// What hooks in the container are told before the change of root, and before the program.
    pub(crate) states: Option<(StateText, StateText)>,
    /// Runs the hooks of this namespace, for the process with this number.
    pub(crate) hooks: Option<Box<RunHooks<'a>>>,
    /// Takes the listener of a seccomp filter, for the process with this number.
    pub(crate) listener: Option<Box<TakeListener<'a>>>,
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
    check_id(id)?;
    if spec.hooks().is_some() {
        return Err(StartError::BadSpec { what: "hooks are run for bundles alone".to_owned() });
    }
    let mut warnings = Vec::new();
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let key = CgroupKey { resources: resources.cloned(), parent: cgroup_parent.clone() };
    let cgroups = match pool.and_then(|pool| pool.cgroups(&key)) {
        Some(cgroups) => cgroups,
        None => Cgroups::create(id, resources, cgroup_parent.as_deref(), &mut warnings)?,
    };
    launch_in(config, &mut Extras::default(), cgroups, warnings, pool.map(|pool| (pool.clone(), key)))
}

/// Fails for what would be more than a name in a path.
pub(crate) fn check_id(id: &str) -> Result<(), StartError> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte);
    if id.is_empty() || id.len() > 1024 || !id.bytes().all(good) || matches!(id, "." | "..") {
        return Err(StartError::BadSpec { what: format!("`{id}` is not a container id") });
    }
    Ok(())
}

/// Makes the process of a container in a cgroup that is there already.
pub(crate) fn launch_in(
    config: ContainerConfig,
    extras: &mut Extras<'_>,
    cgroups: Cgroups,
    mut warnings: Vec<Warning>,
    pool: Option<(Arc<Pool>, CgroupKey)>,
) -> Result<Launched, StartError> {
    let ContainerConfig { id: _, spec, rootfs, stdio, network, cgroup_parent, die_with_parent } = config;
    let user = spec.process().as_ref().map_or(0, |process| process.user().uid());
    let user = match crate::user_namespace::maps_of_spec(&spec)? {
        Some(maps) => maps.outside_user(user).unwrap_or(user),
        None => user,
    };
    let (terminal, streams) = open_streams(stdio, user)?;
    let new_network = has_new_network(&spec);
    let options = PlanOptions {
        terminal,
        die_with_parent,
        keep_keyring: extras.keep_keyring,
        no_pivot: extras.no_pivot,
        states: extras.states.clone(),
    };
    let mut plan = Plan::new(&spec, &rootfs, &cgroups, network.plan(new_network), options, &mut warnings)?;
    // Who waits to be started, or has hooks run for it, outlives this memory or changes it.
    plan.shares_memory &= cgroup_parent.is_none() && extras.start.is_none() && extras.hooks.is_none();
    if plan.network.join.is_some() {
        plan.clone_flags &= !(libc::CLONE_NEWNET as u64);
    }
    let upper = match rootfs {
        Rootfs::Overlay { upper, .. } => Some(upper),
        Rootfs::Folder(_) => None,
    };
    let surroundings = Surroundings {
        cgroups,
        network,
        warnings,
        upper,
        pool,
        leaves_no_trace: pool::leaves_no_trace(&spec),
        new_network,
    };
    launch(plan, streams, extras, surroundings)
}

/// What a container needs besides its process.
#[derive(Default)]
pub(crate) struct Surroundings {
    pub(crate) cgroups: Cgroups,
    pub(crate) network: Network,
    pub(crate) warnings: Vec<Warning>,
    pub(crate) upper: Option<PathBuf>,
    pub(crate) pool: Option<(Arc<Pool>, CgroupKey)>,
    pub(crate) leaves_no_trace: bool,
    pub(crate) new_network: bool,
}

/// Makes the child that runs the plan.
pub(crate) fn launch(
    plan: Plan,
    streams: Streams,
    extras: &mut Extras<'_>,
    surroundings: Surroundings,
) -> Result<Launched, StartError> {
    let asks = plan.asks;
    let (ours, theirs) = socket_pair().map_err(setup("socket pair"))?;
    let this = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())
        .map_err(setup("open a handle of this process"))?;
    let said = match plan.create_hooks.is_empty() && plan.start_hooks.is_empty() {
        true => None,
        false => {
            let file = rustix::fs::memfd_create("hooks", rustix::fs::MemfdFlags::CLOEXEC);
            Some(File::from(file.map_err(setup("make a file for what hooks say"))?))
        }
    };
    let descriptors = Descriptors {
        said: said.as_ref().map(AsRawFd::as_raw_fd),
        socket: theirs.as_raw_fd(),
        parent_socket: ours.as_raw_fd(),
        parent: this.as_raw_fd(),
        joins: surroundings.cgroups.joins().map(AsRawFd::as_raw_fd).collect(),
        stdio: streams.theirs.each_ref().map(AsRawFd::as_raw_fd),
        start: extras.start.as_ref().map(AsRawFd::as_raw_fd),
        kept: extras.kept,
    };
    let task = Task::new(plan, descriptors)?;
    if let Some((pool, _)) = &surroundings.pool {
        // What it is mounted on may be what the last one wrote to.
        pool.await_unmounted();
    }
    let (pid, pidfd) = clone(&task, &surroundings.cgroups)?;
    drop(theirs);
    // Nobody but the child shall answer who wants to start it.
    extras.start = None;
    let Streams { theirs: _, stdin, stdout, stderr } = streams;
    let Surroundings { cgroups, network, warnings, upper, pool, leaves_no_trace, new_network } = surroundings;
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
        leaves_no_trace,
        status: None,
        ended: false,
        mounts: None,
        task: Some(task),
    };
    if !asks {
        container.network.attach(pid, new_network)?;
        go(&ours);
    }
    Ok(Launched { container, news: News { socket: ours, exec_is_next: false, new_network, said } })
}

/// Adds what hooks said to why they failed.
fn with_words(error: StartError, said: Option<&mut File>) -> StartError {
    const MOST: u64 = 4096;
    let mut text = Vec::new();
    let read = said.map(|said| {
        io::Seek::rewind(said)?;
        io::Read::take(said, MOST).read_to_end(&mut text)
    });
    match error {
        StartError::Setup { what, source } if what.starts_with("hook ") && matches!(read, Some(Ok(1..))) => {
            let words = format!("{source}: {}", String::from_utf8_lossy(&text).trim());
            StartError::Setup { what, source: io::Error::other(words) }
        }
        error => error,
    }
}

/// Tells the child to go on.
fn go(socket: &OwnedFd) {
    // A child that has failed already does not read; why it failed is read afterwards.
    let _ = rustix::net::send(socket, b"G", rustix::net::SendFlags::NOSIGNAL);
}

fn has_new_network(spec: &Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let new = |path: &Option<PathBuf>| path.as_ref().is_none_or(|path| path.as_os_str().is_empty());
    namespaces.into_iter().flatten().any(|one| one.typ() == LinuxNamespaceType::Network && new(one.path()))
}

fn socket_pair() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Makes the child. In the child this never returns.
fn clone(task: &Task, cgroups: &Cgroups) -> Result<(u32, OwnedFd), StartError> {
    let mut pidfd: i32 = -1;
    let mut arguments = sys::CloneArguments {
        // The cgroup namespace comes later: it starts at the cgroup that the child has joined. A process in between
        // makes all the others.
        flags: if task.plan.entry.stage { 0 } else { task.plan.clone_flags & !(libc::CLONE_NEWCGROUP as u64) }
            | libc::CLONE_PIDFD as u64,
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
    new_network: bool,
    /// What hooks in the container said.
    said: Option<File>,
}

impl News {
    /// Takes one message, waiting for it, and does for the child what it cannot do itself. Gives whether nothing more
    /// comes: the program runs, or waits to be started.
    fn take(&mut self, container: &mut Container, extras: &mut Extras<'_>) -> Result<bool, StartError> {
        let mut bytes = [0u8; crate::child::message::LONGEST];
        let (length, received) = receive(&self.socket, &mut bytes).map_err(setup("read from the child"))?;
        let bytes = &bytes[..length];
        let died = || StartError::Setup {
            what: "the child was killed while it prepared the container".to_owned(),
            source: io::Error::from(io::ErrorKind::UnexpectedEof),
        };
        let Some(plan) = container.task.as_ref().map(|task| &task.plan) else { return Ok(true) };
        match (bytes.first(), received) {
            (None, _) if self.exec_is_next => {
                container.task = None;
                return Ok(true);
            }
            (None, _) => return Err(died()),
            (Some(b'X'), _) => self.exec_is_next = true,
            (Some(b'R'), _) => {
                // It has a copy of it.
                container.task = None;
                return Ok(true);
            }
            (Some(b'T'), terminal) => container.terminal = terminal.map(File::from),
            (Some(b'S'), _) => container.made.extend(parse_made(bytes)),
            (Some(b'U'), _) => {
                if let Some(maps) = &plan.entry.new_user {
                    maps.give_to(container.pid)?;
                }
                raise_limits(container.pid, plan);
                go(&self.socket);
            }
            (Some(b'C'), Some(handle)) => {
                let pid = bytes.get(1..5).and_then(|bytes| bytes.try_into().ok()).ok_or_else(died)?;
                container.pid = u32::from_ne_bytes(pid);
                let between = std::mem::replace(&mut container.pidfd, handle);
                // What the process in between has to say it has said.
                let _ = rustix::process::waitid(WaitId::PidFd(between.as_fd()), WaitIdOptions::EXITED);
            }
            (Some(b'H'), _) => {
                container.network.attach(container.pid, self.new_network)?;
                if let Some(hooks) = &mut extras.hooks {
                    hooks(container.pid)?;
                }
                go(&self.socket);
            }
            (Some(b'L'), Some(listener)) => match &mut extras.listener {
                Some(take) => take(container.pid, listener)?,
                None => return Err(StartError::BadSpec { what: "nobody takes the seccomp listener".to_owned() }),
            },
            (Some(b'W'), _) => {
                if let Some(failure) = parse_failure(bytes) {
                    let reason = io::Error::from_raw_os_error(failure.errno).to_string();
                    container.warnings.push(Warning::LimitIgnored { limit: describe(plan, failure), reason });
                }
            }
            (Some(_), _) => {
                let error = parse_failure(bytes).map_or_else(died, |failure| start_error(plan, failure));
                return Err(with_words(error, self.said.as_mut()));
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
            self.news.take(&mut self.container, &mut Extras::default())?;
        }
        Ok(())
    }

    /// Waits until the program runs.
    pub fn started(self) -> Result<Container, StartError> {
        self.ready(&mut Extras::default())
    }

    /// Waits until the program runs, or waits to be started.
    pub(crate) fn ready(mut self, extras: &mut Extras<'_>) -> Result<Container, StartError> {
        while !self.news.take(&mut self.container, extras)? {}
        self.container.keep_mounts();
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
                && said.take(&mut self.container, &mut Extras::default())?
            {
                news = None;
                self.container.keep_mounts();
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
    /// Lets the process live on without this one.
    pub(crate) fn leave(mut self) -> (CgroupFolders, Vec<Warning>) {
        self.ended = true;
        let cgroups = std::mem::take(&mut self.cgroups).leave();
        (cgroups, std::mem::take(&mut self.warnings))
    }

    /// Lets the process live on without this one, and gives its number.
    pub fn detach(self) -> u32 {
        let pid = self.pid;
        self.leave();
        pid
    }

    /// Where its cgroup is.
    pub fn cgroup_folders(&self) -> CgroupFolders {
        self.cgroups.folders()
    }

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
        self.finish()
    }

    /// Waits likewise, and gives back what others may want to have: addresses and ports. What takes as long again and is in
    /// nobody's way, its mounts and cgroups, is removed when this is dropped.
    pub fn end(&mut self) -> Result<ExitStatus, WaitError> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        let status = self.wait_borrowed()?;
        self.status = Some(status);
        self.network.release(self.leaves_no_trace);
        if let Some(upper) =
            self.upper.as_ref().filter(|_| !self.made.is_empty()).and_then(|path| path.canonicalize().ok())
        {
            for made in self.made.drain(..).rev() {
                remove_mount_point(&upper, &made);
            }
        }
        Ok(status)
    }

    fn finish(&mut self) -> Result<ExitStatus, WaitError> {
        let status = self.end()?;
        self.ended = true;
        match self.pool.take() {
            Some((pool, key)) => {
                if self.leaves_no_trace && !status.oom_killed {
                    pool.keep_cgroups(key, std::mem::take(&mut self.cgroups));
                }
                pool.unmount(self.mounts.take());
            }
            None => self.mounts = None,
        }
        self.cgroups.remove();
        Ok(status)
    }

    /// Keeps the mounts beyond the end of its processes.
    fn keep_mounts(&mut self) {
        if self.upper.is_some() {
            let path = format!("/proc/{}/ns/mnt", self.pid);
            // A process that has ended already has unmounted everything.
            self.mounts = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok();
        }
    }

    /// Waits until the first process has ended; what it needed stays.
    pub(crate) fn wait_borrowed(&self) -> Result<ExitStatus, WaitError> {
        let status = loop {
            match rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED) {
                Ok(Some(status)) => break status,
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(WaitError(error.into())),
            }
        };
        let oom_killed = self.cgroups.oom_killed();
        Ok(ExitStatus { code: status.exit_status(), signal: status.terminating_signal(), oom_killed })
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if !self.ended {
            // Both fail only when it is gone already.
            let _ = self.kill(libc::SIGKILL);
            let _ = self.finish();
        }
    }
}

/// Raises what only a process outside of the container's user namespace may raise; the child says what is missing.
fn raise_limits(pid: u32, plan: &Plan) {
    for (resource, limit) in &plan.process.rlimits {
        // SAFETY: the limit lives until the call returns.
        unsafe { libc::syscall(libc::SYS_prlimit64, pid, *resource, limit as *const libc::rlimit64, 0) };
    }
}

/// Reads one message, and the descriptor that came with it.
pub(crate) fn receive(socket: &OwnedFd, bytes: &mut [u8]) -> rustix::io::Result<(usize, Option<OwnedFd>)> {
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

pub(crate) fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
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
