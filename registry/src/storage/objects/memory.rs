//! [`Memory`]: a store that is gone with its process, and in which a test decides what happens when.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use jiff::Timestamp;

use super::{
    Backend, Checkpoint, Condition, Content, Data, DataWriter, Entry, Object, ObjectError, Objects, Page, Put, Version,
};
use crate::storage::id::Id;
use crate::storage::keys::{Key, Prefix};

/// Objects in memory. Clones are the same store.
#[derive(Clone, Default)]
pub struct Memory {
    state: Arc<Mutex<State>>,
    gate: Option<Arc<dyn Gate>>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<Key, Stored>,
    data: BTreeMap<Id, (Bytes, Timestamp)>,
    unfinished: BTreeMap<Id, BytesMut>,
    writes: u64,
    passed: Duration,
    /// Data objects that cannot be read, as on a disk with a bad sector.
    unreadable: BTreeSet<Id>,
}

struct Stored {
    bytes: Bytes,
    version: u64,
    modified: Timestamp,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is carried out.
    Done,
    /// It fails and nothing happened.
    Refused,
    /// It is carried out, but the caller hears that it failed.
    LostAnswer,
}

/// Stands before every call to the store, and decides when it is carried out, and what becomes of it.
pub trait Gate: Send + Sync {
    /// Waits until it is this call's turn. A caller that "crashed" never hears.
    fn pass(&self, call: &'static str, what: &str) -> BoxFuture<'static, Fate>;
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memory")
    }
}

impl Memory {
    /// Returns the same store behind a gate.
    pub fn behind(&self, gate: Arc<dyn Gate>) -> Self {
        Self { state: self.state.clone(), gate: Some(gate) }
    }

    /// Returns it as what a registry is opened with.
    pub fn backend(&self) -> Backend {
        Backend { objects: Arc::new(self.clone()), data: Arc::new(self.clone()) }
    }

    /// Lets the store's clock run ahead.
    pub fn pass_time(&self, time: Duration) {
        self.state().passed += time;
    }

    /// Returns the keys that there are, for tests.
    pub fn keys(&self) -> Vec<Key> {
        self.state().objects.keys().cloned().collect()
    }

    /// Returns the data objects that there are, for tests.
    pub fn data_ids(&self) -> Vec<Id> {
        self.state().data.keys().copied().collect()
    }

    /// Makes a data object older, for tests: in a bucket it is as old as the upload that brought it.
    pub fn age(&self, id: Id, time: Duration) {
        if let Some((_, at)) = self.state().data.get_mut(&id) {
            *at -= time;
        }
    }

    /// Damages a data object, for tests.
    pub fn damage(&self, id: Id, bytes: Bytes) {
        let mut state = self.state();
        let now = state.now();
        state.data.insert(id, (bytes, now));
    }

    /// Makes that a data object cannot be read, for tests.
    pub fn make_unreadable(&self, id: Id) {
        self.state().unreadable.insert(id);
    }

    /// Makes that all data objects can be read again.
    pub fn make_readable(&self) {
        self.state().unreadable.clear();
    }

    /// Puts other bytes in the place of an object, which stays the version that it is.
    pub fn damage_object(&self, key: &Key, bytes: Bytes) {
        if let Some(stored) = self.state().objects.get_mut(key) {
            stored.bytes = bytes;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn call<T>(
        &self,
        call: &'static str,
        what: &str,
        work: impl FnOnce(&mut State) -> T + Send,
    ) -> Result<T, ObjectError> {
        let fate = match &self.gate {
            Some(gate) => gate.pass(call, what).await,
            None => Fate::Done,
        };
        let failed = || ObjectError::Unavailable { source: format!("{call} of `{what}`, by the test").into() };
        match fate {
            Fate::Done => Ok(work(&mut self.state())),
            Fate::Refused => Err(failed()),
            Fate::LostAnswer => {
                work(&mut self.state());
                Err(failed())
            }
        }
    }
}

impl State {
    /// Each write takes a millisecond, so that there are no two moments alike.
    fn now(&self) -> Timestamp {
        let passed = i64::try_from(self.passed.as_millis()).unwrap_or(i64::MAX / 2);
        let millis = 1_800_000_000_000 + i64::try_from(self.writes).unwrap_or(0) + passed;
        Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX)
    }

    fn put(&mut self, key: &Key, bytes: Bytes, condition: &Condition) -> Put {
        let current = self.objects.get(key).map(|stored| version(stored.version));
        let holds = match condition {
            Condition::Always => true,
            Condition::Absent => current.is_none(),
            Condition::Is(version) => current.as_ref() == Some(version),
        };
        if !holds {
            return Put::Lost;
        }
        self.writes += 1;
        let stored = Stored { bytes, version: self.writes, modified: self.now() };
        self.objects.insert(key.clone(), stored);
        Put::Done(version(self.writes))
    }
}

fn version(number: u64) -> Version {
    Version(number.to_string().into())
}

fn entry(key: &Key, stored: &Stored) -> Entry {
    Entry { key: key.clone(), size: stored.bytes.len() as u64, modified: stored.modified }
}

#[async_trait]
impl Objects for Memory {
    async fn get(&self, key: &Key) -> Result<Option<Object>, ObjectError> {
        self.call("get", key.as_str(), |state| {
            state.objects.get(key).map(|stored| Object {
                bytes: stored.bytes.clone(),
                version: version(stored.version),
                modified: stored.modified,
            })
        })
        .await
    }

    async fn head(&self, key: &Key) -> Result<Option<Entry>, ObjectError> {
        self.call("head", key.as_str(), |state| state.objects.get(key).map(|stored| entry(key, stored))).await
    }

