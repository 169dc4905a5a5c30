//! Uploads: blobs that arrive in pieces, over many requests, at any replica.
//!
//! Starting one writes nothing: its name carries a signature, made with a secret that the replicas share through the
//! store. A record exists from the first pause on, and says how far it came: how many bytes, the state of the hash, and
//! where they are. Whoever goes on replaces the record, so of two who do only one comes through.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use oci::{Algorithm, Digest, Hasher, RepositoryName};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use super::blobs::{Arrival, CommitError};
use super::id::Id;
use super::keys::{self, Key, TOMBSTONE};
use super::objects::{Checkpoint, Condition, Content, DataWriter, ObjectError, Put};
use super::records::Slot;
use super::{Repository, Storage, StorageError};

/// After so many bytes of one request, how far it came is noted.
const NOTE_EVERY: u64 = 256 * 1024 * 1024;

/// For at least so long it is known that an upload is over.
const TOMBSTONES_STAY: Duration = Duration::from_secs(24 * 60 * 60);

/// From how many bytes on hashing goes to another thread: it takes some 100 µs, and going there some 20.
const WORTH_A_THREAD: usize = 256 * 1024;

/// Why an upload could not go on.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum UploadError {
    #[error("this upload is not known")]
    Unknown,
    #[error("another request is writing to this upload")]
    Busy,
    #[error("the bytes hash to {actual}, expected {expected}")]
    DigestMismatch { expected: Digest, actual: Digest },
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<ObjectError> for UploadError {
    fn from(error: ObjectError) -> Self {
        match error {
            ObjectError::Busy { .. } => Self::Busy,
            error => Self::Storage(error.into()),
        }
    }
}

impl From<CommitError> for UploadError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Unknown { .. } => Self::Unknown,
            CommitError::Storage(error) => Self::Storage(error),
        }
    }
}

/// Names an upload, and proves that we named it: `ID.ALGORITHM.SIGNATURE`.
///
/// Whoever knows it may write to the upload, so it cannot be guessed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UploadId {
    id: Id,
    algorithm: Algorithm,
    /// Not verified before it is used.
    signature: Box<str>,
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.id, self.algorithm.as_str(), self.signature)
    }
}

impl FromStr for UploadId {
    type Err = UnknownUploadId;

    fn from_str(text: &str) -> Result<Self, UnknownUploadId> {
        let mut parts = text.splitn(3, '.');
        let mut next = || parts.next().ok_or(UnknownUploadId);
        let id = next()?.parse().map_err(|_| UnknownUploadId)?;
        let algorithm = next()?.parse().map_err(|_| UnknownUploadId)?;
        let signature = next()?;
        let fits = signature.len() == 64 && signature.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if fits { Ok(Self { id, algorithm, signature: signature.into() }) } else { Err(UnknownUploadId) }
    }
}

/// Some text names no upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the name of an upload")]
pub struct UnknownUploadId;

/// How far an upload came.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SessionRecord {
    repository: String,
    size: u64,
    /// The state of the hash, in hexadecimal.
    hash: String,
    /// Where the bytes are; without it they are in the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<Checkpoint>,
}

/// An upload that this request adds to. Dropping it forgets what came since the last [`Upload::pause`].
#[derive(Debug)]
pub struct Upload {
    repository: Repository,
    id: UploadId,
    size: u64,
    /// Invariant: has seen exactly the first `size` bytes.
    hasher: Hasher,
    stage: Stage,
    /// What the record is replaced under.
    condition: Condition,
    /// How many bytes the record knows of, when `noting` has ended.
    noted: u64,
    /// The next record, which is written beside what comes next; it gives what that is replaced under.
    noting: Option<JoinHandle<Result<Condition, UploadError>>>,
    failed: bool,
}

/// How far an upload came at some moment, to be noted.
struct Note {
    storage: Storage,
    key: Key,
    record: SessionRecord,
    bytes: Bytes,
    condition: Condition,
}

