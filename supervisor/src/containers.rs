//! [`Containers`]: the records of all containers below a home, and changing them while others do.
//!
//! ```text
//! containers/ID/
//! ├── config.json      the record; replaced as a whole, under `lock`
//! ├── state.json       what it is doing; replaced as a whole, under `lock`
//! ├── keeps.json       the layers that it stands on, for those who collect
//! ├── lock             held for the moment in which one of them changes
//! ├── alive            held as long as somebody watches the container
//! ├── socket           where the one who watches it is reached
//! ├── spec.json        what the runtime was told at the last start
//! ├── log.json[.N]     what it printed
//! ├── fs/{upper,work}  what it wrote
//! ├── etc/             its /etc/hosts and the like
//! ├── init             its first process, if it was asked for
//! └── volumes/         its anonymous volumes
//! container-names/NAME   a link whose text is the ID
//! ```
//!
//! A container is made as `.new-ID` and renamed; it is removed by renaming it to `.gone-ID` first. So what has an ID for a
//! name is whole. When the one who watched it is dead (its lock is free, whatever the machine went through) but the state
//! says that it runs, whoever reads the state repairs it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use runtime::CgroupFolders;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FlockOperation;
use serde::de::DeserializeOwned;
use store::{FileError, Layout};

use crate::events::{Event, Events};
use crate::record::{Process, Record, State, Status};
use crate::{files, volumes};

/// Why something could not be done with a container.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum ContainerError {
    #[error("No such container: {text}")]
    NotFound { text: String },
    #[error("multiple IDs found with provided prefix: {text}")]
    Ambiguous { text: String },
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{id}\". You have to remove (or rename) that container to be able to reuse that name."
    )]
    NameInUse { name: String, id: String },
    #[error("Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")]
    BadName { name: String },
    #[error("cannot {action} `{}`", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("`{}` is damaged", path.display())]
    Damaged { path: PathBuf, source: serde_json::Error },
    #[error(transparent)]
    File(#[from] FileError),
}

/// For `map_err`: `action` failed on `path`.
pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ContainerError {
    let path = path.to_owned();
    move |source| ContainerError::Io { action, path, source }
}

/// All containers of a home.
#[derive(Clone, Debug)]
pub struct Containers {
    layout: Layout,
}

/// One container: its folder, and its record as it was read.
#[derive(Clone, Debug)]
pub struct Container {
    layout: Layout,
    folder: PathBuf,
    /// What it is.
    pub record: Record,
}

/// A container that is being made; dropping it throws it away.
#[derive(Debug)]
pub struct NewContainer {
    layout: Layout,
    id: String,
    folder: PathBuf,
    placed: bool,
    _lock: File,
}

/// The right to watch a container; it is given on by descriptor, and ends with the last process that has it.
#[derive(Debug)]
pub struct Claim(pub(crate) File);

const NEW: &str = ".new-";
const GONE: &str = ".gone-";

impl Containers {
    /// Returns the containers of a home.
    pub fn new(layout: &Layout) -> Self {
        Self { layout: layout.clone() }
    }