    async fn put(&self, key: &Key, bytes: Bytes, condition: Condition) -> Result<Put, ObjectError> {
        self.call("put", key.as_str(), move |state| state.put(key, bytes, &condition)).await
    }

    async fn delete(&self, key: &Key) -> Result<(), ObjectError> {
        self.call("delete", key.as_str(), |state| {
            state.objects.remove(key);
        })
        .await
    }

    async fn list(&self, prefix: &Prefix, after: Option<&Key>, limit: usize) -> Result<Page<Entry>, ObjectError> {
        self.call("list", prefix.as_str(), |state| {
            let start = prefix.key("");
            let from = match after {
                Some(after) if *after >= start => Bound::Excluded(after.clone()),
                _ => Bound::Included(start),
            };
            let mut all = state.objects.range((from, Bound::Unbounded));
            let mut all = all.by_ref().take_while(|(key, _)| key.as_str().starts_with(prefix.as_str()));
            let entries: Vec<Entry> = all.by_ref().take(limit).map(|(key, stored)| entry(key, stored)).collect();
            Page { entries, more: all.next().is_some() }
        })
        .await
    }

    async fn sync(&self) -> Result<(), ObjectError> {
        Ok(())
    }

    async fn now(&self) -> Result<Timestamp, ObjectError> {
        Ok(self.state().now())
    }
}

/// A data object on its way.
#[derive(Debug)]
struct Writer {
    memory: Memory,
    id: Id,
    bytes: BytesMut,
}

#[async_trait]
impl DataWriter for Writer {
    async fn write(&mut self, pieces: &[Bytes]) -> Result<(), ObjectError> {
        pieces.iter().for_each(|piece| self.bytes.extend_from_slice(piece));
        Ok(())
    }

    async fn pause(&mut self) -> Result<Checkpoint, ObjectError> {
        let (id, bytes) = (self.id, self.bytes.clone());
        let what = id.to_string();
        self.memory.call("pause", &what, move |state| state.unfinished.insert(id, bytes)).await?;
        Ok(Checkpoint { id, size: self.bytes.len() as u64, handle: None, parts: Vec::new(), tail: None })
    }

    async fn finish(self: Box<Self>) -> Result<u64, ObjectError> {
        let Self { memory, id, bytes } = *self;
        let what = id.to_string();
        memory
            .call("finish", &what, move |state| {
                state.unfinished.remove(&id);
                state.writes += 1;
                let (size, now) = (bytes.len() as u64, state.now());
                state.data.insert(id, (bytes.freeze(), now));
                size
            })
            .await
    }

    async fn abort(self: Box<Self>) -> Result<(), ObjectError> {
        let id = self.id;
        self.memory
            .call("abort", &id.to_string(), move |state| {
                state.unfinished.remove(&id);
            })
            .await
    }
}

#[async_trait]
impl Data for Memory {
    async fn begin(&self, id: Id) -> Result<Box<dyn DataWriter>, ObjectError> {
        Ok(Box::new(Writer { memory: self.clone(), id, bytes: BytesMut::new() }))
    }

    async fn resume(&self, checkpoint: &Checkpoint) -> Result<Option<Box<dyn DataWriter>>, ObjectError> {
        let (id, size) = (checkpoint.id, usize::try_from(checkpoint.size).unwrap_or(usize::MAX));
        let bytes = self.call("resume", &id.to_string(), move |state| state.unfinished.get(&id).cloned()).await?;
        Ok(bytes.filter(|bytes| bytes.len() >= size).map(|mut bytes| {
            bytes.truncate(size);
            Box::new(Writer { memory: self.clone(), id, bytes }) as Box<dyn DataWriter>
        }))
    }

    async fn discard(&self, checkpoint: &Checkpoint) -> Result<(), ObjectError> {
        let id = checkpoint.id;
        self.call("discard", &id.to_string(), move |state| {
            state.unfinished.remove(&id);
        })
        .await
    }

    async fn read(&self, id: Id, range: Range<u64>) -> Result<Option<Content>, ObjectError> {
        let what = id.to_string();
        let find = move |state: &mut State| {
            (state.data.get(&id).map(|(bytes, _)| bytes.clone()), state.unreadable.contains(&id))
        };
        let (found, unreadable) = self.call("read", &what, find).await?;
        if unreadable {
            let source = std::io::Error::from(rustix::io::Errno::IO).into();
            return Err(ObjectError::Failed { action: "read", what, source });
        }
        let Some(bytes) = found else { return Ok(None) };
        let at = |position: u64| usize::try_from(position).ok().filter(|position| *position <= bytes.len());
        match (at(range.start), at(range.end)) {
            (Some(start), Some(end)) if start <= end => Ok(Some(Content::Bytes(bytes.slice(start..end)))),
            _ => Err(ObjectError::Damaged { what, version: None }),
        }
    }

    async fn size(&self, id: Id) -> Result<Option<u64>, ObjectError> {
        self.call("size", &id.to_string(), move |state| state.data.get(&id).map(|(bytes, _)| bytes.len() as u64)).await
    }

    async fn delete(&self, id: Id) -> Result<(), ObjectError> {
        self.call("delete data", &id.to_string(), move |state| {
            state.data.remove(&id);
        })
        .await
    }

    async fn list(&self, after: Option<Id>, limit: usize) -> Result<Page<(Id, u64, Timestamp)>, ObjectError> {
        self.call("list data", "d/", move |state| {
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let mut all = state.data.range((from, Bound::Unbounded));
            let entries = all.by_ref().take(limit).map(|(id, (bytes, at))| (*id, bytes.len() as u64, *at)).collect();
            Page { entries, more: all.next().is_some() }
        })
        .await
    }
}
