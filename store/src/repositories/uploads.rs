//! Uploads: blobs that arrive in pieces, over many requests, across restarts.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use oci::{Algorithm, Digest, Hasher};

use super::{Repository, RepositoryError, file_names};
use crate::FileError;
use crate::atomic_file::{make_folders, sync_folder};
use crate::file_error::{During, found};

/// From how many bytes on hashing goes to a second thread: it takes some 100 µs, and starting one some 20.
const WORTH_A_THREAD: u64 = 256 * 1024;

/// Why an upload could not go on.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum UploadError {
    #[error("upload `{id}` is not here")]
    Unknown { id: UploadId },
    #[error("upload `{id}` is being written by another request")]
    Busy { id: UploadId },
    #[error("the bytes hash to {actual}, expected {expected}")]
    DigestMismatch { expected: Digest, actual: Digest },
    #[error(transparent)]
    Repository(#[from] RepositoryError),
}

impl From<FileError> for UploadError {
    fn from(error: FileError) -> Self {
        Self::Repository(error.into())
    }
}

/// Names an upload: 128 random bits, and the algorithm that hashes its bytes as they come.
///
/// Whoever knows it may write to the upload, so it cannot be guessed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UploadId {
    hex: Box<str>, // Invariant: 32 characters of 0-9a-f.
    algorithm: Algorithm,
}

impl UploadId {
    /// Draws one at random.
    fn random(algorithm: Algorithm) -> io::Result<Self> {
        let mut bytes = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(Self { hex: format!("{:032x}", u128::from_be_bytes(bytes)).into(), algorithm })
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.hex, self.algorithm.as_str())
    }
}

impl FromStr for UploadId {
    type Err = UnknownUploadId;

    fn from_str(text: &str) -> Result<Self, UnknownUploadId> {
        let (hex, algorithm) = text.split_once('.').ok_or(UnknownUploadId)?;
        let fits = hex.len() == 32 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        match algorithm.parse() {
            Ok(algorithm) if fits => Ok(Self { hex: hex.into(), algorithm }),
            _ => Err(UnknownUploadId),
        }
    }
}

/// Some text names no upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the name of an upload")]
pub struct UnknownUploadId;

/// How far hashing had come when a request ended, so that the next need not read the bytes again.
#[derive(Clone, Debug)]
pub struct Midstate {
    size: u64,
    hasher: Hasher,
}

/// An upload that this request, and no other, may add to. Dropping it keeps the bytes for the next request.
#[derive(Debug)]
pub struct Upload {
    repository: Repository,
    id: UploadId,
    path: PathBuf,
    file: File, // Invariant: locked, and positioned at `size`.
    size: u64,
    /// Invariant: has seen exactly the first `size` bytes, or is not there and the bytes are read again at the end.
    hasher: Option<Hasher>,
}

impl Repository {
    /// Starts an upload whose bytes are hashed with `algorithm` as they come.
    pub fn begin_upload(&self, algorithm: Algorithm) -> Result<Upload, UploadError> {
        let folder = self.uploads_folder();
        make_folders(&folder, true)?;
        let id = UploadId::random(algorithm).during("read", "/dev/urandom".as_ref())?;
        let path = self.upload_path(&id);
        let file = File::options().create_new(true).read(true).write(true).open(&path).during("create", &path)?;
        lock(&file, &id, &path)?;
        Ok(Upload { repository: self.clone(), id, path, file, size: 0, hasher: Some(Hasher::new(algorithm)) })
    }

    /// Goes on with an upload, from where it stands. `midstate` is from [`Upload::pause`], if the caller still has it.
    pub fn resume_upload(&self, id: &UploadId, midstate: Option<Midstate>) -> Result<Upload, UploadError> {
        let path = self.upload_path(id);
        let unknown = || UploadError::Unknown { id: id.clone() };
        let mut file =
            found(File::options().read(true).write(true).open(&path)).during("open", &path)?.ok_or_else(unknown)?;
        lock(&file, id, &path)?;
        // Between opening and locking, another request may have finished or canceled it.
        found(fs::symlink_metadata(&path)).during("read", &path)?.ok_or_else(unknown)?;
        let size = file.seek(SeekFrom::End(0)).during("seek", &path)?;
        let hasher = match midstate {
            Some(midstate) if midstate.size == size => Some(midstate.hasher),
            _ if size == 0 => Some(Hasher::new(id.algorithm)),
            _ => None,
        };
        Ok(Upload { repository: self.clone(), id: id.clone(), path, file, size, hasher })
    }

    /// Returns how many bytes of an upload are here.
    pub fn upload_size(&self, id: &UploadId) -> Result<u64, UploadError> {
        let path = self.upload_path(id);
        let metadata = found(fs::symlink_metadata(&path)).during("read", &path)?;
        Ok(metadata.ok_or_else(|| UploadError::Unknown { id: id.clone() })?.len())
    }

    /// Throws an upload away.
    pub fn cancel_upload(&self, id: &UploadId) -> Result<(), UploadError> {
        let path = self.upload_path(id);
        let removed = found(fs::remove_file(&path)).during("remove", &path)?;
        removed.ok_or_else(|| UploadError::Unknown { id: id.clone() })
    }

