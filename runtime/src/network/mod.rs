//! Networks of containers: none, the host's, or bridges with NAT; published ports, and names.
//!
//! ```text
//! container eth0 --- svXXXX \
//!                            slipway0 (first address of the range) --- NAT --- the world
//! container eth0 --- svXXXX /
//!           eth1 --- svXXXX --- slipway-0123abc, another network's bridge
//! ```
//!
//! | File | Owns |
//! | --- | --- |
//! | `bridge.rs` | what a network is, and its bridge: made when a container first wants it, and swept |
//! | `range.rs` | addresses out of the way of this machine's own networks |
//! | `leases.rs` | who has which address |
//! | `attachment.rs` | a container's place on a network |
//! | `namespace.rs` | a network namespace that is made before its container |
//! | `port_mapping.rs` | ports as `-p` names them |
//! | `publish.rs` | ports that are published |
//! | `table.rs`, `nft.rs` | the nftables table of a network; the words that it is written in |
//! | `links.rs`, `netlink.rs` | interfaces and routes; messages to the kernel |
//! | `service.rs` | what runs beside a container on its behalf, on one descriptor |
//! | `resolver.rs` | names of containers |
//! | `relay.rs` | connections that are passed on |
//! | `uplink.rs` | how a plain user's bridges reach the world |
//!
//! Bridges and tables are made when they are missing and stay, as docker's do; an address belongs to an interface, which
//! the kernel removes with the container's namespace.

mod attachment;
mod bridge;
mod leases;
mod links;
mod namespace;
mod netlink;
mod nft;
mod port_mapping;
mod publish;
mod range;
mod relay;
mod resolver;
mod service;
mod table;
pub mod uplink;

pub use attachment::Wishes;
pub use bridge::{Definition, Reservation, remove};
pub(crate) use namespace::Namespace;
pub use port_mapping::{BadPortMapping, PortMapping, Protocol, parse as parse_ports};
pub use publish::{PublishError, PublishedPort};
pub use range::{Range, overlap};
pub use resolver::NAME_SERVER;
pub use service::{Service, Serving};

use crate::child::net::{InterfacePlan, NetworkPlan};
use crate::pool::Pool;
use crate::rootless;
use attachment::{Attachment, Joined};
use ipnet::IpNet;
use netlink::Socket;
use publish::{Published, Target};
use resolver::Resolver;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Which network a container of a build gets, or one of which nobody wants to know more.
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

/// A network that is ready for one container. Dropping it gives addresses and ports back.
#[derive(Debug)]
pub struct Network {
    kind: Kind,
    published: Option<Published>,
    service: Option<Service>,
}

#[derive(Debug)]
enum Kind {
    None,
    Host,
    /// A place on the default network, whose interface is made beside the child's own work.
    Bridge(Box<Joined>),
    /// A namespace that is ready; it goes to a pool if it comes from a build.
    Ready {
        namespace: Namespace,
        pool: Option<(Arc<Pool>, Mode)>,
    },
    /// The namespace of another container.
    Joined(OwnedFd),
}

/// A place that a container is to have on a network.
#[derive(Clone, Debug)]
pub struct Place {
    /// The network; the default one when `None`.
    pub network: Option<Definition>,
    /// What is wished of the place.
    pub wishes: Wishes,
}

/// A place that a container has on a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The network's bridge.
    pub bridge: String,
    /// The address, with the length of its network's prefix.
    pub ipv4: IpNet,
    /// The same with IPv6, when the network has it.
    pub ipv6: Option<IpNet>,
    /// The bridge's address.
    pub gateway: Ipv4Addr,
    /// The bridge's address.
    pub ipv6_gateway: Option<Ipv6Addr>,
    /// The hardware address.
    pub hardware: [u8; 6],
}

impl Default for Network {
    fn default() -> Self {
        Network::none()
    }
}

impl Network {
    fn of(kind: Kind) -> Network {
        Network { kind, published: None, service: None }
    }