impl Note {
    /// Writes it down, and returns what it is replaced under.
    async fn write(self) -> Result<Condition, UploadError> {
        let Self { storage, key, record, bytes, condition } = self;
        let replaced = storage.replace(&key, &record, &bytes, condition).await?;
        let (version, _) = replaced.ok_or(UploadError::Busy)?;
        storage.sync().await?;
        Ok(Condition::Is(version))
    }
}

/// Where the bytes are.
#[derive(Debug)]
enum Stage {
    /// In memory: they are few.
    Few(BytesMut),
    /// On their way to a data object.
    Many(Box<dyn DataWriter>, Id),
    /// In a data object that an earlier try finished, and perhaps made a blob of.
    Finished(Id),
}

/// Data objects that records name.
#[derive(Debug, Default)]
pub(super) struct KnownData {
    pub(super) ids: HashSet<Id>,
    /// Whether there may be more: a record cannot be read.
    pub(super) in_doubt: bool,
}

impl Storage {
    /// Returns the secret that the replicas share, making it when it is missing.
    async fn secret(&self) -> Result<&[u8; 32], StorageError> {
        let make = || async {
            let key = keys::secret();
            loop {
                let condition = match self.objects().get(&key).await {
                    Ok(None) => Condition::Absent,
                    Ok(Some(object)) => match <[u8; 32]>::try_from(&*object.bytes) {
                        Ok(secret) => return Ok(secret),
                        Err(_) => Condition::Is(object.version),
                    },
                    // Another will do as well, and uploads that are under way begin again.
                    Err(ObjectError::Damaged { version: Some(version), .. }) => Condition::Is(version),
                    Err(error) => return Err(error.into()),
                };
                let mut secret = [0; 32];
                let halves = [self.draw(), self.draw()].map(Id::to_bytes);
                secret[..16].copy_from_slice(&halves[0]);
                secret[16..].copy_from_slice(&halves[1]);
                if let Put::Done(_) = self.objects().put(&key, secret.to_vec().into(), condition).await? {
                    self.sync().await?;
                    return Ok::<_, StorageError>(secret);
                }
            }
        };
        self.parts.secret.get_or_try_init(make).await
    }

    async fn signer(
        &self,
        repository: &RepositoryName,
        id: Id,
        algorithm: Algorithm,
    ) -> Result<Hmac<sha2::Sha256>, StorageError> {
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(self.secret().await?).expect("any length will do");
        mac.update(
            format!("upload\n{repository}\n{id}\n{}", algorithm.as_str(), repository = repository.as_str()).as_bytes(),
        );
        Ok(mac)
    }

    /// Throws uploads away to which nothing was added for `age`, and what is left of those that ended as long ago, and
    /// returns how many uploads it were.
    ///
    /// A tombstone only tells clients that an upload is over, and nobody has a use for that who comes so late.
    pub async fn expire_uploads(&self, age: Duration) -> Result<u64, StorageError> {
        let now = self.objects().now().await?;
        let (mut expired, mut after) = (0, None::<Key>);
        loop {
            let page = self.objects().list(&keys::uploads(), after.as_ref(), 1000).await?;
            for entry in &page.entries {
                let idle = now.duration_since(entry.modified);
                if idle.is_negative() || idle.unsigned_abs() < age {
                    continue;
                }
                if entry.size == TOMBSTONE {
                    if idle.unsigned_abs() >= age.max(TOMBSTONES_STAY) {
                        self.objects().delete(&entry.key).await?;
                    }
                    continue;
                }
                let slot = self.slot::<SessionRecord>(&entry.key).await?;
                let condition = slot.condition();
                if let Slot::Absent | Slot::Gone(_) = slot {
                    continue;
                }
                // Whoever goes on at this moment wins or loses here.
                if self.bury(&entry.key, 0, condition).await?.is_some() {
                    if let Some(checkpoint) = slot.here().and_then(|held| held.record.data) {
                        self.data().discard(&checkpoint).await?;
                    }
                    expired += 1;
                }
            }
            match page.entries.last().filter(|_| page.more) {
                Some(last) => after = Some(last.key.clone()),
                None => break,
            }
        }
        let before = now.checked_sub(age).unwrap_or(jiff::Timestamp::MIN);
        let known = self.upload_data().await?;
        Ok(if known.in_doubt { expired } else { expired + self.data().sweep(before, &known.ids).await? })
    }

