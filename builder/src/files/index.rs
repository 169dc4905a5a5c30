//! [`LayerIndex`]: the headers of a layer in memory, so that looking at it needs no unpacking.

use std::collections::{BTreeMap, HashSet};
use std::io::Read;

use layer::entry::{OPAQUE_WHITEOUT, WHITEOUT_PREFIX, join_path};
use layer::{Entry, EntryKind, NodeKind, Timestamp, tar};
use oci::Digest;
use store::Blobs;

use super::path;
use crate::fault::Fault;

/// What a path is, as a step needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) kind: NodeKind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timestamp,
    /// The text of a symbolic link.
    pub(crate) target: Option<Vec<u8>>,
}

impl Stat {
    pub(crate) fn of(entry: &Entry) -> Self {
        let kind = match entry.kind {
            EntryKind::File { .. } | EntryKind::Hardlink { .. } => NodeKind::File,
            EntryKind::Directory => NodeKind::Directory,
            EntryKind::Symlink { .. } => NodeKind::Symlink,
            EntryKind::CharDevice { .. } => NodeKind::CharDevice,
            EntryKind::BlockDevice { .. } => NodeKind::BlockDevice,
            EntryKind::Fifo => NodeKind::Fifo,
        };
        let target = match &entry.kind {
            EntryKind::Symlink { target } => Some(target.clone()),
            _ => None,
        };
        Self { kind, mode: entry.mode, uid: entry.uid, gid: entry.gid, mtime: entry.mtime, target }
    }

    pub(crate) fn is_folder(&self) -> bool {
        self.kind == NodeKind::Directory
    }
}

/// What a layer says about a path.
pub(crate) enum Says {
    /// This is there.
    Here(Stat),
    /// Nothing is there, whatever the layers below have.
    Gone,
    /// Ask the layers below.
    Below,
}

/// The headers of one layer.
#[derive(Debug, Default)]
pub(crate) struct LayerIndex {
    entries: BTreeMap<Vec<u8>, Entry>,
    whiteouts: HashSet<Vec<u8>>,
    opaque: HashSet<Vec<u8>>,
    blob: Option<Digest>,
}

impl LayerIndex {
    /// Reads the headers of a plain tar in the store.
    pub(crate) fn read(blobs: &Blobs, digest: &Digest) -> Result<Self, Fault> {
        let mut index = Self { blob: Some(digest.clone()), ..Self::default() };
        let mut reader = tar::Reader::new(std::io::BufReader::with_capacity(256 << 10, blobs.open(digest)?.file));
        while let Some(entry) = reader.next_entry()? {
            index.add(entry);
        }
        Ok(index)
    }

    /// Takes the headers of a layer that was just written.
    pub(crate) fn of(entries: Vec<Entry>, digest: &Digest) -> Self {
        let mut index = Self { blob: Some(digest.clone()), ..Self::default() };
        entries.into_iter().for_each(|entry| index.add(entry));
        index
    }

    fn add(&mut self, entry: Entry) {
        let (folder, name) = entry.split();
        if name == OPAQUE_WHITEOUT {
            self.opaque.insert(folder.to_vec());
        } else if let Some(hidden) = name.strip_prefix(WHITEOUT_PREFIX) {
            self.whiteouts.insert(join_path(folder, hidden));
        } else {
            self.entries.insert(entry.path.clone(), entry);
        }
    }

    /// Tells what this layer says about a path with no symbolic link on its way.
    pub(crate) fn lstat(&self, path: &[u8]) -> Says {
        if let Some(entry) = self.entries.get(path) {
            return Says::Here(Stat::of(entry));
        }
        let hides = |above: &[u8]| {
            self.whiteouts.contains(above)
                || self.opaque.contains(above)
                || self.entries.get(above).is_some_and(|entry| entry.kind != EntryKind::Directory)
        };
        if self.whiteouts.contains(path) || path::ancestors(path).any(hides) || self.opaque.contains(&b""[..]) {
            return Says::Gone;
        }
        Says::Below
    }

    /// Reads a small file of this layer; `None` when it has none of that path.
    pub(crate) fn read_small(&self, blobs: &Blobs, path: &[u8], max: u64) -> Result<Option<Vec<u8>>, Fault> {
        let (Some(entry), Some(blob)) = (self.entries.get(path), &self.blob) else { return Ok(None) };
        let wanted = match &entry.kind {
            EntryKind::Hardlink { target } => target.as_slice(),
            _ => path,
        };
        let mut reader = tar::Reader::new(std::io::BufReader::with_capacity(256 << 10, blobs.open(blob)?.file));
        while let Some(entry) = reader.next_entry()? {
            if entry.path == wanted {
                let mut bytes = Vec::new();
                let doing = || format!("cannot read `/{}`", path::lossy(path));
                (&mut reader).take(max).read_to_end(&mut bytes).map_err(|error| Fault::because(doing(), &error))?;
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }
}
