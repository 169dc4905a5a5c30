//! [`Cache`]: objects that were read or written lately, as many as a bound allows.

use std::collections::HashMap;
use std::mem;

use super::super::Object;
use crate::storage::keys::Key;

/// Objects that were used lately.
///
/// There are two halves. What is used is in the young one; when that is full it becomes the old one, and what was old is
/// forgotten. So what is used often stays, and nothing has to be kept in order.
#[derive(Debug)]
pub(super) struct Cache {
    young: HashMap<Key, Object>,
    old: HashMap<Key, Object>,
    /// How many bytes the young half has.
    bytes: usize,
    limit: usize,
}

/// What an object costs beside its bytes.
const OVERHEAD: usize = 200;

impl Cache {
    pub(super) fn new(limit: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), bytes: 0, limit: limit / 2 }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
        self.bytes = 0;
    }

    pub(super) fn get(&mut self, key: &Key) -> Option<Object> {
        if let Some(object) = self.young.get(key) {
            return Some(object.clone());
        }
        let object = self.old.remove(key)?;
        self.put(key, &object);
        Some(object)
    }

    pub(super) fn put(&mut self, key: &Key, object: &Object) {
        let cost = object.bytes.len() + key.as_str().len() + OVERHEAD;
        self.remove(key);
        if cost > self.limit / 4 {
            return;
        }
        if self.bytes + cost > self.limit {
            self.old = mem::take(&mut self.young);
            self.bytes = 0;
        }
        self.bytes += cost;
        self.young.insert(key.clone(), object.clone());
    }

    pub(super) fn remove(&mut self, key: &Key) {
        self.old.remove(key);
        if let Some(object) = self.young.remove(key) {
            self.bytes -= object.bytes.len() + key.as_str().len() + OVERHEAD;
        }
    }
}
