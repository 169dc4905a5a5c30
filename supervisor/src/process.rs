//! Processes that may have ended meanwhile: which one was meant, and signals that reach only that one.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::record::Process;

impl Process {
    /// Returns a process as it is now; none when it has ended.
    pub fn of(pid: u32) -> Option<Self> {
        Some(Self { pid, start: start_time(pid)?, boot: boot_id() })
    }

    /// Returns a handle of the process, if it still lives.
    pub fn open(&self) -> Option<OwnedFd> {
        if self.boot != boot_id() {
            return None;
        }
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        let handle = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // The number may have gone to another process before the handle was opened, not after.
        (start_time(self.pid)? == self.start).then_some(handle)
    }

    /// Looks at the process by its number; none when that was not surely this process.
    pub fn look<T>(&self, look: impl FnOnce(u32) -> T) -> Option<T> {
        let _handle = self.open()?;
        let seen = look(self.pid);
        // Only now is it sure whose number that was.
        self.open().map(|_| seen)
    }

    /// Sends a signal, if the process still lives; says whether it did.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn signal(&self, signal: i32) -> io::Result<bool> {
        let Some(handle) = self.open() else { return Ok(false) };
        // SAFETY: the descriptor is open; the kernel checks the signal's number.
        let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, handle.as_raw_fd(), signal, 0, 0) };
        match io::Error::last_os_error() {
            _ if sent == 0 => Ok(true),
            error if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
            error => Err(error),
        }
    }
}

/// Returns what the kernel calls this run of the machine.
pub fn boot_id() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim_end().to_owned()
}

/// Returns when a process started, in the kernel's ticks; none if there is no such process, or it is a zombie.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything, a parenthesis too.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start() {
        let this = Process::of(std::process::id()).expect("alive");
        assert!(this.open().is_some());
        assert!(Process { start: this.start + 1, ..this.clone() }.open().is_none());
        assert!(Process { boot: "other".into(), ..this.clone() }.open().is_none());
        assert!(this.signal(0).expect("allowed"));
        assert!(!Process { pid: u32::MAX / 2, ..this }.signal(0).expect("nobody"));
    }
}
