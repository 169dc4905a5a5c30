//! [`Snapshots`]: layers unpacked to folders that overlayfs stacks, and writable ones on top.
//!
//! A layer has a folder of its own, but for two kinds. One that holds nothing has none, so that steps which change nothing
//! do not make the stack higher. And when a stack gets high, a new folder takes in those below it that are small
//! ([`layer::fold`]): a stack of any number of layers is as fast to mount and to look into as one of a few, and no higher
//! than the kernel allows.

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

mod floor;
mod unpack;

/// How many folders are stacked without a thought. What each costs a step is a few microseconds then.
const ENOUGH: usize = 24;
/// How many are stacked at most, if those in the way are large; overlayfs takes 500 (`OVL_MAX_STACK`).
const MOST: usize = 256;
/// A folder with more files than this is taken in only if there is no other way.
const LARGE: usize = 20_000;

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
    #[error("{folders} layers are more than can be stacked, and they cannot be put together")]
    TooHigh { folders: usize, source: io::Error },
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
    /// The layers that it holds, lowest first: its own, on top of those that its folder took in.
    layers: Vec<DiffId>,
    /// What it stands on.
    parent: Option<ChainId>,
    /// Whether it holds nothing, and so has no folder.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    hollow: bool,
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
        let _unfinished = self.home.begin();
        let mut chains: Vec<ChainId> = Vec::with_capacity(layers.len());
        for (diff_id, _) in layers {
            chains.push(chains.last().map_or_else(|| ChainId::base(diff_id), |parent| parent.then(diff_id)));
        }
        // The highest stack that is here; those below it need not be.
        let mut snapshot = Snapshot::empty();
        let mut here = layers.len();
        while here > 0 {
            match self.walk(&chains[here - 1])? {
                Ok(known) => {
                    snapshot = known;
                    break;
                }
                Err(missing) => {
                    here = chains[..here - 1].iter().position(|chain| *chain == missing).unwrap_or(here - 1);
                }
            }
        }
        let mut missing = Vec::new();
        for (index, (diff_id, blob)) in layers.iter().enumerate().skip(here) {
            if self.meta(&chains[index])?.is_none() {
                missing.push((index, diff_id, blob));
            }
        }
        let unpacking = unpack::Unpacking { home: &self.home, blobs: &self.blobs, events, stopped };
        let mut unpacked = unpacking.all(&missing).into_iter().zip(&missing).peekable();
        for (index, (diff_id, _)) in layers.iter().enumerate().skip(here) {
            if unpacked.peek().is_some_and(|(_, (missing, ..))| *missing == index)
                && let Some((unpacked, _)) = unpacked.next()
            {
                // A broken layer is reported only after those below it are in place, which need not be unpacked again.
                let unpacked = unpacked?;
                unpacked.complete(&snapshot, diff_id)?;
                snapshot = self.put(unpacked.folder(), &snapshot, diff_id, unpacked.is_hollow())?;
            } else {
                let there = self.there(&snapshot, diff_id)?;
                snapshot = there.ok_or_else(|| self.gone(&chains[index]))?;
            }
        }
        Ok(snapshot)
    }

    /// Returns a snapshot that is already there.
    pub fn get(&self, chain: &ChainId) -> Result<Option<Snapshot>, SnapshotError> {
        Ok(self.walk(chain)?.ok())
    }

    /// Does the same, or gives the first one on the way down that is missing.
    fn walk(&self, chain: &ChainId) -> Result<Result<Snapshot, ChainId>, FileError> {
        let mut dirs = Vec::new();
        let mut next = Some(chain.clone());
        while let Some(chain) = next {
            let Some(meta) = self.meta(&chain)? else { return Ok(Err(chain)) };
            if !meta.hollow {
                dirs.push(self.files(&chain));
            }
            next = meta.parent;
        }
        Ok(Ok(Snapshot { chain: Some(chain.clone()), dirs }))
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
        let (snapshots, parent) = (self.clone(), parent.clone());
        let active = Active { snapshots, id, folder, parent, committed: false, _unfinished: unfinished };
        let home = &self.home;
        home.make_folder(&active.folder, 0o700)?;
        home.make_folder(&active.upper(), 0o755)?;
        home.make_folder(&active.work(), 0o755)?;
        if let Some(below) = active.parent.dirs.first() {
            copy_root(below, &active.upper())?;
        }
        Ok(active)
    }

    /// Puts a finished folder (`fs` in it, unless it is hollow) into its place on top of a snapshot.
    fn put(&self, folder: &Path, parent: &Snapshot, diff_id: &DiffId, hollow: bool) -> Result<Snapshot, SnapshotError> {
        let chain = parent.then(diff_id);
        let (mut layers, mut below, mut dirs) = (vec![diff_id.clone()], parent.chain.clone(), parent.dirs.as_slice());
        if !hollow {
            let taken_in = take_in(&folder.join("fs"), dirs)?;
            dirs = &dirs[taken_in..];
            let mut left = taken_in;
            while left > 0 {
                let meta = below.as_ref().map(|chain| self.meta(chain)).transpose()?.flatten();
                // Nobody removes what this process has pinned.
                let Some(meta) = meta else { return Err(self.gone(&chain)) };
                left -= usize::from(!meta.hollow);
                layers.splice(0..0, meta.layers);
                below = meta.parent;
            }
        }
        let meta = Meta { chain: chain.clone(), layers, parent: below, hollow, boot_id: boot_id().to_owned() };
        if !place(&self.home, folder, &meta)? {
            // What another put there may have taken in other folders than this one.
            return self.get(&chain)?.ok_or_else(|| self.gone(&chain));
        }
        let own = (!hollow).then(|| self.files(&chain));
        Ok(Snapshot { chain: Some(chain), dirs: own.into_iter().chain(dirs.iter().cloned()).collect() })
    }

    /// Returns the snapshot with one more layer, if it is there already.
    fn there(&self, parent: &Snapshot, diff_id: &DiffId) -> Result<Option<Snapshot>, SnapshotError> {
        let chain = parent.then(diff_id);
        let Some(meta) = self.meta(&chain)? else { return Ok(None) };
        if meta.parent != parent.chain {
            // It took in others.
            return self.get(&chain);
        }
        let own = (!meta.hollow).then(|| self.files(&chain));
        Ok(Some(Snapshot { chain: Some(chain), dirs: own.into_iter().chain(parent.dirs.iter().cloned()).collect() }))
    }

    fn gone(&self, chain: &ChainId) -> SnapshotError {
        let source = io::Error::from(io::ErrorKind::NotFound);
        FileError::new("read", &self.home.layout().snapshot(chain), source).into()
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
        let then = |below: Option<ChainId>, layer: &DiffId| match below {
            Some(below) => Some(below.then(layer)),
            None => Some(ChainId::base(layer)),
        };
        let true_chain = meta.layers.iter().fold(parent.cloned(), then);
        meta.chain == *chain && true_chain.as_ref() == Some(chain) && meta.boot_id == boot_id()
    }))
}

