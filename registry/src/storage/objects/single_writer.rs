//! [`SingleWriter`]: conditions for a store that does not honor them, as long as only one process writes to it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use super::{Condition, Entry, Object, ObjectError, Objects, Page, Put};
use crate::storage::keys::{Key, Prefix};

/// Looks itself whether a condition holds, and lets nobody of this process come between.
pub struct SingleWriter {
    inner: Arc<dyn Objects>,
    locks: Mutex<HashMap<Key, Weak<tokio::sync::Mutex<()>>>>,
}

impl fmt::Debug for SingleWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SingleWriter({:?})", self.inner)
    }
}

impl SingleWriter {
    /// Takes a store that no other process writes to.
    pub fn new(inner: Arc<dyn Objects>) -> Self {
        Self { inner, locks: Mutex::default() }
    }

    fn lock(&self, key: &Key) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = locks.get(key).and_then(Weak::upgrade) {
            return lock;
        }
        if locks.len() >= 1000 {
            locks.retain(|_, lock| lock.strong_count() > 0);
        }
        let lock = Arc::default();
        locks.insert(key.clone(), Arc::downgrade(&lock));
        lock
    }
}

#[async_trait]
impl Objects for SingleWriter {
    async fn get(&self, key: &Key) -> Result<Option<Object>, ObjectError> {
        self.inner.get(key).await
    }

    async fn head(&self, key: &Key) -> Result<Option<Entry>, ObjectError> {
        self.inner.head(key).await
    }

    async fn put(&self, key: &Key, bytes: Bytes, condition: Condition) -> Result<Put, ObjectError> {
        let lock = self.lock(key);
        let _turn = lock.lock().await;
        let holds = match &condition {
            Condition::Always => true,
            Condition::Absent => self.inner.head(key).await?.is_none(),
            Condition::Is(version) => self.inner.get(key).await?.is_some_and(|object| object.version == *version),
        };
        if holds { self.inner.put(key, bytes, Condition::Always).await } else { Ok(Put::Lost) }
    }

    async fn delete(&self, key: &Key) -> Result<(), ObjectError> {
        let lock = self.lock(key);
        let _turn = lock.lock().await;
        self.inner.delete(key).await
    }

    async fn list(&self, prefix: &Prefix, after: Option<&Key>, limit: usize) -> Result<Page<Entry>, ObjectError> {
        self.inner.list(prefix, after, limit).await
    }

    async fn sync(&self) -> Result<(), ObjectError> {
        self.inner.sync().await
    }

    async fn now(&self) -> Result<Timestamp, ObjectError> {
        self.inner.now().await
    }

    async fn trouble(&self) -> Result<Option<String>, ObjectError> {
        self.inner.trouble().await
    }
}
