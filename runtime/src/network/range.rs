//! Which addresses a network and its containers have, out of the way of this machine's own networks.

use ipnet::{IpNet, Ipv4Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The addresses of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// All of them; what is directly reached.
    pub net: IpNet,
    /// The bridge's own.
    pub gateway: IpAddr,
    /// Those that containers get when they ask for none.
    pub pool: IpNet,
}

/// What the default network tries, in order; docker's own defaults start at 172.17.
const CANDIDATES: [Ipv4Net; 6] = [
    net(172, 30, 0, 16),
    net(172, 29, 0, 16),
    net(10, 211, 0, 16),
    net(10, 83, 0, 16),
    net(192, 168, 211, 24),
    net(192, 168, 83, 24),
];

const fn net(a: u8, b: u8, c: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, 0), prefix)
}

/// What further networks try, in order: docker's own pools, less what the default network takes.
fn candidates_of_others() -> impl Iterator<Item = Ipv4Net> {
    (18..=28).map(|second| net(172, second, 0, 16)).chain((0..=15).map(|part| net(192, 168, part * 16, 20)))
}

impl Range {
    /// The whole of a net; its first address is the bridge's.
    pub fn of(net: IpNet) -> Range {
        let gateway = number_of(net.network()) + 1;
        Range { net: net.trunc(), gateway: address_of(net, gateway), pool: net.trunc() }
    }

    /// Whether a container may have the address.
    pub fn is_free_for_containers(&self, address: IpAddr) -> bool {
        let last = self.net.broadcast();
        let is_everybody = self.net.addr().is_ipv4() && address == last && self.net.prefix_len() < 31;
        self.net.contains(&address) && address != self.gateway && address != self.net.network() && !is_everybody
    }

    /// How many addresses the pool has, those included that no container may have.
    pub(super) fn capacity(&self) -> u128 {
        1u128.checked_shl(u32::from(self.pool.max_prefix_len() - self.pool.prefix_len())).unwrap_or(u128::MAX)
    }

    /// The address of a number below [`Range::capacity`].
    pub(super) fn address(&self, number: u128) -> IpAddr {
        address_of(self.pool, number_of(self.pool.network()) + number)
    }
}

fn number_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn address_of(net: IpNet, number: u128) -> IpAddr {
    match net {
        IpNet::V4(_) => Ipv4Addr::from_bits(number as u32).into(),
        IpNet::V6(_) => Ipv6Addr::from_bits(number).into(),
    }
}

/// Whether two nets have addresses in common.
pub fn overlap(one: IpNet, other: IpNet) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

/// A route of this machine.
#[derive(Debug)]
pub(super) struct Route {
    interface: String,
    net: Ipv4Net,
}

/// Reads the routes of this thread's namespace.
pub(super) fn routes() -> Vec<Route> {
    parse_routes(&std::fs::read_to_string("/proc/thread-self/net/route").unwrap_or_default())
}

/// Reads the text of `/proc/PID/net/route`.
fn parse_routes(text: &str) -> Vec<Route> {
    let number = |field: Option<&str>| u32::from_str_radix(field?, 16).ok().map(u32::swap_bytes);
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let network = Ipv4Addr::from_bits(number(fields.get(1).copied())?);
            let prefix = number(fields.get(7).copied())?.leading_ones() as u8;
            Some(Route { interface: (*fields.first()?).to_owned(), net: Ipv4Net::new(network, prefix).ok()? })
        })
        .collect()
}

impl Route {
    /// Whether it leads to a part of `net`. The default route does not count.
    pub(super) fn overlaps(&self, net: IpNet) -> bool {
        self.net.prefix_len() != 0 && overlap(self.net.into(), net)
    }
}

/// Picks the first range for the default network that no other network of this machine overlaps.
pub(super) fn choose(routes: &[Route], bridge: &str) -> Option<Ipv4Net> {
    CANDIDATES
        .into_iter()
        .find(|candidate| !routes.iter().any(|route| route.interface != bridge && route.overlaps((*candidate).into())))
}

/// Picks the first range for a further network that nothing overlaps.
pub(super) fn choose_other(routes: &[Route], taken: &[IpNet]) -> Option<Ipv4Net> {
    candidates_of_others().find(|candidate| {
        let candidate = (*candidate).into();
        !routes.iter().any(|route| route.overlaps(candidate)) && !taken.iter().any(|net| overlap(*net, candidate))
    })
}

/// Returns the range of an interface that is directly reached through it.
pub(super) fn of_interface(routes: &[Route], name: &str) -> Option<Ipv4Net> {
    routes.iter().find(|route| route.interface == name && route.net.prefix_len() != 0).map(|route| route.net)
}

/// Returns the interface that leads to the rest of the world.
pub(super) fn default_interface(routes: &[Route]) -> Option<&str> {
    routes.iter().find(|route| route.net.prefix_len() == 0).map(|route| route.interface.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
tun0\t00001EAC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
";

    #[test]
    fn a_range_that_the_machine_uses_is_left_alone() {
        let routes = parse_routes(ROUTES);
        assert_eq!(default_interface(&routes), Some("eth0"));
        assert_eq!(choose(&routes, "slipway0"), Some(CANDIDATES[1]));
        assert_eq!(choose(&routes, "tun0"), Some(CANDIDATES[0]));
        assert_eq!(choose(&parse_routes("nonsense\nx y\n\n"), "slipway0"), Some(CANDIDATES[0]));
    }

    #[test]
    fn a_wider_network_of_the_machine_counts_as_well() {
        let routes = parse_routes("\neth0 000010AC 0 1 0 0 0 0000F0FF\neth0 0000000A 0 1 0 0 0 000000FF\n");
        assert_eq!(choose(&routes, "slipway0"), Some(CANDIDATES[4]));
        assert_eq!(choose_other(&routes, &[]).unwrap().to_string(), "192.168.0.0/20");
    }

    #[test]
    fn a_further_network_keeps_clear_of_those_that_are_known() {
        let taken = ["172.18.0.0/15", "172.20.7.0/24"].map(|text| text.parse().unwrap());
        assert_eq!(choose_other(&[], &taken).unwrap().to_string(), "172.21.0.0/16");
    }

    #[test]
    fn containers_get_neither_the_first_nor_the_last_nor_the_bridges_address() {
        let range = Range::of("192.168.211.0/24".parse().unwrap());
        assert_eq!(range.gateway.to_string(), "192.168.211.1");
        let free =
            (0..range.capacity()).map(|number| range.address(number)).filter(|one| range.is_free_for_containers(*one));
        let free: Vec<_> = free.map(|address| address.to_string()).collect();
        assert_eq!((free.len(), free[0].as_str(), free[252].as_str()), (253, "192.168.211.2", "192.168.211.254"));
        let range = Range::of("fd00:1::/64".parse().unwrap());
        assert_eq!(range.gateway.to_string(), "fd00:1::1");
        assert_eq!(range.address(range.capacity() - 1).to_string(), "fd00:1::ffff:ffff:ffff:ffff");
        assert!(!range.is_free_for_containers("fd00:2::5".parse().unwrap()));
    }
}
