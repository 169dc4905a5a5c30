//! What the child will do, worked out beforehand: every text is a C string, every choice is made.
//!
//! The child runs this list between clone and exec, where nothing may allocate.

mod copy_up;
mod hooks;
mod mounts;
mod namespaces;
mod process;
mod unsupported;

pub(crate) use hooks::{HookPlan, StateText, check as check_hook, timeout as hook_timeout};
pub use mounts::MOUNT_OPTIONS;
pub use mounts::overlay_options;
pub(crate) use mounts::{Make, MountPlan, MountPlanKind, OverlayPlan, PropagationPlan, RootPlan, plan_root};
pub(crate) use namespaces::{CLONE_NEWTIME, Entry, entry_into};
pub(crate) use process::{ProcessOptions, ProcessPlan};

use crate::cgroups::Cgroups;
use crate::child::net::NetworkPlan;
use crate::container::Rootfs;
use crate::rootless;
use crate::stack;
use crate::start_error::{StartError, Warning};
use crate::stdio::Size;
use mounts::{MountContext, plan_mount, plan_propagation};
use namespaces::plan_namespaces;
use oci_spec::runtime::{Process, Spec};
use process::plan_process;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The whole of what the child will do.
pub(crate) struct Plan {
    pub(crate) entry: Entry,
    /// What is new, if not by the entry.
    pub(crate) clone_flags: u64,
    /// Whether the child shares the parent's memory until it execs.
    ///
    /// Not when others are in its PID namespace: they could see it through `/proc`, which cannot be forbidden without
    /// forbidding it for the parent. And not when its cgroup may run out of memory: the kernel kills all who share it.
    pub(crate) shares_memory: bool,
    /// None for a program that joins a container, whose files are there.
    pub(crate) root: Option<RootPlan>,
    pub(crate) propagation: PropagationPlan,
    pub(crate) no_pivot: bool,
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
    /// Whether the child asks the parent for its part before it changes its root, and waits.
    pub(crate) asks: bool,
    /// Hooks before the change of root.
    pub(crate) create_hooks: Vec<HookPlan>,
    /// Hooks before the program.
    pub(crate) start_hooks: Vec<HookPlan>,
    pub(crate) process: ProcessPlan,
}

/// How a plan is made, beside its spec.
#[derive(Clone, Debug, Default)]
pub(crate) struct PlanOptions {
    pub(crate) terminal: Option<Option<Size>>,
    pub(crate) die_with_parent: bool,
    pub(crate) keep_keyring: bool,
    pub(crate) no_pivot: bool,
    /// What hooks are told before the change of root, and before the program.
    pub(crate) states: Option<(StateText, StateText)>,
}

