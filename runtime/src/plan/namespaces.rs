//! Which namespaces a container gets: which the kernel makes, which are joined, and in how many processes.

use crate::start_error::StartError;
use crate::user_namespace::{self, IdMaps};
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::fs::{Mode, OFlags};
use std::collections::HashSet;
use std::fmt::Write as _;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

/// How the child gets into its namespaces.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    /// Namespaces that are there, to join.
    pub(crate) joins: Vec<Join>,
    /// What the numbers of users are in a new user namespace.
    pub(crate) new_user: Option<IdMaps>,
    /// What to write to `timens_offsets`, if there is a new time namespace.
    pub(crate) time: Option<Vec<u8>>,
    /// Whether a process in between enters namespaces that only its children can be in.
    pub(crate) stage: bool,
}

/// A namespace to join, or those of a process.
#[derive(Debug)]
pub(crate) struct Join {
    /// The namespace, or a handle of the process.
    pub(crate) handle: OwnedFd,
    /// `CLONE_NEWPID` and its like.
    pub(crate) kinds: i32,
    /// What the user called it.
    pub(crate) name: String,
}

impl Entry {
    /// Whether the program is in another user namespace than this process.
    pub(crate) fn other_user(&self) -> bool {
        self.new_user.is_some() || self.joins.iter().any(|join| join.kinds & libc::CLONE_NEWUSER != 0)
    }

    /// Whether it goes to a time namespace that is there.
    pub(crate) fn joins_clocks(&self) -> bool {
        self.joins.iter().any(|join| join.kinds & CLONE_NEWTIME != 0)
    }

    /// Whether the program is in another namespace of a kind than this process: a new one, or one that it joins.
    pub(crate) fn has(&self, kind: i32, made: u64) -> bool {
        made & kind as u32 as u64 != 0 || self.joins.iter().any(|join| join.kinds & kind != 0)
    }

    /// Whether the child waits to have its users mapped.
    pub(crate) fn waits_for_ids(&self) -> bool {
        self.new_user.is_some()
    }
}

/// Works out how to get into the namespaces of a spec, and what `clone` makes of them.
pub(super) fn plan_namespaces(spec: &Spec) -> Result<(Entry, u64), StartError> {
    let bad = |what: String| StartError::BadSpec { what };
    let mut entry = Entry::default();
    let mut made = 0u64;
    let mut seen = HashSet::new();
    let linux = spec.linux().as_ref();
    for namespace in linux.and_then(|linux| linux.namespaces().as_ref()).into_iter().flatten() {
        let kind = flag(namespace.typ());
        if !seen.insert(kind) {
            return Err(bad(format!("the spec has two {} namespaces", namespace.typ())));
        }
        match namespace.path().as_deref().filter(|path| !path.as_os_str().is_empty()) {
            Some(path) => entry.joins.extend(open(path, kind)?),
            None => made |= kind as u32 as u64,
        }
    }
    if !seen.contains(&libc::CLONE_NEWNS) {
        return Err(bad("the spec has no mount namespace".to_owned()));
    }
    let new = |kind: i32| made & kind as u32 as u64 != 0;
    let maps = user_namespace::maps_of_spec(spec)?;
    match (new(libc::CLONE_NEWUSER), maps) {
        (true, Some(maps)) => entry.new_user = Some(maps),
        (true, None) => return Err(bad("a new user namespace needs `uidMappings` and `gidMappings`".to_owned())),
        (false, _) => {}
    }
    let offsets = linux.and_then(|linux| linux.time_offsets().as_ref()).filter(|offsets| !offsets.is_empty());
    if new(CLONE_NEWTIME) {
        let mut text = String::new();
        for (clock, offset) in offsets.into_iter().flatten() {
            if !matches!(clock.as_str(), "monotonic" | "boottime") {
                return Err(bad(format!("a time namespace has no clock `{clock}`")));
            }
            writeln!(text, "{clock} {} {}", offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0))
                .expect("a String takes everything");
        }
        entry.time = Some(text.into_bytes());
    } else if offsets.is_some() {
        return Err(bad("`timeOffsets` need a new time namespace".to_owned()));
    }
    entry.stage = entry.time.is_some()
        || entry.joins.iter().any(|join| join.kinds & (libc::CLONE_NEWPID | libc::CLONE_NEWUSER | CLONE_NEWTIME) != 0)
        || (entry.new_user.is_some() && !entry.joins.is_empty());
    // It is made by the process in between.
    made &= !(CLONE_NEWTIME as u64);
    Ok((entry, made))
}

/// libc has it for clone3 alone.
pub(crate) const CLONE_NEWTIME: i32 = 0x80;

/// The kernel's bit for a kind.
pub(crate) fn flag(kind: LinuxNamespaceType) -> i32 {
    match kind {
        LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
        LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
        LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
        LinuxNamespaceType::Network => libc::CLONE_NEWNET,
        LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
        LinuxNamespaceType::User => libc::CLONE_NEWUSER,
        LinuxNamespaceType::Time => CLONE_NEWTIME,
    }
}

