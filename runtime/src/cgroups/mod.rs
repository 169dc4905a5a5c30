//! The container's cgroup: made before the clone, joined by the child, removed after the end.
//!
//! ```text
//! hierarchy.rs   which hierarchies this machine has: v1, v2 or both
//! v1.rs  v2.rs   what the limits of a spec are called there
//! devices.rs     the allow list of devices as a BPF program, for v2
//! folders.rs     the cgroup of a container that another process started
//! ```
//!
//! The cgroup is one folder `slipway-…` below this process's own cgroup (v1), so that limits above hold,
//! or below the top that is visible here (v2, which allows no processes in inner cgroups).

mod devices;
mod folders;
mod hierarchy;
mod v1;
mod v2;

pub use folders::CgroupFolders;

use crate::owner;
use crate::rootless;
use crate::start_error::{StartError, Warning};
use hierarchy::{Hierarchy, Version};
use oci_spec::runtime::{LinuxCpu, LinuxHugepageLimit, LinuxRdma, LinuxResources};
use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The cgroup of one container: a folder in each hierarchy.
#[derive(Debug, Default)]
pub(crate) struct Cgroups {
    places: Vec<Place>,
    joins: Vec<OwnedFd>,
    folder: Option<OwnedFd>,
    /// Whether the folders are somebody else's, and stay.
    borrowed: bool,
}

/// One folder.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    hierarchy: Hierarchy,
}

/// A cgroup hierarchy of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupHierarchy {
    /// 1 or 2.
    pub version: u32,
    /// What it limits.
    pub controllers: Vec<String>,
    /// Where containers' cgroups are made.
    pub base: PathBuf,
    /// Whether this process may make them.
    pub writable: bool,
}

/// The hierarchies that containers are put into.
pub(crate) fn hierarchies() -> Vec<CgroupHierarchy> {
    let describe = |hierarchy: Hierarchy| {
        // Without the slash that an empty path leaves at the end.
        let base: PathBuf = hierarchy.base(None).components().collect();
        let access =
            rustix::fs::accessat(rustix::fs::CWD, &base, rustix::fs::Access::WRITE_OK, rustix::fs::AtFlags::EACCESS);
        CgroupHierarchy {
            version: if hierarchy.version == Version::One { 1 } else { 2 },
            controllers: hierarchy.controllers,
            base,
            writable: access.is_ok(),
        }
    };
    hierarchy::of_this_process(&hierarchy::USUAL).into_iter().map(describe).collect()
}

/// A folder that shows the container its own cgroup.
#[derive(Debug)]
pub(crate) struct View {
    /// The hierarchy's name below `/sys/fs/cgroup`; none when there is only one.
    pub(crate) name: Option<PathBuf>,
    /// The folder.
    pub(crate) path: PathBuf,
    /// Where the hierarchy is mounted.
    pub(crate) top: PathBuf,
    /// Further names, of single controllers.
    pub(crate) links: Vec<String>,
}

/// How a limit could not be set.
#[derive(Debug)]
pub(crate) struct LimitError {
    pub(crate) limit: String,
    pub(crate) source: io::Error,
}

impl LimitError {
    fn into_start_error(self) -> StartError {
        StartError::Setup { what: format!("limit `{}`", self.limit), source: self.source }
    }
}

impl Cgroups {
    /// Makes a cgroup with the limits of `resources`. What this machine cannot do becomes a warning.
    pub(crate) fn create(
        id: &str,
        resources: Option<&LinuxResources>,
        parent: Option<&str>,
        warnings: &mut Vec<Warning>,
    ) -> Result<Cgroups, StartError> {
        let hierarchies = hierarchy::of_this_process(&hierarchy::USUAL);
        Cgroups::create_in(hierarchies, &owner::name(id), resources, parent, warnings)
    }

    /// Makes the cgroup at a path: an absolute one is below the top, another below this process's own. It may be
    /// there already, and then holds what is in it, too.
    pub(crate) fn create_at(
        path: &Path,
        resources: Option<&LinuxResources>,
        warnings: &mut Vec<Warning>,
    ) -> Result<Cgroups, StartError> {
        let inside = crate::plan::in_root(path);
        let (Some(parent), Some(name)) = (inside.parent(), inside.file_name().and_then(|name| name.to_str())) else {
            return Err(StartError::BadSpec { what: format!("`{}` is not a cgroup path", path.display()) });
        };
        let parent = path.is_absolute().then(|| parent.to_str()).flatten();
        let name = if path.is_absolute() { name } else { inside.to_str().unwrap_or(name) };
        let hierarchies = hierarchy::of_this_process(&hierarchy::ALL);
        Cgroups::create_in(hierarchies, name, resources, parent, warnings)
    }

    /// The cgroup of a container that runs already, to join it.
    pub(crate) fn to_join(folders: &CgroupFolders) -> Result<Cgroups, StartError> {
        let mut cgroups = Cgroups::default();
        cgroups.borrowed = true;
        for path in folders.paths() {
            cgroups.open(path, folders::version(path))?;
        }
        Ok(cgroups)
    }

