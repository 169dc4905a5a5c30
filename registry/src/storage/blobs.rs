//! Blobs of repositories: reading, taking in, mounting, deleting.
//!
//! ```text
//!             upload                     no edge              still no edge
//! (absent) ───────────▶ live ────────────────────▶ condemned ───────────────▶ dead
//!                        ▲ ◀──────────────────────── │                         │
//!                        │    somebody relies on it  │                         │
//!                        └─────────────────────────────────────────────────────┘
//!                                     upload, with its own data
//! ```
//!
//! A blob shows only in repositories that own it: that the store has it for another shows nowhere.

use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use oci::{Digest, RepositoryName};
use serde::{Deserialize, Serialize};

use super::id::Id;
use super::keys::{self, Edge, EdgeKind};
use super::objects::{Condition, Content, ObjectError};
use super::records::{Held, Slot, TRIES};
use super::{Repository, Storage, StorageError};

/// What the record of a blob says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BlobRecord {
    pub(super) state: BlobState,
    pub(super) size: u64,
    /// The data object; a blob without one is in its record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) data: Option<Id>,
    /// Whether its bytes turned out not to be what the digest says.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) bad: bool,
}

/// Whether a blob can be relied upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum BlobState {
    Live,
    /// A collector found no edge; whoever relies on it makes it live again.
    Condemned,
    /// The bytes are gone, or will be.
    Dead,
}

/// What the record says that a repository has a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OwnRecord {
    pub(super) incarnation: Id,
    /// Whether a collector found that no manifest of the repository names it; whoever relies on it takes that back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) lapsing: bool,
}

/// Bytes that came, and are to be a blob.
#[derive(Clone, Debug)]
pub(super) enum Arrival {
    /// They are few.
    Inline(Bytes),
    /// They are in a data object.
    Data {
        /// Which.
        id: Id,
        /// How many.
        size: u64,
    },
    /// None came: the blob has to be there.
    Known,
}

impl Arrival {
    fn record(&self) -> Option<(BlobRecord, &[u8])> {
        let live = |size, data| BlobRecord { state: BlobState::Live, size, data, bad: false };
        match self {
            Self::Inline(bytes) => Some((live(bytes.len() as u64, None), bytes)),
            Self::Data { id, size } => Some((live(*size, Some(*id)), &[])),
            Self::Known => None,
        }
    }
}

/// Whose bytes a blob has in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Those that came now.
    Mine,
    /// Those that were there.
    Theirs,
    /// None: it is not there, and nothing came.
    Nobodys,
}

/// Why a blob was not taken in.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum CommitError {
    #[error("blob {digest} is not in the store")]
    Unknown { digest: Digest },
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<ObjectError> for CommitError {
    fn from(error: ObjectError) -> Self {
        Self::Storage(error.into())
    }
}

/// A blob that can be read.
#[derive(Clone, Debug)]
pub struct Blob {
    storage: Storage,
    digest: Digest,
    size: u64,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    Inline(Bytes),
    Data(Id),
}

impl Blob {
    /// Returns how many bytes it has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the bytes, when they are few enough to be at hand.
    pub fn inline(&self) -> Option<&Bytes> {
        match &self.place {
            Place::Inline(bytes) => Some(bytes),
            Place::Data(_) => None,
        }
    }

    /// Reads some of it; the range must lie inside. `None` when it was thrown away meanwhile.
    pub async fn read(&self, range: Range<u64>) -> Result<Option<Content>, StorageError> {
        match &self.place {
            Place::Inline(bytes) => {
                let at = |position: u64| usize::try_from(position).unwrap_or(usize::MAX).min(bytes.len());
                let (start, end) = (at(range.start), at(range.end));
                Ok(Some(Content::Bytes(bytes.slice(start.min(end)..end))))
            }
            Place::Data(id) => {
                if let Some(content) = self.storage.data().read(*id, range.clone()).await? {
                    return Ok(Some(content));
                }
                // It may have died and come back with other data since the record was read.
                match self.storage.readable(&self.digest).await? {
                    Some(Self { place: Place::Data(other), .. }) if other != *id => {
                        Ok(self.storage.data().read(other, range).await?)
                    }
                    _ => Ok(None),
                }
            }
        }
    }

    /// Returns an address where anybody can read it for a while, if the store has such.
    pub async fn signed_url(
        &self,
        valid: std::time::Duration,
        content_type: &str,
    ) -> Result<Option<String>, StorageError> {
        match &self.place {
            Place::Inline(_) => Ok(None),
            Place::Data(id) => Ok(self.storage.data().signed_url(*id, valid, content_type).await?),
        }
    }
}

impl Repository {
    /// Returns a blob of the repository, to read it.
    pub async fn blob(&self, digest: &Digest) -> Result<Option<Blob>, StorageError> {
        if !self.storage.has_record(&keys::own(&self.name, digest)).await? {
            return Ok(None);
        }
        self.storage.readable(digest).await
    }

