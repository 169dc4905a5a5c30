//! Networks of containers: none, the host's, or a bridge with NAT; and published ports.
//!
//! ```text
//! container eth0 --- svXXXX \
//!                            slipway0 (first address of the subnet) --- NAT --- the world
//! container eth0 --- svXXXX /
//! ```
//!
//! The bridge and the NAT table are made when they are missing and stay, as docker's do; addresses are
//! locked files, given back by the kernel when their owner dies; an interface goes with its container.

mod leases;
mod links;
mod namespace;
mod nat;
mod netlink;
mod publish;
mod subnet;

pub(crate) use namespace::Namespace;
pub use publish::{BadPortMapping, PortMapping, PublishError, Published, publish};

use crate::child::net::{InterfacePlan, NetworkPlan};
use crate::pool::Pool;
use leases::Lease;
use netlink::Socket;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use subnet::Subnet;

/// Which network a container gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Loopback only.
    None,
    /// That of this machine.
    Host,
    /// An address on the bridge `slipway0`, with NAT to the outside.
    ///
    /// The folder keeps who has which address. The bridge is the machine's, so there is one for all.
    Bridge(PathBuf),
}

/// A network that is ready for one container. Dropping it gives the address back.
#[derive(Debug)]
pub struct Network {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    None,
    Host,
    Bridge {
        bridge: Bridge,
        lease: Lease,
    },
    /// A namespace that is ready, from a pool or for it.
    Ready {
        namespace: Namespace,
        mode: Mode,
        pool: Arc<Pool>,
    },
}

/// The bridge as it is.
#[derive(Clone, Copy, Debug)]
struct Bridge {
    index: u32,
    subnet: Subnet,
    /// How large a packet to the world may be.
    mtu: Option<u32>,
}

impl Network {
    /// Loopback only.
    pub fn none() -> Network {
        Network { kind: Kind::None }
    }

    /// That of this machine.
    pub fn host() -> Network {
        Network { kind: Kind::Host }
    }

    /// Whether the container shares the network of this machine.
    pub fn is_host(&self) -> bool {
        matches!(self.kind, Kind::Host)
    }

    /// The address on the bridge.
    pub fn address(&self) -> Option<Ipv4Addr> {
        match &self.kind {
            Kind::None | Kind::Host => None,
            Kind::Bridge { lease, .. } => Some(lease.address),
            Kind::Ready { namespace, .. } => namespace.place.as_ref().map(|(_, lease)| lease.address),
        }
    }

    /// The bridge's own address.
    pub fn gateway(&self) -> Option<Ipv4Addr> {
        match &self.kind {
            Kind::None | Kind::Host => None,
            Kind::Bridge { bridge, .. } => Some(bridge.subnet.gateway()),
            Kind::Ready { namespace, .. } => namespace.place.as_ref().map(|(bridge, _)| bridge.subnet.gateway()),
        }
    }

    /// What the child does to its interfaces.
    pub(crate) fn plan(&self, new_namespace: bool) -> NetworkPlan {
        let interface = match &self.kind {
            Kind::Ready { namespace, .. } if new_namespace => {
                return NetworkPlan { join: Some(namespace.handle.as_raw_fd()), ..NetworkPlan::default() };
            }
            Kind::Bridge { bridge: Bridge { subnet, .. }, lease } if new_namespace => {
                Some(InterfacePlan { address: lease.address, mask: subnet.mask(), gateway: subnet.gateway() })
            }
            _ => None,
        };
        NetworkPlan { loopback: new_namespace, interface, join: None }
    }

    /// Gives the child's network namespace, if it is new, its interface.
    pub(crate) fn attach(&self, pid: u32, new_namespace: bool) -> Result<(), NetworkError> {
        match &self.kind {
            Kind::Bridge { bridge, lease } if new_namespace => {
                let socket = route_socket()?;
                let end = links::End::Process(pid);
                links::create_pair(&socket, bridge.index, bridge.mtu, end, lease.address)
                    .map_err(failed("make a pair of interfaces"))
            }
            _ => Ok(()),
        }
    }

    /// Gives the address back. The kernel removes the interface together with the namespace, in its own time.
    ///
    /// The caller says whether the container can have left something behind; if not, a pool gets the namespace.
    pub(crate) fn release(&mut self, clean: bool) {
        if self.is_host() {
            return;
        }
        if let Kind::Ready { namespace, mode, pool } = std::mem::replace(&mut self.kind, Kind::None)
            && clean
            && namespace.is_quiet()
        {
            pool.keep_network(mode, namespace);
        }
    }
}

