//! What a container sees of the machine around it: its name, `/etc/hosts`, `/etc/resolv.conf`, and its network.

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use runtime::network::{self, Mode, NetworkError};
use runtime::{MountKind, MountPoint, Pool, etc_files};
use supervisor::network::{NETWORK_STATE, SECRETS};

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
    /// The bridge with NAT, for root; the machine's own for everybody else, who may not make one.
    #[default]
    Default,
    /// Loopback only.
    None,
    /// The machine's own.
    Host,
}

/// Makes the network of a build's step ready.
pub(crate) fn prepare_network_in(choice: NetworkChoice, pool: &Arc<Pool>) -> Result<network::Network, NetworkError> {
    network::prepare_in(mode(choice), pool)
}

fn mode(choice: NetworkChoice) -> Mode {
    match choice {
        NetworkChoice::None => Mode::None,
        NetworkChoice::Host => Mode::Host,
        NetworkChoice::Default if rustix::process::geteuid().is_root() => Mode::Bridge(NETWORK_STATE.into()),
        NetworkChoice::Default => Mode::Host,
    }
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
    /// For a step of a build: what it writes there is refused, as it would not be in the image; and `/etc/hostname` is
    /// the image's own, which the step may write.
    pub(crate) of_step: bool,
}

impl EtcFiles<'_> {
    /// Writes the files into `folder`, and returns what to mount.
    pub(crate) fn write(&self, folder: &Path) -> Result<Vec<MountPoint>, MachineError> {
        let failed = |path: &Path, source| MachineError::Write { path: path.to_owned(), source };
        fs::create_dir_all(folder).map_err(|source| failed(folder, source))?;
        let resolv_conf = if self.dns.is_empty() {
            // A machine without the file has no resolver; the container gets what takes its place.
            let host = fs::read("/etc/resolv.conf").unwrap_or_default();
            let asked = etc_files::Resolving::default();
            etc_files::resolv_conf(&String::from_utf8_lossy(&host), self.host_network, &asked)
        } else {
            self.dns.iter().map(|address| format!("nameserver {address}\n")).collect()
        };
        let files = [
            ("hosts", etc_files::hosts(self.hostname, self.address.as_slice(), self.hosts)),
            ("hostname", etc_files::hostname(self.hostname)),
            ("resolv.conf", resolv_conf),
        ];
        let mut mounts = Vec::new();
        for (name, text) in files.into_iter().filter(|(name, _)| !self.of_step || *name != "hostname") {
            let path = folder.join(name);
            // They live as long as the container, so nothing has to survive a crash.
            File::create(&path)
                .and_then(|mut file| {
                    file.write_all(text.as_bytes())?;
                    // For every user of the container, whatever our umask is.
                    file.set_permissions(fs::Permissions::from_mode(0o644))
                })
                .map_err(|source| failed(&path, source))?;
            let kind = MountKind::Bind { source: path, read_only: self.of_step };
            mounts.push(MountPoint { target: format!("/etc/{name}"), kind });
        }
        Ok(mounts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_writes_the_image_s_own_hostname_and_nothing_else_that_is_mounted() {
        let folder = tempfile::tempdir().expect("tempdir");
        for (of_step, expected) in [
            (true, vec!["/etc/hosts", "/etc/resolv.conf"]),
            (false, vec!["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"]),
        ] {
            let etc = EtcFiles { hostname: "h", address: None, hosts: &[], dns: &[], host_network: false, of_step };
            let mounts = etc.write(folder.path()).expect("written");
            assert_eq!(mounts.iter().map(|mount| mount.target.as_str()).collect::<Vec<_>>(), expected);
            let all =
                |mount: &MountPoint| matches!(mount.kind, MountKind::Bind { read_only, .. } if read_only == of_step);
            assert!(mounts.iter().all(all));
        }
    }

    #[test]
    fn every_id_is_another_one() {
        let (one, two) = (new_id(), new_id());
        assert_ne!(one, two);
        assert!(one.len() == 64 && one.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}
