//! Hooks in the namespace of this process.

use super::BundleError;
use oci_spec::runtime::Hook;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

/// So much of what a hook says is shown.
const MOST_SAID: u64 = 4096;

/// Runs hooks in order, each with the container's state on its standard input; the first that fails ends that.
pub(super) fn run(hooks: Option<&Vec<Hook>>, bundle: &Path, state: &[u8]) -> Result<(), BundleError> {
    hooks.into_iter().flatten().try_for_each(|hook| run_one(hook, bundle, state))
}

fn run_one(hook: &Hook, bundle: &Path, state: &[u8]) -> Result<(), BundleError> {
    let failed = |what: String| BundleError::Hook { path: hook.path().clone(), what };
    match start_and_wait(hook, bundle, state) {
        Ok((Some(status), _)) if status.success() => Ok(()),
        Ok((Some(status), said)) if said.is_empty() => Err(failed(status.to_string())),
        Ok((Some(status), said)) => Err(failed(format!("{status}: {said}"))),
        Ok((None, _)) => Err(failed(format!("it took longer than {} s", hook.timeout().unwrap_or(0)))),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Gives how the hook ended, unless it took too long, and what it said.
#[expect(clippy::disallowed_methods, reason = "the bundle names the program")]
fn start_and_wait(hook: &Hook, bundle: &Path, state: &[u8]) -> std::io::Result<(Option<ExitStatus>, String)> {
    // Files in memory: nobody waits for a hook that does not read, or for what it leaves running with our pipe.
    let mut input = memory()?;
    input.write_all(state)?;
    input.rewind()?;
    let mut said = memory()?;
    let mut command = Command::new(hook.path());
    let args = hook.args().as_deref().unwrap_or_default();
    if let Some((name, rest)) = args.split_first() {
        command.arg0(name).args(rest);
    }
    let env = hook.env().iter().flatten();
    let mut child = command
        .env_clear()
        .envs(env.map(|variable| variable.split_once('=').unwrap_or((variable, ""))))
        .current_dir(bundle)
        .stdin(Stdio::from(input))
        .stdout(Stdio::from(said.try_clone()?))
        .stderr(Stdio::from(said.try_clone()?))
        .spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    let pid = pid.ok_or_else(|| std::io::Error::other("no process"))?;
    let handle = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    let left = crate::plan::hook_timeout(hook).map(|time| Timespec { tv_sec: time.as_secs() as i64, tv_nsec: 0 });
    let ended = loop {
        match poll(&mut [PollFd::new(&handle, PollFlags::IN)], left.as_ref()) {
            Ok(ready) => break ready > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    if !ended {
        child.kill()?;
    }
    let status = child.wait()?;
    said.rewind()?;
    let mut text = Vec::new();
    said.take(MOST_SAID).read_to_end(&mut text)?;
    Ok((ended.then_some(status), String::from_utf8_lossy(&text).trim().to_owned()))
}

fn memory() -> std::io::Result<File> {
    Ok(File::from(rustix::fs::memfd_create("hook", rustix::fs::MemfdFlags::CLOEXEC)?))
}
