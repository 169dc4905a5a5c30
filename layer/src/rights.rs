//! What this process may do to files that only root may do, which depends on whose root it is.

use oci::IdRange;
use std::sync::OnceLock;

/// Whether files can be given to other users: root can, but not one that has nobody else around.
pub fn gives_owners() -> bool {
    rustix::process::geteuid().is_root() && map().others
}

/// Whether this is the root of the machine: that of a user namespace can set no `trusted` attributes, and owns no more
/// than some user does.
pub fn is_machine_root() -> bool {
    rustix::process::geteuid().is_root() && map().whole
}

/// Who there is in this user namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Map {
    /// Everybody on the machine.
    whole: bool,
    /// Somebody beside root.
    others: bool,
}

fn map() -> Map {
    static MAP: OnceLock<Map> = OnceLock::new();
    // A machine without user namespaces has one for all.
    *MAP.get_or_init(|| parse(&std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default()))
}

fn parse(text: &str) -> Map {
    let ranges = IdRange::parse_all(text);
    let whole = ranges.is_empty() || ranges == [IdRange::EVERYBODY];
    let others = whole || ranges.len() > 1 || ranges.iter().any(|range| range.size > 1);
    Map { whole, others }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_tell_who_there_is() {
        for (text, whole, others) in [
            ("         0          0 4294967295\n", true, true),
            ("", true, true),
            ("         0       1001          1\n", false, false),
            ("         0       1001          1\n         1     100000      65536\n", false, true),
            ("         0     100000      65536\n", false, true),
        ] {
            assert_eq!(parse(text), Map { whole, others }, "{text}");
        }
    }
}