    /// Loopback only.
    pub fn none() -> Network {
        Network::of(Kind::None)
    }

    /// That of this machine.
    pub fn host() -> Network {
        Network::of(Kind::Host)
    }

    /// That of another container, whose [namespace](namespace_of) is given.
    pub fn of_namespace(namespace: OwnedFd) -> Network {
        Network::of(Kind::Joined(namespace))
    }

    /// Whether the container shares the network of this machine.
    pub fn is_host(&self) -> bool {
        matches!(self.kind, Kind::Host)
    }

    /// The address on the first network.
    pub fn address(&self) -> Option<Ipv4Addr> {
        let address = match &self.kind {
            Kind::None | Kind::Host | Kind::Joined(_) => None,
            Kind::Bridge(joined) => Some(joined.address()),
            Kind::Ready { namespace, .. } => namespace.attachments.first().map(|first| first.ipv4().0),
        };
        address.map(ipv4)
    }

    /// The address of the first network's bridge.
    pub fn gateway(&self) -> Option<Ipv4Addr> {
        let gateway = match &self.kind {
            Kind::None | Kind::Host | Kind::Joined(_) => None,
            Kind::Bridge(joined) => Some(joined.bridge().ipv4.gateway),
            Kind::Ready { namespace, .. } => namespace.attachments.first().map(|first| first.ranges.0.gateway),
        };
        gateway.map(ipv4)
    }

    /// The places on networks, in the order in which they were asked for.
    pub fn attached(&self) -> Vec<Attached> {
        match &self.kind {
            Kind::None | Kind::Host | Kind::Joined(_) => Vec::new(),
            Kind::Bridge(joined) => vec![joined.attached()],
            Kind::Ready { namespace, .. } => namespace.attachments.iter().map(Attachment::attached).collect(),
        }
    }

    /// Publishes ports on this machine, all or none, and says which ones they are.
    ///
    /// They are those of the first network that is not internal. If there is none but internal ones, nothing is published.
    pub fn publish(&mut self, mappings: &[PortMapping]) -> Result<&[PublishedPort], PublishError> {
        if mappings.is_empty() {
            return Ok(&[]);
        }
        let target = match &self.kind {
            Kind::None | Kind::Host | Kind::Joined(_) => return Err(PublishError::NoNetwork),
            Kind::Bridge(joined) => Some(joined.target()),
            Kind::Ready { namespace, .. } => {
                namespace.attachments.iter().find(|one| !one.internal).map(Attachment::target)
            }
        };
        let Some(target) = target else { return Ok(&[]) };
        let published = publish::publish(&target, mappings, &mut self.service)?;
        Ok(&self.published.insert(published).ports)
    }

    /// What has to run beside the container, if anything; once.
    pub fn take_service(&mut self) -> Option<Service> {
        self.service.take()
    }

    /// What the child does to its interfaces.
    pub(crate) fn plan(&self, new_namespace: bool) -> NetworkPlan {
        let join = |handle: &OwnedFd| NetworkPlan { join: Some(handle.as_raw_fd()), ..NetworkPlan::default() };
        let interface = match &self.kind {
            Kind::Ready { namespace, .. } if new_namespace => return join(&namespace.handle),
            Kind::Joined(handle) if new_namespace => return join(handle),
            Kind::Bridge(joined) if new_namespace => {
                let range = &joined.bridge().ipv4;
                let (address, gateway, mask) = (ipv4(joined.address()), ipv4(range.gateway), ipv4(range.net.netmask()));
                Some(InterfacePlan { address, mask, gateway })
            }
            _ => None,
        };
        NetworkPlan { loopback: new_namespace, interface, join: None }
    }

    /// Gives the child's network namespace, if it is new, its interface.
    pub(crate) fn attach(&mut self, pid: u32, new_namespace: bool) -> Result<(), NetworkError> {
        match &mut self.kind {
            Kind::Bridge(joined) if new_namespace => {
                at_bridges(|| joined.attach(&route_socket()?, links::End::Process(pid), "eth0"))
            }
            _ => Ok(()),
        }
    }

