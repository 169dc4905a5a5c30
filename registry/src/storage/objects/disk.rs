//! [`Disk`]: a folder. Small objects go to a journal, which is synced for many requests at once, and from there to files.
//!
//! ```text
//! FOLDER/
//! ├── lock                held for the moment in which something is added to the journal
//! ├── apply               held by the one process that moves what the journal has to files
//! ├── journal/LSN         changes in their order, the first of them with the number LSN (see `journal`)
//! ├── objects/KEY         small objects as of the changes that are not in the journal any more (see `files`)
//! ├── data/ID             data objects
//! └── staging/            what is unfinished: data objects by their ID, and files on their way
//! ```
//!
//! What is written can be seen as soon as it is in the journal, by all processes, because each looks at the end of the
//! journal before it answers; and it is safe when the journal is synced, which [`Objects::sync`] waits for. There is one
//! journal, so after a crash of the machine the objects are as they were at some moment not before the last
//! `sync`. Files are written from what is synced, and a part of the journal is removed when its files are.
//!
//! **Invariant:** a data object is on the disk before a record that names it is in the journal, and a record that says
//! that it is dead is synced before it is removed.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::watch;

use super::{Backend, Condition, Entry, Object, ObjectError, Objects, Page, Put, Version};
use crate::storage::keys::{Key, Prefix};

mod cache;
mod data;
mod files;
mod io_log;
mod journal;

use data::DiskData;
use files::Files;
use io_log::Io;
use journal::{Change, Journal, Pending};

/// How a disk is used.
#[derive(Clone, Copy, Debug)]
pub struct DiskOptions {
    /// What time it is.
    pub clock: fn() -> Timestamp,
    /// How long a part of the journal gets, in bytes.
    pub segment: u64,
    /// How many bytes of objects are kept in memory.
    pub cache: usize,
}

impl DiskOptions {
    /// Uses a disk in the usual way.
    pub fn new(clock: fn() -> Timestamp) -> Self {
        Self { clock, segment: 16 * 1024 * 1024, cache: 8 * 1024 * 1024 }
    }
}

/// Objects in a folder. Clones are the same.
#[derive(Clone)]
pub struct Disk {
    shared: Arc<Shared>,
    /// Ends the threads with the last clone.
    _threads: Arc<Threads>,
}

struct Shared {
    folder: PathBuf,
    io: Io,
    clock: fn() -> Timestamp,
    files: Files,
    journal: Mutex<Journal>,
    work: Mutex<Work>,
    /// Told when there is something to do, or to stop.
    wake: Condvar,
    wake_applier: Condvar,
    /// Held by who makes the journal safe, until everybody can know how that ended.
    syncing: Mutex<()>,
    /// What [`Objects::trouble`] told last, and when.
    looked: Arc<tokio::sync::Mutex<Option<Looked>>>,
    /// Up to which change everything is safe.
    durable: watch::Sender<Durable>,
}

/// What was told of trouble, and when.
struct Looked {
    at: Instant,
    told: Option<String>,
}

/// Up to which change everything is safe, and whether that can be believed.
#[derive(Clone, Debug, Default)]
struct Durable {
    next: u64,
    failed: Option<Arc<io::Error>>,
}

#[derive(Default)]
struct Work {
    /// Up to which change somebody waits.
    wanted: u64,
    /// Whether there are parts of the journal to apply.
    apply: bool,
    /// Why the oldest part could not be applied when it was last tried.
    apply_failed: Option<Arc<ObjectError>>,
    stop: bool,
}

/// When parts of the journal cannot be applied, so many may be there before nothing more is written.
const MOST_WAITING: usize = 32;
/// How long to wait before a part that could not be applied is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// For so long all who ask whether there is trouble are told the same.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

struct Threads {
    shared: Arc<Shared>,
    handles: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.work().stop = true;
        self.shared.wake.notify_all();
        self.shared.wake_applier.notify_all();
        let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        for handle in handles.drain(..) {
            // One that panicked has said so.
            let _ = handle.join();
        }
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Disk({})", self.shared.folder.display())
    }
}

/// Says what was being done to which path when an error came up.
fn failed(action: &'static str, path: &Path, error: io::Error) -> ObjectError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ObjectError::NoSpace,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            ObjectError::Denied { action, what: path.display().to_string(), source: error.into() }
        }
        _ => ObjectError::Failed { action, what: path.display().to_string(), source: error.into() },
    }
}

