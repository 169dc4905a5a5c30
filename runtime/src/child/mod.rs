//! The child between clone and exec: it runs the [`Plan`] with raw system calls alone.
//!
//! ```text
//! signals, cgroups, session     reset, joined, new
//! namespaces                    joined, or made where the clone could not; a process in between may stay behind
//! root                          overlay or folder, private, not yet `/`
//! mounts                        each on a descriptor that was opened inside the root
//! devices, terminal, links, sysctls, masked and read-only paths
//! pivot                         the old root is gone
//! names, limits, network        waits here until the parent has done its part
//! identity                      seccomp, groups, user, capabilities
//! exec                          the error socket closes itself: that is the good news
//! ```
//!
//! A container that is created first waits before its identity, and what goes wrong then is told to who starts it.
//! A program that joins a running container finds its root and takes the same way from the limits on.
//!
//! Nothing in this folder may allocate, lock, or panic on purpose: the parent had threads, and their
//! locks are held forever in this copy of its memory. Mostly it is no copy but that memory itself: nothing
//! may be written but what is on the child's own stack.

mod hooks;
pub(crate) mod message;
mod mounts;
pub(crate) mod net;
mod program;
mod stage;
mod target;

use crate::plan::{Plan, ProcessPlan, RootPlan};
use crate::sys::{self, Fd};
use message::{Failure, Outbox, Step};
use std::ffi::CStr;

/// The descriptors that the child needs; they stay open in the parent, too.
pub(crate) struct Descriptors {
    /// The child's end of the socket to the parent.
    pub(crate) socket: Fd,
    /// The parent's end, which the child closes, lest it wait for itself.
    pub(crate) parent_socket: Fd,
    /// The parent's process, which can be asked whether it lives.
    pub(crate) parent: Fd,
    /// Files of v1 cgroups; writing `0` joins.
    pub(crate) joins: Vec<Fd>,
    /// What becomes 0, 1 and 2; not below 3. Unused with a terminal.
    pub(crate) stdio: [Fd; 3],
    /// A listening socket; the program starts when somebody says so there.
    pub(crate) start: Option<Fd>,
    /// How many descriptors from 3 on the program gets, too.
    pub(crate) kept: u32,
    /// Takes what hooks in the container say.
    pub(crate) said: Option<Fd>,
}

/// Becomes the container's program, or tells the parent why not.
pub(crate) fn run(plan: &Plan, descriptors: &Descriptors) -> ! {
    let mut outbox = Outbox { socket: descriptors.socket, root_device: None };
    sys::close(descriptors.parent_socket);
    if let Err(failure) = prepare_and_exec(plan, descriptors, &mut outbox) {
        outbox.failure(failure);
    }
    sys::exit(127)
}

fn prepare_and_exec(plan: &Plan, descriptors: &Descriptors, outbox: &mut Outbox) -> Result<(), Failure> {
    die_with_parent(descriptors.parent)?;
    sys::reset_signal_handlers();
    sys::umask(0);
    // Another user namespace, or another /proc, would be in the way.
    oom_score(&plan.process, outbox);
    for (index, &join) in descriptors.joins.iter().enumerate() {
        sys::write(join, b"0").map_err(Step::JoinCgroup.at(index))?;
    }
    stage::enter(plan, outbox)?;
    if plan.entry.stage {
        die_with_parent(descriptors.parent)?;
    }
    if plan.clone_flags & libc::CLONE_NEWCGROUP as u64 != 0 {
        sys::unshare(libc::CLONE_NEWCGROUP).map_err(Step::CgroupNamespace.fails())?;
    }
    if let Some(namespace) = plan.network.join {
        // Before the mounts: a sysfs shows the network of whoever mounts it.
        sys::setns(namespace, libc::CLONE_NEWNET).map_err(Step::Network.at(6))?;
    }
    sys::setsid().map_err(Step::Session.fails())?;
    if !plan.shares_memory || plan.entry.stage {
        // It may have company, whose business /proc/PID is not until its own program runs.
        sys::prctl(libc::PR_SET_DUMPABLE, 0, 0).map_err(Step::Session.fails())?;
    }

    let console = match (&plan.root, plan.terminal) {
        (Some(root), _) => change_root(plan, root, descriptors, outbox)?,
        (None, Some(size)) => Some(mounts::terminal_inside(size, plan.process.uid, outbox)?),
        (None, None) => None,
    };
    limits(&plan.process, outbox)?;
    streams(console, descriptors)?;
    if !plan.asks {
        // The parent attaches the network meanwhile.
        outbox.wait_for_go()?;
    }
    net::configure(&plan.network)?;
    become_user_and_exec(plan, descriptors, outbox)
}

