//! Who is at work in the store, and sweeping up after those who died.
//!
//! Each open store that writes has a session: a folder for all that it has not finished, with a lock file that it
//! holds. The kernel drops the lock when the process dies, however it dies, and the next one to open the store
//! removes the folder. A session is born and found dead under `locks/sessions`, so none is taken for dead between
//! its folder and its lock.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
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
    /// Empty folders that are to be used again.
    spare: Vec<PathBuf>,
}

/// So many empty folders are kept: what a step needs on each of a few processors.
const MOST_SPARE: usize = 8;

/// So many folders of sessions wait for others.
const MOST_IDLE: usize = 4;

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

    /// Makes a folder, or takes an empty one that is no longer used: a file system whose disk is told of all that becomes
    /// free takes a hundred times longer to remove a folder than to move one.
    pub(crate) fn make_folder(&self, path: &Path, mode: u32) -> Result<(), FileError> {
        let spare = self.session().as_mut().and_then(|session| session.spare.pop());
        if spare.is_none_or(|spare| fs::rename(spare, path).is_err()) {
            fs::DirBuilder::new().mode(mode).create(path).during("create the folder", path)?;
        }
        // The umask took its part, or it was made for something else.
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).during("create the folder", path)
    }

    /// Moves a folder that overlayfs worked in out of sight at once, and recycles it beside the caller's work.
    pub(crate) fn recycle_later(self: &Arc<Self>, path: &Path) -> Result<(), FileError> {
        if let Some(path) = self.put_aside(path)? {
            self.later.submit(Job::Recycle { home: self.clone(), path });
        }
        Ok(())
    }

    /// Keeps the folders of such a one; gives back what is to be removed.
    pub(crate) fn recycle(&self, path: PathBuf) -> Option<PathBuf> {
        let inner = path.join("work");
        let mark = inner.join("incompat");
        let volatile = mark.join("volatile");
        // Others' folders may be those of another user.
        if !rustix::process::geteuid().is_root() || fs::remove_file(volatile.join("dirty")).is_err() {
            return Some(path);
        }
        // From the inside, so that each is empty when its turn comes. None was ever seen by a container.
        let kept = [&volatile, &mark, &inner, &path].iter().all(|folder| self.keep_spare(folder));
        (!kept).then_some(path)
    }

    /// Keeps a folder if it is empty and there are not enough.
    fn keep_spare(&self, folder: &Path) -> bool {
        let session = self.session().as_ref().map(|session| (session.folder.clone(), session.spare.len()));
        let Some((session, _)) = session.filter(|(_, spare)| *spare < MOST_SPARE) else { return false };
        // Without the lock: each step takes it several times, and would wait for the disk and for this thread's next turn.
        let is_empty = fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none());
        let spare = session.join(format!("s{}", self.counter.fetch_add(1, Ordering::Relaxed)));
        let kept = is_empty && fs::rename(folder, &spare).is_ok();
        if kept && let Some(session) = self.session().as_mut() {
            session.spare.push(spare);
        }
        kept
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

    /// Leaves a session's folder to the next process, if nothing is in it but empty folders; says whether it did.
    fn lay_aside(&self, session: &Session) -> bool {
        let is_empty = |folder: &Path| fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none());
        let is_idle = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default();
            name == "lock" || session.spare.contains(path) || (name == "trash" && is_empty(path))
        };
        let entries = fs::read_dir(&session.folder).into_iter().flatten();
        if !entries.map(|entry| entry.map(|entry| entry.path())).all(|path| path.as_ref().is_ok_and(is_idle)) {
            return false;
        }
        (0..MOST_IDLE).map(|number| self.layout.idle(number)).any(|place| {
            // What is there already is not empty, and stays.
            let put = || fs::rename(&session.folder, &place).is_ok();
            // The first one finds no folder for them.
            put() || (place.parent().is_some_and(|all| fs::DirBuilder::new().mode(0o700).create(all).is_ok()) && put())
        })
    }

    /// Takes over what another process laid aside, if there is something. The caller holds `locks/sessions`.
    fn take_over(&self, folder: &Path) -> Result<Option<Session>, FileError> {
        let Some(_) = (0..MOST_IDLE).find(|number| fs::rename(self.layout.idle(*number), folder).is_ok()) else {
            return Ok(None);
        };
        let lock = lock(&folder.join("lock"), FlockOperation::LockExclusive)?;
        let mut spare = Vec::new();
        for entry in fs::read_dir(folder).during("list", folder)? {
            let entry = entry.during("list", folder)?;
            if let Some(number) =
                entry.file_name().to_str().and_then(|name| name.strip_prefix('s')?.parse::<u64>().ok())
            {
                spare.push(entry.path());
                // No other folder gets this name.
                self.counter.fetch_max(number + 1, Ordering::Relaxed);
            }
        }
        let has_trash = folder.join("trash").exists();
        Ok(Some(Session { folder: folder.to_owned(), _lock: lock, has_trash, spare }))
    }

    /// Makes a session. The caller holds `locks/sessions`.
    fn give_birth(&self) -> Result<Session, FileError> {
        let staging = self.layout.staging();
        for number in 0_u64.. {
            let folder = staging.join(format!("{}-{number}", std::process::id()));
            if !folder.exists()
                && let Some(session) = self.take_over(&folder)?
            {
                return Ok(session);
            }
            match fs::DirBuilder::new().mode(0o700).create(&folder) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                other => other.during("create the folder", &folder)?,
            }
            let path = folder.join("lock");
            let lock = lock(&path, FlockOperation::LockExclusive)?;
            return Ok(Session { folder, _lock: lock, has_trash: false, spare: Vec::new() });
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
        // On a disk that is told of all that becomes free, removing the folders would be most of what a small command takes.
        if self.session().take_if(|session| self.lay_aside(session)).is_none() {
            self.abandon();
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Store;

    fn count(folder: &Path) -> usize {
        fs::read_dir(folder).map_or(0, |entries| entries.flatten().count())
    }

    #[test]
    fn the_next_process_takes_over_an_empty_folder_and_nothing_else() {
        let folder = tempfile::tempdir().expect("tempdir");
        let home = folder.path().join("home");
        let (staging, idle) = (home.join("staging"), home.join("idle"));
        let open = || {
            let store = Store::open(&home).expect("opened");
            drop(store.blobs().begin().expect("begun"));
            store
        };
        let several: Vec<Store> = (0..MOST_IDLE + 2).map(|_| open()).collect();
        assert_eq!((count(&staging), count(&idle)), (MOST_IDLE + 2, 0));
        drop(several);
        assert_eq!((count(&staging), count(&idle)), (0, MOST_IDLE));
        let store = open();
        assert_eq!((count(&staging), count(&idle)), (1, MOST_IDLE - 1));
        let left = store.blobs().begin().expect("begun");
        std::mem::forget(left);
        drop(store);
        // Whatever was left keeps the store open; nobody else gets its folder.
        let again = open();
        assert_eq!((count(&staging), count(&idle)), (2, MOST_IDLE - 2));
        drop(again);
        assert_eq!((count(&staging), count(&idle)), (1, MOST_IDLE - 1));
    }

    #[test]
    fn a_folder_in_which_something_is_left_goes_away_with_it() {
        let folder = tempfile::tempdir().expect("tempdir");
        let home = folder.path().join("home");
        let store = Store::open(&home).expect("opened");
        drop(store.blobs().begin().expect("begun"));
        let session = fs::read_dir(home.join("staging")).expect("listed").next().expect("one").expect("read").path();
        fs::create_dir(session.join("a0")).expect("made");
        drop(store);
        assert_eq!((count(&home.join("staging")), count(&home.join("idle"))), (0, 0));
    }
}
