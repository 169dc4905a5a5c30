//! What a container reads from and writes to.

use crate::start_error::{StartError, setup};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The size of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// One standard stream of the container.
#[derive(Debug)]
pub enum Stream {
    /// The one of this process.
    Inherit,
    /// `/dev/null`.
    Null,
    /// A new pipe; the other end is taken from the [`Container`](crate::Container).
    Pipe,
    /// This file.
    File(OwnedFd),
}

/// The standard streams of the container.
#[derive(Debug)]
pub enum Stdio {
    /// Three streams, no terminal.
    Streams {
        /// Standard input.
        stdin: Stream,
        /// Standard output.
        stdout: Stream,
        /// Standard error.
        stderr: Stream,
    },
    /// A new terminal of the container's own devpts; its master is [`Container::terminal`](crate::Container::terminal).
    Terminal {
        /// The size that it starts with.
        size: Option<Size>,
    },
}

impl Stdio {
    /// The three streams of this process.
    pub fn inherit() -> Stdio {
        Stdio::Streams { stdin: Stream::Inherit, stdout: Stream::Inherit, stderr: Stream::Inherit }
    }

    /// Nothing to read; output and errors on two pipes.
    pub fn pipes() -> Stdio {
        Stdio::Streams { stdin: Stream::Null, stdout: Stream::Pipe, stderr: Stream::Pipe }
    }

    /// `/dev/null` three times.
    pub fn null() -> Stdio {
        Stdio::Streams { stdin: Stream::Null, stdout: Stream::Null, stderr: Stream::Null }
    }
}

/// The child's ends, and ours where there are pipes.
pub(crate) struct Streams {
    pub(crate) theirs: [OwnedFd; 3],
    pub(crate) stdin: Option<File>,
    pub(crate) stdout: Option<File>,
    pub(crate) stderr: Option<File>,
}

/// Opens both ends of everything; also gives the size of a terminal, if that is what is wanted.
pub(crate) fn open_streams(stdio: Stdio, uid: u32) -> Result<(Option<Option<Size>>, Streams), StartError> {
    let (terminal, kinds) = match stdio {
        Stdio::Streams { stdin, stdout, stderr } => (None, [stdin, stdout, stderr]),
        Stdio::Terminal { size } => (Some(size), [Stream::Null, Stream::Null, Stream::Null]),
    };
    let [stdin, stdout, stderr] = kinds;
    let failed = setup("standard streams");
    let (stdin, our_stdin) = open_stream(stdin, 0, uid).map_err(&failed)?;
    let (stdout, our_stdout) = open_stream(stdout, 1, uid).map_err(&failed)?;
    let (stderr, our_stderr) = open_stream(stderr, 2, uid).map_err(&failed)?;
    let theirs = [stdin, stdout, stderr];
    Ok((terminal, Streams { theirs, stdin: our_stdin, stdout: our_stdout, stderr: our_stderr }))
}

fn open_stream(stream: Stream, number: i32, uid: u32) -> rustix::io::Result<(OwnedFd, Option<File>)> {
    // Never 0, 1 or 2, which the child overwrites one after the other.
    let above = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 3);
    let (theirs, ours) = match stream {
        Stream::Inherit => {
            // SAFETY: standard descriptors stay open; should one be closed, the kernel says EBADF.
            (above(unsafe { BorrowedFd::borrow_raw(number) })?, None)
        }
        Stream::Null => {
            let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
            (above(null.as_fd())?, None)
        }
        Stream::Pipe => {
            let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
            let (theirs, ours) = if number == 0 { (read, write) } else { (write, read) };
            (above(theirs.as_fd())?, Some(File::from(above(ours.as_fd())?)))
        }
        Stream::File(file) => (above(file.as_fd())?, None),
    };
    // So that a user other than root can open /dev/stdout, as docker does.
    if uid != 0 && rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&theirs)?.st_mode).is_fifo() {
        rustix::fs::fchown(&theirs, Some(rustix::process::Uid::from_raw(uid)), None)?;
    }
    Ok((theirs, ours))
}
