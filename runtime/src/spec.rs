//! What docker does by default, as a runtime `Spec`.

use crate::capabilities;
use oci_spec::runtime::{
    Capabilities, Linux, LinuxCapabilities, LinuxCpu, LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory, LinuxNamespace,
    LinuxNamespaceType, LinuxPids, LinuxResources, LinuxSeccomp, Mount, PosixRlimit, PosixRlimitBuilder,
    PosixRlimitType, Process, Root, Spec, User,
};
use std::path::{Path, PathBuf};

/// Who the first process is, as numbers; the `oci` crate finds them for names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserIds {
    /// User.
    pub uid: u32,
    /// First group.
    pub gid: u32,
    /// Further groups.
    pub additional_gids: Vec<u32>,
}

/// A resource limit, as in `--ulimit`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ulimit {
    /// As docker names it: `nofile`, `nproc`, `core`…
    pub name: String,
    /// What holds; `u64::MAX` is unlimited.
    pub soft: u64,
    /// How far `soft` may be raised.
    pub hard: u64,
}

/// Something to mount inside the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPoint {
    /// The absolute path inside; made when it is not there.
    pub target: String,
    /// What to mount.
    pub kind: MountKind,
}

/// What to mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountKind {
    /// A file or folder of this machine, with the mounts below it.
    Bind {
        /// Where it is.
        source: PathBuf,
        /// Forbid writing, there and in the mounts below.
        read_only: bool,
    },
    /// A new folder in memory.
    Tmpfs {
        /// Its limit in bytes.
        size: Option<u64>,
        /// Its mode; docker's default is 0o1777.
        mode: Option<u32>,
        /// Forbid writing.
        read_only: bool,
    },
    /// What a spec says of a mount.
    Spelled {
        /// `bind`, `tmpfs`…
        kind: &'static str,
        /// What is mounted.
        source: PathBuf,
        /// How.
        options: Vec<String>,
    },
}

/// The filter for system calls.
#[derive(Clone, Debug, Default)]
pub enum Seccomp {
    /// Docker's default profile.
    #[default]
    Default,
    /// No filter.
    Unconfined,
    /// This one.
    Profile(Box<LinuxSeccomp>),
}

/// What a user can ask for; `Default` gives docker's defaults, `args` apart.
#[derive(Clone, Debug)]
pub struct SpecOptions {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// `NAME=value` in order; `PATH` finds the program.
    pub env: Vec<String>,
    /// Where the program starts; made when it is not there.
    pub cwd: String,
    /// Who the program runs as.
    pub user: UserIds,
    /// The name of the machine that the program sees.
    pub hostname: String,
    /// The domain of that machine.
    pub domainname: String,
    /// Whether it gets a terminal.
    pub terminal: bool,
    /// Whether `/` is read-only.
    pub read_only: bool,
    /// All capabilities and devices, no masks, no seccomp.
    pub privileged: bool,
    /// Capabilities to add: `NET_ADMIN`, `CAP_NET_ADMIN` or `ALL`.
    pub cap_add: Vec<String>,
    /// Capabilities to drop, after adding.
    pub cap_drop: Vec<String>,
    /// Forbid gaining privileges by set-uid programs.
    pub no_new_privileges: bool,
    /// The filter for system calls.
    pub seccomp: Seccomp,
    /// Further mounts, in order, after the default ones.
    pub mounts: Vec<MountPoint>,
    /// Use the network of this machine instead of a new network namespace.
    pub host_network: bool,
    /// The size of `/dev/shm` in bytes.
    pub shm_size: u64,
    /// Resource limits.
    pub ulimits: Vec<Ulimit>,
    /// Bytes of memory.
    pub memory: Option<i64>,
    /// Bytes of memory and swap; -1 is no limit; by default twice the memory.
    pub memory_swap: Option<i64>,
    /// Bytes of memory that are left to it when memory runs short.
    pub memory_reservation: Option<i64>,
    /// How many processors' time, in billionths.
    pub nano_cpus: Option<i64>,
    /// Weight against others, 1024 by default.
    pub cpu_shares: Option<u64>,
    /// Which processors, such as `0-2,4`.
    pub cpuset_cpus: Option<String>,
    /// Which memory nodes.
    pub cpuset_mems: Option<String>,
    /// How many processes and threads.
    pub pids_limit: Option<i64>,
    /// -1000 (never killed) to 1000 (killed first) when memory runs out.
    pub oom_score_adj: Option<i32>,
    /// Kernel settings: `net.*`, `kernel.shm*`…
    pub sysctls: Vec<(String, String)>,
}

