//! A connection that is passed on, both ways, without waiting.

use rustix::event::epoll::EventFlags;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

/// One of the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Who connected.
    Client,
    /// To whom that is passed on.
    Server,
}

/// Two ends, and what is on its way between them.
#[derive(Debug)]
pub(super) struct Relay {
    client: TcpStream,
    server: TcpStream,
    up: Flow,
    down: Flow,
    wanted: [EventFlags; 2],
}

#[derive(Debug)]
struct Flow {
    buffer: Vec<u8>,
    start: usize,
    /// The sender has said all.
    ended: bool,
    /// The receiver has been told so.
    told: bool,
}

const BUFFER: usize = 16 << 10;

impl Flow {
    fn is_empty(&self) -> bool {
        self.start == self.buffer.len()
    }

    /// Reads once and writes once, as far as neither has to wait.
    fn pump(&mut self, mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
        if self.is_empty() && !self.ended {
            self.buffer.resize(BUFFER, 0);
            self.start = 0;
            let read = from.read(&mut self.buffer);
            self.buffer.truncate(*read.as_ref().unwrap_or(&0));
            match read {
                Ok(length) => self.ended = length == 0,
                Err(error) => later(error)?,
            }
        }
        if !self.is_empty() {
            match to.write(&self.buffer[self.start..]) {
                Ok(length) => self.start += length,
                Err(error) => later(error)?,
            }
        }
        if self.is_empty() && self.ended && !self.told {
            self.told = true;
            to.shutdown(Shutdown::Write)?;
        }
        Ok(())
    }
}

/// Whether an error says only that the time has not come.
fn later(error: io::Error) -> io::Result<()> {
    match error.kind() {
        // A socket that is still connecting is not connected.
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::NotConnected => Ok(()),
        _ => Err(error),
    }
}

impl Relay {
    /// Two ends that do not block; `first` is on its way to the server.
    pub(super) fn new(client: TcpStream, server: TcpStream, first: &[u8]) -> Relay {
        let flow = |first: &[u8]| Flow { buffer: first.to_vec(), start: 0, ended: false, told: false };
        for end in [&client, &server] {
            // Small packets should not wait for each other; if they must, they do.
            let _ = end.set_nodelay(true);
        }
        Relay { client, server, up: flow(first), down: flow(&[]), wanted: [EventFlags::empty(); 2] }
    }

    pub(super) fn fd(&self, side: Side) -> BorrowedFd<'_> {
        match side {
            Side::Client => self.client.as_fd(),
            Side::Server => self.server.as_fd(),
        }
    }

    /// What to wait for at an end.
    pub(super) fn wants(&self, side: Side) -> EventFlags {
        let (outgoing, incoming) = match side {
            Side::Client => (&self.up, &self.down),
            Side::Server => (&self.down, &self.up),
        };
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, outgoing.is_empty() && !outgoing.ended);
        flags.set(EventFlags::OUT, !incoming.is_empty());
        flags
    }

    /// Whether that is something else than when [`Relay::note_wanted`] was called.
    pub(super) fn wants_other(&self, side: Side) -> bool {
        self.wants(side) != self.wanted[side as usize]
    }

    /// Remembers what is waited for.
    pub(super) fn note_wanted(&mut self) {
        self.wanted = [self.wants(Side::Client), self.wants(Side::Server)];
    }

    /// Moves what can be moved; says whether more may come.
    pub(super) fn pump(&mut self) -> io::Result<bool> {
        self.up.pump(&self.client, &self.server)?;
        self.down.pump(&self.server, &self.client)?;
        Ok(!(self.up.told && self.down.told))
    }
}
