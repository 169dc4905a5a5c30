//! The words of nftables that we need, as netlink messages: tables, chains, rules, maps.
//!
//! A rule is a list of expressions, which the nft tool shows as the comments here say. Values lie in registers of four
//! bytes; `REGISTER` is the first of sixteen.

use super::netlink::{Messages, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Socket, attributes};
use std::io;
use std::net::IpAddr;

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEWTABLE: u16 = 0xa00;
const GETTABLE: u16 = 0xa01;
const DELTABLE: u16 = 0xa02;
const NEWCHAIN: u16 = 0xa03;
const GETCHAIN: u16 = 0xa04;
const NEWRULE: u16 = 0xa06;
const GETRULE: u16 = 0xa07;
const NEWSET: u16 = 0xa09;
const NEWSETELEM: u16 = 0xa0c;
const GETSETELEM: u16 = 0xa0d;
const DELSETELEM: u16 = 0xa0e;

const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENTS_TABLE: u16 = 1;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS_LIST: u16 = 3;

const POLICY_DROP: u32 = 0;
const REGISTER: u32 = 8;
const VERDICT_REGISTER: u32 = 0;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;

/// A batch is for a subsystem: nftables is number 10.
const BATCH: [u8; 4] = [0, 0, 0, 10];

/// Which packets a table sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
}

impl Family {
    /// That of an address.
    pub(super) fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::Ip } else { Family::Ip6 }
    }

    /// `struct nfgenmsg`: family, version 0, no resource.
    fn header(self) -> [u8; 4] {
        let family = match self {
            Family::Ip => libc::AF_INET,
            Family::Ip6 => libc::AF_INET6,
        };
        [family as u8, 0, 0, 0]
    }

    fn address_length(self) -> u32 {
        match self {
            Family::Ip => 4,
            Family::Ip6 => 16,
        }
    }
}

/// Opens a socket to nftables.
pub(super) fn socket() -> io::Result<Socket> {
    Socket::new(Some(rustix::net::netlink::NETFILTER))
}

/// Whether a table is there.
pub(super) fn is_there(socket: &Socket, family: Family, table: &str) -> io::Result<bool> {
    let mut messages = Messages::default();
    messages.begin(GETTABLE, NLM_F_ACK, &family.header()).text(TABLE_NAME, table);
    found(socket.send(&messages))
}

fn found(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Returns the policy of a chain of somebody's, if it is there.
pub(super) fn drops(socket: &Socket, family: Family, table: &str, chain: &str) -> io::Result<Option<bool>> {
    let mut policy = None;
    let mut messages = Messages::default();
    messages.begin(GETCHAIN, NLM_F_ACK, &family.header()).text(CHAIN_TABLE, table).text(CHAIN_NAME, chain);
    let there = found(socket.exchange(&messages, |_, body| {
        let value = attributes(body.get(4..).unwrap_or_default()).find(|(kind, _)| *kind == CHAIN_POLICY);
        policy = value.and_then(|(_, value)| value.try_into().ok()).map(u32::from_be_bytes);
    }))?;
    Ok(there.then_some(policy == Some(POLICY_DROP)))
}

/// Whether a rule with this comment is in a chain.
pub(super) fn has_rule(socket: &Socket, family: Family, table: &str, chain: &str, comment: &str) -> io::Result<bool> {
    let mut has = false;
    let mut dump = Messages::default();
    dump.begin(GETRULE, NLM_F_ACK | NLM_F_DUMP, &family.header()).text(RULE_TABLE, table).text(RULE_CHAIN, chain);
    socket.exchange(&dump, |_, body| {
        has |= attributes(body.get(4..).unwrap_or_default())
            .any(|(kind, value)| kind == RULE_USERDATA && value.ends_with(comment.as_bytes()));
    })?;
    Ok(has)
}

/// Changes that happen all or not at all.
pub(super) struct Batch {
    messages: Messages,
    family: Family,
    table: String,
}

/// Where a base chain looks at packets.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hook {
    /// On their way in, before anything else.
    Raw,
    /// On their way in.
    Prerouting,
    /// Between two interfaces.
    Forward,
    /// From this machine.
    Output,
    /// On their way out.
    Postrouting,
}

