//! What the child will do, worked out beforehand: every text is a C string, every choice is made.
//!
//! The child runs this list between clone and exec, where nothing may allocate.

mod mounts;
mod unsupported;

pub(crate) use mounts::{Make, MountPlan, MountPlanKind, OverlayPlan, RootPlan, plan_root};

use crate::capabilities::{self, CapabilitySets};
use crate::cgroups::Cgroups;
use crate::child::net::NetworkPlan;
use crate::container::Rootfs;
use crate::stack;
use crate::start_error::StartError;
use crate::stdio::Size;
use mounts::plan_mount;
use oci_spec::runtime::{LinuxNamespaceType, PosixRlimitType, Process, Spec};
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::Arc;

/// The whole of what the child will do.
pub(crate) struct Plan {
    pub(crate) clone_flags: u64,
    /// Whether the child shares the parent's memory until it execs.
    ///
    /// Not when others are in its PID namespace: they could see it through `/proc`, which cannot be forbidden without
    /// forbidding it for the parent. And not when its cgroup may run out of memory: the kernel kills all who share it.
    pub(crate) shares_memory: bool,
    pub(crate) root: RootPlan,
    pub(crate) root_read_only: bool,
    pub(crate) mounts: Vec<MountPlan>,
    pub(crate) devices: Vec<DevicePlan>,
    /// Target, then path.
    pub(crate) links: Vec<(CString, CString)>,
    pub(crate) masked: Vec<CString>,
    pub(crate) read_only: Vec<CString>,
    pub(crate) sysctls: Vec<(CString, Vec<u8>)>,
    pub(crate) hostname: Option<Vec<u8>>,
    pub(crate) domainname: Option<Vec<u8>>,
    pub(crate) network: NetworkPlan,
    pub(crate) terminal: Option<Option<Size>>,
    pub(crate) process: ProcessPlan,
}

/// One device node.
pub(crate) struct DevicePlan {
    pub(crate) path: CString,
    pub(crate) mode: u32,
    pub(crate) device: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// What the program is and as whom it runs.
pub(crate) struct ProcessPlan {
    /// Owns the texts that `argv` and `environment` point to.
    _texts: Vec<CString>,
    pub(crate) candidates: Vec<CString>,
    pub(crate) argv: Vec<*const u8>,
    pub(crate) environment: Vec<*const u8>,
    pub(crate) cwd: CString,
    /// Relative to the root, to be made when missing.
    pub(crate) cwd_in_root: CString,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) umask: u32,
    pub(crate) rlimits: Vec<(u32, libc::rlimit64)>,
    pub(crate) oom_score_adj: Option<Vec<u8>>,
    pub(crate) capabilities: CapabilitySets,
    pub(crate) no_new_privileges: bool,
    pub(crate) filter: Option<Arc<crate::seccomp::Filter>>,
    pub(crate) die_with_parent: bool,
}

/// The path without `.`, `..` and doubled slashes, relative to the root; `.` for the root.
pub(crate) fn in_root(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            std::path::Component::Normal(name) => clean.push(name),
            std::path::Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    if clean.as_os_str().is_empty() { PathBuf::from(".") } else { clean }
}

fn c_string(bytes: impl Into<Vec<u8>>, what: &str) -> Result<CString, StartError> {
    CString::new(bytes).map_err(|_| StartError::BadSpec { what: format!("{what} contains a zero byte") })
}

fn c_path(path: &Path) -> Result<CString, StartError> {
    c_string(path.as_os_str().as_bytes(), "a path")
}

