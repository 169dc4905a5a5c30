//! [`Children`]: what is in a folder of a tree, a few files at a time.

use std::os::fd::{AsFd, OwnedFd};
use std::vec::IntoIter;

use rustix::fs::{AtFlags, Mode};

use super::{Node, Tree, TreeError, is_absent, read, read_link};
use crate::beneath::{self, Names};
use crate::entry::join_path;

/// How many files are looked at in one go, with the folder open: not for each file, and not while those in it are walked,
/// since folders may be as deep as a process must not have open files.
const AT_ONCE: usize = 256;

/// Yields what is in a folder, sorted by bytes. Made by [`Tree::children`].
#[derive(Debug)]
pub struct Children<'a> {
    tree: &'a Tree,
    folder: &'a Node,
    /// The folder among those of the tree that has them all, while there are names left to look at.
    layer: usize,
    names: Names,
    next: usize,
    ready: IntoIter<Node>,
}

impl<'a> Children<'a> {
    /// Lists a folder of which only one layer has a part.
    pub(super) fn of_one(tree: &'a Tree, folder: &'a Node, layer: usize) -> Result<Self, TreeError> {
        let mut children = Self { layer, ..Self::of_merged(tree, folder, Vec::new()) };
        if let Some(opened) = children.open()? {
            children.names = Names::read(opened.as_fd()).map_err(|errno| read(&folder.path, errno))?;
            children.look(&opened)?;
        }
        Ok(children)
    }

    /// Yields what was listed before.
    pub(super) fn of_merged(tree: &'a Tree, folder: &'a Node, nodes: Vec<Node>) -> Self {
        Self { tree, folder, layer: 0, names: Names::default(), next: 0, ready: nodes.into_iter() }
    }

    fn open(&self) -> Result<Option<OwnedFd>, TreeError> {
        let Some(root) = self.tree.folders.get(self.layer) else { return Ok(None) };
        match beneath::open_beneath(root.as_fd(), &self.folder.path, beneath::folder_flags()) {
            Ok(opened) => Ok(Some(opened)),
            Err(errno) if is_absent(errno) => Ok(None),
            Err(errno) => Err(read(&self.folder.path, errno)),
        }
    }

    /// Looks at the next files; what is gone meanwhile is not there.
    fn look(&mut self, opened: &OwnedFd) -> Result<(), TreeError> {
        let mut ready = Vec::new();
        while ready.len() < AT_ONCE
            && let Some(name) = self.names.get(self.next)
        {
            self.next += 1;
            let path = join_path(&self.folder.path, name);
            let stat = match rustix::fs::statat(opened, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(errno) if is_absent(errno) => continue,
                Err(errno) => return Err(read(&path, errno)),
            };
            let open = || rustix::fs::openat(opened, name, beneath::file_flags(), Mode::empty());
            if self.tree.is_whiteout(&stat, open, &path)? {
                continue;
            }
            let target = match beneath::kind_bits(&stat) {
                beneath::SYMLINK => Some(read_link(opened.as_fd(), name).map_err(|errno| read(&path, errno))?),
                _ => None,
            };
            ready.push(Node::from_stat(path, self.layer, &stat, target));
        }
        self.ready = ready.into_iter();
        Ok(())
    }
}

impl Iterator for Children<'_> {
    type Item = Result<Node, TreeError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.as_slice().is_empty() && self.names.get(self.next).is_some() {
            let looked = match self.open() {
                Ok(Some(opened)) => self.look(&opened),
                Ok(None) => {
                    self.names = Names::default();
                    Ok(())
                }
                Err(error) => Err(error),
            };
            if let Err(error) = looked {
                self.names = Names::default();
                return Some(Err(error));
            }
        }
        self.ready.next().map(Ok)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's own files")]
mod tests {
    use super::*;

    #[test]
    fn a_large_folder_comes_in_order_and_may_shrink_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let count = 3 * AT_ONCE;
        let name = |index: usize| format!("{index:05}");
        for index in (0..count).rev() {
            std::fs::write(folder.path().join(name(index)), "").unwrap();
        }
        let tree = Tree::of_folder(folder.path()).unwrap();
        let root = tree.root().unwrap();
        let paths = |nodes: Vec<Node>| -> Vec<String> {
            nodes.into_iter().map(|node| String::from_utf8(node.path).unwrap()).collect()
        };
        assert_eq!(paths(tree.read_dir(&root).unwrap()), (0..count).map(name).collect::<Vec<_>>());
        let mut children = tree.children(&root).unwrap();
        let first = children.next().unwrap().unwrap();
        std::fs::remove_file(folder.path().join(name(count - 1))).unwrap();
        let rest = paths(children.collect::<Result<_, _>>().unwrap());
        assert_eq!((paths(vec![first]), rest), (vec![name(0)], (1..count - 1).map(name).collect()));
    }
}
