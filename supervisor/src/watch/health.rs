//! Health checks: a command in the container every now and then, as docker does them.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use runtime::{ExecConfig, Stdio, Stream};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::containers::Container;
use crate::record::{Health, HealthLog, Process, Record};
use crate::start::{ExecOptions, describe_exec};

/// So much of what a check prints is kept.
const MOST_OUTPUT: usize = 4096;

/// So many checks are remembered.
const MOST_LOGS: usize = 5;

/// Docker's defaults.
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;

/// Runs the checks of one container.
pub(super) struct Checker {
    command: Vec<String>,
    interval: Duration,
    timeout: Duration,
    start_period: Duration,
    start_interval: Duration,
    retries: u32,
    /// When the container was started.
    started: Instant,
    next: Instant,
    running: Option<Running>,
    /// Nothing is checked while the container is frozen.
    pub(super) paused: bool,
    /// It has been healthy since it was started, so failures count.
    settled: bool,
}

/// A check that runs.
struct Running {
    container: runtime::Container,
    output: Option<File>,
    text: Vec<u8>,
    begun: Timestamp,
    deadline: Instant,
}

/// What came of a check.
pub(super) struct Outcome {
    log: HealthLog,
    /// Whether a failure counts.
    counts: bool,
    retries: u32,
}

impl Checker {
    /// Returns the checks that a container asks for, if any.
    pub(super) fn of(record: &Record) -> Option<Self> {
        let config = record.config.healthcheck.as_ref()?;
        let command = match config.test.split_first().map(|(kind, rest)| (kind.as_str(), rest)) {
            Some(("CMD", command)) => command.to_vec(),
            Some(("CMD-SHELL", command)) => [["/bin/sh".to_owned(), "-c".to_owned()].as_slice(), command].concat(),
            _ => return None,
        };
        if command.is_empty() {
            return None;
        }
        let time = |nanos: i64, default: Duration| match u64::try_from(nanos) {
            Ok(0) | Err(_) => default,
            Ok(nanos) => Duration::from_nanos(nanos),
        };
        let now = Instant::now();
        let mut checker = Self {
            command,
            interval: time(config.interval, INTERVAL),
            timeout: time(config.timeout, TIMEOUT),
            start_period: time(config.start_period, Duration::ZERO),
            start_interval: time(config.start_interval, START_INTERVAL),
            retries: u32::try_from(config.retries).ok().filter(|&retries| retries > 0).unwrap_or(RETRIES),
            started: now,
            next: now,
            running: None,
            paused: false,
            settled: false,
        };
        checker.next = now + checker.pause();
        Some(checker)
    }

    fn in_start_period(&self) -> bool {
        !self.settled && self.started.elapsed() < self.start_period
    }

    fn pause(&self) -> Duration {
        if self.in_start_period() { self.start_interval } else { self.interval }
    }