/// Turns "not found" into `None`.
fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Disk {
    /// Opens a folder, making it when it is missing. Blocks.
    ///
    /// What the last who had it open wrote is there, also when the machine crashed, as far as it was synced.
    pub fn open(folder: &Path, options: DiskOptions) -> Result<Self, ObjectError> {
        Self::open_with(folder, options, Io::default())
    }

    fn open_with(folder: &Path, options: DiskOptions, io: Io) -> Result<Self, ObjectError> {
        for folder in ["journal", "objects", "data", "staging"].map(|name| folder.join(name)) {
            io.make_folders(&folder).map_err(|error| failed("create the folder", &folder, error))?;
        }
        let journal = Journal::open(folder, io.clone(), options.segment, options.cache)?;
        let files = Files::new(folder, io.clone(), journal.generation());
        let shared = Arc::new(Shared {
            folder: folder.to_owned(),
            io,
            clock: options.clock,
            files,
            journal: Mutex::new(journal),
            work: Mutex::default(),
            wake: Condvar::new(),
            wake_applier: Condvar::new(),
            syncing: Mutex::default(),
            looked: Arc::default(),
            durable: watch::Sender::default(),
        });
        // What is there may be what a crash left, or what another process has not synced yet.
        shared.sync_now()?;
        let start = |name: &str, run: fn(&Shared)| {
            let shared = shared.clone();
            let thread = std::thread::Builder::new().name(name.into()).spawn(move || run(&shared));
            thread.map_err(|error| failed("start a thread for", folder, error))
        };
        let handles = vec![start("journal", Shared::run_syncer)?, start("apply", Shared::run_applier)?];
        shared.apply_if_worth();
        Ok(Self { _threads: Arc::new(Threads { shared: shared.clone(), handles: Mutex::new(handles) }), shared })
    }

    /// Returns it as what a registry is opened with.
    pub fn backend(&self) -> Backend {
        let data = DiskData::new(&self.shared.folder, self.shared.io.clone(), self.clone());
        Backend { objects: Arc::new(self.clone()), data: Arc::new(data) }
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Shared) -> T + Send + 'static) -> T {
        let disk = self.clone();
        store::blocking::run(move || work(&disk.shared)).await
    }
}