    /// Returns the data objects that uploads stand on.
    pub(super) async fn upload_data(&self) -> Result<KnownData, StorageError> {
        let (mut known, mut after) = (KnownData::default(), None::<Key>);
        loop {
            let page = self.objects().list(&keys::uploads(), after.as_ref(), 1000).await?;
            for entry in &page.entries {
                let slot = self.slot::<SessionRecord>(&entry.key).await?;
                known.in_doubt |= matches!(slot, Slot::Damaged(_));
                let checkpoint = slot.here().and_then(|held| held.record.data);
                known.ids.extend(checkpoint.into_iter().flat_map(|it| [Some(it.id), it.tail]).flatten());
            }
            match page.entries.last().filter(|_| page.more) {
                Some(last) => after = Some(last.key.clone()),
                None => return Ok(known),
            }
        }
    }
}

impl Repository {
    /// Names an upload whose bytes are hashed with `algorithm` as they come. Nothing is written.
    pub async fn begin_upload(&self, algorithm: Algorithm) -> Result<UploadId, StorageError> {
        let id = self.storage.draw();
        let signature = self.storage.signer(&self.name, id, algorithm).await?.finalize().into_bytes();
        let signature: String = signature.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(UploadId { id, algorithm, signature: signature.into() })
    }

    /// Takes bytes in that are not named as an upload, in one request.
    pub fn receive(&self, algorithm: Algorithm) -> Upload {
        let id = UploadId { id: self.storage.draw(), algorithm, signature: "".into() };
        self.fresh(id, Condition::Absent)
    }

    /// Goes on with an upload, from where it stands.
    pub async fn resume_upload(&self, id: &UploadId) -> Result<Upload, UploadError> {
        self.verify(id).await?;
        let slot = self.storage.slot::<SessionRecord>(&keys::upload(id.id)).await?;
        let condition = slot.condition();
        match slot {
            Slot::Absent => Ok(self.fresh(id.clone(), condition)),
            Slot::Gone(_) | Slot::Damaged(_) => Err(UploadError::Unknown),
            Slot::Here(held) => {
                let record = held.record;
                let state = bytes_of(&record.hash).and_then(|state| Hasher::resume(id.algorithm, &state));
                let (Some(hasher), true) = (state, record.repository == self.name.as_str()) else {
                    return Err(UploadError::Unknown);
                };
                let stage = match &record.data {
                    None => Stage::Few(BytesMut::from(&held.bytes[..])),
                    Some(checkpoint) => {
                        let data = self.storage.data();
                        match data.resume(checkpoint).await? {
                            Some(writer) => Stage::Many(writer, checkpoint.id),
                            None if data.size(checkpoint.id).await? == Some(record.size) => {
                                Stage::Finished(checkpoint.id)
                            }
                            None => return Err(UploadError::Unknown),
                        }
                    }
                };
                let (size, repository) = (record.size, self.clone());
                Ok(Upload {
                    repository,
                    id: id.clone(),
                    size,
                    hasher,
                    stage,
                    condition,
                    noted: size,
                    noting: None,
                    failed: false,
                })
            }
        }
    }

    /// Returns how many bytes of an upload are here.
    pub async fn upload_size(&self, id: &UploadId) -> Result<u64, UploadError> {
        self.verify(id).await?;
        match self.storage.slot::<SessionRecord>(&keys::upload(id.id)).await? {
            Slot::Absent => Ok(0),
            Slot::Gone(_) | Slot::Damaged(_) => Err(UploadError::Unknown),
            Slot::Here(held) => Ok(held.record.size),
        }
    }

