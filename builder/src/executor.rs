//! [`Executor`]: how a `RUN` step becomes a process. The engine fills it in with the runtime.

use std::path::PathBuf;

use oci::users::ProcessUser;

use crate::cancel::Cancel;
use crate::events::StepId;

/// Runs the process of a step.
///
/// # Contract
///
/// - `execute` returns when the process and all that it started are gone, and everything it printed has been given to
///   `step.output`.
/// - What the process wrote is in `step.rootfs.upper` afterwards, as overlayfs writes it. After a process that failed the
///   builder does not look at it any more: whoever executes may take it.
/// - Nothing stays mounted, whether it ends well, fails, or is cancelled. After a process that ended well it may take until
///   the next one begins, in a mount namespace that nobody else is in.
/// - When `step.cancel` is cancelled the process is killed and `execute` returns
///   [`ExecuteError::Cancelled`] within a second.
/// - Files and folders that it has to create in the root file system to mount on are gone again if they are empty still,
///   and leave no trace in the times of the folders above (`builder.md`, R13).
/// - `execute` is called from several threads at once.
pub trait Executor: Send + Sync {
    /// Runs a process to its end.
    ///
    /// # Errors
    ///
    /// When the process could not be started, or was cancelled. A process that
    /// fails is not an error here: its [`ExitStatus`] says so.
    fn execute(&self, step: &ExecStep<'_>) -> Result<ExitStatus, ExecuteError>;

    /// Hears that a process with this network is likely to run soon: what takes long may be prepared meanwhile.
    fn expect(&self, _network: Network) {}
}

/// A process to run, with everything resolved.
pub struct ExecStep<'a> {
    /// How events call the step.
    pub id: StepId,
    /// Its root file system, to be mounted as an overlay, writable.
    pub rootfs: Overlay,
    /// The program and its arguments; never empty. The program is searched in the `PATH` of `env`.
    pub argv: Vec<String>,
    /// The whole environment, `HOME` and `PATH` included; each name once, in order.
    pub env: Vec<(String, String)>,
    /// Where it starts; absolute. Created (0755, root) if it is missing.
    pub cwd: String,
    /// As whom it runs.
    pub user: ProcessUser,
    /// The host name.
    pub hostname: String,
    /// What is mounted, in order; beside what every container has (`/proc`, `/dev`, `/sys`, `/etc/resolv.conf`,
    /// `/etc/hosts`).
    pub mounts: Vec<StepMount>,
    /// Its network.
    pub network: Network,
    /// Its privileges.
    pub security: Security,
    /// Size of `/dev/shm` in bytes; 64 MiB when `None`.
    pub shm_size: Option<u64>,
    /// Resource limits.
    pub ulimits: &'a [Ulimit],
    /// Further lines of `/etc/hosts`.
    pub add_hosts: &'a [AddedHost],
    /// The cgroup to make its own cgroup in.
    pub cgroup_parent: Option<&'a str>,
    /// Takes what it prints, as it comes.
    pub output: &'a (dyn Fn(Stream, &[u8]) + Send + Sync),
    /// Tells when to give up.
    pub cancel: &'a Cancel,
}

/// Folders that overlayfs lays over each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// The read-only ones, topmost first; at least one, which is an empty folder for `FROM scratch`.
    pub lower: Vec<PathBuf>,
    /// The writable one.
    pub upper: PathBuf,
    /// An empty folder beside `upper`, for overlayfs itself.
    pub work: PathBuf,
}

/// Something mounted for the time of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepMount {
    /// Where: an absolute path in the container. Symlinks in it are resolved inside the root.
    pub target: String,
    /// What.
    pub kind: MountKind,
}

/// What a [`StepMount`] mounts.
#[derive(Clone, PartialEq, Eq)]
pub enum MountKind {
    /// A file or folder of the host.
    Bind {
        /// The file or folder; no symlink.
        source: PathBuf,
        /// Whether writing is refused.
        read_only: bool,
    },
    /// Several folders laid over each other, read-only; at least two, topmost first.
    Merged {
        /// The folders.
        lower: Vec<PathBuf>,
    },
    /// A folder laid over others, writable. The writes are thrown away afterwards, by the builder.
    Overlay(Overlay),
    /// An empty folder in memory, mode 1777.
    Tmpfs {
        /// Its largest size in bytes; the kernel's default when `None`.
        size: Option<u64>,
    },
    /// A file with these bytes that never touches a disk; read-only.
    Secret {
        /// Its content.
        value: Vec<u8>,
        /// Its permission bits.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// A socket that leads to an SSH agent as long as the process lives.
    Agent {
        /// The socket of the agent.
        socket: PathBuf,
        /// The permission bits of the one that the process sees.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
}

impl std::fmt::Debug for MountKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bind { source, read_only } => {
                f.debug_struct("Bind").field("source", source).field("read_only", read_only).finish()
            }
            Self::Merged { lower } => f.debug_struct("Merged").field("lower", lower).finish(),
            Self::Overlay(overlay) => f.debug_tuple("Overlay").field(overlay).finish(),
            Self::Tmpfs { size } => f.debug_struct("Tmpfs").field("size", size).finish(),
            Self::Secret { mode, uid, gid, .. } => {
                f.debug_struct("Secret").field("mode", mode).field("uid", uid).field("gid", gid).finish_non_exhaustive()
            }
            Self::Agent { socket, mode, uid, gid } => f
                .debug_struct("Agent")
                .field("socket", socket)
                .field("mode", mode)
                .field("uid", uid)
                .field("gid", gid)
                .finish(),
        }
    }
}

/// The network of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Whatever the executor gives to containers that do not ask.
    #[default]
    Default,
    /// Only a loopback interface of its own.
    None,
    /// The host's.
    Host,
}

/// The privileges of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// Docker's default capabilities, seccomp profile and masked paths.
    #[default]
    Sandbox,
    /// All capabilities and devices, nothing masked.
    Insecure,
}

/// A resource limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ulimit {
    /// As docker names it: `nofile`.
    pub name: String,
    /// What the process starts with; -1 for none.
    pub soft: i64,
    /// What it may raise that to; -1 for none.
    pub hard: i64,
}

/// A line of `/etc/hosts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddedHost {
    /// The name.
    pub name: String,
    /// Its address.
    pub address: String,
}

/// Where a process printed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitStatus {
    /// Its exit code; 128 and the signal's number when a signal killed it; 126 or 127 when the program could not be
    /// executed or found.
    pub code: i32,
    /// Whether the kernel killed it for want of memory.
    pub out_of_memory: bool,
}

/// Why a process did not come to its end.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum ExecuteError {
    #[error("cancelled")]
    Cancelled,
    #[error("cannot start the process")]
    Start(#[source] Box<dyn std::error::Error + Send + Sync>),
}
