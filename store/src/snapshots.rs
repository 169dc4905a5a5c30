//! [`Snapshots`]: layers unpacked to folders that overlayfs stacks, and writable ones on top.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use layer::{Tree, TreeError, remove_tree};
use oci::{ChainId, Descriptor, DiffId, Digest};
use rustix::fs::{Gid, Mode, Timespec, Timestamps, Uid};
use serde::{Deserialize, Serialize};

use crate::file_error::{During, found};
use crate::session::{Home, Unfinished};
use crate::{BlobError, Blobs, FileError};

mod unpack;

/// How many layers overlayfs stacks (`OVL_MAX_STACK`).
const MAX_LAYERS: usize = 500;

/// The snapshots of a store.
#[derive(Clone, Debug)]
pub struct Snapshots {
    pub(crate) home: Arc<Home>,
    pub(crate) blobs: Blobs,
}

/// A filesystem that does not change any more: a stack of layer folders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The identity of the stack; `None` when it is empty.
    pub chain: Option<ChainId>,
    /// The folders, topmost first, as overlayfs takes them. Absolute.
    pub dirs: Vec<PathBuf>,
}

/// What [`Snapshots::ensure`] tells while it works, from several threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnpackEvent<'a> {
    /// A layer is being unpacked; its blob has so many bytes.
    Started {
        /// Which.
        diff_id: &'a DiffId,
        /// Of the blob.
        total: u64,
    },
    /// So many bytes of the blob have been read since the last such event.
    Advanced {
        /// Which.
        diff_id: &'a DiffId,
        /// How many more.
        bytes: u64,
    },
    /// A layer is unpacked.
    Finished {
        /// Which.
        diff_id: &'a DiffId,
    },
}

/// Why a snapshot could not be made.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum SnapshotError {
    #[error("layer blob {blob} unpacks to {actual}, expected {expected}")]
    DiffIdMismatch { blob: Digest, expected: DiffId, actual: DiffId },
    #[error("layer blob {blob} cannot be decompressed")]
    Decompress { blob: Digest, source: io::Error },
    #[error("layer blob {blob} cannot be unpacked")]
    Apply { blob: Digest, source: layer::ApplyError },
    #[error("snapshot {parent}, on which layer {diff_id} stands, cannot be read")]
    Parent { parent: ChainId, diff_id: DiffId, source: TreeError },
    #[error("the image has {layers} layers, more than the {MAX_LAYERS} that can be stacked")]
    TooManyLayers { layers: usize },
    #[error("unpacking was stopped")]
    Stopped,
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    File(#[from] FileError),
}

impl Snapshot {
    /// Returns the snapshot without any layer, which `FROM scratch` starts with.
    pub fn empty() -> Self {
        Self { chain: None, dirs: Vec::new() }
    }

    /// Returns a view of the files.
    pub fn tree(&self) -> Result<Tree, TreeError> {
        Tree::of_layers(self.dirs.clone())
    }

    /// Returns the identity of this stack with one more layer.
    fn then(&self, diff_id: &DiffId) -> ChainId {
        self.chain.as_ref().map_or_else(|| ChainId::base(diff_id), |chain| chain.then(diff_id))
    }
}

/// What `meta.json` says.
#[derive(Debug, Serialize, Deserialize)]
struct Meta {
    chain: ChainId,
    diff_id: DiffId,
    parent: Option<ChainId>,
    /// The files are not synced to the disk, so they are good only until the machine stops.
    boot_id: String,
}