    /// Returns the size of a blob for a client that may leave sending it at that.
    ///
    /// Unlike [`Self::blob`] it makes sure that the bytes are there, so that a push heals what was lost, and that no
    /// collector takes the blob before the client had time to push a manifest that names it.
    pub async fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, StorageError> {
        let key = keys::own(&self.name, digest);
        for _ in 0..TRIES {
            let Some(own) = self.storage.slot::<OwnRecord>(&key).await?.here() else { return Ok(None) };
            let Some(blob) = self.storage.whole(digest).await? else { return Ok(None) };
            if self.storage.keep_own(&key, own).await? {
                return Ok(Some(blob.size));
            }
        }
        Err(StorageError::Contended { key: key.as_str().to_owned() })
    }

    /// Makes bytes that are in memory a blob of the repository. The caller has made sure of the digest. When this
    /// returns, it survives a crash of the machine.
    pub async fn put_blob(&self, digest: &Digest, bytes: Bytes) -> Result<(), CommitError> {
        if bytes.len() <= self.storage.options().inline {
            return self.commit(digest, &Arrival::Inline(bytes)).await;
        }
        let id = self.storage.draw();
        let mut writer = self.storage.data().begin(id).await?;
        writer.write(&[bytes]).await?;
        let size = writer.finish().await?;
        self.commit(digest, &Arrival::Data { id, size }).await
    }

    /// Takes a blob over from another repository of this registry, and tells whether that has it, with all its bytes.
    /// The caller has made sure that the client may read it there.
    pub async fn mount(&self, digest: &Digest, from: &RepositoryName) -> Result<bool, StorageError> {
        if !self.storage.has_record(&keys::own(from, digest)).await? || self.storage.whole(digest).await?.is_none() {
            return Ok(false);
        }
        match self.commit(digest, &Arrival::Known).await {
            Ok(()) => Ok(true),
            Err(CommitError::Unknown { .. }) => Ok(false),
            Err(CommitError::Storage(error)) => Err(error),
        }
    }

    /// Makes what is in a file a blob of the repository, without copying it when it is on the same disk, and tells whether
    /// it did: not when there is no such file, it cannot be had without copying, or it is not what the digest says.
    ///
    /// The file never changes, and is safe from a crash of the machine. The caller has made sure that the client may
    /// read it.
    pub async fn adopt(&self, digest: &Digest, file: &Path) -> Result<bool, CommitError> {
        let (id, storage) = (self.storage.draw(), &self.storage);
        let (path, most) = (file.to_owned(), storage.options().inline);
        // A file that cannot be read is of no use here.
        let Ok(few) = store::blocking::run(move || read_few(&path, most)).await else { return Ok(false) };
        if let Some(bytes) = few {
            let same = Digest::of(digest.algorithm(), &bytes) == *digest;
            return if same { self.commit(digest, &Arrival::Inline(bytes)).await.map(|()| true) } else { Ok(false) };
        }
        if !storage.data().link(id, file).await? {
            return Ok(false);
        }
        let Some(size) = storage.data().size(id).await? else { return Ok(false) };
        let record = BlobRecord { state: BlobState::Live, size, data: Some(id), bad: false };
        // Whoever wrote the file made sure of the digest; what the disk made of it since, only reading it tells. What is
        // read is what is kept, under the name that nobody else has.
        let hashed = storage.hash(digest.algorithm(), &record, &Bytes::new(), 0).await?;
        if hashed.as_ref() != Some(digest) {
            storage.data().delete(id).await?;
            return Ok(false);
        }
        self.commit(digest, &Arrival::Data { id, size }).await.map(|()| true)
    }

    /// Takes a blob out of the repository, and tells whether it was there. Manifests that name it stay.
    pub async fn delete_blob(&self, digest: &Digest) -> Result<bool, StorageError> {
        let key = keys::own(&self.name, digest);
        for _ in 0..TRIES {
            let slot = self.storage.slot::<OwnRecord>(&key).await?;
            let condition = slot.condition();
            if let Slot::Absent | Slot::Gone(_) = slot {
                // Whoever deleted it may not have come to this yet.
                self.storage.sync().await?;
                return Ok(false);
            }
            if self.storage.bury(&key, 0, condition).await?.is_some() {
                // When nobody knows the edge any more, the collector finds it.
                let edge = slot.here().map(|own| self.edge(digest, own.record.incarnation, EdgeKind::Own));
                self.storage.drop_edges(edge.as_slice()).await?;
                self.storage.sync().await?;
                return Ok(true);
            }
        }
        Err(StorageError::Contended { key: key.as_str().to_owned() })
    }

