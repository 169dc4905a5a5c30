//! Stands between this process's terminal and signals and a program in the foreground.

use crate::container::{Container, Controls};
use crate::stdio::Size;
use rustix::termios::{OptionalActions, Termios};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

/// What is passed on to the program: all that a program may handle, but those that are about this process.
const PASSED_ON: [i32; 9] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGCONT,
    libc::SIGALRM,
    libc::SIGWINCH,
];

/// Keeps signals for the program from ending this process; made before the program starts.
#[derive(Debug)]
pub struct Attention {
    signals: libc::sigset_t,
}

impl Attention {
    /// Holds back signals of this thread, and of those that it makes.
    pub fn new() -> Attention {
        // SAFETY: the set lives on this stack; zeros are a valid set.
        unsafe {
            let mut signals: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut signals);
            for signal in PASSED_ON {
                libc::sigaddset(&raw mut signals, signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signals, std::ptr::null_mut());
            Attention { signals }
        }
    }

    /// Passes signals on, and what is typed and shown when the program has a terminal, until this is dropped.
    pub fn attend(self, container: &Container) -> io::Result<Attended> {
        let controls = container.controls()?;
        let terminal = container.terminal().map(File::try_clone).transpose()?;
        let mut before = None;
        let mut output = None;
        if let Some(terminal) = &terminal {
            if let Some(size) = own_size() {
                container.resize(size)?;
            }
            before = raw_mode();
            let mut input = terminal.try_clone()?;
            // It ends with this process: nobody waits for somebody who does not type.
            std::thread::spawn(move || io::copy(&mut io::stdin(), &mut input));
            let mut source = terminal.try_clone()?;
            output = Some(std::thread::spawn(move || copy_out(&mut source)));
        }
        let Attention { signals } = self;
        std::thread::spawn(move || pass_on(signals, &controls));
        Ok(Attended { before, output })
    }
}

impl Default for Attention {
    fn default() -> Self {
        Attention::new()
    }
}

/// Gives this process's terminal back as it was, when it is dropped.
#[derive(Debug)]
pub struct Attended {
    before: Option<Termios>,
    output: Option<std::thread::JoinHandle<()>>,
}

impl Attended {
    /// Waits until all that the program showed is shown; call it when the program has ended.
    pub fn finish(mut self) {
        if let Some(output) = self.output.take() {
            // It panics never.
            let _ = output.join();
        }
    }
}

impl Drop for Attended {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // The terminal may have gone away.
            let _ = rustix::termios::tcsetattr(io::stdin(), OptionalActions::Flush, before);
        }
    }
}

/// Lets every key reach the program; gives how the terminal was, if there is one.
fn raw_mode() -> Option<Termios> {
    let before = rustix::termios::tcgetattr(io::stdin()).ok()?;
    let mut raw = before.clone();
    raw.make_raw();
    rustix::termios::tcsetattr(io::stdin(), OptionalActions::Flush, &raw).ok()?;
    Some(before)
}

fn own_size() -> Option<Size> {
    let size = rustix::termios::tcgetwinsize(io::stdin().as_fd()).ok()?;
    Some(Size { rows: size.ws_row, columns: size.ws_col })
}

/// Shows what the program writes; a terminal without a program reads as an error.
fn copy_out(terminal: &mut File) {
    let mut bytes = [0; 4096];
    let mut out = io::stdout().lock();
    while let Ok(length @ 1..) = terminal.read(&mut bytes) {
        if out.write_all(&bytes[..length]).and_then(|()| out.flush()).is_err() {
            return;
        }
    }
}

fn pass_on(signals: libc::sigset_t, controls: &Controls) {
    loop {
        let mut signal = 0;
        // SAFETY: both live on this stack.
        if unsafe { libc::sigwait(&raw const signals, &raw mut signal) } != 0 {
            return;
        }
        let passed = match (signal, own_size()) {
            (libc::SIGWINCH, Some(size)) => controls.resize(size),
            (signal, _) => controls.kill(signal),
        };
        if passed.is_err() {
            // It has ended.
            return;
        }
    }
}
