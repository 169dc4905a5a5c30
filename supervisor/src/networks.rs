//! [`Networks`]: what networks there are, and what each is.
//!
//! ```text
//! networks/ID.json     one network; it is there or not, and never changes
//! ```
//!
//! Bridges and rules belong to the machine: `runtime::network` makes them when a container first wants them, and takes
//! them away when the record is gone. The networks `bridge`, `host` and `none` are always there.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use ipnet::{IpNet, Ipv6Net};
use jiff::Timestamp;
use oci::Digest;
use runtime::network::{self, Definition, NetworkError, Range};
use serde::{Deserialize, Serialize};
use store::Layout;

use crate::containers::{ContainerError, failed, ignore_missing, lock, make_folder, read_json, write_json};
use crate::network::network_state;

/// The networks that are always there.
pub const PREDEFINED: [&str; 3] = ["bridge", "host", "none"];

/// What a network is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// 64 hexadecimal characters.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// When it was made; nobody knows of those that are always there.
    pub created: Option<Timestamp>,
    /// `bridge`, `host` or `null`.
    pub driver: String,
    /// Its addresses.
    pub ipv4: Option<Subnet>,
    /// Its addresses, when it has IPv6.
    pub ipv6: Option<Subnet>,
    /// Whether the IPv4 addresses were asked for, so that a container may ask for one.
    pub chosen: bool,
    /// Nothing comes in, and nothing goes out.
    pub internal: bool,
    /// What the user notes about it.
    pub labels: BTreeMap<String, String>,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
}

/// Addresses of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// All of them.
    pub net: IpNet,
    /// The bridge's own.
    pub gateway: IpAddr,
    /// Those that containers get when they ask for none.
    pub pool: Option<IpNet>,
}

/// A network that is wished for.
#[derive(Clone, Debug, Default)]
pub struct NetworkWishes {
    /// What people shall call it.
    pub name: String,
    /// Ranges of addresses, at most one of each kind; one that is free by default.
    pub subnets: Vec<IpNet>,
    /// The bridge's addresses; the first of each range by default.
    pub gateways: Vec<IpAddr>,
    /// The parts of ranges that containers get addresses of.
    pub pools: Vec<IpNet>,
    /// With IPv6.
    pub ipv6: bool,
    /// Nothing comes in, and nothing goes out.
    pub internal: bool,
    /// What the user notes about it.
    pub labels: BTreeMap<String, String>,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
}

