//! The nftables table of a network: the way out, the published ports, and who may come in.
//!
//! ```text
//! table ip BRIDGE {
//!   map published { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service }
//!   chain raw { type filter hook prerouting priority raw;          # the machine's loopback is not the containers'
//!     iifname BRIDGE ip daddr 127.0.0.0/8 drop
//!     iifname BRIDGE ip saddr 127.0.0.0/8 drop }
//!   chain prerouting { type nat hook prerouting priority dstnat;
//!     ip daddr != 127.0.0.0/8 fib daddr type local dnat to ip daddr . meta l4proto . th dport map @published
//!     ip daddr != 127.0.0.0/8 fib daddr type local dnat to 0.0.0.0  . meta l4proto . th dport map @published }
//!   chain output { type nat hook output priority dstnat;           # as prerouting, 127.0.0.0/8 included }
//!   chain postrouting { type nat hook postrouting priority srcnat;
//!     ip saddr NET oifname != BRIDGE masquerade                    # to the world
//!     ct status dnat ip saddr NET oifname BRIDGE masquerade        # to a port that a neighbour published, or oneself
//!     ip saddr 127.0.0.0/8 oifname BRIDGE masquerade }             # from this machine's 127.0.0.1
//!   chain forward { type filter hook forward priority filter;
//!     iifname BRIDGE oifname BRIDGE accept
//!     oifname BRIDGE ct state established,related accept
//!     oifname BRIDGE ct status dnat accept
//!     oifname BRIDGE drop }                                        # other networks, and other machines
//! }
//! ```
//!
//! An internal network has the raw chain, and a forward chain that drops all that comes or goes.
//! The table is removed as a whole together with the network, so nothing of it can stay behind.
//!
//! Where a firewall drops what it forwards (docker's does), an accept in a table of ours would not help: every
//! table must accept. So two rules go to the top of `DOCKER-USER`, or of `FORWARD`, in `ip filter`, for all bridges of
//! ours; what must not pass is dropped by the tables above.

use super::netlink::Socket;
use super::nft::{self, Batch, Change, Family, Hook, PortKey, Side, Through};
use super::range::Range;
use ipnet::IpNet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The map of published ports.
const PUBLISHED: &str = "published";

/// What the names of all our bridges, and so of our tables, begin with.
pub(super) const PREFIX: &str = "slipway";

/// By which our rules in somebody else's chain are known again.
const COMMENT: &str = "slipway*";

/// How a network treats what comes and goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    /// Nothing does.
    pub(super) internal: bool,
    /// What goes has the address of this machine.
    pub(super) masquerade: bool,
}

/// Makes the table of a network anew, in one step.
pub(super) fn create(socket: &Socket, bridge: &str, range: &Range, policy: Policy) -> io::Result<()> {
    let family = Family::of(range.gateway);
    let loopback = loopback(family);
    let mut batch = Batch::new(family, bridge);
    batch.new_table();
    batch.chain(Hook::Forward);
    batch.rule(Hook::Forward, |rule| {
        rule.interface(Through::In, true, bridge).interface(Through::Out, true, bridge).accept();
    });
    batch.chain(Hook::Raw);
    for side in [Side::Destination, Side::Source] {
        batch.rule(Hook::Raw, |rule| rule.interface(Through::In, true, bridge).address(side, loopback).drop());
    }
    if policy.internal {
        for through in [Through::In, Through::Out] {
            batch.rule(Hook::Forward, |rule| rule.interface(through, true, bridge).drop());
        }
        return batch.commit(socket);
    }
    batch.rule(Hook::Forward, |rule| rule.interface(Through::Out, true, bridge).is_answer().accept());
    batch.rule(Hook::Forward, |rule| rule.interface(Through::Out, true, bridge).is_published().accept());
    batch.rule(Hook::Forward, |rule| rule.interface(Through::Out, true, bridge).drop());
    batch.port_map(PUBLISHED);
    for hook in [Hook::Prerouting, Hook::Output] {
        batch.chain(hook);
        for any in [false, true] {
            batch.rule(hook, |rule| {
                // Only this machine reaches its 127.0.0.1, by the output chain: a neighbor's packet to there is an attack.
                // No packet from [::1] leaves a machine; those who ask there are served by a relay.
                if family == Family::Ip6 || matches!(hook, Hook::Prerouting) {
                    rule.not_address(Side::Destination, loopback);
                }
                rule.is_for_this_machine().dnat_to_published(PUBLISHED, any);
            });
        }
    }
    batch.chain(Hook::Postrouting);
    if policy.masquerade {
        batch.rule(Hook::Postrouting, |rule| {
            rule.address(Side::Source, range.net).interface(Through::Out, false, bridge).masquerade();
        });
    }
    batch.rule(Hook::Postrouting, |rule| {
        rule.is_published().address(Side::Source, range.net).interface(Through::Out, true, bridge).masquerade();
    });
    batch.rule(Hook::Postrouting, |rule| {
        rule.address(Side::Source, loopback).interface(Through::Out, true, bridge).masquerade();
    });
    batch.commit(socket)
}