    /// Throws an upload away.
    pub async fn cancel_upload(&self, id: &UploadId) -> Result<(), UploadError> {
        self.verify(id).await?;
        let key = keys::upload(id.id);
        let slot = self.storage.slot::<SessionRecord>(&key).await?;
        let condition = slot.condition();
        if matches!(slot, Slot::Gone(_)) {
            return Err(UploadError::Unknown);
        }
        if self.storage.bury(&key, 0, condition).await?.is_none() {
            return Err(UploadError::Busy);
        }
        if let Some(checkpoint) = slot.here().and_then(|held| held.record.data) {
            self.storage.data().discard(&checkpoint).await?;
        }
        Ok(())
    }

    fn fresh(&self, id: UploadId, condition: Condition) -> Upload {
        let hasher = Hasher::new(id.algorithm);
        let stage = Stage::Few(BytesMut::new());
        Upload {
            repository: self.clone(),
            id,
            size: 0,
            hasher,
            stage,
            condition,
            noted: 0,
            noting: None,
            failed: false,
        }
    }

    async fn verify(&self, id: &UploadId) -> Result<(), UploadError> {
        let mac = self.storage.signer(&self.name, id.id, id.algorithm).await?;
        let signature = bytes_of(&id.signature).unwrap_or_default();
        mac.verify_slice(&signature).map_err(|_| UploadError::Unknown)
    }
}

impl Upload {
    /// Returns its name.
    pub fn id(&self) -> &UploadId {
        &self.id
    }

    /// Returns how many bytes are here.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds pieces at the end. After an error, the upload can only be resumed.
    pub async fn append(&mut self, pieces: Vec<Bytes>) -> Result<(), UploadError> {
        if self.failed {
            return Err(UploadError::Unknown);
        }
        self.failed = true;
        let added: usize = pieces.iter().map(Bytes::len).sum();
        if matches!(self.stage, Stage::Finished(_)) && added > 0 {
            return Err(UploadError::Unknown);
        }
        let inline = self.repository.storage.options().inline;
        if let Stage::Few(few) = &mut self.stage {
            if few.len() + added <= inline {
                pieces.iter().for_each(|piece| few.extend_from_slice(piece));
            } else {
                let before = std::mem::take(few).freeze();
                let id = self.repository.storage.draw();
                let mut writer = self.repository.storage.data().begin(id).await?;
                if !before.is_empty() {
                    writer.write(&[before]).await?;
                }
                self.stage = Stage::Many(writer, id);
            }
        }
        let hash = hash(self.hasher.clone(), &pieces, added);
        self.hasher = match &mut self.stage {
            Stage::Few(_) | Stage::Finished(_) => hash.await,
            Stage::Many(writer, _) => {
                let (hasher, written) = tokio::join!(hash, writer.write(&pieces));
                written?;
                hasher
            }
        };
        self.size += added as u64;
        if self.size - self.noted >= NOTE_EVERY {
            self.pause_beside().await?;
        }
        self.failed = false;
        Ok(())
    }

    /// Begins to make what came so far survive, beside what comes next.
    async fn pause_beside(&mut self) -> Result<(), UploadError> {
        self.await_note().await?;
        let Stage::Many(writer, _) = &mut self.stage else { return Ok(()) };
        let paused = writer.pause_beside().await?;
        let mut note = self.note(None, Bytes::new());
        self.noted = self.size;
        self.noting = Some(tokio::spawn(async move {
            note.record.data = Some(paused.await?);
            note.write().await
        }));
        Ok(())
    }

    /// Waits for the note that is being written, if there is one.
    async fn await_note(&mut self) -> Result<(), UploadError> {
        if let Some(noting) = self.noting.take() {
            let noted = noting.await.map_err(|error| ObjectError::Unavailable { source: error.into() })?;
            self.condition = noted.inspect_err(|_| self.failed = true)?;
        }
        Ok(())
    }

