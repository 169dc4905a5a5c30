//! Published ports: each is reserved by a socket, and led to the container by nftables.
//!
//! The socket keeps everybody else from listening there. The kernel rewrites packets to the port before they would reach
//! it, so over IPv4 no connection ever does. What still gets there asked for an IPv6 address that the kernel cannot
//! rewrite to the container's, `[::1]` above all: for those the socket is a listener, and a [`Service`] relays.
//!
//! A plain user may rewrite nothing on this machine: all their ports are relayed, into the namespace of their bridges. SCTP
//! has no relay.

use super::nft::{self, PortKey};
use super::port_mapping::{PortMapping, Protocol};
use super::service::Service;
use super::table;
use crate::rootless;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

/// Why a port is not published.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum PublishError {
    #[error("Bind for {address} failed: port is already allocated")]
    Taken { address: SocketAddr },
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("all ports of {address} from {first} to {last} are allocated")]
    NoneFree { address: IpAddr, first: u16, last: u16 },
    #[error("a container without a network of its own cannot publish ports")]
    NoNetwork,
    #[error("{protocol} ports can be published on IPv6 addresses only from a network with IPv6")]
    NoIpv6 { protocol: Protocol },
    #[error("without root, only TCP and UDP ports can be published, and {address} is one of {protocol}")]
    NotRelayed { address: SocketAddr, protocol: Protocol },
    #[error("cannot lead the port {address} to the container")]
    Rule { address: SocketAddr, source: io::Error },
}

/// A port that is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedPort {
    /// Where on this machine.
    pub host: SocketAddr,
    /// The port inside.
    pub container_port: u16,
    /// What it is a port of.
    pub protocol: Protocol,
}

/// The container's side.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) bridge: String,
    pub(super) ipv4: Ipv4Addr,
    pub(super) ipv6: Option<Ipv6Addr>,
}

/// Ports that stay published until this is dropped.
#[derive(Debug)]
pub(super) struct Published {
    bridge: String,
    pub(super) ports: Vec<PublishedPort>,
    keys: Vec<PortKey>,
    /// Those that nobody relays from.
    _reserved: Vec<OwnedFd>,
}

impl Drop for Published {
    fn drop(&mut self) {
        let Ok(socket) = nft::socket() else { return };
        for key in &self.keys {
            // What stays is swept, or replaced by whoever publishes the port next.
            let _ = table::unpublish(&socket, &self.bridge, key);
        }
    }
}

/// Publishes ports, all or none.
///
/// Connections that have to be relayed go to `service`, which is made for the first.
pub(super) fn publish(
    target: &Target,
    mappings: &[PortMapping],
    service: &mut Option<Service>,
) -> Result<Published, PublishError> {
    let mut published =
        Published { bridge: target.bridge.clone(), ports: Vec::new(), keys: Vec::new(), _reserved: Vec::new() };
    let mut relayed = Vec::new();
    for mapping in mappings {
        publish_one(target, mapping, &mut published, &mut relayed)?;
    }
    for Relayed { socket, protocol, container_port, host: address } in relayed {
        let failed = |source| PublishError::Listen { address, source };
        let service = match service {
            Some(service) => service,
            None => service.insert(Service::new().map_err(failed)?),
        };
        let inside = SocketAddr::from((target.ipv4, container_port));
        let relaying = match protocol {
            Protocol::Udp => service.relay_packets(UdpSocket::from(socket), inside),
            _ => service.relay(TcpListener::from(socket), inside),
        };
        relaying.map_err(failed)?;
    }
    Ok(published)
}

/// What a service is to relay.
struct Relayed {
    socket: OwnedFd,
    protocol: Protocol,
    container_port: u16,
    host: SocketAddr,
}

