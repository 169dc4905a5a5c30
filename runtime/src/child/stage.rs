//! Enters namespaces; where only a child can be in them, this process stays behind and makes that child.
//!
//! ```text
//! join what may be joined from outside      while this is still the user that the starter is
//! join or make the user namespace           the starter maps users meanwhile
//! make the time namespace, set its clocks   while /proc/self still belongs to this process
//! become root inside
//! join the rest
//! clone                                     the child goes on, and is the starter's child, too
//! ```

use super::message::{Failure, Outbox, Step};
use crate::plan::{CLONE_NEWTIME, Entry, Plan};
use crate::sys::{self, Fd};
use std::os::fd::AsRawFd;

/// Enters all namespaces of the plan; returns in the process that is in all of them.
pub(super) fn enter(plan: &Plan, outbox: &Outbox) -> Result<(), Failure> {
    let entry = &plan.entry;
    if !entry.stage {
        // The clone has made a new user namespace, and everything else in it.
        if entry.waits_for_ids() {
            outbox.ask_for_ids()?;
            become_root()?;
        }
        return join(entry, true);
    }
    if entry.other_user() {
        join(entry, false)?;
        match user_join(entry) {
            Some((index, handle, kinds)) => sys::setns(handle, kinds).map_err(Step::Join.at(index))?,
            None => {
                sys::unshare(libc::CLONE_NEWUSER).map_err(Step::UserNamespace.fails())?;
                outbox.ask_for_ids()?;
            }
        }
        clocks(entry)?;
        become_root()?;
        join(entry, true)?;
    } else {
        join(entry, true)?;
        clocks(entry)?;
    }
    // The child is seen by the container's processes from its first moment on, and shall be nobody's business.
    sys::prctl(libc::PR_SET_DUMPABLE, 0, 0).map_err(Step::Session.fails())?;
    let later = (libc::CLONE_NEWUSER | libc::CLONE_NEWCGROUP) as u32 as u64;
    let mut pidfd: Fd = -1;
    let arguments = sys::CloneArguments {
        flags: plan.clone_flags & !later | (libc::CLONE_PARENT | libc::CLONE_PIDFD) as u64,
        pidfd: &raw mut pidfd as u64,
        ..Default::default()
    };
    // SAFETY: this process has one thread, and both go on with raw system calls.
    let pid = unsafe { sys::clone3(&arguments) }.map_err(Step::Clone.fails())?;
    if pid != 0 {
        outbox.child(pid as u32, pidfd).map_err(Step::Clone.fails())?;
        sys::exit(0);
    }
    Ok(())
}

/// The user namespace to join, with all that come with it.
fn user_join(entry: &Entry) -> Option<(usize, Fd, i32)> {
    let found = entry.joins.iter().enumerate().find(|(_, join)| join.kinds & libc::CLONE_NEWUSER != 0);
    found.map(|(index, join)| (index, join.handle.as_raw_fd(), join.kinds))
}

/// Joins everything but a user namespace. What may not be joined yet is left for the last time.
///
/// It is harmless to join again what was joined already.
fn join(entry: &Entry, last: bool) -> Result<(), Failure> {
    for (index, join) in entry.joins.iter().enumerate() {
        if join.kinds & libc::CLONE_NEWUSER != 0 {
            continue;
        }
        match sys::setns(join.handle.as_raw_fd(), join.kinds) {
            Ok(()) => {}
            // It may belong to the user namespace that this process is not in yet, or is no longer outside of.
            Err(libc::EPERM) if !last || entry.other_user() && already_in(join.handle.as_raw_fd(), join.kinds) => {}
            Err(error) => return Err(Step::Join.at(index)(error)),
        }
    }
    Ok(())
}

/// Whether this process is in a namespace, or its children will be.
fn already_in(handle: Fd, kind: i32) -> bool {
    let path = match kind {
        libc::CLONE_NEWNS => c"/proc/self/ns/mnt",
        libc::CLONE_NEWUTS => c"/proc/self/ns/uts",
        libc::CLONE_NEWIPC => c"/proc/self/ns/ipc",
        libc::CLONE_NEWPID => c"/proc/self/ns/pid_for_children",
        libc::CLONE_NEWNET => c"/proc/self/ns/net",
        libc::CLONE_NEWCGROUP => c"/proc/self/ns/cgroup",
        CLONE_NEWTIME => c"/proc/self/ns/time_for_children",
        _ => return false,
    };
    let Ok(own) = sys::open(path, libc::O_PATH | libc::O_CLOEXEC) else { return false };
    let same = match (sys::stat(own), sys::stat(handle)) {
        (Ok(own), Ok(other)) => (own.stx_ino, own.stx_dev_minor) == (other.stx_ino, other.stx_dev_minor),
        _ => false,
    };
    sys::close(own);
    same
}

fn become_root() -> Result<(), Failure> {
    sys::setresgid(0).map_err(Step::UserNamespace.fails())?;
    sys::setresuid(0).map_err(Step::UserNamespace.fails())
}

/// Makes a time namespace for the children, and sets its clocks, which can be done only before anybody is in it.
fn clocks(entry: &Entry) -> Result<(), Failure> {
    let Some(offsets) = &entry.time else { return Ok(()) };
    sys::unshare(CLONE_NEWTIME).map_err(Step::TimeNamespace.fails())?;
    if offsets.is_empty() {
        return Ok(());
    }
    let written = sys::open(c"/proc/self/timens_offsets", libc::O_WRONLY | libc::O_CLOEXEC).and_then(|file| {
        let written = sys::write(file, offsets);
        sys::close(file);
        written
    });
    written.map(drop).map_err(Step::TimeNamespace.fails())
}