    /// Takes a blob in (registry.md, 9.3): edge, record, own record. Of data that is not needed, or not any more,
    /// nothing is left. When this returns, all of it survives a crash of the machine.
    pub(super) async fn commit(&self, digest: &Digest, arrival: &Arrival) -> Result<(), CommitError> {
        let whose = self.take_in(digest, arrival).await?;
        if whose == Source::Nobodys {
            return Err(CommitError::Unknown { digest: digest.clone() });
        }
        self.storage.sync().await?;
        if let (Source::Theirs, Arrival::Data { id, .. }) = (whose, arrival) {
            self.storage.data().delete(*id).await?;
        }
        Ok(())
    }

    async fn take_in(&self, digest: &Digest, arrival: &Arrival) -> Result<Source, StorageError> {
        let key = keys::own(&self.name, digest);
        // What one attempt placed is what the next finds.
        let mut mine = false;
        for _ in 0..TRIES {
            let slot = self.storage.slot::<OwnRecord>(&key).await?;
            let condition = slot.condition();
            if let Slot::Here(own) = slot {
                // Its edge keeps the blob, unless it was lost; whoever has its bytes heals it.
                if !self.storage.keep_own(&key, own).await? {
                    continue;
                }
                let whose = self.storage.rely_on(digest, arrival).await?;
                return Ok(if mine && whose == Source::Theirs { Source::Mine } else { whose });
            }
            let incarnation = self.storage.draw();
            let edge = self.edge(digest, incarnation, EdgeKind::Own);
            let whose = self
                .storage
                .with_edges(std::slice::from_ref(&edge), async || self.storage.rely_on(digest, arrival).await);
            let whose = whose.await?;
            if whose == Source::Nobodys {
                self.storage.drop_edges(&[edge]).await?;
                return Ok(whose);
            }
            mine |= whose == Source::Mine;
            let own = OwnRecord { incarnation, lapsing: false };
            if self.storage.replace(&key, &own, &[], condition).await?.is_some() {
                return Ok(if mine { Source::Mine } else { whose });
            }
            self.storage.drop_edges(&[edge]).await?;
        }
        Err(StorageError::Contended { key: key.as_str().to_owned() })
    }

    pub(super) fn edge(&self, blob: &Digest, incarnation: Id, kind: EdgeKind) -> Edge {
        Edge { blob: blob.clone(), repository: self.name.clone(), incarnation, kind }
    }
}

impl Storage {
    /// Returns repositories that own a blob, at most `limit`.
    pub async fn owners(&self, digest: &Digest, limit: usize) -> Result<Vec<RepositoryName>, StorageError> {
        let mut owners = Vec::new();
        let mut after = None;
        loop {
            let page = self.objects().list(&keys::edges(digest), after.as_ref(), 1000).await?;
            for edge in page.entries.iter().filter_map(|entry| Edge::parse(&entry.key)) {
                if edge.kind == EdgeKind::Own
                    && !owners.contains(&edge.repository)
                    && self.has_record(&edge.owner()).await?
                {
                    owners.push(edge.repository);
                    if owners.len() == limit {
                        return Ok(owners);
                    }
                }
            }
            match page.entries.last().filter(|_| page.more) {
                Some(last) => after = Some(last.key.clone()),
                None => return Ok(owners),
            }
        }
    }

    /// Finds a blob that the caller may read.
    pub(super) async fn readable(&self, digest: &Digest) -> Result<Option<Blob>, StorageError> {
        let held = self.slot::<BlobRecord>(&keys::blob(digest)).await?.here();
        Ok(held.and_then(|Held { record, bytes, .. }| {
            let place = match (record.state, record.data) {
                (BlobState::Dead, _) => return None,
                (_, Some(id)) => Place::Data(id),
                // A record that was cut.
                (_, None) if bytes.len() as u64 != record.size => return None,
                (_, None) => Place::Inline(bytes),
            };
            Some(Blob { storage: self.clone(), digest: digest.clone(), size: record.size, place })
        }))
    }

    /// Finds a blob that the caller may read, if its bytes are all there and not only its record says so.
    pub(super) async fn whole(&self, digest: &Digest) -> Result<Option<Blob>, StorageError> {
        let Some(blob) = self.readable(digest).await? else { return Ok(None) };
        let whole = match blob.place {
            Place::Inline(_) => true,
            Place::Data(id) => self.data().size(id).await? == Some(blob.size),
        };
        Ok(whole.then_some(blob))
    }

    /// Writes edges, and does then what reads the records that they keep.
    pub(super) async fn with_edges<T>(
        &self,
        edges: &[Edge],
        rely: impl AsyncFnOnce() -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        #[cfg(test)]
        if self.options().weakness == Some(super::collector::Weakness::EdgeAfterRead) {
            let value = rely().await?;
            self.put_edges(edges).await?;
            return Ok(value);
        }
        self.put_edges(edges).await?;
        rely().await
    }

