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
    ticks: OwnedFd,
    is_ticking: bool,
    /// Listeners that had no descriptor to accept with; they listen again at the next tick.
    resting: Vec<u64>,
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
        ticks: u32,
    },
    /// A question that another server has to answer.
    Forwarded(Forwarded),
    /// A port.
    Port {
        listener: TcpListener,
        target: SocketAddr,
    },
    /// A port for packets, and the conversations that began there.
    PacketPort {
        socket: UdpSocket,
        target: SocketAddr,
        conversations: BTreeMap<SocketAddr, u64>,
    },
    /// What the container says to somebody who sent packets to a port.
    Packets {
        socket: UdpSocket,
        port: u64,
        client: SocketAddr,
        ticks: u32,
    },
    /// One of the ends of a connection; the other one has the next even or the previous odd number.
    Client {
        relay: Box<Relay>,
        kind: Relayed,
    },
    Server,
    /// Time passes.
    Ticks,
}

/// What a relayed connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relayed {
    /// One to a published port, which lasts as long as both ends want.
    Port,
    /// One to a name server, and its age.
    Question { ticks: u32 },
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

// So many questions may wait for their answer, so many connections ask, and so many connections and conversations be relayed
// from ports. Each has its own bound, so that a container that floods its name server keeps nobody from its ports. With two
// descriptors for what is relayed, all stay below the 1024 that a process has.
const MOST_FORWARDED: usize = 128;
const MOST_ASKING: usize = 64;
const MOST_RELAYED: usize = 256;
const MOST_CONVERSATIONS: usize = 128;
/// So many packets are moved before it is another's turn.
const MOST_PACKETS: usize = 32;
/// How many ticks a conversation by packets stays without any.
const LONGEST_SILENCE: u32 = 120;
/// How many ticks a connection may take to ask all that it wants to know.
const LONGEST_CONVERSATION: u32 = 30;
/// How many ticks a server has to answer, and how many servers are asked in turn.
const PATIENCE: u32 = 2;
const MOST_TURNS: usize = 4;
/// The longest packet of the name protocol.
const LONGEST: usize = 64 << 10;

