//! Why a container did not start, or not quite as it was asked to.

use crate::child::message::{Failure, Step};
use crate::plan::{MountPlanKind, Plan};
use oci_spec::runtime::Spec;
use std::ffi::{CStr, CString};
use std::io;

/// Something that was asked for and could not be had, but need not stop the container.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum Warning {
    #[error("no cgroup could be made, so limits are off: {reason}")]
    NoCgroup { reason: String },
    #[error("the limit `{limit}` is off: {reason}")]
    LimitIgnored { limit: String, reason: String },
    #[error("{name} is not given: this process does not have it")]
    NoCapability { name: String },
}

/// Why a container did not start.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum StartError {
    #[error("exec: `{program}`: executable file not found in $PATH")]
    ProgramNotFound { program: String },
    #[error("exec: `{program}`")]
    ProgramNotExecutable { program: String, source: io::Error },
    #[error("working directory `{path}`")]
    WorkingDirectory { path: String, source: io::Error },
    #[error("{what}")]
    Setup { what: String, source: io::Error },
    #[error("{what}")]
    BadSpec { what: String },
    #[error("network")]
    Network(#[from] crate::network::NetworkError),
}

impl StartError {
    /// The exit code that `docker run` gives for it: 125, 126 or 127.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::ProgramNotFound { .. } => 127,
            Self::ProgramNotExecutable { .. } => 126,
            Self::WorkingDirectory { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => 127,
                io::ErrorKind::PermissionDenied => 126,
                _ => 125,
            },
            Self::Setup { .. } | Self::BadSpec { .. } | Self::Network(_) => 125,
        }
    }
}

/// For `map_err`: `what` failed.
pub(crate) fn setup(what: &str) -> impl Fn(rustix::io::Errno) -> StartError {
    let what = what.to_owned();
    move |error| StartError::Setup { what: what.clone(), source: error.into() }
}

/// What docker calls resource limits, at the places of the kernel's numbers.
const RLIMITS: [&str; 16] = [
    "cpu",
    "fsize",
    "data",
    "stack",
    "core",
    "rss",
    "nproc",
    "nofile",
    "memlock",
    "as",
    "locks",
    "sigpending",
    "msgqueue",
    "nice",
    "rtprio",
    "rttime",
];

/// Returns the sentence for what the child was doing.
pub(crate) fn describe(plan: &Plan, failure: Failure) -> String {
    let index = failure.index as usize;
    let text = |text: Option<&CString>| text.map_or(String::new(), |text| text.to_string_lossy().into_owned());
    let target = || text(plan.mounts.get(index).map(|mount| &mount.target));
    match failure.step {
        Step::MountSource => match plan.mounts.get(index).map(|mount| &mount.kind) {
            Some(MountPlanKind::Bind { source, .. }) => format!("mount source `{}`", source.to_string_lossy()),
            _ => format!("mount source for `/{}`", target()),
        },
        Step::MountTarget => format!("mount target `/{}`", target()),
        Step::Mount => format!("mount on `/{}`", target()),
        Step::Device => format!("make device `/{}`", text(plan.devices.get(index).map(|device| &device.path))),
        Step::Link => format!("make link `/{}`", text(plan.links.get(index).map(|(_, path)| path))),
        Step::Sysctl => format!("set `/{}`", text(plan.sysctls.get(index).map(|(path, _)| path))),
        Step::Mask => format!("mask `/{}`", text(plan.masked.get(index))),
        Step::ReadOnly => format!("make `/{}` read-only", text(plan.read_only.get(index))),
        Step::Limit => {
            let resource = plan.process.rlimits.get(index).and_then(|(resource, _)| RLIMITS.get(*resource as usize));
            resource.copied().unwrap_or("resource limit").to_owned()
        }
        Step::Join => match plan.entry.joins.get(index) {
            Some(join) => format!("join the namespaces of `{}`", join.name),
            None => "join namespaces".to_owned(),
        },
        Step::Priority => match index {
            0 => "set the personality".to_owned(),
            1 => "set the scheduler".to_owned(),
            _ => "set the I/O priority".to_owned(),
        },
        Step::CreateHook => format!("hook `{}`", text(plan.create_hooks.get(index).map(|hook| &hook.path))),
        Step::StartHook => format!("hook `{}`", text(plan.start_hooks.get(index).map(|hook| &hook.path))),
        step => general(step).to_owned(),
    }
}

