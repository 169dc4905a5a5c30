//! [`Outlines`]: where the files of a layer lie in its tar, so that the next layer like it takes them from there.
//!
//! What an outline says is the builder's matter; here it is bytes about a blob, filed under the key of a kind of `COPY`.
//! A new one replaces the last of its kind. One that is lost costs time, nothing else.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use oci::{Algorithm, Digest, Hasher};

use crate::FileError;
use crate::blobs::names;
use crate::file_error::{During, found};
use crate::session::Home;

const MARK: &[u8; 18] = b"slipway outline 1\n";
const HEAD: usize = MARK.len() + 32 + 32;

/// The outlines of a store.
#[derive(Clone, Debug)]
pub struct Outlines {
    pub(crate) home: Arc<Home>,
}

impl Outlines {
    /// Returns the blob that an outline is of, and what it says. A damaged one counts as none.
    pub fn get(&self, key: &Digest) -> Result<Option<(Digest, Vec<u8>)>, FileError> {
        let path = self.home.layout().outline(key);
        let Some(mut bytes) = found(fs::read(&path)).during("read", &path)? else { return Ok(None) };
        let Some(base) = base(&bytes) else { return Ok(None) };
        let mut check = Hasher::new(Algorithm::Sha256);
        check.update(&bytes[MARK.len() + 32..]);
        if check.finish().to_bytes() != bytes[MARK.len()..MARK.len() + 32] {
            return Ok(None);
        }
        bytes.drain(..HEAD);
        Ok(Some((base, bytes)))
    }

    /// Files the outline of a blob.
    pub fn put(&self, key: &Digest, base: &Digest, outline: &[u8]) -> Result<(), FileError> {
        let base = base.to_bytes();
        let mut check = Hasher::new(Algorithm::Sha256);
        check.update(&base);
        check.update(outline);
        let bytes = [MARK.as_slice(), &check.finish().to_bytes(), &base, outline].concat();
        // Not synced: what a crash damages is noticed, and counts as none.
        self.home.write_file(&self.home.layout().outline(key), &bytes, false)
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
        assert_eq!(outlines.get(&key).expect("looked"), None);
        outlines.put(&key, &base, b"says").expect("put");
        assert_eq!(outlines.get(&key).expect("looked"), Some((base.clone(), b"says".to_vec())));
        outlines.keep_only(&|digest| *digest == base).expect("kept");
        let path = store.layout().outline(&key);
        let whole = fs::read(&path).expect("read");
        for length in 0..whole.len() {
            crate::atomic_file::write(&path, &whole[..length]).expect("truncated");
            assert_eq!(outlines.get(&key).expect("none"), None, "{length}");
        }
        crate::atomic_file::write(&path, &whole).expect("restored");
        store.collect().expect("collected");
        assert_eq!(outlines.get(&key).expect("looked"), None);
    }
}