/// Mounts all that the container has, and makes it the root. Gives the terminal, if there is one.
fn change_root(
    plan: &Plan,
    root: &RootPlan,
    descriptors: &Descriptors,
    outbox: &mut Outbox,
) -> Result<Option<Fd>, Failure> {
    let root = mounts::root(root, &plan.propagation)?;
    outbox.root_device = sys::stat(root).ok().map(|stat| (stat.stx_dev_major, stat.stx_dev_minor));
    mounts::all(root, &plan.mounts, outbox)?;
    mounts::devices(root, &plan.devices)?;
    mounts::links(root, &plan.links)?;
    let console = match plan.terminal {
        Some(size) => Some(mounts::terminal(root, size, plan.process.uid, outbox)?),
        None => None,
    };
    for (index, (path, value)) in plan.sysctls.iter().enumerate() {
        mounts::write_sysctl(root, path, value).map_err(Step::Sysctl.at(index))?;
    }
    mounts::working_directory(root, &plan.process.cwd_in_root)?;
    if plan.asks {
        outbox.ask_for_hooks()?;
        hooks::run(&plan.create_hooks, Step::CreateHook, descriptors.said)?;
    }
    mounts::read_only(root, &plan.read_only)?;
    mounts::mask(root, &plan.masked)?;
    if plan.root_read_only {
        let attributes = sys::MountAttributes { set: sys::MOUNT_ATTR_RDONLY, ..Default::default() };
        sys::mount_setattr(root, &attributes, false).map_err(Step::ReadOnlyRoot.fails())?;
    }
    if plan.no_pivot {
        mounts::move_to_root(root)?;
    } else {
        mounts::pivot(root)?;
    }

    if let Some(name) = &plan.hostname {
        sys::sethostname(name).map_err(Step::Hostname.fails())?;
    }
    if let Some(name) = &plan.domainname {
        sys::setdomainname(name).map_err(Step::Hostname.fails())?;
    }
    Ok(console)
}

/// Asks to be killed when the parent is, and makes sure that it was not already.
fn die_with_parent(parent: Fd) -> Result<(), Failure> {
    sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0).map_err(Step::Parent.fails())?;
    let mut poll = libc::pollfd { fd: parent, events: libc::POLLIN, revents: 0 };
    match sys::poll(&mut poll) {
        Ok(0) => Ok(()),
        Ok(_) => Err(Step::Parent.fails()(libc::ESRCH)),
        Err(error) => Err(Step::Parent.fails()(error)),
    }
}

/// Resource limits; where raising is forbidden, as much as is allowed.
fn limits(process: &ProcessPlan, outbox: &Outbox) -> Result<(), Failure> {
    for (index, (resource, limit)) in process.rlimits.iter().enumerate() {
        match sys::prlimit(*resource, Some(limit)) {
            Ok(_) => {}
            Err(libc::EPERM) => {
                let current = sys::prlimit(*resource, None).map_err(Step::Limit.at(index))?;
                let hard = limit.rlim_max.min(current.rlim_max);
                let clamped = libc::rlimit64 { rlim_cur: limit.rlim_cur.min(hard), rlim_max: hard };
                sys::prlimit(*resource, Some(&clamped)).map_err(Step::Limit.at(index))?;
                outbox.warning(Step::Limit.at(index)(libc::EPERM));
            }
            Err(error) => return Err(Step::Limit.at(index)(error)),
        }
    }
    if let Some(persona) = process.personality {
        sys::personality(persona).map_err(Step::Priority.at(0))?;
    }
    if let Some(scheduler) = &process.scheduler {
        sys::sched_setattr(scheduler).map_err(Step::Priority.at(1))?;
    }
    if let Some(priority) = process.io_priority {
        sys::ioprio_set(priority).map_err(Step::Priority.at(2))?;
    }
    Ok(())
}

