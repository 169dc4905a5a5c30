//! A person's shell in the files of a build's step: with its variables, user, folder and mounts.

use std::any::Any;
use std::io::{self, Read, Write};
use std::sync::mpsc::Receiver;
use std::sync::{Mutex, PoisonError};

use builder::{ExecStep, ExecuteError, Executor, ExitStatus, MountKind, Overlay, StepMount};
use layer::{NodeKind, Tree};
use runtime::{Container, Size, Stdio, Stream};
use store::{Snapshot, Store};

use crate::containers::RunStreams;
use crate::executor::{self, ContainerExecutor, StepError};
use crate::recorder::Recorder;

/// The ends of a shell: what it reads and writes, and the terminal that it may have.
pub struct ShellEnds {
    /// What it reads; nothing when `None`.
    pub stdin: Option<Box<dyn Read + Send>>,
    /// What takes its output, or all that it shows on its terminal.
    pub stdout: Box<dyn Write + Send>,
    /// What takes its errors, when it has no terminal.
    pub stderr: Box<dyn Write + Send>,
    /// How large its terminal is; it has none when `None`.
    pub terminal: Option<Option<Size>>,
    /// Tells new sizes of the terminal.
    pub resized: Option<Receiver<Size>>,
    /// Gives the person's terminal back when it is dropped.
    pub guard: Option<Box<dyn Any + Send>>,
}

impl std::fmt::Debug for ShellEnds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShellEnds").field("terminal", &self.terminal).finish_non_exhaustive()
    }
}

/// What a person is told before a shell opens.
#[derive(Clone, Debug)]
pub struct FailedStep {
    /// What the process was called with.
    pub command: String,
    /// How it ended.
    pub exit_code: i32,
}

/// Gives a person's terminal to a shell in a step that failed.
pub trait ShellOnError: Send + Sync {
    /// Takes the terminal from the view of the build. The shell has it until the ends are dropped.
    ///
    /// # Errors
    ///
    /// When there is no terminal any more: then there is no shell.
    fn begin(&self, failed: &FailedStep) -> io::Result<ShellEnds>;

    /// Says why there is no shell.
    fn refused(&self, why: &str);
}

/// Runs the steps of a build as containers; keeps what a failed one wrote, and lets a person look at it.
pub(crate) struct KeepingExecutor<'a> {
    pub(crate) store: &'a Store,
    pub(crate) recorder: &'a Recorder,
    pub(crate) shell: Option<&'a dyn ShellOnError>,
    /// Whether a shell was opened; held while it is open.
    pub(crate) opened: Mutex<bool>,
    /// Who runs the steps.
    pub(crate) inner: ContainerExecutor,
}

impl Executor for KeepingExecutor<'_> {
    fn expect(&self, network: builder::Network) {
        self.inner.expect(network);
    }

    fn execute(&self, step: &ExecStep<'_>) -> Result<ExitStatus, ExecuteError> {
        if let Some(writer) = &self.recorder.writer {
            // It may take hours from here, and somebody may want to know what runs.
            writer.flush();
        }
        let status = self.inner.execute(step)?;
        if status.code != 0 {
            self.failed(step, status)?;
        }
        Ok(status)
    }
}

impl KeepingExecutor<'_> {
    fn failed(&self, step: &ExecStep<'_>, status: ExitStatus) -> Result<(), ExecuteError> {
        let writer = self.recorder.writer.as_ref();
        // What cannot be kept is looked at where it is.
        let kept = writer.and_then(|writer| writer.keep(step.id.0, &step.rootfs.upper).ok());
        let upper = kept.unwrap_or_else(|| step.rootfs.upper.clone());
        let Some(shell) = self.shell else { return Ok(()) };
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *opened, true) {
            // Another step failed first, and a person has looked at it: that one is what the build fails of, as soon as
            // the solver has heard of it.
            drop(opened);
            let (stopped, waiting) = std::sync::mpsc::channel();
            let _guard = step.cancel.on_cancel(move || {
                // Somebody waits, just below.
                let _: Result<(), _> = stopped.send(());
            });
            let _: Result<(), _> = waiting.recv();
            return Err(ExecuteError::Cancelled);
        }
        let failed = FailedStep { command: step.argv.join(" "), exit_code: status.code };
        let dirs = std::iter::once(upper).chain(step.rootfs.lower.iter().cloned()).collect();
        let files = Snapshot { chain: None, dirs };
        let begin = |_: bool| shell.begin(&failed).map_err(OpenShellError::Terminal);
        if let Err(error) = open(self.store, &files, step, &[], &[], begin) {
            shell.refused(&executor::describe(&error));
        }
        Ok(())
    }
}

