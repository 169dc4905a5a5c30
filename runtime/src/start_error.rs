//! Why a container did not start, or not quite as it was asked to.

use crate::child::message::{Failure, Step};
use crate::plan::{MountPlanKind, Plan};
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
        Step::JoinCgroup => "join the cgroup".to_owned(),
        Step::CgroupNamespace => "make a cgroup namespace".to_owned(),
        Step::Session => "start a session".to_owned(),
        Step::PrivateMounts => "make mounts private".to_owned(),
        Step::RootOverlay => "mount the root overlay".to_owned(),
        Step::RootFolder => "mount the root folder".to_owned(),
        Step::MountSource => match plan.mounts.get(index).map(|mount| &mount.kind) {
            Some(MountPlanKind::Bind { source, .. }) => format!("mount source `{}`", source.to_string_lossy()),
            _ => format!("mount source for `/{}`", target()),
        },
        Step::MountTarget => format!("mount target `/{}`", target()),
        Step::Mount => format!("mount on `/{}`", target()),
        Step::Device => format!("make device `/{}`", text(plan.devices.get(index).map(|device| &device.path))),
        Step::Link => format!("make link `/{}`", text(plan.links.get(index).map(|(_, path)| path))),
        Step::Terminal => "open a terminal".to_owned(),
        Step::Sysctl => format!("set `/{}`", text(plan.sysctls.get(index).map(|(path, _)| path))),
        Step::NotProc => "`/proc` is not a procfs of the container".to_owned(),
        Step::Mask => format!("mask `/{}`", text(plan.masked.get(index))),
        Step::ReadOnly => format!("make `/{}` read-only", text(plan.read_only.get(index))),
        Step::ReadOnlyRoot => "make `/` read-only".to_owned(),
        Step::Pivot => "change the root".to_owned(),
        Step::Hostname => "set the hostname".to_owned(),
        Step::Limit => {
            let resource = plan.process.rlimits.get(index).and_then(|(resource, _)| RLIMITS.get(*resource as usize));
            resource.copied().unwrap_or("resource limit").to_owned()
        }
        Step::OomScore => "oom_score_adj".to_owned(),
        Step::Streams => "set up standard streams".to_owned(),
        Step::Parent => "wait for the starter".to_owned(),
        Step::Network => "set up network interfaces".to_owned(),
        Step::Capabilities => "set capabilities".to_owned(),
        Step::Seccomp => "install the seccomp filter".to_owned(),
        Step::User => "change the user".to_owned(),
        Step::WorkingDirectory => "change the working directory".to_owned(),
        Step::Descriptors => "close descriptors".to_owned(),
        Step::Exec => "exec".to_owned(),
    }
}

/// Returns the error that a failure of the child is to the starter.
pub(crate) fn start_error(plan: &Plan, failure: Failure) -> StartError {
    let source = io::Error::from_raw_os_error(failure.errno);
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

/// Reads the numbers of a failure or a warning.
pub(crate) fn parse_failure(bytes: &[u8]) -> Option<Failure> {
    let step = *Step::ALL.get(usize::from(*bytes.get(1)?))?;
    let index = u32::from_ne_bytes(bytes.get(2..6)?.try_into().ok()?);
    let errno = i32::from_ne_bytes(bytes.get(6..10)?.try_into().ok()?);
    Some(Failure { step, index, errno })
}
