//! The container's standard streams, or its terminal, without ever waiting for it.

use std::fs::File;
use std::io::{self, Read, Write};

/// So many bytes of input wait for a container that does not read.
const MOST_INPUT: usize = 64 << 10;

/// The ends that this process has.
#[derive(Debug)]
pub(super) struct Streams {
    stdin: Option<File>,
    queue: Vec<u8>,
    input_ends: bool,
    /// What it prints, or all that it shows on its terminal.
    pub(super) stdout: Option<File>,
    /// What it prints as errors.
    pub(super) stderr: Option<File>,
}

impl Streams {
    /// Takes the streams of a container that has just started.
    pub(super) fn of(mut container: runtime::Container) -> io::Result<(runtime::Container, Self)> {
        let (stdin, stdout, stderr) = match container.terminal() {
            Some(terminal) => (Some(terminal.try_clone()?), Some(terminal.try_clone()?), None),
            None => (container.take_stdin(), container.take_stdout(), container.take_stderr()),
        };
        for stream in [&stdin, &stdout, &stderr].into_iter().flatten() {
            rustix::io::ioctl_fionbio(stream, true)?;
        }
        Ok((container, Self { stdin, queue: Vec::new(), input_ends: false, stdout, stderr }))
    }

    /// The stream that input waits for.
    pub(super) fn hungry(&self) -> Option<&File> {
        self.stdin.as_ref().filter(|_| !self.queue.is_empty())
    }

    /// Tells whether no more input can be taken.
    pub(super) fn is_full(&self) -> bool {
        self.queue.len() >= MOST_INPUT
    }

    /// Takes input.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.stdin.is_some() && !self.input_ends {
            self.queue.extend_from_slice(bytes);
            self.feed();
        }
    }

    /// Ends the input after what is waiting.
    pub(super) fn end_input(&mut self) {
        self.input_ends = true;
        self.feed();
    }

    /// Gives as much input as is taken.
    pub(super) fn feed(&mut self) {
        while let Some(stdin) = self.stdin.as_mut().filter(|_| !self.queue.is_empty()) {
            match stdin.write(&self.queue) {
                Ok(count) => {
                    self.queue.drain(..count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Nobody reads any more.
                Err(_) => {
                    self.queue.clear();
                    self.stdin = None;
                }
            }
        }
        self.queue.shrink_to(4 << 10);
        if self.input_ends {
            self.stdin = None;
        }
    }

    /// Reads what is there; none when nothing is, or nothing will be.
    pub(super) fn read<'a>(&mut self, errors: bool, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        let stream = if errors { &mut self.stderr } else { &mut self.stdout };
        loop {
            match stream.as_mut()?.read(buffer) {
                Ok(0) => break,
                Ok(count) => return Some(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                // A terminal whose last user is gone says so with an error.
                Err(_) => break,
            }
        }
        *stream = None;
        None
    }

    /// Tells whether there is something to read now.
    pub(super) fn has_more(&self, errors: bool) -> bool {
        let stream = if errors { &self.stderr } else { &self.stdout };
        stream.as_ref().is_some_and(|stream| rustix::io::ioctl_fionread(stream).is_ok_and(|count| count > 0))
    }
}
