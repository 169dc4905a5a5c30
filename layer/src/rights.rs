//! What this process may do to files that only root may do, which depends on whose root it is.

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
    let lines: Vec<Vec<u32>> =
        text.lines().map(|line| line.split_whitespace().filter_map(|number| number.parse().ok()).collect()).collect();
    let whole = lines.is_empty() || lines == [vec![0, 0, u32::MAX]];
    let others = whole || lines.len() > 1 || lines.iter().any(|line| line.get(2).is_some_and(|&size| size > 1));
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
