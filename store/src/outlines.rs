//! [`Outlines`]: where the files of a layer lie in its tar, so that the next layer like it takes them from there.
//!
//! What an outline says is the builder's matter; here it is bytes about a blob, filed under the key of a kind of `COPY`.
//! A new one replaces the last of its kind. One that is lost costs time, nothing else.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use layer::hashing::HashingWriter;
use oci::{Algorithm, Digest};

use crate::FileError;
use crate::blobs::names;
use crate::file_error::{During, found};
use crate::session::Home;

const MARK: &[u8; 18] = b"slipway outline 2\n";
const HEAD: usize = MARK.len() + 32 + 32;

/// The outlines of a store.
#[derive(Clone, Debug)]
pub struct Outlines {
    pub(crate) home: Arc<Home>,
}

impl Outlines {
    /// Returns the blob that an outline is of, and a file with where in it the outline lies. A damaged one counts as none.
    pub fn open(&self, key: &Digest) -> Result<Option<(Digest, File, Range<u64>)>, FileError> {
        let path = self.home.layout().outline(key);
        let Some(mut file) = found(File::open(&path)).during("open", &path)? else { return Ok(None) };
        let mut head = Vec::with_capacity(HEAD);
        (&mut file).take(HEAD as u64).read_to_end(&mut head).during("read", &path)?;
        let Some(base) = base(&head) else { return Ok(None) };
        let mut check = HashingWriter::new(io::sink());
        check.write_all(&head[MARK.len() + 32..]).during("read", &path)?;
        let mut buffer = vec![0; 128 << 10];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => check.write_all(&buffer[..count]).during("read", &path)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(FileError::new("read", &path, error)),
            }
        }
        let (_, check, size) = check.finish();
        if check.to_bytes() != head[MARK.len()..MARK.len() + 32] {
            return Ok(None);
        }
        Ok(Some((base, file, HEAD as u64..HEAD as u64 - 32 + size)))
    }

    /// Files the outline of a blob; `write` is given where its bytes go.
    pub fn put<E: From<FileError>>(
        &self,
        key: &Digest,
        base: &Digest,
        write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
    ) -> Result<(), E> {
        let path = self.home.layout().outline(key);
        // Not synced: what a crash damages is noticed, and counts as none.
        self.home.stream_file(&path, false, |file| {
            file.write_all(&[MARK.as_slice(), &[0; 32]].concat()).during("write", &path)?;
            let mut hashing = HashingWriter::new(BufWriter::with_capacity(128 << 10, &*file));
            hashing.write_all(&base.to_bytes()).during("write", &path)?;
            write(&mut hashing)?;
            hashing.flush().during("write", &path)?;
            let (_, check, _) = hashing.finish();
            Ok(file.write_all_at(&check.to_bytes(), MARK.len() as u64).during("write", &path)?)
        })
    }

    /// Removes those that are of other blobs than these.
    pub(crate) fn keep_only(&self, used: &dyn Fn(&Digest) -> bool) -> Result<(), FileError> {
        let folder = self.home.layout().outlines();
        for name in names(&folder)? {
            let path = folder.join(name);
            if !read_base(&path)?.is_some_and(|base| used(&base)) {
                found(fs::remove_file(&path)).during("remove", &path)?;
            }
        }
        Ok(())
    }
}

fn read_base(path: &Path) -> Result<Option<Digest>, FileError> {
    let Some(file) = found(File::open(path)).during("open", path)? else { return Ok(None) };
    let mut head = Vec::with_capacity(HEAD);
    file.take(HEAD as u64).read_to_end(&mut head).during("read", path)?;
    Ok(base(&head))
}

fn base(bytes: &[u8]) -> Option<Digest> {
    let hash = bytes.strip_prefix(MARK)?.get(32..64)?;
    Digest::from_bytes(Algorithm::Sha256, hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Store;

    #[test]
    fn an_outline_is_found_until_it_is_damaged_or_its_blob_is_gone() {
        let folder = tempfile::tempdir().expect("tempdir");
        let store = Store::open(&folder.path().join("home")).expect("opened");
        let (outlines, key, base) = (store.outlines(), Digest::sha256(b"key"), Digest::sha256(b"base"));
        let get = || {
            let (base, file, range) = outlines.open(&key).expect("looked")?;
            let mut says = vec![0; (range.end - range.start) as usize];
            file.read_exact_at(&mut says, range.start).expect("read");
            Some((base, says))
        };
        assert_eq!(get(), None);
        let write = |out: &mut dyn Write| out.write_all(b"says").during("write", Path::new("outline"));
        outlines.put(&key, &base, write).expect("put");
        assert_eq!(get(), Some((base.clone(), b"says".to_vec())));
        outlines.keep_only(&|digest| *digest == base).expect("kept");
        let path = store.layout().outline(&key);
        let whole = fs::read(&path).expect("read");
        for length in 0..whole.len() {
            crate::atomic_file::write(&path, &whole[..length]).expect("truncated");
            assert_eq!(get(), None, "{length}");
        }
        crate::atomic_file::write(&path, &whole).expect("restored");
        store.collect().expect("collected");
        assert_eq!(get(), None);
    }
}