    /// Returns where everything is.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Begins to make a container; nobody sees it yet.
    ///
    /// # Errors
    ///
    /// When its folder cannot be made.
    pub fn begin(&self, id: &str) -> Result<NewContainer, ContainerError> {
        let folder = self.layout.containers().join(format!("{NEW}{id}"));
        make_folder(&self.layout.containers(), 0o711)?;
        let lock = loop {
            make_folder(&folder, 0o710)?;
            // Who sweeps may be faster than the lock, and takes the folder for one of somebody who was killed.
            match lock(&folder.join("lock")) {
                Ok(lock) if is_at(&lock, &folder.join("lock")) => break lock,
                Err(ContainerError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        };
        for (name, mode) in [("fs", 0o710), ("fs/upper", 0o755), ("fs/work", 0o755)] {
            make_folder(&folder.join(name), mode)?;
        }
        Ok(NewContainer { layout: self.layout.clone(), id: id.to_owned(), folder, placed: false, _lock: lock })
    }

    /// Finds a container by its ID, its name, or the beginning of its ID, in this order.
    ///
    /// # Errors
    ///
    /// When there is none, or several begin so.
    pub fn find(&self, text: &str) -> Result<Container, ContainerError> {
        let not_found = || ContainerError::NotFound { text: text.to_owned() };
        let id = match self.id_of(text)? {
            Some(id) => id,
            None => {
                let is_prefix = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
                let ids = if is_prefix { self.ids()? } else { Vec::new() };
                let mut found = ids.into_iter().filter(|id| id.starts_with(text));
                let first = found.next().ok_or_else(not_found)?;
                if found.next().is_some() {
                    return Err(ContainerError::Ambiguous { text: text.to_owned() });
                }
                first
            }
        };
        self.open(&id)?.ok_or_else(not_found)
    }

    /// Returns the ID of exactly this ID or name.
    fn id_of(&self, text: &str) -> Result<Option<String>, ContainerError> {
        if is_id(text) && self.layout.container(text).is_dir() {
            return Ok(Some(text.to_owned()));
        }
        let name = text.strip_prefix('/').unwrap_or(text);
        if !is_name(name) {
            return Ok(None);
        }
        let path = self.layout.container_name(name);
        match fs::read_link(&path) {
            Ok(target) => Ok(target.to_str().filter(|id| is_id(id)).map(str::to_owned)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => Ok(None),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    /// Reads a container; none when it has been removed.
    ///
    /// # Errors
    ///
    /// When its record cannot be read.
    pub fn open(&self, id: &str) -> Result<Option<Container>, ContainerError> {
        let folder = self.layout.container(id);
        let record = read_json(&folder.join("config.json"))?;
        Ok(record.map(|record| Container { layout: self.layout.clone(), folder, record }))
    }

    /// Reads all containers, the newest first. One that cannot be read is given as an error.
    ///
    /// # Errors
    ///
    /// When the folder of containers cannot be listed.
    pub fn list(&self) -> Result<Vec<Result<Container, ContainerError>>, ContainerError> {
        let mut all = Vec::new();
        for id in self.ids()? {
            match self.open(&id) {
                Ok(Some(container)) => all.push(Ok(container)),
                // Removed since.
                Ok(None) => {}
                Err(error) => all.push(Err(error)),
            }
        }
        all.sort_by_key(|container| container.as_ref().map_or(Timestamp::MIN, |container| container.record.created));
        all.reverse();
        Ok(all)
    }

    /// Returns all IDs, and sweeps up what was left half made or half removed.
    fn ids(&self) -> Result<Vec<String>, ContainerError> {
        let folder = self.layout.containers();
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("list", &folder)(error)),
        };
        let mut ids = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed("list", &folder))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if is_id(&name) {
                ids.push(name);
            } else if name.starts_with(GONE) {
                // What resists is swept by the next one.
                let _: io::Result<()> = layer::remove_tree(&entry.path());
            } else if name.starts_with(NEW) {
                sweep_half_made(&entry.path());
            }
        }
        Ok(ids)
    }

    /// Returns where events are written.
    pub fn events(&self) -> Events {
        Events::new(&self.layout.events())
    }

    fn hold_names(&self) -> Result<File, ContainerError> {
        make_folder(&self.layout.container_names(), 0o711)?;
        lock(&self.layout.lock("containers"))
    }

    /// Gives a name to an ID. The caller holds the lock of names.
    fn take_name(&self, name: &str, id: &str) -> Result<(), ContainerError> {
        let path = self.layout.container_name(name);
        loop {
            match symlink(id, &path) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed("create", &path)(error)),
            }
            match self.id_of(name)? {
                Some(other) if self.layout.container(&other).is_dir() => {
                    return Err(ContainerError::NameInUse { name: name.to_owned(), id: other });
                }
                // Whoever had it was killed before or after its container was there.
                _ => ignore_missing(fs::remove_file(&path)).map_err(failed("remove", &path))?,
            }
        }
    }

    fn drop_name(&self, name: &str, id: &str) -> Result<(), ContainerError> {
        let path = self.layout.container_name(name);
        if fs::read_link(&path).is_ok_and(|target| target == Path::new(id)) {
            ignore_missing(fs::remove_file(&path)).map_err(failed("remove", &path))?;
        }
        Ok(())
    }
}