impl Default for SpecOptions {
    fn default() -> Self {
        SpecOptions {
            args: Vec::new(),
            env: Vec::new(),
            cwd: "/".to_owned(),
            user: UserIds::default(),
            hostname: String::new(),
            domainname: String::new(),
            terminal: false,
            read_only: false,
            privileged: false,
            cap_add: Vec::new(),
            cap_drop: Vec::new(),
            no_new_privileges: false,
            seccomp: Seccomp::Default,
            mounts: Vec::new(),
            host_network: false,
            shm_size: 64 << 20,
            ulimits: Vec::new(),
            memory: None,
            memory_swap: None,
            memory_reservation: None,
            nano_cpus: None,
            cpu_shares: None,
            cpuset_cpus: None,
            cpuset_mems: None,
            pids_limit: None,
            oom_score_adj: None,
            sysctls: Vec::new(),
        }
    }
}

/// Why options do not make a spec.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum SpecError {
    #[error("no command is given, and the image names none")]
    NoCommand,
    #[error("unknown capability `{name}`")]
    UnknownCapability { name: String },
    #[error("unknown limit `{name}`")]
    UnknownUlimit { name: String },
    #[error("mount target `{target}` must be absolute and not `/`")]
    BadTarget { target: String },
}

/// What docker hides from every container.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// How hot each processor is, which tells what others compute.
fn thermal_paths() -> impl Iterator<Item = String> {
    const FOLDER: &str = "/sys/devices/system/cpu";
    // Virtual machines have none; then there is nothing to look for.
    let any = Path::new(FOLDER).join("cpu0/thermal_throttle").exists();
    let entries = any.then(|| std::fs::read_dir(FOLDER).ok()).flatten();
    let names = entries.into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let processors = names.filter(|name| {
        name.strip_prefix("cpu")
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    });
    processors.map(|name| format!("{FOLDER}/{name}/thermal_throttle"))
}

/// What docker lets no container change.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The `PATH` of a program whose image names none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Returns the spec that docker would make of these options.
///
/// `PATH` is added when it is missing, and `TERM` for a terminal. `HOME` and `HOSTNAME` are the caller's affair.
pub fn default_spec(options: &SpecOptions) -> Result<Spec, SpecError> {
    if options.args.is_empty() {
        return Err(SpecError::NoCommand);
    }
    let capabilities = capability_set(options)?;
    let mut linux = Linux::default();
    linux.set_namespaces(Some(namespaces(options.host_network)));
    linux.set_seccomp(match &options.seccomp {
        _ if options.privileged => None,
        Seccomp::Unconfined => None,
        Seccomp::Default => Some(crate::seccomp::default_profile(&capabilities)),
        Seccomp::Profile(profile) => Some((**profile).clone()),
    });
    let paths = |paths: &[&str]| {
        if options.privileged { Vec::new() } else { paths.iter().map(|&path| path.to_owned()).collect() }
    };
    let mut masked = paths(&MASKED);
    if !options.privileged {
        masked.extend(thermal_paths());
    }
    // What is mounted on the host is not seen inside, unless a mount asks for it.
    linux.set_rootfs_propagation(Some("rprivate".to_owned()));
    linux.set_masked_paths(Some(masked));
    linux.set_readonly_paths(Some(paths(&READ_ONLY)));
    linux.set_resources(Some(resources(options)));
    linux.set_sysctl(Some(options.sysctls.iter().cloned().collect()));

    let mut mounts = default_mounts(options);
    let mut user_mounts: Vec<&MountPoint> = options.mounts.iter().collect();
    // Outer before inner, else in the order they came.
    user_mounts.sort_by_key(|mount| crate::plan::in_root(Path::new(&mount.target)).components().count());
    for mount in user_mounts {
        let target = Path::new("/").join(crate::plan::in_root(Path::new(&mount.target)));
        // What the user mounts on a default place replaces it, and what is below.
        mounts.retain(|other| !other.destination().starts_with(&target));
        mounts.push(user_mount(mount)?);
    }

    let mut root = Root::default();
    root.set_readonly(Some(options.read_only));
    let mut spec = Spec::default();
    spec.set_version("1.2.0".to_owned());
    spec.set_root(Some(root));
    spec.set_hostname(Some(options.hostname.clone()));
    spec.set_domainname(Some(options.domainname.clone()).filter(|name| !name.is_empty()));
    spec.set_mounts(Some(mounts));
    spec.set_process(Some(process(options, capabilities)?));
    spec.set_linux(Some(linux));
    Ok(spec)
}