fn oom_score(process: &ProcessPlan, outbox: &Outbox) {
    let Some(score) = &process.oom_score_adj else { return };
    let written = sys::open(c"/proc/self/oom_score_adj", libc::O_WRONLY | libc::O_CLOEXEC).and_then(|file| {
        let written = sys::write(file, score);
        sys::close(file);
        written
    });
    if let Err(error) = written {
        outbox.warning(Step::OomScore.fails()(error));
    }
}

/// Puts the three streams where every program expects them.
fn streams(console: Option<Fd>, descriptors: &Descriptors) -> Result<(), Failure> {
    if let Some(console) = console {
        sys::ioctl(console, sys::TIOCSCTTY, 0).map_err(Step::Terminal.fails())?;
    }
    for (number, &stream) in descriptors.stdio.iter().enumerate() {
        sys::dup3(console.unwrap_or(stream), number as Fd).map_err(Step::Streams.fails())?;
    }
    Ok(())
}

/// Closes all descriptors but the first few and these, which close themselves at exec.
///
/// Closing the others at exec would be too late: the working directory, the program, its interpreter and its loader
/// are looked up before, and their paths may lead through `/proc/self/fd` to folders of the host (CVE-2024-21626).
fn close_all_but(mut needed: [Fd; 4], first: u32) -> Result<(), Failure> {
    needed.sort_unstable();
    let mut next = first;
    for fd in needed {
        let fd = fd as u32;
        if fd >= next {
            // There is nothing between when they are neighbors.
            if fd > next {
                sys::close_range(next, fd - 1).map_err(Step::Descriptors.fails())?;
            }
            next = fd + 1;
        }
    }
    sys::close_range(next, u32::MAX).map_err(Step::Descriptors.fails())
}

fn become_user_and_exec(plan: &Plan, descriptors: &Descriptors, outbox: &mut Outbox) -> Result<(), Failure> {
    let (process, parent) = (&plan.process, descriptors.parent);
    let optional = |fd: Option<Fd>| fd.unwrap_or(parent);
    let needed = [outbox.socket, parent, optional(descriptors.start), optional(descriptors.said)];
    close_all_but(needed, 3 + descriptors.kept)?;
    sys::umask(process.umask);
    if !process.keep_keyring {
        // A keyring of the starter's session would be readable inside; kernels without keyrings are fine.
        let _ = sys::join_new_keyring();
    }
    let sets = &process.capabilities;
    for capability in 0..64u64 {
        if sets.bounding & 1 << capability == 0 {
            match sys::prctl(libc::PR_CAPBSET_DROP, capability, 0) {
                Ok(_) => {}
                Err(libc::EINVAL) => break, // The kernel's last one was before.
                Err(error) => return Err(Step::Capabilities.fails()(error)),
            }
        }
    }
    program::check(&process.candidates).map_err(Step::Exec.fails())?;
    if let Some(listener) = descriptors.start {
        find_program(process)?;
        wait_for_start(listener, outbox)?;
    }
    if descriptors.start.is_some() || !plan.start_hooks.is_empty() {
        hooks::run(&plan.start_hooks, Step::StartHook, descriptors.said)?;
        // The container may have changed meanwhile.
        program::check(&process.candidates).map_err(Step::Exec.fails())?;
    }
    // Without no_new_privs the kernel takes a filter only from those who may administer the machine.
    if !process.no_new_privileges {
        install_filter(process, outbox)?;
    }
    let entered = sys::chdir(&process.cwd);
    sys::prctl(libc::PR_SET_KEEPCAPS, 1, 0).map_err(Step::User.fails())?;
    match sys::setgroups(&process.groups) {
        // A plain user without helpers may not leave the groups it has.
        Err(libc::EPERM) if process.groups.is_empty() && plan.entry.other_user() => {}
        Err(libc::EPERM) if process.keeps_groups => {}
        other => other.map_err(Step::User.fails())?,
    }
    sys::setresgid(process.gid).map_err(Step::User.fails())?;
    sys::setresuid(process.uid).map_err(Step::User.fails())?;
    if entered.is_err() {
        // The user may be allowed where root is not, as on a network filesystem.
        sys::chdir(&process.cwd).map_err(Step::WorkingDirectory.fails())?;
    }
    check_inside()?;
    sys::capset(sets.effective, sets.permitted, sets.inheritable).map_err(Step::Capabilities.fails())?;
    for capability in 0..64u64 {
        if sets.ambient & 1 << capability != 0 {
            const PR_CAP_AMBIENT_RAISE: u64 = 2;
            sys::prctl(libc::PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability).map_err(Step::Capabilities.fails())?;
        }
    }
    if process.die_with_parent {
        // Again, as the change of user cleared it.
        die_with_parent(parent)?;
    } else {
        sys::prctl(libc::PR_SET_PDEATHSIG, 0, 0).map_err(Step::Parent.fails())?;
    }
    if process.no_new_privileges {
        sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map_err(Step::Seccomp.fails())?;
        install_filter(process, outbox)?;
    }
    sys::unblock_signals();
    exec(process, outbox)
}

