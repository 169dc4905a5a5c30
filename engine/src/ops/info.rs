//! Tells what this machine can do for containers and what it cannot, and what is here.

use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use oci::IdRange;
use runtime::machine::Machine;
use runtime::rootless;
use supervisor::{ContainerError, Status};

use crate::{Engine, containers};

/// What is here, and what this machine can do.
#[derive(Clone, Debug, Default)]
pub struct Info {
    /// How many containers run, are paused, and are stopped.
    pub running: usize,
    #[expect(missing_docs, reason = "told above")]
    pub paused: usize,
    #[expect(missing_docs, reason = "told above")]
    pub stopped: usize,
    /// How many images there are.
    pub images: usize,
    /// Where everything is kept, on which file system, and how many bytes are free there.
    pub home: PathBuf,
    #[expect(missing_docs, reason = "told above")]
    pub file_system: String,
    #[expect(missing_docs, reason = "told above")]
    pub free: u64,
    /// What the kernel, the system and the machine call themselves.
    pub kernel: String,
    #[expect(missing_docs, reason = "told above")]
    pub system: String,
    #[expect(missing_docs, reason = "told above")]
    pub name: String,
    /// How many processors there are, and how much memory in bytes.
    pub processors: usize,
    #[expect(missing_docs, reason = "told above")]
    pub memory: u64,
    /// What containers can have.
    pub machine: Machine,
    /// Of a plain user: how many users there are in their world, and how it leads to the machine's network.
    pub rootless: Option<Rootless>,
    /// Other machines whose programs run here: `aarch64`…
    pub emulated: Vec<String>,
    /// What is lacking, in sentences.
    pub warnings: Vec<String>,
}

/// What is special about a plain user.
#[derive(Clone, Debug, Default)]
pub struct Rootless {
    /// How many users are mapped.
    pub users: u64,
    /// The program that leads out of networks.
    pub uplink: Option<String>,
}

/// Why it could not be told.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum InfoError {
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error(transparent)]
    Image(#[from] store::ImageError),
    #[error("cannot try what this machine can do")]
    Probe(#[source] std::io::Error),
}

/// Tells what is here, and what this machine can do.
///
/// # Errors
///
/// When the home cannot be read or written.
pub async fn info(engine: &Engine, now: Timestamp) -> Result<Info, InfoError> {
    let (all, store) = (containers::all(engine), engine.store().clone());
    store::blocking::run(move || {
        let mut info = Info::default();
        for container in all.list()?.into_iter().flatten() {
            match container.state(now) {
                Err(ContainerError::NotFound { .. }) => {}
                other => match other?.status {
                    Status::Running | Status::Restarting => info.running += 1,
                    Status::Paused => info.paused += 1,
                    Status::Created | Status::Exited | Status::Removing => info.stopped += 1,
                },
            }
        }
        info.images = super::system::images(&store)?.len();
        info.home = store.layout().home().to_owned();
        info.machine = runtime::machine::probe(&info.home).map_err(InfoError::Probe)?;
        (info.file_system, info.free) = file_system(&info.home);
        let uname = rustix::system::uname();
        info.kernel = uname.release().to_string_lossy().into_owned();
        info.name = uname.nodename().to_string_lossy().into_owned();
        info.system = system_name(&fs::read_to_string("/etc/os-release").unwrap_or_default());
        info.processors = std::thread::available_parallelism().map_or(1, usize::from);
        info.memory = memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default());
        info.emulated = emulated();
        info.rootless = rootless::world().map(|_| Rootless {
            users: mapped(&fs::read_to_string("/proc/self/uid_map").unwrap_or_default()),
            uplink: uplink(),
        });
        info.warnings = warnings(&info);
        Ok(info)
    })
    .await
}

/// The file system of a folder, and how many bytes are free.
fn file_system(folder: &Path) -> (String, u64) {
    let free = rustix::fs::statvfs(folder).map_or(0, |found| found.f_bavail * found.f_frsize);
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    (kind_of_mount(&mounts, &folder), free)
}