/// Why there is no shell.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum OpenShellError {
    #[error("the files of this step have no shell: neither {tried}")]
    NoShell { tried: String },
    #[error("cannot prepare the files of the step")]
    Snapshot(#[from] store::SnapshotError),
    #[error("cannot look at the files of the step")]
    Tree(#[from] layer::TreeError),
    #[error("cannot use the terminal")]
    Terminal(#[source] io::Error),
    #[error("cannot start the shell")]
    Start(#[from] StepError),
}

/// Opens a shell, or runs a command, on top of some files; what it writes goes away with it.
///
/// `ends` is called once everything is ready but the shell itself; it is told whether a borrowed shell stands in for one
/// that the files lack.
pub(crate) fn open(
    store: &Store,
    files: &Snapshot,
    like: &ExecStep<'_>,
    shell: &[String],
    command: &[String],
    ends: impl FnOnce(bool) -> Result<ShellEnds, OpenShellError>,
) -> Result<ExitStatus, OpenShellError> {
    let active = store.snapshots().begin(files)?;
    let mut mounts = like.mounts.clone();
    let mut borrowed = false;
    let argv = match command {
        [] => match find_shell(&files.tree()?, shell)? {
            Some(found) => vec![found],
            None => {
                let busybox = static_busybox().ok_or_else(|| OpenShellError::NoShell { tried: tried(shell) })?;
                borrowed = true;
                mounts.push(StepMount {
                    target: BORROWED.into(),
                    kind: MountKind::Bind { source: busybox, read_only: true },
                });
                vec![BORROWED.into(), "sh".into()]
            }
        },
        command => command.to_vec(),
    };
    let ends = ends(borrowed)?;
    let mut env = like.env.clone();
    if ends.terminal.is_some() && !env.iter().any(|(name, _)| name == "TERM") {
        env.push(("TERM".into(), "xterm".into()));
    }
    let step = ExecStep {
        id: like.id,
        rootfs: Overlay {
            lower: active.lower().map_err(store::SnapshotError::from)?,
            upper: active.upper(),
            work: active.work(),
        },
        argv,
        env,
        cwd: like.cwd.clone(),
        user: like.user.clone(),
        hostname: like.hostname.clone(),
        mounts,
        network: like.network,
        security: like.security,
        shm_size: like.shm_size,
        ulimits: like.ulimits,
        add_hosts: like.add_hosts,
        cgroup_parent: like.cgroup_parent,
        output: &|_, _| {},
        cancel: like.cancel,
    };
    Ok(live(&step, ends)?)
}

/// Where a shell of the machine is mounted when the files have none; it goes by this name.
const BORROWED: &str = "/dev/busybox";

/// A container's whole life, on this thread.
fn live(step: &ExecStep<'_>, ends: ShellEnds) -> Result<ExitStatus, StepError> {
    let ShellEnds { stdin, stdout, stderr, terminal, resized, guard } = ends;
    let stdio = match terminal {
        Some(size) => Stdio::Terminal { size },
        None => Stdio::Streams {
            stdin: if stdin.is_some() { Stream::Pipe } else { Stream::Null },
            stdout: Stream::Pipe,
            stderr: Stream::Pipe,
        },
    };
    let (mut container, _agents) = ContainerExecutor::default().start(step, stdio)?;
    let controls = container.controls().map_err(StepError::Signal)?;
    let _guard = step.cancel.on_cancel(move || {
        // When it is gone already, it need not be killed.
        let _: io::Result<()> = controls.kill(9);
    });
    if let Some(resized) = resized {
        let controls = container.controls().map_err(StepError::Signal)?;
        std::thread::spawn(move || {
            while let Ok(size) = resized.recv() {
                // A container that has just ended has no terminal.
                let _: io::Result<()> = controls.resize(size);
            }
        });
    }
    let pumps = pump(&mut container, RunStreams { stdin, stdout, stderr }).map_err(StepError::Signal)?;
    let status = container.wait()?;
    for pump in pumps {
        // A pump only copies bytes; if it panicked, what it copied is lost, and the exit code is not.
        let _: std::thread::Result<()> = pump.join();
    }
    drop(guard);
    Ok(ExitStatus { code: status.shell_code(), out_of_memory: status.oom_killed })
}

/// Starts to copy the streams, and returns the threads to wait for: those that end when the container does.
fn pump(container: &mut Container, streams: RunStreams) -> io::Result<Vec<std::thread::JoinHandle<()>>> {
    if let Some(terminal) = container.terminal() {
        let (input, output) = (terminal.try_clone()?, terminal.try_clone()?);
        if let Some(stdin) = streams.stdin {
            std::thread::spawn(move || copy(stdin, input));
        }
        return Ok(vec![std::thread::spawn(move || copy(output, streams.stdout))]);
    }
    if let (Some(source), Some(sink)) = (streams.stdin, container.take_stdin()) {
        // It may wait for a person for ever, so nobody waits for it.
        std::thread::spawn(move || copy(source, sink));
    }
    let stdout = container.take_stdout().map(|source| std::thread::spawn(move || copy(source, streams.stdout)));
    let stderr = container.take_stderr().map(|source| std::thread::spawn(move || copy(source, streams.stderr)));
    Ok([stdout, stderr].into_iter().flatten().collect())
}

/// Copies until either side ends. Dropping the source then tells the container that nobody reads.
fn copy(mut source: impl Read, mut sink: impl Write) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = match source.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // A terminal whose last user is gone says so with an error.
            Err(_) => return,
        };
        if sink.write_all(&buffer[..count]).and_then(|()| sink.flush()).is_err() {
            return;
        }
    }
}

