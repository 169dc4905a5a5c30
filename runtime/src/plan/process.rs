//! What the program is, and as whom it runs.

use super::{c_path, c_string, in_root};
use crate::capabilities::{self, CapabilitySets};
use crate::rootless;
use crate::start_error::{StartError, Warning};
use crate::sys::SchedulerAttributes;
use oci_spec::runtime::{
    IOPriorityClass, LinuxPersonality, LinuxPersonalityDomain, LinuxSchedulerFlag, LinuxSchedulerPolicy, LinuxSeccomp,
    PosixRlimitType, Process, Scheduler,
};
use std::ffi::CString;
use std::path::Path;
use std::ptr;
use std::sync::Arc;

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
    /// Whether the kernel lets nobody here leave a group.
    pub(crate) keeps_groups: bool,
    pub(crate) umask: u32,
    pub(crate) rlimits: Vec<(u32, libc::rlimit64)>,
    pub(crate) oom_score_adj: Option<Vec<u8>>,
    pub(crate) capabilities: CapabilitySets,
    pub(crate) no_new_privileges: bool,
    pub(crate) filter: Option<Arc<crate::seccomp::Filter>>,
    pub(crate) die_with_parent: bool,
    pub(crate) keep_keyring: bool,
    pub(crate) personality: Option<u64>,
    pub(crate) scheduler: Option<SchedulerAttributes>,
    pub(crate) io_priority: Option<i32>,
}

/// Texts for exec: an array of pointers that ends with a zero, and who owns what they point to.
pub(super) fn pointers(list: &[String], what: &str, texts: &mut Vec<CString>) -> Result<Vec<*const u8>, StartError> {
    let mut pointers = Vec::with_capacity(list.len() + 1);
    for text in list {
        let text = c_string(text.as_str(), what)?;
        // The bytes of a CString stay where they are when it moves.
        pointers.push(text.as_ptr().cast::<u8>());
        texts.push(text);
    }
    pointers.push(ptr::null());
    Ok(pointers)
}

/// What is asked of a program beside the spec's `process`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProcessOptions<'a> {
    pub(crate) seccomp: Option<&'a LinuxSeccomp>,
    pub(crate) personality: Option<&'a LinuxPersonality>,
    pub(crate) die_with_parent: bool,
    pub(crate) keep_keyring: bool,
    /// Whether it runs in another user namespace, where every capability is to be had.
    pub(crate) other_user: bool,
}

/// Works out how the program is run. What cannot be had becomes a warning.
pub(super) fn plan_process(
    process: &Process,
    options: ProcessOptions<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<ProcessPlan, StartError> {
    let args = process.args().as_deref().unwrap_or_default();
    let Some(program) = args.first() else {
        return Err(StartError::BadSpec { what: "no command is given".to_owned() });
    };
    let env = process.env().as_deref().unwrap_or_default();
    let mut texts = Vec::with_capacity(args.len() + env.len());
    let argv = pointers(args, "an argument", &mut texts)?;
    let environment = pointers(env, "an environment variable", &mut texts)?;
    let user = process.user();
    let mut rlimits: Vec<(u32, libc::rlimit64)> = Vec::new();
    for limit in process.rlimits().iter().flatten() {
        let value = libc::rlimit64 { rlim_cur: limit.soft(), rlim_max: limit.hard() };
        let number = rlimit_number(limit.typ());
        if rlimits.iter().any(|(other, _)| *other == number) {
            return Err(StartError::BadSpec { what: format!("the limit `{}` is given twice", limit.typ()) });
        }
        rlimits.push((number, value));
    }
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
        keeps_groups: rootless::keeps_groups(),
        umask: user.umask().unwrap_or(0o022),
        rlimits,
        oom_score_adj: process.oom_score_adj().map(|score| score.to_string().into_bytes()),
        capabilities: possible(capabilities::sets(process.capabilities().as_ref()), options.other_user, warnings),
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        filter: options.seccomp.map(crate::seccomp::compiled).transpose()?,
        die_with_parent: options.die_with_parent,
        keep_keyring: options.keep_keyring,
        personality: options.personality.map(persona).transpose()?,
        scheduler: process.scheduler().as_ref().map(scheduler).transpose()?,
        io_priority: process.io_priority().as_ref().map(io_priority).transpose()?,
    })
}

/// Leaves out what this process has not and so cannot give.
fn possible(sets: CapabilitySets, other_user: bool, warnings: &mut Vec<Warning>) -> CapabilitySets {
    if other_user {
        return sets;
    }
    let own = capabilities::available().fold(0, |bits, one| bits | 1 << capabilities::number(one));
    let wanted = sets.permitted | sets.effective | sets.inheritable | sets.ambient;
    for capability in capabilities::ALL {
        if wanted & !own & 1 << capabilities::number(capability) != 0 {
            warnings.push(Warning::NoCapability { name: capability.to_string() });
        }
    }
    CapabilitySets {
        bounding: sets.bounding,
        effective: sets.effective & own,
        permitted: sets.permitted & own,
        inheritable: sets.inheritable & own,
        ambient: sets.ambient & own,
    }
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

fn persona(wanted: &LinuxPersonality) -> Result<u64, StartError> {
    if wanted.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
        return Err(StartError::BadSpec { what: "the flags of `linux.personality` are not supported".to_owned() });
    }
    Ok(match wanted.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    })
}

fn scheduler(wanted: &Scheduler) -> Result<SchedulerAttributes, StartError> {
    let policy = match wanted.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let flags = wanted.flags().iter().flatten().fold(0, |bits, flag| {
        bits | match flag {
            LinuxSchedulerFlag::SchedResetOnFork => 0x01,
            LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
            LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
            LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
            LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
            LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
            LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
        }
    });
    let priority = u32::try_from(wanted.priority().unwrap_or(0))
        .map_err(|_| StartError::BadSpec { what: "`process.scheduler.priority` is negative".to_owned() })?;
    Ok(SchedulerAttributes {
        size: size_of::<SchedulerAttributes>() as u32,
        policy,
        flags,
        nice: wanted.nice().unwrap_or(0),
        priority,
        runtime: wanted.runtime().unwrap_or(0),
        deadline: wanted.deadline().unwrap_or(0),
        period: wanted.period().unwrap_or(0),
    })
}

fn io_priority(wanted: &oci_spec::runtime::LinuxIOPriority) -> Result<i32, StartError> {
    let class = match wanted.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match i32::try_from(wanted.priority()) {
        Ok(priority @ 0..=7) => Ok(class << 13 | priority),
        _ => Err(StartError::BadSpec { what: "`process.ioPriority.priority` is not one of 0 to 7".to_owned() }),
    }
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
