//! [`Endpoint`]: where a registry is reached, and whether its certificate must hold.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use reqwest::Url;

/// One way to reach a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// `https://host[:port]/v2/`
    pub(super) base: Url,
    /// Whether any certificate is taken.
    pub(super) any_certificate: bool,
}

/// Lists the ways to reach a registry, in the order in which they are tried.
///
/// Elsewhere than on this machine it is HTTPS and nothing else, so that nobody in between can talk us into plain
/// HTTP. A registry that was named as insecure is tried with HTTPS first, as docker does; one on a loopback address
/// with plain HTTP first, because that is what runs there.
pub(super) fn candidates(registry: &str, insecure: &[String]) -> Option<Vec<Endpoint>> {
    let host = if registry == oci::reference::DEFAULT_REGISTRY { "registry-1.docker.io" } else { registry };
    let way = |scheme: &str, any_certificate| {
        let base = Url::parse(&format!("{scheme}://{host}/v2/")).ok()?;
        Some(Endpoint { base, any_certificate })
    };
    let secure = way("https", false)?;
    if is_loopback(&secure.base) {
        return Some(vec![way("http", true)?, way("https", true)?]);
    }
    if insecure.iter().any(|named| names(named, registry, &secure.base)) {
        return Some(vec![way("https", true)?, way("http", true)?]);
    }
    Some(vec![secure])
}

/// Tells whether a URL leads to this machine: `localhost`, `127.0.0.0/8` or `::1`.
pub(super) fn is_loopback(url: &Url) -> bool {
    match address(url) {
        Some(IpAddr::V4(address)) => address.is_loopback(),
        Some(IpAddr::V6(address)) => address.is_loopback(),
        None => url.host_str().is_some_and(|host| host == "localhost" || host.ends_with(".localhost")),
    }
}

fn address(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Tells whether an entry of `--insecure` means this registry: `host`, `host:port` or `address/bits`.
fn names(entry: &str, registry: &str, base: &Url) -> bool {
    let entry = entry.strip_prefix("https://").or_else(|| entry.strip_prefix("http://")).unwrap_or(entry);
    let entry = entry.trim_end_matches('/');
    if entry.eq_ignore_ascii_case(registry) || base.host_str().is_some_and(|host| entry.eq_ignore_ascii_case(host)) {
        return true;
    }
    let Some((network, bits)) = entry.split_once('/') else { return false };
    let (Ok(network), Ok(bits), Some(address)) = (network.parse(), bits.parse::<u32>(), address(base)) else {
        return false;
    };
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) if bits <= Ipv4Addr::BITS => {
            let mask = u32::MAX.checked_shl(Ipv4Addr::BITS - bits).unwrap_or(0);
            network.to_bits() & mask == address.to_bits() & mask
        }
        (IpAddr::V6(network), IpAddr::V6(address)) if bits <= Ipv6Addr::BITS => {
            let mask = u128::MAX.checked_shl(Ipv6Addr::BITS - bits).unwrap_or(0);
            network.to_bits() & mask == address.to_bits() & mask
        }
        _ => false,
    }
}

/// Tells whether two URLs have the same scheme, host and port.
pub(super) fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme() && a.host_str() == b.host_str() && a.port_or_known_default() == b.port_or_known_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ways(registry: &str, insecure: &[&str]) -> Vec<String> {
        let insecure: Vec<String> = insecure.iter().map(|&text| text.into()).collect();
        let show = |way: Endpoint| format!("{}{}", way.base, if way.any_certificate { " any" } else { "" });
        candidates(registry, &insecure).expect(registry).into_iter().map(show).collect()
    }

    #[test]
    fn plain_http_needs_loopback_or_leave() {
        assert_eq!(ways("docker.io", &[]), ["https://registry-1.docker.io/v2/"]);
        assert_eq!(ways("example.com:5000", &["example.com:5001", "10.0.0.0/8"]), ["https://example.com:5000/v2/"]);
        for registry in ["localhost", "127.0.0.1", "127.8.9.1", "[::1]"] {
            let both = [format!("http://{registry}:5000/v2/ any"), format!("https://{registry}:5000/v2/ any")];
            assert_eq!(ways(&format!("{registry}:5000"), &[]), both);
        }
        for leave in ["example.com", "example.com:5000", "https://EXAMPLE.com:5000/"] {
            let both = ["https://example.com:5000/v2/ any", "http://example.com:5000/v2/ any"];
            assert_eq!(ways("example.com:5000", &[leave]), both);
        }
        assert_eq!(ways("10.1.2.3:5000", &["10.0.0.0/8"]).len(), 2);
        assert_eq!(ways("11.1.2.3:5000", &["10.0.0.0/8"]).len(), 1);
        assert_eq!(ways("11.1.2.3:5000", &["0.0.0.0/0"]).len(), 2);
        assert_eq!(ways("localhost.example.com", &[]).len(), 1);
        assert_eq!(ways("127.0.0.1.example.com", &[]).len(), 1);
    }
}
