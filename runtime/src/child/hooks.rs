//! Runs hooks in the container's namespaces, with raw system calls.

use super::message::{Failure, Step};
use crate::plan::HookPlan;
use crate::sys::{self, Fd};

/// Runs hooks in order; the first that fails, or takes too long, ends that.
///
/// Each gets the container's state on its standard input. Where the state has the process's number there is a hole,
/// because only this process knows how its own namespace counts it.
pub(super) fn run(hooks: &[HookPlan], step: Step, said: Option<Fd>) -> Result<(), Failure> {
    for (index, hook) in hooks.iter().enumerate() {
        run_one(hook, said).map_err(step.at(index))?;
    }
    Ok(())
}

fn run_one(hook: &HookPlan, said: Option<Fd>) -> Result<(), i32> {
    // In the container's root a hook may be a link to the program that this process still is.
    super::program::check(std::slice::from_ref(&hook.path))?;
    let state = state(hook)?;
    let mut pidfd: Fd = -1;
    let arguments = sys::CloneArguments {
        flags: libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..Default::default()
    };
    // SAFETY: this process has one thread, and the child execs or ends.
    let pid = unsafe { sys::clone3(&arguments) }?;
    if pid == 0 {
        sys::exit(start(hook, state, said));
    }
    sys::close(state);
    let ended = match sys::wait_readable(pidfd, hook.timeout) {
        Ok(true) => Ok(()),
        Ok(false) => {
            // It fails only when the hook has just ended.
            let _ = sys::kill(pidfd, libc::SIGKILL);
            Err(libc::ETIMEDOUT)
        }
        Err(error) => Err(error),
    };
    let status = sys::wait(pidfd);
    sys::close(pidfd);
    ended?;
    match status? {
        0 => Ok(()),
        // No error of the kernel is negative.
        code => Err(-code),
    }
}

/// In the hook's own process: gives the exit code when it cannot start.
fn start(hook: &HookPlan, state: Fd, said: Option<Fd>) -> i32 {
    const NOT_STARTED: i32 = 127;
    let output = said.map_or(Ok(()), |said| sys::dup3(said, 1).and_then(|()| sys::dup3(said, 2)));
    if output.is_err() || sys::dup3(state, 0).is_err() {
        return NOT_STARTED;
    }
    sys::unblock_signals();
    sys::execve(hook.path.as_ptr().cast(), hook.argv.as_ptr(), hook.environment.as_ptr());
    NOT_STARTED
}

/// A file in memory with the state: unlike a pipe it keeps nobody waiting for a hook that does not read.
fn state(hook: &HookPlan) -> Result<Fd, i32> {
    let mut digits = [b' '; 10];
    let mut rest = sys::getpid();
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    let (before, after) = hook.state.split_at(hook.pid_at.min(hook.state.len()));
    let file = sys::memory_file(c"state")?;
    for mut part in [before, &digits, after] {
        while !part.is_empty() {
            let written = sys::write(file, part)?;
            part = &part[written..];
        }
    }
    sys::rewind(file)?;
    Ok(file)
}
