//! [`CacheKey`]: what a step's result is filed under.
//!
//! A key is the digest of everything that decides the result, and of nothing else: no absolute path, clock, user or
//! machine enters one, so keys are the same on every machine. The file system that a step starts from enters as the
//! [identity](crate::layers::Layers::identity) of its layers: when a step is done again and comes out the same, the steps
//! after it are found.

use oci::{Algorithm, ChainId, Digest, Hasher};

use crate::cache::Notes;

/// What a step's result is filed under.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CacheKey(pub(crate) Digest);

/// Makes a key from named fields, and notes for people what they were. Names and lengths are written, so fields cannot
/// run together.
pub(crate) struct KeyWriter {
    hasher: Hasher,
    /// Bytes that are not hashed yet: ten thousand files are many short fields.
    pending: Vec<u8>,
    notes: Notes,
}

/// How many bytes are hashed at once.
const BATCH: usize = 4096;

impl KeyWriter {
    /// Starts the key of a kind of step on the layers below it.
    pub(crate) fn new(kind: &str, parent: Option<&ChainId>) -> Self {
        let mut key = Self { hasher: Hasher::new(Algorithm::Sha256), pending: Vec::new(), notes: Notes::default() };
        key.text("slipway 2", kind);
        key.text("parent", &parent.map(ToString::to_string).unwrap_or_default());
        key
    }

    /// Adds a field that nobody is told of: one of very many, or one that says nothing to people.
    pub(crate) fn bytes(&mut self, name: &str, value: &[u8]) {
        for part in [name.as_bytes(), value] {
            self.pending.extend_from_slice(&(part.len() as u64).to_le_bytes());
            self.pending.extend_from_slice(part);
        }
        if self.pending.len() >= BATCH {
            self.hasher.update(&self.pending);
            self.pending.clear();
        }
    }

    /// Adds a field of bytes.
    pub(crate) fn blob(&mut self, name: &str, value: &[u8]) {
        self.bytes(name, value);
        self.notes.add(name, &String::from_utf8_lossy(value));
    }

    pub(crate) fn text(&mut self, name: &str, value: &str) {
        self.bytes(name, value.as_bytes());
        self.notes.add(name, value);
    }

    pub(crate) fn number(&mut self, name: &str, value: u64) {
        self.bytes(name, &value.to_le_bytes());
    }

    pub(crate) fn flag(&mut self, name: &str, value: bool) {
        self.number(name, u64::from(value));
        self.notes.add(name, if value { "yes" } else { "no" });
    }

    pub(crate) fn option(&mut self, name: &str, value: Option<&str>) {
        self.number(name, u64::from(value.is_some()));
        self.bytes(name, value.unwrap_or_default().as_bytes());
        if let Some(value) = value {
            self.notes.add(name, value);
        }
    }

    pub(crate) fn list<T: AsRef<str>>(&mut self, name: &str, values: impl IntoIterator<Item = T>) {
        let mut count = 0;
        for value in values {
            self.text(name, value.as_ref());
            count += 1;
        }
        self.number(name, count);
    }

    /// Returns the key, and what it was made of.
    pub(crate) fn finish(mut self) -> (CacheKey, Notes) {
        self.hasher.update(&self.pending);
        (CacheKey(self.hasher.finish()), self.notes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_run_together() {
        let key = |write: &dyn Fn(&mut KeyWriter)| {
            let mut key = KeyWriter::new("test", None);
            write(&mut key);
            key.finish().0
        };
        let one = key(&|key| key.list("a", ["b", "c"]));
        for other in [
            key(&|key| key.list("a", ["bc"])),
            key(&|key| key.list("a", ["b"])),
            key(&|key| {
                key.text("a", "b");
                key.text("c", "");
            }),
        ] {
            assert_ne!(one, other);
        }
        assert_eq!(one, key(&|key| key.list("a", ["b".to_owned(), "c".to_owned()])));
        assert_ne!(key(&|key| key.option("a", None)), key(&|key| key.option("a", Some(""))));
    }
}
