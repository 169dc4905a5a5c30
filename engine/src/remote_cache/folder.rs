//! [`Folder`]: a cache in an OCI layout, which other processes may be reading and writing.
//!
//! ```text
//! PATH/
//! ├── oci-layout                  locked while index.json changes
//! ├── index.json                  names caches; replaced by a rename, last
//! └── blobs/ALGORITHM/HEX         appear by a rename
//! ```

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use oci::{Descriptor, Digest, Index, Parsed};
use store::images::MAX_MANIFEST;
use store::{BlobError, FileError, Store, atomic_file};

use super::CacheError;

/// What a layout calls its parts.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// A cache in an OCI layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// The layout.
    pub path: PathBuf,
    /// What the cache is called there.
    pub tag: String,
    /// Which one it is, whatever is called so.
    pub digest: Option<Digest>,
}

impl Folder {
    /// Returns what is called so; `None` when nothing is, or there is no layout yet.
    pub(super) fn top(&self) -> Result<Option<Descriptor>, CacheError> {
        let Some(index) = self.index()? else { return Ok(None) };
        Ok(index.manifests.into_iter().find(|manifest| match &self.digest {
            Some(digest) => manifest.digest == *digest,
            None => manifest.annotations.get(REF_NAME) == Some(&self.tag),
        }))
    }

    /// Reads a blob, verified.
    pub(super) fn read(&self, blob: &Descriptor, limit: u64) -> Result<Vec<u8>, CacheError> {
        let path = self.blob(&blob.digest);
        let Some(bytes) = read_small(&path, limit)? else {
            return Err(CacheError::TooLarge { digest: blob.digest.clone(), limit });
        };
        if Digest::of(blob.digest.algorithm(), &bytes) != blob.digest {
            return Err(CacheError::Damaged { digest: blob.digest.clone() });
        }
        Ok(bytes)
    }

    /// Copies a blob into the store, verified.
    pub(super) fn fetch(&self, store: &Store, blob: &Descriptor) -> Result<(), CacheError> {
        if store.blobs().has(blob)? {
            return Ok(());
        }
        let path = self.blob(&blob.digest);
        let file = File::open(&path).map_err(|error| FileError::new("open", &path, error))?;
        let mut writer = store.blobs().begin_as(blob.digest.algorithm())?;
        // One byte more than there may be shows that there are too many.
        io::copy(&mut file.take(blob.size.saturating_add(1)), &mut writer).map_err(|error| writer.explain(error))?;
        match writer.commit(Some(&blob.digest)) {
            Ok(_) => Ok(()),
            Err(BlobError::DigestMismatch { .. }) => Err(CacheError::Damaged { digest: blob.digest.clone() }),
            Err(error) => Err(error.into()),
        }
    }

    /// Copies a blob of the store here.
    pub(super) fn send(&self, store: &Store, blob: &Descriptor) -> Result<(), CacheError> {
        let path = self.blob(&blob.digest);
        if fs::metadata(&path).is_ok_and(|there| there.is_file() && there.len() == blob.size) {
            return Ok(());
        }
        let mut from = store.blobs().open(&blob.digest)?.file;
        let folder = path.parent().unwrap_or(&self.path);
        fs::create_dir_all(folder).map_err(|error| FileError::new("create the folder", folder, error))?;
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let temporary = folder.join(format!(".{}.tmp-{}-{number}", blob.digest.hex(), std::process::id()));
        let copied = File::create(&temporary).and_then(|mut to| {
            io::copy(&mut from, &mut to)?;
            to.sync_data()?;
            fs::rename(&temporary, &path)
        });
        copied.map_err(|error| {
            // What is left of it is in nobody's way.
            let _ = fs::remove_file(&temporary);
            FileError::new("write", &path, error).into()
        })
    }

    /// Has the tag name a document, if it names `before` now, and tells whether it did. What only the one before named is
    /// removed.
    pub(super) fn replace(
        &self,
        descriptor: &Descriptor,
        bytes: &[u8],
        before: Option<&Digest>,
    ) -> Result<bool, CacheError> {
        let layout = self.path.join("oci-layout");
        if !layout.exists() {
            atomic_file::write(&layout, LAYOUT.as_bytes())?;
        }
        let lock = OpenOptions::new().read(true).open(&layout);
        let lock = lock.and_then(|file| file.lock().map(|()| file));
        let _lock = lock.map_err(|error| FileError::new("lock", &layout, error))?;
        let mut index = self.index()?.unwrap_or_else(|| Index::new(Vec::new()));
        let is_it = |manifest: &Descriptor| manifest.annotations.get(REF_NAME) == Some(&self.tag);
        let old = index.manifests.iter().find(|manifest| is_it(manifest)).cloned();
        if old.as_ref().map(|old| &old.digest) != before {
            return Ok(false);
        }
        atomic_file::write(&self.blob(&descriptor.digest), bytes)?;
        index.manifests.retain(|manifest| !is_it(manifest));
        let mut named = descriptor.clone();
        named.annotations.insert(REF_NAME.into(), self.tag.clone());
        index.manifests.push(named);
        let text = serde_json::to_vec(&index).expect("text keys only");
        atomic_file::write(&self.path.join("index.json"), &text)?;
        if let Some(old) = old.filter(|old| old.digest != descriptor.digest) {
            self.remove_unused(&old, &index);
        }
        Ok(true)
    }

