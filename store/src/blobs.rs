//! [`Blobs`]: immutable bytes, found by their digest.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci::{Algorithm, Descriptor, Digest, Hasher};

use crate::FileError;
use crate::file_error::{During, found};
use crate::later::{Job, Source};
use crate::session::Home;

mod marks;
mod patch;
mod writer;

pub use marks::Marks;
pub use patch::PatchWriter;
pub use writer::BlobWriter;

/// Why a blob could not be read or stored.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum BlobError {
    #[error("blob {digest} is not in the store")]
    NotFound { digest: Digest },
    #[error("bytes hash to {actual}, expected {expected}")]
    DigestMismatch { expected: Digest, actual: Digest },
    #[error("blob {digest} was damaged on disk and has been removed; pull or build it again")]
    Damaged { digest: Digest },
    #[error("blob {digest} has {size} bytes, more than the {max} that are read at once")]
    TooLarge { digest: Digest, size: u64, max: u64 },
    #[error(transparent)]
    File(#[from] FileError),
}

/// The blobs of a store.
#[derive(Clone, Debug)]
pub struct Blobs {
    pub(crate) home: Arc<Home>,
}

/// A blob that is open for reading.
#[derive(Debug)]
pub struct Blob {
    /// The bytes, from the start. Not verified: whoever depends on them hashes while reading.
    pub file: File,
    /// How many bytes there are.
    pub size: u64,
}

impl Blobs {
    /// Starts a blob that is to be named by SHA-256.
    pub fn begin(&self) -> Result<BlobWriter, BlobError> {
        self.begin_as(Algorithm::Sha256)
    }

    /// Starts a blob that is to be named by a given algorithm.
    pub fn begin_as(&self, algorithm: Algorithm) -> Result<BlobWriter, BlobError> {
        Ok(BlobWriter::temporary(&self.home, algorithm)?)
    }

    /// Starts or carries on a download whose digest is known: what is written before a drop or a crash is kept.
    ///
    /// [`BlobWriter::offset`] tells how many bytes are already there. When another process is at the same
    /// download, this starts an ordinary blob at offset 0.
    pub fn begin_resumable(&self, digest: &Digest) -> Result<BlobWriter, BlobError> {
        match BlobWriter::partial(&self.home, digest)? {
            Some(writer) => Ok(writer),
            None => self.begin_as(digest.algorithm()),
        }
    }

    /// Opens a blob. The bytes are not verified here; one that is kept as a patch becomes a file first.
    pub fn open(&self, digest: &Digest) -> Result<Blob, BlobError> {
        self.home.pin(digest)?;
        self.home.later().await_blob(digest);
        let path = self.path(digest);
        let open = || found(File::open(&path)).during("open", &path);
        let file = match open()? {
            Some(file) => Some(file),
            None if self.assemble(digest)? => open()?,
            None => None,
        };
        let file = file.ok_or_else(|| BlobError::NotFound { digest: digest.clone() })?;
        let size = file.metadata().during("read", &path)?.len();
        Ok(Blob { file, size })
    }

    /// Opens a blob for reading it once from start to end, and returns its size. The bytes are not verified here.
    pub fn stream(&self, digest: &Digest) -> Result<(Box<dyn Read + Send>, u64), BlobError> {
        self.home.pin(digest)?;
        self.home.later().await_blob(digest);
        let path = self.path(digest);
        if found(fs::metadata(&path)).during("read", &path)?.is_none()
            && let Some((reader, size)) = self.patched(digest)?
        {
            return Ok((Box::new(reader), size));
        }
        let Blob { file, size } = self.open(digest)?;
        Ok((Box::new(file), size))
    }

    /// Returns a blob's bytes, verified against the digest. Refuses more than `max`.
    ///
    /// A blob that turns out damaged is removed, so that the next commit brings it back.
    pub fn read(&self, digest: &Digest, max: u64) -> Result<Vec<u8>, BlobError> {
        let Blob { file, size } = self.open(digest)?;
        if size > max {
            return Err(BlobError::TooLarge { digest: digest.clone(), size, max });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        file.take(max).read_to_end(&mut bytes).during("read", &self.path(digest))?;
        if Digest::of(digest.algorithm(), &bytes) != *digest {
            return Err(self.damaged(digest)?);
        }
        Ok(bytes)
    }

    /// Hashes a whole blob. One that turns out damaged is removed, so that the next commit brings it back.
    pub fn verify(&self, digest: &Digest) -> Result<(), BlobError> {
        let blob = self.open(digest)?;
        if hash_file(&blob.file, digest.algorithm()).during("read", &self.path(digest))?.0.finish() != *digest {
            return Err(self.damaged(digest)?);
        }
        Ok(())
    }

    /// Stores bytes that are in memory, under their SHA-256.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, BlobError> {
        let mut writer = self.begin()?;
        writer.write_all(bytes).map_err(|error| writer.explain(error))?;
        Ok(writer.commit(None)?.0)
    }