/// Lets a new folder take in those of `below`, topmost first, that are worth it; gives how many.
///
/// As long as there are only a few, none. Then those that are not much larger than what is on top of them: a file is linked
/// again only when the folder that it is in has grown by half, so that all this costs a step the same, in the end, however
/// many come before it.
fn take_in(files: &Path, below: &[PathBuf]) -> Result<usize, SnapshotError> {
    if below.len() < ENOUGH {
        return Ok(0);
    }
    let must = if below.len() < MOST { 0 } else { below.len() - MOST / 2 };
    let count = |folder: &Path, most| layer::count(folder, most).during("read", folder);
    let mut weight = count(files, LARGE)?;
    let mut taken = 0;
    while let Some(folder) = below.get(taken) {
        let most = weight.map_or(0, |weight| (2 * weight).min(LARGE));
        let here = count(folder, most)?;
        if here.is_none() && taken >= must {
            break;
        }
        weight = weight.zip(here).map(|(weight, here)| weight + here);
        taken += 1;
    }
    match layer::fold(files, &below[..taken]) {
        Ok(()) => Ok(taken),
        // What cannot be put together stays stacked. It shows the same.
        Err(_) if must == 0 => Ok(0),
        Err(source) => Err(SnapshotError::TooHigh { folders: below.len() + 1, source }),
    }
}

