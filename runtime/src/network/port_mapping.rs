//! Ports as `-p` names them: `[[ADDRESS:][HOST-PORT]:]PORT[/PROTOCOL]`, each port also a range.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// What a port is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// Connections.
    #[default]
    Tcp,
    /// Packets.
    Udp,
    /// Associations.
    Sctp,
}

impl Protocol {
    /// The kernel's number.
    pub(super) fn number(self) -> u8 {
        let number = match self {
            Self::Tcp => libc::IPPROTO_TCP,
            Self::Udp => libc::IPPROTO_UDP,
            Self::Sctp => libc::IPPROTO_SCTP,
        };
        number as u8
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

impl FromStr for Protocol {
    type Err = BadPortMapping;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            _ => Err(BadPortMapping::Protocol { text: text.to_owned() }),
        }
    }
}

/// A port of a container that is reachable on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortMapping {
    /// The address of this machine; `None` is every one.
    pub host_address: Option<IpAddr>,
    /// Which port it may be: the first that is free. With 0 the kernel picks one.
    pub host_ports: RangeInclusive<u16>,
    /// The port inside.
    pub container_port: u16,
    /// What it is a port of.
    pub protocol: Protocol,
}

/// Why a port mapping is not one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum BadPortMapping {
    #[error("no port specified: `{text}`")]
    NoPort { text: String },
    #[error("invalid containerPort: `{text}`")]
    ContainerPort { text: String },
    #[error("invalid hostPort: `{text}`")]
    HostPort { text: String },
    #[error("invalid IP address: `{text}`")]
    Address { text: String },
    #[error("invalid proto: `{text}`; there are tcp, udp and sctp")]
    Protocol { text: String },
    #[error("invalid ranges specified for container and host ports: `{container}` and `{host}`")]
    Ranges { container: String, host: String },
}

/// Reads what `-p` takes, as docker does. A range of ports becomes as many mappings.
pub fn parse(text: &str) -> Result<Vec<PortMapping>, BadPortMapping> {
    let (ports, protocol) = match text.rsplit_once('/') {
        Some((ports, protocol)) => (ports, protocol.parse()?),
        None => (text, Protocol::Tcp),
    };
    let (before, container) = ports.rsplit_once(':').map_or((None, ports), |(before, last)| (Some(before), last));
    if container.is_empty() {
        return Err(BadPortMapping::NoPort { text: text.to_owned() });
    }
    let containers = range(container).ok_or_else(|| BadPortMapping::ContainerPort { text: container.to_owned() })?;
    let (address, host) = match before {
        None => (None, ""),
        Some(before) => before.rsplit_once(':').map_or((None, before), |(address, host)| (Some(address), host)),
    };
    let host_address = match address {
        None | Some("") => None,
        Some(address) => {
            let bare = address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(address);
            Some(bare.parse().map_err(|_| BadPortMapping::Address { text: address.to_owned() })?)
        }
    };
    let hosts = match host {
        "" | "0" => None,
        host => Some(range(host).ok_or_else(|| BadPortMapping::HostPort { text: host.to_owned() })?),
    };
    let count = containers.clone().count();
    if let Some(hosts) = &hosts
        && count > 1
        && hosts.clone().count() != count
    {
        return Err(BadPortMapping::Ranges { container: container.to_owned(), host: host.to_owned() });
    }
    let mappings = containers.enumerate().map(|(position, container_port)| PortMapping {
        host_address,
        host_ports: match &hosts {
            None => 0..=0,
            // Any of the range does for one port; two ranges go together.
            Some(hosts) if count == 1 => hosts.clone(),
            Some(hosts) => {
                let port = hosts.start() + position as u16;
                port..=port
            }
        },
        container_port,
        protocol,
    });
    Ok(mappings.collect())
}

/// Reads `PORT` or `FIRST-LAST`.
fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let port = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|port| digits && *port != 0)
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn text(mapping: &PortMapping) -> String {
        let PortMapping { host_address, host_ports, container_port, protocol } = mapping;
        let address = host_address.map_or("*".to_owned(), |address| address.to_string());
        format!("{address} {}-{} {container_port}/{protocol}", host_ports.start(), host_ports.end())
    }

    #[rstest]
    #[case("80", &["* 0-0 80/tcp"])]
    #[case("8080:80", &["* 8080-8080 80/tcp"])]
    #[case(":80/tcp", &["* 0-0 80/tcp"])]
    #[case("0:80", &["* 0-0 80/tcp"])]
    #[case("127.0.0.1:8080:80/TCP", &["127.0.0.1 8080-8080 80/tcp"])]
    #[case("127.0.0.1::53/udp", &["127.0.0.1 0-0 53/udp"])]
    #[case("[::1]:8080:80", &["::1 8080-8080 80/tcp"])]
    #[case("::1:8080:80", &["::1 8080-8080 80/tcp"])]
    #[case("8000-8001:80-81/sctp", &["* 8000-8000 80/sctp", "* 8001-8001 81/sctp"])]
    #[case("8000-8009:80", &["* 8000-8009 80/tcp"])]
    #[case("80-82", &["* 0-0 80/tcp", "* 0-0 81/tcp", "* 0-0 82/tcp"])]
    fn a_mapping_is_read_as_docker_reads_it(#[case] mapping: &str, #[case] expected: &[&str]) {
        let read: Vec<_> = parse(mapping).unwrap().iter().map(text).collect();
        assert_eq!(read, expected);
    }

    #[rstest]
    fn what_is_not_a_mapping_is_refused(
        #[values("", ":", "x", "0", "80:", "x:80", "1.2.3:80:80", "65536:80", "80:+80", "a:b:c:d", "80/icmp", "80/")]
        mapping: &str,
    ) {
        assert!(parse(mapping).is_err());
    }

    #[rstest]
    fn ranges_must_go_together(#[values("1-2:3-5", "1-3:3-4", "9-8:80", "80-79")] mapping: &str) {
        assert!(parse(mapping).is_err());
    }
}