    /// Gives addresses and ports back. The kernel removes interfaces together with their namespace, in its own time.
    ///
    /// The caller says whether the container can have left something behind; if not, a pool gets the namespace.
    pub(crate) fn release(&mut self, clean: bool) {
        self.published = None;
        self.service = None;
        if self.is_host() {
            return;
        }
        if let Kind::Ready { namespace, pool: Some((pool, mode)) } = std::mem::replace(&mut self.kind, Kind::None)
            && clean
            && namespace.is_quiet()
        {
            pool.keep_network(mode, namespace);
        }
    }
}

impl Joined {
    fn target(&self) -> Target {
        Target { bridge: self.bridge().name.clone(), ipv4: ipv4(self.address()), ipv6: None }
    }

    fn attached(&self) -> Attached {
        let range = &self.bridge().ipv4;
        Attached {
            bridge: self.bridge().name.clone(),
            ipv4: with_prefix(self.address(), range),
            ipv6: None,
            gateway: ipv4(range.gateway),
            ipv6_gateway: None,
            hardware: self.hardware(),
        }
    }
}

impl Attachment {
    fn target(&self) -> Target {
        let ipv6 = self.ipv6().map(|(address, _)| ipv6(address));
        Target { bridge: self.bridge.clone(), ipv4: ipv4(self.ipv4().0), ipv6 }
    }

    fn attached(&self) -> Attached {
        let (address, range) = self.ipv4();
        Attached {
            bridge: self.bridge.clone(),
            ipv4: with_prefix(address, &range),
            ipv6: self.ipv6().map(|(address, range)| with_prefix(address, &range)),
            gateway: ipv4(range.gateway),
            ipv6_gateway: self.ipv6().map(|(_, range)| ipv6(range.gateway)),
            hardware: self.hardware,
        }
    }
}

fn with_prefix(address: IpAddr, range: &Range) -> IpNet {
    IpNet::new_assert(address, range.net.prefix_len())
}

/// The ranges of networks are checked where they are read.
fn ipv4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    }
}

fn ipv6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
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
    #[error("invalid pool request: Pool `{net}` overlaps with other one on this address space")]
    Overlap { net: IpNet },
    #[error("every address of the bridge is taken")]
    NoAddress,
    #[error("Address already in use: `{address}` is another container's")]
    AddressTaken { address: IpAddr },
    #[error("`{address}` is no address for a container on this network")]
    AddressOutside { address: IpAddr },
    #[error(
        "a plain user's network does not lead out; install pasta (package `passt`), or use `--network=host` or \
         `--network=none`"
    )]
    NoUplink(#[from] uplink::UplinkError),
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
        Mode::Bridge(state) => Ok(Network::of(Kind::Bridge(Box::new(on_default(&state, &Wishes::default())?)))),
    }
}

/// Makes a network ready for one container of several that run on behalf of the same build: a namespace that an ended one
/// left in the pool, or a new one that goes there when the container has ended.
pub fn prepare_in(mode: Mode, pool: &Arc<Pool>) -> Result<Network, NetworkError> {
    let namespace = match pool.network(&mode) {
        Some(namespace) => Some(namespace),
        None => namespace_for(&mode)?,
    };
    Ok(match namespace {
        Some(namespace) => Network::of(Kind::Ready { namespace, pool: Some((pool.clone(), mode)) }),
        None => Network::host(),
    })
}

/// Begins to do so for the first of them, beside whatever the caller has still to do.
pub fn expect(mode: Mode, pool: &Pool) {
    if mode != Mode::Host {
        // Why it cannot be made is told to who needs it, and tries again.
        pool.expect_network(mode, |mode| namespace_for(mode).ok().flatten());
    }
}

