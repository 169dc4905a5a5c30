//! Measures what containers use.

use std::fs;
use std::path::PathBuf;

use jiff::Timestamp;
use runtime::CgroupFolders;
use supervisor::{ContainerError, State};

use crate::Engine;
use crate::containers;

/// What a container has used so far, and uses now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Its ID.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was measured, in nanoseconds.
    pub time: i64,
    /// Nanoseconds of processors' time; none when it does not run.
    pub cpu: Option<u64>,
    /// Bytes of memory, without what the kernel merely keeps of files.
    pub memory: u64,
    /// Its limit, or the machine's memory.
    pub memory_limit: u64,
    /// Bytes that came in and went out over its networks.
    pub network: (u64, u64),
    /// Bytes that were read from and written to disks.
    pub block: (u64, u64),
    /// How many processes and threads it has.
    pub pids: u64,
}

/// Measures containers: those that are named, or else those that run, or all.
///
/// # Errors
///
/// When there is no such container.
pub async fn stats(
    engine: &Engine,
    names: Vec<String>,
    all_states: bool,
    now: Timestamp,
) -> Result<Vec<Usage>, ContainerError> {
    let all = containers::all(engine);
    store::blocking::run(move || {
        let mut found = Vec::new();
        if names.is_empty() {
            for container in all.list()?.into_iter().flatten() {
                match container.state(now) {
                    Ok(state) if all_states || state.status.is_alive() => found.push((container, state)),
                    Ok(_) | Err(ContainerError::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        for name in names {
            let container = all.find(&name)?;
            let state = container.state(now)?;
            found.push((container, state));
        }
        Ok(found
            .into_iter()
            .map(|(container, state)| {
                let usage = measure(&state, now).unwrap_or_default();
                Usage { id: container.id().into(), name: container.record.name.clone(), ..usage }
            })
            .collect())
    })
    .await
}

fn measure(state: &State, now: Timestamp) -> Option<Usage> {
    let process = state.process.as_ref()?;
    let _handle = process.open()?;
    let folders = CgroupFolders::of_process(process.pid).ok()?;
    let read = |file: &str| -> Option<String> {
        let path: Option<&PathBuf> = folders.paths().iter().find(|path| path.join(file).exists());
        fs::read_to_string(path?.join(file)).ok()
    };
    let number = |file: &str| read(file).and_then(|text| text.trim().parse::<u64>().ok());
    // In v1 the names begin with the controller, in v2 the words differ.
    let cpu = number("cpuacct.usage").or_else(|| Some(keyed(&read("cpu.stat")?, "usage_usec")? * 1000));
    let stat = read("memory.stat").unwrap_or_default();
    let cached = keyed(&stat, "total_inactive_file").or_else(|| keyed(&stat, "inactive_file")).unwrap_or_default();
    let used = number("memory.usage_in_bytes").or_else(|| number("memory.current")).unwrap_or_default();
    let machine = machine_memory();
    let limit = number("memory.limit_in_bytes").or_else(|| number("memory.max")).unwrap_or(machine);
    Some(Usage {
        time: i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX),
        cpu: Some(cpu.unwrap_or_default()),
        memory: used.saturating_sub(cached),
        memory_limit: limit.min(machine),
        network: network(process.pid),
        block: block(&read("blkio.throttle.io_service_bytes").or_else(|| read("io.stat")).unwrap_or_default()),
        pids: number("pids.current").unwrap_or_default(),
        ..Usage::default()
    })
}

/// Finds the number behind a word at the beginning of a line.
fn keyed(text: &str, word: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(word)?.trim().parse().ok())
}

/// Returns how many bytes of memory the machine has.
pub(crate) fn machine_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    total.unwrap_or(0_u64) << 10
}

/// Adds up the interfaces in a process's network, but loopback.
fn network(pid: u32) -> (u64, u64) {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    let (mut received, mut sent) = (0, 0);
    for line in text.lines() {
        let Some((name, numbers)) = line.split_once(':') else { continue };
        let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        if name.trim() != "lo" && numbers.len() > 8 {
            received += numbers[0];
            sent += numbers[8];
        }
    }
    (received, sent)
}

/// Adds up the devices, in either version's words.
fn block(text: &str) -> (u64, u64) {
    let (mut read, mut written) = (0, 0);
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [_, "Read", bytes] => read += bytes.parse::<u64>().unwrap_or_default(),
            [_, "Write", bytes] => written += bytes.parse::<u64>().unwrap_or_default(),
            _ => {
                for word in words {
                    match word.split_once('=') {
                        Some(("rbytes", bytes)) => read += bytes.parse::<u64>().unwrap_or_default(),
                        Some(("wbytes", bytes)) => written += bytes.parse::<u64>().unwrap_or_default(),
                        _ => {}
                    }
                }
            }
        }
    }
    (read, written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_in_both_versions() {
        assert_eq!(keyed("cache 1\ntotal_inactive_file 4096\n", "total_inactive_file"), Some(4096));
        assert_eq!(keyed("usage_usec 12\nuser_usec 3\n", "usage_usec"), Some(12));
        assert_eq!(block("8:0 Read 10\n8:0 Write 20\n8:16 Read 1\nTotal 31\n"), (11, 20));
        assert_eq!(block("8:0 rbytes=5 wbytes=6 rios=1\n254:0 rbytes=1 wbytes=1\n"), (6, 7));
    }
}