/// Makes sure that there is a program, so that who creates a container hears of it, and not who starts it.
fn find_program(process: &ProcessPlan) -> Result<(), Failure> {
    let mut worst = libc::ENOENT;
    for candidate in &process.candidates {
        match sys::is_executable(candidate) {
            Ok(()) => return Ok(()),
            Err(libc::EACCES) => worst = libc::EACCES,
            Err(_) => {}
        }
    }
    Err(Step::Exec.fails()(worst))
}

/// Tells the creator that all is ready, and waits for somebody who says go; from then on that one is told what happens.
fn wait_for_start(listener: Fd, outbox: &mut Outbox) -> Result<(), Failure> {
    // The creator ends, and that is no reason to.
    sys::prctl(libc::PR_SET_PDEATHSIG, 0, 0).map_err(Step::Wait.fails())?;
    outbox.ready();
    let creator = outbox.socket;
    loop {
        let starter = sys::accept(listener).map_err(Step::Wait.fails())?;
        let mut word = [0u8; 1];
        if sys::read(starter, &mut word) == Ok(1) {
            // It closes at exec, which is the news that the starter waits for.
            sys::close(creator);
            sys::close(listener);
            outbox.socket = starter;
            return Ok(());
        }
        // It went away without a word.
        sys::close(starter);
    }
}

fn install_filter(process: &ProcessPlan, outbox: &Outbox) -> Result<(), Failure> {
    let Some(filter) = &process.filter else { return Ok(()) };
    let listener = sys::seccomp(&filter.instructions, filter.flags).map_err(Step::Seccomp.fails())?;
    if filter.listens() {
        outbox.listener(listener as Fd).map_err(Step::Listener.fails())?;
        sys::close(listener as Fd);
    }
    Ok(())
}

/// A working directory outside the root has no absolute name (CVE-2024-21626).
fn check_inside() -> Result<(), Failure> {
    let mut path = [0u8; 4096];
    match sys::getcwd(&mut path) {
        Ok(_) if path[0] == b'/' => Ok(()),
        Ok(_) => Err(Step::WorkingDirectory.fails()(libc::ENOENT)),
        Err(error) => Err(Step::WorkingDirectory.fails()(error)),
    }
}

/// Tries each place the program may be at, as a shell does.
fn exec(process: &ProcessPlan, outbox: &Outbox) -> Result<(), Failure> {
    outbox.about_to_exec();
    let mut worst = libc::ENOENT;
    for candidate in &process.candidates {
        let candidate: &CStr = candidate;
        match sys::execve(candidate.as_ptr().cast(), process.argv.as_ptr(), process.environment.as_ptr()) {
            libc::ENOENT | libc::ENOTDIR if process.candidates.len() > 1 => {}
            libc::EACCES if process.candidates.len() > 1 => worst = libc::EACCES,
            error => return Err(Step::Exec.fails()(error)),
        }
    }
    Err(Step::Exec.fails()(worst))
}
