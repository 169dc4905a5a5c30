//! Those who are attached to a container or wait for its end.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use runtime::Size;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::frames::{self, AttachRequest, Exited, Report, WaitCondition};

/// So many bytes wait for a client that does not read.
const MOST_OUTPUT: usize = 256 << 10;

/// So many clients may be there at once.
const MOST_CLIENTS: usize = 256;

/// One connection.
#[derive(Debug)]
pub(super) struct Client {
    stream: UnixStream,
    wants: Wants,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    gone: bool,
}

#[derive(Debug)]
enum Wants {
    /// It has not said so.
    Unknown,
    Streams(AttachRequest),
    End(WaitCondition),
}

impl Client {
    fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, wants: Wants::Unknown, incoming: Vec::new(), outgoing: Vec::new(), gone: false })
    }

    /// Returns the client that started the container.
    pub(super) fn attached(stream: UnixStream, request: AttachRequest) -> io::Result<Self> {
        Ok(Self { wants: Wants::Streams(request), ..Self::new(stream)? })
    }

    /// Returns the size of its terminal, if that is the first that it has said.
    pub(super) fn size(&self) -> Option<Size> {
        let mut header = [0; 12];
        let read = rustix::net::recv(&self.stream, &mut header, rustix::net::RecvFlags::PEEK);
        let whole = read.is_ok_and(|(count, _)| count == header.len()) && header[0] == frames::SIZE;
        whole.then(|| size(&header[8..])).flatten()
    }

    /// Returns the connection.
    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Returns what to wait for.
    pub(super) fn flags(&self, input_is_full: bool) -> PollFlags {
        let mut flags = PollFlags::empty();
        let feeds = matches!(self.wants, Wants::Streams(AttachRequest { stdin: true, .. }));
        if !(feeds && input_is_full) {
            flags |= PollFlags::IN;
        }
        if !self.outgoing.is_empty() {
            flags |= PollFlags::OUT;
        }
        flags
    }

    fn push(&mut self, kind: u8, content: &[u8]) {
        frames::push(&mut self.outgoing, kind, content);
        self.flush();
    }

    fn flush(&mut self) {
        let mut sent = 0;
        while sent < self.outgoing.len() && !self.gone {
            match self.stream.write(&self.outgoing[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => self.gone = true,
            }
        }
        self.outgoing.drain(..sent);
        self.outgoing.shrink_to(4 << 10);
    }

    fn tell_end(&mut self, exited: &Exited) {
        self.push(frames::EXITED, &serde_json::to_vec(exited).expect("text keys only"));
    }
}

/// Reads the size of a terminal.
pub(super) fn size(content: &[u8]) -> Option<Size> {
    let &[a, b, c, d] = content else { return None };
    Some(Size { rows: u16::from_be_bytes([a, b]), columns: u16::from_be_bytes([c, d]) })
}

/// All connections.
#[derive(Debug, Default)]
pub(super) struct Clients {
    all: Vec<Client>,
    /// One that fed the input has gone.
    fed: bool,
}

impl Clients {
    /// Returns all of them.
    pub(super) fn all(&self) -> &[Client] {
        &self.all
    }

    /// Takes a connection.
    pub(super) fn add(&mut self, client: Client) {
        self.all.push(client);
    }

    /// Takes all who have come.
    pub(super) fn accept(&mut self, listener: &UnixListener) {
        while let Ok((stream, _)) = listener.accept() {
            if self.all.len() < MOST_CLIENTS {
                self.all.extend(Client::new(stream));
            }
        }
    }

    /// Tells whether all who are attached have read enough for more to be sent.
    pub(super) fn have_room(&self) -> bool {
        self.all.iter().all(|client| client.outgoing.len() < MOST_OUTPUT)
    }

    /// Sends what waits for one.
    pub(super) fn flush(&mut self, index: usize) {
        if let Some(client) = self.all.get_mut(index) {
            client.flush();
        }
    }

