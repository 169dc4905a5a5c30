//! Networks of containers: making, listing, describing, connecting and removing them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use supervisor::network::{NetworkMode, PrepareError, network_state};
use supervisor::networks::{NetworkRecord, NetworkWishes, NetworksError, PREDEFINED};
use supervisor::record::Endpoint;
use supervisor::{Container, ContainerError, Containers, Networks};

use crate::{Engine, machine};

/// Why something could not be done with a network.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum NetworkError {
    #[error(transparent)]
    Networks(#[from] NetworksError),
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error("cannot change the container's place on the network")]
    Kernel(#[from] runtime::network::NetworkError),
    #[error("container cannot be connected to {network}: it is the network of no container or of the machine")]
    NotShared { network: String },
    #[error(
        "container sharing network namespace with another container or host cannot be connected to any other network"
    )]
    Shares,
    #[error("container cannot be connected to multiple networks with one of the networks in private (none) mode")]
    Private,
    #[error("endpoint with name {container} already exists in network {network}")]
    Connected { container: String, network: String },
    #[error("container {container} is not connected to network {network}")]
    NotConnected { container: String, network: String },
    #[error("invalid filter `{name}`; there are {known}")]
    Filter { name: String, known: &'static str },
}

impl NetworkError {
    /// Whether there is no such network.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Networks(NetworksError::NotFound { .. }))
    }
}

/// Makes a network.
///
/// # Errors
///
/// When its name or addresses are taken, or what is wished for does not go together.
pub async fn create(engine: &Engine, wishes: NetworkWishes, now: Timestamp) -> Result<NetworkRecord, NetworkError> {
    let networks = Networks::new(engine.store().layout());
    store::blocking::run(move || Ok(networks.create(wishes, &machine::new_id(), now)?)).await
}

/// The filters that networks are listed by.
pub const FILTERS: &str = "dangling, driver, id, label, name, scope and type";

/// Returns the networks that match all filters, by their names.
///
/// # Errors
///
/// When a filter is none, or a record cannot be read.
pub async fn list(engine: &Engine, filters: Vec<(String, String)>) -> Result<Vec<NetworkRecord>, NetworkError> {
    let networks = Networks::new(engine.store().layout());
    store::blocking::run(move || {
        let mut all = networks.list()?;
        for (name, value) in &filters {
            keep(&mut all, name, value)?;
        }
        Ok(all)
    })
    .await
}

fn keep(all: &mut Vec<NetworkRecord>, name: &str, value: &str) -> Result<(), NetworkError> {
    let custom = |one: &NetworkRecord| !PREDEFINED.contains(&one.name.as_str());
    match name {
        "driver" => all.retain(|one| one.driver == value),
        "id" => all.retain(|one| one.id.starts_with(value)),
        "name" => all.retain(|one| one.name.contains(value)),
        "label" => all.retain(|one| has_label(&one.labels, value)),
        "scope" => all.retain(|_| value == "local"),
        "type" => all.retain(|one| custom(one) == (value == "custom")),
        "dangling" => {
            let wanted = matches!(value, "true" | "1");
            all.retain(|one| custom(one) && one.neighbors().is_empty() == wanted);
        }
        _ => return Err(NetworkError::Filter { name: name.to_owned(), known: FILTERS }),
    }
    Ok(())
}

/// Whether there is a label `NAME`, or `NAME=VALUE`.
pub(crate) fn has_label(labels: &BTreeMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((name, value)) => labels.get(name).is_some_and(|other| other == value),
        None => labels.contains_key(wanted),
    }
}

/// A network, and who is on it.
#[derive(Clone, Debug)]
pub struct InspectedNetwork {
    /// What it is.
    pub record: NetworkRecord,
    /// The running containers on it, by their IDs.
    pub containers: BTreeMap<String, OnNetwork>,
}

