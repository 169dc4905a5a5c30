//! The networks of a container: made ready at each start, given back when it has ended.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use oci::Digest;
use runtime::etc_files;
use runtime::network::{self, Network, NetworkError, Place, PortMapping, Wishes};
use runtime::rootless::{self, World};

use crate::config::PortBinding;
use crate::containers::{Container, ContainerError, Containers};
use crate::networks::{self, NetworkRecord, Networks, NetworksError};
use crate::record::{Attached, Endpoint, Record, State, Status};
use crate::start::StartContainerError;

/// Where addresses on bridges are kept: bridges are the machine's, or a plain user's, whatever home is used.
pub fn network_state() -> PathBuf {
    rootless::world().map_or_else(|| network::DEFAULT_STATE.into(), World::network_state)
}

/// Where secrets lie until a container has mounted them: in memory.
pub const SECRETS: &str = "/dev/shm";

/// Why a container has no network.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum PrepareError {
    #[error(transparent)]
    Kernel(#[from] NetworkError),
    #[error(transparent)]
    Networks(#[from] NetworksError),
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error("cannot join network of a non running container: {id}")]
    NotRunning { id: String },
    #[error("networks other than host and none need root, or a user namespace, which cannot be had here")]
    NotRoot,
    #[error("`{text}` is no hardware address such as 02:42:ac:11:00:02")]
    BadHardwareAddress { text: String },
    #[error("`{text}` of --dns is no address")]
    BadServer { text: String },
}

/// What `--network` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkMode<'a> {
    /// Loopback only.
    None,
    /// That of this machine.
    Host,
    /// That of another container.
    Container(&'a str),
    /// Networks.
    Networks,
}

impl<'a> NetworkMode<'a> {
    /// Reads docker's word for it.
    pub fn of(text: &'a str) -> Self {
        match text {
            "none" => Self::None,
            "host" => Self::Host,
            text => text.strip_prefix("container:").map_or(Self::Networks, Self::Container),
        }
    }
}

/// The networks of a container that are ready, and what it has to be told of them.
#[derive(Debug)]
pub struct Prepared {
    /// What the runtime takes.
    pub network: Network,
    /// Whether names are asked for at [`network::NAME_SERVER`].
    pub resolves: bool,
    /// The container whose network it is.
    pub other: Option<Container>,
    /// What is not as it was asked for.
    pub warning: Option<String>,
}

/// Makes the networks of a container ready.
///
/// # Errors
///
/// When one cannot be had.
pub fn prepare(record: &Record, all: &Containers, now: Timestamp) -> Result<Prepared, PrepareError> {
    let ready = |network| Prepared { network, resolves: false, other: None, warning: None };
    match NetworkMode::of(&record.host_config.network_mode) {
        NetworkMode::None => Ok(ready(Network::none())),
        NetworkMode::Host => Ok(ready(Network::host())),
        NetworkMode::Container(text) => {
            let other = all.find(text)?;
            let state = other.state(now)?;
            let running = matches!(state.status, Status::Running | Status::Paused);
            let namespace = state.process.filter(|_| running).and_then(|process| process.look(network::namespace_of));
            let namespace = namespace.ok_or_else(|| PrepareError::NotRunning { id: other.id().to_owned() })??;
            Ok(Prepared { other: Some(other), ..ready(Network::of_namespace(namespace)) })
        }
        NetworkMode::Networks => {
            let endpoints = endpoints(record);
            let is_default = |endpoint: &Endpoint| is_default(&endpoint.network);
            if endpoints.is_empty() {
                return Ok(ready(Network::none()));
            }
            let all_default = endpoints.iter().all(is_default);
            if !rustix::process::geteuid().is_root() {
                // Only root makes bridges: as for builds, the machine's own network is better than none.
                return if all_default { Ok(ready(Network::host())) } else { Err(PrepareError::NotRoot) };
            }
            let lacking = rootless::world().and_then(|world| world.connect().err());
            let warning =
                lacking.map(|lacking| format!("the container reaches nothing outside of its networks: {lacking}"));
            let networks = Networks::new(all.layout());
            let places: Vec<Place> =
                endpoints.iter().map(|endpoint| place(record, endpoint, &networks)).collect::<Result<_, _>>()?;
            let resolves = !all_default;
            let servers = if resolves { servers(record)? } else { Vec::new() };
            let network = network::prepare_places(&network_state(), &places, &servers)?;
            Ok(Prepared { network, resolves, other: None, warning })
        }
    }
}