impl Plan {
    /// Works out what to do for `spec`.
    pub(crate) fn new(
        spec: &Spec,
        rootfs: &Rootfs,
        cgroups: &Cgroups,
        network: NetworkPlan,
        terminal: Option<Option<Size>>,
        die_with_parent: bool,
    ) -> Result<Plan, StartError> {
        unsupported::refuse(spec)?;
        let linux = spec.linux().as_ref();
        let process = spec
            .process()
            .as_ref()
            .ok_or_else(|| StartError::BadSpec { what: "the spec has no process".to_owned() })?;
        let clone_flags = clone_flags(spec)?;
        let mut mounts = Vec::new();
        for mount in spec.mounts().iter().flatten() {
            plan_mount(mount, cgroups, &mut mounts)?;
        }
        let mut masked = Vec::new();
        for path in linux.and_then(|linux| linux.masked_paths().as_ref()).into_iter().flatten() {
            masked.push(c_path(&in_root(Path::new(path)))?);
        }
        let mut read_only = Vec::new();
        for path in linux.and_then(|linux| linux.readonly_paths().as_ref()).into_iter().flatten() {
            read_only.push(c_path(&in_root(Path::new(path)))?);
        }
        let own_dev = spec
            .mounts()
            .iter()
            .flatten()
            .any(|mount| mount.destination() == Path::new("/dev") && mount.typ().as_deref() == Some("tmpfs"));
        let resources = linux.and_then(|linux| linux.resources().as_ref());
        let memory = resources.and_then(|resources| resources.memory().as_ref());
        let limited = memory.is_some_and(|memory| memory.limit().is_some_and(|limit| limit >= 0));
        Ok(Plan {
            clone_flags,
            shares_memory: stack::POSSIBLE && clone_flags & libc::CLONE_NEWPID as u64 != 0 && !limited,
            root: plan_root(rootfs)?,
            root_read_only: spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly).unwrap_or(false),
            mounts,
            devices: if own_dev { plan_devices(spec)? } else { Vec::new() },
            links: if own_dev { default_links() } else { Vec::new() },
            masked,
            read_only,
            sysctls: plan_sysctls(spec, clone_flags)?,
            hostname: spec.hostname().as_ref().filter(|name| !name.is_empty()).map(|name| name.as_bytes().to_vec()),
            domainname: spec.domainname().as_ref().filter(|name| !name.is_empty()).map(|name| name.as_bytes().to_vec()),
            network,
            terminal,
            process: plan_process(spec, process, die_with_parent)?,
        })
    }
}

/// Returns the namespaces that the clone makes. A cgroup namespace is made later, inside the cgroup.
fn clone_flags(spec: &Spec) -> Result<u64, StartError> {
    let mut flags = 0;
    for namespace in spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref()).into_iter().flatten() {
        if namespace.path().is_some() {
            return Err(StartError::BadSpec {
                what: "joining a namespace by its path is not supported yet".to_owned(),
            });
        }
        flags |= match namespace.typ() {
            LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
            LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
            LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
            LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
            LinuxNamespaceType::Network => libc::CLONE_NEWNET,
            LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
            other @ (LinuxNamespaceType::User | LinuxNamespaceType::Time) => {
                return Err(StartError::BadSpec { what: format!("a new {other} namespace is not supported yet") });
            }
        } as u32 as u64;
    }
    if flags & libc::CLONE_NEWNS as u64 == 0 {
        return Err(StartError::BadSpec { what: "the spec has no mount namespace".to_owned() });
    }
    Ok(flags)
}

/// The nodes that every container has, then those of the spec.
fn plan_devices(spec: &Spec) -> Result<Vec<DevicePlan>, StartError> {
    const DEFAULT: [(&str, u32, u32); 6] = [
        ("dev/null", 1, 3),
        ("dev/zero", 1, 5),
        ("dev/full", 1, 7),
        ("dev/random", 1, 8),
        ("dev/urandom", 1, 9),
        ("dev/tty", 5, 0),
    ];
    let mut devices = Vec::new();
    for (path, major, minor) in DEFAULT {
        devices.push(DevicePlan {
            path: c_string(path, "a device")?,
            mode: libc::S_IFCHR | 0o666,
            device: libc::makedev(major, minor),
            uid: 0,
            gid: 0,
        });
    }
    for device in spec.linux().as_ref().and_then(|linux| linux.devices().as_ref()).into_iter().flatten() {
        let path = in_root(device.path());
        if devices.iter().any(|other| other.path.as_bytes() == path.as_os_str().as_bytes()) {
            continue;
        }
        let kind = match device.typ().as_str() {
            "b" => libc::S_IFBLK,
            "p" => libc::S_IFIFO,
            _ => libc::S_IFCHR,
        };
        devices.push(DevicePlan {
            path: c_path(&path)?,
            mode: kind | device.file_mode().unwrap_or(0o666) & 0o7777,
            device: libc::makedev(device.major() as u32, device.minor() as u32),
            uid: device.uid().unwrap_or(0),
            gid: device.gid().unwrap_or(0),
        });
    }
    Ok(devices)
}

fn default_links() -> Vec<(CString, CString)> {
    [
        (c"/proc/self/fd", c"dev/fd"),
        (c"/proc/self/fd/0", c"dev/stdin"),
        (c"/proc/self/fd/1", c"dev/stdout"),
        (c"/proc/self/fd/2", c"dev/stderr"),
        (c"/proc/kcore", c"dev/core"),
        (c"pts/ptmx", c"dev/ptmx"),
    ]
    .into_iter()
    .map(|(target, path)| (target.to_owned(), path.to_owned()))
    .collect()
}

