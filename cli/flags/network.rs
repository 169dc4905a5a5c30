//! The flags of `create` and `run` that say which networks a container is on.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Context;
use engine::networks::Endpoint;

/// Which networks a container is on.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct NetworkArgs {
    /// Network: one of `network create`, bridge, none, host or container:NAME; or name=…,alias=…,ip=…
    #[arg(long, value_name = "NETWORK", visible_alias = "net", help_heading = "Network")]
    pub(crate) network: Vec<String>,
    /// A further name on the network
    #[arg(long, visible_alias = "net-alias", value_name = "NAME", help_heading = "Network")]
    pub(crate) network_alias: Vec<String>,
    /// The address on the network
    #[arg(long, value_name = "IP", help_heading = "Network")]
    pub(crate) ip: Option<Ipv4Addr>,
    /// The IPv6 address on the network
    #[arg(long, value_name = "IP", help_heading = "Network")]
    pub(crate) ip6: Option<Ipv6Addr>,
    /// The hardware address on the network
    #[arg(long, value_name = "MAC", help_heading = "Network")]
    pub(crate) mac_address: Option<String>,
}

/// The mode, in docker's word, and what the container is attached to: nothing where the mode says it all.
pub(crate) fn parse(args: &NetworkArgs) -> anyhow::Result<(String, Vec<Endpoint>)> {
    let mut endpoints: Vec<Endpoint> =
        args.network.iter().map(|text| endpoint(text).context("--network")).collect::<Result<_, _>>()?;
    if endpoints.is_empty() {
        endpoints.push(Endpoint { network: "bridge".into(), ..Endpoint::default() });
    }
    for endpoint in &mut endpoints {
        if endpoint.network == "default" {
            endpoint.network = "bridge".into();
        }
    }
    let is_mode = |name: &str| ["none", "host"].contains(&name) || name.starts_with("container:");
    let count = endpoints.len();
    let first = &mut endpoints[0];
    let mode = first.network.clone();
    first.aliases.extend(args.network_alias.iter().cloned());
    first.ipv4 = args.ip.or(first.ipv4);
    first.ipv6 = args.ip6.or(first.ipv6);
    first.mac = args.mac_address.clone().or(first.mac.take());
    if count > 1
        && let Some(other) = endpoints.iter().find(|endpoint| is_mode(&endpoint.network))
    {
        anyhow::bail!("conflicting options: cannot attach both `{}` and other networks", other.network);
    }
    for endpoint in &endpoints {
        let own = !is_mode(&endpoint.network) && endpoint.network != "bridge";
        anyhow::ensure!(
            own || endpoint.aliases.is_empty(),
            "network-scoped aliases are only supported for user-defined networks"
        );
        let addressed = endpoint.ipv4.is_some() || endpoint.ipv6.is_some();
        anyhow::ensure!(own || !addressed, "user specified IP address is supported on user defined networks only");
        anyhow::ensure!(
            !is_mode(&endpoint.network) || endpoint.mac.is_none(),
            "conflicting options: mac-address and the network mode"
        );
    }
    if is_mode(&mode) {
        endpoints.clear();
    }
    Ok((mode, endpoints))
}

/// Reads a name, or `name=…,alias=…,ip=…,ip6=…,mac-address=…`.
fn endpoint(text: &str) -> anyhow::Result<Endpoint> {
    anyhow::ensure!(!text.is_empty(), "a network needs a name");
    if !text.contains('=') {
        return Ok(Endpoint { network: text.to_owned(), ..Endpoint::default() });
    }
    let mut endpoint = Endpoint::default();
    for (key, value) in super::fields(text)? {
        let value = value.with_context(|| format!("`{key}` needs a value"))?;
        let address = || format!("`{key}={value}` is no address");
        match key.as_str() {
            "name" => endpoint.network = value,
            "alias" => endpoint.aliases.push(value),
            "ip" => endpoint.ipv4 = Some(value.parse().with_context(address)?),
            "ip6" => endpoint.ipv6 = Some(value.parse().with_context(address)?),
            "mac-address" => endpoint.mac = Some(value),
            _ => anyhow::bail!("invalid field key {key}; there are name, alias, ip, ip6 and mac-address"),
        }
    }
    anyhow::ensure!(!endpoint.network.is_empty(), "`{text}` names no network");
    Ok(endpoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(networks: &[&str]) -> NetworkArgs {
        NetworkArgs { network: networks.iter().map(|&text| text.to_owned()).collect(), ..NetworkArgs::default() }
    }

    #[test]
    fn networks_are_read_as_docker_does() {
        let read = |networks: &[&str]| {
            let (mode, endpoints) = parse(&args(networks)).expect("good");
            (mode, endpoints.into_iter().map(|endpoint| endpoint.network).collect::<Vec<_>>())
        };
        assert_eq!(read(&[]), ("bridge".into(), vec!["bridge".into()]));
        assert_eq!(read(&["default"]), ("bridge".into(), vec!["bridge".into()]));
        for mode in ["none", "host", "container:web"] {
            assert_eq!(read(&[mode]), (mode.into(), vec![]));
        }
        assert_eq!(read(&["a", "name=b,alias=x"]), ("a".into(), vec!["a".into(), "b".into()]));
        let (_, endpoints) =
            parse(&args(&["name=b,alias=x,alias=y,ip=10.0.0.5,ip6=fd00::5,mac-address=02:00:00:00:00:01"]))
                .expect("good");
        let expected = Endpoint {
            network: "b".into(),
            aliases: vec!["x".into(), "y".into()],
            ipv4: Some("10.0.0.5".parse().expect("an address")),
            ipv6: Some("fd00::5".parse().expect("an address")),
            mac: Some("02:00:00:00:00:01".into()),
        };
        assert_eq!(endpoints, [expected]);
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for networks in [&["none", "a"][..], &["a", "host"], &["name=a,ip=x"], &["alias=x"], &["name=a,what=1"], &[""]]
        {
            assert!(parse(&args(networks)).is_err(), "{networks:?}");
        }
        for networks in [&[][..], &["bridge"], &["host"]] {
            let alias = NetworkArgs { network_alias: vec!["x".into()], ..args(networks) };
            let address = NetworkArgs { ip: Some(Ipv4Addr::LOCALHOST), ..args(networks) };
            assert!(parse(&alias).is_err() && parse(&address).is_err(), "{networks:?}");
        }
    }
}