/// Why something could not be done with a network.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum NetworksError {
    #[error("network {text} not found")]
    NotFound { text: String },
    #[error("network {text} is ambiguous ({count} matches found based on ID prefix)")]
    Ambiguous { text: String, count: usize },
    #[error("network with name {name} already exists")]
    NameInUse { name: String },
    #[error("invalid network name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")]
    BadName { name: String },
    #[error("operation is not permitted on predefined {name} network")]
    Predefined { name: String },
    #[error("{name} is a pre-defined network and cannot be removed")]
    Indispensable { name: String },
    #[error("network {name} has active endpoints ({endpoints})")]
    InUse { name: String, endpoints: String },
    #[error("bad subnets: {what}")]
    Subnets { what: String },
    #[error("option `{name}={value}`: {what}")]
    Option { name: String, value: String, what: &'static str },
    #[error(transparent)]
    Kernel(#[from] NetworkError),
    #[error(transparent)]
    File(#[from] ContainerError),
}

/// All networks of a home.
#[derive(Clone, Debug)]
pub struct Networks {
    layout: Layout,
}

impl Networks {
    /// Returns the networks of a home.
    pub fn new(layout: &Layout) -> Self {
        Self { layout: layout.clone() }
    }

    /// Makes a network, and reserves its addresses on this machine.
    ///
    /// # Errors
    ///
    /// When the name or the addresses are taken, or what is wished for does not go together.
    pub fn create(&self, wishes: NetworkWishes, id: &str, now: Timestamp) -> Result<NetworkRecord, NetworksError> {
        let name = wishes.name.clone();
        if !crate::is_name(&name) && !matches!(name.as_bytes(), [letter] if letter.is_ascii_alphanumeric()) {
            return Err(NetworksError::BadName { name });
        }
        if PREDEFINED.contains(&name.as_str()) {
            return Err(NetworksError::Predefined { name });
        }
        let mut record = wishes.record(id, now)?;
        let folder = self.layout.networks();
        make_folder(&folder, 0o711)?;
        let _held = lock(&self.layout.lock("networks"))?;
        if self.list()?.iter().any(|other| other.name == name) {
            return Err(NetworksError::NameInUse { name });
        }
        let path = self.layout.network(id);
        let state = &network_state();
        // What was reserved by somebody who was killed before the record was written goes away by itself.
        let reservation = match record.ipv4 {
            Some(_) => record.definition(&path)?.reserve(state)?,
            None => {
                record.ipv4 = Some(Subnet::of(IpNet::V4(ipnet::Ipv4Net::default())));
                record.definition(&path)?.reserve_any(state)?
            }
        };
        let ipv4 = reservation.definition.ipv4;
        record.ipv4 = Some(Subnet { net: ipv4.net, gateway: ipv4.gateway, pool: record.ipv4.and_then(|one| one.pool) });
        write_json(&path, &record, true)?;
        Ok(record)
    }

    /// Returns all networks, by their names.
    ///
    /// # Errors
    ///
    /// When one cannot be read.
    pub fn list(&self) -> Result<Vec<NetworkRecord>, ContainerError> {
        let mut all: Vec<_> = PREDEFINED.iter().map(|name| predefined(name)).collect();
        let folder = self.layout.networks();
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(all),
            Err(error) => return Err(failed("list", &folder)(error)),
        };
        for entry in entries {
            let path = entry.map_err(failed("list", &folder))?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                all.extend(read_json::<NetworkRecord>(&path)?);
            }
        }
        all.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(all)
    }

    /// Finds a network by its ID, its name, or the beginning of its ID, in this order.
    ///
    /// # Errors
    ///
    /// When there is none, or several begin so.
    pub fn find(&self, text: &str) -> Result<NetworkRecord, NetworksError> {
        let all = self.list()?;
        if let Some(found) = all.iter().find(|one| one.id == text).or_else(|| all.iter().find(|one| one.name == text)) {
            return Ok(found.clone());
        }
        let mut found: Vec<_> = all.into_iter().filter(|one| !text.is_empty() && one.id.starts_with(text)).collect();
        match found.len() {
            0 => Err(NetworksError::NotFound { text: text.to_owned() }),
            1 => Ok(found.remove(0)),
            count => Err(NetworksError::Ambiguous { text: text.to_owned(), count }),
        }
    }

    /// What a network is to the kernel.
    ///
    /// # Errors
    ///
    /// When an option is none.
    pub fn definition(&self, record: &NetworkRecord) -> Result<Definition, NetworksError> {
        record.definition(&self.layout.network(&record.id))
    }

    /// Removes a network that nobody is on.
    ///
    /// # Errors
    ///
    /// When somebody is, or it is one of those that are always there.
    pub fn remove(&self, text: &str) -> Result<NetworkRecord, NetworksError> {
        let record = self.find(text)?;
        if PREDEFINED.contains(&record.name.as_str()) {
            return Err(NetworksError::Indispensable { name: record.name });
        }
        let _held = lock(&self.layout.lock("networks"))?;
        let on_it = record.neighbors();
        if !on_it.is_empty() {
            let endpoints: Vec<_> =
                on_it.iter().map(|one| format!("name:\"{}\" id:\"{}\"", one.name, short(&one.container))).collect();
            return Err(NetworksError::InUse { name: record.name, endpoints: endpoints.join(", ") });
        }
        // Without a record it goes away by itself, whatever happens from here on.
        let path = self.layout.network(&record.id);
        ignore_missing(fs::remove_file(&path)).map_err(failed("remove", &path))?;
        network::remove(&network_state(), &record.bridge())?;
        Ok(record)
    }
}

/// Docker shows so much of an ID.
fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// A network that is always there; its ID never changes.
fn predefined(name: &str) -> NetworkRecord {
    let range = network::default_range().filter(|_| name == "bridge");
    NetworkRecord {
        id: Digest::sha256(format!("slipway network {name}").as_bytes()).hex().to_owned(),
        name: name.to_owned(),
        created: None,
        driver: if name == "none" { "null".into() } else { name.to_owned() },
        ipv4: range.map(|range| Subnet { net: range.net, gateway: range.gateway, pool: None }),
        ipv6: None,
        chosen: false,
        internal: false,
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
    }
}

impl Subnet {
    fn of(net: IpNet) -> Subnet {
        let range = Range::of(net);
        Subnet { net: range.net, gateway: range.gateway, pool: None }
    }

    fn range(&self) -> Range {
        Range { net: self.net, gateway: self.gateway, pool: self.pool.unwrap_or(self.net) }
    }
}