fn loopback(family: Family) -> IpNet {
    let (address, prefix) = match family {
        Family::Ip => (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
        Family::Ip6 => (IpAddr::V6(Ipv6Addr::LOCALHOST), 128),
    };
    IpNet::new_assert(address, prefix)
}

/// Whether the table of a network is there.
pub(super) fn is_there(socket: &Socket, bridge: &str, range: &Range) -> io::Result<bool> {
    nft::is_there(socket, Family::of(range.gateway), bridge)
}

/// Removes the tables of a network, if they are there.
pub(super) fn remove(socket: &Socket, bridge: &str) -> io::Result<()> {
    for family in [Family::Ip, Family::Ip6] {
        if nft::is_there(socket, family, bridge)? {
            let mut batch = Batch::new(family, bridge);
            batch.remove_table();
            batch.commit(socket)?;
        }
    }
    Ok(())
}

/// Leads a port of this machine to a container.
///
/// The caller has the port for itself. So what is there under the same key is of somebody who was killed.
pub(super) fn publish(socket: &Socket, bridge: &str, key: &PortKey, target: (IpAddr, u16)) -> io::Result<()> {
    let add = |again: bool| {
        let mut batch = Batch::new(Family::of(key.address), bridge);
        if again {
            batch.port(Change::Remove, PUBLISHED, key, None);
        }
        batch.port(Change::Add, PUBLISHED, key, Some(target));
        batch.commit(socket)
    };
    match add(false) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => add(true),
        other => other,
    }
}

/// Leads it there no more.
pub(super) fn unpublish(socket: &Socket, bridge: &str, key: &PortKey) -> io::Result<()> {
    let mut batch = Batch::new(Family::of(key.address), bridge);
    batch.port(Change::Remove, PUBLISHED, key, None);
    batch.commit(socket)
}

/// Removes published ports of containers that are gone; says how many.
pub(super) fn sweep(socket: &Socket, bridge: &str, is_held: impl Fn(IpAddr) -> bool) -> usize {
    let mut swept = 0;
    for family in [Family::Ip, Family::Ip6] {
        // A table without the map is one of an internal network.
        let ports = nft::ports(socket, family, bridge, PUBLISHED).unwrap_or_default();
        for (key, _) in ports.into_iter().filter(|(_, address)| !is_held(*address)) {
            swept += usize::from(unpublish(socket, bridge, &key).is_ok());
        }
    }
    swept
}

/// Makes sure that a firewall which drops what it forwards lets the packets of our bridges through.
pub(super) fn pass_firewall(socket: &Socket, family: Family) -> io::Result<()> {
    if nft::drops(socket, family, "filter", "FORWARD")? != Some(true) {
        return Ok(());
    }
    let user = nft::drops(socket, family, "filter", "DOCKER-USER")?;
    let chain = if user.is_some() { "DOCKER-USER" } else { "FORWARD" };
    if nft::has_rule(socket, family, "filter", chain, COMMENT)? {
        return Ok(());
    }
    let mut batch = Batch::new(family, "filter");
    for through in [Through::In, Through::Out] {
        batch.top_rule(chain, COMMENT, |rule| rule.interfaces(through, PREFIX).accept());
    }
    batch.commit(socket)
}

/// Leads what a container asks the name server at port 53 of `address` to where it really listens.
///
/// So the port stays free for a name server of the container's own. The socket is of the container's namespace.
pub(super) fn redirect_names(socket: &Socket, address: Ipv4Addr, udp: u16, tcp: u16) -> io::Result<()> {
    let mut batch = Batch::new(Family::Ip, PREFIX);
    batch.new_table();
    batch.chain(Hook::Output);
    for (protocol, port) in [(libc::IPPROTO_UDP, udp), (libc::IPPROTO_TCP, tcp)] {
        batch.rule(Hook::Output, |rule| {
            rule.redirect_names(address, protocol as u8, port);
        });
    }
    batch.commit(socket)
}