fn namespace_for(mode: &Mode) -> Result<Option<Namespace>, NetworkError> {
    match mode {
        Mode::Host => Ok(None),
        Mode::None => Namespace::new(Vec::new(), false).map(Some),
        Mode::Bridge(state) => {
            at_bridges(|| Namespace::new(vec![on_default(state, &Wishes::default())?], false)).map(Some)
        }
    }
}

/// Makes a container's places on networks ready.
///
/// On networks other than the default one its neighbors' names are known, at [`NAME_SERVER`]; `servers` know all others.
pub fn prepare_places(state: &Path, places: &[Place], servers: &[IpAddr]) -> Result<Network, NetworkError> {
    if let [Place { network: None, wishes }] = places {
        // The one that most containers have is made faster.
        return Ok(Network::of(Kind::Bridge(Box::new(on_default(state, wishes)?))));
    }
    let resolves = places.iter().any(|place| place.network.is_some());
    let mut namespace = at_bridges(|| {
        let mut taken = Vec::new();
        for place in places {
            taken.push(take(state, place)?);
        }
        Namespace::new(taken, resolves)
    })?;
    let mut service = None;
    if let Some((udp, tcp)) = namespace.names.take()
        && let Some(first) = places.first()
    {
        // Who may not reach the world does not ask there either.
        let leads_out = namespace.attachments.iter().any(|one| !one.internal);
        let servers = if leads_out { servers.to_vec() } else { Vec::new() };
        let resolver = Resolver::new(state.to_owned(), first.wishes.container.clone(), servers);
        let new = Service::new().and_then(|mut service| service.resolve(udp, tcp, resolver).map(|()| service));
        service = Some(new.map_err(failed("answer questions about names"))?);
    }
    Ok(Network { kind: Kind::Ready { namespace, pool: None }, published: None, service })
}

/// Takes a place on the default network.
fn on_default(state: &Path, wishes: &Wishes) -> Result<Joined, NetworkError> {
    at_bridges(|| Joined::take(bridge::ensure_default(state)?, wishes))
}

/// Does what has to be done where the bridges are: here for root, and for a plain user in their world's namespace.
fn at_bridges<T: Send>(work: impl FnOnce() -> Result<T, NetworkError> + Send) -> Result<T, NetworkError> {
    match rootless::world() {
        None => work(),
        Some(world) => namespace::inside(world.network(), work),
    }
}

/// Finds out whether bridges can have rules.
pub(crate) fn try_nftables() -> Result<(), NetworkError> {
    at_bridges(|| {
        let socket = nft::socket().map_err(failed("open a socket to nftables"))?;
        nft::is_there(&socket, nft::Family::Ip, links::BRIDGE).map(drop).map_err(failed("ask nftables"))
    })
}

/// Brings the loopback interface of this thread's namespace up.
pub(crate) fn raise_loopback() -> io::Result<()> {
    links::up(&Socket::new(None)?, namespace::LOOPBACK)
}

fn take(state: &Path, Place { network, wishes }: &Place) -> Result<Joined, NetworkError> {
    let bridge = match network {
        None => bridge::ensure_default(state)?,
        Some(definition) => definition.ensure(state)?,
    };
    let wished = [wishes.ipv4.map(IpAddr::V4), wishes.ipv6.map(IpAddr::V6)];
    for address in wished.into_iter().flatten() {
        let range = if address.is_ipv4() { Some(&bridge.ipv4) } else { bridge.ipv6.as_ref() };
        if !range.is_some_and(|range| range.is_free_for_containers(address)) {
            return Err(NetworkError::AddressOutside { address });
        }
    }
    Joined::take(bridge, wishes)
}

