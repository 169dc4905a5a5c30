//! [`Store`]: opening one, and the way to its parts.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::atomic_file;
use crate::file_error::{During, found};
use crate::layout::VERSION;
use crate::session::{Home, Keep};
use crate::{BlobError, Blobs, BuildCache, Builds, FileError, Images, Layers, Layout, Outlines, Snapshots};

/// Everything that is kept, below one folder. Clones are the same store.
#[derive(Clone, Debug)]
pub struct Store {
    parts: Arc<Parts>,
}

#[derive(Debug)]
struct Parts {
    home: Arc<Home>,
    blobs: Blobs,
    images: Images,
    layers: Layers,
    snapshots: Snapshots,
    build_cache: BuildCache,
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum OpenStoreError {
    #[error("the store's home `{home}` is not a folder; choose another with SLIPWAY_HOME")]
    NotAFolder { home: PathBuf },
    #[error("no permission to use the store's home `{home}`; choose another with SLIPWAY_HOME")]
    Permission { home: PathBuf, source: io::Error },
    #[error("the store's home `{home}` is on a read-only filesystem; choose another with SLIPWAY_HOME")]
    ReadOnly { home: PathBuf },
    #[error(
        "the store in `{home}` has version {found}, and this slipway knows version {known}; use a slipway that fits, or another store with SLIPWAY_HOME"
    )]
    Version { home: PathBuf, found: u32, known: u32 },
    #[error("`{home}` holds other things than a slipway store; choose another folder with SLIPWAY_HOME")]
    NotAStore { home: PathBuf },
    #[error(transparent)]
    File(#[from] FileError),
}

impl Store {
    /// Waits until all is on the disk that was put there without waiting ([`BlobWriter::commit_later`] and the like), and
    /// tells what of it failed. Whoever tells a user that something is kept calls this first.
    ///
    /// [`BlobWriter::commit_later`]: crate::BlobWriter::commit_later
    pub fn settle(&self) -> Result<(), BlobError> {
        self.parts.home.later().settle()
    }

    /// Opens the store in a folder, making it when it is missing, and sweeps up after processes that died in it.
    pub fn open(home: &Path) -> Result<Self, OpenStoreError> {
        let home = std::path::absolute(home).map_err(|source| FileError::new("use", home, source))?;
        let layout = Layout::new(&home);
        let joined = prepare(&layout).and_then(|()| Ok(Home::join(layout)?));
        let home = Arc::new(joined.map_err(|error| explain(error, &home))?);
        let blobs = Blobs { home: home.clone() };
        let layers = Layers { home: home.clone(), blobs: blobs.clone() };
        let parts = Parts {
            images: Images { home: home.clone(), blobs: blobs.clone(), layers: layers.clone() },
            snapshots: Snapshots { home: home.clone(), blobs: blobs.clone() },
            build_cache: BuildCache { home: home.clone() },
            layers,
            blobs,
            home,
        };
        Ok(Self { parts: Arc::new(parts) })
    }

    /// Removes at once all that this process has not finished, although threads of it may still be at work.
    ///
    /// For a program that was interrupted and ends without waiting for them: what they do fails from now on.
    pub fn abandon(&self) {
        self.parts.home.abandon();
    }

    /// From now on pins all that this store looks at, as long as it is open, so that pruning goes on beside it. For work
    /// that ends, such as a build.
    ///
    /// # Errors
    ///
    /// When a lock cannot be taken.
    pub fn pin_all(&self) -> Result<(), FileError> {
        self.parts.home.start_pinning(Keep::Always)
    }

    /// Does the same, but keeps pins only while something is unfinished. For a server, which names what it stores under
    /// the claim that brings it in.
    ///
    /// # Errors
    ///
    /// When a lock cannot be taken.
    pub fn pin_claims(&self) -> Result<(), FileError> {
        self.parts.home.start_pinning(Keep::Claims)
    }

    /// Returns the folder that holds everything.
    pub fn home(&self) -> &Path {
        self.parts.home.layout().home()
    }

    /// Returns what all parts share.
    pub(crate) fn home_parts(&self) -> &Arc<Home> {
        &self.parts.home
    }

    /// Returns where everything is.
    pub fn layout(&self) -> &Layout {
        self.parts.home.layout()
    }

    /// Replaces a file from which something is known sooner: whole or not there, but a crash of the machine may damage
    /// it, so whoever reads it must notice.
    pub fn remember<E: From<FileError>>(
        &self,
        path: &Path,
        write: impl FnOnce(&mut File) -> Result<(), E>,
    ) -> Result<(), E> {
        self.parts.home.stream_file(path, false, write)
    }

    /// Returns immutable bytes, found by digest.
    pub fn blobs(&self) -> &Blobs {
        &self.parts.blobs
    }

    /// Returns names and images.
    pub fn images(&self) -> &Images {
        &self.parts.images
    }

    /// Returns the forms of layers.
    pub fn layers(&self) -> &Layers {
        &self.parts.layers
    }

    /// Returns unpacked layers.
    pub fn snapshots(&self) -> &Snapshots {
        &self.parts.snapshots
    }

    /// Returns the builder's records.
    pub fn build_cache(&self) -> &BuildCache {
        &self.parts.build_cache
    }

    /// Returns where files lie in layers.
    pub fn outlines(&self) -> Outlines {
        Outlines { home: self.parts.home.clone() }
    }

    /// Returns what is remembered of builds.
    pub fn builds(&self) -> Builds {
        Builds { home: self.parts.home.clone() }
    }

    /// Returns the folder in which each container has one of its own.
    pub fn containers_dir(&self) -> PathBuf {
        self.layout().containers()
    }
}

/// What stands before the number in the version file.
const MARK: &str = "slipway store ";

