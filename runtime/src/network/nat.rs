//! The way out: addresses of containers become this machine's, by an nftables table of our own.
//!
//! ```text
//! table ip slipway {
//!   chain postrouting { type nat hook postrouting priority srcnat;
//!     ip saddr SUBNET oifname != "slipway0" masquerade }
//! }
//! ```
//!
//! Where a firewall drops what it forwards (docker's does), an accept in a table of ours would not help: every
//! table must accept. So two rules go to the top of `DOCKER-USER`, or of `FORWARD`, in `ip filter`.

use super::links::BRIDGE;
use super::netlink::{Messages, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, Socket, attributes};
use super::subnet::Subnet;
use std::io;

const TABLE: &str = "slipway";

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEWTABLE: u16 = 0xa00;
const GETTABLE: u16 = 0xa01;
const DELTABLE: u16 = 0xa02;
const NEWCHAIN: u16 = 0xa03;
const GETCHAIN: u16 = 0xa04;
const NEWRULE: u16 = 0xa06;
const GETRULE: u16 = 0xa07;

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

const HOOK_POSTROUTING: u32 = 4;
const PRIORITY_SOURCE_NAT: u32 = 100;
const POLICY_DROP: u32 = 0;
const VERDICT_ACCEPT: u32 = 1;
const REGISTER: u32 = 1;
const META_IN_NAME: u32 = 6;
const META_OUT_NAME: u32 = 7;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;

/// How our rules in somebody else's chain are known again.
const MARK: &[u8] = b"slipway";

/// `struct nfgenmsg`: family IPv4, version 0, no resource.
const IPV4: [u8; 4] = [libc::AF_INET as u8, 0, 0, 0];

/// A batch is for a subsystem: nftables is number 10.
const BATCH: [u8; 4] = [0, 0, 0, 10];

/// Whether our table is there.
pub(super) fn is_there(socket: &Socket) -> io::Result<bool> {
    let mut messages = Messages::default();
    messages.begin(GETTABLE, NLM_F_ACK, &IPV4).text(TABLE_NAME, TABLE);
    found(socket.send(&messages))
}

fn found(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes our table anew, in one step.
pub(super) fn create(socket: &Socket, subnet: Subnet) -> io::Result<()> {
    let mut batch = Messages::default();
    batch.begin(BATCH_BEGIN, 0, &BATCH);
    // Made so that it can be removed, removed so that it is empty.
    batch.begin(NEWTABLE, NLM_F_ACK | NLM_F_CREATE, &IPV4).text(TABLE_NAME, TABLE);
    batch.begin(DELTABLE, NLM_F_ACK, &IPV4).text(TABLE_NAME, TABLE);
    batch.begin(NEWTABLE, NLM_F_ACK | NLM_F_CREATE, &IPV4).text(TABLE_NAME, TABLE);
    batch
        .begin(NEWCHAIN, NLM_F_ACK | NLM_F_CREATE, &IPV4)
        .text(CHAIN_TABLE, TABLE)
        .text(CHAIN_NAME, "postrouting")
        .text(CHAIN_TYPE, "nat")
        .nest(CHAIN_HOOK, |hook| {
            hook.big_endian(HOOK_NUMBER, HOOK_POSTROUTING).big_endian(HOOK_PRIORITY, PRIORITY_SOURCE_NAT);
        });
    const APPEND: u16 = 0x800;
    rule(&mut batch, APPEND, TABLE, "postrouting", |rule| {
        from_subnet(rule, subnet);
        interface(rule, META_OUT_NAME, NOT_EQUAL);
        expression(rule, "masq", |_| {});
    });
    batch.begin(BATCH_END, 0, &BATCH);
    socket.send(&batch)
}

/// Makes sure that a firewall which drops what it forwards lets the bridge's packets through.
pub(super) fn pass_firewall(socket: &Socket) -> io::Result<()> {
    let Some(chain) = dropping_chain(socket)? else { return Ok(()) };
    if has_our_rules(socket, chain)? {
        return Ok(());
    }
    let mut batch = Messages::default();
    batch.begin(BATCH_BEGIN, 0, &BATCH);
    // Without the flag for appending, a rule goes to the top.
    for key in [META_IN_NAME, META_OUT_NAME] {
        rule(&mut batch, 0, "filter", chain, |rule| {
            interface(rule, key, EQUAL);
            if key == META_OUT_NAME {
                answers_only(rule);
            }
            accept(rule);
        });
    }
    batch.begin(BATCH_END, 0, &BATCH);
    socket.send(&batch)
}

/// Returns where accepting helps, if `ip filter FORWARD` drops.
fn dropping_chain(socket: &Socket) -> io::Result<Option<&'static str>> {
    let mut policy = None;
    let mut forward = Messages::default();
    forward.begin(GETCHAIN, NLM_F_ACK, &IPV4).text(CHAIN_TABLE, "filter").text(CHAIN_NAME, "FORWARD");
    let there = found(socket.exchange(&forward, |_, body| {
        for (kind, value) in attributes(body.get(4..).unwrap_or_default()) {
            if kind == CHAIN_POLICY {
                policy = value.try_into().ok().map(u32::from_be_bytes);
            }
        }
    }))?;
    if !there || policy != Some(POLICY_DROP) {
        return Ok(None);
    }
    let mut user = Messages::default();
    user.begin(GETCHAIN, NLM_F_ACK, &IPV4).text(CHAIN_TABLE, "filter").text(CHAIN_NAME, "DOCKER-USER");
    Ok(Some(if found(socket.send(&user))? { "DOCKER-USER" } else { "FORWARD" }))
}

