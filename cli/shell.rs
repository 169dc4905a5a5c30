//! This terminal as the ends of a shell in a build's step.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use engine::runtime::Size;
use engine::shell::{FailedStep, ShellEnds, ShellOnError};

use crate::commands::run::RawTerminal;
use crate::progress::View;
use crate::terminal;

/// How often the size of the terminal is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Tells whether a person can use a shell here.
pub(crate) fn is_possible() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Returns our own standard streams; with a terminal when they are one and it is wanted.
pub(crate) fn ends(wants_terminal: bool) -> io::Result<ShellEnds> {
    let open = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map(File::from);
    let with_terminal = wants_terminal && is_possible();
    let guard = match with_terminal {
        true => Some(RawTerminal::begin().map_err(io::Error::other)?),
        false => None,
    };
    Ok(ShellEnds {
        stdin: Some(Box::new(open(io::stdin().as_fd())?)),
        stdout: Box::new(open(io::stdout().as_fd())?),
        stderr: Box::new(open(io::stderr().as_fd())?),
        terminal: with_terminal.then(terminal::size),
        resized: with_terminal.then(watch_size),
        guard: guard.map(|guard| Box::new(guard) as Box<dyn std::any::Any + Send>),
    })
}

fn watch_size() -> Receiver<Size> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut last = terminal::size();
        loop {
            std::thread::sleep(LOOK);
            let now = terminal::size();
            if now != last
                && let Some(size) = now
                && sender.send(size).is_err()
            {
                return;
            }
            last = now;
        }
    });
    receiver
}

/// `--shell-on-error`: gives the terminal from the view to a shell, and back.
pub(crate) struct OnError(pub(crate) Arc<dyn View>);

impl ShellOnError for OnError {
    fn begin(&self, failed: &FailedStep) -> io::Result<ShellEnds> {
        self.0.pause();
        let command = terminal::printable(&failed.command);
        terminal::note(&format!("\nexit code {}: {command}", failed.exit_code));
        terminal::note("A shell in this step, on a copy of its files; the build fails when you leave it.");
        let mut ends = ends(true)?;
        let raw = ends.guard.take();
        ends.guard = Some(Box::new(Resume { raw, view: self.0.clone() }));
        Ok(ends)
    }

    fn refused(&self, why: &str) {
        terminal::note(&terminal::printable(&format!("no shell: {}", why.trim_end())));
        self.0.resume();
    }
}

/// Gives the terminal back to the view.
struct Resume {
    raw: Option<Box<dyn std::any::Any + Send>>,
    view: Arc<dyn View>,
}

impl Drop for Resume {
    fn drop(&mut self) {
        drop(self.raw.take());
        self.view.resume();
    }
}
