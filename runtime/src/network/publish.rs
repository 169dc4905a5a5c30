//! Published ports: this machine listens, and passes every connection on to the container.

use crate::Container;
use rustix::event::{PollFd, PollFlags, poll};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::str::FromStr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// A TCP port of the container that is reachable on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortMapping {
    /// The address to listen on. `0.0.0.0` also listens on `[::]`, where that can be had.
    pub host_address: IpAddr,
    /// The port to listen on; 0 picks one.
    pub host_port: u16,
    /// The port inside.
    pub container_port: u16,
}

/// Why a port mapping is not one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum BadPortMapping {
    #[error("`{text}` is not a port mapping such as 8080:80 or 127.0.0.1:8080:80/tcp")]
    NotOne { text: String },
    #[error("`{text}`: only tcp ports can be published so far")]
    NotTcp { text: String },
}

impl FromStr for PortMapping {
    type Err = BadPortMapping;

    /// Reads `[[ADDRESS:][HOST-PORT]:]PORT[/tcp]`, as docker's `-p`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let not_one = || BadPortMapping::NotOne { text: text.to_owned() };
        let ports = match text.rsplit_once('/') {
            None => text,
            Some((ports, protocol)) if protocol.eq_ignore_ascii_case("tcp") => ports,
            Some((_, protocol)) if ["udp", "sctp"].iter().any(|known| protocol.eq_ignore_ascii_case(known)) => {
                return Err(BadPortMapping::NotTcp { text: text.to_owned() });
            }
            Some(_) => return Err(not_one()),
        };
        let port = |text: &str| match text.parse::<u16>() {
            Ok(port) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(port),
            _ => Err(not_one()),
        };
        let (before, container) = ports.rsplit_once(':').map_or((None, ports), |(before, last)| (Some(before), last));
        let container_port = port(container)?;
        let (address, host) = match before {
            None => (None, ""),
            Some(before) => before.rsplit_once(':').map_or((None, before), |(address, host)| (Some(address), host)),
        };
        let host_address = match address {
            None | Some("") => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Some(address) => {
                let bare = address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(address);
                bare.parse().map_err(|_| not_one())?
            }
        };
        let host_port = if host.is_empty() { 0 } else { port(host)? };
        if container_port == 0 {
            return Err(not_one());
        }
        Ok(PortMapping { host_address, host_port, container_port })
    }
}

/// Why a port is not published.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum PublishError {
    #[error("cannot listen on {address}:{port}")]
    Listen { address: IpAddr, port: u16, source: io::Error },
    #[error("a container without a network of its own cannot publish ports")]
    NoNetwork,
}

/// Ports that stay published until this is dropped.
#[derive(Debug)]
pub struct Published {
    mappings: Vec<PortMapping>,
    listeners: Vec<JoinHandle<()>>,
    /// Closing it, which is hung up on the other end, stops the listeners.
    stop: Option<OwnedFd>,
}

impl Published {
    /// What is published, with the ports that were picked.
    pub fn mappings(&self) -> &[PortMapping] {
        &self.mappings
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        self.stop = None;
        for listener in self.listeners.drain(..) {
            // It neither panics nor waits: what it does is accept.
            let _ = listener.join();
        }
    }
}

/// Listens on this machine for each mapping and passes connections on to the container.
///
/// All listen before any connection is taken: one port that is in use, and nothing is published.
pub fn publish(container: &Container, mappings: &[PortMapping]) -> Result<Published, PublishError> {
    let Some(address) = container.address() else {
        return if mappings.is_empty() { publish_at(Ipv4Addr::LOCALHOST, &[]) } else { Err(PublishError::NoNetwork) };
    };
    publish_at(address, mappings)
}

fn publish_at(address: Ipv4Addr, mappings: &[PortMapping]) -> Result<Published, PublishError> {
    let mut listeners = Vec::new();
    let mut published = Vec::new();
    for mapping in mappings {
        let target = SocketAddr::from((address, mapping.container_port));
        let refused = |source| PublishError::Listen { address: mapping.host_address, port: mapping.host_port, source };
        let listener = TcpListener::bind((mapping.host_address, mapping.host_port)).map_err(refused)?;
        let host_port = listener.local_addr().map_err(refused)?.port();
        published.push(PortMapping { host_port, ..*mapping });
        listeners.push((listener, target));
        if mapping.host_address == IpAddr::V4(Ipv4Addr::UNSPECIFIED)
            && let Ok(listener) = listen_on_ipv6_alone(host_port)
        {
            listeners.push((listener, target));
        }
    }
    let failed = |error: rustix::io::Errno| PublishError::Listen {
        address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        port: 0,
        source: error.into(),
    };
    let (stopped, stop) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed)?;
    let stopped = Arc::new(stopped);
    let listeners = listeners
        .into_iter()
        .map(|(listener, target)| {
            let stopped = stopped.clone();
            std::thread::spawn(move || listen(&listener, target, &stopped))
        })
        .collect();
    Ok(Published { mappings: published, listeners, stop: Some(stop) })
}

