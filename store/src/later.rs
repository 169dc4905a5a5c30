//! [`Later`]: work on the disk that a build's steps do not wait for, done by one thread beside them.
//!
//! A layer is hashed by the step that made it, and has a digest. That its bytes survive a crash of the machine matters only
//! when somebody is told that they are kept, so syncing, which is most of what a small layer costs, happens here, for all
//! that has come together meanwhile at once:
//!
//! ```text
//! files written and synced -> moved to their names -> their folders synced -> cache records written -> rubbish removed
//! ```
//!
//! **Invariant:** what has its name is synced, here as everywhere. A cache record is written only when all blobs that were
//! handed in before it are. So a crash loses steps that nobody was told of, and nothing else. This process finds blobs and
//! records as if they were there already: whoever asks for one that is on its way waits for it.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::Hash;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use layer::remove_tree;
use oci::Digest;

use crate::FileError;
use crate::atomic_file::sync_folder;
use crate::blobs::{BlobError, BlobWriter, Blobs};
use crate::session::{Home, Unfinished};

/// Something to be done.
#[derive(Debug)]
pub(crate) enum Job {
    /// Make a blob visible whose digest is known.
    Place { source: Source, digest: Digest },
    /// Write a small file that need not survive a crash of the machine.
    File { home: Arc<Home>, path: PathBuf, bytes: Vec<u8> },
    /// Remove what nobody sees any more.
    Remove { home: Arc<Home>, path: PathBuf },
    /// Take apart the folder that overlayfs worked in, and keep its folders for others.
    Recycle { home: Arc<Home>, path: PathBuf },
}

/// Where the bytes of a blob are.
#[derive(Debug)]
pub(crate) enum Source {
    /// In a file that is written and hashed.
    File(BlobWriter),
    /// In memory still; no collection comes in between.
    Memory(Blobs, Vec<u8>, Unfinished),
}

/// So many jobs wait at most. Each may hold a file open or some 100 KiB in memory.
const MOST_WAITING: usize = 64;

/// What is still to be done in a store. It is done in the order in which it came, as far as anybody can see.
#[derive(Debug, Default)]
pub(crate) struct Later(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Told when jobs were taken, and when they are done.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Blobs that are not visible yet; the same one may have been handed in several times.
    digests: HashMap<Digest, usize>,
    /// Records that are not visible yet, likewise.
    records: HashMap<PathBuf, usize>,
    /// Whether jobs wait or are being done. Changes together with `jobs`.
    working: bool,
    /// Whether there is a thread. It stays: a build hands something in with every step.
    has_thread: bool,
    /// Whether nobody hands anything in any more.
    closed: bool,
    failed: Option<BlobError>,
}

impl Drop for Later {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

impl Later {
    /// Hands a job in; waits when too many are waiting.
    pub(crate) fn submit(&self, job: Job) {
        let mut state = self.0.lock();
        while state.working && state.jobs.len() >= MOST_WAITING {
            state = self.0.wait(state);
        }
        match &job {
            Job::Place { digest, .. } => *state.digests.entry(digest.clone()).or_default() += 1,
            Job::File { path, .. } => *state.records.entry(path.clone()).or_default() += 1,
            Job::Remove { .. } | Job::Recycle { .. } => {}
        }
        state.jobs.push_back(job);
        state.working = true;
        if std::mem::replace(&mut state.has_thread, true) {
            drop(state);
            self.0.changed.notify_all();
            return;
        }
        drop(state);
        let shared = self.0.clone();
        let started = std::thread::Builder::new().name("later".into()).spawn(move || shared.work(true));
        if started.is_err() {
            // Without another thread it is done at once.
            self.0.work(false);
        }
    }

    /// Whether a record has to wait for blobs, or will never come because of one.
    pub(crate) fn holds_records_back(&self) -> bool {
        let state = self.0.lock();
        state.working || state.failed.is_some()
    }

    /// Whether a blob is on its way.
    pub(crate) fn is_placing(&self, digest: &Digest) -> bool {
        self.0.lock().digests.contains_key(digest)
    }

    /// Whether a record is on its way.
    pub(crate) fn is_filing(&self, path: &Path) -> bool {
        self.0.lock().records.contains_key(path)
    }

    /// Waits for a blob if it is on its way. Of what fails only [`Later::settle`] tells.
    pub(crate) fn await_blob(&self, digest: &Digest) {
        let mut state = self.0.lock();
        while state.digests.contains_key(digest) {
            state = self.0.wait(state);
        }
    }