impl NewContainer {
    /// Returns the folder that becomes the container's.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns where the folder will be.
    pub fn final_folder(&self) -> PathBuf {
        self.layout.container(&self.id)
    }

    /// Puts the container into its place, whole, under its name.
    ///
    /// # Errors
    ///
    /// When the name is taken, or a file cannot be written: then there is no container.
    pub fn place(mut self, record: Record) -> Result<Container, ContainerError> {
        if !is_name(&record.name) {
            return Err(ContainerError::BadName { name: record.name });
        }
        // One that goes away by itself need not survive a crash of the machine.
        let durable = !record.host_config.auto_remove;
        write_json(&self.folder.join("state.json"), &State::default(), false)?;
        let keeps = serde_json::json!({ "diff_ids": record.layers });
        write_json(&self.folder.join("keeps.json"), &keeps, durable)?;
        write_json(&self.folder.join("config.json"), &record, durable)?;
        let all = Containers::new(&self.layout);
        let place = self.layout.container(&self.id);
        let held = all.hold_names()?;
        all.take_name(&record.name, &self.id)?;
        if let Err(error) = fs::rename(&self.folder, &place) {
            all.drop_name(&record.name, &self.id)?;
            return Err(failed("create", &place)(error));
        }
        self.placed = true;
        drop(held);
        Ok(Container { layout: self.layout.clone(), folder: place, record })
    }
}

impl Drop for NewContainer {
    fn drop(&mut self) {
        if !self.placed {
            // What resists is swept by the next one.
            let _: io::Result<()> = layer::remove_tree(&self.folder);
        }
    }
}

impl Container {
    /// Returns its ID.
    pub fn id(&self) -> &str {
        &self.record.id
    }

    /// Returns its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the folder that takes its changes.
    pub fn upper(&self) -> PathBuf {
        self.folder.join("fs/upper")
    }

    /// Returns the folder that overlayfs needs beside it.
    pub fn work(&self) -> PathBuf {
        self.folder.join("fs/work")
    }

    /// Returns where its output is kept.
    pub fn log(&self) -> PathBuf {
        self.folder.join("log.json")
    }

    /// Returns the containers that it is one of.
    pub fn all(&self) -> Containers {
        Containers::new(&self.layout)
    }

    /// Reads the state; when nobody watches the container although it should run, repairs it first.
    ///
    /// # Errors
    ///
    /// When it cannot be read. [`ContainerError::NotFound`] when the container has been removed, be it by the repair.
    pub fn state(&self, now: Timestamp) -> Result<State, ContainerError> {
        let state = self.peek()?;
        if !state.status.is_alive() {
            return Ok(state);
        }
        let Some(_claim) = self.claim()? else { return Ok(state) };
        // Nobody watches it, and nobody begins to while we have the claim. It may have ended since the first look.
        let state = self.peek()?;
        if !state.status.is_alive() {
            return Ok(state);
        }
        self.bury(&state, now)
    }

    /// Ends what is left of a container whose watcher is dead.
    fn bury(&self, state: &State, now: Timestamp) -> Result<State, ContainerError> {
        if let Some(process) = &state.process {
            kill(process);
        }
        crate::network::sweep();
        let buried = self.change(|state| {
            state.status = Status::Exited;
            // As docker says of those that ended while it did not look.
            state.exit_code = 255;
            state.finished_at = Some(now);
            forget_processes(state);
        })?;
        self.emit("die", now, &[("exitCode", "255")]);
        if self.record.host_config.auto_remove {
            self.remove(true, now)?;
            return Err(ContainerError::NotFound { text: self.record.name.clone() });
        }
        Ok(buried)
    }

    /// Reads the state as it is written.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or the container has been removed.
    pub fn peek(&self) -> Result<State, ContainerError> {
        match read_json(&self.folder.join("state.json")) {
            Ok(Some(state)) => Ok(state),
            Ok(None) if self.folder.join("config.json").exists() => Ok(State::default()),
            Ok(None) => Err(ContainerError::NotFound { text: self.record.name.clone() }),
            // It is not synced, so a crash of the machine may have damaged it; then nothing runs.
            Err(ContainerError::Damaged { .. }) => {
                Ok(State { status: Status::Exited, exit_code: 255, ..State::default() })
            }
            Err(error) => Err(error),
        }
    }

