//! [`Record`]: what is kept of a container as long as it exists; and [`State`], what it is doing.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use jiff::Timestamp;
use oci::{DiffId, Digest, Platform};
use serde::{Deserialize, Serialize};

use crate::config::{Config, HostConfig, PortBinding};

/// What a container is, in `config.json`. Only its name and limits ever change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// 64 hexadecimal characters.
    pub id: String,
    /// Its name, without docker's slash.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// The digest of the image's config.
    pub image: Digest,
    /// The digest of the image's manifest.
    pub manifest: Digest,
    /// What the image is for.
    pub platform: Platform,
    /// The image's layers, lowest first.
    pub layers: Vec<DiffId>,
    /// The program and what it sees.
    pub config: Config,
    /// How the machine treats it.
    pub host_config: HostConfig,
    /// What is mounted, with volumes already made.
    pub mounts: Vec<Mount>,
    /// What it is attached to at each start, in order; none for `host`, `none` and `container:…`.
    pub networks: Vec<Endpoint>,
    /// It was taken off the last one: there are none, instead of the one that it was made with.
    #[serde(default)]
    pub networkless: bool,
}

/// Something that is mounted into a container at each start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// `bind`, `volume` or `tmpfs`.
    pub kind: MountKind,
    /// Of a volume.
    pub name: String,
    /// Where it is on the machine; nowhere for `tmpfs`.
    pub source: PathBuf,
    /// Where it is in the container.
    pub target: String,
    /// Forbid writing.
    pub read_only: bool,
    /// The volume goes with the container when its volumes are to go.
    pub anonymous: bool,
    /// As the user wrote the options of `-v`.
    pub mode: String,
    /// `rprivate`, `rshared`…; empty is docker's default.
    pub propagation: String,
    /// Of a mount in memory: its limit in bytes.
    pub size: Option<u64>,
    /// Of a mount in memory: its mode.
    pub permissions: Option<u32>,
}

/// What kind of mount it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    /// A file or folder of the machine.
    #[default]
    Bind,
    /// A folder that is kept for containers.
    Volume,
    /// A folder in memory.
    Tmpfs,
}

/// A network that a container is attached to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    /// The network's name, as asked for.
    pub network: String,
    /// Further names of the container there.
    pub aliases: Vec<String>,
    /// The address that was asked for.
    pub ipv4: Option<std::net::Ipv4Addr>,
    /// The address that was asked for.
    pub ipv6: Option<std::net::Ipv6Addr>,
    /// The hardware address that was asked for.
    pub mac: Option<String>,
}

/// Where a running container is on a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attached {
    /// The network's ID.
    pub network_id: String,
    /// The ID of this attachment.
    pub endpoint_id: String,
    /// The address.
    pub address: Option<std::net::Ipv4Addr>,
    /// The length of the network's prefix.
    pub prefix: u8,
    /// The way out.
    pub gateway: Option<std::net::Ipv4Addr>,
    /// The address.
    pub address6: Option<std::net::Ipv6Addr>,
    /// The length of the network's prefix.
    pub prefix6: u8,
    /// The way out.
    pub gateway6: Option<std::net::Ipv6Addr>,
    /// The hardware address.
    pub mac: String,
}

/// What a container is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It has never run.
    #[default]
    Created,
    /// Its program runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// It has ended and will be started again.
    Restarting,
    /// It is being removed.
    Removing,
    /// It has ended.
    Exited,
}

impl Status {
    /// Tells whether it has processes, or will have without anybody asking.
    pub fn is_alive(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Restarting)
    }

    /// Docker's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What a container is doing, in `state.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// In one word.
    pub status: Status,
    /// The first process, if it runs.
    pub process: Option<Process>,
    /// The process that watches it.
    pub supervisor: Option<Process>,
    /// How it ended; what a shell would show.
    pub exit_code: i32,
    /// Why it did not start.
    pub error: String,
    /// Whether the kernel killed something because memory ran out.
    pub oom_killed: bool,
    /// When it was started last.
    pub started_at: Option<Timestamp>,
    /// When it ended last.
    pub finished_at: Option<Timestamp>,
    /// How often its restart policy has started it since somebody did.
    pub restart_count: u32,
    /// Somebody asked it to stop, so its restart policy rests.
    pub stop_asked: bool,
    /// It is about to be started again by hand, and does not remove itself when it ends now.
    pub keep: bool,
    /// Whether it is well.
    pub health: Option<Health>,
    /// Where it is on each network, by name.
    pub networks: BTreeMap<String, Attached>,
    /// Which ports are published, by `port/protocol`.
    pub ports: BTreeMap<String, Vec<PortBinding>>,
}

/// A process that is never mistaken for another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it started, in the kernel's ticks.
    pub start: u64,
    /// In which boot of the machine.
    pub boot: String,
}

/// How a container is, as its health check sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Health {
    /// `starting`, `healthy` or `unhealthy`.
    pub status: String,
    /// Failures in a row.
    pub failing_streak: u32,
    /// The last checks, oldest first.
    pub log: Vec<HealthLog>,
}

/// One health check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct HealthLog {
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// 0 is healthy.
    pub exit_code: i32,
    /// The beginning of what it printed.
    pub output: String,
}