/// One device node.
pub(crate) struct DevicePlan {
    pub(crate) path: CString,
    pub(crate) mode: u32,
    pub(crate) device: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The host's node, where none can be made.
    pub(crate) bind: Option<CString>,
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
        options: PlanOptions,
        warnings: &mut Vec<Warning>,
    ) -> Result<Plan, StartError> {
        unsupported::refuse(spec)?;
        let linux = spec.linux().as_ref();
        let process = spec
            .process()
            .as_ref()
            .ok_or_else(|| StartError::BadSpec { what: "the spec has no process".to_owned() })?;
        let (entry, clone_flags) = plan_namespaces(spec)?;
        let other_user = entry.other_user();
        let named = [spec.hostname(), spec.domainname()].into_iter().flatten().any(|name| !name.is_empty());
        if named && !entry.has(libc::CLONE_NEWUTS, clone_flags) {
            let what = "the spec has a hostname or domainname, and no UTS namespace".to_owned();
            return Err(StartError::BadSpec { what });
        }
        let new_cgroup_namespace = clone_flags & libc::CLONE_NEWCGROUP as u32 as u64 != 0;
        let new_network = entry.has(libc::CLONE_NEWNET, clone_flags);
        let context = MountContext { spec, rootfs, cgroups, other_user, new_network, new_cgroup_namespace };
        let mut mounts = Vec::new();
        for mount in spec.mounts().iter().flatten() {
            plan_mount(mount, &context, &mut mounts)?;
        }
        let paths = |paths: Option<&Vec<String>>| {
            let paths = paths.into_iter().flatten();
            paths.map(|path| c_path(&in_root(Path::new(path)))).collect::<Result<Vec<_>, _>>()
        };
        let own_dev =
            spec.mounts().iter().flatten().any(|mount| {
                in_root(mount.destination()) == Path::new("dev") && mount.typ().as_deref() == Some("tmpfs")
            });
        let hooks = spec.hooks().as_ref();
        let (create_state, start_state) = options.states.unwrap_or_default();
        let resources = linux.and_then(|linux| linux.resources().as_ref());
        let memory = resources.and_then(|resources| resources.memory().as_ref());
        let limited = memory.is_some_and(|memory| memory.limit().is_some_and(|limit| limit >= 0));
        let asks = hooks.is_some() || entry.waits_for_ids() || entry.stage;
        let alone = limited || asks || process.oom_score_adj().is_some();
        Ok(Plan {
            // The kernel sets the badness of all who share their memory.
            shares_memory: stack::POSSIBLE && clone_flags & libc::CLONE_NEWPID as u64 != 0 && !alone,
            root: Some(plan_root(rootfs)?),
            propagation: plan_propagation(spec, rootfs)?,
            no_pivot: options.no_pivot,
            root_read_only: spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly).unwrap_or(false),
            mounts,
            devices: if own_dev { plan_devices(spec, other_user || rootless::is_confined())? } else { Vec::new() },
            links: if own_dev { default_links() } else { Vec::new() },
            masked: paths(linux.and_then(|linux| linux.masked_paths().as_ref()))?,
            read_only: paths(linux.and_then(|linux| linux.readonly_paths().as_ref()))?,
            sysctls: plan_sysctls(spec, clone_flags, &entry)?,
            hostname: spec.hostname().as_ref().filter(|name| !name.is_empty()).map(|name| name.as_bytes().to_vec()),
            domainname: spec.domainname().as_ref().filter(|name| !name.is_empty()).map(|name| name.as_bytes().to_vec()),
            network,
            terminal: options.terminal,
            asks,
            create_hooks: hooks::plan_hooks(hooks.and_then(|all| all.create_container().as_deref()), &create_state)?,
            start_hooks: hooks::plan_hooks(hooks.and_then(|all| all.start_container().as_deref()), &start_state)?,
            process: plan_process(
                process,
                ProcessOptions {
                    seccomp: linux.and_then(|linux| linux.seccomp().as_ref()),
                    personality: linux.and_then(|linux| linux.personality().as_ref()),
                    die_with_parent: options.die_with_parent,
                    keep_keyring: options.keep_keyring,
                    other_user,
                },
                warnings,
            )?,
            entry,
            clone_flags,
        })
    }

    /// Works out how to run one more program in a container that is there.
    pub(crate) fn inside(
        entry: Entry,
        process: &Process,
        mut options: ProcessOptions<'_>,
        terminal: Option<Option<Size>>,
        warnings: &mut Vec<Warning>,
    ) -> Result<Plan, StartError> {
        unsupported::refuse_process(process)?;
        options.other_user = entry.other_user();
        Ok(Plan {
            // Only the process in between, which nobody in the container sees. Should the container reach its limit of
            // memory in that moment, the kernel kills all who share it: not who lives for more than this program.
            // Nobody who shares his memory may go to other clocks, and the kernel sets the badness of all who share theirs.
            shares_memory: stack::POSSIBLE
                && entry.stage
                && !options.other_user
                && !options.die_with_parent
                && !entry.joins_clocks()
                && process.oom_score_adj().is_none(),
            process: plan_process(process, options, warnings)?,
            entry,
            clone_flags: 0,
            root: None,
            propagation: PropagationPlan::default(),
            no_pivot: false,
            root_read_only: false,
            mounts: Vec::new(),
            devices: Vec::new(),
            links: Vec::new(),
            masked: Vec::new(),
            read_only: Vec::new(),
            sysctls: Vec::new(),
            hostname: None,
            domainname: None,
            network: NetworkPlan::default(),
            terminal,
            asks: false,
            create_hooks: Vec::new(),
            start_hooks: Vec::new(),
        })
    }
}

/// The nodes that every container has, then those of the spec.
fn plan_devices(spec: &Spec, binds: bool) -> Result<Vec<DevicePlan>, StartError> {
    const DEFAULT: [(&str, u32, u32); 6] = [
        ("dev/null", 1, 3),
        ("dev/zero", 1, 5),
        ("dev/full", 1, 7),
        ("dev/random", 1, 8),
        ("dev/urandom", 1, 9),
        ("dev/tty", 5, 0),
    ];
    let node = |path: &Path, mode, device, uid, gid| {
        // Only the host's root may make one.
        let bind = if binds { Some(c_path(&Path::new("/").join(path))?) } else { None };
        Ok::<_, StartError>(DevicePlan { path: c_path(path)?, mode, device, uid, gid, bind })
    };
    let mut devices = Vec::new();
    for (path, major, minor) in DEFAULT {
        devices.push(node(Path::new(path), libc::S_IFCHR | 0o666, libc::makedev(major, minor), 0, 0)?);
    }
    for device in spec.linux().as_ref().and_then(|linux| linux.devices().as_ref()).into_iter().flatten() {
        let path = in_root(device.path());
        if devices.iter().any(|other| other.path.as_bytes() == path.as_os_str().as_bytes()) {
            continue;
        }
        let kind = match device.typ().as_str() {
            "b" => libc::S_IFBLK,
            "c" | "u" => libc::S_IFCHR,
            "p" => libc::S_IFIFO,
            other => {
                let what = format!("the device `{}` is of an unknown type `{other}`", device.path().display());
                return Err(StartError::BadSpec { what });
            }
        };
        let number = |number: i64| {
            u32::try_from(number).map_err(|_| StartError::BadSpec {
                what: format!("the number {number} of the device `{}`", device.path().display()),
            })
        };
        let mode = kind | device.file_mode().unwrap_or(0o666) & 0o7777;
        let numbers = libc::makedev(number(device.major())?, number(device.minor())?);
        devices.push(node(&path, mode, numbers, device.uid().unwrap_or(0), device.gid().unwrap_or(0))?);
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
    .filter(|(target, _)| *target != c"/proc/kcore" || Path::new("/proc/kcore").exists())
    .map(|(target, path)| (target.to_owned(), path.to_owned()))
    .collect()
}

/// Only settings that belong to a namespace of the container's own.
fn plan_sysctls(spec: &Spec, flags: u64, entry: &Entry) -> Result<Vec<(CString, Vec<u8>)>, StartError> {
    let new = |flag: i32| entry.has(flag, flags);
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