    /// Stores bytes that are in memory, under their SHA-256, unless they are here, whole: then nothing is written.
    pub fn ensure(&self, bytes: &[u8]) -> Result<Digest, BlobError> {
        let digest = Digest::sha256(bytes);
        if self.is_whole(&digest, bytes.len() as u64)? { Ok(digest) } else { self.put(bytes) }
    }

    /// Tells whether a blob is here with all its bytes. What is longer is not it, as what is shorter is not.
    fn is_whole(&self, digest: &Digest, size: u64) -> Result<bool, BlobError> {
        match self.read(digest, size) {
            Ok(_) => Ok(true),
            Err(BlobError::NotFound { .. } | BlobError::Damaged { .. } | BlobError::TooLarge { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns how many blobs turned out damaged, and were removed, since the store was opened.
    pub fn removed_as_damaged(&self) -> u64 {
        self.home.count_damaged()
    }

    /// Removes a blob that is not what its digest says, so that the next commit brings it back.
    fn damaged(&self, digest: &Digest) -> Result<BlobError, BlobError> {
        self.remove(digest)?;
        self.home.note_damaged();
        Ok(BlobError::Damaged { digest: digest.clone() })
    }

    /// Stores bytes that are in memory as [`Blobs::ensure`] does, without waiting for the disk, as
    /// [`BlobWriter::commit_later`] does.
    pub fn put_later(&self, bytes: Vec<u8>) -> Result<Digest, BlobError> {
        let digest = Digest::sha256(&bytes);
        if !self.home.later().is_placing(&digest) && !self.is_whole(&digest, bytes.len() as u64)? {
            self.home.pin(&digest)?;
            let source = Source::Memory(self.clone(), bytes, self.home.begin());
            self.home.later().submit(Job::Place { source, digest: digest.clone() });
        }
        Ok(digest)
    }

    /// Starts a blob and writes all of it.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<BlobWriter, BlobError> {
        let mut writer = self.begin()?;
        writer.write_all(bytes).and_then(|()| writer.flush()).map_err(|error| writer.explain(error))?;
        Ok(writer)
    }

    /// Tells whether a blob is here.
    pub fn contains(&self, digest: &Digest) -> Result<bool, BlobError> {
        self.home.pin(digest)?;
        Ok(self.home.later().is_placing(digest) || self.size(digest)?.is_some())
    }

    /// Tells whether the content of a descriptor is here, with the size that it says.
    pub fn has(&self, descriptor: &Descriptor) -> Result<bool, BlobError> {
        Ok(self.size(&descriptor.digest)? == Some(descriptor.size))
    }

    /// Returns how long a blob is, or `None` when it is not here.
    pub fn size(&self, digest: &Digest) -> Result<Option<u64>, BlobError> {
        self.home.pin(digest)?;
        self.home.later().await_blob(digest);
        let path = self.path(digest);
        let there = found(fs::metadata(&path)).during("read", &path)?.filter(Metadata::is_file);
        there.map_or_else(|| Ok(self.patched_size(digest)?), |there| Ok(Some(there.len())))
    }

    /// Returns the file of a blob that was opened, for messages. Never write to it.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.home.layout().blob(digest)
    }

    /// Returns the digests of all blobs, sorted.
    pub fn list(&self) -> Result<Vec<Digest>, BlobError> {
        let mut digests = Vec::new();
        for root in [self.home.layout().patches(), self.home.layout().blobs()] {
            for algorithm in names(&root)? {
                for prefix in names(&root.join(&algorithm))? {
                    for hex in names(&root.join(&algorithm).join(&prefix))? {
                        // What is not a digest in its right folder was not put there by us.
                        let digest = format!("{algorithm}:{hex}").parse::<Digest>();
                        digests.extend(digest.ok().filter(|digest| digest.hex().starts_with(&prefix)));
                    }
                }
            }
        }
        digests.sort_unstable();
        digests.dedup();
        Ok(digests)
    }

    /// Removes a blob, and tells whether it was there. The caller has made sure that nothing names it.
    pub fn remove(&self, digest: &Digest) -> Result<bool, BlobError> {
        let path = self.path(digest);
        let patch = self.remove_patch(digest)?;
        Ok(found(fs::remove_file(&path)).during("remove", &path)?.is_some() || patch)
    }
}

/// Lists the names in a folder that are UTF-8; none when it is missing.
pub(crate) fn names(folder: &Path) -> Result<Vec<String>, FileError> {
    let Some(entries) = found(fs::read_dir(folder)).during("list", folder)? else { return Ok(Vec::new()) };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.during("list", folder)?.file_name().into_string());
    }
    Ok(names)
}

/// Hashes a file from where it stands to its end; gives the hasher and how many bytes there were.
pub(crate) fn hash_file(mut file: &File, algorithm: Algorithm) -> io::Result<(Hasher, u64)> {
    let mut hasher = Hasher::new(algorithm);
    let mut buffer = vec![0; 256 * 1024];
    let mut size = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((hasher, size)),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                size += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
