//! A container as docker's JSON.

use jiff::Timestamp;
use oci::ChainId;
use serde_json::{Map, Value, json};
use store::Layout;
use supervisor::config::PortBinding;
use supervisor::record::{Attached, Endpoint, MountKind};
use supervisor::{Container, State, Status};

/// What docker writes for no time.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// Returns all that is known about a container.
pub(super) fn json(container: &Container, state: &State, layout: &Layout) -> Value {
    let record = &container.record;
    let mut arguments = record.config.arguments().into_iter();
    let folder = |name: &str| container.folder().join(name);
    json!({
        "Id": record.id,
        "Created": record.created,
        "Path": arguments.next().unwrap_or_default(),
        "Args": arguments.collect::<Vec<_>>(),
        "State": state_json(state),
        "Image": record.image,
        "ResolvConfPath": folder("etc/resolv.conf"),
        "HostnamePath": folder("etc/hostname"),
        "HostsPath": folder("etc/hosts"),
        "LogPath": container.log(),
        "Name": format!("/{}", record.name),
        "RestartCount": state.restart_count,
        "Driver": "overlay2",
        "Platform": record.platform.os,
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": null,
        "HostConfig": record.host_config,
        "GraphDriver": { "Data": graph(container, layout), "Name": "overlay2" },
        "Mounts": record.mounts.iter().map(mount).collect::<Vec<_>>(),
        "Config": record.config,
        "NetworkSettings": network(container, state),
    })
}

fn state_json(state: &State) -> Value {
    let time = |time: Option<Timestamp>| time.map_or_else(|| NEVER.to_owned(), |time| time.to_string());
    let mut json = json!({
        "Status": state.status,
        "Running": state.status.is_alive(),
        "Paused": state.status == Status::Paused,
        "Restarting": state.status == Status::Restarting,
        "OOMKilled": state.oom_killed,
        "Dead": false,
        "Pid": state.process.as_ref().map_or(0, |process| process.pid),
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": time(state.started_at),
        "FinishedAt": time(state.finished_at),
    });
    if let (Some(members), Some(health)) = (json.as_object_mut(), &state.health) {
        members.insert("Health".into(), serde_json::to_value(health).unwrap_or_default());
    }
    json
}

fn graph(container: &Container, layout: &Layout) -> Value {
    let mut lower = Vec::new();
    let mut chain: Option<ChainId> = None;
    for diff_id in &container.record.layers {
        let next = chain.map_or_else(|| ChainId::base(diff_id), |chain| chain.then(diff_id));
        lower.insert(0, layout.snapshot(&next).join("fs").to_string_lossy().into_owned());
        chain = Some(next);
    }
    json!({
        "LowerDir": lower.join(":"),
        // Mounted in the container's own mount namespace, so there is no path to it.
        "MergedDir": "",
        "UpperDir": container.upper(),
        "WorkDir": container.work(),
    })
}

fn mount(mount: &supervisor::record::Mount) -> Value {
    let mut json = Map::new();
    json.insert("Type".into(), json!(mount.kind));
    if mount.kind == MountKind::Volume {
        json.insert("Name".into(), json!(mount.name));
    }
    json.insert("Source".into(), json!(mount.source));
    json.insert("Destination".into(), json!(mount.target));
    if mount.kind == MountKind::Volume {
        json.insert("Driver".into(), json!("local"));
    }
    json.insert("Mode".into(), json!(mount.mode));
    json.insert("RW".into(), json!(!mount.read_only));
    let propagation = match mount.kind {
        MountKind::Bind if mount.propagation.is_empty() => "rprivate",
        _ => &mount.propagation,
    };
    json.insert("Propagation".into(), json!(propagation));
    Value::Object(json)
}

fn network(container: &Container, state: &State) -> Value {
    let record = &container.record;
    let mut ports: Map<String, Value> = Map::new();
    if state.status.is_alive() {
        let bindings = |port: &str| -> Option<&Vec<PortBinding>> { state.ports.get(port) };
        for port in record.config.exposed_ports.keys().chain(state.ports.keys()) {
            ports.insert(port.clone(), json!(bindings(port)));
        }
    }
    let first = record.networks.first().and_then(|endpoint| state.networks.get(&endpoint.network));
    let nowhere = Attached::default();
    // The old members tell of the default network alone.
    let default = first.filter(|_| record.networks.first().is_some_and(|endpoint| endpoint.network == "bridge"));
    let old = default.unwrap_or(&nowhere);
    let text = |address: Option<std::net::Ipv4Addr>| address.map(|address| address.to_string()).unwrap_or_default();
    let text6 = |address: Option<std::net::Ipv6Addr>| address.map(|address| address.to_string()).unwrap_or_default();
    let endpoint = |asked: Option<&Endpoint>, attached: &Attached| {
        json!({
            "IPAMConfig": asked.filter(|asked| asked.ipv4.is_some() || asked.ipv6.is_some()).map(|asked| json!({
                "IPv4Address": text(asked.ipv4), "IPv6Address": text6(asked.ipv6),
            })),
            "Links": null,
            "Aliases": asked.map(|asked| &asked.aliases).filter(|aliases| !aliases.is_empty()),
            "MacAddress": attached.mac,
            "DriverOpts": null,
            "GwPriority": 0,
            "NetworkID": attached.network_id,
            "EndpointID": attached.endpoint_id,
            "Gateway": text(attached.gateway),
            "IPAddress": text(attached.address),
            "IPPrefixLen": attached.prefix,
            "IPv6Gateway": text6(attached.gateway6),
            "GlobalIPv6Address": text6(attached.address6),
            "GlobalIPv6PrefixLen": attached.prefix6,
            "DNSNames": asked.filter(|asked| asked.network != "bridge").map(|_| vec![&record.name, &record.id]),
        })
    };
    let mut networks: Map<String, Value> = Map::new();
    for asked in &record.networks {
        let attached = state.networks.get(&asked.network).unwrap_or(&nowhere);
        networks.insert(asked.network.clone(), endpoint(Some(asked), attached));
    }
    // Those that it was connected to while it ran.
    for (name, attached) in &state.networks {
        networks.entry(name.clone()).or_insert_with(|| endpoint(None, attached));
    }
    if record.networks.is_empty() && ["host", "none"].contains(&record.host_config.network_mode.as_str()) {
        networks.insert(record.host_config.network_mode.clone(), endpoint(None, &nowhere));
    }
    json!({
        "Bridge": "",
        "SandboxID": "",
        "SandboxKey": "",
        "Ports": ports,
        "HairpinMode": false,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null,
        "EndpointID": old.endpoint_id,
        "Gateway": text(old.gateway),
        "GlobalIPv6Address": text6(old.address6),
        "GlobalIPv6PrefixLen": old.prefix6,
        "IPAddress": text(old.address),
        "IPPrefixLen": old.prefix,
        "IPv6Gateway": text6(old.gateway6),
        "MacAddress": old.mac,
        "Networks": networks,
    })
}