impl Snapshots {
    /// Returns the snapshot of a stack of layers, lowest first, unpacking those that are missing.
    ///
    /// Layers are unpacked in parallel and in streams. Each tar is verified against its diff ID, and a layer
    /// that is broken leaves nothing behind.
    pub fn ensure(
        &self,
        layers: &[(DiffId, Descriptor)],
        events: &(dyn Fn(UnpackEvent<'_>) + Sync),
    ) -> Result<Snapshot, SnapshotError> {
        self.ensure_unless(layers, events, &|| false)
    }

    /// Does the same, and gives up soon after `stopped` says so.
    pub fn ensure_unless(
        &self,
        layers: &[(DiffId, Descriptor)],
        events: &(dyn Fn(UnpackEvent<'_>) + Sync),
        stopped: &(dyn Fn() -> bool + Sync),
    ) -> Result<Snapshot, SnapshotError> {
        if layers.len() > MAX_LAYERS {
            return Err(SnapshotError::TooManyLayers { layers: layers.len() });
        }
        let _unfinished = self.home.begin();
        let mut chains: Vec<ChainId> = Vec::with_capacity(layers.len());
        let mut missing = Vec::new();
        for (index, (diff_id, blob)) in layers.iter().enumerate() {
            let chain = chains.last().map_or_else(|| ChainId::base(diff_id), |parent| parent.then(diff_id));
            if self.meta(&chain)?.is_none() {
                missing.push((index, diff_id, blob));
            }
            chains.push(chain);
        }
        let unpacking = unpack::Unpacking { home: &self.home, blobs: &self.blobs, events, stopped };
        let mut snapshot = Snapshot::empty();
        let mut at = 0;
        // A broken layer is reported only after those below it are in place, which need not be unpacked again.
        for (unpacked, (index, diff_id, _)) in unpacking.all(&missing).into_iter().zip(&missing) {
            for chain in &chains[at..*index] {
                snapshot = self.stack(&snapshot, chain);
            }
            let unpacked = unpacked?;
            unpacked.complete(&snapshot, diff_id)?;
            snapshot = self.put(unpacked.folder(), &snapshot, diff_id)?;
            at = index + 1;
        }
        for chain in &chains[at..] {
            snapshot = self.stack(&snapshot, chain);
        }
        Ok(snapshot)
    }

    /// Returns a snapshot that is already there.
    pub fn get(&self, chain: &ChainId) -> Result<Option<Snapshot>, SnapshotError> {
        let mut dirs = Vec::new();
        let mut next = Some(chain.clone());
        while let Some(chain) = next {
            let Some(meta) = self.meta(&chain)? else { return Ok(None) };
            dirs.push(self.files(&chain));
            next = meta.parent;
        }
        Ok(Some(Snapshot { chain: Some(chain.clone()), dirs }))
    }

    /// Returns what a snapshot stands on, when its own folder is good.
    pub(crate) fn below(&self, chain: &ChainId) -> Result<Option<Option<ChainId>>, FileError> {
        Ok(peek_meta(&self.home, chain)?.map(|meta| meta.parent))
    }

    /// Starts an active snapshot on top of another one.
    pub fn begin(&self, parent: &Snapshot) -> Result<Active, SnapshotError> {
        let unfinished = self.home.begin();
        let folder = self.home.temporary('a')?;
        // `PID-N/aM` as one word.
        let names: Vec<_> = folder.iter().rev().take(2).map(|name| name.to_string_lossy().into_owned()).collect();
        let id = names.into_iter().rev().collect::<Vec<_>>().join("-");
        let (home, parent) = (self.home.clone(), parent.clone());
        let active = Active { home, id, folder, parent, committed: false, _unfinished: unfinished };
        make_folder(&active.folder, 0o700)?;
        make_folder(&active.upper(), 0o755)?;
        make_folder(&active.work(), 0o755)?;
        if let Some(below) = active.parent.dirs.first() {
            copy_root(below, &active.upper())?;
        }
        Ok(active)
    }

    /// Puts a finished folder (`fs` in it) into its place on top of a snapshot.
    fn put(&self, folder: &Path, parent: &Snapshot, diff_id: &DiffId) -> Result<Snapshot, SnapshotError> {
        put(&self.home, folder, parent, diff_id)?;
        Ok(self.stack(parent, &parent.then(diff_id)))
    }

    fn stack(&self, parent: &Snapshot, chain: &ChainId) -> Snapshot {
        let dirs = [self.files(chain)].into_iter().chain(parent.dirs.iter().cloned()).collect();
        Snapshot { chain: Some(chain.clone()), dirs }
    }

    fn files(&self, chain: &ChainId) -> PathBuf {
        self.home.layout().snapshot(chain).join("fs")
    }

    fn meta(&self, chain: &ChainId) -> Result<Option<Meta>, FileError> {
        meta(&self.home, chain)
    }
}

/// Reads what is said about a snapshot; `None` when it is missing, damaged, or from before the machine started.
fn meta(home: &Home, chain: &ChainId) -> Result<Option<Meta>, FileError> {
    home.pin(&chain.0)?;
    peek_meta(home, chain)
}

/// Does the same without relying on it.
fn peek_meta(home: &Home, chain: &ChainId) -> Result<Option<Meta>, FileError> {
    let path = home.layout().snapshot(chain).join("meta.json");
    let bytes = found(fs::read(&path)).during("read", &path)?;
    let meta: Option<Meta> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    Ok(meta.filter(|meta| {
        let parent = meta.parent.as_ref();
        let true_chain = parent.map_or_else(|| ChainId::base(&meta.diff_id), |parent| parent.then(&meta.diff_id));
        meta.chain == *chain && true_chain == *chain && meta.boot_id == boot_id()
    }))
}

/// Makes a committed snapshot of a folder that holds `fs`, unless another process was faster.
fn put(home: &Home, folder: &Path, parent: &Snapshot, diff_id: &DiffId) -> Result<(), FileError> {
    let chain = parent.then(diff_id);
    home.pin(&chain.0)?;
    let place = home.layout().snapshot(&chain);
    let meta_here = Meta {
        chain: chain.clone(),
        diff_id: diff_id.clone(),
        parent: parent.chain.clone(),
        boot_id: boot_id().to_owned(),
    };
    let bytes = serde_json::to_vec(&meta_here).expect("text keys only");
    home.write_file(&folder.join("meta.json"), &bytes, false)?;
    if fs::rename(folder, &place).is_ok() {
        return Ok(());
    }
    // Something is in its place. Under the lock, so that nobody takes away what another has just put there.
    let replacing = home.hold("snapshots")?;
    if meta(home, &chain)?.is_some() {
        return remove_tree(folder).during("remove", folder);
    }
    let stale = home.temporary('t')?;
    found(fs::rename(&place, &stale)).during("remove", &place)?;
    let placed = fs::rename(folder, &place).during("create", &place);
    drop(replacing);
    remove_tree(&stale).during("remove", &stale)?;
    match placed {
        // For a moment the place was free, and another took it without needing the lock.
        Err(_) if meta(home, &chain)?.is_some() => remove_tree(folder).during("remove", folder),
        other => other,
    }
}

/// A snapshot that is being written to. Dropping it throws it away.
///
/// The overlay of its folders is mounted by whoever runs something in it, in a mount namespace of its own, so
/// that a crash leaves no mount.
#[derive(Debug)]
pub struct Active {
    home: Arc<Home>,
    id: String,
    folder: PathBuf,
    parent: Snapshot,
    committed: bool,
    _unfinished: Unfinished,
}

impl Active {
    /// Returns a name that no other active snapshot of this store has, fit for a file or a cgroup.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the folder that takes the changes (`upperdir`).
    pub fn upper(&self) -> PathBuf {
        self.folder.join("upper")
    }

    /// Returns the folder that overlayfs needs beside it (`workdir`).
    pub fn work(&self) -> PathBuf {
        self.folder.join("work")
    }

    /// Returns the folders below, topmost first; at least one, because overlayfs needs one.
    pub fn lower(&self) -> Vec<PathBuf> {
        if self.parent.dirs.is_empty() { vec![self.home.layout().empty()] } else { self.parent.dirs.clone() }
    }

    /// Returns a folder that goes when this goes, for files that are to be mounted into it.
    pub fn scratch(&self) -> Result<PathBuf, FileError> {
        let folder = self.folder.join("scratch");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).during("create the folder", &folder)?;
        Ok(folder)
    }

    /// Returns what it stands on.
    pub fn parent(&self) -> &Snapshot {
        &self.parent
    }

    /// Makes a committed snapshot of it: the parent with one more layer. The overlay must not be mounted any
    /// more, and the layer's tar must be in the store, so that the snapshot can be made again from it.
    pub fn commit(mut self, diff_id: &DiffId) -> Result<Snapshot, SnapshotError> {
        for name in ["work", "scratch"] {
            self.home.discard_later(&self.folder.join(name))?;
        }
        let files = self.folder.join("fs");
        fs::rename(self.upper(), &files).during("create", &files)?;
        put(&self.home, &self.folder, &self.parent, diff_id)?;
        self.committed = true;
        let chain = self.parent.then(diff_id);
        let files = self.home.layout().snapshot(&chain).join("fs");
        let dirs = [files].into_iter().chain(self.parent.dirs.iter().cloned()).collect();
        Ok(Snapshot { chain: Some(chain), dirs })
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        if !self.committed {
            // What resists is swept with the session.
            let _ = remove_tree(&self.folder);
        }
    }
}

/// Returns what the kernel calls this run of the machine.
pub(crate) fn boot_id() -> &'static str {
    static BOOT_ID: OnceLock<String> = OnceLock::new();
    BOOT_ID.get_or_init(|| {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        text.trim_end().to_owned()
    })
}

fn make_folder(path: &Path, mode: u32) -> Result<(), FileError> {
    fs::DirBuilder::new().mode(mode).create(path).during("create the folder", path)?;
    // The umask took its part.
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).during("create the folder", path)
}

/// Gives the root folder of a layer the mode, owner, time and attributes of the one below.
fn copy_root(from: &Path, to: &Path) -> Result<(), FileError> {
    let metadata = fs::metadata(from).during("read", from)?;
    let folder = fs::File::open(to).during("open", to)?;
    let look = Look {
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime: (metadata.mtime(), u32::try_from(metadata.mtime_nsec()).unwrap_or(0)),
    };
    look.give(folder.as_fd()).during("change", to)
}

/// What a folder looks like from outside.
struct Look {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: (i64, u32),
}

impl Look {
    /// Makes a folder look so. Without root, owners stay.
    fn give(&self, folder: impl AsFd) -> io::Result<()> {
        if rustix::process::geteuid().is_root() {
            rustix::fs::fchown(&folder, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))?;
        }
        rustix::fs::fchmod(&folder, Mode::from_raw_mode(self.mode))?;
        let mtime = Timespec { tv_sec: self.mtime.0, tv_nsec: self.mtime.1.into() };
        let times = Timestamps { last_access: mtime, last_modification: mtime };
        Ok(rustix::fs::futimens(&folder, &times)?)
    }
}

#[cfg(test)]
mod tests;