/// Whether this is docker's word for the network that a container gets when it asks for none.
pub fn is_default(network: &str) -> bool {
    ["", "default", "bridge"].contains(&network)
}

/// What a container is attached to, in order.
fn endpoints(record: &Record) -> Vec<Endpoint> {
    match record.networks.as_slice() {
        [] if record.networkless => Vec::new(),
        [] => vec![Endpoint { network: record.host_config.network_mode.clone(), ..Endpoint::default() }],
        endpoints => endpoints.to_vec(),
    }
}

/// Finds out what a container's place on a network is to be.
///
/// # Errors
///
/// When there is no such network, or the place cannot be as it is wished for.
pub fn place(record: &Record, endpoint: &Endpoint, networks: &Networks) -> Result<Place, PrepareError> {
    let default = is_default(&endpoint.network);
    let found = networks.find(if default { "bridge" } else { &endpoint.network })?;
    networks::wished(&found, endpoint.ipv4)?;
    let network = match default {
        true => None,
        false => Some(networks.definition(&found)?),
    };
    // Docker answers to the container's name, its aliases, and the beginning of its ID.
    let mut names = vec![record.name.clone()];
    names.extend(endpoint.aliases.iter().cloned());
    names.extend(record.id.get(..12).map(str::to_owned));
    let wishes = Wishes {
        ipv4: endpoint.ipv4,
        ipv6: endpoint.ipv6,
        hardware: endpoint.mac.as_deref().map(hardware_address).transpose()?,
        network: found.name,
        container: record.id.clone(),
        names,
    };
    Ok(Place { network, wishes })
}

fn hardware_address(text: &str) -> Result<[u8; 6], PrepareError> {
    let bytes: Option<Vec<u8>> = text.split([':', '-']).map(|part| u8::from_str_radix(part, 16).ok()).collect();
    // The lowest bit of the first byte is of addresses that many have.
    let good = bytes.and_then(|bytes| bytes.try_into().ok()).filter(|bytes: &[u8; 6]| bytes[0] & 1 == 0);
    good.ok_or_else(|| PrepareError::BadHardwareAddress { text: text.to_owned() })
}

/// Who knows the names that no neighbor has: those of `--dns`, else the machine's own, which are asked from the machine.
fn servers(record: &Record) -> Result<Vec<IpAddr>, PrepareError> {
    if !record.host_config.dns.is_empty() {
        let bad = |text: &String| PrepareError::BadServer { text: text.clone() };
        return record.host_config.dns.iter().map(|text| text.parse().map_err(|_| bad(text))).collect();
    }
    let text = std::fs::read("/etc/resolv.conf").unwrap_or_default();
    Ok(etc_files::name_servers(&String::from_utf8_lossy(&text)))
}

/// Notes where a container is on its networks.
pub fn note(record: &Record, network: &Network, all: &Containers, state: &mut State) {
    state.networks.clear();
    let networks = Networks::new(all.layout());
    for (endpoint, attached) in endpoints(record).iter().zip(network.attached()) {
        let name = if is_default(&endpoint.network) { "bridge" } else { &endpoint.network };
        // One that was removed since has no ID, and nobody who asks for it.
        let found = networks.find(name).ok();
        let name = found.as_ref().map_or(name, |found| found.name.as_str()).to_owned();
        state.networks.insert(name, describe(record, found.as_ref(), &attached));
    }
}