/// Makes sure that the folder is a store of our version.
fn prepare(layout: &Layout) -> Result<(), OpenStoreError> {
    let path = layout.version();
    match found(fs::read(&path)) {
        Ok(Some(bytes)) => return check_version(layout, &bytes),
        Ok(None) => {}
        Err(source) => return Err(FileError::new("read", &path, source).into()),
    }
    let home = layout.home();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(home).during("create the folder", home)?;
    refuse_strangers(layout)?;
    let private = [layout.locks(), layout.staging(), layout.snapshots(), layout.partials()];
    let plain = [layout.blobs(), layout.images(), layout.layers(), layout.empty(), layout.cache()];
    let private = private.iter().map(|path| (path, 0o700));
    for (path, mode) in private.chain(plain.iter().map(|path| (path, 0o755))) {
        fs::DirBuilder::new().recursive(true).mode(mode).create(path).during("create the folder", path)?;
    }
    // Last, so that a store with a version has all its folders.
    Ok(atomic_file::write(&path, format!("{MARK}{VERSION}\n").as_bytes())?)
}

fn check_version(layout: &Layout, bytes: &[u8]) -> Result<(), OpenStoreError> {
    let text = std::str::from_utf8(bytes).ok().and_then(|text| text.trim_end().strip_prefix(MARK));
    let home = layout.home().to_owned();
    match text.and_then(|number| number.parse().ok()) {
        Some(VERSION) => Ok(()),
        Some(found) => Err(OpenStoreError::Version { home, found, known: VERSION }),
        None => Err(OpenStoreError::NotAStore { home }),
    }
}

/// Refuses to spread over a folder that somebody uses for something else.
fn refuse_strangers(layout: &Layout) -> Result<(), OpenStoreError> {
    // Other processes may be making the store right now.
    const OURS: [&str; 10] =
        ["version", "locks", "staging", "snapshots", "partial", "blobs", "images", "layers", "empty", "cache"];
    let home = layout.home();
    for entry in fs::read_dir(home).during("list", home)? {
        let name = entry.during("list", home)?.file_name();
        let name = name.to_string_lossy();
        if !OURS.contains(&&*name) && !name.starts_with(".version.tmp-") && name != "lost+found" {
            return Err(OpenStoreError::NotAStore { home: home.to_owned() });
        }
    }
    Ok(())
}

/// Says what is wrong with the home rather than with a file in it, where that is what a user can change.
fn explain(error: OpenStoreError, home: &Path) -> OpenStoreError {
    let OpenStoreError::File(FileError::Io { action, path, source }) = error else { return error };
    let home = home.to_owned();
    match source.kind() {
        io::ErrorKind::PermissionDenied => OpenStoreError::Permission { home, source },
        io::ErrorKind::ReadOnlyFilesystem => OpenStoreError::ReadOnly { home },
        io::ErrorKind::NotADirectory => OpenStoreError::NotAFolder { home },
        io::ErrorKind::AlreadyExists if path == home => OpenStoreError::NotAFolder { home },
        _ => OpenStoreError::File(FileError::Io { action, path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(path: &Path, bytes: &[u8]) {
        atomic_file::write(path, bytes).expect("written");
    }

    #[test]
    fn a_store_opens_twice_at_once_and_again_later() {
        let folder = tempfile::tempdir().expect("tempdir");
        let home = folder.path().join("deep/home");
        let first = Store::open(&home).expect("made");
        let second = Store::open(&home).expect("shared");
        assert_eq!(first.home(), second.home());
        drop((first, second));
        Store::open(&home).expect("opened again");
    }

    #[test]
    fn a_home_that_cannot_be_used_is_named() {
        let folder = tempfile::tempdir().expect("tempdir");
        let file = folder.path().join("file");
        put(&file, b"x");
        assert!(matches!(Store::open(&file), Err(OpenStoreError::NotAFolder { .. })));
        assert!(matches!(Store::open(&file.join("below")), Err(OpenStoreError::NotAFolder { .. })));
        assert!(matches!(Store::open(folder.path()), Err(OpenStoreError::NotAStore { .. })));
        let error = Store::open(Path::new("/proc/slipway")).expect_err("not writable");
        assert!(error.to_string().contains("/proc/slipway"), "{error}");
    }

    #[test]
    fn another_version_and_junk_are_refused() {
        let folder = tempfile::tempdir().expect("tempdir");
        let home = folder.path().join("home");
        drop(Store::open(&home).expect("made"));
        put(&home.join("version"), b"slipway store 7\n");
        assert!(matches!(Store::open(&home), Err(OpenStoreError::Version { found: 7, .. })));
        for junk in [b"".as_slice(), b"\xff\xfe", b"slipway store -1"] {
            put(&home.join("version"), junk);
            assert!(matches!(Store::open(&home), Err(OpenStoreError::NotAStore { .. })));
        }
    }

    #[test]
    fn what_a_dead_session_left_is_swept_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().expect("tempdir");
        let home = folder.path().join("home");
        let live = Store::open(&home).expect("made");
        let writer = live.blobs().begin().expect("begun");
        let dead = home.join("staging/99999999-0");
        fs::create_dir_all(dead.join("a1/upper/x")).expect("made");
        put(&dead.join("lock"), b"");
        fs::create_dir(home.join("staging/99999998-0")).expect("made");
        put(&home.join("staging/junk"), b"");
        let other = Store::open(&home).expect("swept");
        assert_eq!(fs::read_dir(home.join("staging")).expect("listed").count(), 2, "both sessions");
        writer.commit(None).expect("not harmed");
        drop((live, other));
        assert_eq!(fs::read_dir(home.join("staging")).expect("listed").count(), 0);
    }
}
