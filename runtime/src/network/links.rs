//! Bridges, pairs of interfaces, their addresses and routes, by rtnetlink.

use super::netlink::{Messages, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, Socket};
use ipnet::IpNet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};

/// The default network's bridge.
pub(super) const BRIDGE: &str = "slipway0";

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;

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
const IFA_FLAGS: u16 = 8;
/// Nobody else has the address, so nobody is asked.
const IFA_F_NODAD: u32 = 2;

const RTA_GATEWAY: u16 = 5;
const RTA_OIF: u16 = 4;

/// `struct ifinfomsg`: family, padding, type, index, flags, which flags change.
fn link_header(index: u32, up: bool) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    if up {
        let flag = (libc::IFF_UP as u32).to_ne_bytes();
        header[8..12].copy_from_slice(&flag);
        header[12..16].copy_from_slice(&flag);
    }
    header
}

/// Returns the index of an interface in this thread's namespace.
pub(super) fn index(name: &str) -> Option<u32> {
    // SAFETY: the kernel has written this member.
    ask(name, libc::SIOCGIFINDEX as u32).map(|request| unsafe { request.ifr_ifru.ifru_ifindex } as u32)
}

/// Returns how large a packet may be on an interface in this thread's namespace.
pub(super) fn mtu(name: &str) -> Option<u32> {
    // SAFETY: the kernel has written this member.
    ask(name, libc::SIOCGIFMTU as u32).map(|request| unsafe { request.ifr_ifru.ifru_mtu } as u32)
}

/// Asks the kernel about an interface. `/sys/class/net` would tell of the namespace in which it was mounted.
fn ask(name: &str, what: u32) -> Option<libc::ifreq> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    // SAFETY: zeros are a request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The name ends with a zero.
    (name.len() < request.ifr_name.len()).then_some(())?;
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).ok()?;
    crate::sys::ioctl(socket.as_raw_fd(), what, &raw mut request as usize).ok()?;
    Some(request)
}

/// Returns the index of an interface in the socket's namespace.
pub(super) fn index_in(socket: &Socket, name: &str) -> io::Result<u32> {
    let mut messages = Messages::default();
    messages.begin(RTM_GETLINK, NLM_F_ACK, &link_header(0, false)).text(IFLA_IFNAME, name);
    let mut index = None;
    socket.exchange(&messages, |_, body| {
        index = body.get(4..8).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
    })?;
    index.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Makes a bridge, if it is not there, with a hardware address that goes with its own IP address.
pub(super) fn create_bridge(socket: &Socket, name: &str, address: IpAddr) -> io::Result<()> {
    let mut messages = Messages::default();
    messages
        .begin(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &link_header(0, true))
        .text(IFLA_IFNAME, name)
        .attribute(IFLA_ADDRESS, &hardware_address(address));
    messages.nest(IFLA_LINKINFO, |info| {
        info.text(IFLA_INFO_KIND, "bridge");
    });
    already_there(socket.send(&messages))
}

/// Removes an interface, if it is there.
pub(super) fn remove(socket: &Socket, name: &str) -> io::Result<()> {
    let mut messages = Messages::default();
    messages.begin(RTM_DELLINK, NLM_F_ACK, &link_header(0, false)).text(IFLA_IFNAME, name);
    match socket.send(&messages) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        other => other,
    }
}

/// Brings an interface up.
pub(super) fn up(socket: &Socket, index: u32) -> io::Result<()> {
    let mut messages = Messages::default();
    messages.begin(RTM_NEWLINK, NLM_F_ACK, &link_header(index, true));
    socket.send(&messages)
}

/// Gives an interface an address.
pub(super) fn add_address(socket: &Socket, index: u32, address: IpAddr, net: IpNet) -> io::Result<()> {
    let (family, bytes) = octets(address);
    let mut header = [family, net.prefix_len(), 0, 0, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut messages = Messages::default();
    messages
        .begin(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &header)
        .attribute(IFA_LOCAL, &bytes)
        .attribute(IFA_ADDRESS, &bytes);
    match net {
        IpNet::V4(net) => messages.attribute(IFA_BROADCAST, &net.broadcast().octets()),
        IpNet::V6(_) => messages.attribute(IFA_FLAGS, &IFA_F_NODAD.to_ne_bytes()),
    };
    already_there(socket.send(&messages))
}

/// Leads everything else to a gateway.
pub(super) fn default_route(socket: &Socket, index: u32, gateway: IpAddr) -> io::Result<()> {
    let (family, bytes) = octets(gateway);
    // struct rtmsg: family, lengths of destination and source, tos, table main, protocol boot, scope universe, unicast.
    let header = [family, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
    let mut messages = Messages::default();
    messages
        .begin(RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &header)
        .attribute(RTA_GATEWAY, &bytes)
        .attribute(RTA_OIF, &index.to_ne_bytes());
    already_there(socket.send(&messages))
}

fn octets(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(address) => (libc::AF_INET as u8, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6 as u8, address.octets().to_vec()),
    }
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
    Namespace(RawFd),
}

/// A pair of interfaces to be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair<'a> {
    /// The bridge's index.
    pub(super) bridge: u32,
    /// How large a packet may be. The bridge takes the smallest of its members, so this becomes its own.
    pub(super) mtu: Option<u32>,
    /// Where the inner one goes.
    pub(super) end: End,
    /// What it is called there.
    pub(super) inner_name: &'a str,
    /// Its hardware address.
    pub(super) hardware: [u8; 6],
}