    /// Describes how far it came.
    fn note(&self, data: Option<Checkpoint>, bytes: Bytes) -> Note {
        let hash = self.hasher.state().iter().map(|byte| format!("{byte:02x}")).collect();
        let repository = self.repository.name.as_str().to_owned();
        let record = SessionRecord { repository, size: self.size, hash, data };
        let (storage, key) = (self.repository.storage.clone(), keys::upload(self.id.id));
        Note { storage, key, record, bytes, condition: self.condition.clone() }
    }

    /// Makes what came so far survive this process and the machine, so that another request can go on from here.
    pub async fn pause(&mut self) -> Result<(), UploadError> {
        if self.failed {
            return Err(UploadError::Unknown);
        }
        self.await_note().await?;
        let (data, bytes) = match &mut self.stage {
            Stage::Few(few) => (None, few.clone().freeze()),
            Stage::Many(writer, _) => (Some(writer.pause().await?), Bytes::new()),
            Stage::Finished(_) => return Ok(()),
        };
        let written = self.note(data, bytes).write().await;
        self.condition = written.inspect_err(|error| self.failed |= matches!(error, UploadError::Busy))?;
        self.noted = self.size;
        Ok(())
    }

    /// Makes the bytes a blob of the repository, if they hash to `expected`, and returns how many they are.
    ///
    /// On success the blob survives a crash of the machine. With other bytes, nothing is stored and the upload is gone.
    /// After another error, an upload that was paused before can be resumed, and finished.
    pub async fn finish(mut self, expected: &Digest) -> Result<u64, UploadError> {
        if self.failed {
            return Err(UploadError::Unknown);
        }
        self.await_note().await?;
        let known = (expected.algorithm() == self.id.algorithm).then(|| self.hasher.clone().finish());
        let is_other = known.as_ref().is_some_and(|actual| actual != expected);
        // Whoever has to try again finds the data where it is finished, and only by its whole size.
        if !is_other && self.condition != Condition::Absent && self.noted != self.size {
            self.pause().await?;
        }
        let Self { repository, id, size, stage, condition, .. } = self;
        let storage = repository.storage.clone();
        if let Some(actual) = known.clone().filter(|actual| actual != expected) {
            if let Stage::Many(writer, _) = stage {
                writer.abort().await?;
            }
            close(&storage, &id, condition).await?;
            return Err(UploadError::DigestMismatch { expected: expected.clone(), actual });
        }
        let is_new = !matches!(stage, Stage::Finished(_));
        let arrival = match stage {
            Stage::Few(few) => Arrival::Inline(few.freeze()),
            Stage::Many(writer, data) => {
                let size = writer.finish().await?;
                Arrival::Data { id: data, size }
            }
            Stage::Finished(data) => Arrival::Data { id: data, size },
        };
        if known.is_none() {
            // Known too late how to hash: it takes a second look.
            let actual = hash_again(&storage, &arrival, expected.algorithm()).await?;
            if actual != *expected {
                // What was finished earlier may be a blob; if it is not, the collector finds it.
                if let (true, Arrival::Data { id, .. }) = (is_new, arrival) {
                    storage.data().delete(id).await?;
                }
                close(&storage, &id, condition).await?;
                return Err(UploadError::DigestMismatch { expected: expected.clone(), actual });
            }
        }
        repository.commit(expected, &arrival).await?;
        close(&storage, &id, condition).await?;
        Ok(size)
    }
}

/// Closes the record of an upload, if it ever got one.
async fn close(storage: &Storage, id: &UploadId, condition: Condition) -> Result<(), StorageError> {
    if condition != Condition::Absent {
        // Somebody else closed it: so be it.
        storage.bury(&keys::upload(id.id), 0, condition).await?;
    }
    Ok(())
}

async fn hash(mut hasher: Hasher, pieces: &[Bytes], added: usize) -> Hasher {
    if added < WORTH_A_THREAD {
        pieces.iter().for_each(|piece| hasher.update(piece));
        return hasher;
    }
    let pieces = pieces.to_vec();
    store::blocking::run(move || {
        pieces.iter().for_each(|piece| hasher.update(piece));
        hasher
    })
    .await
}