impl Hook {
    /// Type, number and priority.
    fn parts(self) -> (&'static str, u32, i32) {
        match self {
            Hook::Raw => ("filter", 0, -300),
            Hook::Prerouting => ("nat", 0, -100),
            Hook::Forward => ("filter", 2, 0),
            Hook::Output => ("nat", 3, -100),
            Hook::Postrouting => ("nat", 4, 100),
        }
    }

    fn chain(self) -> &'static str {
        match self {
            Hook::Raw => "raw",
            Hook::Prerouting => "prerouting",
            Hook::Forward => "forward",
            Hook::Output => "output",
            Hook::Postrouting => "postrouting",
        }
    }
}

impl Batch {
    /// Begins changes of a table.
    pub(super) fn new(family: Family, table: &str) -> Batch {
        let mut messages = Messages::default();
        messages.begin(BATCH_BEGIN, 0, &BATCH);
        Batch { messages, family, table: table.to_owned() }
    }

    /// Does it.
    pub(super) fn commit(mut self, socket: &Socket) -> io::Result<()> {
        self.messages.begin(BATCH_END, 0, &BATCH);
        socket.send(&self.messages)
    }

    fn begin(&mut self, kind: u16, flags: u16) -> &mut Messages {
        self.messages.begin(kind, NLM_F_ACK | flags, &self.family.header())
    }

    /// Makes the table anew.
    pub(super) fn new_table(&mut self) {
        // Made so that it can be removed, removed so that it is empty.
        for (kind, flags) in [(NEWTABLE, NLM_F_CREATE), (DELTABLE, 0), (NEWTABLE, NLM_F_CREATE)] {
            let table = self.table.clone();
            self.begin(kind, flags).text(TABLE_NAME, &table);
        }
    }

    /// Removes the table, with all that is in it.
    pub(super) fn remove_table(&mut self) {
        let table = self.table.clone();
        self.begin(DELTABLE, 0).text(TABLE_NAME, &table);
    }

    /// Makes a base chain; what no rule decides is accepted.
    pub(super) fn chain(&mut self, hook: Hook) {
        let (kind, number, priority) = hook.parts();
        let table = self.table.clone();
        self.begin(NEWCHAIN, NLM_F_CREATE)
            .text(CHAIN_TABLE, &table)
            .text(CHAIN_NAME, hook.chain())
            .text(CHAIN_TYPE, kind)
            .nest(CHAIN_HOOK, |hook| {
                hook.big_endian(HOOK_NUMBER, number).attribute(HOOK_PRIORITY, &priority.to_be_bytes());
            });
    }

    /// Adds a rule at the end of one of our chains.
    pub(super) fn rule(&mut self, hook: Hook, fill: impl FnOnce(&mut Rule<'_>)) {
        const APPEND: u16 = 0x800;
        let (family, table) = (self.family, self.table.clone());
        self.begin(NEWRULE, NLM_F_CREATE | APPEND)
            .text(RULE_TABLE, &table)
            .text(RULE_CHAIN, hook.chain())
            .nest(RULE_EXPRESSIONS, |messages| fill(&mut Rule { messages, family }));
    }

    /// Puts a rule with a comment, by which it is known again, on top of a chain of somebody else's.
    pub(super) fn top_rule(&mut self, chain: &str, comment: &str, fill: impl FnOnce(&mut Rule<'_>)) {
        // As the nft tool shows it: kind 0, length, text with its zero left out.
        let mut userdata = vec![0, comment.len() as u8];
        userdata.extend(comment.as_bytes());
        let (family, table) = (self.family, self.table.clone());
        // Without the flag for appending, a rule goes to the top.
        self.begin(NEWRULE, NLM_F_CREATE)
            .text(RULE_TABLE, &table)
            .text(RULE_CHAIN, chain)
            .nest(RULE_EXPRESSIONS, |messages| fill(&mut Rule { messages, family }))
            .attribute(RULE_USERDATA, &userdata);
    }

    /// Makes the map of published ports: `ADDRESS . protocol . port : ADDRESS . port`.
    pub(super) fn port_map(&mut self, name: &str) {
        const MAP: u32 = 8;
        const INET_PROTO: u32 = 12;
        const INET_SERVICE: u32 = 13;
        let address = match self.family {
            Family::Ip => 7,
            Family::Ip6 => 8,
        };
        let length = self.family.address_length();
        let table = self.table.clone();
        self.begin(NEWSET, NLM_F_CREATE)
            .text(1, &table)
            .text(2, name)
            .big_endian(3, MAP)
            // Types are for the nft tool: six bits each.
            .big_endian(4, address << 12 | INET_PROTO << 6 | INET_SERVICE)
            .big_endian(5, length + 8)
            .big_endian(6, address << 6 | INET_SERVICE)
            .big_endian(7, length + 4)
            .big_endian(10, 1);
    }

    /// Adds or removes an element of the map of published ports.
    pub(super) fn port(&mut self, change: Change, map: &str, key: &PortKey, target: Option<(IpAddr, u16)>) {
        let (kind, flags) = match change {
            Change::Add => (NEWSETELEM, NLM_F_CREATE | NLM_F_EXCL),
            Change::Remove => (DELSETELEM, 0),
        };
        let table = self.table.clone();
        self.begin(kind, flags).text(ELEMENTS_TABLE, &table).text(ELEMENTS_SET, map).nest(ELEMENTS_LIST, |list| {
            list.nest(LIST_ELEMENT, |element| {
                element.nest(ELEMENT_KEY, |data| {
                    data.attribute(DATA_VALUE, &key.bytes());
                });
                if let Some((address, port)) = target {
                    element.nest(ELEMENT_DATA, |data| {
                        data.attribute(DATA_VALUE, &[octets(address), padded_port(port)].concat());
                    });
                }
            });
        });
    }
}

/// What happens to an element.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    /// It must not be there.
    Add,
    /// It must be there.
    Remove,
}

/// What a packet is looked up by in the map of published ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PortKey {
    /// An address of this machine; the unspecified one stands for all.
    pub(super) address: IpAddr,
    /// `IPPROTO_TCP` and the like.
    pub(super) protocol: u8,
    /// In this machine's numbers.
    pub(super) port: u16,
}