    /// Returns what becomes readable when a check has printed something or ended.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let running = self.running.as_ref();
        let output = running.and_then(|running| running.output.as_ref()).map(File::as_fd);
        running.map(|running| running.container.pidfd()).into_iter().chain(output)
    }

    /// Returns when there is something to do at the latest.
    pub(super) fn next_moment(&self) -> Option<Instant> {
        match &self.running {
            Some(running) => Some(running.deadline),
            None => Some(self.next).filter(|_| !self.paused),
        }
    }

    /// Does what there is to do now.
    pub(super) fn turn(
        &mut self,
        container: &Container,
        lower: &[PathBuf],
        pid: u32,
        now: fn() -> Timestamp,
    ) -> Option<Outcome> {
        let Some(running) = &mut self.running else {
            if self.paused || Instant::now() < self.next {
                return None;
            }
            return match self.begin(container, lower, pid, now()) {
                Ok(running) => {
                    self.running = Some(running);
                    None
                }
                Err(reason) => Some(self.outcome(now(), now(), -1, reason)),
            };
        };
        running.read();
        let late = Instant::now() >= running.deadline;
        let over = running.output.is_none() && has_ended(running.container.pidfd());
        if !late && !over {
            return None;
        }
        let Running { container, text, begun, .. } = self.running.take()?;
        let (code, text) = if late {
            // Dropping it kills it.
            drop(container);
            (-1, format!("Health check exceeded timeout ({}s)", self.timeout.as_secs_f64()))
        } else {
            let code = container.wait().map_or(-1, |status| status.shell_code());
            (code, String::from_utf8_lossy(&text).into_owned())
        };
        Some(self.outcome(begun, now(), code, text))
    }

    fn outcome(&mut self, start: Timestamp, end: Timestamp, exit_code: i32, output: String) -> Outcome {
        let counts = !self.in_start_period();
        self.settled |= exit_code == 0;
        self.next = Instant::now() + self.pause();
        Outcome { log: HealthLog { start, end, exit_code, output }, counts, retries: self.retries }
    }

    fn begin(&self, container: &Container, lower: &[PathBuf], pid: u32, begun: Timestamp) -> Result<Running, String> {
        let options = ExecOptions { args: self.command.clone(), ..ExecOptions::default() };
        let chain = |error: &dyn std::error::Error| super::chain(error).join(": ");
        let spec = describe_exec(container, lower, &options).map_err(|error| chain(&error))?;
        let process = spec.process().clone().ok_or("the check has no program")?;
        let failed = |error: io::Error| error.to_string();
        let (output, theirs) = io::pipe().map_err(failed)?;
        let also = theirs.try_clone().map_err(failed)?;
        let config = ExecConfig {
            pid,
            started: Process::of(pid).map(|process| process.start),
            spec: &spec,
            process,
            stdio: Stdio::Streams {
                stdin: Stream::Null,
                stdout: Stream::File(theirs.into()),
                stderr: Stream::File(also.into()),
            },
            die_with_parent: true,
            kept: 0,
        };
        let container = runtime::exec(config).map_err(|error| chain(&error))?;
        rustix::io::ioctl_fionbio(&output, true).map_err(|error| error.to_string())?;
        let output = Some(File::from(std::os::fd::OwnedFd::from(output)));
        Ok(Running { container, output, text: Vec::new(), begun, deadline: Instant::now() + self.timeout })
    }
}

impl Running {
    /// Takes what the check has printed, and forgets what is too much.
    fn read(&mut self) {
        let mut buffer = [0; 4096];
        while let Some(output) = &mut self.output {
            match output.read(&mut buffer) {
                Ok(0) => self.output = None,
                Ok(count) => {
                    let room = MOST_OUTPUT.saturating_sub(self.text.len());
                    self.text.extend_from_slice(&buffer[..count.min(room)]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Something that the check has started may keep the pipe open for ever.
                Err(_) if has_ended(self.container.pidfd()) => self.output = None,
                Err(_) => return,
            }
        }
    }
}

fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let mut one = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    poll(&mut one, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|count| count > 0)
}

impl Outcome {
    /// Notes what came of a check; gives the new status if it has changed.
    pub(super) fn apply(self, health: &mut Health) -> Option<String> {
        let before = health.status.clone();
        if self.log.exit_code == 0 {
            health.failing_streak = 0;
            health.status = "healthy".into();
        } else if self.counts || health.status == "healthy" {
            health.failing_streak += 1;
            if health.failing_streak >= self.retries {
                health.status = "unhealthy".into();
            }
        }
        health.log.push(self.log);
        let surplus = health.log.len().saturating_sub(MOST_LOGS);
        health.log.drain(..surplus);
        Some(health.status.clone()).filter(|status| *status != before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(exit_code: i32, counts: bool) -> Outcome {
        let time = Timestamp::UNIX_EPOCH;
        Outcome { log: HealthLog { start: time, end: time, exit_code, output: String::new() }, counts, retries: 2 }
    }

    #[test]
    fn failures_in_a_row_make_a_container_unhealthy_and_one_success_healthy() {
        let mut health = Health { status: "starting".into(), ..Health::default() };
        let mut apply = |code, counts| outcome(code, counts).apply(&mut health);
        assert_eq!(apply(1, false), None, "at the start they do not count");
        assert_eq!(apply(1, true), None);
        assert_eq!(apply(1, true), Some("unhealthy".into()));
        assert_eq!(apply(1, true), None);
        assert_eq!(apply(0, true), Some("healthy".into()));
        assert_eq!(apply(1, true), None);
        assert_eq!(apply(0, true), None);
        assert_eq!((health.failing_streak, health.log.len()), (0, MOST_LOGS));
    }
}
