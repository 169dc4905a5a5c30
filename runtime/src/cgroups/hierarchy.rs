//! Which cgroup hierarchies this process can see, and where it is in them.

use crate::rootless;
use std::path::{Path, PathBuf};

/// The interface of a hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// One hierarchy for a few controllers.
    One,
    /// One hierarchy for all.
    Two,
}

/// A mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub(super) version: Version,
    pub(super) mount_point: PathBuf,
    /// What it limits: `memory`, `pids`…
    pub(super) controllers: Vec<String>,
    /// This process's own cgroup, relative to the mount point.
    pub(super) own: PathBuf,
}

/// The v1 controllers that a container is put into.
pub(super) const USUAL: [&str; 8] = ["blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids"];

/// All that a spec can say something about.
pub(super) const ALL: [&str; 14] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "name=systemd",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
    "rdma",
];

impl Hierarchy {
    /// Whether it has a controller.
    pub(super) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|other| other == controller)
    }

    /// The folder in which a container's cgroup is made.
    pub(super) fn base(&self, parent: Option<&str>) -> PathBuf {
        match (parent, self.version) {
            (Some(parent), _) => self.mount_point.join(crate::plan::in_root(Path::new(parent))),
            (None, Version::One) => self.mount_point.join(&self.own),
            (None, Version::Two) if rootless::world().is_some() => delegated(&self.mount_point, &self.own),
            (None, Version::Two) => self.mount_point.clone(),
        }
    }
}

/// The highest cgroup above a plain user's own that was given to them; the top when none was.
fn delegated(top: &Path, own: &Path) -> PathBuf {
    use std::os::unix::fs::MetadataExt;
    let user = rustix::process::geteuid().as_raw();
    let is_ours = |path: &PathBuf| std::fs::metadata(path.join("cgroup.procs")).is_ok_and(|found| found.uid() == user);
    let all: Vec<_> = own.ancestors().map(|ancestor| top.join(ancestor)).collect();
    all.into_iter().rev().skip(1).find(is_ours).unwrap_or_else(|| top.to_owned())
}

/// Returns the hierarchies that a container is put into.
pub(super) fn of_this_process(wanted: &[&str]) -> Vec<Hierarchy> {
    with_own_of(&std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default(), wanted)
}

/// Returns the same hierarchies as they are for another process, whose `/proc/PID/cgroup` is given.
pub(super) fn with_own_of(own: &str, wanted: &[&str]) -> Vec<Hierarchy> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    parse(wanted, &mounts, own, |mount_point| {
        std::fs::read_to_string(mount_point.join("cgroup.controllers")).unwrap_or_default()
    })
}

/// Finds hierarchies in the texts of `mountinfo` and `cgroup`.
pub(super) fn parse(
    wanted: &[&str],
    mounts: &str,
    own: &str,
    controllers_of: impl Fn(&Path) -> String,
) -> Vec<Hierarchy> {
    let mut hierarchies: Vec<Hierarchy> = Vec::new();
    for line in mounts.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let mut before = before.split(' ').skip(3);
        let (Some(root), Some(mount_point)) = (before.next(), before.next()) else { continue };
        let mut after = after.split(' ');
        let (kind, options) = (after.next(), after.nth(1).unwrap_or_default());
        let mount_point = PathBuf::from(unescape(mount_point));
        let (version, controllers) = match kind {
            Some("cgroup") => {
                let known = options.split(',').filter(|option| wanted.contains(option)).map(str::to_owned).collect();
                (Version::One, known)
            }
            Some("cgroup2") => {
                let text = controllers_of(&mount_point);
                (Version::Two, text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
            }
            _ => continue,
        };
        let again = hierarchies.iter().any(|other| other.version == version && other.controllers == controllers);
        if again || (version == Version::One && controllers.is_empty()) {
            continue;
        }
        let own = own_path(own, version, &controllers);
        let own = Path::new(own).strip_prefix(unescape(root)).unwrap_or(Path::new(""));
        hierarchies.push(Hierarchy { version, mount_point, controllers, own: own.to_path_buf() });
    }
    // On a hybrid machine the v2 tree limits nothing of ours, and joining it would only cost time.
    let any_v1 = hierarchies.iter().any(|hierarchy| hierarchy.version == Version::One);
    hierarchies.retain(|hierarchy| {
        hierarchy.version == Version::One || !any_v1 || USUAL.iter().any(|usual| hierarchy.has(usual))
    });
    hierarchies
}

/// Returns the path in the line for these controllers: `4:memory:/path`, or `0::/path` for v2.
fn own_path<'a>(own: &'a str, version: Version, controllers: &[String]) -> &'a str {
    let path = own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, names, path) = (parts.next()?, parts.next()?, parts.next()?);
        let matches = match version {
            Version::One => names.split(',').any(|name| controllers.iter().any(|controller| controller == name)),
            Version::Two => names.is_empty(),
        };
        // A path above the root of this cgroup namespace cannot be used.
        (matches && !path.starts_with("/..")).then_some(path)
    });
    path.unwrap_or("/")
}

/// Undoes what mountinfo does to spaces and the like.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
        31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
        32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n\
        40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn a_hybrid_machine_gives_its_v1_controllers_with_the_own_cgroup() {
        let own = "4:memory:/job/1\n2:cpu,cpuacct:/\n1:name=systemd:/x\n0::/\n";
        let found = parse(&USUAL, HYBRID, own, |_| "hugetlb\n".to_owned());
        let bases: Vec<_> = found.iter().map(|hierarchy| hierarchy.base(None)).collect();
        assert_eq!(bases, [Path::new("/sys/fs/cgroup/cpu,cpuacct"), Path::new("/sys/fs/cgroup/memory/job/1")]);
        assert_eq!(found[1].base(Some("/ci/../jobs")), Path::new("/sys/fs/cgroup/memory/jobs"));
    }

    #[test]
    fn a_machine_with_v2_alone_gives_the_top() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let found =
            parse(&USUAL, mounts, "0::/user.slice/user-0.slice\n", |_| "cpuset cpu io memory pids\n".to_owned());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].base(None), Path::new("/sys/fs/cgroup"));
        assert!(found[0].has("memory"));
    }

    #[test]
    fn inside_a_container_the_mount_starts_at_its_own_cgroup() {
        let mounts = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let found = parse(&USUAL, mounts, "4:memory:/docker/abc\n", |_| String::new());
        assert_eq!(found[0].base(None), Path::new("/sys/fs/cgroup/memory"));
    }

    #[test]
    fn a_plain_user_has_the_highest_cgroup_that_was_given_to_them() {
        let top = tempfile::tempdir().unwrap();
        let own = Path::new("user.slice/user@7.service/app.slice/x.scope");
        std::fs::create_dir_all(top.path().join(own)).unwrap();
        assert_eq!(delegated(top.path(), own), top.path());
        for given in ["user.slice/user@7.service/app.slice", "user.slice/user@7.service"] {
            std::fs::File::create(top.path().join(given).join("cgroup.procs")).unwrap();
            assert_eq!(delegated(top.path(), own), top.path().join(given));
        }
    }

    #[test]
    fn nonsense_gives_nothing() {
        assert!(parse(&USUAL, "a b c\n - cgroup\n1 2 3 - cgroup2\n", "::\n", |_| String::new()).is_empty());
    }
}
