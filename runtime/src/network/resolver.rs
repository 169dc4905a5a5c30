//! Names of containers: which question is about one, and what the answer is.
//!
//! The leases of the networks that a container is on say who else is there. So whoever comes or goes is known at once,
//! and nobody has to be told. All other questions are for the name servers of the machine.

use super::leases::{self, Holder};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

/// Where a container asks.
pub const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// Answers a container's questions about names.
#[derive(Debug)]
pub(super) struct Resolver {
    /// The folder with a folder for each network.
    state: PathBuf,
    container: String,
    servers: Vec<IpAddr>,
    turn: usize,
}

/// What comes of a question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// This.
    Here(Vec<u8>),
    /// Another server knows.
    Elsewhere,
    /// It is no question.
    None,
}

const TYPE_A: u16 = 1;
const TYPE_PTR: u16 = 12;
const TYPE_AAAA: u16 = 28;
const CLASS_IN: u16 = 1;
const HEADER: usize = 12;
/// Containers come and go.
const SECONDS_TO_LIVE: u32 = 5;
const NO_SUCH_NAME: u8 = 3;
const SERVER_FAILURE: u8 = 2;

/// The one question of a packet.
#[derive(Debug, PartialEq, Eq)]
struct Question {
    /// Labels between dots, in lower case.
    name: String,
    kind: u16,
    /// Where it ends in the packet.
    end: usize,
}

impl Resolver {
    pub(super) fn new(state: PathBuf, container: String, servers: Vec<IpAddr>) -> Resolver {
        Resolver { state, container, servers, turn: 0 }
    }

    /// Who knows the rest of the world's names.
    pub(super) fn servers(&self) -> &[IpAddr] {
        &self.servers
    }

    /// Answers a packet.
    pub(super) fn answer(&mut self, packet: &[u8]) -> Answer {
        let Some(question) = parse(packet) else { return Answer::None };
        if question.kind == TYPE_PTR {
            let found = reversed(&question.name).and_then(|address| self.name_of(address));
            return found.map_or(Answer::Elsewhere, |name| {
                let mut data = Vec::new();
                write_name(&name, &mut data);
                Answer::Here(reply(packet, &question, &[(TYPE_PTR, data)]))
            });
        }
        let mut addresses = self.addresses_of(&question.name);
        if addresses.is_empty() {
            return Answer::Elsewhere;
        }
        // Those who share an alias are found in turn.
        let turn = self.turn % addresses.len();
        addresses.rotate_left(turn);
        self.turn = self.turn.wrapping_add(1);
        let answers: Vec<_> = addresses
            .into_iter()
            .filter_map(|address| match (address, question.kind) {
                (IpAddr::V4(address), TYPE_A) => Some((TYPE_A, address.octets().to_vec())),
                (IpAddr::V6(address), TYPE_AAAA) => Some((TYPE_AAAA, address.octets().to_vec())),
                _ => None,
            })
            .collect();
        Answer::Here(reply(packet, &question, &answers))
    }

    /// Those on each network that the container is on.
    fn neighbors(&self) -> impl Iterator<Item = Vec<(IpAddr, Holder)>> {
        let folders = std::fs::read_dir(&self.state).into_iter().flatten().flatten();
        let folders = folders.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        // Who cannot look knows nobody.
        let held = |path: PathBuf| super::at_bridges(|| Ok(leases::held(&path))).unwrap_or_default();
        folders.map(move |entry| held(entry.path())).filter(|held| self.is_among(held))
    }

    fn is_among(&self, held: &[(IpAddr, Holder)]) -> bool {
        held.iter().any(|(_, holder)| holder.container == self.container)
    }