    /// Reads from one; what it wants is noted, and the rest is given back.
    pub(super) fn read(&mut self, index: usize) -> Vec<(u8, Vec<u8>)> {
        let Some(client) = self.all.get_mut(index) else { return Vec::new() };
        let mut buffer = [0; 16 << 10];
        match client.stream.read(&mut buffer) {
            Ok(0) => client.gone = true,
            Ok(count) => client.incoming.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => client.gone = true,
        }
        let mut given = Vec::new();
        loop {
            match frames::take(&mut client.incoming) {
                Ok(Some((kind @ (frames::ATTACH | frames::WAIT), content))) => {
                    let wants = match kind {
                        frames::ATTACH => serde_json::from_slice(&content).map(Wants::Streams),
                        _ => serde_json::from_slice(&content).map(Wants::End),
                    };
                    match wants {
                        Ok(wants) => client.wants = wants,
                        Err(_) => client.gone = true,
                    }
                }
                Ok(Some((frames::STDIN | frames::STDIN_END, _)))
                    if !matches!(client.wants, Wants::Streams(AttachRequest { stdin: true, .. })) => {}
                Ok(Some(frame)) => given.push(frame),
                Ok(None) => break,
                Err(_) => {
                    client.gone = true;
                    break;
                }
            }
        }
        client.incoming.shrink_to(4 << 10);
        given
    }

    /// Forgets those who have gone.
    pub(super) fn sweep(&mut self) {
        let fed = &mut self.fed;
        self.all.retain(|client| {
            *fed |= client.gone && matches!(client.wants, Wants::Streams(AttachRequest { stdin: true, .. }));
            !client.gone
        });
    }

    /// Tells, once, whether somebody who fed the input has gone and nobody else feeds it.
    pub(super) fn take_fed(&mut self) -> bool {
        let feeds = |client: &Client| matches!(client.wants, Wants::Streams(AttachRequest { stdin: true, .. }));
        std::mem::take(&mut self.fed) && !self.all.iter().any(feeds)
    }

    /// Tells those who are there whether the container started.
    pub(super) fn report(&mut self, report: &Report) {
        let content = serde_json::to_vec(report).expect("text keys only");
        for client in &mut self.all {
            client.push(frames::REPORT, &content);
        }
    }

    /// Passes on what the container printed.
    pub(super) fn output(&mut self, kind: u8, bytes: &[u8]) {
        for client in &mut self.all {
            let Wants::Streams(wanted) = &client.wants else { continue };
            if (kind == frames::STDOUT && wanted.stdout) || (kind == frames::STDERR && wanted.stderr) {
                client.push(kind, bytes);
            }
        }
    }

    /// The container has ended and will be started again.
    pub(super) fn ended_once(&mut self, exited: &Exited) {
        for client in &mut self.all {
            if matches!(client.wants, Wants::Streams(_) | Wants::End(WaitCondition::NextExit)) {
                client.tell_end(exited);
                // What was told stays there to be read.
                client.gone |= client.outgoing.is_empty();
            }
        }
    }

    /// The container has ended for good: tells everybody, and waits a little for those who are slow.
    pub(super) fn part(&mut self, exited: &Exited, patience: Duration) {
        for client in &mut self.all {
            client.tell_end(exited);
        }
        let until = Instant::now() + patience;
        loop {
            self.all.retain(|client| !client.gone && !client.outgoing.is_empty());
            let left = until.saturating_duration_since(Instant::now());
            if self.all.is_empty() || left.is_zero() {
                return;
            }
            let mut fds: Vec<_> =
                self.all.iter().map(|client| PollFd::from_borrowed_fd(client.stream.as_fd(), PollFlags::OUT)).collect();
            let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos().max(1_000_000)) };
            // When it fails, trying to send is the way to know.
            let _: rustix::io::Result<usize> = poll(&mut fds, Some(&timeout));
            for client in &mut self.all {
                client.flush();
            }
        }
    }
}
