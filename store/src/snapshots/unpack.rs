//! Layer blobs to layer folders, several at a time, verified on the way.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use layer::rights;
use layer::{Applied, ApplyOptions, Devices, Follow, NodeKind, Tree, Whiteouts, remove_tree};
use oci::{Algorithm, Descriptor, DiffId, Digest, Hasher};
use rustix::fs::{Mode, OFlags, ResolveFlags, XattrFlags};

use super::{Look, Snapshot, SnapshotError, UnpackEvent, make_folder};
use crate::file_error::During;
use crate::session::Home;
use crate::{Blobs, FileError};

/// The most layers that are unpacked at once; more would only make the disk jump.
const AT_ONCE: usize = 4;
/// How much is decompressed at a time, and how many such pieces may wait to be applied.
const CHUNK: usize = 256 * 1024;
const CHUNKS_AHEAD: usize = 4;
/// After how many bytes of a blob there is an event.
const EVENT_EVERY: u64 = 512 * 1024;

/// Some bytes of a tar, which two threads read.
type Piece = Arc<Vec<u8>>;

/// What all layers of one call share.
pub(super) struct Unpacking<'a> {
    pub(super) home: &'a Home,
    pub(super) blobs: &'a Blobs,
    pub(super) events: &'a (dyn Fn(UnpackEvent<'_>) + Sync),
    pub(super) stopped: &'a (dyn Fn() -> bool + Sync),
}

/// A layer in a temporary folder, which goes when this is dropped.
#[derive(Debug)]
pub(super) struct Unpacked {
    folder: PathBuf,
    /// Folders of which the tar said nothing, the root perhaps among them.
    implied: Vec<Vec<u8>>,
    /// Whether nothing was in the tar.
    hollow: bool,
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        // After it was moved to its place there is nothing; what resists is swept with the session.
        let _ = remove_tree(&self.folder);
    }
}

impl Unpacking<'_> {
    /// Unpacks layers in parallel. The results are in the order of the layers, and stop after the first error.
    pub(super) fn all(&self, layers: &[(usize, &DiffId, &Descriptor)]) -> Vec<Result<Unpacked, SnapshotError>> {
        let results: Vec<Mutex<Option<Result<Unpacked, SnapshotError>>>> =
            layers.iter().map(|_| Mutex::new(None)).collect();
        let next = AtomicUsize::new(0);
        // Layers below a broken one are still wanted, those above are not.
        let broken = AtomicUsize::new(usize::MAX);
        let work = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some((_, diff_id, blob)) = layers.get(index) else { return };
                let in_vain = || index > broken.load(Ordering::Relaxed) || (self.stopped)();
                let result = if in_vain() { Err(SnapshotError::Stopped) } else { self.one(diff_id, blob, &in_vain) };
                if result.is_err() {
                    broken.fetch_min(index, Ordering::Relaxed);
                }
                *results[index].lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            }
        };
        let threads = std::thread::available_parallelism().map_or(2, |count| count.get().clamp(2, AT_ONCE));
        std::thread::scope(|scope| {
            for _ in 1..threads.min(layers.len()) {
                // Without more threads, this one does it all.
                let _ = std::thread::Builder::new().name("unpack".into()).spawn_scoped(scope, work);
            }
            work();
        });
        let results = results.into_iter().map(|slot| slot.into_inner().unwrap_or_else(PoisonError::into_inner));
        let results = results.map(|result| result.unwrap_or(Err(SnapshotError::Stopped)));
        let mut ended = false;
        results.take_while(|result| !std::mem::replace(&mut ended, result.is_err())).collect()
    }

    /// Unpacks one layer into a temporary folder.
    fn one(
        &self,
        diff_id: &DiffId,
        descriptor: &Descriptor,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Unpacked, SnapshotError> {
        let digest = &descriptor.digest;
        let (blob, total) = self.blobs.stream(digest)?;
        (self.events)(UnpackEvent::Started { diff_id, total });
        let unpacked = Unpacked { folder: self.home.temporary('l')?, implied: Vec::new(), hollow: false };
        make_folder(&unpacked.folder, 0o700)?;
        let files = unpacked.files();
        make_folder(&files, 0o755)?;
        let root = File::open(&files).during("open", &files)?;
        let mut tar = PlainTar::start(blob, diff_id.0.algorithm(), self.events, diff_id, stopped)
            .map_err(|source| SnapshotError::Decompress { blob: digest.clone(), source })?;
        let applied = layer::apply(&mut tar, root.as_fd(), &options());
        let unpacked = self.judge(applied, tar, unpacked, diff_id, digest).or_else(|error| {
            // Is it the disk's fault rather than the image's?
            if matches!(error, SnapshotError::Stopped | SnapshotError::File(_)) {
                return Err(error);
            }
            self.blobs.verify(digest)?;
            Err(error)
        })?;
        if unpacked.hollow {
            std::fs::remove_dir(&files).during("remove", &files)?;
        }
        (self.events)(UnpackEvent::Finished { diff_id });
        Ok(unpacked)
    }

    fn judge(
        &self,
        applied: Result<Applied, layer::ApplyError>,
        tar: PlainTar<'_>,
        mut unpacked: Unpacked,
        diff_id: &DiffId,
        blob: &Digest,
    ) -> Result<Unpacked, SnapshotError> {
        let stopped = tar.was_stopped;
        let read = tar.finish();
        if stopped {
            return Err(SnapshotError::Stopped);
        }
        // A stream that breaks off is the cause of whatever else went wrong.
        let actual = read.map_err(|source| SnapshotError::Decompress { blob: blob.clone(), source })?;
        let applied = applied.map_err(|source| match no_space(&source) {
            true => FileError::NoSpace { path: self.home.layout().home().to_owned() }.into(),
            false => SnapshotError::Apply { blob: blob.clone(), source },
        })?;
        let actual = DiffId(actual.expect("a tar is applied to its end"));
        if actual != *diff_id {
            return Err(SnapshotError::DiffIdMismatch { blob: blob.clone(), expected: diff_id.clone(), actual });
        }
        unpacked.implied = applied.implied;
        unpacked.hollow = applied.entries == 0;
        if !applied.root {
            unpacked.implied.insert(0, Vec::new());
        }
        Ok(unpacked)
    }
}

