//! A container's life as its starter sees it: start, signals, streams, and how it ended.

use crate::cgroups::Cgroups;
use crate::child::Descriptors;
use crate::mount_point::{MountPointMade, parse_made, remove_mount_point};
use crate::network::Network;
use crate::plan::Plan;
use crate::pool::{self, CgroupKey, Pool};
use crate::start_error::{StartError, Warning, describe, parse_failure, setup, start_error};
use crate::stdio::{Size, Stdio, Streams, open_streams};
use crate::sys;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::process::{WaitId, WaitIdOptions};
use std::fs::File;
use std::io;
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
}

/// Starts a container; when this returns, its program runs.
///
/// Call it and [`Container::wait`] on one thread when `die_with_parent` is set.
pub fn start(config: ContainerConfig) -> Result<Container, StartError> {
    start_one(config, None)
}

/// Does the same for one of several containers of a build, with what an ended one left in the pool.
pub fn start_in_pool(config: ContainerConfig, pool: &Arc<Pool>) -> Result<Container, StartError> {
    start_one(config, Some(pool))
}

fn start_one(config: ContainerConfig, pool: Option<&Arc<Pool>>) -> Result<Container, StartError> {
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
    start_in(config, cgroups, warnings, pool.map(|pool| (pool.clone(), key)))
}

/// Starts a container in a cgroup that is there already.
pub(crate) fn start_in(
    config: ContainerConfig,
    cgroups: Cgroups,
    warnings: Vec<Warning>,
    pool: Option<(Arc<Pool>, CgroupKey)>,
) -> Result<Container, StartError> {
    let ContainerConfig { id: _, spec, rootfs, stdio, network, cgroup_parent: _, die_with_parent } = config;
    let (terminal, streams) = open_streams(stdio, spec.process().as_ref().map_or(0, |process| process.user().uid()))?;
    let new_network = has_new_network(&spec);
    let mut plan = Plan::new(&spec, &rootfs, &cgroups, network.plan(new_network), terminal, die_with_parent)?;
    if plan.network.join.is_some() {
        plan.clone_flags &= !(libc::CLONE_NEWNET as u64);
    }
    let (ours, theirs) = socket_pair().map_err(setup("socket pair"))?;
    let joins: Vec<i32> = cgroups.joins().map(AsRawFd::as_raw_fd).collect();
    let this = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())
        .map_err(setup("open a handle of this process"))?;
    let descriptors = Descriptors {
        socket: theirs.as_raw_fd(),
        parent_socket: ours.as_raw_fd(),
        parent: this.as_raw_fd(),
        joins: &joins,
        stdio: streams.theirs.each_ref().map(AsRawFd::as_raw_fd),
    };
    let (pid, pidfd) = clone(&plan, &descriptors, &cgroups)?;
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
    };
    container.network.attach(pid, new_network)?;
    // A child that has failed already does not read; why it failed is read below.
    let _ = rustix::net::send(&ours, b"G", rustix::net::SendFlags::NOSIGNAL);
    container.follow(&ours, &plan)?;
    Ok(container)
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
fn clone(plan: &Plan, descriptors: &Descriptors<'_>, cgroups: &Cgroups) -> Result<(u32, OwnedFd), StartError> {
    let mut pidfd: i32 = -1;
    let mut arguments = sys::CloneArguments {
        // The cgroup namespace comes later: it starts at the cgroup that the child has joined.
        flags: plan.clone_flags & !(libc::CLONE_NEWCGROUP as u64) | libc::CLONE_PIDFD as u64,
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
    // SAFETY: the child does raw system calls on memory of this thread's stack and heap only, then
    // execs or ends; it returns from here never. There is no CLONE_VM.
    let pid = unsafe { sys::clone3(&arguments) };
    match pid {
        Ok(0) => crate::child::run(plan, descriptors),
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
    /// Listens to the child until it execs.
    fn follow(&mut self, socket: &OwnedFd, plan: &Plan) -> Result<(), StartError> {
        let mut exec_is_next = false;
        loop {
            let mut bytes = [0u8; crate::child::message::LONGEST];
            let (length, received) = receive(socket, &mut bytes).map_err(setup("read from the child"))?;
            let bytes = &bytes[..length];
            let died = || StartError::Setup {
                what: "the child was killed while it prepared the container".to_owned(),
                source: io::Error::from(io::ErrorKind::UnexpectedEof),
            };
            match bytes.first() {
                None if exec_is_next => return Ok(()),
                None => return Err(died()),
                Some(b'X') => exec_is_next = true,
                Some(b'T') => self.terminal = received.map(File::from),
                Some(b'S') => self.made.extend(parse_made(bytes)),
                Some(b'W') => {
                    if let Some(failure) = parse_failure(bytes) {
                        let reason = io::Error::from_raw_os_error(failure.errno).to_string();
                        self.warnings.push(Warning::LimitIgnored { limit: describe(plan, failure), reason });
                    }
                }
                Some(_) => {
                    return Err(parse_failure(bytes).map_or_else(died, |failure| start_error(plan, failure)));
                }
            }
        }
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