impl Shared {
    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the journal if that is possible without waiting: nobody writes to it, and others have not added to it. What
    /// is in memory is better read at once then, in less time than another thread can be asked to.
    fn free_journal(&self) -> Result<Option<MutexGuard<'_, Journal>>, ObjectError> {
        let Ok(journal) = self.journal.try_lock() else { return Ok(None) };
        Ok(if journal.is_behind()? { None } else { Some(journal) })
    }

    /// Returns what is under a key if that is in memory and can be had without waiting.
    fn in_memory(&self, key: &Key) -> Result<Option<Object>, ObjectError> {
        Ok(self.free_journal()?.and_then(|mut journal| journal.cache.get(key)))
    }

    /// Returns what is under a key if that is known without a file; `Err` holds the number of the next change otherwise.
    fn at_hand(journal: &mut Journal, key: &Key) -> Result<Result<Option<Object>, u64>, ObjectError> {
        journal.catch_up()?;
        if let Some(object) = journal.cache.get(key) {
            return Ok(Ok(Some(object)));
        }
        match journal.pending(key) {
            None => Ok(Err(journal.next())),
            Some(Pending { change: Change::Delete, .. }) => Ok(Ok(None)),
            Some(pending) => {
                let object = pending.read()?;
                journal.cache.put(key, &object);
                Ok(Ok(Some(object)))
            }
        }
    }

    fn get(&self, key: &Key) -> Result<Option<Object>, ObjectError> {
        let next = match Self::at_hand(&mut self.journal(), key)? {
            Ok(object) => return Ok(object),
            Err(next) => next,
        };
        let object = self.files.read(key)?;
        if let Some(object) = &object {
            let mut journal = self.journal();
            // Unless something changed meanwhile, which may have been this.
            if journal.next() == next {
                journal.cache.put(key, object);
            }
        }
        Ok(object)
    }

    fn head(&self, key: &Key) -> Result<Option<Entry>, ObjectError> {
        match Self::at_hand(&mut self.journal(), key)? {
            Ok(object) => Ok(object.map(|object| entry(key, &object))),
            Err(_) => self.files.head(key),
        }
    }

    fn put(&self, key: &Key, bytes: Bytes, condition: &Condition) -> Result<Put, ObjectError> {
        let mut journal = self.journal();
        let _lock = journal.lock()?;
        journal.catch_up()?;
        if *condition != Condition::Always {
            let current = match journal.pending(key) {
                Some(Pending { change: Change::Delete, .. }) => None,
                Some(pending) => Some(pending.lsn),
                None => match journal.cache.get(key) {
                    Some(object) => object.version.0.parse().ok(),
                    None => self.files.version(key)?,
                },
            };
            let holds = match condition {
                Condition::Always => true,
                Condition::Absent => current.is_none(),
                Condition::Is(version) => current.is_some_and(|lsn| *lsn.to_string() == *version.0),
            };
            if !holds {
                return Ok(Put::Lost);
            }
        }
        self.check_applier(&mut journal)?;
        let lsn = journal.append(key, Change::Put, bytes, (self.clock)())?;
        self.note_work(&journal);
        Ok(Put::Done(version(lsn)))
    }

    fn delete(&self, key: &Key) -> Result<(), ObjectError> {
        let mut journal = self.journal();
        let _lock = journal.lock()?;
        journal.catch_up()?;
        self.check_length(&mut journal)?;
        journal.append(key, Change::Delete, Bytes::new(), (self.clock)())?;
        self.note_work(&journal);
        Ok(())
    }

    /// Refuses when the journal gets longer and longer, whatever the reason: it must not fill the disk, and is read when
    /// the folder is opened.
    fn check_length(&self, journal: &mut Journal) -> Result<(), ObjectError> {
        if journal.files() <= 2 * MOST_WAITING || self.count_again(journal) <= 2 * MOST_WAITING {
            return Ok(());
        }
        Err(ObjectError::Unavailable { source: format!("the journal has {} parts by now", journal.files()).into() })
    }

    /// Tells of how many files the journal is, without those that another process has moved meanwhile. If that has
    /// stopped, it is our turn: who sleeps because the other was at it is not woken by the other.
    fn count_again(&self, journal: &mut Journal) -> usize {
        journal.forget_removed();
        self.note_work(journal);
        journal.files()
    }

    /// Tells what goes wrong although everything can be written and read.
    fn trouble(&self) -> Result<Option<String>, ObjectError> {
        // Also when there is nothing to make safe: then this tells whether the disk is still there.
        self.sync_now()?;
        let files = self.count_again(&mut self.journal());
        let reason = match self.work().apply_failed.clone() {
            Some(error) => error.reason(),
            None if files > MOST_WAITING => "nobody does".to_owned(),
            None => return Ok(None),
        };
        Ok(Some(format!("the {files} parts of the journal are not moved to files: {reason}")))
    }

    /// Refuses when the journal gets longer and longer because nothing can be moved to files.
    fn check_applier(&self, journal: &mut Journal) -> Result<(), ObjectError> {
        self.check_length(journal)?;
        if journal.files() <= MOST_WAITING {
            return Ok(());
        }
        let Some(error) = self.work().apply_failed.clone() else { return Ok(()) };
        if matches!(*error, ObjectError::NoSpace) {
            return Err(ObjectError::NoSpace);
        }
        let what = self.folder.display().to_string();
        Err(ObjectError::Failed { action: "empty the journal of", what, source: Box::new(error) })
    }

    fn note_work(&self, journal: &Journal) {
        if journal.has_closed() {
            self.work().apply = true;
            self.wake_applier.notify_one();
        }
    }

    fn list(&self, prefix: &Prefix, after: Option<&Key>, limit: usize) -> Result<Page<Entry>, ObjectError> {
        if limit == 0 {
            return Ok(Page { entries: Vec::new(), more: false });
        }
        let start = prefix.key("");
        let after = after.filter(|after| **after >= start);
        // First what is not in files yet: what gets there meanwhile is seen twice, and not never.
        let (pending, pending_end) = {
            let mut journal = self.journal();
            journal.catch_up()?;
            journal.pending_below(prefix, after, limit)
        };
        let deleted = pending.iter().filter(|(_, entry)| entry.is_none()).count();
        let wanted = limit.saturating_add(1).saturating_add(deleted);
        let mut filed = self.files.list(prefix, after, wanted)?;
        // Beyond the last that was listed, here or there, there may be others, so nothing is known.
        let filed_end = (filed.len() == wanted).then(|| filed.last().map(|entry| entry.key.clone())).flatten();
        let end = match (filed_end, pending_end) {
            (Some(filed), Some(pending)) => Some(filed.min(pending)),
            (filed, pending) => filed.or(pending),
        };
        // Nearly always it is: only a part that is longer than a name may be comes from a folder of another name.
        filed.sort_by(|a, b| a.key.cmp(&b.key));
        let mut entries = Vec::with_capacity(filed.len() + pending.len());
        let mut filed = filed.into_iter().peekable();
        for (key, now) in pending {
            while let Some(entry) = filed.next_if(|entry| entry.key < key) {
                entries.push(entry);
            }
            filed.next_if(|entry| entry.key == key);
            entries.extend(now.map(|(size, modified)| Entry { key, size, modified }));
        }
        entries.extend(filed);
        if let Some(end) = &end {
            entries.truncate(entries.partition_point(|entry| entry.key <= *end));
        }
        let more = entries.len() > limit || end.is_some();
        entries.truncate(limit);
        Ok(Page { entries, more })
    }

    /// Makes everything safe that was seen of the journal. When that fails, all who wait are told.
    fn sync_now(&self) -> Result<u64, ObjectError> {
        // The kernel tells once that it lost something. Whoever syncs after that is told that all is well, and must know
        // better by then.
        let _turn = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let failed_with =
            |error: &io::Error| failed("sync the journal of", &self.folder, io::Error::from(error.kind()));
        if let Some(error) = &self.durable.borrow().failed {
            return Err(failed_with(error));
        }
        let (segments, next) = {
            let journal = self.journal();
            (journal.unsynced(), journal.next())
        };
        let synced = segments.and_then(|segments| {
            segments.iter().try_for_each(|segment| segment.sync(&self.io))?;
            let mut journal = self.journal();
            journal.synced(&segments);
            // Who began another part meanwhile may have been told instead of us.
            journal.unsynced()
        });
        if let Err(error) = synced {
            // What the kernel could not write it may have dropped: from here on nothing can be believed.
            let error = Arc::new(error);
            self.durable.send_modify(|durable| durable.failed = Some(error.clone()));
            return Err(failed_with(&error));
        }
        self.durable.send_modify(|durable| durable.next = durable.next.max(next));
        Ok(next)
    }

    fn run_syncer(&self) {
        loop {
            {
                let mut work = self.work();
                while !work.stop && work.wanted <= self.durable.borrow().next {
                    work = self.wake.wait(work).unwrap_or_else(PoisonError::into_inner);
                }
                if work.stop {
                    return;
                }
            }
            if self.sync_now().is_err() {
                // Those who wait are told; there is nothing else that this thread could do.
                return;
            }
        }
    }

    fn apply_if_worth(&self) {
        let journal = self.journal();
        self.note_work(&journal);
    }

    fn run_applier(&self) {
        loop {
            {
                let mut work = self.work();
                while !work.stop && !work.apply {
                    work = self.wake_applier.wait(work).unwrap_or_else(PoisonError::into_inner);
                }
                if work.stop {
                    return;
                }
                work.apply = false;
            }
            let applied = loop {
                match self.apply() {
                    Ok(true) => {}
                    Ok(false) => break Ok(()),
                    Err(error) => break Err(error),
                }
            };
            // What cannot be moved now stays in the journal, where it is as good, for a while.
            let mut work = self.work();
            work.apply_failed = applied.err().map(Arc::new);
            if work.apply_failed.is_some() {
                work.apply = true;
                let waited = self.wake_applier.wait_timeout_while(work, RETRY, |work| !work.stop);
                drop(waited.unwrap_or_else(PoisonError::into_inner));
            }
        }
    }

    /// Moves the oldest part of the journal to files, if that is finished; tells whether it did.
    fn apply(&self) -> Result<bool, ObjectError> {
        let path = self.folder.join("apply");
        let lock = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(|error| failed("open", &path, error))?;
        if lock.try_lock().is_err() {
            return Ok(false);
        }
        let (segment, changes) = {
            let mut journal = self.journal();
            journal.catch_up()?;
            journal.forget_removed();
            let Some(segment) = journal.oldest_closed() else { return Ok(false) };
            let changes = journal.pending_of(&segment);
            (segment, changes)
        };
        // What was overwritten since is not written, so what overwrote it must be safe.
        self.sync_now()?;
        for (key, pending) in &changes {
            match pending.change {
                Change::Put => self.files.write(key, &pending.read()?, pending.lsn)?,
                Change::Delete => self.files.remove(key)?,
                Change::Next => {}
            }
        }
        self.io.sync_all(&self.folder).map_err(|error| failed("sync", &self.folder, error))?;
        self.io.remove(segment.path()).map_err(|error| failed("remove", segment.path(), error))?;
        self.journal().applied(&segment, &changes);
        Ok(true)
    }
}

