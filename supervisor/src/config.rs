//! What a container is asked to be: docker's `Config` and `HostConfig`, with the member names of its API.

use std::collections::BTreeMap;
use std::time::Duration;

use oci::image_config::{Empty, HealthConfig};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::signals::{self, SignalError};

/// The program and what it sees, already merged with the image's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Config {
    /// The machine's name inside.
    pub hostname: String,
    /// The machine's domain inside.
    pub domainname: String,
    /// `user[:group]`, names or numbers.
    pub user: String,
    /// Whether the command that made it feeds its input.
    pub attach_stdin: bool,
    /// Whether the command that made it shows its output.
    pub attach_stdout: bool,
    /// Whether the command that made it shows its errors.
    pub attach_stderr: bool,
    /// Ports that the program listens on.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<String, Empty>,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether its input stays open without anybody attached.
    pub open_stdin: bool,
    /// Whether its input ends with the first who is attached.
    pub stdin_once: bool,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Arguments, or the program when there is no entrypoint.
    pub cmd: Option<Vec<String>>,
    /// How to see whether it is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthConfig>,
    /// The image, as the user wrote it.
    pub image: String,
    /// Paths that hold data of their own.
    pub volumes: Option<BTreeMap<String, Empty>>,
    /// Where the program starts.
    pub working_dir: String,
    /// The program and its first arguments.
    pub entrypoint: Option<Vec<String>>,
    /// Instructions for builds.
    pub on_build: Option<Vec<String>>,
    /// Names and values for people and tools.
    pub labels: BTreeMap<String, String>,
    /// The signal that asks the program to stop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// How long to wait after that signal, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    /// Members unknown to this version.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Config {
    /// How long a program gets to end when nobody said, in seconds.
    const PATIENCE: i64 = 10;

    /// Returns the signal that asks the program to stop, unless another one is wished for.
    ///
    /// # Errors
    ///
    /// When there is no such signal.
    pub fn stops_by(&self, wished: Option<&str>) -> Result<i32, SignalError> {
        let signal = wished.or(self.stop_signal.as_deref()).filter(|signal| !signal.is_empty());
        signal.map_or(Ok(signals::TERM), signals::parse)
    }

    /// Returns how long the program gets to end, unless other seconds are wished for; none is for ever.
    pub fn stops_within(&self, wished: Option<i64>) -> Option<Duration> {
        let seconds = wished.or(self.stop_timeout).unwrap_or(Self::PATIENCE);
        u64::try_from(seconds).ok().map(Duration::from_secs)
    }

    /// Returns the program and its arguments.
    pub fn arguments(&self) -> Vec<String> {
        [self.entrypoint.clone().unwrap_or_default(), self.cmd.clone().unwrap_or_default()].concat()
    }
}