impl Service {
    /// One with nothing to do.
    pub(super) fn new() -> io::Result<Service> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let ticks = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let (sources, resting) = (BTreeMap::new(), Vec::new());
        let mut service = Service { epoll, sources, next: 0, resolver: None, ticks, is_ticking: false, resting };
        service.add(Source::Ticks)?;
        Ok(service)
    }

    /// Relays what connects there to a port of the container.
    pub(super) fn relay(&mut self, listener: TcpListener, target: SocketAddr) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        self.add(Source::Port { listener, target }).map(drop)
    }

    /// Relays packets that are sent there to a port of the container, and its answers.
    pub(super) fn relay_packets(&mut self, socket: UdpSocket, target: SocketAddr) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        self.add(Source::PacketPort { socket, target, conversations: BTreeMap::new() }).map(drop)
    }

    /// Answers names that are asked for on these sockets.
    pub(super) fn resolve(&mut self, udp: UdpSocket, tcp: TcpListener, resolver: Resolver) -> io::Result<()> {
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        self.resolver = Some(resolver);
        self.add(Source::Questions(udp))?;
        self.add(Source::LongQuestions(tcp)).map(drop)
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
                if let Some(stream) = self.accept(number, &listener)
                    && self.count(Source::is_asking) < MOST_ASKING
                    && self.add(Source::Asking { stream, bytes: Vec::new(), ticks: 0 }).is_ok()
                {
                    self.set_ticking(true);
                }
                self.sources.insert(number, Source::LongQuestions(listener));
            }
            Source::Asking { stream, bytes, ticks } => self.listen(number, stream, bytes, ticks),
            Source::Forwarded(forwarded) => self.pass_back(number, forwarded),
            Source::Port { listener, target } => {
                if let Some(client) = self.accept(number, &listener)
                    && self.count(|source| matches!(source, Source::Client { kind: Relayed::Port, .. })) < MOST_RELAYED
                {
                    // A program that does not listen yet is refused to the client by hanging up.
                    let _ = self.connect(client, target, &[], Relayed::Port);
                }
                self.sources.insert(number, Source::Port { listener, target });
            }
            Source::PacketPort { socket, target, mut conversations } => {
                self.pass_packets(number, &socket, target, &mut conversations);
                self.sources.insert(number, Source::PacketPort { socket, target, conversations });
            }
            Source::Packets { socket, port, client, .. } => {
                self.return_packets(&socket, port, client);
                self.sources.insert(number, Source::Packets { socket, port, client, ticks: 0 });
            }
            Source::Client { relay, kind } => self.go_on(number, relay, kind),
            Source::Server => {
                self.sources.insert(number, Source::Server);
                // The pair lies at its client's number.
                if let Some(Source::Client { relay, kind }) = self.sources.remove(&(number - 1)) {
                    self.go_on(number - 1, relay, kind);
                }
            }
            Source::Ticks => {
                self.sources.insert(number, Source::Ticks);
                self.tick();
            }
        }
    }

    /// Takes who waits to be accepted. Dropping it, where there is no room, hangs up.
    fn accept(&mut self, number: u64, listener: &TcpListener) -> Option<TcpStream> {
        match listener.accept() {
            Ok((stream, _)) => stream.set_nonblocking(true).ok().map(|()| stream),
            Err(error) if is_passing(&error) => None,
            Err(_) => {
                // Without a descriptor it would be readable again at once, and for as long as that lasts.
                let data = epoll::EventData::new_u64(number);
                if epoll::modify(&self.epoll, listener, data, epoll::EventFlags::empty()).is_ok() {
                    self.resting.push(number);
                    self.set_ticking(true);
                }
                None
            }
        }
    }

    fn count(&self, which: impl Fn(&Source) -> bool) -> usize {
        self.sources.values().filter(|source| which(source)).count()
    }

    fn add(&mut self, source: Source) -> io::Result<u64> {
        let number = self.next;
        self.next += 2;
        let fd = match &source {
            Source::Questions(socket) | Source::PacketPort { socket, .. } | Source::Packets { socket, .. } => {
                socket.as_fd()
            }
            Source::LongQuestions(listener) | Source::Port { listener, .. } => listener.as_fd(),
            Source::Asking { stream, .. } => stream.as_fd(),
            Source::Forwarded(forwarded) => forwarded.socket.as_fd(),
            Source::Client { relay, .. } => relay.fd(Side::Client),
            Source::Ticks => self.ticks.as_fd(),
            Source::Server => return Err(io::ErrorKind::InvalidInput.into()),
        };
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(number), epoll::EventFlags::IN)?;
        self.sources.insert(number, source);
        Ok(number)
    }

    /// Begins to relay a connection; `first` is what the server gets before anything else.
    fn connect(&mut self, client: TcpStream, target: SocketAddr, first: &[u8], kind: Relayed) -> io::Result<()> {
        let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let open = || socket_with(family, SocketType::STREAM, flags, None);
        let socket = match kind {
            // A socket belongs to the namespace in which it was made.
            Relayed::Port => super::at_bridges(|| Ok(open())).map_err(io::Error::other)??,
            Relayed::Question { .. } => open()?,
        };
        match connect(&socket, &target) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let relay = Relay::new(client, TcpStream::from(socket), first);
        let number = self.add(Source::Client { relay: Box::new(relay), kind })?;
        let Some(Source::Client { mut relay, .. }) = self.sources.remove(&number) else { return Ok(()) };
        let data = epoll::EventData::new_u64(number + 1);
        epoll::add(&self.epoll, relay.fd(Side::Server), data, relay.wants(Side::Server))?;
        epoll::modify(
            &self.epoll,
            relay.fd(Side::Client),
            epoll::EventData::new_u64(number),
            relay.wants(Side::Client),
        )?;
        relay.note_wanted();
        self.sources.insert(number, Source::Client { relay, kind });
        self.sources.insert(number + 1, Source::Server);
        Ok(())
    }

    /// Moves what can be moved between two ends.
    fn go_on(&mut self, number: u64, mut relay: Box<Relay>, kind: Relayed) {
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
            self.sources.insert(number, Source::Client { relay, kind });
        } else {
            self.sources.remove(&(number + 1));
        }
    }

    /// Passes packets on to the container, each by the socket of its sender's conversation.
    fn pass_packets(
        &mut self,
        port: u64,
        from: &UdpSocket,
        target: SocketAddr,
        conversations: &mut BTreeMap<SocketAddr, u64>,
    ) {
        let mut bytes = vec![0; LONGEST];
        for _ in 0..MOST_PACKETS {
            let Ok((length, client)) = from.recv_from(&mut bytes) else { return };
            let known = conversations.get(&client).copied().filter(|number| self.sources.contains_key(number));
            let number = match known {
                Some(number) => number,
                None => {
                    let Ok(number) = self.converse(port, target, client) else { continue };
                    // Those that have ended are not to be known for ever.
                    conversations.retain(|_, number| self.sources.contains_key(number));
                    conversations.insert(client, number);
                    number
                }
            };
            if let Some(Source::Packets { socket, ticks, .. }) = self.sources.get_mut(&number) {
                *ticks = 0;
                // Packets may get lost, and who does not listen yet gets none.
                let _ = socket.send(&bytes[..length]);
            }
        }
    }

    /// Begins a conversation; gives its number.
    fn converse(&mut self, port: u64, target: SocketAddr, client: SocketAddr) -> io::Result<u64> {
        let silences = self.sources.iter().filter_map(|(number, source)| match source {
            Source::Packets { ticks, .. } => Some((*ticks, *number)),
            _ => None,
        });
        let silences: Vec<_> = silences.collect();
        if silences.len() >= MOST_CONVERSATIONS
            && let Some((_, number)) = silences.iter().max()
        {
            // Anybody can pretend to be many: it ends the one that was silent for longest, and the newest of those.
            self.sources.remove(number);
        }
        // A socket belongs to the namespace in which it was made.
        let open = || socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
        let socket = UdpSocket::from(super::at_bridges(|| Ok(open())).map_err(io::Error::other)??);
        socket.set_nonblocking(true)?;
        socket.connect(target)?;
        let number = self.add(Source::Packets { socket, port, client, ticks: 0 })?;
        self.set_ticking(true);
        Ok(number)
    }

    /// Passes what the container answers to who asked it.
    fn return_packets(&self, from: &UdpSocket, port: u64, client: SocketAddr) {
        let Some(Source::PacketPort { socket, .. }) = self.sources.get(&port) else { return };
        let mut bytes = vec![0; LONGEST];
        for _ in 0..MOST_PACKETS {
            match from.recv(&mut bytes) {
                // Packets may get lost.
                Ok(length) => drop(socket.send_to(&bytes[..length], client)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Nobody listened in the container to one that was sent before.
                Err(_) => {}
            }
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
        let waiting = self.count(|source| matches!(source, Source::Forwarded(_)));
        let Some(&server) = self.servers().first().filter(|_| waiting < MOST_FORWARDED) else {
            return self.give_up(question, from);
        };
        let asked = ask(server, question).and_then(|socket| {
            let forwarded = Forwarded { socket, question: question.to_vec(), from, server: 0, ticks: 0 };
            self.add(Source::Forwarded(forwarded))
        });
        match asked {
            Ok(_) => self.set_ticking(true),
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

    /// Asks others where one was silent for too long, hangs up on who takes too long, and listens again.
    fn tick(&mut self) {
        // It only has to be read; how often it rang says nothing.
        let _ = rustix::io::read(&self.ticks, &mut [0; 8][..]);
        let (mut waiting, mut late) = (self.resting.len(), Vec::new());
        for (number, source) in &mut self.sources {
            let (ticks, patience) = match source {
                Source::Forwarded(forwarded) => (&mut forwarded.ticks, PATIENCE),
                Source::Asking { ticks, .. } | Source::Client { kind: Relayed::Question { ticks }, .. } => {
                    (ticks, LONGEST_CONVERSATION)
                }
                Source::Packets { ticks, .. } => (ticks, LONGEST_SILENCE),
                _ => continue,
            };
            waiting += 1;
            *ticks += 1;
            if *ticks >= patience {
                late.push(*number);
            }
        }
        for number in late {
            self.sources.remove(&(number + 1));
            if let Some(Source::Forwarded(forwarded)) = self.sources.remove(&number) {
                self.ask_next(forwarded);
            }
        }
        for number in std::mem::take(&mut self.resting) {
            if let Some(Source::LongQuestions(listener) | Source::Port { listener, .. }) = self.sources.get(&number) {
                // It was possible to stop it, so it is to go on.
                let data = epoll::EventData::new_u64(number);
                let _ = epoll::modify(&self.epoll, listener, data, epoll::EventFlags::IN);
            }
        }
        if waiting == 0 {
            self.set_ticking(false);
        }
    }

    /// Lets time pass, or stops that. It goes on as it is when it does so already: a flood must not put a tick off.
    fn set_ticking(&mut self, on: bool) {
        if self.is_ticking == on {
            return;
        }
        let second = Timespec { tv_sec: i64::from(on), tv_nsec: 0 };
        let every = Itimerspec { it_interval: second, it_value: second };
        // Without it, a silent server is not replaced, and who asks asks again.
        if rustix::time::timerfd_settime(&self.ticks, TimerfdTimerFlags::empty(), &every).is_ok() {
            self.is_ticking = on;
        }
    }

    /// Reads a question that has its length before it.
    fn listen(&mut self, number: u64, mut stream: TcpStream, mut bytes: Vec<u8>, ticks: u32) {
        let mut buffer = [0; 2048];
        match io::Read::read(&mut stream, &mut buffer) {
            Ok(0) => return,
            Ok(length) => bytes.extend(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
        let length = bytes.first_chunk().map(|length| usize::from(u16::from_be_bytes(*length)));
        let Some(question) = length.and_then(|length| bytes.get(2..2 + length)) else {
            self.sources.insert(number, Source::Asking { stream, bytes, ticks });
            return;
        };
        match self.resolver.as_mut().map(|resolver| resolver.answer(question)) {
            Some(Answer::Here(answer)) => {
                let mut framed = (answer.len() as u16).to_be_bytes().to_vec();
                framed.extend(answer);
                // It is short, and the buffer is empty.
                if io::Write::write_all(&mut stream, &framed).is_ok() {
                    self.sources.insert(number, Source::Asking { stream, bytes: Vec::new(), ticks });
                }
            }
            Some(Answer::Elsewhere) => {
                if let Some(&server) = self.servers().first()
                    && epoll::delete(&self.epoll, &stream).is_ok()
                {
                    // The rest of the conversation is with that server.
                    let kind = Relayed::Question { ticks };
                    let _ = self.connect(stream, SocketAddr::from((server, 53)), &bytes, kind);
                }
            }
            Some(Answer::None) | None => {}
        }
    }
}

impl Source {
    /// Whether it is a connection that asks for names, whoever answers.
    fn is_asking(&self) -> bool {
        matches!(self, Source::Asking { .. } | Source::Client { kind: Relayed::Question { .. }, .. })
    }
}

/// Whether it is about the one who wanted to be accepted, or nobody does any more.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};
    matches!(error.kind(), ConnectionAborted | Interrupted | WouldBlock)
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
    fn who_asks_without_end_keeps_nobody_from_a_port_and_is_hung_up_on_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let (udp, tcp) = (UdpSocket::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let names = tcp.local_addr().unwrap();
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = port.local_addr().unwrap();
        let mut service = Service::new().unwrap();
        service.resolve(udp, tcp, Resolver::new(folder.path().to_owned(), "c".into(), Vec::new())).unwrap();
        service.relay(port, server.local_addr().unwrap()).unwrap();
        let asking: Vec<_> = (0..MOST_ASKING + 9)
            .map(|_| {
                let stream = TcpStream::connect(names).unwrap();
                service.turn().unwrap();
                stream
            })
            .collect();
        assert_eq!((service.count(Source::is_asking), service.is_ticking), (MOST_ASKING, true));
        let mut refused = asking.last().unwrap();
        assert!(matches!(refused.read(&mut [0]), Ok(0) | Err(_)));
        let _client = TcpStream::connect(address).unwrap();
        service.turn().unwrap();
        assert_eq!(service.count(|source| matches!(source, Source::Client { .. })), 1);
        for _ in 0..LONGEST_CONVERSATION {
            service.tick();
        }
        assert_eq!(service.count(Source::is_asking), 0);
        assert_eq!(service.count(|source| matches!(source, Source::Client { .. })), 1, "a port has no such limit");
        service.tick();
        assert!(!service.is_ticking);
    }

    #[test]
    fn a_listener_that_could_not_accept_rests_until_the_next_tick() {
        // What does not listen cannot accept, as what has no descriptor.
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        let listener = TcpListener::from(socket);
        let target = listener.local_addr().unwrap();
        let mut service = Service::new().unwrap();
        service.relay(listener, target).unwrap();
        service.turn().unwrap();
        assert!(service.is_ticking && service.resting.len() == 1, "{service:?}");
        service.tick();
        assert!(service.resting.is_empty());
        service.tick();
        assert!(!service.is_ticking);
    }

    #[test]
    fn packets_pass_both_ways_until_all_was_silent_for_long() {
        let (server, port) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let address = port.local_addr().unwrap();
        let mut service = Service::new().unwrap();
        service.relay_packets(port, server.local_addr().unwrap()).unwrap();
        let clients = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        let mut bytes = [0; 9];
        for word in [b"one", b"two"] {
            // Each hears what is said to it, though the server hears all at one place.
            for client in &clients {
                client.send_to(word, address).unwrap();
                service.turn().unwrap();
                let (length, from) = server.recv_from(&mut bytes).unwrap();
                assert_eq!(&bytes[..length], word);
                server.send_to(format!("{}", client.local_addr().unwrap().port()).as_bytes(), from).unwrap();
                service.turn().unwrap();
                let (length, from) = client.recv_from(&mut bytes).unwrap();
                assert_eq!(from, address);
                assert_eq!(&bytes[..length], client.local_addr().unwrap().port().to_string().as_bytes());
            }
        }
        let conversations = |service: &Service| service.count(|source| matches!(source, Source::Packets { .. }));
        assert_eq!(conversations(&service), 2);
        for _ in 0..LONGEST_SILENCE {
            service.tick();
        }
        assert_eq!(conversations(&service), 0);
        clients[0].send_to(b"again", address).unwrap();
        service.turn().unwrap();
        let (_, first) = server.recv_from(&mut bytes).unwrap();
        // Many who come at once take nobody's place who was there before.
        for _ in 0..MOST_CONVERSATIONS + 9 {
            UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"many", address).unwrap();
            service.turn().unwrap();
            assert_eq!(server.recv(&mut bytes).unwrap(), 4);
        }
        assert_eq!(conversations(&service), MOST_CONVERSATIONS);
        clients[0].send_to(b"again", address).unwrap();
        service.turn().unwrap();
        assert_eq!(server.recv_from(&mut bytes).unwrap().1, first);
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
