//! What a network is, and its bridge: made when a container first wants it, with all that belongs to it.

use super::links;
use super::nft::{self, Family};
use super::range::{self, Range, overlap};
use super::table::{self, Policy};
use super::{NetworkError, at_bridges, failed, route_socket};
use ipnet::IpNet;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// A network other than the default one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// The name of its bridge: `slipway` and more, at most 15 characters.
    pub bridge: String,
    /// The addresses.
    pub ipv4: Range,
    /// The addresses, when it has IPv6.
    pub ipv6: Option<Range>,
    /// Nothing comes in, and nothing goes out.
    pub internal: bool,
    /// What goes out has the address of this machine.
    pub masquerade: bool,
    /// Containers do not reach each other.
    pub isolated: bool,
    /// How large a packet may be; that of the way out by default.
    pub mtu: Option<u32>,
    /// The file that says that there is this network. When it is gone and nobody is on the network, so is the network.
    pub record: PathBuf,
}

/// A network that is new, until its record is written: dropped too early, it goes away by itself.
#[derive(Debug)]
pub struct Reservation {
    /// The network.
    pub definition: Definition,
    _lock: OwnedFd,
}

/// The bridge of a network as it is.
#[derive(Clone, Debug)]
pub(super) struct Bridge {
    pub(super) name: String,
    pub(super) index: u32,
    pub(super) ipv4: Range,
    pub(super) ipv6: Option<Range>,
    pub(super) policy: Policy,
    pub(super) isolated: bool,
    pub(super) mtu: Option<u32>,
    /// Who has which address.
    pub(super) state: PathBuf,
}

/// The file beside the leases of a network that says what it is.
const ABOUT: &str = "network";

impl Definition {
    fn ranges(&self) -> impl Iterator<Item = &Range> {
        [Some(&self.ipv4), self.ipv6.as_ref()].into_iter().flatten()
    }

    fn policy(&self) -> Policy {
        Policy { internal: self.internal, masquerade: self.masquerade }
    }

    /// Makes the bridge, its addresses and its table, as far as they are missing: the machine may have been rebooted.
    pub(super) fn ensure(&self, state: &Path) -> Result<Bridge, NetworkError> {
        let folder = state.join(&self.bridge);
        let routes = range::routes();
        let mtu = self.mtu.or_else(|| range::default_interface(&routes).and_then(links::mtu));
        let netfilter = nft::socket().map_err(failed("open a socket to nftables"))?;
        let is_ready = || -> Result<Option<u32>, NetworkError> {
            let Some(index) = links::index(&self.bridge) else { return Ok(None) };
            for range in self.ranges() {
                if !table::is_there(&netfilter, &self.bridge, range).map_err(failed("ask nftables"))? {
                    return Ok(None);
                }
            }
            Ok(Some(index))
        };
        let index = match is_ready()? {
            Some(index) => index,
            None => {
                let _lock = lock(state)?;
                // Another process may have been faster.
                match is_ready()? {
                    Some(index) => index,
                    None => self.create(&netfilter, state)?,
                }
            }
        };
        open_firewall(&netfilter, self.ipv6.is_some())?;
        let (ipv4, ipv6) = (self.ipv4, self.ipv6);
        let (name, policy, isolated) = (self.bridge.clone(), self.policy(), self.isolated);
        Ok(Bridge { name, index, ipv4, ipv6, policy, isolated, mtu, state: folder })
    }

    fn create(&self, netfilter: &super::netlink::Socket, state: &Path) -> Result<u32, NetworkError> {
        self.write_about(state)?;
        let socket = route_socket()?;
        // The rules first: no packet passes without them.
        for range in self.ranges() {
            table::create(netfilter, &self.bridge, range, self.policy()).map_err(failed("make nftables rules"))?;
        }
        create(&socket, &self.bridge, &self.ipv4, self.ipv6.as_ref(), self.internal)
    }

    /// Reserves the addresses of a new network on this machine, for all homes.
    pub fn reserve(self, state: &Path) -> Result<Reservation, NetworkError> {
        let lock = lock(state)?;
        at_bridges(|| self.ranges().try_for_each(|range| refuse_overlap(state, range.net, &self.bridge)))?;
        self.write_about(state)?;
        Ok(Reservation { definition: self, _lock: lock })
    }