    /// Changes the state while nobody else does; gives the new one.
    ///
    /// # Errors
    ///
    /// When it cannot be read or written, or the container has been removed.
    pub fn change(&self, change: impl FnOnce(&mut State)) -> Result<State, ContainerError> {
        let _held = self.hold()?;
        let mut state = self.peek()?;
        change(&mut state);
        write_json(&self.folder.join("state.json"), &state, false)?;
        Ok(state)
    }

    /// Changes the record while nobody else does.
    ///
    /// # Errors
    ///
    /// When it cannot be read or written, or the container has been removed.
    pub fn change_record(&mut self, change: impl FnOnce(&mut Record)) -> Result<(), ContainerError> {
        let _held = self.hold()?;
        let path = self.folder.join("config.json");
        let mut record: Record =
            read_json(&path)?.ok_or_else(|| ContainerError::NotFound { text: self.record.name.clone() })?;
        change(&mut record);
        write_json(&path, &record, true)?;
        self.record = record;
        Ok(())
    }

    /// Gives the container another name.
    ///
    /// # Errors
    ///
    /// When the name is taken or is none.
    pub fn rename(&mut self, name: &str) -> Result<(), ContainerError> {
        let name = name.strip_prefix('/').unwrap_or(name).to_owned();
        if !is_name(&name) {
            return Err(ContainerError::BadName { name });
        }
        let all = self.all();
        let _held = all.hold_names()?;
        let (id, old) = (self.record.id.clone(), self.record.name.clone());
        all.take_name(&name, &id)?;
        if let Err(error) = self.change_record(|record| record.name.clone_from(&name)) {
            all.drop_name(&name, &id)?;
            return Err(error);
        }
        all.drop_name(&old, &id)
    }

    /// Takes the right to watch the container; none when somebody has it.
    ///
    /// # Errors
    ///
    /// When the lock cannot be opened, or the container has been removed.
    pub fn claim(&self) -> Result<Option<Claim>, ContainerError> {
        let path = self.folder.join("alive");
        let file = open_lock(&path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Claim(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(failed("lock", &path)(error.into())),
        }
    }

    /// Removes the container, which nobody may watch; with `volumes`, its anonymous ones too.
    ///
    /// # Errors
    ///
    /// When it cannot be moved away. What cannot be removed after that is swept later.
    pub fn remove(&self, with_volumes: bool, now: Timestamp) -> Result<(), ContainerError> {
        self.take_away(with_volumes, now)?.remove()
    }

    /// Does the same as far as anybody can see. What is left is removed by the caller, when nobody waits any more.
    ///
    /// # Errors
    ///
    /// When it cannot be moved away.
    pub(crate) fn take_away(&self, with_volumes: bool, now: Timestamp) -> Result<Gone, ContainerError> {
        let gone = self.layout.containers().join(format!("{GONE}{}", self.record.id));
        let all = self.all();
        {
            let _held = all.hold_names()?;
            // Somebody may have renamed it since it was read.
            let name = all.open(&self.record.id)?.map_or_else(|| self.record.name.clone(), |now| now.record.name);
            match fs::rename(&self.folder, &gone) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(ContainerError::NotFound { text: self.record.name.clone() });
                }
                other => other.map_err(failed("remove", &self.folder))?,
            }
            all.drop_name(&name, &self.record.id)?;
        }
        volumes::release(&self.record, &self.layout, with_volumes);
        self.emit("destroy", now, &[]);
        Ok(Gone(gone))
    }

    /// Tells those who listen what happened to the container.
    pub fn emit(&self, action: &str, now: Timestamp, attributes: &[(&str, &str)]) {
        self.all().events().emit(&Event::of_container(&self.record, action, now, attributes));
    }

    fn hold(&self) -> Result<File, ContainerError> {
        lock(&self.folder.join("lock")).map_err(|error| match error {
            ContainerError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                ContainerError::NotFound { text: self.record.name.clone() }
            }
            error => error,
        })
    }
}