/// Tells whether an error, or what caused it, is that the disk is full.
fn no_space(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        {
            return true;
        }
        next = error.source();
    }
    false
}

fn options() -> ApplyOptions {
    ApplyOptions {
        whiteouts: if rights::is_machine_root() { Whiteouts::Overlay } else { Whiteouts::OverlayUser },
        chown: rights::gives_owners(),
        devices: Devices::CreateIfPermitted,
        ..ApplyOptions::default()
    }
}

impl Unpacked {
    /// Returns the folder that becomes the snapshot's.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether the layer holds nothing.
    pub(super) fn is_hollow(&self) -> bool {
        self.hollow
    }

    fn files(&self) -> PathBuf {
        self.folder.join("fs")
    }

    /// Gives folders that the tar only implied the look that they have below; the snapshot below is in place.
    pub(super) fn complete(&self, below: &Snapshot, diff_id: &DiffId) -> Result<(), SnapshotError> {
        if self.implied.is_empty() || self.hollow {
            return Ok(());
        }
        let Some(chain) = &below.chain else { return Ok(()) };
        let path = self.files();
        let root = File::open(&path).during("open", &path)?;
        let unreadable = |source| SnapshotError::Parent { parent: chain.clone(), diff_id: diff_id.clone(), source };
        let tree = below.tree().map_err(unreadable)?;
        for implied in &self.implied {
            if let Some(folder) = open_beneath(&root, implied) {
                copy_look(&tree, implied, &folder).map_err(unreadable)?.during("change", &path)?;
            }
        }
        Ok(())
    }
}

/// Opens a folder of a layer without following any symlink; `None` when a later entry put something else there.
fn open_beneath(root: &File, path: &[u8]) -> Option<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, flags, Mode::empty(), resolve).ok()
}

/// Gives a folder the look of the one at a path of a tree, if there is one.
fn copy_look(tree: &Tree, path: &[u8], folder: &OwnedFd) -> Result<io::Result<()>, layer::TreeError> {
    let Some(node) = tree.lookup(path, Follow::No)?.filter(|node| node.kind == NodeKind::Directory) else {
        return Ok(Ok(()));
    };
    for (name, value) in tree.xattrs(&node)? {
        if !name.starts_with(b"trusted.overlay.") && !name.starts_with(b"user.overlay.") {
            // As when the layer itself says them: what the filesystem refuses is left out.
            let _ = rustix::fs::fsetxattr(folder, name.as_slice(), &value, XattrFlags::empty());
        }
    }
    let mtime = (node.mtime.seconds, node.mtime.nanos);
    let look = Look { mode: node.mode, uid: node.uid, gid: node.gid, mtime };
    Ok(look.give(folder))
}