fn capability_set(options: &SpecOptions) -> Result<Capabilities, SpecError> {
    let mut set: Capabilities = if options.privileged {
        capabilities::available().collect()
    } else {
        capabilities::DEFAULT.into_iter().collect()
    };
    let parse = |name: &String| {
        if name.eq_ignore_ascii_case("ALL") {
            return Ok(capabilities::available().collect());
        }
        match capabilities::named(name) {
            Some(capability) => Ok(vec![capability]),
            None => Err(SpecError::UnknownCapability { name: name.clone() }),
        }
    };
    // `--cap-drop ALL --cap-add X` gives X alone: what is named wins over ALL.
    let all = |names: &[String]| names.iter().any(|name| name.eq_ignore_ascii_case("ALL"));
    if all(&options.cap_drop) {
        set.clear();
    }
    if all(&options.cap_add) {
        set.extend(capabilities::available());
    }
    for name in &options.cap_drop {
        let dropped: Vec<_> = parse(name)?;
        if !name.eq_ignore_ascii_case("ALL") {
            set.retain(|capability| !dropped.contains(capability));
        }
    }
    for name in &options.cap_add {
        let added: Vec<_> = parse(name)?;
        if !name.eq_ignore_ascii_case("ALL") {
            set.extend(added);
        }
    }
    Ok(set)
}

fn namespaces(host_network: bool) -> Vec<LinuxNamespace> {
    let kinds = [
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Cgroup,
        LinuxNamespaceType::Network,
    ];
    kinds
        .into_iter()
        .filter(|kind| !(host_network && *kind == LinuxNamespaceType::Network))
        .map(|kind| {
            let mut namespace = LinuxNamespace::default();
            namespace.set_typ(kind);
            namespace
        })
        .collect()
}

fn mount(target: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount.set_destination(PathBuf::from(target));
    mount.set_typ(Some(kind.to_owned()));
    mount.set_source(Some(PathBuf::from(source)));
    mount.set_options(Some(options.iter().map(|&option| option.to_owned()).collect()));
    mount
}

fn default_mounts(options: &SpecOptions) -> Vec<Mount> {
    let access = if options.privileged { "rw" } else { "ro" };
    let size = format!("size={}", options.shm_size);
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &size]),
    ]
}

fn user_mount(wanted: &MountPoint) -> Result<Mount, SpecError> {
    let target = wanted.target.as_str();
    if !target.starts_with('/') || crate::plan::in_root(Path::new(target)) == Path::new(".") {
        return Err(SpecError::BadTarget { target: target.to_owned() });
    }
    Ok(match &wanted.kind {
        MountKind::Bind { source, read_only } => {
            let mut bind = mount(target, "bind", "", &["rbind", if *read_only { "rro" } else { "rw" }]);
            bind.set_source(Some(source.clone()));
            bind
        }
        MountKind::Tmpfs { size, mode, read_only } => {
            let size = size.map(|size| format!("size={size}"));
            let mode = format!("mode={:o}", mode.unwrap_or(0o1777));
            let mut list = vec!["nosuid", "nodev", "noexec", mode.as_str()];
            list.extend(size.as_deref());
            if *read_only {
                list.push("ro");
            }
            mount(target, "tmpfs", "tmpfs", &list)
        }
        MountKind::Spelled { kind, source, options } => {
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            let mut spelled = mount(target, kind, "", &options);
            spelled.set_source(Some(source.clone()));
            spelled
        }
    })
}

fn process(options: &SpecOptions, capabilities: Capabilities) -> Result<Process, SpecError> {
    let mut env = options.env.clone();
    if !env.iter().any(|variable| variable.starts_with("PATH=")) {
        env.insert(0, DEFAULT_PATH.to_owned());
    }
    if options.terminal && !env.iter().any(|variable| variable.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
    }
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(capabilities.clone()));
    sets.set_effective(Some(capabilities.clone()));
    sets.set_permitted(Some(capabilities));
    // A non-empty inheritable set is CVE-2022-29162.
    sets.set_inheritable(None);
    sets.set_ambient(None);
    let mut user = User::default();
    user.set_uid(options.user.uid);
    user.set_gid(options.user.gid);
    user.set_additional_gids(Some(options.user.additional_gids.clone()));
    let mut process = Process::default();
    process.set_args(Some(options.args.clone()));
    process.set_env(Some(env));
    process.set_cwd(PathBuf::from(if options.cwd.is_empty() { "/" } else { &options.cwd }));
    process.set_user(user);
    process.set_terminal(Some(options.terminal));
    process.set_capabilities(Some(sets));
    process.set_no_new_privileges(Some(options.no_new_privileges));
    process.set_rlimits(Some(rlimits(&options.ulimits)?));
    process.set_oom_score_adj(options.oom_score_adj);
    Ok(process)
}

