//! What a container sees of the machine around it: its name, `/etc/hosts`, `/etc/resolv.conf`, and its network.

use std::collections::HashMap;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use runtime::network::{self, Mode, NetworkError};
use runtime::rootless;
use runtime::{MountKind, MountPoint, Pool, etc_files};
use supervisor::network::{SECRETS, network_state};

/// Why a container could not be given its surroundings.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum MachineError {
    #[error("cannot write `{}`", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot set the network up")]
    Network(#[from] NetworkError),
}

/// The network that was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NetworkChoice {
    /// The bridge with NAT; the machine's own for who is root nowhere, and can run nothing anyway.
    #[default]
    Default,
    /// Loopback only.
    None,
    /// The machine's own.
    Host,
}

/// Makes the network of a build's step ready.
pub(crate) fn prepare_network_in(choice: NetworkChoice, pool: &Arc<Pool>) -> Result<network::Network, NetworkError> {
    network::prepare_in(mode(choice)?, pool)
}

/// Begins to do so for the first of them.
pub(crate) fn expect_network_in(choice: NetworkChoice, pool: &Pool) {
    // Whoever needs it is told why there is none.
    if let Ok(mode) = mode(choice) {
        network::expect(mode, pool);
    }
}

fn mode(choice: NetworkChoice) -> Result<Mode, NetworkError> {
    Ok(match choice {
        NetworkChoice::None => Mode::None,
        NetworkChoice::Host => Mode::Host,
        NetworkChoice::Default if !rustix::process::geteuid().is_root() => Mode::Host,
        NetworkChoice::Default => {
            // What a step runs may be anybody's: it never gets the machine's own network unasked.
            rootless::world().map_or(Ok(()), rootless::World::connect)?;
            Mode::Bridge(network_state())
        }
    })
}

/// A folder in memory that nobody else can look into, until this is dropped.
///
/// What lies in it may have the owner and mode that a container asks for: a process of that user outside of the container
/// still does not reach it.
#[derive(Debug)]
pub(crate) struct PrivateFolder {
    path: PathBuf,
}

impl PrivateFolder {
    pub(crate) fn new() -> io::Result<Self> {
        // Paths of sockets have to be short.
        let path = Path::new(SECRETS).join(runtime::owned_name(&new_id()[..16]));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        // It is in memory, and the next sweep looks for it once we are gone.
        let _: io::Result<()> = fs::remove_dir_all(&self.path);
    }
}

pub use supervisor::network::sweep;

/// Returns 64 hexadecimal characters that nobody else has.
pub(crate) fn new_id() -> String {
    // The keys of a `RandomState` come from the system's random numbers; each one has others.
    (0..4).map(|turn| format!("{:016x}", RandomState::new().hash_one(turn))).collect()
}

/// What the files in `/etc` say.
#[derive(Debug)]
pub(crate) struct EtcFiles<'a> {
    pub(crate) hostname: &'a str,
    pub(crate) address: Option<IpAddr>,
    pub(crate) hosts: &'a [(String, IpAddr)],
    pub(crate) dns: &'a [IpAddr],
    pub(crate) host_network: bool,
}

/// Files that the steps of a build mount, each text once; in memory, as they are gone with the build.
#[derive(Debug, Default)]
pub(crate) struct SharedFiles {
    written: Mutex<Written>,
}

#[derive(Debug, Default)]
struct Written {
    /// Where they are, once there is one.
    folder: Option<PrivateFolder>,
    paths: HashMap<String, PathBuf>,
}

impl SharedFiles {
    /// Returns a file with this text.
    fn with(&self, text: String) -> Result<PathBuf, MachineError> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let Written { folder, paths } = &mut *written;
        if let Some(path) = paths.get(&text) {
            return Ok(path.clone());
        }
        let folder = match folder {
            Some(folder) => folder,
            none => none.insert(PrivateFolder::new().map_err(write_failed(Path::new(SECRETS)))?),
        };
        let path = folder.path().join(paths.len().to_string());
        write_for_all(&path, &text)?;
        paths.insert(text, path.clone());
        Ok(path)
    }
}

fn write_failed(path: &Path) -> impl Fn(io::Error) -> MachineError {
    move |source| MachineError::Write { path: path.to_owned(), source }
}

/// Writes a file that every user may read, whatever our umask is. Nothing has to survive a crash.
fn write_for_all(path: &Path, text: &str) -> Result<(), MachineError> {
    let written = File::create(path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.set_permissions(fs::Permissions::from_mode(0o644))
    });
    written.map_err(write_failed(path))
}

impl EtcFiles<'_> {
    /// Returns what a step of a build mounts. What it writes there is refused, as it would not be in the image; and
    /// `/etc/hostname` is the image's own, which the step may write.
    pub(crate) fn share(&self, files: &SharedFiles) -> Result<Vec<MountPoint>, MachineError> {
        self.texts().into_iter().map(|(name, text)| Ok(mount_point(name, files.with(text)?))).collect()
    }

    fn texts(&self) -> [(&'static str, String); 2] {
        let resolv_conf = if self.dns.is_empty() {
            // A machine without the file has no resolver; the container gets what takes its place.
            let host = fs::read("/etc/resolv.conf").unwrap_or_default();
            let asked = etc_files::Resolving::default();
            etc_files::resolv_conf(&String::from_utf8_lossy(&host), self.host_network, &asked)
        } else {
            self.dns.iter().map(|address| format!("nameserver {address}\n")).collect()
        };
        [("hosts", etc_files::hosts(self.hostname, self.address.as_slice(), self.hosts)), ("resolv.conf", resolv_conf)]
    }
}

fn mount_point(name: &str, source: PathBuf) -> MountPoint {
    MountPoint { target: format!("/etc/{name}"), kind: MountKind::Bind { source, read_only: true } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_writes_the_image_s_own_hostname_and_nothing_else_that_is_mounted() {
        let address = Some(IpAddr::from([10, 0, 0, 2]));
        let etc = EtcFiles { hostname: "h", address, hosts: &[], dns: &[], host_network: false };
        let targets = |mounts: &[MountPoint]| mounts.iter().map(|mount| mount.target.clone()).collect::<Vec<_>>();
        let is_read_only = |mount: &MountPoint| matches!(mount.kind, MountKind::Bind { read_only: true, .. });
        let files = SharedFiles::default();
        let mounts = etc.share(&files).expect("written");
        assert_eq!(targets(&mounts), ["/etc/hosts", "/etc/resolv.conf"]);
        assert!(mounts.iter().all(is_read_only));
        assert_eq!(etc.share(&files).expect("known"), mounts);
        let other = EtcFiles { hostname: "other", ..etc };
        assert_ne!(other.share(&files).expect("written"), mounts);
    }

    #[test]
    fn every_id_is_another_one() {
        let (one, two) = (new_id(), new_id());
        assert_ne!(one, two);
        assert!(one.len() == 64 && one.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}
