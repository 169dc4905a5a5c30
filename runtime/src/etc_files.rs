//! The texts of `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` in a container.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

/// Resolvers for a container when the host's are all on the host's loopback.
const PUBLIC_RESOLVERS: [&str; 2] = ["8.8.8.8", "8.8.4.4"];

/// Returns the text of `/etc/hosts`: localhost, the container's own name, and what the user adds.
pub fn hosts(hostname: &str, address: Option<IpAddr>, extra: &[(String, IpAddr)]) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    let own = address.map(|address| (hostname, address)).filter(|(name, _)| !name.is_empty());
    for (name, address) in own.into_iter().chain(extra.iter().map(|(name, address)| (name.as_str(), *address))) {
        writeln!(text, "{address}\t{name}").expect("a String takes everything");
    }
    text
}

/// Returns the text of `/etc/hostname`.
pub fn hostname(hostname: &str) -> String {
    format!("{hostname}\n")
}

/// Returns the text of `/etc/resolv.conf`, made from the host's.
///
/// In a network of its own a container can reach neither resolvers on the host's loopback nor any by
/// IPv6, so those are left out, and public ones (8.8.8.8, 8.8.4.4) take their place when none is left.
pub fn resolv_conf(host: &str, host_network: bool) -> String {
    if host_network {
        return host.to_owned();
    }
    let mut text = String::new();
    let mut resolvers = 0;
    for line in host.lines() {
        let mut words = line.split_whitespace();
        if words.next() == Some("nameserver") {
            if words.next().is_none_or(is_out_of_reach) {
                continue;
            }
            resolvers += 1;
        }
        text.push_str(line);
        text.push('\n');
    }
    if resolvers == 0 {
        for resolver in PUBLIC_RESOLVERS {
            writeln!(text, "nameserver {resolver}").expect("a String takes everything");
        }
    }
    text
}

/// Whether a resolver is on the loopback, not an address, or of IPv6, which the bridge does not have.
fn is_out_of_reach(resolver: &str) -> bool {
    resolver.parse().map_or(true, |address: Ipv4Addr| address.is_loopback() || address.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_on_the_loopback_are_replaced_by_public_ones() {
        let host = "# systemd\nnameserver 127.0.0.53\nnameserver ::1\noptions edns0\nsearch lan\n";
        let expected = "# systemd\noptions edns0\nsearch lan\nnameserver 8.8.8.8\nnameserver 8.8.4.4\n";
        assert_eq!(resolv_conf(host, false), expected);
        assert_eq!(resolv_conf(host, true), host);
    }

    #[test]
    fn a_resolver_that_can_be_reached_is_kept_alone() {
        let host = "nameserver 127.0.0.1\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\nnameserver 2001:db8::1\nnameserver nonsense\n";
        assert_eq!(resolv_conf(host, false), "nameserver 10.0.0.1\n");
    }

    #[test]
    fn hosts_name_the_container_and_what_the_user_adds() {
        let address = "172.30.0.2".parse().unwrap();
        let text = hosts("box", Some(address), &[("db".to_owned(), "10.0.0.9".parse().unwrap())]);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n::1\tlocalhost "), "{text}");
        assert!(text.ends_with("172.30.0.2\tbox\n10.0.0.9\tdb\n"), "{text}");
        assert!(!hosts("box", None, &[]).contains("box"));
    }
}