/// The files of a container that is no longer there. What is not removed is swept by whoever lists containers.
#[must_use]
#[derive(Debug)]
pub(crate) struct Gone(PathBuf);

impl Gone {
    /// Removes them.
    pub(crate) fn remove(self) -> Result<(), ContainerError> {
        layer::remove_tree(&self.0).map_err(failed("remove", &self.0))
    }
}

/// What a state does not say of a container without processes.
pub(crate) fn forget_processes(state: &mut State) {
    state.process = None;
    state.supervisor = None::<Process>;
    state.networks.clear();
    state.ports.clear();
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Tells whether a text can be a container's name.
pub fn is_name(text: &str) -> bool {
    let rest = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    // A link of this name must fit in a folder.
    (2..=200).contains(&text.len()) && text.as_bytes()[0].is_ascii_alphanumeric() && text.bytes().all(rest)
}

/// Removes a folder of a container that nobody makes any more.
fn sweep_half_made(folder: &Path) {
    // Held to the end: whoever is about to make it begins anew then.
    let _held = match OpenOptions::new().read(true).write(true).open(folder.join("lock")) {
        Ok(file) => match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Some(file),
            Err(_) => return,
        },
        // Killed between the two, or not that far yet.
        Err(_) => {
            let changed = fs::metadata(folder).and_then(|metadata| metadata.modified());
            let age = changed.ok().and_then(|at| at.elapsed().ok());
            if age.is_none_or(|age| age < Duration::from_secs(60)) {
                return;
            }
            None
        }
    };
    // What resists is swept by the next one.
    let _: io::Result<()> = layer::remove_tree(folder);
}

/// Whether an open file is still the one at a path.
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |found: io::Result<fs::Metadata>| found.ok().map(|found| (found.dev(), found.ino()));
    let own = identity(file.metadata());
    own.is_some() && own == identity(fs::metadata(path))
}

pub(crate) fn make_folder(path: &Path, mode: u32) -> Result<(), ContainerError> {
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        other => other.map_err(failed("create", path))?,
    }
    // The umask took its part.
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).map_err(failed("create", path))
}

fn open_lock(path: &Path) -> Result<File, ContainerError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.open(path).map_err(failed("open", path))
}

pub(crate) fn lock(path: &Path) -> Result<File, ContainerError> {
    let file = open_lock(path)?;
    let locked = rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive));
    locked.map_err(|error| failed("lock", path)(error.into()))?;
    Ok(file)
}

/// How long a killed process may take to die.
const DYING: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// Ends a process that the kernel has killed with its watcher, unless it was frozen, and waits some time for its death.
fn kill(process: &Process) {
    let Some(handle) = process.open() else { return };
    let cgroup = process.look(CgroupFolders::of_process).and_then(Result::ok);
    // What cannot be killed is nobody's to mend here, and is seen by who looks for processes.
    let _: io::Result<bool> = process.signal(libc::SIGKILL);
    if let Some(cgroup) = cgroup.filter(CgroupFolders::is_frozen) {
        // With cgroups v1 what is frozen does not even die.
        let _: io::Result<()> = cgroup.freeze(false);
    }
    let mut one = [PollFd::new(&handle, PollFlags::IN)];
    let _: rustix::io::Result<usize> = poll(&mut one, Some(&DYING));
}

pub(crate) fn ignore_missing(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Reads a file of JSON; none when it is not there.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ContainerError> {
    match fs::read(path) {
        Ok(bytes) => {
            let parsed = serde_json::from_slice(&bytes);
            parsed.map(Some).map_err(|source| ContainerError::Damaged { path: path.to_owned(), source })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

/// Replaces a file of JSON; the caller is the only one who does.
pub(crate) fn write_json<T: serde::Serialize>(path: &Path, value: &T, durable: bool) -> Result<(), ContainerError> {
    let bytes = serde_json::to_vec(value).expect("text keys only");
    files::replace(path, &bytes, durable).map_err(failed("write", path))
}

#[cfg(test)]
mod tests;
