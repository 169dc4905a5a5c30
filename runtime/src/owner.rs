//! Who made a cgroup or a file, in its name: a later run sees whether that process still lives.
//!
//! `slipway-ID.PIDNS.PID.START`: the PID namespace's inode, the process, and when that process started.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

/// A process that will never be mistaken for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    namespace: u64,
    pid: u32,
    start: u64,
}

const PREFIX: &str = "slipway-";

impl Owner {
    /// This process.
    pub(crate) fn this() -> Owner {
        static THIS: OnceLock<Owner> = OnceLock::new();
        *THIS.get_or_init(|| {
            let pid = std::process::id();
            let namespace = std::fs::metadata("/proc/self/ns/pid").map_or(0, |metadata| metadata.ino());
            Owner { namespace, pid, start: start_time(pid).unwrap_or(0) }
        })
    }

    /// The owner in a text that [`Owner::text`] gave.
    pub(crate) fn parse(text: &str) -> Option<Owner> {
        let mut parts = text.split('.');
        let owner = Owner {
            namespace: parts.next()?.parse().ok()?,
            pid: parts.next()?.parse().ok()?,
            start: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(owner)
    }

    /// The owner as text.
    pub(crate) fn text(self) -> String {
        format!("{}.{}.{}", self.namespace, self.pid, self.start)
    }

    /// Whether the process is surely dead. One of another PID namespace cannot be seen from here.
    pub(crate) fn is_dead(self) -> bool {
        self.namespace == Owner::this().namespace && start_time(self.pid) != Some(self.start)
    }
}

/// When a process started, in the kernel's ticks; none if there is no such process, or it is a zombie.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything, a parenthesis too.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Returns a name for what belongs to this process and to something with this ID: [`sweep`](crate::sweep) knows by it
/// when its owner is dead.
pub fn name(id: &str) -> String {
    format!("{PREFIX}{id}.{}", Owner::this().text())
}

/// Whether this is a name that [`name`] gave.
pub(crate) fn is_ours(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(PREFIX))
}

/// Whether this is the name of something of ours whose owner is dead.
pub(crate) fn is_stale(name: &OsStr) -> bool {
    let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { return false };
    // The id may contain dots.
    let Some((third_last, _)) = rest.rmatch_indices('.').nth(2) else { return false };
    Owner::parse(&rest[third_last + 1..]).is_some_and(Owner::is_dead)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_process_made_is_not_stale() {
        assert!(!is_stale(OsStr::new(&name("some.id"))));
    }

    #[test]
    fn what_a_dead_process_of_this_namespace_made_is_stale() {
        let Owner { namespace, pid, start } = Owner::this();
        let stale = |namespace, pid, start| is_stale(OsStr::new(&format!("slipway-a.b.{namespace}.{pid}.{start}")));
        assert!(stale(namespace, pid, start + 1));
        assert!(stale(namespace, u32::MAX, start));
        assert!(!stale(namespace + 1, pid, start + 1));
        assert!(!is_stale(OsStr::new("slipway-x")));
        assert!(!is_stale(OsStr::new("system.slice")));
    }
}