/// Moves the folder of a snapshot to its place, unless another process was faster; says whether it did.
fn place(home: &Home, folder: &Path, meta_here: &Meta) -> Result<bool, FileError> {
    let chain = &meta_here.chain;
    home.pin(&chain.0)?;
    let place = home.layout().snapshot(chain);
    let bytes = serde_json::to_vec(meta_here).expect("text keys only");
    let path = folder.join("meta.json");
    // Nobody sees it before the folder is in its place.
    fs::File::create(&path).and_then(|mut file| io::Write::write_all(&mut file, &bytes)).during("write", &path)?;
    if fs::rename(folder, &place).is_ok() {
        return Ok(true);
    }
    // Something is in its place. Under the lock, so that nobody takes away what another has just put there.
    let replacing = home.hold("snapshots")?;
    let give_up = || remove_tree(folder).during("remove", folder).map(|()| false);
    if meta(home, chain)?.is_some() {
        return give_up();
    }
    let stale = home.put_aside(&place)?;
    let placed = fs::rename(folder, &place).during("create", &place);
    drop(replacing);
    if let Some(stale) = stale {
        remove_tree(&stale).during("remove", &stale)?;
    }
    match placed {
        // For a moment the place was free, and another took it without needing the lock.
        Err(_) if meta(home, chain)?.is_some() => give_up(),
        placed => placed.map(|()| true),
    }
}

/// A snapshot that is being written to. Dropping it throws it away.
///
/// The overlay of its folders is mounted by whoever runs something in it, in a mount namespace of its own, so
/// that a crash leaves no mount.
#[derive(Debug)]
pub struct Active {
    snapshots: Snapshots,
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

    /// Returns the folders below, topmost first. The lowest is not the parent's: there a container finds what it mounts
    /// `/proc`, `/etc/hosts` and the like on, if the image has no such folders and files.
    pub fn lower(&self) -> Result<Vec<PathBuf>, FileError> {
        let floor = self.snapshots.floor()?;
        // A shell may stand on what a step stood on, with the floor.
        let dirs = self.parent.dirs.iter().filter(|dir| **dir != floor).cloned();
        Ok(dirs.chain([floor.clone()]).collect())
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

    /// Makes a committed snapshot of it: the parent with one more layer. No process may be left in the overlay, which may
    /// still be unmounted meanwhile: nothing writes to its folders then. The layer's tar must be in the store, so that the
    /// snapshot can be made again from it.
    ///
    /// A layer that is `hollow` has nothing in its tar: what its folder holds is the same as below.
    pub fn commit(mut self, diff_id: &DiffId, hollow: bool) -> Result<Snapshot, SnapshotError> {
        self.committed = true;
        let home = self.snapshots.home.clone();
        home.recycle_later(&self.work())?;
        if let Some(there) = self.snapshots.there(&self.parent, diff_id)? {
            home.discard_later(&self.folder)?;
            return Ok(there);
        }
        let rubbish = if hollow { &["scratch", "upper"][..] } else { &["scratch"] };
        for name in rubbish {
            home.discard_later(&self.folder.join(name))?;
        }
        if !hollow {
            let files = self.folder.join("fs");
            fs::rename(self.upper(), &files).during("create", &files)?;
        }
        let snapshot = self.snapshots.put(&self.folder, &self.parent, diff_id, hollow);
        self.committed = snapshot.is_ok();
        snapshot
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
        if layer::rights::gives_owners() {
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