/// Opens a namespace to join; none when this process is in it already, as then it is the host's.
fn open(path: &Path, kind: i32) -> Result<Option<Join>, StartError> {
    let failed = |source: rustix::io::Errno| StartError::Setup {
        what: format!("namespace `{}`", path.display()),
        source: source.into(),
    };
    let handle = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    // So that a wrong path is told as such, and not as something that failed in the child.
    let nsfs = rustix::fs::fstatfs(&handle).map_err(failed)?.f_type;
    const NSFS_MAGIC: i64 = 0x6e73_6673;
    const NS_GET_NSTYPE: u32 = 0xb703;
    let bad = |what| StartError::BadSpec { what: format!("`{}` is not a namespace{what}", path.display()) };
    if nsfs as i64 != NSFS_MAGIC {
        return Err(bad(""));
    }
    let found = crate::sys::ioctl(handle.as_raw_fd(), NS_GET_NSTYPE, 0);
    if found.is_ok_and(|found| found as i32 != kind) {
        return Err(bad(" of that type"));
    }
    let own = OF_PROCESS.iter().find(|(_, known)| *known == kind).map(|(name, _)| format!("/proc/self/ns/{name}"));
    let identity = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
    let same = own.is_some_and(|own| {
        let own = rustix::fs::stat(own).map(identity);
        own.is_ok() && own == rustix::fs::fstat(&handle).map(identity)
    });
    Ok((!same).then(|| Join { handle, kinds: kind, name: path.display().to_string() }))
}

/// The kinds of namespaces of a process, with their names below `/proc/PID/ns`.
const OF_PROCESS: [(&str, i32); 8] = [
    ("user", libc::CLONE_NEWUSER),
    ("mnt", libc::CLONE_NEWNS),
    ("uts", libc::CLONE_NEWUTS),
    ("ipc", libc::CLONE_NEWIPC),
    ("pid", libc::CLONE_NEWPID),
    ("net", libc::CLONE_NEWNET),
    ("cgroup", libc::CLONE_NEWCGROUP),
    ("time", CLONE_NEWTIME),
];

/// Works out how to get into all namespaces that a process has and this one has not.
pub(crate) fn entry_into(pid: u32, handle: OwnedFd) -> Result<Entry, StartError> {
    let mut kinds = 0;
    for (name, kind) in OF_PROCESS {
        let link = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/{name}"));
        let theirs = link(&pid.to_string())
            .map_err(|source| StartError::Setup { what: format!("namespaces of process {pid}"), source });
        match (theirs, link("self")) {
            (Ok(theirs), Ok(own)) if theirs != own => kinds |= kind,
            (Ok(_), _) => {}
            // A kernel without time namespaces.
            (Err(_), Err(_)) => {}
            (Err(error), Ok(_)) => return Err(error),
        }
    }
    let joins = if kinds == 0 { Vec::new() } else { vec![Join { handle, kinds, name: format!("process {pid}") }] };
    Ok(Entry { joins, stage: kinds & (libc::CLONE_NEWPID | libc::CLONE_NEWUSER) != 0, ..Entry::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    fn planned(linux: Value) -> Result<(Entry, u64), String> {
        let spec = serde_json::from_value(json!({"ociVersion": "1.2.0", "linux": linux})).unwrap();
        plan_namespaces(&spec).map_err(|error| error.to_string())
    }

    #[rstest]
    #[case(json!({"namespaces": [{"type": "pid"}]}), "the spec has no mount namespace")]
    #[case(json!({"namespaces": [{"type": "mount"}, {"type": "mount"}]}), "the spec has two mnt namespaces")]
    #[case(json!({"namespaces": [{"type": "mount"}, {"type": "user"}]}), "a new user namespace needs `uidMappings` and `gidMappings`")]
    #[case(json!({"namespaces": [{"type": "mount"}], "timeOffsets": {"monotonic": {"secs": 1}}}), "`timeOffsets` need a new time namespace")]
    #[case(json!({"namespaces": [{"type": "mount"}, {"type": "time"}], "timeOffsets": {"realtime": {"secs": 1}}}), "a time namespace has no clock `realtime`")]
    #[case(json!({"namespaces": [{"type": "mount"}, {"type": "network", "path": "/proc/self/maps"}]}), "`/proc/self/maps` is not a namespace")]
    #[case(json!({"namespaces": [{"type": "mount"}, {"type": "network", "path": "/proc/self/ns/ipc"}]}), "`/proc/self/ns/ipc` is not a namespace of that type")]
    fn namespaces_that_make_no_sense_are_refused(#[case] linux: Value, #[case] message: &str) {
        assert_eq!(planned(linux).map(drop), Err(message.to_owned()));
    }

    #[test]
    fn a_process_in_between_is_made_only_where_the_kernel_asks_for_one() {
        let stage = |linux| planned(linux).unwrap().0.stage;
        assert!(!stage(json!({"namespaces": [{"type": "mount"}, {"type": "pid"}]})));
        // Where this process is already, there is nothing to join.
        assert!(!stage(json!({"namespaces": [{"type": "mount"}, {"type": "pid", "path": "/proc/self/ns/pid"}]})));
        assert!(stage(json!({"namespaces": [{"type": "mount"}, {"type": "time"}]})));
        let maps = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
        let namespaces = json!([{"type": "mount"}, {"type": "user"}]);
        assert!(!stage(json!({"namespaces": namespaces, "uidMappings": maps, "gidMappings": maps})));
    }
}
