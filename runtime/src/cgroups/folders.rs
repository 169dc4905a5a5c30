//! The cgroup of a container that another process started: who is in it, freezing, new limits, and its end.

use super::hierarchy::{self, Hierarchy, Version};
use super::{LimitError, remove_folder, v1, v2, write};
use crate::start_error::{StartError, Warning};
use crate::{owner, rootless};
use oci_spec::runtime::LinuxResources;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The folders of a container's cgroup, one in each hierarchy; they can be written down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupFolders {
    paths: Vec<PathBuf>,
}

/// The interface that a folder is of.
pub(super) fn version(path: &Path) -> Version {
    // The file is in every v2 cgroup, and in no other.
    if path.join("cgroup.controllers").exists() { Version::Two } else { Version::One }
}

/// How long the kernel may take to stop every process of a cgroup.
const FREEZE_TRIES: u32 = 1000;
const FREEZE_PAUSE: Duration = Duration::from_millis(2);

impl CgroupFolders {
    /// Takes folders that were written down.
    pub fn new(paths: Vec<PathBuf>) -> CgroupFolders {
        CgroupFolders { paths }
    }

    /// The folders that a process is in, of those that limit something.
    ///
    /// A folder in which a process is together with this one is nobody's own, and left out.
    pub fn of_process(pid: u32) -> io::Result<CgroupFolders> {
        let theirs = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let places = hierarchy::with_own_of(&theirs, &hierarchy::ALL);
        let ours = hierarchy::of_this_process(&hierarchy::ALL);
        let own = |place: &Hierarchy| place.mount_point.join(&place.own);
        let shared = |place: &Hierarchy| ours.iter().any(|our| own(our) == own(place));
        // A plain user's container mostly has none, and is where the command was that started it.
        let named = |place: &Hierarchy| place.own.file_name().is_some_and(owner::is_ours);
        let is_own = |place: &&Hierarchy| {
            !place.own.as_os_str().is_empty() && !shared(place) && (rootless::world().is_none() || named(place))
        };
        Ok(CgroupFolders { paths: places.iter().filter(is_own).map(own).collect() })
    }

    /// Where they are.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Whether any of them is still there.
    pub fn exist(&self) -> bool {
        self.paths.iter().any(|path| path.is_dir())
    }

    /// The processes in it, and in cgroups that the container made below.
    pub fn processes(&self) -> Vec<u32> {
        // One hierarchy tells of all; which one a container kept to itself is known by its being there.
        let mut processes = Vec::new();
        if let Some(path) = self.with_controller("pids").or_else(|| self.paths.iter().find(|path| path.is_dir())) {
            collect(path, &mut processes);
        }
        processes.sort_unstable();
        processes.dedup();
        processes
    }

    /// Sends a signal to every process in it. Nobody is forgotten who is born meanwhile.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        if signal == libc::SIGKILL
            && let Some(path) = self.paths.iter().find(|path| path.join("cgroup.kill").exists())
            && self.paths.len() == 1
        {
            return write(path, "cgroup.kill", "1").map_err(|error| error.source);
        }
        // Frozen processes make no others; where there is no freezer, they are asked again.
        let frozen = !self.is_frozen() && self.freeze(true).is_ok();
        for pid in self.processes() {
            if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
                // SAFETY: no memory is involved. It fails when the process is gone, and then there is nothing to signal.
                unsafe { libc::kill(pid.as_raw_nonzero().get(), signal) };
            }
        }
        if frozen { self.freeze(false) } else { Ok(()) }
    }

    /// Whether its processes are stopped.
    pub fn is_frozen(&self) -> bool {
        let read = |path: &Path, file: &str| std::fs::read_to_string(path.join(file)).unwrap_or_default();
        self.paths
            .iter()
            .any(|path| read(path, "freezer.state").trim() == "FROZEN" || read(path, "cgroup.freeze").trim() == "1")
    }

    /// Stops all processes in it, or lets them go on.
    pub fn freeze(&self, frozen: bool) -> io::Result<()> {
        let (file, word) = match (self.with_file("freezer.state"), self.with_file("cgroup.freeze")) {
            (Some(path), _) => ((path, "freezer.state"), if frozen { "FROZEN" } else { "THAWED" }),
            (None, Some(path)) => ((path, "cgroup.freeze"), if frozen { "1" } else { "0" }),
            (None, None) => {
                // A plain user mostly may make no cgroups.
                let reason = "the container has no cgroup with a freezer";
                return Err(io::Error::new(io::ErrorKind::Unsupported, reason));
            }
        };
        let (path, name) = file;
        for _ in 0..FREEZE_TRIES {
            // v1 may miss processes that are just being made, and wants to be told again.
            write(path, name, word).map_err(|error| error.source)?;
            let (state, wanted) = match name {
                "freezer.state" => (std::fs::read_to_string(path.join(name))?, word.to_owned()),
                _ => {
                    let events = std::fs::read_to_string(path.join("cgroup.events"))?;
                    let frozen = events.lines().find_map(|line| line.strip_prefix("frozen "));
                    (frozen.unwrap_or(word).to_owned(), word.to_owned())
                }
            };
            if state.trim() == wanted {
                return Ok(());
            }
            std::thread::sleep(FREEZE_PAUSE);
        }
        if frozen {
            // It failed as a whole, so nobody stays stopped.
            write(path, name, if name == "freezer.state" { "THAWED" } else { "0" }).map_err(|error| error.source)?;
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel does not stop every process"))
    }

    /// Sets limits anew; those that are not named stay. What this machine cannot do becomes a warning.
    pub fn limit(&self, resources: &LinuxResources) -> Result<Vec<Warning>, StartError> {
        let hierarchies = hierarchy::of_this_process(&hierarchy::ALL);
        let mut warnings = Vec::new();
        for path in &self.paths {
            let of = |hierarchy: &&Hierarchy| path.starts_with(&hierarchy.mount_point);
            let Some(hierarchy) =
                hierarchies.iter().filter(of).max_by_key(|hierarchy| hierarchy.mount_point.components().count())
            else {
                continue;
            };
            let limited = match hierarchy.version {
                Version::One => v1::limit(path, hierarchy, resources, &mut warnings),
                Version::Two => v2::limit(path, resources, &mut warnings),
            };
            limited.map_err(LimitError::into_start_error)?;
        }
        Ok(warnings)
    }

    /// Removes the folders, in which nobody may be any more. Gives whether all are gone.
    pub fn remove(&self) -> bool {
        // Each is tried, also when one stays.
        self.paths.iter().filter(|path| !remove_folder(path)).count() == 0
    }

    fn with_file(&self, file: &str) -> Option<&Path> {
        self.paths.iter().map(PathBuf::as_path).find(|path| path.join(file).exists())
    }

    fn with_controller(&self, controller: &str) -> Option<&PathBuf> {
        let file = format!("{controller}.max");
        self.paths.iter().find(|path| path.join(&file).exists())
    }
}

fn collect(folder: &Path, processes: &mut Vec<u32>) {
    let text = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    processes.extend(text.lines().filter_map(|line| line.trim().parse::<u32>().ok()).filter(|&pid| pid != 0));
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), processes);
        }
    }
}