/// The tar of a layer, decompressed by one thread, hashed by another, and read by whoever applies it.
struct PlainTar<'a> {
    pieces: Option<Receiver<io::Result<Piece>>>,
    piece: Piece,
    /// How much of the piece was read.
    at: usize,
    /// Tells whether it came to the end.
    decompress: JoinHandle<bool>,
    hash: JoinHandle<Digest>,
    /// An error that came in between, to be told once more at the end.
    broken: Option<io::Error>,
    /// How much of the blob has been read, and told of.
    read: Arc<AtomicU64>,
    told: u64,
    events: &'a (dyn Fn(UnpackEvent<'_>) + Sync),
    diff_id: &'a DiffId,
    stopped: &'a dyn Fn() -> bool,
    was_stopped: bool,
}

impl<'a> PlainTar<'a> {
    fn start(
        blob: Box<dyn Read + Send>,
        algorithm: Algorithm,
        events: &'a (dyn Fn(UnpackEvent<'_>) + Sync),
        diff_id: &'a DiffId,
        stopped: &'a dyn Fn() -> bool,
    ) -> io::Result<Self> {
        let read = Arc::new(AtomicU64::new(0));
        let counted = Counted { blob, read: read.clone() };
        let (send, pieces) = sync_channel(CHUNKS_AHEAD);
        let (send_to_hash, to_hash) = sync_channel::<Piece>(CHUNKS_AHEAD);
        let hash = move || {
            let mut hasher = Hasher::new(algorithm);
            to_hash.iter().for_each(|piece| hasher.update(&piece));
            hasher.finish()
        };
        let decompress = move || {
            let (_, mut plain) = match layer::compress::decoder(counted) {
                Ok(plain) => plain,
                Err(error) => {
                    // Nobody listens only if unpacking failed already.
                    let _ = send.send(Err(error));
                    return false;
                }
            };
            loop {
                let mut piece = Vec::with_capacity(CHUNK);
                let result = plain.by_ref().take(CHUNK as u64).read_to_end(&mut piece);
                let last = matches!(result, Ok(0) | Err(_));
                let piece = Arc::new(piece);
                if send.send(result.map(|_| piece.clone())).is_err() || send_to_hash.send(piece).is_err() {
                    return false;
                }
                if last {
                    return true;
                }
            }
        };
        let thread = |name: &str| std::thread::Builder::new().name(name.into());
        let hash = thread("hash").spawn(hash)?;
        let decompress = thread("decompress").spawn(decompress)?;
        Ok(Self {
            pieces: Some(pieces),
            piece: Piece::default(),
            at: 0,
            decompress,
            hash,
            broken: None,
            read,
            told: 0,
            events,
            diff_id,
            stopped,
            was_stopped: false,
        })
    }

    /// Returns the digest of the tar, or what broke it; `None` when not all of it was read.
    fn finish(mut self) -> io::Result<Option<Digest>> {
        self.tell(1);
        // Whatever was not read will not be.
        self.pieces = None;
        let ended = self.decompress.join().map_err(|_| io::Error::other("the decompressing thread panicked"))?;
        let digest = self.hash.join().map_err(|_| io::Error::other("the hashing thread panicked"))?;
        self.broken.map_or(Ok(ended.then_some(digest)), Err)
    }

    fn tell(&mut self, at_least: u64) {
        let bytes = self.read.load(Ordering::Relaxed) - self.told;
        if bytes >= at_least {
            self.told += bytes;
            (self.events)(UnpackEvent::Advanced { diff_id: self.diff_id, bytes });
        }
    }

    fn next_piece(&mut self) -> io::Result<()> {
        if (self.stopped)() {
            self.was_stopped = true;
            return Err(io::Error::other("unpacking was stopped"));
        }
        self.tell(EVENT_EVERY);
        let next = self.pieces.as_ref().and_then(|pieces| pieces.recv().ok());
        self.at = 0;
        self.piece = next
            .transpose()
            .inspect_err(|error| {
                self.broken = Some(io::Error::new(error.kind(), error.to_string()));
            })?
            .unwrap_or_default();
        Ok(())
    }
}

impl Read for PlainTar<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() && !buffer.is_empty() {
            self.next_piece()?;
        }
        let count = (&self.piece[self.at..]).read(buffer)?;
        self.at += count;
        Ok(count)
    }
}

/// A blob that tells how much of it has been read.
struct Counted {
    blob: Box<dyn Read + Send>,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.blob.read(buffer)?;
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}