/// Returns the first shell that the files have: the one that `SHELL` chose, bash, or sh.
fn find_shell(tree: &Tree, chosen: &[String]) -> Result<Option<String>, OpenShellError> {
    for path in candidates(chosen) {
        let node = tree.lookup(&path, layer::Follow::Last)?;
        if node.is_some_and(|node| node.kind == NodeKind::File && node.mode & 0o111 != 0) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn candidates(chosen: &[String]) -> Vec<String> {
    let chosen = chosen.first().filter(|path| path.starts_with('/')).cloned();
    let usual = ["/bin/bash", "/bin/sh", "/usr/bin/sh", "/bin/ash", "/busybox/sh"].map(str::to_owned);
    chosen.into_iter().chain(usual).collect()
}

fn tried(chosen: &[String]) -> String {
    candidates(chosen).join(" nor ")
}

/// Returns the machine's own busybox, when it needs no libraries.
fn static_busybox() -> Option<std::path::PathBuf> {
    ["/bin/busybox", "/usr/bin/busybox"].iter().map(std::path::PathBuf::from).find(|path| {
        let mut start = Vec::new();
        let read = std::fs::File::open(path).and_then(|file| file.take(4096).read_to_end(&mut start));
        read.is_ok() && is_static(&start)
    })
}

/// Tells whether a 64-bit ELF program asks for no interpreter.
fn is_static(start: &[u8]) -> bool {
    let number = |at: usize, size: usize| -> Option<usize> {
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(start.get(at..at + size)?);
        usize::try_from(u64::from_le_bytes(bytes)).ok()
    };
    const INTERPRETER: usize = 3;
    let headers = || -> Option<bool> {
        if start.get(..6)? != b"\x7fELF\x02\x01" {
            return None;
        }
        let (offset, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        let kinds = (0..count).map(|index| number(index.checked_mul(size)?.checked_add(offset)?, 4));
        let kinds: Vec<usize> = kinds.collect::<Option<_>>()?;
        Some(!kinds.contains(&INTERPRETER))
    };
    headers().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_without_an_interpreter_are_static() {
        let mut elf = vec![0; 64 + 56];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (elf[32], elf[54], elf[56], elf[64]) = (64, 56, 1, 1);
        assert!(is_static(&elf));
        elf[64] = 3;
        assert!(!is_static(&elf));
        assert!(!is_static(b"#!/bin/sh\n") && !is_static(&elf[..64]) && !is_static(b""));
    }
}
