//! Lists the processes of a container.

use std::fs;
use std::io;

use jiff::Timestamp;
use runtime::CgroupFolders;
use supervisor::{ContainerError, Status};

use crate::Engine;
use crate::containers;

/// A process of a container, as this machine sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListedProcess {
    /// Its number.
    pub pid: u32,
    /// Its parent's number.
    pub parent: u32,
    /// Whose it is.
    pub uid: u32,
    /// Its name.
    pub name: String,
    /// What it was called with; its name in brackets when there is nothing.
    pub command: String,
    /// What it is doing, in one letter.
    pub state: String,
    /// The number of its terminal, 0 for none.
    pub terminal: u32,
    /// How many seconds after the start of the machine it began.
    pub start: u64,
    /// How many seconds of processors' time it has taken.
    pub time: u64,
    /// KiB of address space.
    pub virtual_size: u64,
    /// KiB of memory.
    pub resident: u64,
}

/// Why processes were not listed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum TopError {
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error("container {id} is not running")]
    NotRunning { id: String },
    #[error("cannot find the container's cgroup")]
    Cgroup(#[source] io::Error),
}

/// Lists the processes of a container, by their numbers.
///
/// # Errors
///
/// When there is no such container, or it does not run.
pub async fn top(engine: &Engine, name: String, now: Timestamp) -> Result<Vec<ListedProcess>, TopError> {
    let all = containers::all(engine);
    store::blocking::run(move || {
        let container = all.find(&name)?;
        let state = container.state(now)?;
        let not_running = || TopError::NotRunning { id: container.id().into() };
        if !matches!(state.status, Status::Running | Status::Paused) {
            return Err(not_running());
        }
        let process = state.process.ok_or_else(not_running)?;
        let _handle = process.open().ok_or_else(not_running)?;
        let folders = CgroupFolders::of_process(process.pid).map_err(TopError::Cgroup)?;
        let mut processes: Vec<_> = folders.processes().into_iter().filter_map(read).collect();
        if processes.is_empty() {
            // Without a cgroup they are known by their PID namespace; those that the first may not see are not.
            processes.extend(beside(process.pid).into_iter().filter_map(read));
        }
        Ok(processes)
    })
    .await
}

/// The processes that are in the PID namespace of one, by their numbers; just this one when that is the machine's.
fn beside(first: u32) -> Vec<u32> {
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let theirs = namespace(first).filter(|theirs| namespace(std::process::id()).as_ref() != Some(theirs));
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut all: Vec<u32> =
        numbers.filter(|&pid| pid == first || (theirs.is_some() && namespace(pid) == theirs)).collect();
    all.sort_unstable();
    all
}

/// The kernel's ticks in a second, on every machine that Linux runs on today.
const TICKS: u64 = 100;

fn read(pid: u32) -> Option<ListedProcess> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or_default();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().nth(1)?.parse().ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).trim_end_matches('\0').replace('\0', " ");
    Some(ListedProcess {
        pid,
        parent: u32::try_from(number(1)).ok()?,
        uid,
        name: name.to_owned(),
        command: if command.is_empty() { format!("[{name}]") } else { command },
        state: fields.first().map_or_else(String::new, |state| (*state).to_owned()),
        terminal: u32::try_from(number(4)).unwrap_or_default(),
        start: number(19) / TICKS,
        time: (number(11) + number(12)) / TICKS,
        virtual_size: number(20) >> 10,
        resident: number(21) * 4,
    })
}
