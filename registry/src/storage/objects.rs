//! [`Objects`] and [`Data`]: what the registry asks of whoever keeps its bytes.
//!
//! | File | Owns |
//! | --- | --- |
//! | `objects/disk.rs` | a folder, with a journal |
//! | `objects/bucket.rs` | S3, GCS, Azure and the like |
//! | `objects/single_writer.rs` | conditions for a store that does not honor them |
//! | `objects/memory.rs` | nothing that lasts: for tests, which decide what happens in which order |
//! | `objects/conformance.rs` | the contract, held against all of them |

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::BoxStream;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::id::Id;
use super::keys::{Key, Prefix};

pub mod bucket;
pub mod disk;
pub mod memory;
pub mod single_writer;

#[cfg(test)]
pub(crate) mod conformance;

/// Why whoever keeps the bytes did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum ObjectError {
    #[error("the store is not to be reached")]
    Unavailable {
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the store does not let us {action} `{what}`")]
    Denied {
        action: &'static str,
        what: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the store has no space left")]
    NoSpace,
    #[error("cannot {action} `{what}`")]
    Failed {
        action: &'static str,
        what: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("`{what}` is damaged")]
    Damaged {
        what: String,
        /// Which version it is, if something else can be put in its place.
        version: Option<Version>,
    },
    #[error("`{what}` is being written by somebody else")]
    Busy { what: String },
}

impl ObjectError {
    /// Tells whether a disk did not give back what was written to it.
    pub(crate) fn is_of_the_medium(&self) -> bool {
        let Self::Failed { source, .. } = self else { return false };
        let error = source.downcast_ref::<std::io::Error>();
        error.is_some_and(|error| error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()))
    }

    /// Says what went wrong without saying where, for those who have no business with our paths.
    pub(crate) fn reason(&self) -> String {
        let source = match self {
            Self::NoSpace | Self::Unavailable { .. } => return self.to_string(),
            Self::Denied { .. } => return "it is not allowed".to_owned(),
            Self::Damaged { .. } => return "something is damaged".to_owned(),
            Self::Busy { .. } => return "something is being written by somebody else".to_owned(),
            Self::Failed { source, .. } => source,
        };
        match source.downcast_ref::<std::io::Error>() {
            Some(error) => error.kind().to_string(),
            None => "something failed".to_owned(),
        }
    }
}

/// Names what a key holds at some moment. Two different contents of a key never have the same version.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version(pub(crate) Box<str>);

/// What is under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The bytes.
    pub bytes: Bytes,
    /// Which version they are.
    pub version: Version,
    /// When it was written, by the store's clock.
    pub modified: Timestamp,
}

/// What a list says of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is.
    pub key: Key,
    /// How many bytes it has.
    pub size: u64,
    /// When it was written, by the store's clock.
    pub modified: Timestamp,
}

/// When an object is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Whatever is there.
    Always,
    /// If nothing is there.
    Absent,
    /// If this version is there.
    Is(Version),
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is there, as this version.
    Done(Version),
    /// The condition did not hold. (Or it did, and the store forgot that it was us: read again before giving up.)
    Lost,
}

/// Some of a sorted list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The entries, in byte order.
    pub entries: Vec<T>,
    /// Whether more come after the last of them.
    pub more: bool,
}

/// Small objects, found by their key, that change only as a whole.
///
/// # Contract
///
/// - What `put` wrote, every `get`, `head` and `list` that begins afterwards sees, whoever asks and through whichever
///   handle, until the next write.
/// - `put` with [`Condition::Absent`] writes only if the key holds nothing, with [`Condition::Is`] only if it holds that
///   version. Of any number that race with the same condition exactly one is done.
/// - No version of a key comes back, provided that no two bodies that were ever put there are the same.
/// - `delete` of what is not there succeeds.
/// - `list` gives what begins with the prefix and comes after `after`, which need not exist, in byte order, at most
///   `limit`; `more` tells whether it would go on. Of `limit` 0 come no entries.
/// - After an error, a write was done or was not: the next `get` tells.
/// - When `sync` returns, all that was written, deleted or seen before it was called survives a crash of the machine.
/// - `now` does not run behind the `modified` of what was written before.
#[async_trait]
pub trait Objects: fmt::Debug + Send + Sync {
    /// Reads an object, if it is there. Of one that is damaged the error tells the version, so that it can be replaced.
    async fn get(&self, key: &Key) -> Result<Option<Object>, ObjectError>;

    /// Tells whether an object is there, and of which size and age.
    async fn head(&self, key: &Key) -> Result<Option<Entry>, ObjectError>;

    /// Writes an object if the condition holds.
    async fn put(&self, key: &Key, bytes: Bytes, condition: Condition) -> Result<Put, ObjectError>;

    /// Removes an object for good.
    async fn delete(&self, key: &Key) -> Result<(), ObjectError>;

    /// Lists objects.
    async fn list(&self, prefix: &Prefix, after: Option<&Key>, limit: usize) -> Result<Page<Entry>, ObjectError>;

    /// Waits until what was written and seen so far survives a crash of the machine.
    async fn sync(&self) -> Result<(), ObjectError>;

    /// Tells what time it is by the store's clock.
    async fn now(&self) -> Result<Timestamp, ObjectError>;