fn rlimits(ulimits: &[Ulimit]) -> Result<Vec<PosixRlimit>, SpecError> {
    ulimits
        .iter()
        .map(|ulimit| {
            let kind = match ulimit.name.as_str() {
                "as" => PosixRlimitType::RlimitAs,
                "core" => PosixRlimitType::RlimitCore,
                "cpu" => PosixRlimitType::RlimitCpu,
                "data" => PosixRlimitType::RlimitData,
                "fsize" => PosixRlimitType::RlimitFsize,
                "locks" => PosixRlimitType::RlimitLocks,
                "memlock" => PosixRlimitType::RlimitMemlock,
                "msgqueue" => PosixRlimitType::RlimitMsgqueue,
                "nice" => PosixRlimitType::RlimitNice,
                "nofile" => PosixRlimitType::RlimitNofile,
                "nproc" => PosixRlimitType::RlimitNproc,
                "rss" => PosixRlimitType::RlimitRss,
                "rtprio" => PosixRlimitType::RlimitRtprio,
                "rttime" => PosixRlimitType::RlimitRttime,
                "sigpending" => PosixRlimitType::RlimitSigpending,
                "stack" => PosixRlimitType::RlimitStack,
                _ => return Err(SpecError::UnknownUlimit { name: ulimit.name.clone() }),
            };
            let limit = PosixRlimitBuilder::default().typ(kind).soft(ulimit.soft).hard(ulimit.hard);
            Ok(limit.build().expect("every member is set"))
        })
        .collect()
}

/// The time in which a share of the processors is counted, in microseconds.
const CPU_PERIOD: u64 = 100_000;

fn resources(options: &SpecOptions) -> LinuxResources {
    let mut resources = LinuxResources::default();
    resources.set_devices(Some(device_rules(options.privileged)));
    if [options.memory, options.memory_swap, options.memory_reservation].iter().any(Option::is_some) {
        let mut memory = LinuxMemory::default();
        memory.set_reservation(options.memory_reservation);
        memory.set_limit(options.memory);
        memory.set_swap(options.memory_swap.or(options.memory.map(|limit| limit.saturating_mul(2))));
        resources.set_memory(Some(memory));
    }
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(options.cpu_shares);
    cpu.set_cpus(options.cpuset_cpus.clone());
    cpu.set_mems(options.cpuset_mems.clone());
    if let Some(nano_cpus) = options.nano_cpus {
        cpu.set_period(Some(CPU_PERIOD));
        cpu.set_quota(Some(nano_cpus / (1_000_000_000 / CPU_PERIOD as i64)));
    }
    resources.set_cpu(Some(cpu));
    if let Some(limit) = options.pids_limit.filter(|limit| *limit > 0) {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        resources.set_pids(Some(pids));
    }
    resources
}

/// Nothing, then what docker allows: making any node, using a few.
fn device_rules(privileged: bool) -> Vec<LinuxDeviceCgroup> {
    if privileged {
        return vec![device_rule(true, LinuxDeviceType::A, None, None, "rwm")];
    }
    let mut rules = vec![device_rule(false, LinuxDeviceType::A, None, None, "rwm")];
    rules.extend(allowed_devices());
    // The console that a container with a terminal had of old.
    rules.push(device_rule(true, LinuxDeviceType::C, Some(5), Some(1), "rwm"));
    rules
}

/// What every container may do: make any node, and use a few.
pub(crate) fn allowed_devices() -> Vec<LinuxDeviceCgroup> {
    let mut rules = vec![
        device_rule(true, LinuxDeviceType::C, None, None, "m"),
        device_rule(true, LinuxDeviceType::B, None, None, "m"),
    ];
    // null, zero, full, random, urandom, tty, ptmx
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)] {
        rules.push(device_rule(true, LinuxDeviceType::C, Some(major), Some(minor), "rwm"));
    }
    // Terminals.
    rules.push(device_rule(true, LinuxDeviceType::C, Some(136), None, "rwm"));
    rules
}

pub(crate) fn device_rule(
    allow: bool,
    kind: LinuxDeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow);
    rule.set_typ(Some(kind));
    rule.set_major(major);
    rule.set_minor(minor);
    rule.set_access(Some(access.to_owned()));
    rule
}
