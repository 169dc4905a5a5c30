//! [`View`]: what a stack of layers shows at a path, unpacked or not.

use std::sync::Arc;

use layer::{Follow, NodeKind, Tree};
use store::Blobs;

use super::index::{LayerIndex, Says, Stat};
use super::path::{self, Step};
use crate::fault::Fault;

/// A read-only view of a stack of layers.
#[derive(Debug)]
pub(crate) struct View {
    /// Layers that are not unpacked, topmost first.
    pub(crate) indexes: Vec<Arc<LayerIndex>>,
    /// What is unpacked below them.
    pub(crate) tree: Option<Tree>,
    /// Where the bytes of `indexes` are.
    pub(crate) blobs: Option<Blobs>,
}

impl View {
    /// Returns a view with nothing but an empty root.
    pub(crate) fn empty() -> Self {
        Self { indexes: Vec::new(), tree: None, blobs: None }
    }

    /// Looks at a path that has no symbolic link on its way.
    pub(crate) fn lstat(&self, path: &[u8]) -> Result<Option<Stat>, Fault> {
        for index in &self.indexes {
            match index.lstat(path) {
                Says::Here(stat) => return Ok(Some(stat)),
                Says::Gone => return Ok(None),
                Says::Below => {}
            }
        }
        let Some(tree) = &self.tree else { return Ok(None) };
        // A link below that a folder above covers would lead elsewhere; then this path is not there.
        let node = tree.lookup(path, Follow::No)?.filter(|node| node.path == path);
        Ok(node.map(|node| Stat {
            kind: node.kind,
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            mtime: node.mtime,
            target: node.target,
        }))
    }

    /// Reads a small file, following links inside the root; `None` when there is none or it is not a file.
    pub(crate) fn read_small(&self, name: &[u8], max: u64) -> Result<Option<Vec<u8>>, Fault> {
        let path = path::resolve(name, true, &mut |path| self.lstat(path).map(step))?;
        if self.lstat(&path)?.is_none_or(|stat| stat.kind != NodeKind::File) {
            return Ok(None);
        }
        for index in &self.indexes {
            if let (Says::Here(_), Some(blobs)) = (index.lstat(&path), &self.blobs) {
                return index.read_small(blobs, &path, max);
            }
        }
        match &self.tree {
            Some(tree) => Ok(tree.read_small(&path, max)?),
            None => Ok(None),
        }
    }
}

/// Puts a lookup into the words of [`path::resolve`].
pub(crate) fn step(stat: Option<Stat>) -> Step {
    match stat {
        None => Step::Missing,
        Some(Stat { target: Some(target), .. }) => Step::Link(target),
        Some(_) => Step::Other,
    }
}