/// Gives a running container, whose [namespace](namespace_of) is given, a place on a further network.
///
/// The place lasts as long as the container's namespace, or until [`disconnect`].
pub fn connect(state: &Path, namespace: &OwnedFd, place: &Place) -> Result<Attached, NetworkError> {
    let (joined, outside) = at_bridges(|| Ok((take(state, place)?, route_socket()?)))?;
    let attachment = namespace::inside(namespace, || {
        let inside = route_socket()?;
        let is_free = |name: &String| links::index_in(&inside, name).is_err();
        let inner = (0..).map(|number| format!("eth{number}")).find(is_free).expect("numbers do not end");
        let attachment = joined.create(&outside, links::End::Namespace(namespace.as_raw_fd()), &inner)?;
        namespace::configure_further(&inside, &attachment).inspect_err(|_| {
            // Half a place is none: the address is given back, so the interface goes, too.
            let _ = links::remove(&inside, &inner);
        })?;
        Ok(attachment)
    })?;
    let attached = attachment.attached();
    attachment.keep();
    Ok(attached)
}

/// Takes a container's place on a network away; says whether it had one.
pub fn disconnect(state: &Path, bridge: &str, container: &str) -> Result<bool, NetworkError> {
    at_bridges(|| {
        let holders = leases::revoke(&folder_of(state, bridge), container);
        let socket = route_socket()?;
        for (interface, _) in holders.iter().filter_map(|holder| holder.interface.as_ref()) {
            links::remove(&socket, interface).map_err(failed("remove an interface"))?;
        }
        Ok(!holders.is_empty())
    })
}

/// Somebody on a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbor {
    /// The container's ID.
    pub container: String,
    /// Its name.
    pub name: String,
    /// The address.
    pub ipv4: Option<Ipv4Addr>,
    /// The address.
    pub ipv6: Option<Ipv6Addr>,
}

/// Returns who is on a network, by its bridge.
pub fn neighbors(state: &Path, bridge: &str) -> Vec<Neighbor> {
    let mut all: Vec<Neighbor> = Vec::new();
    // Who cannot look sees nobody.
    let held = at_bridges(|| Ok(leases::held(&folder_of(state, bridge)))).unwrap_or_default();
    for (address, holder) in held.into_iter().filter(|(_, holder)| !holder.container.is_empty()) {
        let known = all.iter().position(|one| one.container == holder.container);
        let place = known.unwrap_or_else(|| {
            let name = holder.names.first().cloned().unwrap_or_default();
            all.push(Neighbor { container: holder.container.clone(), name, ipv4: None, ipv6: None });
            all.len() - 1
        });
        match address {
            IpAddr::V4(address) => all[place].ipv4 = Some(address),
            IpAddr::V6(address) => all[place].ipv6 = Some(address),
        }
    }
    all.sort_by(|one, other| one.container.cmp(&other.container));
    all
}

/// Returns the range of the default network, if it has one yet.
pub fn default_range() -> Option<Range> {
    let routes = at_bridges(|| Ok(range::routes())).unwrap_or_default();
    range::of_interface(&routes, links::BRIDGE).map(|net| Range::of(net.into()))
}

/// Where this machine keeps who has which address; tests have places of their own.
pub const DEFAULT_STATE: &str = "/run/slipway/network";

/// The default network's bridge.
pub const DEFAULT_BRIDGE: &str = links::BRIDGE;

fn folder_of(state: &Path, bridge: &str) -> PathBuf {
    if bridge == links::BRIDGE { state.to_owned() } else { state.join(bridge) }
}

/// Opens the network namespace of a process. The caller makes sure that the number is still that of the process it means.
pub fn namespace_of(pid: u32) -> Result<OwnedFd, NetworkError> {
    use rustix::fs::{Mode, OFlags};
    rustix::fs::open(format!("/proc/{pid}/ns/net"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| failed("open the network of a container")(error.into()))
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweptNetworks {
    /// Addresses that nobody has any more.
    pub leases: usize,
    /// Published ports of containers that are gone.
    pub ports: usize,
    /// Networks whose record is gone.
    pub networks: usize,
}

/// Removes what killed processes and removed homes left in `state` and in the kernel.
pub(crate) fn sweep(state: &Path) -> SweptNetworks {
    at_bridges(|| Ok(bridge::sweep(state))).unwrap_or_default()
}