    fn addresses_of(&self, name: &str) -> Vec<IpAddr> {
        let answers_to = |holder: &Holder| {
            let bare = name.strip_suffix(holder.network.as_str()).and_then(|name| name.strip_suffix('.'));
            holder
                .names
                .iter()
                .any(|one| one.eq_ignore_ascii_case(name) || bare.is_some_and(|bare| one.eq_ignore_ascii_case(bare)))
        };
        let networks = self.neighbors().map(|held| {
            let found = held.into_iter().filter(|(_, holder)| answers_to(holder));
            let mut found: Vec<_> = found.map(|(address, _)| address).collect();
            found.sort_unstable();
            found
        });
        networks.into_iter().find(|found| !found.is_empty()).unwrap_or_default()
    }

    fn name_of(&self, address: IpAddr) -> Option<String> {
        let holder = self.neighbors().flatten().find(|(other, _)| *other == address)?.1;
        let name = holder.names.into_iter().next()?;
        Some(format!("{name}.{}", holder.network))
    }
}

/// Reads a packet with one question of the Internet's.
fn parse(packet: &[u8]) -> Option<Question> {
    const ANSWER: u8 = 0x80;
    const KIND_OF_QUESTION: u8 = 0x78;
    if packet.len() < HEADER || packet[2] & (ANSWER | KIND_OF_QUESTION) != 0 || packet[4..6] != [0, 1] {
        return None;
    }
    let mut name = String::new();
    let mut at = HEADER;
    loop {
        let length = usize::from(*packet.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        // A question has no pointers: nothing is before it.
        let label = packet.get(at..at + length).filter(|_| length < 64)?;
        if !name.is_empty() {
            name.push('.');
        }
        name.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
        at += length;
    }
    let tail: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
    let [kind, class] = [[tail[0], tail[1]], [tail[2], tail[3]]].map(u16::from_be_bytes);
    (class == CLASS_IN && name.len() < 256).then_some(Question { name, kind, end: at + 4 })
}

/// Reads an address that is written as a name.
fn reversed(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
        let text: Vec<_> = digits.split('.').rev().collect();
        return text.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    }
    let digits: Vec<_> = name.strip_suffix(".ip6.arpa")?.split('.').rev().collect();
    if digits.len() != 32 || digits.iter().any(|digit| digit.len() != 1) {
        return None;
    }
    u128::from_str_radix(&digits.concat(), 16).ok().map(|bits| Ipv6Addr::from_bits(bits).into())
}