/// Makes a pair of interfaces: one on the bridge, the other in a network namespace. Gives the outer one's name.
pub(super) fn create_pair(socket: &Socket, pair: &Pair<'_>) -> io::Result<String> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    /// A process of the same number may have left pairs to containers that still run.
    const MOST_TRIES: u32 = 64;
    for _ in 1..MOST_TRIES {
        let number = COUNT.fetch_add(1, Ordering::Relaxed) & 0xffff;
        let name = format!("sv{:06x}{number:04x}", std::process::id() & 0xff_ffff);
        match socket.send(&pair_message(&name, pair)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other.map(|()| name),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn pair_message(name: &str, pair: &Pair<'_>) -> Messages {
    let mtu = pair.mtu.unwrap_or(1500).to_ne_bytes();
    let (end, place) = match pair.end {
        End::Process(pid) => (IFLA_NET_NS_PID, pid.to_ne_bytes()),
        End::Namespace(handle) => (IFLA_NET_NS_FD, handle.to_ne_bytes()),
    };
    let mut messages = Messages::default();
    messages
        .begin(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &link_header(0, true))
        .text(IFLA_IFNAME, name)
        .attribute(IFLA_MTU, &mtu)
        .attribute(IFLA_MASTER, &pair.bridge.to_ne_bytes())
        .nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |data| {
                data.nest_with(VETH_INFO_PEER, &link_header(0, false), |peer| {
                    peer.text(IFLA_IFNAME, pair.inner_name)
                        .attribute(IFLA_MTU, &mtu)
                        .attribute(IFLA_ADDRESS, &pair.hardware)
                        .attribute(end, &place);
                });
            });
        });
    messages
}

/// An address that goes with the IP address, so that nobody remembers a wrong one when that is used again.
pub(super) fn hardware_address(address: IpAddr) -> [u8; 6] {
    let last: [u8; 4] = match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => {
            let bytes = address.octets();
            [bytes[12], bytes[13], bytes[14], bytes[15]]
        }
    };
    let [a, b, c, d] = last;
    [0x02, 0x42, a, b, c, d]
}

/// A switch of an interface's port on its bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PortSwitch {
    /// What comes in there may go out there again.
    Hairpin,
    /// Nothing passes from there to other ports that are so.
    Isolated,
}

/// Turns a switch of an interface's port on its bridge on.
pub(super) fn set_port(socket: &Socket, name: &str, switch: PortSwitch) -> io::Result<()> {
    const IFLA_PROTINFO: u16 = 12;
    let kind = match switch {
        PortSwitch::Hairpin => 4,
        PortSwitch::Isolated => 33,
    };
    let mut header = link_header(index_in(socket, name)?, false);
    header[0] = libc::AF_BRIDGE as u8;
    let mut messages = Messages::default();
    messages.begin(RTM_SETLINK, NLM_F_ACK, &header).nest(IFLA_PROTINFO, |info| {
        info.attribute(kind, &[1]);
    });
    socket.send(&messages)
}

/// Writes a value where the kernel keeps a setting, if it is not there already.
pub(super) fn set(path: &str, value: &str) -> io::Result<()> {
    if std::fs::read_to_string(path)?.trim() == value {
        return Ok(());
    }
    io::Write::write_all(&mut std::fs::OpenOptions::new().write(true).open(path)?, value.as_bytes())
}

/// Whether a setting of the kernel is `1`.
pub(super) fn is_set(path: &str) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
}

/// Lets this machine's interfaces listen to routers even when it forwards, which with `1` they would not: it would lose
/// its default route.
pub(super) fn keep_learned_routes() -> io::Result<()> {
    const INTERFACES: &str = "/proc/sys/net/ipv6/conf";
    for entry in std::fs::read_dir(INTERFACES)?.flatten() {
        let name = entry.file_name();
        let setting = format!("{INTERFACES}/{}/accept_ra", name.display());
        // Those that are still to come may be bridges of virtual machines, so they stay as they would be.
        let is_interface = name != "all" && name != "default";
        if is_interface && is_set(&setting) {
            // It may be gone by now.
            set(&setting, "2").or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            })?;
        }
    }
    Ok(())
}