/// What a step is, when it is not known at which member of its list.
fn general(step: Step) -> &'static str {
    match step {
        Step::JoinCgroup => "join the cgroup",
        Step::CgroupNamespace => "make a cgroup namespace",
        Step::Session => "start a session",
        Step::PrivateMounts => "make mounts private",
        Step::RootOverlay => "mount the root overlay",
        Step::RootFolder => "mount the root folder",
        Step::Terminal => "open a terminal",
        Step::NotProc => "`/proc` is not a procfs of the container",
        Step::ReadOnlyRoot => "make `/` read-only",
        Step::Pivot => "change the root",
        Step::Hostname => "set the hostname",
        Step::OomScore => "oom_score_adj",
        Step::Streams => "set up standard streams",
        Step::Parent => "wait for the starter",
        Step::Network => "set up network interfaces",
        Step::Capabilities => "set capabilities",
        Step::Seccomp => "install the seccomp filter",
        Step::User => "change the user",
        Step::WorkingDirectory => "change the working directory",
        Step::Descriptors => "close descriptors",
        Step::Exec => "exec",
        Step::UserNamespace => "become root of a user namespace",
        Step::TimeNamespace => "make a time namespace",
        Step::Clone => "make a process in the container's namespaces",
        Step::Wait => "wait to be started",
        Step::Listener => "hand the seccomp listener over",
        Step::MountSource | Step::MountTarget | Step::Mount => "mount",
        Step::Device => "make a device",
        Step::Link => "make a link",
        Step::Sysctl => "set a kernel setting",
        Step::Mask => "mask a path",
        Step::ReadOnly => "make a path read-only",
        Step::Limit => "resource limit",
        Step::Join => "join namespaces",
        Step::Priority => "set the priority",
        Step::CreateHook | Step::StartHook => "hook",
    }
}

/// Returns the error that a failure of the child is to the starter.
pub(crate) fn start_error(plan: &Plan, failure: Failure) -> StartError {
    let source = cause(failure);
    let program = || {
        let pointer = plan.process.argv[0].cast();
        // SAFETY: the first argument is a C string that the plan owns; there always is one.
        unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
    };
    match (failure.step, failure.errno) {
        (Step::Exec, libc::ENOENT) => StartError::ProgramNotFound { program: program() },
        (Step::Exec, _) => StartError::ProgramNotExecutable { program: program(), source },
        (Step::WorkingDirectory, _) => {
            StartError::WorkingDirectory { path: plan.process.cwd.to_string_lossy().into_owned(), source }
        }
        _ => StartError::Setup { what: describe(plan, failure), source },
    }
}

/// Returns the error that a failure is to who starts a container that was created, of which only the spec is known.
pub(crate) fn failed_start(spec: &Spec, bytes: Option<&[u8]>) -> StartError {
    let Some(failure) = bytes.and_then(parse_failure) else {
        return StartError::Setup {
            what: "the container was killed before it started".to_owned(),
            source: io::Error::from(io::ErrorKind::UnexpectedEof),
        };
    };
    let source = cause(failure);
    let process = spec.process().as_ref();
    let program = || process.and_then(|process| process.args().as_ref()?.first().cloned()).unwrap_or_default();
    match (failure.step, failure.errno) {
        (Step::Exec, libc::ENOENT) => StartError::ProgramNotFound { program: program() },
        (Step::Exec, _) => StartError::ProgramNotExecutable { program: program(), source },
        (Step::WorkingDirectory, _) => StartError::WorkingDirectory {
            path: process.map(|process| process.cwd().display().to_string()).unwrap_or_default(),
            source,
        },
        (Step::StartHook, _) => {
            let hooks = spec.hooks().as_ref().and_then(|hooks| hooks.start_container().as_ref());
            let hook = hooks.and_then(|hooks| hooks.get(failure.index as usize));
            let path = hook.map(|hook| hook.path().display().to_string()).unwrap_or_default();
            StartError::Setup { what: format!("hook `{path}`"), source }
        }
        (step, _) => StartError::Setup { what: general(step).to_owned(), source },
    }
}

/// What the kernel said, or a hook.
fn cause(failure: Failure) -> io::Error {
    match failure.errno {
        code if code < 0 => io::Error::other(format!("it ended with exit code {}", -code)),
        number => io::Error::from_raw_os_error(number),
    }
}

/// Reads the numbers of a failure or a warning.
pub(crate) fn parse_failure(bytes: &[u8]) -> Option<Failure> {
    let step = *Step::ALL.get(usize::from(*bytes.get(1)?))?;
    let index = u32::from_ne_bytes(bytes.get(2..6)?.try_into().ok()?);
    let errno = i32::from_ne_bytes(bytes.get(6..10)?.try_into().ok()?);
    Some(Failure { step, index, errno })
}