    /// Leaves the folders where they are.
    pub(crate) fn leave(mut self) -> CgroupFolders {
        self.borrowed = true;
        self.folders()
    }

    /// Where they are.
    pub(crate) fn folders(&self) -> CgroupFolders {
        CgroupFolders::new(self.places.iter().map(|place| place.path.clone()).collect())
    }

    fn create_in(
        hierarchies: Vec<Hierarchy>,
        name: &str,
        resources: Option<&LinuxResources>,
        parent: Option<&str>,
        warnings: &mut Vec<Warning>,
    ) -> Result<Cgroups, StartError> {
        let mut cgroups = Cgroups::default();
        if hierarchies.is_empty() {
            warnings.push(Warning::NoCgroup { reason: "no cgroup hierarchy is mounted".to_owned() });
        }
        for hierarchy in hierarchies {
            let place = Place { path: hierarchy.base(parent).join(name), hierarchy };
            match place.make(resources, warnings) {
                Ok(()) => {}
                Err(error) => {
                    let reason = format!("`{}`: {error}", place.path.display());
                    // What is wrong with one hierarchy mostly is with all. A plain user mostly may make no cgroups, and
                    // wants to know only when they asked for limits.
                    let matters = rootless::world().is_none() || limits(resources);
                    if matters && !warnings.iter().any(|known| matches!(known, Warning::NoCgroup { .. })) {
                        warnings.push(Warning::NoCgroup { reason });
                    }
                    continue;
                }
            }
            // From here on, dropping `cgroups` removes the folder.
            cgroups.places.push(place);
            cgroups.limit_and_open(resources, warnings)?;
        }
        Ok(cgroups)
    }

    /// Sets the limits in the folder that was made last, and opens what joins it.
    fn limit_and_open(
        &mut self,
        resources: Option<&LinuxResources>,
        warnings: &mut Vec<Warning>,
    ) -> Result<(), StartError> {
        let Some(place) = self.places.last() else { return Ok(()) };
        let limited = match (resources, place.hierarchy.version) {
            (None, _) => Ok(()),
            (Some(resources), Version::One) => v1::limit(&place.path, &place.hierarchy, resources, warnings),
            (Some(resources), Version::Two) => v2::limit(&place.path, resources, warnings),
        };
        limited.map_err(LimitError::into_start_error)?;
        let (path, version) = (place.path.clone(), place.hierarchy.version);
        self.open(&path, version)
    }

    /// Opens what joins a folder.
    fn open(&mut self, path: &Path, version: Version) -> Result<(), StartError> {
        let opened = match version {
            Version::One => {
                let flags = OFlags::WRONLY | OFlags::CLOEXEC;
                rustix::fs::open(path.join("tasks"), flags, Mode::empty()).map(|join| self.joins.push(join))
            }
            Version::Two => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                rustix::fs::open(path, flags, Mode::empty()).map(|folder| self.folder = Some(folder))
            }
        };
        opened.map_err(|error| StartError::Setup { what: "open the cgroup".to_owned(), source: error.into() })
    }

    /// Files to write `0` to, so that the writing thread joins (v1).
    pub(crate) fn joins(&self) -> impl Iterator<Item = &OwnedFd> {
        self.joins.iter()
    }

    /// The folder to clone into (v2).
    pub(crate) fn folder(&self) -> Option<&OwnedFd> {
        self.folder.as_ref()
    }

    /// What the container sees below `/sys/fs/cgroup`.
    pub(crate) fn views(&self) -> Vec<View> {
        let only_two = matches!(self.places.as_slice(), [only] if only.hierarchy.version == Version::Two);
        let view = |place: &Place| View {
            name: place.hierarchy.mount_point.file_name().filter(|_| !only_two).map(PathBuf::from),
            path: place.path.clone(),
            top: place.hierarchy.mount_point.clone(),
            links: match place.hierarchy.controllers.as_slice() {
                several @ [_, _, ..] if place.hierarchy.version == Version::One => several.to_vec(),
                _ => Vec::new(),
            },
        };
        self.places.iter().map(view).collect()
    }

    /// Whether the kernel killed a process for reaching the memory limit.
    pub(crate) fn oom_killed(&self) -> bool {
        self.places.iter().filter(|place| place.hierarchy.has("memory")).any(|place| {
            let file = match place.hierarchy.version {
                Version::One => "memory.oom_control",
                Version::Two => "memory.events",
            };
            let text = std::fs::read_to_string(place.path.join(file)).unwrap_or_default();
            let killed = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
            killed.is_some_and(|count| count != "0")
        })
    }

    /// Removes the folders; what cannot be removed is left for [`sweep`].
    pub(crate) fn remove(&mut self) {
        self.joins.clear();
        self.folder = None;
        if self.borrowed {
            return;
        }
        for place in self.places.drain(..) {
            remove_folder(&place.path);
        }
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        self.remove();
    }
}