/// A running container's place on a network.
#[derive(Clone, Debug)]
pub struct OnNetwork {
    /// The container's name.
    pub name: String,
    /// The ID of its place.
    pub endpoint_id: String,
    /// The hardware address.
    pub mac: String,
    /// The address and its network's prefix.
    pub ipv4: String,
    /// The address and its network's prefix, if it has one.
    pub ipv6: String,
}

/// Describes a network.
///
/// # Errors
///
/// When there is none of this name or ID.
pub async fn inspect(engine: &Engine, name: String) -> Result<InspectedNetwork, NetworkError> {
    let layout = engine.store().layout().clone();
    store::blocking::run(move || {
        let record = Networks::new(&layout).find(&name)?;
        let all = Containers::new(&layout);
        let mut containers = BTreeMap::new();
        for neighbor in record.neighbors() {
            let with_prefix = |address: Option<IpAddr>, prefix: Option<u8>| match (address, prefix) {
                (Some(address), Some(prefix)) => format!("{address}/{prefix}"),
                _ => String::new(),
            };
            // A container of another home is on the default network as well; of that one no more is known.
            let state = all.open(&neighbor.container)?.and_then(|container| container.peek().ok());
            let attached = state.and_then(|state| state.networks.get(&record.name).cloned()).unwrap_or_default();
            let on = OnNetwork {
                name: neighbor.name,
                endpoint_id: attached.endpoint_id,
                mac: attached.mac,
                ipv4: with_prefix(neighbor.ipv4.map(IpAddr::V4), record.ipv4.map(|one| one.net.prefix_len())),
                ipv6: with_prefix(neighbor.ipv6.map(IpAddr::V6), record.ipv6.map(|one| one.net.prefix_len())),
            };
            containers.insert(neighbor.container, on);
        }
        Ok(InspectedNetwork { record, containers })
    })
    .await
}

/// Gives a container a place on a further network: now if it runs, and at each start from now on.
///
/// # Errors
///
/// When it has one there already, cannot have one, or an address is taken.
pub async fn connect(
    engine: &Engine,
    container: String,
    endpoint: Endpoint,
    now: Timestamp,
) -> Result<(), NetworkError> {
    let layout = engine.store().layout().clone();
    store::blocking::run(move || {
        let networks = Networks::new(&layout);
        let network = networks.find(&endpoint.network)?;
        let mut container = Containers::new(&layout).find(&container)?;
        refuse(&container, &network)?;
        let endpoint = Endpoint { network: network.name.clone(), ..endpoint };
        let place = supervisor::network::place(&container.record, &endpoint, &networks)?;
        let state = container.state(now)?;
        // One that is ending gets its place when it starts again.
        let namespace = state.process.and_then(|process| process.look(runtime::network::namespace_of));
        let attached = match namespace.transpose()? {
            Some(namespace) => {
                let attached = runtime::network::connect(&network_state(), &namespace, &place)?;
                Some(supervisor::network::describe(&container.record, Some(&network), &attached))
            }
            None => None,
        };
        let changed = container.change_record(|record| {
            // What it gets when it asks for nothing is not forgotten when it asks for more.
            if record.networks.is_empty() && !record.networkless {
                let network = record.host_config.network_mode.clone();
                record.networks.push(Endpoint { network, ..Endpoint::default() });
            }
            record.networks.push(endpoint);
            record.networkless = false;
        });
        if let Err(error) = changed {
            runtime::network::disconnect(&network_state(), &network.bridge(), container.id())?;
            return Err(error.into());
        }
        if let Some(attached) = attached {
            container.change(|state| {
                state.networks.insert(network.name.clone(), attached);
            })?;
        }
        Ok(())
    })
    .await
}

fn refuse(container: &Container, network: &NetworkRecord) -> Result<(), NetworkError> {
    if ["host", "none"].contains(&network.name.as_str()) {
        return Err(NetworkError::NotShared { network: network.name.clone() });
    }
    match NetworkMode::of(&container.record.host_config.network_mode) {
        NetworkMode::Host | NetworkMode::Container(_) => return Err(NetworkError::Shares),
        NetworkMode::None => return Err(NetworkError::Private),
        NetworkMode::Networks => {}
    }
    if names(container).any(|name| is_same(name, network)) {
        let container = container.record.name.clone();
        return Err(NetworkError::Connected { container, network: network.name.clone() });
    }
    Ok(())
}