/// Only settings that belong to a namespace of the container's own.
fn plan_sysctls(spec: &Spec, flags: u64) -> Result<Vec<(CString, Vec<u8>)>, StartError> {
    let new = |flag: i32| flags & flag as u32 as u64 != 0;
    let mut plans = Vec::new();
    let sysctls = spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref());
    for (name, value) in sysctls.into_iter().flatten() {
        let path = name.replace('.', "/");
        let allowed = match path.split_once('/') {
            Some(("net", _)) => new(libc::CLONE_NEWNET),
            Some(("fs", rest)) => new(libc::CLONE_NEWIPC) && rest.starts_with("mqueue/"),
            Some(("kernel", rest)) => match rest {
                "domainname" | "hostname" => new(libc::CLONE_NEWUTS),
                _ => new(libc::CLONE_NEWIPC) && (rest == "sem" || rest.starts_with("shm") || rest.starts_with("msg")),
            },
            _ => false,
        };
        if !allowed || path.split('/').any(|part| part.is_empty() || part == "..") {
            let what = format!("the kernel setting `{name}` does not belong to the container");
            return Err(StartError::BadSpec { what });
        }
        plans.push((c_string(format!("proc/sys/{path}"), "a kernel setting")?, value.as_bytes().to_vec()));
    }
    Ok(plans)
}

fn plan_process(spec: &Spec, process: &Process, die_with_parent: bool) -> Result<ProcessPlan, StartError> {
    let args = process.args().as_deref().unwrap_or_default();
    let Some(program) = args.first() else {
        return Err(StartError::BadSpec { what: "no command is given".to_owned() });
    };
    let env = process.env().as_deref().unwrap_or_default();
    let mut texts = Vec::with_capacity(args.len() + env.len());
    let mut pointers = |list: &[String], what: &str| {
        let mut pointers = Vec::with_capacity(list.len() + 1);
        for text in list {
            let text = c_string(text.as_str(), what)?;
            // The bytes of a CString stay where they are when it moves.
            pointers.push(text.as_ptr().cast::<u8>());
            texts.push(text);
        }
        pointers.push(ptr::null());
        Ok::<_, StartError>(pointers)
    };
    let argv = pointers(args, "an argument")?;
    let environment = pointers(env, "an environment variable")?;
    let user = process.user();
    let mut rlimits = Vec::new();
    for limit in process.rlimits().iter().flatten() {
        let value = libc::rlimit64 { rlim_cur: limit.soft(), rlim_max: limit.hard() };
        rlimits.push((rlimit_number(limit.typ()), value));
    }
    let no_new_privileges = process.no_new_privileges().unwrap_or(false);
    let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    Ok(ProcessPlan {
        candidates: candidates(program, env)?,
        argv,
        environment,
        _texts: texts,
        cwd: c_path(&Path::new("/").join(process.cwd()))?,
        cwd_in_root: c_path(&in_root(process.cwd()))?,
        uid: user.uid(),
        gid: user.gid(),
        groups: user.additional_gids().clone().unwrap_or_default(),
        umask: user.umask().unwrap_or(0o022),
        rlimits,
        oom_score_adj: process.oom_score_adj().map(|score| score.to_string().into_bytes()),
        capabilities: capabilities::sets(process.capabilities().as_ref()),
        no_new_privileges,
        filter: seccomp.map(crate::seccomp::compiled).transpose()?,
        die_with_parent,
    })
}

/// Where the program may be: itself when it is a path, else in each folder of `PATH`.
fn candidates(program: &str, env: &[String]) -> Result<Vec<CString>, StartError> {
    if program.contains('/') {
        return Ok(vec![c_string(program, "the program")?]);
    }
    let path = env.iter().rev().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or_default();
    let mut candidates = Vec::new();
    for folder in path.split(':') {
        if !program.is_empty() {
            let folder = if folder.is_empty() { "." } else { folder };
            candidates.push(c_string(format!("{folder}/{program}"), "the program")?);
        }
    }
    Ok(candidates)
}

/// The kernel's number; libc's constants have another type on each platform.
fn rlimit_number(kind: PosixRlimitType) -> u32 {
    match kind {
        PosixRlimitType::RlimitCpu => 0,
        PosixRlimitType::RlimitFsize => 1,
        PosixRlimitType::RlimitData => 2,
        PosixRlimitType::RlimitStack => 3,
        PosixRlimitType::RlimitCore => 4,
        PosixRlimitType::RlimitRss => 5,
        PosixRlimitType::RlimitNproc => 6,
        PosixRlimitType::RlimitNofile => 7,
        PosixRlimitType::RlimitMemlock => 8,
        PosixRlimitType::RlimitAs => 9,
        PosixRlimitType::RlimitLocks => 10,
        PosixRlimitType::RlimitSigpending => 11,
        PosixRlimitType::RlimitMsgqueue => 12,
        PosixRlimitType::RlimitNice => 13,
        PosixRlimitType::RlimitRtprio => 14,
        PosixRlimitType::RlimitRttime => 15,
    }
}
