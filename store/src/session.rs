//! Who is at work in the store, and sweeping up after those who died.
//!
//! Each open store that writes has a session: a folder for all that it has not finished, with a lock file that it
//! holds. The kernel drops the lock when the process dies, however it dies, and the next one to open the store
//! removes the folder. A session is born and found dead under `locks/sessions`, so none is taken for dead between
//! its folder and its lock.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use layer::remove_tree;
use oci::Digest;
use rustix::fs::FlockOperation;

use crate::file_error::{During, found};
use crate::later::{Job, Later};
use crate::pins::Pins;
use crate::{FileError, Layout, atomic_file};

/// So many pins are kept although nothing is unfinished: letting go of them costs more than they do.
const MOST_PINS: usize = 256;

/// What all parts of an open store share.
#[derive(Debug)]
pub struct Home {
    layout: Layout,
    session: Mutex<Option<Session>>,
    counter: AtomicU64,
    gate: Mutex<Gate>,
    /// Told when a collection ends.
    opened: Condvar,
    /// `locks/open`, shared, unless `pinning` is.
    open: File,
    /// `locks/pinning`, shared, and how the pins of this store are kept.
    pinning: OnceLock<(File, Keep)>,
    pins: Pins,
    /// Whether a build cache record was filed.
    cached: AtomicBool,
    /// How many blobs were removed because they were damaged.
    damaged: AtomicU64,
    /// What is done beside the caller's work.
    later: Later,
    /// Set once the floor of containers is known to be there.
    pub(crate) has_floor: OnceLock<()>,
}

/// How long an open store keeps what it pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// As long as it is open.
    Always,
    /// Until nothing is unfinished.
    Claims,
}

/// Keeps work and collections of this open store apart.
#[derive(Debug, Default)]
struct Gate {
    unfinished: usize,
    collecting: bool,
}

/// Work on something that nothing refers to yet: while it lasts, this process does not collect.
#[derive(Debug)]
pub(crate) struct Unfinished(Arc<Home>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let mut gate = self.0.gate();
        gate.unfinished -= 1;
        if gate.unfinished == 0 && self.0.pinning.get().is_some_and(|(_, keep)| *keep == Keep::Claims) {
            self.0.pins.release(MOST_PINS);
        }
    }
}

/// A collection: while it lasts, work does not begin.
#[derive(Debug)]
pub(crate) struct Collecting<'a>(&'a Home);

impl Drop for Collecting<'_> {
    fn drop(&mut self) {
        self.0.gate().collecting = false;
        self.0.opened.notify_all();
    }
}

#[derive(Debug)]
struct Session {
    folder: PathBuf,
    _lock: File,
    /// Whether the folder for rubbish is there.
    has_trash: bool,
}

impl Home {
    /// Takes part in the store, and sweeps up after processes that died in it.
    pub(crate) fn join(layout: Layout) -> Result<Self, FileError> {
        let open = lock(&layout.lock("open"), FlockOperation::LockShared)?;
        let home = Self {
            layout,
            session: Mutex::new(None),
            counter: AtomicU64::new(0),
            gate: Mutex::default(),
            opened: Condvar::new(),
            open,
            pinning: OnceLock::new(),
            pins: Pins::default(),
            cached: AtomicBool::new(false),
            damaged: AtomicU64::new(0),
            later: Later::default(),
            has_floor: OnceLock::new(),
        };
        home.sweep()?;
        Ok(home)
    }

    /// From now on pins all that this store looks at, so that others may prune beside it.
    pub(crate) fn start_pinning(&self, keep: Keep) -> Result<(), FileError> {
        let pinning = lock(&self.layout.lock("pinning"), FlockOperation::LockShared)?;
        if self.pinning.set((pinning, keep)).is_ok() {
            flock(&self.open, FlockOperation::Unlock, &self.layout.lock("open"))?;
        }
        Ok(())
    }

    /// Notes that a build cache record was filed.
    pub(crate) fn note_cached(&self) {
        self.cached.store(true, Ordering::Relaxed);
    }

    /// Tells whether one was.
    pub(crate) fn has_cached(&self) -> bool {
        self.cached.load(Ordering::Relaxed)
    }

