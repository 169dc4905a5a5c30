//! The texts of `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` in a container.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

/// Resolvers for a container when the host's are all on the host's loopback.
const PUBLIC_RESOLVERS: [&str; 2] = ["8.8.8.8", "8.8.4.4"];

/// Returns the text of `/etc/hosts`: localhost, the container's own name at its addresses, and what the user adds.
pub fn hosts(hostname: &str, addresses: &[IpAddr], extra: &[(String, IpAddr)]) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    let own = addresses.iter().map(|address| (hostname, *address)).filter(|(name, _)| !name.is_empty());
    for (name, address) in own.chain(extra.iter().map(|(name, address)| (name.as_str(), *address))) {
        writeln!(text, "{address}\t{name}").expect("a String takes everything");
    }
    text
}

/// Returns the text of `/etc/hostname`.
pub fn hostname(hostname: &str) -> String {
    format!("{hostname}\n")
}

/// What takes the place of the host's own words in `/etc/resolv.conf`, where it is not empty.
#[derive(Clone, Debug, Default)]
pub struct Resolving {
    /// Name servers.
    pub servers: Vec<String>,
    /// Domains to search; a lone `.` is none.
    pub search: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

/// Returns the text of `/etc/resolv.conf`, made from the host's.
///
/// In a network of its own a container can reach neither resolvers on the host's loopback nor any by
/// IPv6, so those are left out, and public ones (8.8.8.8, 8.8.4.4) take their place when none is left.
pub fn resolv_conf(host: &str, host_network: bool, asked: &Resolving) -> String {
    if host_network && asked.servers.is_empty() && asked.search.is_empty() && asked.options.is_empty() {
        return host.to_owned();
    }
    let mut text = String::new();
    let mut resolvers = 0;
    for line in host.lines() {
        let mut words = line.split_whitespace();
        let replaced = match words.next() {
            Some("nameserver") => {
                let replaced = !asked.servers.is_empty() || !host_network && words.next().is_none_or(is_out_of_reach);
                resolvers += usize::from(!replaced);
                replaced
            }
            Some("search" | "domain") => !asked.search.is_empty(),
            Some("options") => !asked.options.is_empty(),
            _ => false,
        };
        if !replaced {
            text.push_str(line);
            text.push('\n');
        }
    }
    let mut add = |word: &str, values: &str| writeln!(text, "{word} {values}").expect("a String takes everything");
    asked.servers.iter().for_each(|server| add("nameserver", server));
    if resolvers == 0 && asked.servers.is_empty() && !host_network {
        PUBLIC_RESOLVERS.iter().for_each(|resolver| add("nameserver", resolver));
    }
    if !asked.search.is_empty() && asked.search != ["."] {
        add("search", &asked.search.join(" "));
    }
    if !asked.options.is_empty() {
        add("options", &asked.options.join(" "));
    }
    text
}

/// Returns the name servers that a text of `/etc/resolv.conf` names, as this machine reaches them; public ones when it
/// names none.
pub fn name_servers(text: &str) -> Vec<IpAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and(words.next())?;
        address.parse().ok()
    });
    let servers: Vec<_> = servers.collect();
    match servers.is_empty() {
        true => PUBLIC_RESOLVERS.iter().filter_map(|address| address.parse().ok()).collect(),
        false => servers,
    }
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
        assert_eq!(resolv_conf(host, false, &Resolving::default()), expected);
        assert_eq!(resolv_conf(host, true, &Resolving::default()), host);
        assert_eq!(name_servers(host), ["127.0.0.53", "::1"].map(|address| address.parse::<IpAddr>().unwrap()));
        assert_eq!(name_servers("search x\n").len(), 2);
    }

    #[test]
    fn a_resolver_that_can_be_reached_is_kept_alone() {
        let host = "nameserver 127.0.0.1\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\nnameserver 2001:db8::1\nnameserver nonsense\n";
        assert_eq!(resolv_conf(host, false, &Resolving::default()), "nameserver 10.0.0.1\n");
    }

    #[test]
    fn what_was_asked_for_takes_the_place_of_the_hosts_words() {
        let host = "nameserver 10.0.0.1\nsearch lan\noptions edns0\n";
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        let asked = |servers, search, options| Resolving {
            servers: words(servers),
            search: words(search),
            options: words(options),
        };
        let text = resolv_conf(host, false, &asked("127.0.0.11", "", "ndots:0"));
        assert_eq!(text, "search lan\nnameserver 127.0.0.11\noptions ndots:0\n");
        let text = resolv_conf(host, true, &asked("", "a.example b.example", ""));
        assert_eq!(text, "nameserver 10.0.0.1\noptions edns0\nsearch a.example b.example\n");
        assert_eq!(resolv_conf(host, false, &asked("", ".", "")), "nameserver 10.0.0.1\noptions edns0\n");
    }

    #[test]
    fn hosts_name_the_container_and_what_the_user_adds() {
        let address = "172.30.0.2".parse().unwrap();
        let text = hosts("box", &[address], &[("db".to_owned(), "10.0.0.9".parse().unwrap())]);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n::1\tlocalhost "), "{text}");
        assert!(text.ends_with("172.30.0.2\tbox\n10.0.0.9\tdb\n"), "{text}");
        assert!(!hosts("box", &[], &[]).contains("box"));
    }
}