/// Finds the kind of what a folder is on, in the text of `mountinfo`; the last mount of the longest path counts.
fn kind_of_mount(mounts: &str, folder: &Path) -> String {
    let mut best: Option<(usize, &str)> = None;
    for line in mounts.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let Some(mount_point) = before.split(' ').nth(4) else { continue };
        let depth = Path::new(mount_point).components().count();
        if folder.starts_with(mount_point) && best.is_none_or(|(other, _)| depth >= other) {
            best = after.split(' ').next().map(|kind| (depth, kind));
        }
    }
    best.map_or_else(|| "unknown".to_owned(), |(_, kind)| kind.to_owned())
}

fn system_name(text: &str) -> String {
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

/// Reads the machine's memory from the text of `meminfo`, in bytes.
fn memory(text: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).map_or(0, |kib: u64| kib << 10)
}

/// How many numbers a map has.
fn mapped(text: &str) -> u64 {
    IdRange::parse_all(text).iter().map(|range| u64::from(range.size)).sum()
}

/// The machines whose programs binfmt_misc lets run.
fn emulated() -> Vec<String> {
    let entries = fs::read_dir("/proc/sys/fs/binfmt_misc").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| {
        let text = fs::read_to_string(entry.path()).ok()?;
        let name = entry.file_name().to_string_lossy().strip_prefix("qemu-")?.to_owned();
        text.starts_with("enabled").then_some(name)
    });
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    names
}

/// The program that leads out of a plain user's networks, where it is installed.
fn uplink() -> Option<String> {
    let folders = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    let find = |program: &&str| folders.iter().any(|folder| Path::new(folder).join(program).exists());
    ["pasta", "slirp4netns"].into_iter().find(|program| find(program)).map(str::to_owned)
}

fn warnings(info: &Info) -> Vec<String> {
    let mut warnings = Vec::new();
    let machine = &info.machine;
    let overlay = if info.rootless.is_some() { &machine.no_user_xattr } else { &machine.no_overlay };
    if let Some(reason) = overlay {
        warnings.push(format!("no containers: layers cannot be stacked in `{}`: {reason}", info.home.display()));
    }
    for controller in ["memory", "cpu", "cpuset", "pids"] {
        let found = machine.cgroups.iter().find(|one| one.controllers.iter().any(|name| name == controller));
        if !found.is_some_and(|one| one.writable) {
            warnings.push(format!("no limits of {controller}: there is no cgroup for it that may be changed"));
        }
    }
    if let Some(reason) = &machine.no_nftables {
        warnings.push(format!("no networks but host and none: {reason}"));
    }
    if let Some(rootless) = &info.rootless {
        warnings.extend(rootless::world().and_then(|world| world.notice().map(str::to_owned)));
        if rootless.uplink.is_none() {
            warnings.push("networks lead nowhere: install pasta (package `passt`) or slirp4netns".to_owned());
        } else if let Err(error) = fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
            warnings.push(format!("networks lead nowhere: you may not open `/dev/net/tun`: {error}"));
        }
    }
    if let Some(lacking) =
        (!rustix::process::geteuid().is_root()).then_some("no containers: there is no user namespace")
    {
        warnings.push(lacking.to_owned());
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_the_kernel_are_read() {
        let mounts = "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 8:2 / /var rw - xfs /dev/b rw\n3 1 8:3 / /variety rw - tmpfs t rw\nx\n";
        for (folder, kind) in [("/var/lib", "xfs"), ("/", "ext4"), ("/various", "ext4"), ("/variety", "tmpfs")] {
            assert_eq!(kind_of_mount(mounts, Path::new(folder)), kind, "{folder}");
        }
        assert_eq!(system_name("NAME=x\nPRETTY_NAME=\"Debian 12\"\n"), "Debian 12");
        assert_eq!(memory("MemTotal:        2048 kB\nMemFree: 1 kB\n"), 2 << 20);
        assert_eq!(mapped("0 1000 1\n1 100000 65536\n"), 65_537);
    }
}