fn publish_one(
    target: &Target,
    mapping: &PortMapping,
    published: &mut Published,
    relayed: &mut Vec<Relayed>,
) -> Result<(), PublishError> {
    let &PortMapping { host_address, container_port, protocol, .. } = mapping;
    let first = host_address.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let all_relayed = rootless::world().is_some();
    if all_relayed && protocol == Protocol::Sctp {
        let address = SocketAddr::from((first, *mapping.host_ports.start()));
        return Err(PublishError::NotRelayed { address, protocol });
    }
    let can_ipv6 = all_relayed || protocol == Protocol::Tcp || target.ipv6.is_some();
    if first.is_ipv6() && !can_ipv6 {
        return Err(PublishError::NoIpv6 { protocol });
    }
    let (socket, host) = reserve_any(first, mapping)?;
    let mut all = vec![(socket, host)];
    // Docker publishes on `[::]` too, where that can be had.
    let second = SocketAddr::from((Ipv6Addr::UNSPECIFIED, host.port()));
    if host_address.is_none() && can_ipv6 {
        match reserve(second, protocol) {
            Ok(socket) => all.push((socket, second)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(PublishError::Taken { address: second });
            }
            // A machine without IPv6.
            Err(_) => {}
        }
    }
    if all_relayed {
        for (socket, host) in all {
            relayed.push(Relayed { socket, protocol, container_port, host });
            published.ports.push(PublishedPort { host, container_port, protocol });
        }
        return Ok(());
    }
    let rule = |source| PublishError::Rule { address: host, source };
    let netfilter = nft::socket().map_err(rule)?;
    for (socket, host) in all {
        let inside = match host {
            SocketAddr::V4(_) => Some(IpAddr::V4(target.ipv4)),
            SocketAddr::V6(_) => target.ipv6.map(IpAddr::V6),
        };
        if let Some(inside) = inside {
            let key = PortKey { address: host.ip(), protocol: protocol.number(), port: host.port() };
            table::publish(&netfilter, &target.bridge, &key, (inside, container_port)).map_err(rule)?;
            published.keys.push(key);
        }
        match host {
            SocketAddr::V6(_) if protocol == Protocol::Tcp => {
                relayed.push(Relayed { socket, protocol, container_port, host });
            }
            _ => published._reserved.push(socket),
        }
        published.ports.push(PublishedPort { host, container_port, protocol });
    }
    Ok(())
}

/// Reserves the first port of a range that is free, or any with 0.
fn reserve_any(address: IpAddr, mapping: &PortMapping) -> Result<(OwnedFd, SocketAddr), PublishError> {
    let ports = &mapping.host_ports;
    for port in ports.clone() {
        let host = SocketAddr::from((address, port));
        match reserve(host, mapping.protocol) {
            Ok(socket) => {
                let failed = |error: rustix::io::Errno| PublishError::Listen { address: host, source: error.into() };
                let bound = rustix::net::getsockname(&socket).map_err(failed)?;
                let port = SocketAddr::try_from(bound).map_or(port, |bound| bound.port());
                return Ok((socket, SocketAddr::from((address, port))));
            }
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                return Err(PublishError::Listen { address: host, source: error });
            }
            Err(_) if ports.start() == ports.end() => return Err(PublishError::Taken { address: host }),
            Err(_) => {}
        }
    }
    Err(PublishError::NoneFree { address, first: *ports.start(), last: *ports.end() })
}

/// Binds a socket that keeps others from the port.
fn reserve(address: SocketAddr, protocol: Protocol) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, rustix::net::ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, rustix::net::ipproto::UDP),
        Protocol::Sctp => (SocketType::STREAM, rustix::net::ipproto::SCTP),
    };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, Some(number))?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if protocol == Protocol::Tcp {
        // As everybody does who listens; what keeps others away is that we listen, too.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &address)?;
    match protocol {
        Protocol::Tcp => listen(&socket, 128)?,
        Protocol::Udp if rootless::world().is_some() => {}
        // Nobody reads what is sent there in a moment without a rule.
        Protocol::Udp => sockopt::set_socket_recv_buffer_size(&socket, 1)?,
        Protocol::Sctp => {}
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(ports: std::ops::RangeInclusive<u16>) -> PortMapping {
        PortMapping { host_address: None, host_ports: ports, container_port: 80, protocol: Protocol::Tcp }
    }

    #[test]
    fn a_port_that_is_reserved_is_nobody_elses_until_the_reservation_is_dropped() {
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let (one, host) = reserve_any(address, &mapping(0..=0)).unwrap();
        let port = host.port();
        let error = reserve_any(address, &mapping(port..=port)).unwrap_err();
        assert_eq!(error.to_string(), format!("Bind for 127.0.0.1:{port} failed: port is already allocated"));
        assert!(TcpListener::bind(host).is_err());
        if port < u16::MAX {
            // The next of a range takes its place, if nobody has that.
            let next = reserve_any(address, &mapping(port..=port + 1));
            assert!(next.is_err() || next.unwrap().1.port() == port + 1);
        }
        drop(one);
        reserve_any(address, &mapping(port..=port)).unwrap();
    }

    #[test]
    fn udp_has_ports_of_its_own() {
        let (_one, host) = reserve_any(Ipv4Addr::LOCALHOST.into(), &mapping(0..=0)).unwrap();
        let udp = reserve(host, Protocol::Udp).unwrap();
        assert!(std::net::UdpSocket::bind(host).is_err());
        drop(udp);
    }
}