/// Why a network is not to be had.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum NetworkError {
    #[error("cannot {what}")]
    Setup { what: &'static str, source: io::Error },
    #[error("network state `{}`", path.display())]
    State { path: PathBuf, source: io::Error },
    #[error("no range of addresses for the bridge is free on this machine")]
    NoSubnet,
    #[error("every address of the bridge is taken")]
    NoAddress,
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> NetworkError {
    move |source| NetworkError::Setup { what, source }
}

fn route_socket() -> Result<Socket, NetworkError> {
    Socket::new(None).map_err(failed("open a socket to the kernel's routing"))
}

/// Makes a network ready for one container: the bridge exists, an address is taken.
pub fn prepare(mode: Mode) -> Result<Network, NetworkError> {
    match mode {
        Mode::None => Ok(Network::none()),
        Mode::Host => Ok(Network::host()),
        Mode::Bridge(state) => {
            let bridge = ensure_bridge()?;
            let lease = leases::take(&state, bridge.subnet)?;
            Ok(Network { kind: Kind::Bridge { bridge, lease } })
        }
    }
}

/// Makes a network ready for one container of several that run on behalf of the same build: a namespace that an ended one
/// left in the pool, or a new one that goes there when the container has ended.
pub fn prepare_in(mode: Mode, pool: &Arc<Pool>) -> Result<Network, NetworkError> {
    let place = match &mode {
        Mode::Host => return Ok(Network::host()),
        Mode::None => None,
        Mode::Bridge(state) => Some(state),
    };
    let namespace = match (pool.network(&mode), place) {
        (Some(namespace), _) => namespace,
        (None, None) => Namespace::new(None)?,
        (None, Some(state)) => {
            let bridge = ensure_bridge()?;
            let lease = leases::take(state, bridge.subnet)?;
            Namespace::new(Some((bridge, lease)))?
        }
    };
    Ok(Network { kind: Kind::Ready { namespace, mode, pool: pool.clone() } })
}

/// Removes what dead owners of addresses left in `state`.
pub(crate) fn sweep(state: &Path) -> usize {
    leases::sweep(state)
}

/// Makes the bridge, its address and the way out, as far as they are missing.
///
/// Every step may find that another process has just done it; all processes choose alike.
fn ensure_bridge() -> Result<Bridge, NetworkError> {
    let routes_text = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let routes = subnet::parse_routes(&routes_text);
    let mtu = subnet::default_interface(&routes).and_then(links::mtu);
    let existing = links::index(links::BRIDGE);
    let chosen = existing.and_then(|_| subnet::of_interface(&routes, links::BRIDGE));
    let (index, subnet) = match (existing, chosen) {
        (Some(index), Some(subnet)) => (index, subnet),
        _ => {
            let subnet = subnet::choose(&routes, links::BRIDGE).ok_or(NetworkError::NoSubnet)?;
            let socket = route_socket()?;
            links::create_bridge(&socket).map_err(failed("make the bridge `slipway0`"))?;
            let index = links::index(links::BRIDGE)
                .ok_or_else(|| failed("find the bridge `slipway0`")(io::Error::from(io::ErrorKind::NotFound)))?;
            links::address_bridge(&socket, index, subnet).map_err(failed("give the bridge `slipway0` an address"))?;
            (index, subnet)
        }
    };
    let socket = Socket::new(Some(rustix::net::netlink::NETFILTER)).map_err(failed("open a socket to nftables"))?;
    if chosen.is_none() || !nat::is_there(&socket).map_err(failed("ask nftables"))? {
        nat::create(&socket, subnet).map_err(failed("make nftables rules for the way out"))?;
    }
    nat::pass_firewall(&socket).map_err(failed("let the bridge through the firewall"))?;
    forward_packets().map_err(failed("turn on IPv4 forwarding"))?;
    Ok(Bridge { index, subnet, mtu })
}

fn forward_packets() -> io::Result<()> {
    const SETTING: &str = "/proc/sys/net/ipv4/ip_forward";
    if std::fs::read_to_string(SETTING)?.trim() != "0" {
        return Ok(());
    }
    io::Write::write_all(&mut std::fs::OpenOptions::new().write(true).open(SETTING)?, b"1")
}
