//! One more program in a container that runs.

use crate::cgroups::{CgroupFolders, Cgroups};
use crate::container::{Container, Extras, Surroundings, launch};
use crate::plan::{Plan, ProcessOptions, entry_into};
use crate::start_error::{StartError, setup};
use crate::stdio::{Stdio, open_streams};
use crate::user_namespace;
use oci_spec::runtime::{Process, Spec};
use std::io;

/// What to run, and where.
#[derive(Debug)]
pub struct ExecConfig<'a> {
    /// The container's first process.
    pub pid: u32,
    /// When that process started, in the kernel's ticks, if it is known: its number may have become another's.
    pub started: Option<u64>,
    /// The container's spec, for the seccomp filter, the personality and who is who.
    pub spec: &'a Spec,
    /// The program.
    pub process: Process,
    /// Its standard streams.
    pub stdio: Stdio,
    /// Kill it when the thread that called [`exec`] ends.
    pub die_with_parent: bool,
    /// How many descriptors from 3 on the program gets, too.
    pub kept: u32,
}

/// Starts a program in all namespaces and in the cgroup of a container; when this returns, it runs.
///
/// The container's capabilities are no limit: the process has what its own `process` says.
pub fn exec(config: ExecConfig<'_>) -> Result<Container, StartError> {
    let ExecConfig { pid, started, spec, process, stdio, die_with_parent, kept } = config;
    let raw = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    let raw = raw.ok_or_else(|| StartError::BadSpec { what: format!("{pid} is not a process") })?;
    let handle = rustix::process::pidfd_open(raw, rustix::process::PidfdFlags::empty())
        .map_err(setup("open a handle of the container"))?;
    if started.is_some() && started != crate::owner::start_time(pid) {
        let gone = io::Error::from(io::ErrorKind::NotFound);
        return Err(StartError::Setup { what: "the container has ended".to_owned(), source: gone });
    }
    let folders = CgroupFolders::of_process(pid)
        .map_err(|source| StartError::Setup { what: "find the container's cgroup".to_owned(), source })?;
    let cgroups = Cgroups::to_join(&folders)?;
    let entry = entry_into(pid, handle)?;
    let user = process.user().uid();
    let user = match user_namespace::maps_of_spec(spec)? {
        Some(maps) => maps.outside_user(user).unwrap_or(user),
        None => user,
    };
    let (terminal, streams) = open_streams(stdio, user)?;
    let linux = spec.linux().as_ref();
    let options = ProcessOptions {
        seccomp: linux.and_then(|linux| linux.seccomp().as_ref()),
        personality: linux.and_then(|linux| linux.personality().as_ref()),
        die_with_parent,
        keep_keyring: false,
        other_user: false,
    };
    let mut warnings = Vec::new();
    let plan = Plan::inside(entry, &process, options, terminal, &mut warnings)?;
    let mut extras = Extras { kept, ..Extras::default() };
    let surroundings = Surroundings { cgroups, warnings, ..Surroundings::default() };
    launch(plan, streams, &mut extras, surroundings)?.ready(&mut extras)
}
