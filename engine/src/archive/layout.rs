//! The same in a folder instead of an archive: an OCI layout, which may hold other images already.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::Path;

use layer::hashing::HashingReader;
use oci::{Digest, Index};
use store::{FileError, Store, atomic_file};

use super::write::{blob_path, collect, index_lines};
use super::{ArchiveImage, OCI_NAME, WriteArchiveError};

const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
const MAX_INDEX: u64 = 8 << 20;

/// Writes images into an OCI layout, which is made when it is missing. What is there under other names stays.
///
/// Blobs are there before the list of images names them, and that is replaced by a rename.
///
/// # Errors
///
/// When a blob is missing or damaged, or the folder cannot be written or holds something else.
pub fn write_layout(store: &Store, images: &[ArchiveImage], folder: &Path) -> Result<(), WriteArchiveError> {
    let mut blobs = BTreeSet::new();
    for image in images {
        collect(store, &image.manifest, &mut blobs)?;
    }
    fs::create_dir_all(folder).map_err(|error| FileError::new("create the folder", folder, error))?;
    let layout = folder.join("oci-layout");
    if !layout.exists() {
        atomic_file::write(&layout, LAYOUT.as_bytes())?;
    }
    let locked = OpenOptions::new().read(true).open(&layout).and_then(|file| file.lock().map(|()| file));
    let _lock = locked.map_err(|error| FileError::new("lock", &layout, error))?;
    let list = folder.join("index.json");
    let mut index = match File::open(&list) {
        Ok(file) => {
            let mut bytes = Vec::new();
            file.take(MAX_INDEX).read_to_end(&mut bytes).map_err(|error| FileError::new("read", &list, error))?;
            serde_json::from_slice(&bytes).map_err(|error| FileError::new("read", &list, error.into()))?
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Index::new(Vec::new()),
        Err(error) => return Err(FileError::new("open", &list, error).into()),
    };
    for digest in &blobs {
        send(store, digest, &folder.join(blob_path(digest)))?;
    }
    for line in images.iter().flat_map(index_lines) {
        let name = line.annotations.get(OCI_NAME);
        index.manifests.retain(|there| match (name, there.annotations.get(OCI_NAME)) {
            (None, None) => there.digest != line.digest,
            (ours, theirs) => ours != theirs,
        });
        index.manifests.push(line);
    }
    let text = serde_json::to_vec(&index).map_err(io::Error::from)?;
    atomic_file::write(&list, &text)?;
    Ok(())
}

/// Copies a blob, verified; it appears by a rename.
fn send(store: &Store, digest: &Digest, path: &Path) -> Result<(), WriteArchiveError> {
    let (blob, size) = store.blobs().stream(digest)?;
    if fs::metadata(path).is_ok_and(|there| there.is_file() && there.len() == size) {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(|error| FileError::new("create the folder", parent, error))?;
    let failed = |error| FileError::new("write", path, error);
    let temporary = parent.join(format!(".{}.tmp-{}", digest.hex(), std::process::id()));
    // Only one process holds the layout's lock: what is there is of one that died.
    let _: io::Result<()> = fs::remove_file(&temporary);
    let copied = (|| {
        let mut hashing = HashingReader::with_algorithm(blob.take(size), digest.algorithm());
        let mut file = File::create_new(&temporary).map_err(failed)?;
        io::copy(&mut hashing, &mut file).map_err(failed)?;
        let (_, actual, _) = hashing.finish();
        if actual != *digest {
            return Err(WriteArchiveError::Damaged { digest: digest.clone(), actual });
        }
        file.sync_data().map_err(failed)?;
        Ok(fs::rename(&temporary, path).map_err(failed)?)
    })();
    if copied.is_err() {
        // What is left of it is in nobody's way.
        let _: io::Result<()> = fs::remove_file(&temporary);
    }
    copied
}