/// `[::]` without IPv4, which has a listener of its own.
fn listen_on_ipv6_alone(port: u16) -> io::Result<TcpListener> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
    let socket = socket_with(AddressFamily::INET6, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_ipv6_v6only(&socket, true)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))?;
    listen(&socket, 128)?;
    Ok(TcpListener::from(socket))
}

/// How long to rest when a connection cannot be taken, so that a full table of descriptors is not asked all the time.
const REST: Duration = Duration::from_millis(50);

fn listen(listener: &TcpListener, target: SocketAddr, stopped: &OwnedFd) {
    if listener.set_nonblocking(true).is_err() {
        return;
    }
    loop {
        let mut both = [PollFd::new(listener, PollFlags::IN), PollFd::from_borrowed_fd(stopped.as_fd(), PollFlags::IN)];
        match poll(&mut both, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
        if !both[1].revents().is_empty() {
            return;
        }
        match listener.accept() {
            Ok((client, _)) => {
                std::thread::spawn(move || pass_on(client, target));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => std::thread::sleep(REST),
        }
    }
}

/// Passes one connection on, both ways, until both have ended.
fn pass_on(client: TcpStream, target: SocketAddr) {
    // A program that does not listen yet is refused to the client by hanging up.
    let Ok(server) = TcpStream::connect(target) else { return };
    if client.set_nonblocking(false).is_err() {
        return;
    }
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (Ok(client_again), Ok(server_again)) = (client.try_clone(), server.try_clone()) else { return };
    let answers = std::thread::spawn(move || one_way(server_again, client_again));
    one_way(client, server);
    // It cannot panic; when it has ended the connection has.
    let _ = answers.join();
}

/// Copies until the end, and passes the end on.
fn one_way(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        if to.write_all(&buffer[..length]).is_err() {
            // Nobody takes it: tell the sender, too.
            let _ = from.shutdown(Shutdown::Read);
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("80", "0.0.0.0", 0, 80)]
    #[case("8080:80", "0.0.0.0", 8080, 80)]
    #[case(":80/tcp", "0.0.0.0", 0, 80)]
    #[case("127.0.0.1:8080:80/TCP", "127.0.0.1", 8080, 80)]
    #[case("127.0.0.1::80", "127.0.0.1", 0, 80)]
    #[case("[::1]:8080:80", "::1", 8080, 80)]
    fn a_mapping_is_read_as_docker_reads_it(
        #[case] text: &str,
        #[case] address: &str,
        #[case] host_port: u16,
        #[case] container_port: u16,
    ) {
        let expected = PortMapping { host_address: address.parse().unwrap(), host_port, container_port };
        assert_eq!(text.parse(), Ok(expected));
    }

    #[rstest]
    fn what_is_not_a_mapping_is_refused(
        #[values("", ":", "x", "0", "80:", "8080:80:", "1.2.3:80:80", "65536:80", "80:+80", "a:b:c:d", "80/icmp")] text: &str,
    ) {
        assert_eq!(text.parse::<PortMapping>(), Err(BadPortMapping::NotOne { text: text.to_owned() }));
    }

    #[test]
    fn other_protocols_are_said_to_be_missing() {
        assert!(matches!("53:53/udp".parse::<PortMapping>(), Err(BadPortMapping::NotTcp { .. })));
    }

    #[test]
    fn connections_pass_both_ways_and_a_used_port_is_refused() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let echo = std::thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            stream.write_all(text.to_uppercase().as_bytes()).unwrap();
        });
        let mapping = PortMapping { host_address: Ipv4Addr::LOCALHOST.into(), host_port: 0, container_port: port };
        let published = publish_at(Ipv4Addr::LOCALHOST, &[mapping]).unwrap();
        let host_port = published.mappings()[0].host_port;
        let taken = PortMapping { host_port, ..mapping };
        assert!(matches!(publish_at(Ipv4Addr::LOCALHOST, &[taken]), Err(PublishError::Listen { .. })));
        let mut client = TcpStream::connect(("127.0.0.1", host_port)).unwrap();
        client.write_all(b"through").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "THROUGH");
        echo.join().unwrap();
        drop(published);
        assert!(TcpStream::connect(("127.0.0.1", host_port)).is_err());
    }
}