impl Place {
    fn make(&self, resources: Option<&LinuxResources>, warnings: &mut Vec<Warning>) -> io::Result<()> {
        if let Some(parent) = self.path.parent() {
            if !parent.is_dir() {
                std::fs::create_dir_all(parent)?;
            }
            match self.hierarchy.version {
                Version::One => v1::prepare_parent(parent, &self.hierarchy)?,
                Version::Two => v2::enable_controllers(parent, &self.hierarchy.mount_point, resources, warnings),
            }
        }
        match std::fs::create_dir(&self.path) {
            // Somebody has made it for this container: our own names are ever new.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && self.path.is_dir() => {}
            other => other?,
        }
        if self.hierarchy.version == Version::One {
            v1::prepare(&self.path, &self.hierarchy)?;
        }
        Ok(())
    }
}

/// Whether anything is limited beside devices.
fn limits(resources: Option<&LinuxResources>) -> bool {
    let mut others = resources.cloned().unwrap_or_default();
    others.set_devices(None);
    others.set_cpu(others.cpu().clone().filter(|cpu| *cpu != LinuxCpu::default()));
    others != LinuxResources::default()
}

/// How often and how long to wait until a cgroup is empty: its last process may not be gone altogether.
const REMOVE_TRIES: u32 = 50;
const REMOVE_PAUSE: Duration = Duration::from_millis(1);

/// Removes a cgroup without processes. Gives whether it is gone.
fn remove_folder(path: &Path) -> bool {
    for _ in 0..REMOVE_TRIES {
        match std::fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                // A container with the rights to do so may have made cgroups of its own.
                for inner in std::fs::read_dir(path).into_iter().flatten().flatten() {
                    if inner.file_type().is_ok_and(|kind| kind.is_dir()) {
                        remove_folder(&inner.path());
                    }
                }
                std::thread::sleep(REMOVE_PAUSE);
            }
            Ok(()) => return true,
            Err(error) => return error.kind() == io::ErrorKind::NotFound,
        }
    }
    false
}

/// Writes one limit.
fn write(folder: &Path, file: &str, value: &str) -> Result<(), LimitError> {
    let path = folder.join(file);
    let written = std::fs::OpenOptions::new().write(true).open(path).and_then(|mut file| {
        use io::Write as _;
        file.write_all(value.as_bytes())
    });
    written.map_err(|source| LimitError { limit: file.to_owned(), source })
}

/// Writes one limit; that this kernel does not have it, or that it may not be set, is a warning.
fn write_if_possible(folder: &Path, file: &str, value: &str, warnings: &mut Vec<Warning>) -> Result<(), LimitError> {
    match write(folder, file, value) {
        Err(LimitError { limit, source })
            if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) =>
        {
            let reason = match source.kind() {
                io::ErrorKind::NotFound => "this kernel does not offer it here".to_owned(),
                _ => source.to_string(),
            };
            warnings.push(Warning::LimitIgnored { limit, reason });
            Ok(())
        }
        other => other,
    }
}

/// The size of a huge page as files are named: digits and a unit.
fn size_name(page: &LinuxHugepageLimit) -> Result<&str, LimitError> {
    let size = page.page_size().as_str();
    let digits = size.trim_end_matches("KB").trim_end_matches("MB").trim_end_matches("GB");
    if digits.is_empty() || digits.len() == size.len() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let source = io::Error::new(io::ErrorKind::InvalidInput, format!("`{size}` is not a size of pages"));
        return Err(LimitError { limit: "hugepageLimits".to_owned(), source });
    }
    Ok(size)
}

fn rdma_line(device: &str, limits: &LinuxRdma) -> String {
    let mut line = device.to_owned();
    for (word, limit) in [("hca_handle", limits.hca_handles()), ("hca_object", limits.hca_objects())] {
        if let Some(limit) = limit {
            line.push_str(&format!(" {word}={limit}"));
        }
    }
    line
}

/// Kills what is left in cgroups whose owner is dead, and removes them. Gives how many.
pub(crate) fn sweep() -> usize {
    let mut removed = 0;
    for hierarchy in hierarchy::of_this_process(&hierarchy::USUAL) {
        let entries = std::fs::read_dir(hierarchy.base(None)).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| owner::is_stale(&entry.file_name())) {
            let processes = std::fs::read_to_string(entry.path().join("cgroup.procs")).unwrap_or_default();
            for process in processes.lines().filter_map(|line| line.trim().parse().ok()) {
                if let Some(process) = rustix::process::Pid::from_raw(process) {
                    // It fails when the process is gone, which is what is wanted.
                    let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
                }
            }
            removed += usize::from(remove_folder(&entry.path()));
        }
    }
    removed
}

#[cfg(test)]
mod tests;