impl NetworkRecord {
    /// The name of its bridge.
    pub fn bridge(&self) -> String {
        match self.name.as_str() {
            "bridge" => network::DEFAULT_BRIDGE.to_owned(),
            _ => format!("{}-{}", network::DEFAULT_BRIDGE.trim_end_matches('0'), self.id.get(..7).unwrap_or(&self.id)),
        }
    }

    /// Who is on it.
    pub fn neighbors(&self) -> Vec<network::Neighbor> {
        network::neighbors(&network_state(), &self.bridge())
    }

    /// What it is to the kernel; `record` is the file that this was read from.
    ///
    /// # Errors
    ///
    /// When an option is none.
    pub fn definition(&self, record: &Path) -> Result<Definition, NetworksError> {
        let flag = |name: &str, otherwise: bool| match self.options.get(name).map(String::as_str) {
            None => Ok(otherwise),
            Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(value) => Err(self.bad_option(name, value, "it is neither true nor false")),
        };
        let mtu = match self.options.get(MTU) {
            None => None,
            Some(value) => {
                let number = value.parse().ok().filter(|number| (68..=65535).contains(number));
                Some(number.ok_or_else(|| self.bad_option(MTU, value, "it is no size of a packet"))?)
            }
        };
        if let Some(value) = self.options.get(BRIDGE_NAME) {
            return Err(self.bad_option(BRIDGE_NAME, value, "bridges are named by slipway"));
        }
        let no_subnet = || NetworksError::Subnets { what: format!("the network {} has no addresses", self.name) };
        Ok(Definition {
            bridge: self.bridge(),
            ipv4: self.ipv4.ok_or_else(no_subnet)?.range(),
            ipv6: self.ipv6.map(|subnet| subnet.range()),
            internal: self.internal,
            masquerade: flag(MASQUERADE, true)?,
            isolated: !flag(BETWEEN, true)?,
            mtu,
            record: record.to_owned(),
        })
    }

    fn bad_option(&self, name: &str, value: &str, what: &'static str) -> NetworksError {
        NetworksError::Option { name: name.to_owned(), value: value.to_owned(), what }
    }
}

const MTU: &str = "com.docker.network.driver.mtu";
const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const BETWEEN: &str = "com.docker.network.bridge.enable_icc";

impl NetworkWishes {
    /// The record that these wishes come to; without IPv4 addresses when any will do.
    fn record(self, id: &str, now: Timestamp) -> Result<NetworkRecord, NetworksError> {
        let subnets = self.assigned()?;
        let of_kind = |four: bool| subnets.iter().copied().find(|subnet| subnet.net.addr().is_ipv4() == four);
        let (ipv4, mut ipv6) = (of_kind(true), of_kind(false));
        if ipv6.is_none() && self.ipv6 {
            ipv6 = Some(Subnet::of(unique_local(id).into()));
        }
        let record = NetworkRecord {
            id: id.to_owned(),
            name: self.name,
            created: Some(now),
            driver: "bridge".into(),
            ipv4,
            ipv6: ipv6.filter(|_| self.ipv6 || of_kind(false).is_some()),
            chosen: ipv4.is_some(),
            internal: self.internal,
            labels: self.labels,
            options: self.options,
        };
        Ok(record)
    }

    /// Gives gateways and pools to the ranges that they are of.
    fn assigned(&self) -> Result<Vec<Subnet>, NetworksError> {
        let bad = |what: String| NetworksError::Subnets { what };
        let mut subnets: Vec<Subnet> = Vec::new();
        for net in &self.subnets {
            let last = if net.addr().is_ipv4() { 30 } else { 126 };
            if net.prefix_len() > last {
                return Err(bad(format!("{net} has no room for containers")));
            }
            if subnets.iter().any(|other| other.net.addr().is_ipv4() == net.addr().is_ipv4()) {
                return Err(bad(format!("{net} is a second one of its kind, and a bridge has one of each")));
            }
            subnets.push(Subnet::of(*net));
        }
        for gateway in &self.gateways {
            let subnet = subnets.iter_mut().find(|subnet| subnet.net.contains(gateway));
            let subnet = subnet.ok_or_else(|| bad(format!("no matching subnet for gateway {gateway}")))?;
            let mut range = subnet.range();
            // The first address is the bridge's by default, and a container's otherwise.
            range.gateway = subnet.net.network();
            if !range.is_free_for_containers(*gateway) {
                return Err(bad(format!("{gateway} is no address for a gateway in {}", subnet.net)));
            }
            subnet.gateway = *gateway;
        }
        for pool in &self.pools {
            let subnet = subnets.iter_mut().find(|subnet| subnet.net.contains(pool));
            let subnet = subnet.ok_or_else(|| bad(format!("no matching subnet for range {pool}")))?;
            subnet.pool = Some(pool.trunc());
        }
        Ok(subnets)
    }
}