/// Describes a container's place on a network.
pub fn describe(record: &Record, network: Option<&NetworkRecord>, attached: &network::Attached) -> Attached {
    let network_id = network.map(|network| network.id.clone()).unwrap_or_default();
    let mac: Vec<_> = attached.hardware.iter().map(|byte| format!("{byte:02x}")).collect();
    let (address, address6) = (attached.ipv4.addr(), attached.ipv6.map(|net| net.addr()));
    Attached {
        endpoint_id: Digest::sha256(format!("{} {network_id}", record.id).as_bytes()).hex().to_owned(),
        network_id,
        address: if let IpAddr::V4(address) = address { Some(address) } else { None },
        prefix: attached.ipv4.prefix_len(),
        gateway: Some(attached.gateway),
        address6: if let Some(IpAddr::V6(address)) = address6 { Some(address) } else { None },
        prefix6: attached.ipv6.map_or(0, |net| net.prefix_len()),
        gateway6: attached.ipv6_gateway,
        mac: mac.join(":"),
    }
}

/// Removes what killed processes of ours left on this machine: cgroups, addresses, secrets.
pub fn sweep() -> runtime::Swept {
    runtime::sweep(runtime::Places { network_state: Some(&network_state()), files: Some(Path::new(SECRETS)) })
}

/// Publishes the ports of a container whose program is about to start.
///
/// # Errors
///
/// When one is in use.
pub fn publish(record: &Record, network: &mut Network, state: &mut State) -> Result<(), StartContainerError> {
    for port in network.publish(&mappings(record)?)? {
        let name = format!("{}/{}", port.container_port, port.protocol);
        let binding = PortBinding { host_ip: port.host.ip().to_string(), host_port: port.host.port().to_string() };
        state.ports.entry(name).or_default().push(binding);
    }
    Ok(())
}

/// The ports of `-p`, and with `-P` every one that is exposed and not among them.
fn mappings(record: &Record) -> Result<Vec<PortMapping>, StartContainerError> {
    let parse = |text: String| network::parse_ports(&text).map_err(|_| StartContainerError::Port { text });
    let mut mappings = Vec::new();
    for (port, bindings) in &record.host_config.port_bindings {
        for binding in bindings.iter().flatten() {
            let address = match binding.host_ip.as_str() {
                "" => String::new(),
                ip if ip.contains(':') => format!("[{ip}]:"),
                ip => format!("{ip}:"),
            };
            mappings.extend(parse(format!("{address}{}:{port}", binding.host_port))?);
        }
    }
    if record.host_config.publish_all_ports {
        let known: BTreeSet<_> = mappings.iter().map(|mapping| (mapping.container_port, mapping.protocol)).collect();
        for port in record.config.exposed_ports.keys() {
            let exposed = parse(port.clone())?;
            mappings.extend(exposed.into_iter().filter(|one| !known.contains(&(one.container_port, one.protocol))));
        }
    }
    Ok(mappings)
}

/// Docker's word for the machine itself, and what a container reaches it by.
pub fn host_gateway(network: &Network) -> IpAddr {
    // Who is on networks that lead nowhere, or on none, reaches itself.
    network.gateway().unwrap_or(Ipv4Addr::LOCALHOST).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_dockers_words() {
        assert_eq!(NetworkMode::of("container:web"), NetworkMode::Container("web"));
        for text in ["bridge", "default", "", "front", "containers"] {
            assert_eq!(NetworkMode::of(text), NetworkMode::Networks, "{text}");
        }
    }

    #[test]
    fn a_hardware_address_is_of_one() {
        assert_eq!(hardware_address("02:42:ac:11:00:02").ok(), Some([2, 0x42, 0xac, 0x11, 0, 2]));
        for text in ["", "02:42", "01:00:00:00:00:00", "02:42:ac:11:00:02:03", "xx:42:ac:11:00:02"] {
            assert!(hardware_address(text).is_err(), "{text}");
        }
    }
}
