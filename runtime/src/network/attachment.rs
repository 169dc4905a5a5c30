//! A container's place on a network: wished for, taken, and given an interface.

use super::bridge::Bridge;
use super::leases::{self, Holder, Lease};
use super::links::{self, End, Pair, PortSwitch};
use super::netlink::Socket;
use super::range::Range;
use super::{NetworkError, failed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a container wishes of its place on a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// An address.
    pub ipv4: Option<Ipv4Addr>,
    /// An address.
    pub ipv6: Option<Ipv6Addr>,
    /// A hardware address.
    pub hardware: Option<[u8; 6]>,
    /// What people call the network.
    pub network: String,
    /// The container's ID.
    pub container: String,
    /// What it answers to, its own name first.
    pub names: Vec<String>,
}

/// A place that was taken, without an interface yet.
#[derive(Debug)]
pub(super) struct Joined {
    bridge: Bridge,
    leases: Vec<Lease>,
    hardware: [u8; 6],
    holder: Holder,
}

/// An interface of a container. Dropping it gives its addresses back; the interface goes with the namespace.
#[derive(Debug)]
pub(super) struct Attachment {
    pub(super) bridge: String,
    /// What the interface is called inside.
    pub(super) inner: String,
    pub(super) hardware: [u8; 6],
    pub(super) internal: bool,
    pub(super) ranges: (Range, Option<Range>),
    pub(super) leases: Vec<Lease>,
}

impl Joined {
    /// Takes addresses on a network that is there.
    pub(super) fn take(bridge: Bridge, wishes: &Wishes) -> Result<Joined, NetworkError> {
        let mut leases = vec![leases::take(&bridge.state, &bridge.ipv4, wishes.ipv4.map(IpAddr::V4))?];
        if let Some(range) = &bridge.ipv6 {
            leases.push(leases::take(&bridge.state, range, wishes.ipv6.map(IpAddr::V6))?);
        }
        let hardware = wishes.hardware.unwrap_or_else(|| links::hardware_address(leases[0].address));
        let holder = Holder {
            interface: None,
            network: wishes.network.clone(),
            container: wishes.container.clone(),
            names: wishes.names.clone(),
        };
        Ok(Joined { bridge, leases, hardware, holder })
    }

    pub(super) fn address(&self) -> IpAddr {
        self.leases[0].address
    }

    pub(super) fn hardware(&self) -> [u8; 6] {
        self.hardware
    }

    pub(super) fn bridge(&self) -> &Bridge {
        &self.bridge
    }

    /// Makes the pair of interfaces, and tells the addresses whose they are.
    pub(super) fn create(mut self, socket: &Socket, end: End, inner: &str) -> Result<Attachment, NetworkError> {
        self.attach(socket, end, inner)?;
        let Joined { bridge, leases, hardware, holder: _ } = self;
        Ok(Attachment {
            bridge: bridge.name,
            inner: inner.to_owned(),
            hardware,
            internal: bridge.policy.internal,
            ranges: (bridge.ipv4, bridge.ipv6),
            leases,
        })
    }

    /// Does the same, and keeps what was taken.
    pub(super) fn attach(&mut self, socket: &Socket, end: End, inner: &str) -> Result<(), NetworkError> {
        let (index, mtu) = (self.bridge.index, self.bridge.mtu);
        let pair = Pair { bridge: index, mtu, end, inner_name: inner, hardware: self.hardware };
        let outer = links::create_pair(socket, &pair).map_err(failed("make a pair of interfaces"))?;
        self.settle(socket, &outer).inspect_err(|_| {
            // What is not known to be anybody's must not stay; that it fails too changes nothing about the error.
            let _ = links::remove(socket, &outer);
        })
    }

    /// Sets the outer interface up, and tells the addresses that they are its.
    fn settle(&mut self, socket: &Socket, outer: &str) -> Result<(), NetworkError> {
        if self.holder.container.is_empty() {
            // A step of a build: nobody looks for it.
            return Ok(());
        }
        // Where bridged packets pass the firewall, what comes from a container to its own published port goes out again
        // where it came in. Both settings are improvements, without which the rest works.
        let _ = links::set_port(socket, outer, PortSwitch::Hairpin);
        if self.bridge.isolated {
            links::set_port(socket, outer, PortSwitch::Isolated)
                .map_err(failed("isolate containers from each other"))?;
        }
        self.holder.interface = links::index_in(socket, outer).ok().map(|index| (outer.to_owned(), index));
        self.leases.iter().try_for_each(|lease| lease.hand_over(&self.holder))
    }
}

impl Attachment {
    pub(super) fn ipv4(&self) -> (IpAddr, Range) {
        (self.leases[0].address, self.ranges.0)
    }

    pub(super) fn ipv6(&self) -> Option<(IpAddr, Range)> {
        Some((self.leases.get(1)?.address, self.ranges.1?))
    }

    /// Leaves the addresses to the interface.
    pub(super) fn keep(self) {
        self.leases.into_iter().for_each(Lease::keep);
    }
}
