//! What runs beside a container on its behalf, on one descriptor and without ever waiting: names, and relayed ports.
//!
//! Whoever watches over the container polls [`Service`]'s descriptor with its others, and calls [`Service::turn`] when it
//! is readable; or lets [`Service::spawn`] do that on a thread.

use super::relay::{Relay, Side};
use super::resolver::{Answer, Resolver};
use rustix::event::{PollFd, PollFlags, epoll, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::JoinHandle;

/// Answers names, and relays connections.
#[derive(Debug)]
pub struct Service {
    epoll: OwnedFd,
    sources: BTreeMap<u64, Source>,
    next: u64,
    resolver: Option<Resolver>,
    ticks: Option<OwnedFd>,
}

#[derive(Debug)]
enum Source {
    /// Questions of the container.
    Questions(UdpSocket),
    /// Questions that are longer.
    LongQuestions(TcpListener),
    /// The beginning of a long question.
    Asking {
        stream: TcpStream,
        bytes: Vec<u8>,
    },
    /// A question that another server has to answer.
    Forwarded(Forwarded),
    /// A port.
    Port {
        listener: TcpListener,
        target: SocketAddr,
    },
    /// One of the ends of a connection; the other one has the next even or the previous odd number.
    Client(Box<Relay>),
    Server,
    /// Time passes.
    Ticks,
}

#[derive(Debug)]
struct Forwarded {
    socket: UdpSocket,
    question: Vec<u8>,
    from: SocketAddr,
    /// Which server has been asked.
    server: usize,
    ticks: u32,
}

/// So many questions may wait for their answer, and so many connections be relayed.
const MOST_FORWARDED: usize = 256;
const MOST_SOURCES: usize = 4096;
/// How many ticks a server has to answer, and how many servers are asked in turn.
const PATIENCE: u32 = 2;
const MOST_TURNS: usize = 4;
/// The longest packet of the name protocol.
const LONGEST: usize = 64 << 10;

impl Service {
    /// One with nothing to do.
    pub(super) fn new() -> io::Result<Service> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Service { epoll, sources: BTreeMap::new(), next: 0, resolver: None, ticks: None })
    }

    /// Relays what connects there to a port of the container.
    pub(super) fn relay(&mut self, listener: TcpListener, target: SocketAddr) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        self.add(Source::Port { listener, target }).map(drop)
    }

    /// Answers names that are asked for on these sockets.
    pub(super) fn resolve(&mut self, udp: UdpSocket, tcp: TcpListener, resolver: Resolver) -> io::Result<()> {
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        self.resolver = Some(resolver);
        let ticks =
            rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        self.ticks = Some(ticks);
        self.add(Source::Questions(udp))?;
        self.add(Source::LongQuestions(tcp))?;
        self.add(Source::Ticks).map(drop)
    }

    /// Does on a thread what there is to do, until what this returns is dropped.
    pub fn spawn(mut self) -> io::Result<Serving> {
        let (stopped, stop) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let thread = std::thread::Builder::new().name("network".into()).stack_size(256 << 10).spawn(move || {
            loop {
                let fds = [self.epoll.as_fd(), stopped.as_fd()];
                let mut both = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
                match poll(&mut both, None) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(_) => return,
                }
                if !both[1].revents().is_empty() || self.turn().is_err() {
                    return;
                }
            }
        })?;
        Ok(Serving { thread: Some(thread), stop: Some(stop) })
    }

    /// Does what can be done now, and never waits. An error is one of the whole service, not of a connection.
    pub fn turn(&mut self) -> io::Result<()> {
        let mut events = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 32];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let count = match epoll::wait(&self.epoll, &mut events, Some(&now)) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        for event in &events[..count] {
            let number = event.data.u64();
            // An earlier event of this turn may have ended it.
            let Some(source) = self.sources.remove(&number) else { continue };
            self.attend(number, source);
        }
        Ok(())
    }

    /// Attends to a source that was taken out, and puts it back if it goes on.
    fn attend(&mut self, number: u64, source: Source) {
        match source {
            Source::Questions(socket) => {
                self.answer(&socket);
                self.sources.insert(number, Source::Questions(socket));
            }
            Source::LongQuestions(listener) => {
                if let Ok((stream, _)) = listener.accept()
                    && stream.set_nonblocking(true).is_ok()
                {
                    // Without room or descriptors, it is hung up.
                    let _ = self.add(Source::Asking { stream, bytes: Vec::new() });
                }
                self.sources.insert(number, Source::LongQuestions(listener));
            }
            Source::Asking { stream, bytes } => self.listen(number, stream, bytes),
            Source::Forwarded(forwarded) => self.pass_back(number, forwarded),
            Source::Port { listener, target } => {
                if let Ok((client, _)) = listener.accept()
                    && client.set_nonblocking(true).is_ok()
                {
                    // A program that does not listen yet is refused to the client by hanging up.
                    let _ = self.connect(client, target, &[]);
                }
                self.sources.insert(number, Source::Port { listener, target });
            }
            Source::Client(relay) => self.go_on(number, relay),
            Source::Server => {
                self.sources.insert(number, Source::Server);
                // The pair lies at its client's number.
                if let Some(Source::Client(relay)) = self.sources.remove(&(number - 1)) {
                    self.go_on(number - 1, relay);
                }
            }
            Source::Ticks => {
                self.sources.insert(number, Source::Ticks);
                self.tick();
            }
        }
    }

    fn add(&mut self, source: Source) -> io::Result<u64> {
        if self.sources.len() >= MOST_SOURCES {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let number = self.next;
        self.next += 2;
        let fd = match &source {
            Source::Questions(socket) => socket.as_fd(),
            Source::LongQuestions(listener) | Source::Port { listener, .. } => listener.as_fd(),
            Source::Asking { stream, .. } => stream.as_fd(),
            Source::Forwarded(forwarded) => forwarded.socket.as_fd(),
            Source::Client(relay) => relay.fd(Side::Client),
            Source::Ticks => self.ticks.as_ref().map(AsFd::as_fd).ok_or(io::ErrorKind::NotFound)?,
            Source::Server => return Err(io::ErrorKind::InvalidInput.into()),
        };
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(number), epoll::EventFlags::IN)?;
        self.sources.insert(number, source);
        Ok(number)
    }

    /// Begins to relay a connection; `first` is what the server gets before anything else.
    fn connect(&mut self, client: TcpStream, target: SocketAddr, first: &[u8]) -> io::Result<()> {
        let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        match connect(&socket, &target) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let relay = Relay::new(client, TcpStream::from(socket), first);
        let number = self.add(Source::Client(Box::new(relay)))?;
        let Some(Source::Client(mut relay)) = self.sources.remove(&number) else { return Ok(()) };
        let data = epoll::EventData::new_u64(number + 1);
        epoll::add(&self.epoll, relay.fd(Side::Server), data, relay.wants(Side::Server))?;
        epoll::modify(
            &self.epoll,
            relay.fd(Side::Client),
            epoll::EventData::new_u64(number),
            relay.wants(Side::Client),
        )?;
        relay.note_wanted();
        self.sources.insert(number, Source::Client(relay));
        self.sources.insert(number + 1, Source::Server);
        Ok(())
    }

    /// Moves what can be moved between two ends.
    fn go_on(&mut self, number: u64, mut relay: Box<Relay>) {
        let moved = relay.pump().and_then(|goes_on| {
            for (side, number) in [(Side::Client, number), (Side::Server, number + 1)] {
                if goes_on && relay.wants_other(side) {
                    let data = epoll::EventData::new_u64(number);
                    epoll::modify(&self.epoll, relay.fd(side), data, relay.wants(side))?;
                }
            }
            relay.note_wanted();
            Ok(goes_on)
        });
        if moved.unwrap_or(false) {
            self.sources.insert(number, Source::Client(relay));
        } else {
            self.sources.remove(&(number + 1));
        }
    }

    /// Answers the questions that have come, or asks another server.
    fn answer(&mut self, socket: &UdpSocket) {
        let mut bytes = vec![0; LONGEST];
        // Not more than these, so that a container that floods us keeps nobody else waiting.
        for _ in 0..32 {
            let Ok((length, from)) = socket.recv_from(&mut bytes) else { return };
            let question = &bytes[..length];
            match self.resolver.as_mut().map(|resolver| resolver.answer(question)) {
                Some(Answer::Here(answer)) => {
                    // Who does not take it asks again.
                    let _ = socket.send_to(&answer, from);
                }
                Some(Answer::Elsewhere) => self.forward(question, from),
                Some(Answer::None) | None => {}
            }
        }
    }

    fn servers(&self) -> &[IpAddr] {
        self.resolver.as_ref().map_or(&[], |resolver| resolver.servers())
    }

    fn forward(&mut self, question: &[u8], from: SocketAddr) {
        let waiting = self.sources.values().filter(|source| matches!(source, Source::Forwarded(_))).count();
        let Some(&server) = self.servers().first().filter(|_| waiting < MOST_FORWARDED) else {
            return self.give_up(question, from);
        };
        let asked = ask(server, question).and_then(|socket| {
            let forwarded = Forwarded { socket, question: question.to_vec(), from, server: 0, ticks: 0 };
            self.add(Source::Forwarded(forwarded))
        });
        match asked {
            Ok(_) if waiting == 0 => self.set_ticking(true),
            Ok(_) => {}
            Err(_) => self.give_up(question, from),
        }
    }

    /// Tells the container that nobody knows.
    fn give_up(&self, question: &[u8], from: SocketAddr) {
        self.reply(&super::resolver::failure(question), from);
    }

    fn reply(&self, answer: &[u8], to: SocketAddr) {
        let questions = self.sources.values().find_map(|source| match source {
            Source::Questions(socket) => Some(socket),
            _ => None,
        });
        if let Some(socket) = questions {
            // Who does not take it asks again.
            let _ = socket.send_to(answer, to);
        }
    }

    /// Passes an answer back to the container, once it is one to its question.
    fn pass_back(&mut self, number: u64, forwarded: Forwarded) {
        let mut bytes = vec![0; LONGEST];
        match forwarded.socket.recv(&mut bytes) {
            Ok(length) if length >= 12 && bytes[..2] == forwarded.question[..2] => {
                self.reply(&bytes[..length], forwarded.from);
            }
            Ok(_) => {
                self.sources.insert(number, Source::Forwarded(forwarded));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.sources.insert(number, Source::Forwarded(forwarded));
            }
            // Nobody listens there.
            Err(_) => self.ask_next(forwarded),
        }
    }

    fn ask_next(&mut self, mut forwarded: Forwarded) {
        forwarded.server += 1;
        forwarded.ticks = 0;
        let servers = self.servers();
        let next = servers.get(forwarded.server % servers.len().max(1)).copied();
        let asked = match next.filter(|_| forwarded.server < MOST_TURNS) {
            Some(server) => ask(server, &forwarded.question),
            None => Err(io::ErrorKind::TimedOut.into()),
        };
        let (question, from) = (forwarded.question.clone(), forwarded.from);
        let added = asked.and_then(|socket| self.add(Source::Forwarded(Forwarded { socket, ..forwarded })));
        if added.is_err() {
            self.give_up(&question, from);
        }
    }

    /// Asks others where one was silent for too long.
    fn tick(&mut self) {
        let mut rings = [0; 8];
        if let Some(ticks) = &self.ticks {
            // It only has to be read; how often it rang says nothing.
            let _ = rustix::io::read(ticks, &mut rings[..]);
        }
        let (mut waiting, mut late) = (0, Vec::new());
        for (number, source) in &mut self.sources {
            if let Source::Forwarded(forwarded) = source {
                waiting += 1;
                forwarded.ticks += 1;
                if forwarded.ticks >= PATIENCE {
                    late.push(*number);
                }
            }
        }
        for number in late {
            if let Some(Source::Forwarded(forwarded)) = self.sources.remove(&number) {
                self.ask_next(forwarded);
            }
        }
        if waiting == 0 {
            self.set_ticking(false);
        }
    }

    fn set_ticking(&self, on: bool) {
        let second = Timespec { tv_sec: i64::from(on), tv_nsec: 0 };
        let every = Itimerspec { it_interval: second, it_value: second };
        if let Some(ticks) = &self.ticks {
            // Without it, a silent server is not replaced, and who asks asks again.
            let _ = rustix::time::timerfd_settime(ticks, TimerfdTimerFlags::empty(), &every);
        }
    }

    /// Reads a question that has its length before it.
    fn listen(&mut self, number: u64, mut stream: TcpStream, mut bytes: Vec<u8>) {
        let mut buffer = [0; 2048];
        match io::Read::read(&mut stream, &mut buffer) {
            Ok(0) => return,
            Ok(length) => bytes.extend(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
        let length = bytes.first_chunk().map(|length| usize::from(u16::from_be_bytes(*length)));
        let Some(question) = length.and_then(|length| bytes.get(2..2 + length)) else {
            self.sources.insert(number, Source::Asking { stream, bytes });
            return;
        };
        match self.resolver.as_mut().map(|resolver| resolver.answer(question)) {
            Some(Answer::Here(answer)) => {
                let mut framed = (answer.len() as u16).to_be_bytes().to_vec();
                framed.extend(answer);
                // It is short, and the buffer is empty.
                if io::Write::write_all(&mut stream, &framed).is_ok() {
                    self.sources.insert(number, Source::Asking { stream, bytes: Vec::new() });
                }
            }
            Some(Answer::Elsewhere) => {
                if let Some(&server) = self.servers().first()
                    && epoll::delete(&self.epoll, &stream).is_ok()
                {
                    // The rest of the conversation is with that server.
                    let _ = self.connect(stream, SocketAddr::from((server, 53)), &bytes);
                }
            }
            Some(Answer::None) | None => {}
        }
    }
}

impl AsFd for Service {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// Sends a question to a server, from a port that nobody can guess.
fn ask(server: IpAddr, question: &[u8]) -> io::Result<UdpSocket> {
    let any: IpAddr = match server {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect((server, 53))?;
    socket.send(question)?;
    Ok(socket)
}

/// A service that a thread attends to, until this is dropped.
#[derive(Debug)]
pub struct Serving {
    thread: Option<JoinHandle<()>>,
    /// Closing it, which is hung up on the other end, stops the thread.
    stop: Option<OwnedFd>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It neither panics nor waits for anybody.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::Shutdown;

    fn relayed(target: SocketAddr) -> (SocketAddr, Serving) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut service = Service::new().unwrap();
        service.relay(listener, target).unwrap();
        (address, service.spawn().unwrap())
    }

    #[test]
    fn connections_pass_both_ways_and_end_as_they_end() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, serving) = relayed(server.local_addr().unwrap());
        const LENGTH: usize = 3 << 20;
        let echo = std::thread::spawn(move || {
            for _ in 0..8 {
                let (mut stream, _) = server.accept().unwrap();
                std::thread::spawn(move || {
                    let mut bytes = Vec::new();
                    stream.read_to_end(&mut bytes).unwrap();
                    stream.write_all(&bytes).unwrap();
                });
            }
        });
        let clients: Vec<_> = (0..8u8)
            .map(|number| {
                std::thread::spawn(move || {
                    let mut client = TcpStream::connect(address).unwrap();
                    client.write_all(&vec![number; LENGTH]).unwrap();
                    client.shutdown(Shutdown::Write).unwrap();
                    let mut answer = Vec::new();
                    client.read_to_end(&mut answer).unwrap();
                    assert!(answer.len() == LENGTH && answer.iter().all(|byte| *byte == number));
                })
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().unwrap());
        echo.join().unwrap();
        drop(serving);
        assert!(TcpStream::connect(address).is_err());
    }

    #[test]
    fn who_does_not_listen_is_hung_up_on() {
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (address, _serving) = relayed(nobody);
        let mut client = TcpStream::connect(address).unwrap();
        // Either end may be the first to say so.
        let mut bytes = Vec::new();
        assert!(matches!(client.read_to_end(&mut bytes), Ok(0) | Err(_)));
    }
}
