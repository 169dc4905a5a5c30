//! `RUN`: a process on a writable overlay, and the layer of what it changed.

use std::collections::VecDeque;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use layer::{PackOptions, Tree};
use oci::users::{ProcessUser, Users};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

use super::copy::MAX_USERS;
use super::mount;
use super::run_key::{Found, Keys};
use super::{Bench, Made, timestamp};
use crate::cache::Record;
use crate::executor::{ExecStep, ExecuteError, Overlay, Stream};
use crate::fault::{Fault, StepError};
use crate::files::path::lossy;
use crate::graph::ExecOperation;
use crate::image_state::DEFAULT_PATH;
use crate::layers::Layers;
use crate::sink::LayerSink;

/// Runs the process, unless the cache knows what comes of it.
pub(crate) fn run(operation: &ExecOperation, bench: &Bench<'_>) -> Result<Made, StepError> {
    let store = bench.workshop.store;
    let base = bench.layers(operation.base).map(Arc::as_ref);
    let keys = Keys::of(operation, base, bench);
    let keys = match keys.find(operation, base, bench)? {
        Found::Made(made) => return Ok(made),
        Found::Nothing(keys) => keys,
    };
    bench.workshop.executor.expect(operation.network);
    let empty = Layers::default();
    let snapshot = base.unwrap_or(&empty).snapshot(store, &bench.workshop.cancel)?;
    let tree = snapshot.tree()?;
    let prepared = mount::prepare(operation, bench)?;
    let user = user(&tree, &operation.user)?;
    let active = store.snapshots().begin(&snapshot)?;
    let request = bench.workshop.request;
    let tail = Tail::default();
    let output = |stream: Stream, bytes: &[u8]| {
        tail.push(bytes);
        (bench.output)(stream, bytes);
    };
    let step = ExecStep {
        id: bench.id,
        rootfs: Overlay { lower: active.lower().map_err(Fault::from)?, upper: active.upper(), work: active.work() },
        argv: operation.argv.clone(),
        env: environment(operation, &prepared.env, &user, bench),
        cwd: operation.cwd.clone(),
        user,
        hostname: operation.hostname.clone(),
        mounts: prepared.mounts.clone(),
        network: operation.network,
        security: operation.security,
        shm_size: request.shm_size,
        ulimits: &request.ulimits,
        add_hosts: &request.add_hosts,
        cgroup_parent: request.cgroup_parent.as_deref(),
        output: &output,
        cancel: &bench.workshop.cancel,
    };
    let status = match bench.workshop.executor.execute(&step) {
        Ok(status) => status,
        Err(ExecuteError::Cancelled) => return Err(StepError::Cancelled),
        Err(error @ ExecuteError::Start(_)) => {
            let mut fault = Fault::because(String::new(), &error);
            fault.message = format!("process \"{}\" could not be started", operation.title);
            fault.causes.remove(0);
            return Err(fault.into());
        }
    };
    if status.code != 0 {
        return Err(StepError::Process {
            command: operation.title.clone(),
            exit_code: status.code,
            out_of_memory: status.out_of_memory,
            log: tail.lines(),
        });
    }
    drop(prepared);
    let mut sink = LayerSink::new(store.blobs(), &bench.workshop.cancel);
    let options = PackOptions { clamp_mtime: bench.workshop.epoch, ..PackOptions::default() };
    let hollow = layer::write_diff(&active.upper(), &tree, &mut sink, &options)? == 0;
    let (digest, size) = sink.commit_later()?;
    if let Some(epoch) = bench.workshop.epoch {
        // Later steps see the times that the layer has, not those of this very run.
        clamp_times(&active.upper(), &tree, epoch)
            .map_err(|error| Fault::because("cannot set the times of what the process changed", &error))?;
    }
    let created = bench.workshop.epoch.map_or(request.now, timestamp);
    let (diff_id, mark) = (oci::DiffId(digest.clone()), digest);
    let record = Record { diff_id, size, mark, created, step: bench.name.to_owned() };
    let layers = Layers::then(base, &record);
    layers.set_snapshot(active.commit(&record.diff_id, hollow)?);
    keys.keep(base, &record, bench)?;
    Ok(Made { layers, cached: false })
}

/// Finds whom `USER` names.
fn user(tree: &Tree, user: &str) -> Result<ProcessUser, Fault> {
    let read = |path: &str| -> Result<String, Fault> {
        // A folder or a device of that name is as good as no file.
        let bytes = match tree.read_small(path, MAX_USERS) {
            Err(layer::TreeError::NotAFile { .. }) => None,
            other => other?,
        };
        Ok(String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned())
    };
    let (passwd, group) = (read("etc/passwd")?, read("etc/group")?);
    let users = Users { passwd: &passwd, group: &group };
    let mut user = users.process_user(user)?;
    // As containerd does it: the primary group is among the supplementary ones.
    if !user.additional_gids.contains(&user.gid) {
        user.additional_gids.insert(0, user.gid);
    }
    Ok(user)
}

fn environment(
    operation: &ExecOperation,
    secrets: &[(String, String)],
    user: &ProcessUser,
    bench: &Bench<'_>,
) -> Vec<(String, String)> {
    let mut env = operation.env.clone();
    let mut set = |name: &str, value: &str, replace: bool| match env.iter_mut().find(|(other, _)| other == name) {
        Some((_, old)) if replace => value.clone_into(old),
        Some(_) => {}
        None => env.push((name.to_owned(), value.to_owned())),
    };
    set("PATH", DEFAULT_PATH, false);
    operation.hidden_env.iter().for_each(|(name, value)| set(name, value, false));
    secrets.iter().for_each(|(name, value)| set(name, value, true));
    set("HOME", &user.home, false);
    if let (Some(epoch), Some(_)) = (bench.workshop.epoch, bench.workshop.request.reproducible) {
        set("SOURCE_DATE_EPOCH", &epoch.to_string(), false);
    }
    env
}

/// The last lines that a process printed.
#[derive(Default)]
struct Tail(Mutex<VecDeque<Vec<u8>>>);

impl Tail {
    const LINES: usize = 20;
    const LONGEST: usize = 4096;

    fn push(&self, bytes: &[u8]) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            match lines.back_mut() {
                Some(last) if !last.ends_with(b"\n") => {
                    let room = Self::LONGEST.saturating_sub(last.len());
                    last.extend_from_slice(&piece[..piece.len().min(room)]);
                    if piece.ends_with(b"\n") && !last.ends_with(b"\n") {
                        last.push(b'\n');
                    }
                }
                _ => lines.push_back(piece[..piece.len().min(Self::LONGEST)].to_vec()),
            }
            if lines.len() > Self::LINES {
                lines.pop_front();
            }
        }
    }

    fn lines(&self) -> Vec<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(|line| lossy(line.trim_ascii_end())).collect()
    }
}

/// Sets the times of changed files that are newer than the epoch to it.
fn clamp_times(upper: &Path, lower: &Tree, epoch: i64) -> io::Result<()> {
    for entry in layer::diff(upper, lower).map_err(io::Error::other)? {
        // A whiteout is in the way of something, and has no file of its name.
        if entry.mtime.seconds >= epoch {
            found(set_mtime(&upper.join(std::ffi::OsStr::from_bytes(&entry.path)), epoch, 0))?;
        }
    }
    Ok(())
}

fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

fn set_mtime(path: &Path, seconds: i64, nanos: i64) -> io::Result<()> {
    let mtime = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let omit = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    let times = Timestamps { last_access: omit, last_modification: mtime };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}
