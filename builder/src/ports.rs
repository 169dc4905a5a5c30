//! What `EXPOSE` accepts, and `STOPSIGNAL`.

use std::net::IpAddr;

use crate::fault::Fault;

/// Returns the ports, as `number/protocol`, that a word of `EXPOSE` means: `80`, `80/udp`, `8000-8010`, and the
/// `[address:]host:container` that `--publish` has, of which only the container's ports count.
pub(crate) fn parse(word: &str) -> Result<Vec<String>, Fault> {
    let (ports, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
    let protocol = if protocol.is_empty() { "tcp".to_owned() } else { protocol.to_lowercase() };
    let (rest, container) = ports.rsplit_once(':').unwrap_or(("", ports));
    if container.is_empty() {
        return Err(Fault::new(format!("no port specified: {word}<empty>")));
    }
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err(Fault::new(format!("invalid proto: {protocol}")).hint("protocols are tcp, udp and sctp"));
    }
    let range = range(container).ok_or_else(|| Fault::new(format!("invalid containerPort: {container}")))?;
    let (address, host) = rest.rsplit_once(':').unwrap_or(("", rest));
    let address = address.trim_start_matches('[').trim_end_matches(']');
    if !address.is_empty() && address.parse::<IpAddr>().is_err() {
        return Err(Fault::new(format!("invalid IP address: {address}")));
    }
    if !host.is_empty() {
        let host_range = self::range(host).ok_or_else(|| Fault::new(format!("invalid hostPort: {host}")))?;
        if range.clone().count() != host_range.count() && range.clone().count() != 1 {
            return Err(Fault::new(format!(
                "invalid ranges specified for container and host Ports: {container} and {host}"
            )));
        }
    }
    Ok(range.map(|port| format!("{port}/{protocol}")).collect())
}

fn range(text: &str) -> Option<std::ops::RangeInclusive<u16>> {
    let number =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u16>().ok()).flatten();
    let (start, end) = text.split_once('-').unwrap_or((text, text));
    let (start, end) = (number(start)?, number(end)?);
    (start <= end).then_some(start..=end)
}

const SIGNALS: &[&str] = &[
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL",
    "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1",
    "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
];

/// Refuses what is no signal's name or number.
pub(crate) fn check_signal(text: &str) -> Result<(), Fault> {
    let invalid = || {
        Fault::new(format!("invalid signal: {text}"))
            .hint("a signal is a number or a name such as SIGTERM or SIGRTMIN+3")
    };
    if let Ok(number) = text.parse::<i32>() {
        return if number == 0 { Err(invalid()) } else { Ok(()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |name: &str| -> Option<i32> {
        match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
            (Some(""), _) | (_, Some("")) => Some(0),
            (Some(more), _) => more.strip_prefix('+')?.parse().ok().filter(|more| (1..=30).contains(more)),
            (_, Some(less)) => less.strip_prefix('-')?.parse().ok().filter(|less| (1..=30).contains(less)),
            _ => None,
        }
    };
    if SIGNALS.contains(&name) || real_time(name).is_some() { Ok(()) } else { Err(invalid()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m7_ports_are_what_docker_takes() {
        for (word, expected) in [
            ("80", Some("80/tcp")),
            ("443/TCP", Some("443/tcp")),
            ("0", Some("0/tcp")),
            ("8000-8002/udp", Some("8000/udp 8001/udp 8002/udp")),
            ("127.0.0.1:80:90", Some("90/tcp")),
            ("80:90", Some("90/tcp")),
            ("[::1]:80:90/sctp", Some("90/sctp")),
            ("x", None),
            ("99999", None),
            ("80/icmp", None),
            ("9-8", None),
            ("300.0.0.1:80:90", None),
            ("80:", None),
            ("", None),
        ] {
            assert_eq!(parse(word).ok().map(|ports| ports.join(" ")).as_deref(), expected, "{word}");
        }
    }

    #[test]
    fn m9_signals_are_names_or_numbers() {
        for signal in ["9", "SIGTERM", "term", "SIGRTMIN+3", "RTMAX-2", "SIGRTMIN", "64"] {
            assert!(check_signal(signal).is_ok(), "{signal}");
        }
        for signal in ["", "NOPE", "0", "SIGRTMIN+99", "SIG", "RTMIN-1"] {
            assert!(check_signal(signal).is_err(), "{signal}");
        }
    }
}