async fn hash_again(storage: &Storage, arrival: &Arrival, algorithm: Algorithm) -> Result<Digest, StorageError> {
    match arrival {
        Arrival::Inline(bytes) => Ok(Digest::of(algorithm, bytes)),
        Arrival::Data { id, size } => {
            let content = storage.data().read(*id, 0..*size).await?;
            let gone = || ObjectError::Damaged { what: id.to_string(), version: None };
            hash_content(content.ok_or_else(gone)?, algorithm).await
        }
        Arrival::Known => Ok(Digest::of(algorithm, b"")),
    }
}

/// Hashes all of some content.
pub(super) async fn hash_content(content: Content, algorithm: Algorithm) -> Result<Digest, StorageError> {
    let mut hasher = Hasher::new(algorithm);
    match content {
        Content::Bytes(bytes) => hasher.update(&bytes),
        Content::Stream(mut stream) => {
            while let Some(piece) = stream.next().await {
                hasher.update(&piece?);
            }
        }
        Content::File { file, offset, length } => {
            use std::os::unix::fs::FileExt as _;
            let work = move || {
                let (mut buffer, mut at, end) = (vec![0; 256 * 1024], offset, offset + length);
                while at < end {
                    let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
                    let count = file.read_at(&mut buffer[..want], at)?;
                    if count == 0 {
                        return Err(std::io::ErrorKind::UnexpectedEof.into());
                    }
                    hasher.update(&buffer[..count]);
                    at += count as u64;
                }
                Ok::<_, std::io::Error>(hasher)
            };
            let failed = |source: std::io::Error| ObjectError::Failed {
                action: "read",
                what: "data".into(),
                source: source.into(),
            };
            return Ok(store::blocking::run(work).await.map_err(failed)?.finish());
        }
    }
    Ok(hasher.finish())
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = hex.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::future::{BoxFuture, FutureExt as _};
    use tokio::sync::Semaphore;

    use super::super::StorageOptions;
    use super::super::objects::memory::{Fate, Gate, Memory};
    use super::*;

    /// Lets nobody note how far an upload came before it is told to.
    struct NoNotes(Arc<Semaphore>);

    impl Gate for NoNotes {
        fn pass(&self, call: &'static str, what: &str) -> BoxFuture<'static, Fate> {
            let (told, held) = (self.0.clone(), call == "put" && what.starts_with("u/"));
            async move {
                if held {
                    told.acquire().await.expect("never closed").forget();
                }
                Fate::Done
            }
            .boxed()
        }
    }

    #[tokio::test]
    async fn how_far_an_upload_came_is_noted_beside_what_comes_next() {
        let told = Arc::new(Semaphore::new(0));
        let backend = Memory::default().behind(Arc::new(NoNotes(told.clone()))).backend();
        let repository = Storage::new(backend, StorageOptions::default()).repository(&"a".parse().expect("a name"));
        let id = repository.begin_upload(Algorithm::Sha256).await.expect("named");
        let mut upload = repository.resume_upload(&id).await.expect("begun");
        let piece = Bytes::from(vec![7; 8 << 20]);
        let all = NOTE_EVERY + 3 * piece.len() as u64;
        while upload.size() < all {
            let appended = tokio::time::timeout(Duration::from_secs(300), upload.append(vec![piece.clone()])).await;
            appended.expect("nobody waits for the note").expect("taken in");
        }
        assert_eq!(repository.upload_size(&id).await.expect("known"), 0);
        // The request dies, and what was noted is gone on with.
        drop(upload);
        told.add_permits(1000);
        while repository.upload_size(&id).await.expect("known") == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut upload = repository.resume_upload(&id).await.expect("there");
        assert_eq!(upload.size(), NOTE_EVERY);
        let mut hasher = Hasher::new(Algorithm::Sha256);
        for _ in 0..all / piece.len() as u64 {
            hasher.update(&piece);
        }
        for _ in 0..3 {
            upload.append(vec![piece.clone()]).await.expect("taken in");
        }
        assert_eq!(upload.finish(&hasher.finish()).await.expect("a blob"), all);
    }
}