/// How the machine treats the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HostConfig {
    /// `source:target[:options]`.
    pub binds: Option<Vec<String>>,
    /// Where the ID was written; unused.
    #[serde(rename = "ContainerIDFile")]
    pub container_id_file: String,
    /// Where output goes.
    pub log_config: LogConfig,
    /// `bridge`, `host`, `none`, `container:ID` or the name of a network.
    pub network_mode: String,
    /// Published ports, by `port/protocol`.
    pub port_bindings: BTreeMap<String, Option<Vec<PortBinding>>>,
    /// When to start it again.
    pub restart_policy: RestartPolicy,
    /// Remove it when it has ended.
    pub auto_remove: bool,
    /// Whose volumes it takes over.
    pub volumes_from: Option<Vec<String>>,
    /// Rows and columns of its terminal at first.
    pub console_size: [u16; 2],
    /// Capabilities to add.
    pub cap_add: Option<Vec<String>>,
    /// Capabilities to drop.
    pub cap_drop: Option<Vec<String>>,
    /// Name servers.
    pub dns: Vec<String>,
    /// Options of the resolver.
    pub dns_options: Vec<String>,
    /// Domains to search.
    pub dns_search: Vec<String>,
    /// `HOST:IP`, further lines of `/etc/hosts`.
    pub extra_hosts: Option<Vec<String>>,
    /// Further groups.
    pub group_add: Option<Vec<String>>,
    /// Weight for the kernel's choice when memory runs out.
    pub oom_score_adj: i32,
    /// All rights.
    pub privileged: bool,
    /// Publish every exposed port.
    pub publish_all_ports: bool,
    /// Whether `/` is read-only.
    pub readonly_rootfs: bool,
    /// `no-new-privileges`, `seccomp=…`; a profile is here with its content.
    pub security_opt: Option<Vec<String>>,
    /// Size of `/dev/shm` in bytes.
    pub shm_size: i64,
    /// Kernel settings.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    /// Weight against others.
    pub cpu_shares: i64,
    /// Bytes of memory.
    pub memory: i64,
    /// Processors' time, in billionths.
    pub nano_cpus: i64,
    /// The cgroup above.
    pub cgroup_parent: String,
    /// Which processors.
    pub cpuset_cpus: String,
    /// Which memory nodes.
    pub cpuset_mems: String,
    /// Devices.
    pub devices: Vec<DeviceMapping>,
    /// Bytes of memory below which it is left alone.
    pub memory_reservation: i64,
    /// Bytes of memory and swap; -1 is no limit.
    pub memory_swap: i64,
    /// How many processes; none is no limit.
    pub pids_limit: Option<i64>,
    /// Resource limits.
    pub ulimits: Option<Vec<Ulimit>>,
    /// Mounts in memory, with their options.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tmpfs: BTreeMap<String, String>,
    /// Mounts, spelled out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<MountAsked>,
    /// Run a small init as the first process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<bool>,
    /// Members unknown to this version.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            binds: None,
            container_id_file: String::new(),
            log_config: LogConfig::default(),
            network_mode: "bridge".into(),
            port_bindings: BTreeMap::new(),
            restart_policy: RestartPolicy::default(),
            auto_remove: false,
            volumes_from: None,
            console_size: [0, 0],
            cap_add: None,
            cap_drop: None,
            dns: Vec::new(),
            dns_options: Vec::new(),
            dns_search: Vec::new(),
            extra_hosts: None,
            group_add: None,
            oom_score_adj: 0,
            privileged: false,
            publish_all_ports: false,
            readonly_rootfs: false,
            security_opt: None,
            shm_size: 64 << 20,
            sysctls: BTreeMap::new(),
            cpu_shares: 0,
            memory: 0,
            nano_cpus: 0,
            cgroup_parent: String::new(),
            cpuset_cpus: String::new(),
            cpuset_mems: String::new(),
            devices: Vec::new(),
            memory_reservation: 0,
            memory_swap: 0,
            pids_limit: None,
            ulimits: None,
            tmpfs: BTreeMap::new(),
            mounts: Vec::new(),
            init: None,
            other: Map::new(),
        }
    }
}

/// Where output goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct LogConfig {
    /// `json-file`, `k8s-file` or `none`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// `max-size`, `max-file` and the like.
    pub config: BTreeMap<String, String>,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { kind: "json-file".into(), config: BTreeMap::new() }
    }
}

/// Where a published port is reachable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PortBinding {
    /// The address; empty is every one.
    pub host_ip: String,
    /// The port; empty picks one.
    pub host_port: String,
}

/// When a container that ended is started again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RestartPolicy {
    /// `no`, `always`, `unless-stopped` or `on-failure`.
    pub name: String,
    /// How often after failures; 0 is no limit.
    pub maximum_retry_count: u32,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self { name: "no".into(), maximum_retry_count: 0 }
    }
}

/// A device of the machine in the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DeviceMapping {
    /// Where it is.
    pub path_on_host: String,
    /// Where it shall be.
    pub path_in_container: String,
    /// Any of `r`, `w` and `m`.
    pub cgroup_permissions: String,
}

/// A resource limit; -1 is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Ulimit {
    /// `nofile`, `nproc`…
    pub name: String,
    /// How far `soft` may be raised.
    pub hard: i64,
    /// What holds.
    pub soft: i64,
}

/// A mount as `--mount` asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct MountAsked {
    /// `bind`, `volume` or `tmpfs`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// A path, or the name of a volume.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Where it shall be.
    pub target: String,
    /// Forbid writing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// For `tmpfs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmpfs_options: Option<TmpfsOptions>,
    /// Members unknown to this version, such as `BindOptions`.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// What a mount in memory is like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TmpfsOptions {
    /// Its limit in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// Its mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
}