fn has_our_rules(socket: &Socket, chain: &str) -> io::Result<bool> {
    let mut has = false;
    let mut dump = Messages::default();
    dump.begin(GETRULE, NLM_F_ACK | NLM_F_DUMP, &IPV4).text(RULE_TABLE, "filter").text(RULE_CHAIN, chain);
    socket.exchange(&dump, |_, body| {
        has |= attributes(body.get(4..).unwrap_or_default())
            .any(|(kind, value)| kind == RULE_USERDATA && value.ends_with(MARK));
    })?;
    Ok(has)
}

fn rule(batch: &mut Messages, flags: u16, table: &str, chain: &str, fill: impl FnOnce(&mut Messages)) {
    // A comment, as the nft tool shows it: kind 0, length, text with its zero left out.
    let mut comment = vec![0, MARK.len() as u8];
    comment.extend(MARK);
    batch
        .begin(NEWRULE, NLM_F_ACK | NLM_F_CREATE | flags, &IPV4)
        .text(RULE_TABLE, table)
        .text(RULE_CHAIN, chain)
        .nest(RULE_EXPRESSIONS, fill)
        .attribute(RULE_USERDATA, &comment);
}

fn expression(rule: &mut Messages, name: &str, fill: impl FnOnce(&mut Messages)) {
    rule.nest(LIST_ELEMENT, |element| {
        element.text(EXPRESSION_NAME, name).nest(EXPRESSION_DATA, fill);
    });
}

fn compare(rule: &mut Messages, operation: u32, value: &[u8]) {
    expression(rule, "cmp", |data| {
        data.big_endian(1, REGISTER).big_endian(2, operation).nest(3, |inner| {
            inner.attribute(DATA_VALUE, value);
        });
    });
}

fn mask(rule: &mut Messages, mask: [u8; 4]) {
    expression(rule, "bitwise", |data| {
        data.big_endian(1, REGISTER).big_endian(2, REGISTER).big_endian(3, 4);
        data.nest(4, |inner| {
            inner.attribute(DATA_VALUE, &mask);
        });
        data.nest(5, |inner| {
            inner.attribute(DATA_VALUE, &[0; 4]);
        });
    });
}

/// `ip saddr SUBNET`
fn from_subnet(rule: &mut Messages, subnet: Subnet) {
    const NETWORK_HEADER: u32 = 1;
    const SOURCE: u32 = 12;
    expression(rule, "payload", |data| {
        data.big_endian(1, REGISTER).big_endian(2, NETWORK_HEADER).big_endian(3, SOURCE).big_endian(4, 4);
    });
    mask(rule, subnet.mask().octets());
    compare(rule, EQUAL, &subnet.network.octets());
}

/// `iifname "slipway0"` and the like
fn interface(rule: &mut Messages, key: u32, operation: u32) {
    expression(rule, "meta", |data| {
        data.big_endian(1, REGISTER).big_endian(2, key);
    });
    let mut name = [0; 16];
    name[..BRIDGE.len()].copy_from_slice(BRIDGE.as_bytes());
    compare(rule, operation, &name);
}

/// `ct state established,related`
fn answers_only(rule: &mut Messages) {
    const STATE: u32 = 0;
    const ESTABLISHED_RELATED: u32 = 2 | 4;
    expression(rule, "ct", |data| {
        data.big_endian(1, REGISTER).big_endian(2, STATE);
    });
    mask(rule, ESTABLISHED_RELATED.to_ne_bytes());
    compare(rule, NOT_EQUAL, &[0; 4]);
}

/// `accept`
fn accept(rule: &mut Messages) {
    const VERDICT_REGISTER: u32 = 0;
    expression(rule, "immediate", |data| {
        data.big_endian(1, VERDICT_REGISTER).nest(2, |inner| {
            inner.nest(DATA_VERDICT, |verdict| {
                verdict.big_endian(VERDICT_CODE, VERDICT_ACCEPT);
            });
        });
    });
}
