//! The networks of a container: made ready at each start, given back when it has ended.

use std::path::Path;

use runtime::network::{self, Mode, Network, NetworkError};

use crate::config::PortBinding;
use crate::record::{Attached, Record, State};
use crate::start::StartContainerError;

/// Where addresses on the bridge are kept: the bridge is the machine's, whatever home is used.
pub const NETWORK_STATE: &str = "/run/slipway/network";

/// Where secrets lie until a container has mounted them: in memory.
pub const SECRETS: &str = "/dev/shm";

/// Makes the networks of a container ready.
///
/// # Errors
///
/// When one cannot be had.
pub fn prepare(record: &Record) -> Result<Network, NetworkError> {
    network::prepare(match record.host_config.network_mode.as_str() {
        "host" => Mode::Host,
        "none" => Mode::None,
        _ if rustix::process::geteuid().is_root() => Mode::Bridge(NETWORK_STATE.into()),
        _ => Mode::Host,
    })
}

/// Notes where a container is on its networks.
pub fn note(record: &Record, network: &Network, state: &mut State) {
    state.networks.clear();
    let Some(address) = network.address() else { return };
    let name = record.networks.first().map_or("bridge", |endpoint| endpoint.network.as_str());
    let [a, b, c, d] = address.octets();
    let attached = Attached {
        address: Some(address),
        prefix: 16,
        gateway: network.gateway(),
        mac: format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}"),
        ..Attached::default()
    };
    state.networks.insert(name.to_owned(), attached);
}

/// Removes what killed processes of ours left on this machine: cgroups, addresses, secrets.
pub fn sweep() -> runtime::Swept {
    runtime::sweep(runtime::Places { network_state: Some(Path::new(NETWORK_STATE)), files: Some(Path::new(SECRETS)) })
}

/// Publishes the ports of a container whose program is about to start.
///
/// # Errors
///
/// When one is in use.
pub fn publish(record: &Record, network: &mut Network, state: &mut State) -> Result<(), StartContainerError> {
    let mut mappings = Vec::new();
    for (port, bindings) in &record.host_config.port_bindings {
        for binding in bindings.iter().flatten() {
            let address = match binding.host_ip.as_str() {
                "" => String::new(),
                ip if ip.contains(':') => format!("[{ip}]:"),
                ip => format!("{ip}:"),
            };
            let text = format!("{address}{}:{port}", binding.host_port);
            mappings.extend(network::parse_ports(&text).map_err(|_| StartContainerError::Port { text })?);
        }
    }
    for port in network.publish(&mappings)? {
        let name = format!("{}/{}", port.container_port, port.protocol);
        let binding = PortBinding { host_ip: port.host.ip().to_string(), host_port: port.host.port().to_string() };
        state.ports.entry(name).or_default().push(binding);
    }
    Ok(())
}