    pub(super) async fn put_edges(&self, edges: &[Edge]) -> Result<(), StorageError> {
        let put = |edge: &Edge| {
            let key = edge.key();
            async move { self.objects().put(&key, Bytes::new(), Condition::Always).await.map(|_| ()) }
        };
        Ok(at_once(edges.iter().map(put)).await?)
    }

    /// Removes edges, and tells the collector which blobs lost one. What this leaves behind when it fails, the
    /// collector finds.
    pub(super) async fn drop_edges(&self, edges: &[Edge]) -> Result<(), StorageError> {
        let drop = |edge: &Edge| {
            let key = edge.key();
            async move { self.objects().delete(&key).await }
        };
        at_once(edges.iter().map(drop)).await?;
        self.note_candidates(edges.iter().map(|edge| &edge.blob)).await
    }

    /// Makes sure that a blob, to which the caller wrote an edge, can be relied upon; `arrival` is what it is made of if
    /// it is not there.
    pub(super) async fn rely_on(&self, digest: &Digest, arrival: &Arrival) -> Result<Source, StorageError> {
        let key = keys::blob(digest);
        for _ in 0..TRIES {
            let slot = self.slot::<BlobRecord>(&key).await?;
            let condition = slot.condition();
            let held = slot.here();
            let state = held.as_ref().map_or(BlobState::Dead, |held| held.record.state);
            if let (Some(held), true) = (&held, state != BlobState::Dead) {
                // That a record says so is no reason to believe that the bytes are there, when there are others at hand.
                let whole = match (held.record.data, arrival) {
                    (Some(id), Arrival::Inline(_) | Arrival::Data { .. }) => {
                        self.data().size(id).await? == Some(held.record.size)
                    }
                    (None, _) => held.bytes.len() as u64 == held.record.size,
                    (Some(_), Arrival::Known) => true,
                };
                // Whoever tries again brings what an earlier attempt placed.
                let whose = match arrival {
                    Arrival::Data { id, .. } if held.record.data == Some(*id) => Source::Mine,
                    _ => Source::Theirs,
                };
                if whole && state == BlobState::Live {
                    return Ok(whose);
                }
                if whole {
                    let live = BlobRecord { state: BlobState::Live, ..held.record.clone() };
                    if self.replace(&key, &live, &held.bytes, condition).await?.is_some() {
                        return Ok(whose);
                    }
                    continue;
                }
            }
            let Some((record, bytes)) = arrival.record() else { return Ok(Source::Nobodys) };
            if record.data.is_some() && held.as_ref().is_some_and(|held| held.record.data == record.data) {
                // An earlier attempt placed it, and a collector threw it away before there was an own record.
                break;
            }
            if self.replace(&key, &record, bytes, condition).await?.is_some() {
                if let Some(old) = held.and_then(|held| held.record.data).filter(|old| Some(*old) != record.data) {
                    // That nothing names it any more must be as safe from a crash as that it is gone.
                    self.sync().await?;
                    self.data().delete(old).await?;
                }
                return Ok(Source::Mine);
            }
        }
        Err(StorageError::Contended { key: key.as_str().to_owned() })
    }

    /// Makes sure that the repository keeps a blob that somebody is about to use: takes back that it lapses, and notes
    /// at times that it is in use. `false` when the record has changed meanwhile.
    pub(super) async fn keep_own(&self, key: &keys::Key, own: Held<OwnRecord>) -> Result<bool, StorageError> {
        let fresh = || async {
            let age = self.objects().now().await?.duration_since(own.modified);
            Ok::<_, StorageError>(age.unsigned_abs() < self.options().grace / 2)
        };
        if !own.record.lapsing && (self.options().grace.is_zero() || fresh().await?) {
            return Ok(true);
        }
        let record = OwnRecord { lapsing: false, ..own.record };
        Ok(self.replace(key, &record, &[], Condition::Is(own.version)).await?.is_some())
    }
}

/// Reads a file that has at most so many bytes; `None` when it has more.
fn read_few(path: &Path, most: usize) -> io::Result<Option<Bytes>> {
    let mut bytes = Vec::new();
    let file = File::open(path)?;
    if file.metadata()?.len() > most as u64 {
        return Ok(None);
    }
    file.take(most as u64).read_to_end(&mut bytes)?;
    Ok(Some(bytes.into()))
}

/// Does several things at once, but not too many, and gives the first error.
pub(super) async fn at_once<E>(all: impl IntoIterator<Item = impl Future<Output = Result<(), E>>>) -> Result<(), E> {
    use futures_util::{StreamExt as _, TryStreamExt as _, stream};
    stream::iter(all).buffer_unordered(16).try_collect::<()>().await
}