    /// Notes that a damaged blob was removed.
    pub(crate) fn note_damaged(&self) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
    }

    /// Tells how many were.
    pub(crate) fn count_damaged(&self) -> u64 {
        self.damaged.load(Ordering::Relaxed)
    }

    /// Notes that this process relies on what a digest names, if it is there: nobody removes it from now on.
    pub(crate) fn pin(&self, digest: &Digest) -> Result<(), FileError> {
        if self.pinning.get().is_some() { self.pins.pin(&self.layout, digest) } else { Ok(()) }
    }

    /// Runs work that removes only what it takes with [`pins::take`](crate::pins::take), while no store is open that does
    /// not pin; or returns `None` at once when one is, or another prunes.
    pub(crate) fn beside_pinning<T>(&self, work: impl FnOnce() -> T) -> Result<Option<T>, FileError> {
        let Some(_collect) = try_lock(&self.layout.lock("collect"))? else { return Ok(None) };
        let path = self.layout.lock("open");
        let back = if self.pinning.get().is_some() { FlockOperation::Unlock } else { FlockOperation::LockShared };
        match rustix::fs::flock(&self.open, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                let value = work();
                flock(&self.open, back, &path)?;
                Ok(Some(value))
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                flock(&self.open, back, &path)?;
                Ok(None)
            }
            Err(error) => Err(FileError::new("lock", &path, error.into())),
        }
    }

    /// Returns where everything is.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Returns what is done beside the caller's work.
    pub(crate) fn later(&self) -> &Later {
        &self.later
    }

    /// Begins work on something that nothing refers to yet, waiting for a collection of this process to end.
    pub(crate) fn begin(self: &Arc<Self>) -> Unfinished {
        let mut gate = self.gate();
        while gate.collecting {
            gate = self.opened.wait(gate).unwrap_or_else(PoisonError::into_inner);
        }
        gate.unfinished += 1;
        Unfinished(self.clone())
    }

    /// Keeps work from beginning, or returns `None` at once when some is not finished.
    pub(crate) fn begin_collecting(&self) -> Option<Collecting<'_>> {
        let mut gate = self.gate();
        if gate.collecting || gate.unfinished > 0 {
            return None;
        }
        gate.collecting = true;
        Some(Collecting(self))
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a path that nobody else uses and that is swept up if this process dies.
    pub(crate) fn temporary(&self, kind: char) -> Result<PathBuf, FileError> {
        let folder = self.session_folder()?;
        Ok(folder.join(format!("{kind}{}", self.counter.fetch_add(1, Ordering::Relaxed))))
    }

    /// Returns such a path for what is to be removed.
    ///
    /// In a folder of its own: the kernel holds the folder from which it removes another one until the disk has freed that,
    /// and work goes on in the session's.
    fn trash(&self) -> Result<PathBuf, FileError> {
        let trash = self.session_folder()?.join("trash");
        let mut session = self.session();
        if let Some(session) = session.as_mut().filter(|session| !session.has_trash) {
            fs::create_dir(&trash).during("create the folder", &trash)?;
            session.has_trash = true;
        }
        Ok(trash.join(self.counter.fetch_add(1, Ordering::Relaxed).to_string()))
    }

    /// Moves a folder out of sight at once, and returns where it is now, if it was there.
    pub(crate) fn put_aside(&self, path: &Path) -> Result<Option<PathBuf>, FileError> {
        let trash = self.trash()?;
        Ok(found(fs::rename(path, &trash)).during("remove", path)?.map(|()| trash))
    }

    /// Writes a small file that is there whole or not at all; with `durable`, also after a crash of the machine.
    pub(crate) fn write_file(&self, path: &Path, bytes: &[u8], durable: bool) -> Result<(), FileError> {
        self.stream_file(path, durable, |file| io::Write::write_all(file, bytes).during("write", path))
    }

    /// Does the same with a file whose bytes come one after another.
    pub(crate) fn stream_file<E: From<FileError>>(
        &self,
        path: &Path,
        durable: bool,
        write: impl FnOnce(&mut File) -> Result<(), E>,
    ) -> Result<(), E> {
        let temporary = self.temporary('f')?;
        let file = OpenOptions::new().write(true).create_new(true).open(&temporary);
        let mut file = file.during("create", &temporary)?;
        let written = write(&mut file).and_then(|()| {
            if durable {
                file.sync_data().during("write", path)?;
            }
            Ok(())
        });
        let placed = written.and_then(|()| Ok(atomic_file::place(&temporary, path, durable)?));
        if placed.is_err() {
            // The session's end removes it if this does not.
            let _ = fs::remove_file(&temporary);
        }
        placed
    }

    /// Moves a file or folder out of sight at once, and then removes it.
    pub(crate) fn discard(&self, path: &Path) -> Result<(), FileError> {
        if let Some(trash) = self.put_aside(path)? {
            remove_tree(&trash).during("remove", path)?;
        }
        Ok(())
    }

    /// Moves a folder out of sight at once, and removes it beside the caller's work.
    pub(crate) fn discard_later(self: &Arc<Self>, path: &Path) -> Result<(), FileError> {
        if let Some(path) = self.put_aside(path)? {
            self.later.submit(Job::Remove { home: self.clone(), path });
        }
        Ok(())
    }

    /// Holds a lock file until the guard is dropped; waits for whoever has it.
    pub(crate) fn hold(&self, name: &str) -> Result<File, FileError> {
        lock(&self.layout.lock(name), FlockOperation::LockExclusive)
    }

    /// Runs work while no other store is open here, or returns `None` at once when one is.
    pub(crate) fn alone<T>(&self, work: impl FnOnce() -> T) -> Result<Option<T>, FileError> {
        // Upgrading a file lock gives the old one up for a moment. In that moment nobody but the holder of
        // `locks/collect` could take the exclusive one, and that is us.
        let Some(_collect) = try_lock(&self.layout.lock("collect"))? else { return Ok(None) };
        let path = self.layout.lock("open");
        // Stores that pin are open as well, and this one may be one of them.
        let Some(_nobody_pins) = try_lock(&self.layout.lock("pinning"))? else { return Ok(None) };
        match rustix::fs::flock(&self.open, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                let value = work();
                flock(&self.open, FlockOperation::LockShared, &path)?;
                Ok(Some(value))
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                flock(&self.open, FlockOperation::LockShared, &path)?;
                Ok(None)
            }
            Err(error) => Err(FileError::new("lock", &path, error.into())),
        }
    }

    /// Removes what this store has not finished, whoever is still at it.
    pub(crate) fn abandon(&self) {
        if let Some(session) = self.session().take() {
            // A leftover is swept up by whoever opens the store next.
            let _ = remove_tree(&session.folder);
        }
    }

    fn session(&self) -> MutexGuard<'_, Option<Session>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn session_folder(&self) -> Result<PathBuf, FileError> {
        let mut session = self.session();
        if let Some(session) = &*session {
            return Ok(session.folder.clone());
        }
        let _birth = self.hold("sessions")?;
        let born = self.give_birth()?;
        Ok(session.insert(born).folder.clone())
    }

    /// Makes a session. The caller holds `locks/sessions`.
    fn give_birth(&self) -> Result<Session, FileError> {
        let staging = self.layout.staging();
        for number in 0_u64.. {
            let folder = staging.join(format!("{}-{number}", std::process::id()));
            match fs::DirBuilder::new().mode(0o700).create(&folder) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                other => other.during("create the folder", &folder)?,
            }
            let path = folder.join("lock");
            let lock = lock(&path, FlockOperation::LockExclusive)?;
            return Ok(Session { folder, _lock: lock, has_trash: false });
        }
        unreachable!("2^64 sessions of one process")
    }

    /// Removes what dead sessions left. What cannot be removed now is left to the next one.
    fn sweep(&self) -> Result<(), FileError> {
        let staging = self.layout.staging();
        let names = |path: &Path| -> Result<Vec<PathBuf>, FileError> {
            let entries = fs::read_dir(path).during("list", path)?;
            entries.map(|entry| entry.map(|entry| entry.path()).during("list", path)).collect()
        };
        if names(&staging)?.is_empty() {
            return Ok(());
        }
        let mut dead = Vec::new();
        {
            let _judging = self.hold("sessions")?;
            for folder in names(&staging)? {
                if !is_dead(&folder)? {
                    continue;
                }
                let mut session = self.session();
                if session.is_none() {
                    *session = Some(self.give_birth()?);
                }
                drop(session);
                let trash = self.trash()?;
                if fs::rename(&folder, &trash).is_ok() {
                    dead.push(trash);
                }
            }
        }
        for folder in dead {
            // Nobody sees it any more. If something in it resists now, the next sweep tries again.
            let _ = remove_tree(&folder);
        }
        Ok(())
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// Tells whether the process of a session is gone. The caller holds `locks/sessions`.
fn is_dead(folder: &Path) -> Result<bool, FileError> {
    let path = folder.join("lock");
    match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(file) => Ok(rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()),
        // Killed before it had a lock, or not a session at all.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(true),
        Err(error) => Err(FileError::new("open", &path, error)),
    }
}

/// Opens a lock file, making it when it is missing, and waits for the lock.
fn lock(path: &Path, operation: FlockOperation) -> Result<File, FileError> {
    let file = open_lock(path)?;
    flock(&file, operation, path)?;
    Ok(file)
}

/// Takes a lock without waiting; `None` when another has it.
fn try_lock(path: &Path) -> Result<Option<File>, FileError> {
    let file = open_lock(path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(FileError::new("lock", path, error.into())),
    }
}

fn open_lock(path: &Path) -> Result<File, FileError> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path).during("open", path)
}

fn flock(file: &File, operation: FlockOperation, path: &Path) -> Result<(), FileError> {
    rustix::io::retry_on_intr(|| rustix::fs::flock(file, operation)).during("lock", path)
}