fn entry(key: &Key, object: &Object) -> Entry {
    Entry { key: key.clone(), size: object.bytes.len() as u64, modified: object.modified }
}

fn version(lsn: u64) -> Version {
    Version(lsn.to_string().into())
}

#[async_trait]
impl Objects for Disk {
    async fn get(&self, key: &Key) -> Result<Option<Object>, ObjectError> {
        if let Some(object) = self.shared.in_memory(key)? {
            return Ok(Some(object));
        }
        let key = key.clone();
        self.blocking(move |shared| shared.get(&key)).await
    }

    async fn head(&self, key: &Key) -> Result<Option<Entry>, ObjectError> {
        if let Some(object) = self.shared.in_memory(key)? {
            return Ok(Some(entry(key, &object)));
        }
        let key = key.clone();
        self.blocking(move |shared| shared.head(&key)).await
    }

    async fn put(&self, key: &Key, bytes: Bytes, condition: Condition) -> Result<Put, ObjectError> {
        let key = key.clone();
        self.blocking(move |shared| shared.put(&key, bytes, &condition)).await
    }

    async fn delete(&self, key: &Key) -> Result<(), ObjectError> {
        let key = key.clone();
        self.blocking(move |shared| shared.delete(&key)).await
    }

    async fn list(&self, prefix: &Prefix, after: Option<&Key>, limit: usize) -> Result<Page<Entry>, ObjectError> {
        let (prefix, after) = (prefix.clone(), after.cloned());
        self.blocking(move |shared| shared.list(&prefix, after.as_ref(), limit)).await
    }