    /// Waits likewise for a record.
    pub(crate) fn await_record(&self, path: &Path) {
        let mut state = self.0.lock();
        while state.records.contains_key(path) {
            state = self.0.wait(state);
        }
    }

    /// Waits until all that was handed in is done.
    pub(crate) fn rest(&self) {
        let mut state = self.0.lock();
        while state.working {
            state = self.0.wait(state);
        }
    }

    /// Waits until all that was handed in is done, and tells of the first thing that failed since the last call.
    pub(crate) fn settle(&self) -> Result<(), BlobError> {
        self.rest();
        self.0.lock().failed.take().map_or(Ok(()), Err)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Works until nothing is left, or with `stay` as long as anything may come. Jobs hold the store open; they are gone
    /// before anybody hears that they are done.
    fn work(&self, stay: bool) {
        // Also when a job panics, nobody waits for ever, or believes that all went well.
        let _panicked = Panicked(self);
        loop {
            let (mut jobs, failed) = {
                let mut state = self.lock();
                while state.jobs.is_empty() {
                    if std::mem::take(&mut state.working) {
                        self.changed.notify_all();
                    }
                    if !stay || state.closed {
                        // Under the lock: whoever hands in the next job sees that it takes another thread.
                        state.has_thread = false;
                        return;
                    }
                    state = self.wait(state);
                }
                (std::mem::take(&mut state.jobs), state.failed.is_some())
            };
            self.changed.notify_all();
            let (mut digests, mut records) = (Vec::new(), Vec::new());
            for job in &jobs {
                match job {
                    Job::Place { digest, .. } => digests.push(digest.clone()),
                    Job::File { path, .. } => records.push(path.clone()),
                    Job::Remove { .. } | Job::Recycle { .. } => {}
                }
            }
            if failed {
                // They may speak of the blob that was lost.
                jobs.retain(|job| !matches!(job, Job::File { .. }));
            }
            let (mut blobs, mut files, mut rubbish) = (Vec::new(), Vec::new(), Vec::new());
            for job in jobs {
                match job {
                    Job::Place { source, digest } => blobs.push((source, digest)),
                    Job::File { home, path, bytes } => files.push((home, path, bytes)),
                    Job::Remove { home, path } => rubbish.push((home, path)),
                    // At once: the next step wants them.
                    Job::Recycle { home, path } => rubbish.extend(home.recycle(path).map(|path| (home, path))),
                }
            }
            let kept = keep(blobs, files);
            {
                let mut state = self.lock();
                digests.iter().for_each(|digest| forget(&mut state.digests, digest));
                records.iter().for_each(|path| forget(&mut state.records, path));
                if let Err(error) = kept {
                    state.failed.get_or_insert(error);
                }
            }
            if !(digests.is_empty() && records.is_empty()) {
                self.changed.notify_all();
            }
            // What resists is swept with the session.
            side_by_side(rubbish, |(_home, path)| drop(remove_tree(&path)));
        }
    }
}

/// Counts one less.
fn forget<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// Gives up all jobs when one of them panics.
struct Panicked<'a>(&'a Shared);

impl Drop for Panicked<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let lost = FileError::new("write", Path::new("the store"), io::Error::other("a thread panicked"));
            let mut state = self.0.lock();
            (state.working, state.has_thread) = (false, false);
            let jobs = std::mem::take(&mut state.jobs);
            state.digests.clear();
            state.records.clear();
            state.failed.get_or_insert(lost.into());
            self.0.changed.notify_all();
            drop(state);
            drop(jobs);
        }
    }
}

/// Keeps what has come together. When a blob cannot be placed, no record of this batch is written.
fn keep(blobs: Vec<(Source, Digest)>, files: Vec<(Arc<Home>, PathBuf, Vec<u8>)>) -> Result<(), BlobError> {
    // Disks take several at once in little more than the time of one.
    let synced = side_by_side(blobs, |(source, digest)| {
        let writer = match source {
            Source::File(writer) => writer,
            Source::Memory(blobs, bytes, _unfinished) => blobs.write(&bytes)?,
        };
        writer.sync()?;
        Ok::<_, BlobError>((writer, digest))
    });
    let mut folders = BTreeSet::new();
    for blob in synced {
        let (writer, digest) = blob?;
        folders.extend(writer.place_synced(&digest)?);
    }
    for folder in side_by_side(folders.into_iter().collect(), |folder| sync_folder(&folder)) {
        folder?;
    }
    for (home, path, bytes) in files {
        home.write_file(&path, &bytes, false)?;
    }
    Ok(())
}