    /// Does the same with IPv4 addresses that are free.
    pub fn reserve_any(mut self, state: &Path) -> Result<Reservation, NetworkError> {
        let lock = lock(state)?;
        let taken: Vec<IpNet> = known(state).into_iter().flat_map(|(_, about)| about.nets).collect();
        let net = range::choose_other(&at_bridges(|| Ok(range::routes()))?, &taken).ok_or(NetworkError::NoSubnet)?;
        self.ipv4 = Range::of(net.into());
        self.write_about(state)?;
        Ok(Reservation { definition: self, _lock: lock })
    }

    /// Writes what others have to know of the network.
    fn write_about(&self, state: &Path) -> Result<(), NetworkError> {
        let folder = state.join(&self.bridge);
        let failed = |source| NetworkError::State { path: folder.clone(), source };
        std::fs::create_dir_all(&folder).map_err(failed)?;
        let mut text = format!("record {}\n", self.record.display());
        for range in self.ranges() {
            writeln!(text, "net {}", range.net).expect("a String takes everything");
        }
        // In memory, and read only under the lock that the caller has: nobody sees half of it.
        let mut file = std::fs::File::create(folder.join(ABOUT)).map_err(failed)?;
        io::Write::write_all(&mut file, text.as_bytes()).map_err(failed)
    }
}

/// Makes the bridge of the default network, its address and the way out, as far as they are missing.
///
/// Every step may find that another process has just done it; all processes choose alike.
pub(super) fn ensure_default(state: &Path) -> Result<Bridge, NetworkError> {
    let routes = range::routes();
    let mtu = range::default_interface(&routes).and_then(links::mtu);
    let netfilter = nft::socket().map_err(failed("open a socket to nftables"))?;
    let policy = Policy { internal: false, masquerade: true };
    let ready = |routes: &[range::Route]| -> Result<Option<(u32, Range)>, NetworkError> {
        let Some(index) = links::index(links::BRIDGE) else { return Ok(None) };
        let Some(net) = range::of_interface(routes, links::BRIDGE) else { return Ok(None) };
        let range = Range::of(net.into());
        let there = table::is_there(&netfilter, links::BRIDGE, &range).map_err(failed("ask nftables"))?;
        Ok(there.then_some((index, range)))
    };
    let (index, ipv4) = match ready(&routes)? {
        Some(ready) => ready,
        None => {
            let _lock = lock(state)?;
            let routes = range::routes();
            match ready(&routes)? {
                Some(ready) => ready,
                None => {
                    let there = range::of_interface(&routes, links::BRIDGE);
                    let chosen = there.or_else(|| range::choose(&routes, links::BRIDGE));
                    let range = Range::of(chosen.ok_or(NetworkError::NoSubnet)?.into());
                    table::create(&netfilter, links::BRIDGE, &range, policy).map_err(failed("make nftables rules"))?;
                    (create(&route_socket()?, links::BRIDGE, &range, None, false)?, range)
                }
            }
        }
    };
    open_firewall(&netfilter, false)?;
    let (name, state) = (links::BRIDGE.to_owned(), state.to_owned());
    Ok(Bridge { name, index, ipv4, ipv6: None, policy, isolated: false, mtu, state })
}

/// Makes a bridge and gives it its addresses.
fn create(
    socket: &super::netlink::Socket,
    name: &str,
    ipv4: &Range,
    ipv6: Option<&Range>,
    internal: bool,
) -> Result<u32, NetworkError> {
    links::create_bridge(socket, name, ipv4.gateway).map_err(failed("make a bridge"))?;
    let index = links::index(name).ok_or_else(|| failed("find a bridge")(io::ErrorKind::NotFound.into()))?;
    // A container is no router of this machine's (CVE-2020-13401).
    let off = if ipv6.is_some() { "0" } else { "1" };
    for (setting, value) in [("accept_ra", "0"), ("disable_ipv6", off)] {
        match links::set(&format!("/proc/sys/net/ipv6/conf/{name}/{setting}"), value) {
            // A machine without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(failed("keep a bridge from taking its containers for routers"))?,
        }
    }
    for range in [Some(ipv4), ipv6].into_iter().flatten() {
        links::add_address(socket, index, range.gateway, range.net).map_err(failed("give a bridge its address"))?;
    }
    // For published ports at 127.0.0.1, which internal networks do not have; the table keeps containers from the rest of
    // the loopback.
    let local = if internal { "0" } else { "1" };
    links::set(&format!("/proc/sys/net/ipv4/conf/{name}/route_localnet"), local)
        .map_err(failed("publish at 127.0.0.1"))?;
    Ok(index)
}