    async fn sync(&self) -> Result<(), ObjectError> {
        let at_once = self.shared.free_journal()?.map(|journal| journal.next());
        let target = match at_once {
            Some(next) => next,
            None => {
                let next = |shared: &Shared| {
                    let mut journal = shared.journal();
                    journal.catch_up().map(|()| journal.next())
                };
                self.blocking(next).await?
            }
        };
        let mut durable = self.shared.durable.subscribe();
        {
            let mut work = self.shared.work();
            work.wanted = work.wanted.max(target);
        }
        self.shared.wake.notify_one();
        let reached = durable.wait_for(|durable| durable.next >= target || durable.failed.is_some()).await;
        match reached.map(|durable| durable.failed.clone()) {
            Ok(None) => Ok(()),
            Ok(Some(error)) => Err(failed("sync the journal of", &self.shared.folder, io::Error::from(error.kind()))),
            Err(_) => Err(ObjectError::Unavailable { source: "the journal is closed".into() }),
        }
    }

    async fn now(&self) -> Result<Timestamp, ObjectError> {
        let at_once = self.shared.journal.try_lock().ok().map(|journal| journal.last_at());
        let last = match at_once {
            Some(last) => last,
            None => self.blocking(|shared| shared.journal().last_at()).await,
        };
        Ok((self.shared.clock)().max(last))
    }

    fn tag_changes(&self) -> Result<Option<u64>, ObjectError> {
        Ok(self.shared.free_journal()?.map(|journal| journal.tag_changes()))
    }

    async fn trouble(&self) -> Result<Option<String>, ObjectError> {
        let mut last = self.shared.looked.clone().lock_owned().await;
        if let Some(last) = &*last
            && last.at.elapsed() < LOOK_AGAIN
        {
            return Ok(last.told.clone());
        }
        // Held until it is done, also when nobody waits for the answer any more.
        self.blocking(move |shared| {
            let told = shared.trouble()?;
            *last = Some(Looked { at: Instant::now(), told: told.clone() });
            Ok(told)
        })
        .await
    }
}

#[cfg(test)]
mod tests;
