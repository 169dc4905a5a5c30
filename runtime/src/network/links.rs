//! The bridge, and a pair of interfaces for each container, by rtnetlink.

use super::netlink::{Messages, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, Socket};
use super::subnet::Subnet;
use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};

/// The bridge's name.
pub(super) const BRIDGE: &str = "slipway0";

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_PID: u16 = 19;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;

/// `struct ifinfomsg`: family, padding, type, index, flags, which flags change.
fn link_header(up: bool) -> [u8; 16] {
    let mut header = [0; 16];
    if up {
        let flag = (libc::IFF_UP as u32).to_ne_bytes();
        header[8..12].copy_from_slice(&flag);
        header[12..16].copy_from_slice(&flag);
    }
    header
}

/// Returns the index of an interface.
pub(super) fn index(name: &str) -> Option<u32> {
    std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex")).ok()?.trim().parse().ok()
}

/// Returns how large a packet may be on an interface.
pub(super) fn mtu(name: &str) -> Option<u32> {
    std::fs::read_to_string(format!("/sys/class/net/{name}/mtu")).ok()?.trim().parse().ok()
}

/// Makes the bridge, if it is not there.
pub(super) fn create_bridge(socket: &Socket) -> io::Result<()> {
    let mut messages = Messages::default();
    messages.begin(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &link_header(true)).text(IFLA_IFNAME, BRIDGE);
    messages.nest(IFLA_LINKINFO, |info| {
        info.text(IFLA_INFO_KIND, "bridge");
    });
    already_there(socket.send(&messages))
}

/// Gives the bridge the first address of the subnet.
pub(super) fn address_bridge(socket: &Socket, index: u32, subnet: Subnet) -> io::Result<()> {
    let mut header = [libc::AF_INET as u8, subnet.prefix, 0, 0, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    let address = subnet.gateway().octets();
    let mut messages = Messages::default();
    messages
        .begin(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &header)
        .attribute(IFA_LOCAL, &address)
        .attribute(IFA_ADDRESS, &address)
        .attribute(IFA_BROADCAST, &subnet.broadcast().octets());
    already_there(socket.send(&messages))
}

fn already_there(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Where the container's interface of a pair goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// Into the network namespace of a process.
    Process(u32),
    /// Into this namespace.
    Namespace(std::os::fd::RawFd),
}

/// Makes a pair of interfaces: one on the bridge, the other as `eth0` in a network namespace.
///
/// The bridge takes the smallest packet size of its members, so `mtu` becomes its own.
pub(super) fn create_pair(
    socket: &Socket,
    bridge: u32,
    mtu: Option<u32>,
    end: End,
    address: Ipv4Addr,
) -> io::Result<()> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed) & 0xffff;
    let name = format!("sv{:06x}{number:04x}", std::process::id() & 0xff_ffff);
    let mtu = mtu.unwrap_or(1500).to_ne_bytes();
    let (end, place) = match end {
        End::Process(pid) => (IFLA_NET_NS_PID, pid.to_ne_bytes()),
        End::Namespace(handle) => (IFLA_NET_NS_FD, handle.to_ne_bytes()),
    };
    let mut messages = Messages::default();
    messages
        .begin(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &link_header(true))
        .text(IFLA_IFNAME, &name)
        .attribute(IFLA_MTU, &mtu)
        .attribute(IFLA_MASTER, &bridge.to_ne_bytes())
        .nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |data| {
                data.nest_with(VETH_INFO_PEER, &link_header(false), |peer| {
                    peer.text(IFLA_IFNAME, "eth0")
                        .attribute(IFLA_MTU, &mtu)
                        .attribute(IFLA_ADDRESS, &hardware_address(address))
                        .attribute(end, &place);
                });
            });
        });
    socket.send(&messages)
}

/// An address that goes with the IP address, so that nobody remembers a wrong one when that is used again.
fn hardware_address(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x42, a, b, c, d]
}
