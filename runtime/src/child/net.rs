//! Brings up the container's interfaces.

use super::message::{Failure, Step};
use crate::sys::{self, Fd};
use std::net::Ipv4Addr;

/// What to do in the new network namespace.
#[derive(Debug, Default)]
pub(crate) struct NetworkPlan {
    /// Whether the namespace is new, so that its loopback is down.
    pub(crate) loopback: bool,
    /// The address of `eth0`, which the parent puts there meanwhile.
    pub(crate) interface: Option<InterfacePlan>,
    /// A namespace that is ready, to join instead of a new one; both of the above are done then.
    pub(crate) join: Option<Fd>,
}

/// How `eth0` reaches the world.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InterfacePlan {
    pub(crate) address: Ipv4Addr,
    pub(crate) mask: Ipv4Addr,
    pub(crate) gateway: Ipv4Addr,
}

/// `struct ifreq`: a name, then a union of 24 bytes.
#[repr(C, align(8))]
struct InterfaceRequest {
    name: [u8; 16],
    value: [u8; 24],
}

/// Brings up `lo` and `eth0`, by name: numbers of interfaces are not known beforehand.
pub(crate) fn configure(plan: &NetworkPlan) -> Result<(), Failure> {
    if !plan.loopback {
        return Ok(());
    }
    let socket = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0).map_err(Step::Network.at(0))?;
    up(socket, b"lo").map_err(Step::Network.at(1))?;
    if let Some(interface) = &plan.interface {
        let set = |kind, address| {
            let request = address_of(b"eth0", address);
            sys::ioctl(socket, kind, &raw const request as usize)
        };
        set(sys::SIOCSIFADDR, interface.address).map_err(Step::Network.at(2))?;
        set(sys::SIOCSIFNETMASK, interface.mask).map_err(Step::Network.at(3))?;
        up(socket, b"eth0").map_err(Step::Network.at(4))?;
        default_route(socket, interface.gateway).map_err(Step::Network.at(5))?;
    }
    sys::close(socket);
    Ok(())
}

fn request(name: &[u8]) -> InterfaceRequest {
    let mut request = InterfaceRequest { name: [0; 16], value: [0; 24] };
    request.name[..name.len()].copy_from_slice(name);
    request
}

/// `struct sockaddr_in` with an address and no port.
fn socket_address(address: Ipv4Addr) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    bytes[4..8].copy_from_slice(&address.octets());
    bytes
}

fn address_of(name: &[u8], address: Ipv4Addr) -> InterfaceRequest {
    let mut request = request(name);
    request.value[..16].copy_from_slice(&socket_address(address));
    request
}

fn up(socket: Fd, name: &[u8]) -> Result<(), i32> {
    let mut request = request(name);
    sys::ioctl(socket, sys::SIOCGIFFLAGS, &raw mut request as usize)?;
    let flags = u16::from_ne_bytes([request.value[0], request.value[1]]) | libc::IFF_UP as u16;
    request.value[..2].copy_from_slice(&flags.to_ne_bytes());
    sys::ioctl(socket, sys::SIOCSIFFLAGS, &raw const request as usize).map(drop)
}

fn default_route(socket: Fd, gateway: Ipv4Addr) -> Result<(), i32> {
    /// The kernel's `struct rtentry`.
    #[repr(C)]
    struct Route {
        _pad1: u64,
        destination: [u8; 16],
        gateway: [u8; 16],
        mask: [u8; 16],
        flags: u16,
        _pad2: i16,
        _pad3: u64,
        _pad4: usize,
        metric: i16,
        device: usize,
        mtu: u64,
        window: u64,
        round_trip: u16,
    }
    const RTF_UP: u16 = 1;
    const RTF_GATEWAY: u16 = 2;
    let route = Route {
        _pad1: 0,
        destination: socket_address(Ipv4Addr::UNSPECIFIED),
        gateway: socket_address(gateway),
        mask: socket_address(Ipv4Addr::UNSPECIFIED),
        flags: RTF_UP | RTF_GATEWAY,
        _pad2: 0,
        _pad3: 0,
        _pad4: 0,
        metric: 0,
        device: 0,
        mtu: 0,
        window: 0,
        round_trip: 0,
    };
    sys::ioctl(socket, sys::SIOCADDRT, &raw const route as usize).map(drop)
}