    pub(super) fn expire_uploads(&self, now: SystemTime, age: Duration) -> Result<u64, RepositoryError> {
        let mut expired = 0;
        for id in file_names(&self.uploads_folder())?.iter().filter_map(|name| name.parse::<UploadId>().ok()) {
            let path = self.upload_path(&id);
            let Some(file) = found(File::open(&path)).during("open", &path)? else { continue };
            // Claimed first, so that nothing is added between the look and the end.
            if file.try_lock().is_err() {
                continue;
            }
            let touched = file.metadata().and_then(|metadata| metadata.modified()).during("read", &path)?;
            let idle = now.duration_since(touched).unwrap_or_default();
            if idle >= age && found(fs::remove_file(&path)).during("remove", &path)?.is_some() {
                expired += 1;
            }
        }
        Ok(expired)
    }

    fn uploads_folder(&self) -> PathBuf {
        self.folder.join("uploads")
    }

    fn upload_path(&self, id: &UploadId) -> PathBuf {
        self.uploads_folder().join(id.to_string())
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

    /// Adds bytes at the end. When that fails, the upload is as it was before.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), UploadError> {
        self.append_all(&[bytes])
    }

    /// Adds pieces at the end, one after the other. When that fails, the upload is as it was before.
    pub fn append_all<T: AsRef<[u8]> + Sync>(&mut self, pieces: &[T]) -> Result<(), UploadError> {
        let added: u64 = pieces.iter().map(|piece| piece.as_ref().len() as u64).sum();
        let mut hasher = self.hasher.clone();
        let mut hash = || {
            if let Some(hasher) = &mut hasher {
                pieces.iter().for_each(|piece| hasher.update(piece.as_ref()));
            }
        };
        let mut file = &self.file;
        let mut write = || pieces.iter().try_for_each(|piece| file.write_all(piece.as_ref()));
        let result = if added < WORTH_A_THREAD {
            hash();
            write()
        } else {
            let (hashed, written) = std::thread::scope(|scope| {
                let thread = std::thread::Builder::new().name("hash".into());
                (thread.spawn_scoped(scope, &mut hash).is_ok(), write())
            });
            // Where there can be no more threads, this one does it all.
            if !hashed {
                hash();
            }
            written
        };
        if let Err(error) = result {
            self.cut(self.size)?;
            return Err(FileError::new("write", &self.path, error).into());
        }
        self.hasher = hasher;
        self.size += added;
        Ok(())
    }

    /// Notes where it stands, to go on from there in another request or to come [`back`](Self::back) to.
    pub fn pause(&self) -> Option<Midstate> {
        Some(Midstate { size: self.size, hasher: self.hasher.clone()? })
    }

    /// Forgets what was added after the first `size` bytes. `midstate` saves reading those again.
    pub fn back(&mut self, size: u64, midstate: Option<Midstate>) -> Result<(), UploadError> {
        self.cut(size)?;
        self.hasher = midstate.filter(|midstate| midstate.size == size).map(|midstate| midstate.hasher);
        self.size = size;
        Ok(())
    }

    /// Makes the bytes a blob of the repository, if they hash to `expected`, and returns how many they are.
    ///
    /// On success the blob is on the disk. With other bytes, nothing is stored and the upload is gone.
    pub fn finish(mut self, expected: &Digest) -> Result<u64, UploadError> {
        let hasher = self.hasher.take().filter(|_| expected.algorithm() == self.id.algorithm);
        let actual = match hasher {
            Some(hasher) => hasher.finish(),
            None => self.read_again(expected.algorithm())?,
        };
        if actual != *expected {
            self.repository.cancel_upload(&self.id)?;
            return Err(UploadError::DigestMismatch { expected: expected.clone(), actual });
        }
        self.file.sync_data().during("sync", &self.path)?;
        // Canceling does not wait for whoever writes.
        let id = &self.id;
        found(fs::symlink_metadata(&self.path))
            .during("read", &self.path)?
            .ok_or_else(|| UploadError::Unknown { id: id.clone() })?;
        // Until the repository has it, nothing would keep a collection from taking it.
        let _unfinished = self.repository.home.begin();
        // Over what is there: it should be the same bytes, and if it is not, it is healed.
        let blob = self.repository.home.layout().blob(expected);
        let folder = blob.parent().unwrap_or(&blob);
        make_folders(folder, true)?;
        fs::rename(&self.path, &blob).during("create", &blob)?;
        self.repository.note_blob(expected)?;
        // Both at the end: a journal that has to write out the one writes out the other with it.
        sync_folder(folder)?;
        sync_folder(&self.repository.owned_folder())?;
        Ok(self.size)
    }

    fn cut(&mut self, size: u64) -> Result<(), UploadError> {
        self.file.set_len(size).and_then(|()| self.file.seek(SeekFrom::Start(size))).during("cut", &self.path)?;
        Ok(())
    }

    fn read_again(&mut self, algorithm: Algorithm) -> Result<Digest, UploadError> {
        self.file.seek(SeekFrom::Start(0)).during("seek", &self.path)?;
        let mut hasher = Hasher::new(algorithm);
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match self.file.read(&mut buffer) {
                Ok(0) => return Ok(hasher.finish()),
                Ok(count) => hasher.update(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(FileError::new("read", &self.path, error).into()),
            }
        }
    }
}

/// Claims an upload for one request, of this process or another. The kernel drops the claim with the file.
fn lock(file: &File, id: &UploadId, path: &std::path::Path) -> Result<(), UploadError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(UploadError::Busy { id: id.clone() }),
        Err(TryLockError::Error(error)) => Err(FileError::new("lock", path, error).into()),
    }
}