fn write_name(name: &str, bytes: &mut Vec<u8>) {
    for label in name.split('.').filter(|label| !label.is_empty() && label.len() < 64) {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
}

/// Writes an answer: the head and the question of the packet, then records about the question's name.
fn reply(packet: &[u8], question: &Question, records: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut answer = head(packet, question, 0);
    answer[6..8].copy_from_slice(&(records.len() as u16).to_be_bytes());
    for (kind, data) in records {
        const NAME_OF_QUESTION: [u8; 2] = [0xc0, HEADER as u8];
        answer.extend(NAME_OF_QUESTION);
        answer.extend(kind.to_be_bytes());
        answer.extend(CLASS_IN.to_be_bytes());
        answer.extend(SECONDS_TO_LIVE.to_be_bytes());
        answer.extend((data.len() as u16).to_be_bytes());
        answer.extend(data);
    }
    answer
}

fn head(packet: &[u8], question: &Question, code: u8) -> Vec<u8> {
    const ANSWER: u8 = 0x80;
    const RECURSION_DESIRED: u8 = 0x01;
    const RECURSION_AVAILABLE: u8 = 0x80;
    let mut answer = vec![packet[0], packet[1], ANSWER | packet[2] & RECURSION_DESIRED, RECURSION_AVAILABLE | code];
    answer.extend([0, 1, 0, 0, 0, 0, 0, 0]);
    answer.extend(&packet[HEADER..question.end]);
    answer
}

/// Says that a question cannot be answered: nobody could be asked, or a name without dots is not one of ours.
pub(super) fn failure(packet: &[u8]) -> Vec<u8> {
    let Some(question) = parse(packet) else { return Vec::new() };
    let code = if question.name.contains('.') { SERVER_FAILURE } else { NO_SUCH_NAME };
    head(packet, &question, code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::range::Range;

    fn question(name: &str, kind: u16) -> Vec<u8> {
        let mut packet = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        write_name(name, &mut packet);
        packet.extend(kind.to_be_bytes());
        packet.extend(CLASS_IN.to_be_bytes());
        packet
    }

    /// A network on which `containers` have addresses, by the loopback interface, which is always there.
    fn network(state: &std::path::Path, network: &str, containers: &[(&str, &str, &[&str])]) {
        let range = Range::of("10.9.0.0/24".parse().unwrap());
        for (container, address, names) in containers {
            let lease = leases::take(&state.join(network), &range, Some(address.parse().unwrap())).unwrap();
            let holder = Holder {
                interface: Some(("lo".into(), crate::network::links::index("lo").unwrap())),
                network: network.into(),
                container: (*container).into(),
                names: names.iter().map(|name| (*name).to_owned()).collect(),
            };
            lease.hand_over(&holder).unwrap();
            lease.keep();
        }
    }

    fn addresses(answer: Answer) -> Vec<String> {
        let Answer::Here(bytes) = answer else { panic!("{answer:?}") };
        let count = usize::from(u16::from_be_bytes([bytes[6], bytes[7]]));
        let records = &bytes[bytes.len() - count * 16..];
        records
            .chunks(16)
            .map(|record| Ipv4Addr::new(record[12], record[13], record[14], record[15]).to_string())
            .collect()
    }

    #[test]
    fn neighbors_are_found_by_their_names_and_strangers_are_not() {
        let state = tempfile::tempdir().unwrap();
        network(
            state.path(),
            "one",
            &[("me", "10.9.0.2", &["me"]), ("db1", "10.9.0.3", &["db1", "db"]), ("db2", "10.9.0.4", &["db2", "db"])],
        );
        network(state.path(), "other", &[("far", "10.9.1.2", &["far"])]);
        let mut resolver = Resolver::new(state.path().into(), "me".into(), Vec::new());
        assert_eq!(addresses(resolver.answer(&question("DB1", TYPE_A))), ["10.9.0.3"]);
        assert_eq!(addresses(resolver.answer(&question("db1.one", TYPE_A))), ["10.9.0.3"]);
        let (one, two) =
            (addresses(resolver.answer(&question("db", TYPE_A))), addresses(resolver.answer(&question("db", TYPE_A))));
        assert!(one.len() == 2 && one[0] == two[1] && one[1] == two[0], "{one:?} {two:?}");
        assert_eq!(addresses(resolver.answer(&question("db1", TYPE_AAAA))), Vec::<String>::new());
        for unknown in ["far", "db3", "db1.other", "example.org"] {
            assert_eq!(resolver.answer(&question(unknown, TYPE_A)), Answer::Elsewhere, "{unknown}");
        }
        let Answer::Here(answer) = resolver.answer(&question("3.0.9.10.in-addr.arpa", TYPE_PTR)) else { panic!() };
        assert!(answer.ends_with(b"\x03db1\x03one\0"));
        assert_eq!(resolver.answer(&question("2.1.9.10.in-addr.arpa", TYPE_PTR)), Answer::Elsewhere);
    }

    #[test]
    fn what_is_no_question_is_passed_over_without_a_panic() {
        let good = question("db.example", TYPE_A);
        assert_eq!(parse(&good).map(|question| question.name).as_deref(), Some("db.example"));
        for length in 0..good.len() {
            assert_eq!(parse(&good[..length]), None);
            assert!(failure(&good[..length]).is_empty());
        }
        for (at, byte) in [(2, 0x80), (5, 2), (12, 0xc0), (12, 200), (good.len() - 1, 3)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(parse(&bad), None, "{at}");
        }
    }

    #[test]
    fn a_reversed_address_is_read() {
        let six = "b.a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa";
        assert_eq!(reversed(six), Some("2001:db8::567:89ab".parse().unwrap()));
        assert_eq!(reversed("x.in-addr.arpa").or(reversed("1.2.ip6.arpa")), None);
    }
}