impl PortKey {
    fn bytes(&self) -> Vec<u8> {
        [octets(self.address), vec![self.protocol, 0, 0, 0], padded_port(self.port)].concat()
    }

    fn parse(bytes: &[u8]) -> Option<PortKey> {
        let (address, rest) = split_address(bytes, 8)?;
        Some(PortKey { address, protocol: rest[0], port: u16::from_be_bytes([rest[4], rest[5]]) })
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn padded_port(port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    vec![high, low, 0, 0]
}

/// Splits an address off that so many bytes follow.
fn split_address(bytes: &[u8], rest: usize) -> Option<(IpAddr, &[u8])> {
    let (address, rest) = bytes.split_at_checked(bytes.len().checked_sub(rest)?)?;
    let address = match address.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(address).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(address).ok()?),
        _ => return None,
    };
    Some((address, rest))
}

/// Returns what is published in a table: what is looked up, and the container's address.
pub(super) fn ports(socket: &Socket, family: Family, table: &str, map: &str) -> io::Result<Vec<(PortKey, IpAddr)>> {
    let mut ports = Vec::new();
    let mut dump = Messages::default();
    dump.begin(GETSETELEM, NLM_F_ACK | NLM_F_DUMP, &family.header())
        .text(ELEMENTS_TABLE, table)
        .text(ELEMENTS_SET, map);
    socket.exchange(&dump, |_, body| {
        let lists = attributes(body.get(4..).unwrap_or_default()).filter(|(kind, _)| *kind == ELEMENTS_LIST);
        for (_, element) in lists.flat_map(|(_, list)| attributes(list)) {
            let value = |wanted| {
                let data = attributes(element).find(|(kind, _)| *kind == wanted)?.1;
                attributes(data).find(|(kind, _)| *kind == DATA_VALUE).map(|(_, value)| value)
            };
            let key = value(ELEMENT_KEY).and_then(PortKey::parse);
            let target = value(ELEMENT_DATA).and_then(|bytes| split_address(bytes, 4));
            ports.extend(key.zip(target).map(|(key, (address, _))| (key, address)));
        }
    })?;
    Ok(ports)
}

/// The expressions of a rule.
pub(super) struct Rule<'a> {
    messages: &'a mut Messages,
    family: Family,
}