fn side_by_side<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    const MOST: usize = 8;
    if items.len() < 2 {
        return items.into_iter().map(work).collect();
    }
    let mut results = Vec::with_capacity(items.len());
    let mut items = items.into_iter();
    loop {
        let some: Vec<T> = items.by_ref().take(MOST).collect();
        if some.is_empty() {
            return results;
        }
        std::thread::scope(|scope| {
            let threads: Vec<_> = some.into_iter().map(|item| scope.spawn(|| work(item))).collect();
            for thread in threads {
                results.push(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use crate::{Keeps, Store};
    use oci::Digest;

    #[test]
    fn what_is_put_later_is_found_at_once_and_its_record_comes_after_it() {
        let folder = tempfile::tempdir().expect("tempdir");
        let store = Store::open(&folder.path().join("home")).expect("opened");
        let key = Digest::sha256(b"key");
        for number in 0..20_u8 {
            let digest = store.blobs().put_later(vec![number / 2; 10]).expect("handed in");
            assert!(store.blobs().contains(&digest).expect("looked"));
            assert_eq!(store.blobs().read(&digest, 100).expect("read"), [number / 2; 10]);
        }
        let digest = store.blobs().put_later(b"the last".to_vec()).expect("handed in");
        store.build_cache().put(&key, b"record", &Keeps::default()).expect("handed in");
        store.settle().expect("done");
        assert!(store.layout().blob(&digest).exists());
        assert_eq!(store.build_cache().get(&key).expect("looked").as_deref(), Some(b"record".as_slice()));
    }

    #[test]
    fn a_blob_that_cannot_be_placed_fails_the_next_settling_and_leaves_no_record() {
        let folder = tempfile::tempdir().expect("tempdir");
        let store = Store::open(&folder.path().join("home")).expect("opened");
        let (key, digest) = (Digest::sha256(b"key"), Digest::sha256(b"bytes"));
        // A folder has the blob's name.
        std::fs::create_dir_all(store.layout().blob(&digest).join("in the way")).expect("made");
        let mut writer = store.blobs().begin().expect("begun");
        std::io::Write::write_all(&mut writer, b"bytes").expect("written");
        assert_eq!(writer.commit_later().expect("hashed"), (digest, 5));
        store.build_cache().put(&key, b"record", &Keeps::default()).expect("handed in");
        assert!(store.settle().is_err());
        store.settle().expect("told once");
        drop(store);
        let store = Store::open(&folder.path().join("home")).expect("opened");
        assert_eq!(store.build_cache().get(&key).expect("looked"), None);
    }

    #[test]
    fn a_record_on_its_way_is_found_and_settling_waits_for_all_that_came_in_whenever_the_thread_ends() {
        let folder = tempfile::tempdir().expect("tempdir");
        let store = Store::open(&folder.path().join("home")).expect("opened");
        // Each round begins about when the thread of the one before ends.
        for number in 0..300_u32 {
            let bytes = number.to_le_bytes();
            let digest = store.blobs().put_later(bytes.to_vec()).expect("handed in");
            let key = Digest::sha256(&bytes);
            store.build_cache().put(&key, &bytes, &Keeps::default()).expect("handed in");
            if number % 3 == 0 {
                assert_eq!(store.build_cache().get(&key).expect("looked").as_deref(), Some(bytes.as_slice()));
                assert!(store.layout().blob(&digest).exists(), "the record came before the blob");
            }
            if number % 2 == 0 {
                store.settle().expect("done");
                assert!(store.layout().blob(&digest).exists() && store.layout().cache_record(&key).exists());
            }
        }
    }

    #[test]
    fn more_than_may_wait_at_once_comes_to_its_place() {
        let folder = tempfile::tempdir().expect("tempdir");
        let store = Store::open(&folder.path().join("home")).expect("opened");
        std::thread::scope(|scope| {
            for thread in 0..4_u8 {
                let store = &store;
                scope.spawn(move || {
                    for number in 0..100 {
                        store.blobs().put_later(vec![thread, number]).expect("handed in");
                    }
                });
            }
        });
        store.settle().expect("done");
        assert_eq!(store.blobs().list().expect("listed").len(), 400);
    }

    #[test]
    fn a_collection_waits_for_another_day_while_a_blob_is_on_its_way() {
        let folder = tempfile::tempdir().expect("tempdir");
        let store = Store::open(&folder.path().join("home")).expect("opened");
        let digest = store.blobs().put_later(b"config".to_vec()).expect("handed in");
        match store.collect() {
            Err(crate::CollectError::Busy) => assert!(store.blobs().contains(&digest).expect("looked")),
            // It was in its place already, and nothing names it.
            other => assert_eq!(other.expect("collected").blobs, 1),
        }
    }
}