    /// Returns a number that is another after each change of a tag's record, whoever changed it, if that is known at once:
    /// as long as it stays, so does every list of tags.
    fn tag_changes(&self) -> Result<Option<u64>, ObjectError> {
        Ok(None)
    }

    /// Tells in a sentence what goes wrong although everything can be read and written still, or fails when it cannot.
    /// There is nothing in it that strangers must not read.
    async fn trouble(&self) -> Result<Option<String>, ObjectError> {
        self.sync().await.map(|()| None)
    }
}

/// Bytes of a data object.
pub enum Content {
    /// They are here.
    Bytes(Bytes),
    /// They are in a file, from where it stands.
    File {
        /// The file, for this reader alone.
        file: File,
        /// Where they begin in it.
        offset: u64,
        /// How many there are.
        length: u64,
    },
    /// They come one after the other.
    Stream(BoxStream<'static, Result<Bytes, ObjectError>>),
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::File { offset, length, .. } => write!(f, "File({offset}, {length})"),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// How far the writing of a data object came, so that anybody can carry on. Only its family knows what it means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The data object.
    pub id: Id,
    /// How many bytes are safe.
    pub size: u64,
    /// The store's name for the unfinished object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<String>,
    /// The parts that are there, of sizes that follow from their number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<String>,
    /// A data object with what comes after the parts and is too little for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<Id>,
}

/// A data object on its way. Dropped, it leaves nothing behind unless it was paused, as far as that can be helped.
#[async_trait]
pub trait DataWriter: fmt::Debug + Send {
    /// Takes in the next bytes.
    async fn write(&mut self, pieces: &[Bytes]) -> Result<(), ObjectError>;

    /// Makes what was taken in survive this process and the machine, and tells how to carry on.
    async fn pause(&mut self) -> Result<Checkpoint, ObjectError>;

    /// Begins what `pause` does, beside what is written next, and returns what ends with it. It may be dropped.
    async fn pause_beside(&mut self) -> Result<BoxFuture<'static, Result<Checkpoint, ObjectError>>, ObjectError> {
        let checkpoint = self.pause().await?;
        Ok(std::future::ready(Ok(checkpoint)).boxed())
    }

    /// Makes the object visible, whole and safe from a crash of the machine, and returns its size.
    async fn finish(self: Box<Self>) -> Result<u64, ObjectError>;

    /// Throws all of it away.
    async fn abort(self: Box<Self>) -> Result<(), ObjectError>;
}

/// Large objects that are written once, by pieces, and never change.
///
/// # Contract
///
/// - Nobody sees an object before `finish` succeeded, and all see all of it afterwards.
/// - `resume` of a checkpoint goes on after its first `size` bytes, whatever was written later; `None` when they are
///   gone. What another writer of the same object does meanwhile never gets into what this one finishes; the store may
///   say [`ObjectError::Busy`] instead, as long as there is another.
/// - `read` gives exactly the bytes of the range, which must lie inside the object; `None` when there is no such object.
/// - `delete` and `discard` of what is not there succeed.
#[async_trait]
pub trait Data: fmt::Debug + Send + Sync {
    /// Starts an object.
    async fn begin(&self, id: Id) -> Result<Box<dyn DataWriter>, ObjectError>;

    /// Carries on where a checkpoint was made.
    async fn resume(&self, checkpoint: &Checkpoint) -> Result<Option<Box<dyn DataWriter>>, ObjectError>;

    /// Throws away what a checkpoint leads to.
    async fn discard(&self, checkpoint: &Checkpoint) -> Result<(), ObjectError>;

    /// Throws away what nobody writes to, nobody wrote to since `before`, and is not in `known`, of objects that were
    /// begun and never finished; returns how many. Where the store does that by itself there is nothing to do.
    async fn sweep(&self, _before: Timestamp, _known: &HashSet<Id>) -> Result<u64, ObjectError> {
        Ok(0)
    }

    /// Reads some of an object.
    async fn read(&self, id: Id, range: Range<u64>) -> Result<Option<Content>, ObjectError>;

    /// Returns the size of an object, if it is there.
    async fn size(&self, id: Id) -> Result<Option<u64>, ObjectError>;

    /// Removes an object for good.
    async fn delete(&self, id: Id) -> Result<(), ObjectError>;

    /// Lists the objects after `after` in the order of their IDs, at most `limit`, with size and age.
    async fn list(&self, after: Option<Id>, limit: usize) -> Result<Page<(Id, u64, Timestamp)>, ObjectError>;

    /// Makes an object of a file that never changes, and is safe from a crash of the machine, without copying it, if both
    /// are on the same disk. `false` when that cannot be done, or there is no such file.
    async fn link(&self, _id: Id, _file: &std::path::Path) -> Result<bool, ObjectError> {
        Ok(false)
    }

    /// Returns an address where anybody can read an object for a while, if the store has such.
    async fn signed_url(
        &self,
        _id: Id,
        _valid: std::time::Duration,
        _content_type: &str,
    ) -> Result<Option<String>, ObjectError> {
        Ok(None)
    }
}

/// Whoever keeps the bytes: a disk, a bucket, or a test's memory.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Small objects.
    pub objects: Arc<dyn Objects>,
    /// Large objects.
    pub data: Arc<dyn Data>,
}