/// Which of a packet's two addresses.
#[derive(Clone, Copy, Debug)]
pub(super) enum Side {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// Which of a packet's two interfaces.
#[derive(Clone, Copy, Debug)]
pub(super) enum Through {
    /// It came in there: `iifname`.
    In,
    /// It goes out there: `oifname`.
    Out,
}

impl Rule<'_> {
    fn expression(&mut self, name: &str, fill: impl FnOnce(&mut Messages)) -> &mut Self {
        self.messages.nest(LIST_ELEMENT, |element| {
            element.text(EXPRESSION_NAME, name).nest(EXPRESSION_DATA, fill);
        });
        self
    }

    fn compare(&mut self, operation: u32, value: &[u8]) -> &mut Self {
        self.expression("cmp", |data| {
            data.big_endian(1, REGISTER).big_endian(2, operation).nest(3, |inner| {
                inner.attribute(DATA_VALUE, value);
            });
        })
    }

    fn mask(&mut self, mask: &[u8]) -> &mut Self {
        self.expression("bitwise", |data| {
            data.big_endian(1, REGISTER).big_endian(2, REGISTER).big_endian(3, mask.len() as u32);
            data.nest(4, |inner| {
                inner.attribute(DATA_VALUE, mask);
            });
            data.nest(5, |inner| {
                inner.attribute(DATA_VALUE, &vec![0; mask.len()]);
            });
        })
    }

    fn load_payload(&mut self, header: u32, offset: u32, length: u32, register: u32) -> &mut Self {
        self.expression("payload", |data| {
            data.big_endian(1, register).big_endian(2, header).big_endian(3, offset).big_endian(4, length);
        })
    }

    fn load_address(&mut self, side: Side, register: u32) -> &mut Self {
        const NETWORK_HEADER: u32 = 1;
        let offset = match (self.family, side) {
            (Family::Ip, Side::Source) => 12,
            (Family::Ip, Side::Destination) => 16,
            (Family::Ip6, Side::Source) => 8,
            (Family::Ip6, Side::Destination) => 24,
        };
        self.load_payload(NETWORK_HEADER, offset, self.family.address_length(), register)
    }

    fn load_meta(&mut self, key: u32, register: u32) -> &mut Self {
        self.expression("meta", |data| {
            data.big_endian(1, register).big_endian(2, key);
        })
    }

    /// `ip saddr NET`
    pub(super) fn address(&mut self, side: Side, net: ipnet::IpNet) -> &mut Self {
        self.load_address(side, REGISTER);
        self.mask(&octets(net.netmask()));
        self.compare(EQUAL, &octets(net.network()))
    }

    /// `ip daddr != NET`
    pub(super) fn not_address(&mut self, side: Side, net: ipnet::IpNet) -> &mut Self {
        self.load_address(side, REGISTER);
        self.mask(&octets(net.netmask()));
        self.compare(NOT_EQUAL, &octets(net.network()))
    }

    /// `iifname NAME`, `oifname != NAME` and the like
    pub(super) fn interface(&mut self, through: Through, equal: bool, name: &str) -> &mut Self {
        let mut bytes = [0; 16];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        self.interface_bytes(through, equal, &bytes)
    }

    /// `iifname PREFIX*`
    pub(super) fn interfaces(&mut self, through: Through, prefix: &str) -> &mut Self {
        self.interface_bytes(through, true, prefix.as_bytes())
    }

    fn interface_bytes(&mut self, through: Through, equal: bool, bytes: &[u8]) -> &mut Self {
        const IN_NAME: u32 = 6;
        const OUT_NAME: u32 = 7;
        let key = match through {
            Through::In => IN_NAME,
            Through::Out => OUT_NAME,
        };
        self.load_meta(key, REGISTER);
        self.compare(if equal { EQUAL } else { NOT_EQUAL }, bytes)
    }

    /// `ct state established,related`
    pub(super) fn is_answer(&mut self) -> &mut Self {
        const STATE: u32 = 0;
        const ESTABLISHED_RELATED: u32 = 2 | 4;
        self.tracked(STATE, ESTABLISHED_RELATED)
    }

    /// `ct status dnat`
    pub(super) fn is_published(&mut self) -> &mut Self {
        const STATUS: u32 = 2;
        const DNAT: u32 = 1 << 5;
        self.tracked(STATUS, DNAT)
    }

    fn tracked(&mut self, key: u32, bits: u32) -> &mut Self {
        self.expression("ct", |data| {
            data.big_endian(1, REGISTER).big_endian(2, key);
        });
        self.mask(&bits.to_ne_bytes());
        self.compare(NOT_EQUAL, &[0; 4])
    }