/// A range of IPv6 addresses that nobody else has: of those that everybody may take, the one that the ID says.
fn unique_local(id: &str) -> Ipv6Net {
    let digits = u64::from_str_radix(id.get(..14).unwrap_or("0"), 16).unwrap_or(0);
    let bits = 0xfd << 120 | u128::from(digits) << 64;
    Ipv6Net::new_assert(Ipv6Addr::from_bits(bits), 64)
}

/// Reads a range of addresses as `--subnet` does: a lone address is a range of itself.
///
/// # Errors
///
/// When it is none.
pub fn parse_net(text: &str) -> Result<IpNet, NetworksError> {
    let bad = || NetworksError::Subnets { what: format!("`{text}` is no range of addresses such as 172.28.0.0/16") };
    text.parse().map_err(|_| bad())
}

/// Whether an address is one that a network may be asked for.
pub(crate) fn wished(record: &NetworkRecord, ipv4: Option<Ipv4Addr>) -> Result<(), NetworksError> {
    if ipv4.is_some() && !record.chosen {
        let what =
            "user specified IP address is supported only when connecting to networks with user configured subnets";
        return Err(NetworksError::Subnets { what: what.into() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn record(subnets: &[&str], gateways: &[&str], pools: &[&str], ipv6: bool) -> Result<NetworkRecord, String> {
        let nets = |texts: &[&str]| texts.iter().map(|text| parse_net(text).expect("a net")).collect();
        let wishes = NetworkWishes {
            name: "n".into(),
            subnets: nets(subnets),
            gateways: gateways.iter().map(|text| text.parse().expect("an address")).collect(),
            pools: nets(pools),
            ipv6,
            ..NetworkWishes::default()
        };
        wishes.record(ID, Timestamp::UNIX_EPOCH).map_err(|error| error.to_string())
    }

    #[test]
    fn wishes_become_what_a_network_is() {
        let made =
            record(&["172.28.1.7/16", "fd00:1::/64"], &["172.28.5.254"], &["172.28.5.0/24"], false).expect("made");
        let definition = made.definition(Path::new("/r")).expect("good");
        assert_eq!(definition.bridge, "slipway-0123456");
        assert_eq!(definition.ipv4.net.to_string(), "172.28.0.0/16");
        assert_eq!(
            (definition.ipv4.gateway.to_string().as_str(), definition.ipv4.pool.to_string().as_str()),
            ("172.28.5.254", "172.28.5.0/24")
        );
        assert_eq!(definition.ipv6.map(|range| range.gateway.to_string()).as_deref(), Some("fd00:1::1"));
        let six = record(&[], &[], &[], true).expect("made").ipv6.expect("there").net;
        assert_eq!(six.to_string(), "fd01:2345:6789:abcd::/64");
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for (subnets, gateways, pools, expected) in [
            (&["10.0.0.0/31"][..], &[][..], &[][..], "no room"),
            (&["10.0.0.0/24", "10.1.0.0/24"], &[], &[], "second one"),
            (&["10.0.0.0/24"], &["10.0.1.1"], &[], "no matching subnet for gateway"),
            (&["10.0.0.0/24"], &["10.0.0.255"], &[], "no address for a gateway"),
            (&["10.0.0.0/24"], &[], &["10.0.0.0/16"], "no matching subnet for range"),
            (&[], &[], &["10.0.0.0/16"], "no matching subnet for range"),
        ] {
            let error = record(subnets, gateways, pools, false).expect_err(expected);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn options_are_checked() {
        let with = |name: &str, value: &str| {
            let mut record = record(&["10.0.0.0/24"], &[], &[], false).expect("made");
            record.options.insert(name.into(), value.into());
            record.definition(Path::new("/r")).map_err(|error| error.to_string())
        };
        assert_eq!(with(MTU, "9000").expect("good").mtu, Some(9000));
        assert!(with(BETWEEN, "false").expect("good").isolated && !with(MASQUERADE, "0").expect("good").masquerade);
        for (name, value) in [(MTU, "12"), (BETWEEN, "maybe"), (BRIDGE_NAME, "br0")] {
            assert!(with(name, value).is_err(), "{name}");
        }
    }
}