    /// Removes what a document named, and nothing names now. What cannot be removed only takes space.
    fn remove_unused(&self, old: &Descriptor, index: &Index) {
        let mut used: HashSet<Digest> = HashSet::new();
        for manifest in &index.manifests {
            // Of what cannot be read nobody knows what it uses.
            let Some(named) = self.named(manifest) else { return };
            used.extend(named);
        }
        for digest in self.named(old).unwrap_or_default().difference(&used) {
            let _ = fs::remove_file(self.blob(digest));
        }
    }

    /// Lists a document and all that it names.
    fn named(&self, top: &Descriptor) -> Option<HashSet<Digest>> {
        let mut named = HashSet::new();
        let mut open = vec![top.clone()];
        while let Some(descriptor) = open.pop() {
            if !named.insert(descriptor.digest.clone()) {
                continue;
            }
            let media_type = &descriptor.media_type;
            if !oci::media_type::is_index(media_type) && !oci::media_type::is_manifest(media_type) {
                continue;
            }
            let bytes = self.read(&descriptor, MAX_MANIFEST).ok()?;
            match Parsed::parse(&bytes, Some(media_type)).ok()? {
                Parsed::Index(index) => open.extend(index.manifests),
                Parsed::Manifest(manifest) => open.extend(manifest.layers.into_iter().chain([manifest.config])),
            }
        }
        Some(named)
    }

    /// Reads the index; `None` when there is none.
    fn index(&self) -> Result<Option<Index>, CacheError> {
        let path = self.path.join("index.json");
        let not_a_layout = || CacheError::NotALayout { path: self.path.clone() };
        let bytes = match read_small(&path, MAX_MANIFEST) {
            Err(CacheError::File(FileError::Io { source, .. })) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            other => other?.ok_or_else(not_a_layout)?,
        };
        match Parsed::parse(&bytes, None) {
            Ok(Parsed::Index(index)) => Ok(Some(index)),
            Ok(Parsed::Manifest(_)) | Err(_) => Err(not_a_layout()),
        }
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.path.join("blobs").join(digest.algorithm().as_str()).join(digest.hex())
    }
}

/// Reads a file; `None` when it is larger than the limit.
fn read_small(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, CacheError> {
    let failed = |error| FileError::new("read", path, error);
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_names_in_a_hostile_layout_do_no_harm() {
        let folder = tempfile::tempdir().expect("tempdir");
        let store = Store::open(&folder.path().join("home")).expect("opened");
        let cache = Folder { path: folder.path().join("cache"), tag: "latest".into(), digest: None };
        assert_eq!(cache.top().expect("looked"), None, "there is none yet");
        let good = Descriptor::of(oci::media_type::OCI_LAYER, b"good");
        atomic_file::write(&cache.blob(&good.digest), b"good").expect("written");
        // A size that no number is larger than.
        let endless = Descriptor { size: u64::MAX, ..good.clone() };
        cache.fetch(&store, &endless).expect("its digest is right");
        let refused = |descriptor: &Descriptor| cache.fetch(&store, descriptor).expect_err("refused");
        let bad = Descriptor::of(oci::media_type::OCI_LAYER, b"what it should be");
        atomic_file::write(&cache.blob(&bad.digest), b"what it is not").expect("written");
        assert!(matches!(refused(&bad), CacheError::Damaged { .. }));
        assert!(matches!(cache.read(&bad, 100).expect_err("refused"), CacheError::Damaged { .. }));
        assert!(matches!(cache.read(&bad, 5).expect_err("refused"), CacheError::TooLarge { .. }));
        assert!(!store.blobs().contains(&bad.digest).expect("looked"));
        for index in ["", "[]", "{\"manifests\":[{\"digest\":\"sha256:../../x\",\"size\":1}]}"] {
            atomic_file::write(&cache.path.join("index.json"), index.as_bytes()).expect("written");
            assert!(matches!(cache.top().expect_err("refused"), CacheError::NotALayout { .. }), "{index}");
        }
    }
}
