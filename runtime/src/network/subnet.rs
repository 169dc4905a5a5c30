//! Which addresses the bridge and its containers have, out of the way of this machine's own networks.

use std::net::Ipv4Addr;

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Subnet {
    pub(super) network: Ipv4Addr,
    pub(super) prefix: u8,
}

/// What is tried, in order; docker's own defaults start at 172.17.
const CANDIDATES: [Subnet; 6] = [
    Subnet { network: Ipv4Addr::new(172, 30, 0, 0), prefix: 16 },
    Subnet { network: Ipv4Addr::new(172, 29, 0, 0), prefix: 16 },
    Subnet { network: Ipv4Addr::new(10, 211, 0, 0), prefix: 16 },
    Subnet { network: Ipv4Addr::new(10, 83, 0, 0), prefix: 16 },
    Subnet { network: Ipv4Addr::new(192, 168, 211, 0), prefix: 24 },
    Subnet { network: Ipv4Addr::new(192, 168, 83, 0), prefix: 24 },
];

impl Subnet {
    /// The mask of the network part.
    pub(super) fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0))
    }

    /// The bridge's own address: the first.
    pub(super) fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() + 1)
    }

    /// The last address, which is everybody's.
    pub(super) fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() | !self.mask().to_bits())
    }

    /// How many addresses containers can have.
    pub(super) fn capacity(self) -> u32 {
        // Without network, gateway and broadcast.
        self.broadcast().to_bits() - self.network.to_bits() - 2
    }

    /// The address of a number below [`Subnet::capacity`].
    pub(super) fn address(self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() + 2 + number)
    }

    fn overlaps(self, other: Subnet) -> bool {
        let mask = self.mask().to_bits() & other.mask().to_bits();
        self.network.to_bits() & mask == other.network.to_bits() & mask
    }
}

/// A route of this machine.
#[derive(Debug)]
pub(super) struct Route {
    interface: String,
    subnet: Subnet,
}

/// Reads the text of `/proc/net/route`.
pub(super) fn parse_routes(text: &str) -> Vec<Route> {
    let number = |field: Option<&str>| u32::from_str_radix(field?, 16).ok().map(u32::swap_bytes);
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let network = Ipv4Addr::from_bits(number(fields.get(1).copied())?);
            let prefix = number(fields.get(7).copied())?.leading_ones() as u8;
            Some(Route { interface: (*fields.first()?).to_owned(), subnet: Subnet { network, prefix } })
        })
        .collect()
}

/// Picks the first range that no network of this machine overlaps; the bridge's own does not count.
pub(super) fn choose(routes: &[Route], bridge: &str) -> Option<Subnet> {
    CANDIDATES.into_iter().find(|candidate| {
        !routes.iter().any(|route| {
            // The default route overlaps everything.
            route.subnet.prefix != 0 && route.interface != bridge && route.subnet.overlaps(*candidate)
        })
    })
}

/// Returns the range of an interface that is directly reached through it.
pub(super) fn of_interface(routes: &[Route], name: &str) -> Option<Subnet> {
    routes.iter().find(|route| route.interface == name && route.subnet.prefix != 0).map(|route| route.subnet)
}

/// Returns the interface that leads to the rest of the world.
pub(super) fn default_interface(routes: &[Route]) -> Option<&str> {
    routes.iter().find(|route| route.subnet.prefix == 0).map(|route| route.interface.as_str())
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
        assert_eq!(choose(&routes, "slipway0").unwrap().network, Ipv4Addr::new(172, 29, 0, 0));
        assert_eq!(choose(&routes, "tun0").unwrap().network, Ipv4Addr::new(172, 30, 0, 0));
        assert_eq!(choose(&parse_routes("nonsense\nx y\n\n"), "slipway0"), Some(CANDIDATES[0]));
    }

    #[test]
    fn a_wider_network_of_the_machine_counts_as_well() {
        let routes = parse_routes("\neth0 000010AC 0 1 0 0 0 0000F0FF\neth0 0000000A 0 1 0 0 0 000000FF\n");
        assert_eq!(choose(&routes, "slipway0").unwrap().network, Ipv4Addr::new(192, 168, 211, 0));
    }

    #[test]
    fn addresses_lie_between_the_gateway_and_the_broadcast() {
        let subnet = CANDIDATES[4];
        assert_eq!(subnet.gateway(), Ipv4Addr::new(192, 168, 211, 1));
        assert_eq!(subnet.address(0), Ipv4Addr::new(192, 168, 211, 2));
        assert_eq!(subnet.address(subnet.capacity() - 1), Ipv4Addr::new(192, 168, 211, 254));
        assert_eq!(subnet.broadcast(), Ipv4Addr::new(192, 168, 211, 255));
    }
}
