//! When the process that watches a container is asked to end: it stops the container first.
//!
//! The machine goes down, or a service with all that it started is stopped: SIGTERM comes to everybody, and a while later
//! SIGKILL. The container gets its own signal and its own time to stop, as from `slipway stop`, and how it ended is written
//! down. It is not started again: whoever ends a supervisor does not want another one.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::Instant;

use runtime::CgroupFolders;

use super::Watch;
use crate::containers::ContainerError;
use crate::record::{State, Status};
use crate::signals;

/// Holds signals back that would end this process, and with it the container.
pub(super) fn hold_signals() {
    let held = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2];
    let held = set(&held);
    // SAFETY: it is a set of signals.
    unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const held, std::ptr::null_mut()) };
}

/// Opens what is readable when SIGTERM has come. What a terminal sends (there is none here) stays held back.
pub(super) fn asked() -> io::Result<OwnedFd> {
    let term = set(&[libc::SIGTERM]);
    // SAFETY: it is a set of signals.
    match unsafe { libc::signalfd(-1, &raw const term, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the kernel has just made it.
        number => Ok(unsafe { OwnedFd::from_raw_fd(number) }),
    }
}

fn set(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: zeros are an empty set, and it lives on this stack.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        for &signal in signals {
            libc::sigaddset(&raw mut all, signal);
        }
        all
    }
}

impl Watch {
    /// Asks the program to stop, and lets it be killed when it does not.
    pub(super) fn stop(&mut self) {
        let mut told = [0; size_of::<libc::signalfd_siginfo>()];
        // It only has to be read.
        let _: rustix::io::Result<usize> = rustix::io::read(&self.asked_to_end, &mut told);
        // A container that was removed ends all the same.
        let _: Result<State, ContainerError> = self.container.change(|state| {
            state.stop_asked = true;
            if state.status == Status::Paused {
                state.status = Status::Running;
            }
        });
        // One that waits to be started again is not.
        self.look();
        let Some(live) = &self.live else { return };
        if let Ok(folders) = CgroupFolders::of_process(live.container.pid()) {
            // Who is frozen hears nothing, and where nobody can be frozen nobody is.
            let _: io::Result<()> = folders.freeze(false);
        }
        let config = &self.container.record.config;
        let signal = config.stops_by(None).unwrap_or(signals::TERM);
        // It fails when it has ended already.
        let _: io::Result<()> = live.container.kill(signal);
        self.container.emit("kill", (self.now)(), &[("signal", &signal.to_string())]);
        self.kill_at = self.kill_at.or_else(|| Instant::now().checked_add(config.stops_within(None)?));
    }

    /// Ends the program at once.
    pub(super) fn kill(&self) {
        if let Some(live) = &self.live {
            // It fails when it has ended already.
            let _: io::Result<()> = live.container.kill(signals::KILL);
        }
    }
}