fn open_firewall(netfilter: &super::netlink::Socket, ipv6: bool) -> Result<(), NetworkError> {
    let mut families = vec![(Family::Ip, "/proc/sys/net/ipv4/ip_forward")];
    if ipv6 {
        families.push((Family::Ip6, "/proc/sys/net/ipv6/conf/all/forwarding"));
    }
    for (family, setting) in families {
        table::pass_firewall(netfilter, family).map_err(failed("let the bridge through the firewall"))?;
        if family == Family::Ip6 && !links::is_set(setting) {
            links::keep_learned_routes().map_err(failed("keep the routes that routers announce"))?;
        }
        links::set(setting, "1").map_err(failed("turn on forwarding"))?;
    }
    Ok(())
}

/// Removes a network's bridge, table and state. Who is on it loses it.
pub fn remove(state: &Path, bridge: &str) -> Result<(), NetworkError> {
    let _lock = lock(state)?;
    at_bridges(|| remove_locked(state, bridge))
}

fn remove_locked(state: &Path, bridge: &str) -> Result<(), NetworkError> {
    links::remove(&route_socket()?, bridge).map_err(failed("remove a bridge"))?;
    let netfilter = nft::socket().map_err(failed("open a socket to nftables"))?;
    table::remove(&netfilter, bridge).map_err(failed("remove nftables rules"))?;
    let folder = state.join(bridge);
    match std::fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(NetworkError::State { path: folder, source: error })
        }
        _ => Ok(()),
    }
}

/// What is known of a network beside its leases.
struct About {
    nets: Vec<IpNet>,
    record: PathBuf,
}

/// The networks that are known on this machine, by their bridges.
fn known(state: &Path) -> Vec<(String, About)> {
    let folders = std::fs::read_dir(state).into_iter().flatten().flatten();
    let read = |entry: std::fs::DirEntry| {
        let text = std::fs::read_to_string(entry.path().join(ABOUT)).ok()?;
        let values = |key: &'static str| text.lines().filter_map(move |line| line.strip_prefix(key));
        let nets = values("net ").filter_map(|net| net.parse().ok()).collect();
        let record = PathBuf::from(values("record ").next()?);
        Some((entry.file_name().into_string().ok()?, About { nets, record }))
    };
    folders.filter_map(read).collect()
}

fn refuse_overlap(state: &Path, net: IpNet, bridge: &str) -> Result<(), NetworkError> {
    let routes = range::routes();
    let known = known(state).into_iter().filter(|(name, _)| name != bridge).flat_map(|(_, about)| about.nets);
    if routes.iter().any(|route| route.overlaps(net)) || known.into_iter().any(|other| overlap(other, net)) {
        return Err(NetworkError::Overlap { net });
    }
    Ok(())
}

/// Removes what belongs to networks that nobody has any record of, and to containers that are gone.
pub(super) fn sweep(state: &Path) -> super::SweptNetworks {
    let mut swept = super::SweptNetworks::default();
    swept.leases += super::leases::sweep(state);
    if !state.exists() {
        return swept;
    }
    let Ok(lock) = lock(state) else { return swept };
    for (bridge, about) in &known(state) {
        let folder = state.join(bridge);
        swept.leases += super::leases::sweep(&folder);
        let is_empty = || super::leases::held(&folder).is_empty();
        if !about.record.exists() && is_empty() && remove_locked(state, bridge).is_ok() {
            swept.networks += 1;
        }
    }
    drop(lock);
    let Ok(netfilter) = nft::socket() else { return swept };
    // Other networks have their leases elsewhere: nobody can tell from here whose ports are in their tables.
    let mut bridges: Vec<String> = known(state).into_iter().map(|(bridge, _)| bridge).collect();
    if state == Path::new(super::DEFAULT_STATE) {
        bridges.push(links::BRIDGE.to_owned());
    }
    for bridge in &bridges {
        let folder = super::folder_of(state, bridge);
        swept.ports += table::sweep(&netfilter, bridge, |address: IpAddr| super::leases::is_held(&folder, address));
    }
    swept
}

/// Keeps others from making or removing networks.
fn lock(state: &Path) -> Result<OwnedFd, NetworkError> {
    let failed = |source| NetworkError::State { path: state.to_owned(), source };
    std::fs::create_dir_all(state).map_err(failed)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(state, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
    flock(&folder, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
    Ok(folder)
}