/// What a container is attached to at each start.
fn names(container: &Container) -> impl Iterator<Item = &str> {
    let record = &container.record;
    let default =
        (record.networks.is_empty() && !record.networkless).then_some(record.host_config.network_mode.as_str());
    record.networks.iter().map(|endpoint| endpoint.network.as_str()).chain(default)
}

fn is_same(name: &str, network: &NetworkRecord) -> bool {
    name == network.name || name == network.id || (supervisor::network::is_default(name) && network.name == "bridge")
}

/// Takes a container's place on a network away.
///
/// # Errors
///
/// When it has none there.
pub async fn disconnect(engine: &Engine, network: String, container: String) -> Result<(), NetworkError> {
    let layout = engine.store().layout().clone();
    store::blocking::run(move || {
        let network = Networks::new(&layout).find(&network)?;
        let mut container = Containers::new(&layout).find(&container)?;
        let known = names(&container).any(|name| is_same(name, &network));
        let was_there = runtime::network::disconnect(&network_state(), &network.bridge(), container.id())?;
        if !known && !was_there {
            let container = container.record.name;
            return Err(NetworkError::NotConnected { container, network: network.name });
        }
        container.change_record(|record| {
            record.networks.retain(|one| !is_same(&one.network, &network));
            record.networkless = record.networks.is_empty();
        })?;
        container.change(|state| {
            state.networks.remove(&network.name);
        })?;
        Ok(())
    })
    .await
}

/// Removes a network that no running container is on.
///
/// # Errors
///
/// When one is, or there is no such network, or it is one of those that are always there.
pub async fn remove(engine: &Engine, name: String) -> Result<NetworkRecord, NetworkError> {
    let networks = Networks::new(engine.store().layout());
    store::blocking::run(move || Ok(networks.remove(&name)?)).await
}

/// Which things are pruned.
#[derive(Clone, Debug, Default)]
pub struct PruneFilter {
    /// Only what was made before.
    pub before: Option<Timestamp>,
    /// Only what has each label, `NAME` or `NAME=VALUE`.
    pub labels: Vec<String>,
    /// Only what has none of these.
    pub not_labels: Vec<String>,
}

impl PruneFilter {
    pub(crate) fn admits(&self, created: Option<Timestamp>, labels: &BTreeMap<String, String>) -> bool {
        let old = self.before.is_none_or(|before| created.is_some_and(|created| created < before));
        let labelled = self.labels.iter().all(|label| has_label(labels, label));
        old && labelled && !self.not_labels.iter().any(|label| has_label(labels, label))
    }
}

/// Removes all networks that no container is on or will be on when it starts; gives their names.
///
/// # Errors
///
/// When a record cannot be read.
pub async fn prune(engine: &Engine, filter: PruneFilter) -> Result<Vec<String>, NetworkError> {
    let layout = engine.store().layout().clone();
    store::blocking::run(move || {
        let networks = Networks::new(&layout);
        let mut all = networks.list()?;
        all.retain(|one| !PREDEFINED.contains(&one.name.as_str()) && filter.admits(one.created, &one.labels));
        let containers: Vec<Container> = Containers::new(&layout).list()?.into_iter().flatten().collect();
        let is_wanted = |network: &NetworkRecord| {
            containers.iter().any(|container| names(container).any(|name| is_same(name, network)))
        };
        let mut removed = Vec::new();
        for network in all.into_iter().filter(|one| !is_wanted(one)) {
            match networks.remove(&network.id) {
                Ok(network) => removed.push(network.name),
                // Somebody came, or another pruned it.
                Err(NetworksError::InUse { .. } | NetworksError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(removed)
    })
    .await
}