    /// `fib daddr type local`
    pub(super) fn is_for_this_machine(&mut self) -> &mut Self {
        const ADDRESS_TYPE: u32 = 3;
        const BY_DESTINATION: u32 = 2;
        const LOCAL: u32 = 2;
        self.expression("fib", |data| {
            data.big_endian(1, REGISTER).big_endian(2, ADDRESS_TYPE).big_endian(3, BY_DESTINATION);
        });
        self.compare(EQUAL, &LOCAL.to_ne_bytes())
    }

    /// `dnat to ip daddr . meta l4proto . th dport map @MAP`; with `any`, `0.0.0.0` in place of the address.
    pub(super) fn dnat_to_published(&mut self, map: &str, any: bool) -> &mut Self {
        const TRANSPORT_HEADER: u32 = 2;
        const L4_PROTOCOL: u32 = 16;
        let after_address = REGISTER + self.family.address_length() / 4;
        if any {
            let zeros = vec![0; self.family.address_length() as usize];
            self.expression("immediate", |data| {
                data.big_endian(1, REGISTER).nest(2, |inner| {
                    inner.attribute(DATA_VALUE, &zeros);
                });
            });
        } else {
            self.load_address(Side::Destination, REGISTER);
        }
        self.load_meta(L4_PROTOCOL, after_address);
        self.load_payload(TRANSPORT_HEADER, 2, 2, after_address + 1);
        self.expression("lookup", |data| {
            data.text(1, map).big_endian(2, REGISTER).big_endian(3, REGISTER);
        });
        self.destination_nat(REGISTER, after_address)
    }

    fn destination_nat(&mut self, address: u32, port: u32) -> &mut Self {
        const DESTINATION: u32 = 1;
        let family = u32::from(self.family.header()[0]);
        self.expression("nat", |data| {
            data.big_endian(1, DESTINATION).big_endian(2, family);
            data.big_endian(3, address).big_endian(5, port);
        })
    }

    /// `ip daddr ADDRESS PROTOCOL dport 53 dnat to ADDRESS:PORT`
    pub(super) fn redirect_names(&mut self, address: std::net::Ipv4Addr, protocol: u8, port: u16) -> &mut Self {
        const TRANSPORT_HEADER: u32 = 2;
        const L4_PROTOCOL: u32 = 16;
        const NAMES: u16 = 53;
        self.load_meta(L4_PROTOCOL, REGISTER).compare(EQUAL, &[protocol]);
        self.load_address(Side::Destination, REGISTER).compare(EQUAL, &address.octets());
        self.load_payload(TRANSPORT_HEADER, 2, 2, REGISTER).compare(EQUAL, &NAMES.to_be_bytes());
        for (register, bytes) in [(REGISTER, address.octets().to_vec()), (REGISTER + 1, padded_port(port))] {
            self.expression("immediate", |data| {
                data.big_endian(1, register).nest(2, |inner| {
                    inner.attribute(DATA_VALUE, &bytes);
                });
            });
        }
        self.destination_nat(REGISTER, REGISTER + 1)
    }

    /// `masquerade`
    pub(super) fn masquerade(&mut self) {
        self.expression("masq", |_| {});
    }

    /// `accept`
    pub(super) fn accept(&mut self) {
        const ACCEPT: u32 = 1;
        self.verdict(ACCEPT);
    }

    /// `drop`
    pub(super) fn drop(&mut self) {
        const DROP: u32 = 0;
        self.verdict(DROP);
    }

    fn verdict(&mut self, code: u32) {
        self.expression("immediate", |data| {
            data.big_endian(1, VERDICT_REGISTER).nest(2, |inner| {
                inner.nest(DATA_VERDICT, |verdict| {
                    verdict.big_endian(VERDICT_CODE, code);
                });
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_back_from_its_bytes() {
        for address in ["10.1.2.3", "::", "2001:db8::7"] {
            let key = PortKey { address: address.parse().unwrap(), protocol: 17, port: 5353 };
            assert_eq!(PortKey::parse(&key.bytes()), Some(key));
        }
        for length in [0, 7, 8, 11, 13, 23] {
            assert_eq!(PortKey::parse(&vec![1; length]), None, "{length}");
        }
    }
}
