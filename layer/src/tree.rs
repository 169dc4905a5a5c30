//! [`Tree`]: a read-only merged view of layer folders, or of one folder.

use std::collections::VecDeque;
use std::collections::btree_map::{BTreeMap, Entry as Slot};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::beneath::{self, Opaque};
use crate::entry::{join_path, names};
use crate::{Entry, EntryKind, Timestamp};

mod bytes;
mod children;

pub use children::Children;

/// Why a tree could not be read.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum TreeError {
    #[error("cannot open folder `{}`", path.display())]
    OpenRoot { path: PathBuf, source: io::Error },
    #[error("cannot read `/{path}`")]
    Read { path: String, source: io::Error },
    #[error("`/{path}` goes through too many symbolic links")]
    SymlinkLoop { path: String },
    #[error("`/{path}` is larger than {max} bytes")]
    TooLarge { path: String, max: u64 },
    #[error("`/{path}` is not a regular file")]
    NotAFile { path: String },
}

/// Whether a symbolic link at the end of a path is followed. Links on the way always are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// The link itself is wanted.
    No,
    /// What it leads to is wanted.
    Last,
}

/// What a [`Node`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum NodeKind {
    File,
    Directory,
    Symlink,
    CharDevice,
    BlockDevice,
    Fifo,
    Socket,
}

/// One file as a [`Tree`] shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Path inside the tree with no symbolic link on the way; `b""` is the root.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: NodeKind,
    /// Permission bits: `0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of content of a file, else 0.
    pub size: u64,
    /// Time of the last change of the content.
    pub mtime: Timestamp,
    /// Time of the last change of the inode; with the inode number it tells whether a file changed.
    pub ctime: Timestamp,
    /// Device that holds the inode.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Names of the inode.
    pub nlink: u64,
    /// Major and minor number of a device node, else zeros.
    pub rdev: (u32, u32),
    /// Text of a symbolic link.
    pub target: Option<Vec<u8>>,
    /// Index of the topmost folder that holds it, counting from the top.
    pub layer: usize,
    // Invariant: for a directory, the folders that show through at this path, topmost first; else empty.
    layers: Vec<u16>,
}

impl Node {
    /// Returns the name in its folder; empty for the root.
    pub fn name(&self) -> &[u8] {
        crate::entry::split_path(&self.path).1
    }

    /// Returns the tar entry for it, without extended attributes, or `None` for a socket.
    ///
    /// That it may be a hardlink to another node (`dev`, `ino`, `nlink`) is for the caller to find.
    pub fn entry(&self) -> Option<Entry> {
        let (major, minor) = self.rdev;
        let kind = match self.kind {
            NodeKind::File => EntryKind::File { size: self.size },
            NodeKind::Directory => EntryKind::Directory,
            NodeKind::Symlink => EntryKind::Symlink { target: self.target.clone().unwrap_or_default() },
            NodeKind::CharDevice => EntryKind::CharDevice { major, minor },
            NodeKind::BlockDevice => EntryKind::BlockDevice { major, minor },
            NodeKind::Fifo => EntryKind::Fifo,
            NodeKind::Socket => return None,
        };
        Some(Entry {
            path: self.path.clone(),
            kind,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            mtime: self.mtime,
            xattrs: BTreeMap::new(),
        })
    }

    /// Makes a node of what `stat` says; directories start with `layer` as the only folder that shows through.
    pub(crate) fn from_stat(path: Vec<u8>, layer: usize, stat: &Stat, target: Option<Vec<u8>>) -> Self {
        let kind = match beneath::kind_bits(stat) {
            beneath::FILE => NodeKind::File,
            beneath::DIRECTORY => NodeKind::Directory,
            beneath::SYMLINK => NodeKind::Symlink,
            beneath::CHAR => NodeKind::CharDevice,
            beneath::BLOCK => NodeKind::BlockDevice,
            beneath::FIFO => NodeKind::Fifo,
            _ => NodeKind::Socket,
        };
        Self {
            path,
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: if kind == NodeKind::File { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 },
            mtime: beneath::mtime(stat),
            ctime: Timestamp { seconds: stat.st_ctime, nanos: u32::try_from(stat.st_ctime_nsec).unwrap_or(0) },
            dev: stat.st_dev,
            ino: stat.st_ino,
            #[expect(clippy::useless_conversion, reason = "the type of st_nlink depends on the architecture")]
            nlink: stat.st_nlink.into(),
            rdev: match kind {
                NodeKind::CharDevice | NodeKind::BlockDevice => {
                    (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev))
                }
                _ => (0, 0),
            },
            target,
            layer,
            layers: if kind == NodeKind::Directory { vec![layer_index(layer)] } else { Vec::new() },
        }
    }
}

/// A read-only merged view of overlay layer folders, or of one plain folder.
///
/// No path and no symbolic link leads out of it, whatever the folders hold and whoever changes them meanwhile.
/// A clone is cheap and shares the open folders.
#[derive(Clone, Debug)]
pub struct Tree {
    folders: Arc<[OwnedFd]>,
    // Whether whiteouts and opaque folders hide; in a plain folder they are files like any other.
    overlay: bool,
}

/// The kernel gives up after as many (`MAXSYMLINKS`).
const MAX_SYMLINKS: usize = 40;

impl Tree {
    /// Merges overlay layer folders, topmost first, as the kernel would: whiteouts and opaque folders hide.
    ///
    /// No folders at all give a tree with nothing but an empty root.
    pub fn of_layers(folders: Vec<PathBuf>) -> Result<Self, TreeError> {
        let folders = folders.iter().map(|folder| open_root(folder)).collect::<Result<_, _>>()?;
        Ok(Self { folders, overlay: true })
    }

    /// Shows one plain folder as it is.
    pub fn of_folder(folder: impl AsRef<Path>) -> Result<Self, TreeError> {
        Ok(Self { folders: Arc::new([open_root(folder.as_ref())?]), overlay: false })
    }

    /// Returns the root.
    pub fn root(&self) -> Result<Node, TreeError> {
        let Some(top) = self.folders.first() else {
            return Ok(empty_root());
        };
        let stat = rustix::fs::fstat(top).map_err(|errno| read(b"", errno))?;
        let mut root = Node::from_stat(Vec::new(), 0, &stat, None);
        root.layers = (0..self.folders.len()).map(layer_index).collect();
        Ok(root)
    }

    /// Finds a path, resolving symbolic links and `..` as in a chroot; `None` when nothing is there.
    pub fn lookup(&self, path: impl AsRef<[u8]>, follow: Follow) -> Result<Option<Node>, TreeError> {
        let mut walk = Walk::new(self, path.as_ref())?;
        while let Some(name) = walk.rest.pop_front() {
            let last = walk.rest.is_empty();
            let Some(here) = walk.here() else { return Ok(None) };
            if here.kind != NodeKind::Directory {
                return Ok(None);
            }
            if name == b".." {
                walk.up();
                continue;
            }
            let Some(node) = self.child(here, &name)? else { return Ok(None) };
            if node.kind == NodeKind::Symlink && (!last || follow == Follow::Last) {
                walk.follow(&node)?;
            } else {
                walk.stack.push(Ok(node));
            }
        }
        Ok(walk.stack.pop().and_then(Result::ok))
    }

    /// Resolves a path of which the end may not exist yet: symbolic links followed (also a last one), `..` taken.
    ///
    /// Returns the canonical path, and the node when all of it exists. Names below something that is no folder
    /// count as not existing.
    pub fn resolve(&self, path: impl AsRef<[u8]>) -> Result<(Vec<u8>, Option<Node>), TreeError> {
        let mut walk = Walk::new(self, path.as_ref())?;
        while let Some(name) = walk.rest.pop_front() {
            if name == b".." {
                walk.up();
                continue;
            }
            let child = match walk.here() {
                Some(here) => self.child(here, &name)?,
                None => None,
            };
            match child {
                Some(node) if node.kind == NodeKind::Symlink => walk.follow(&node)?,
                Some(node) => walk.stack.push(Ok(node)),
                None => {
                    let missing = join_path(walk.path(), &name);
                    walk.stack.push(Err(missing));
                }
            }
        }
        Ok(match walk.stack.pop() {
            Some(Ok(node)) => (node.path.clone(), Some(node)),
            Some(Err(missing)) => (missing, None),
            None => (Vec::new(), None),
        })
    }

    /// Finds one name in a folder, without following anything.
    pub fn child(&self, folder: &Node, name: &[u8]) -> Result<Option<Node>, TreeError> {
        if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0) {
            return Ok(None);
        }
        let path = join_path(&folder.path, name);
        let mut found: Option<Node> = None;
        for (position, &layer) in folder.layers.iter().enumerate() {
            let layer = usize::from(layer);
            let root = self.folders[layer].as_fd();
            let Some((file, stat)) = stat_beneath(root, &path).map_err(|errno| read(&path, errno))? else { continue };
            let is_folder = beneath::kind_bits(&stat) == beneath::DIRECTORY;
            if found.is_some() && !is_folder {
                break; // A whiteout or file hides what is below, and shows nothing of itself.
            }
            if self.is_whiteout(&stat, || beneath::open_beneath(root, &path, beneath::file_flags()), &path)? {
                break;
            }
            match &mut found {
                Some(node) => node.layers.push(layer_index(layer)),
                None => {
                    let target = match beneath::kind_bits(&stat) {
                        beneath::SYMLINK => Some(read_link(file.as_fd(), b"").map_err(|errno| read(&path, errno))?),
                        _ => None,
                    };
                    found = Some(Node::from_stat(path.clone(), layer, &stat, target));
                }
            }
            if !is_folder {
                break;
            }
            let more = position + 1 < folder.layers.len();
            if more && self.is_opaque(|| beneath::open_beneath(root, &path, beneath::folder_flags()), &path)? {
                break;
            }
        }
        Ok(found)
    }

    /// Lists a folder, sorted by bytes. What is not a folder has nothing in it.
    pub fn read_dir(&self, folder: &Node) -> Result<Vec<Node>, TreeError> {
        self.children(folder)?.collect()
    }

    /// Lists a folder as [`Tree::read_dir`] does, looking at a few files at a time: a folder with a million of them takes
    /// little more memory than their names.
    pub fn children<'a>(&'a self, folder: &'a Node) -> Result<Children<'a>, TreeError> {
        match folder.layers[..] {
            [layer] => Children::of_one(self, folder, usize::from(layer)),
            _ => Ok(Children::of_merged(self, folder, self.merge(folder)?)),
        }
    }

    /// Lists a folder that several layers have a part of.
    fn merge(&self, folder: &Node) -> Result<Vec<Node>, TreeError> {
        let mut merged: BTreeMap<Vec<u8>, Merging> = BTreeMap::new();
        for (position, &layer) in folder.layers.iter().enumerate() {
            let layer = usize::from(layer);
            let more = position + 1 < folder.layers.len();
            let fail = |errno| read(&folder.path, errno);
            let opened = beneath::open_beneath(self.folders[layer].as_fd(), &folder.path, beneath::folder_flags());
            let opened = match opened {
                Ok(opened) => opened,
                Err(errno) if is_absent(errno) => continue,
                Err(errno) => return Err(fail(errno)),
            };
            for name in beneath::names_in(opened.as_fd()).map_err(fail)? {
                let slot = merged.entry(name.clone());
                if let Slot::Occupied(slot) = &slot
                    && !slot.get().open
                {
                    continue;
                }
                let name = name.as_slice();
                let path = join_path(&folder.path, name);
                let stat = match rustix::fs::statat(&opened, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => stat,
                    Err(errno) if is_absent(errno) => continue,
                    Err(errno) => return Err(read(&path, errno)),
                };
                let is_folder = beneath::kind_bits(&stat) == beneath::DIRECTORY;
                let open = |flags| rustix::fs::openat(&opened, name, flags, Mode::empty());
                let open_below = is_folder && more && !self.is_opaque(|| open(beneath::folder_flags()), &path)?;
                match slot {
                    Slot::Occupied(mut slot) => {
                        let merging = slot.get_mut();
                        merging.open = open_below;
                        if let Some(node) = &mut merging.node
                            && is_folder
                        {
                            node.layers.push(layer_index(layer));
                        }
                    }
                    Slot::Vacant(slot) => {
                        let node = if self.is_whiteout(&stat, || open(beneath::file_flags()), &path)? {
                            None
                        } else {
                            let target = match beneath::kind_bits(&stat) {
                                beneath::SYMLINK => match read_link(opened.as_fd(), name) {
                                    Ok(target) => Some(target),
                                    Err(errno) => return Err(read(&path, errno)),
                                },
                                _ => None,
                            };
                            Some(Node::from_stat(path, layer, &stat, target))
                        };
                        slot.insert(Merging { open: open_below && node.is_some(), node });
                    }
                }
            }
        }
        Ok(merged.into_values().filter_map(|merging| merging.node).collect())
    }

    /// Opens a file for reading.
    pub fn open(&self, file: &Node) -> Result<File, TreeError> {
        let not_a_file = || TreeError::NotAFile { path: text(&file.path) };
        let root = self.folders.get(file.layer).ok_or_else(not_a_file)?;
        if file.kind != NodeKind::File {
            return Err(not_a_file());
        }
        let fail = |errno| read(&file.path, errno);
        let opened = beneath::open_beneath(root.as_fd(), &file.path, beneath::file_flags()).map_err(fail)?;
        // Someone may have put a pipe there since; a read of it would never end.
        let stat = rustix::fs::fstat(&opened).map_err(fail)?;
        if beneath::kind_bits(&stat) != beneath::FILE {
            return Err(not_a_file());
        }
        Ok(File::from(opened))
    }

    /// Reads a regular file of at most `max` bytes, following links inside the root; `None` when there is none.
    pub fn read_small(&self, path: impl AsRef<[u8]>, max: u64) -> Result<Option<Vec<u8>>, TreeError> {
        let Some(node) = self.lookup(path, Follow::Last)? else { return Ok(None) };
        if node.kind != NodeKind::File {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        let opened = self.open(&node)?;
        opened
            .take(max.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|source| TreeError::Read { path: text(&node.path), source })?;
        if bytes.len() as u64 > max {
            return Err(TreeError::TooLarge { path: text(&node.path), max });
        }
        Ok(Some(bytes))
    }

    /// Returns the extended attributes of a file or folder, without overlayfs's own; other kinds have none here.
    pub fn xattrs(&self, node: &Node) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, TreeError> {
        let flags = match node.kind {
            NodeKind::File => beneath::file_flags(),
            NodeKind::Directory => beneath::folder_flags(),
            _ => return Ok(BTreeMap::new()),
        };
        let Some(root) = self.folders.get(node.layer) else { return Ok(BTreeMap::new()) };
        beneath::open_beneath(root.as_fd(), &node.path, flags)
            .and_then(|opened| beneath::all_xattrs(opened.as_fd()))
            .map_err(|errno| read(&node.path, errno))
    }

    fn is_whiteout(
        &self,
        stat: &Stat,
        open: impl FnOnce() -> Result<OwnedFd, Errno>,
        path: &[u8],
    ) -> Result<bool, TreeError> {
        if !self.overlay {
            return Ok(false);
        }
        beneath::is_whiteout(stat, open).map_err(|errno| read(path, errno))
    }

    fn is_opaque(&self, open: impl FnOnce() -> Result<OwnedFd, Errno>, path: &[u8]) -> Result<bool, TreeError> {
        if !self.overlay {
            return Ok(false);
        }
        let opaque = open().and_then(|folder| beneath::opaque(folder.as_fd())).map_err(|errno| read(path, errno))?;
        Ok(opaque == Opaque::Yes)
    }
}

/// A name of a listing, while folders further down may still add to it.
struct Merging {
    node: Option<Node>,
    open: bool,
}

/// A path being resolved: where it has come to, and the names still to go.
struct Walk<'a> {
    asked: &'a [u8],
    // Invariant: the first is the root. An `Err` is the path of something that does not exist.
    stack: Vec<Result<Node, Vec<u8>>>,
    rest: VecDeque<Vec<u8>>,
    links: usize,
}

impl<'a> Walk<'a> {
    fn new(tree: &Tree, path: &'a [u8]) -> Result<Self, TreeError> {
        let rest = names(path).map(<[u8]>::to_vec).collect();
        Ok(Self { asked: path, stack: vec![Ok(tree.root()?)], rest, links: 0 })
    }

    fn here(&self) -> Option<&Node> {
        self.stack.last().and_then(|top| top.as_ref().ok())
    }

    fn path(&self) -> &[u8] {
        match self.stack.last() {
            Some(Ok(node)) => &node.path,
            Some(Err(missing)) => missing,
            None => b"",
        }
    }

    fn up(&mut self) {
        if self.stack.len() > 1 {
            self.stack.pop();
        }
    }

    fn follow(&mut self, link: &Node) -> Result<(), TreeError> {
        self.links += 1;
        if self.links > MAX_SYMLINKS {
            return Err(TreeError::SymlinkLoop { path: text(self.asked) });
        }
        let target = link.target.as_deref().unwrap_or_default();
        if target.starts_with(b"/") {
            self.stack.truncate(1);
        }
        let mut rest: VecDeque<Vec<u8>> = names(target).map(<[u8]>::to_vec).collect();
        rest.append(&mut self.rest);
        self.rest = rest;
        Ok(())
    }
}

fn open_root(path: &Path) -> Result<OwnedFd, TreeError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| TreeError::OpenRoot { path: path.to_owned(), source: errno.into() })
}

fn empty_root() -> Node {
    Node {
        path: Vec::new(),
        kind: NodeKind::Directory,
        mode: 0o755,
        uid: 0,
        gid: 0,
        size: 0,
        mtime: Timestamp::default(),
        ctime: Timestamp::default(),
        dev: 0,
        ino: 0,
        nlink: 2,
        rdev: (0, 0),
        target: None,
        layer: 0,
        layers: Vec::new(),
    }
}

/// Opens and stats the file itself at a path, or says that it is not there.
fn stat_beneath(root: BorrowedFd<'_>, path: &[u8]) -> Result<Option<(OwnedFd, Stat)>, Errno> {
    match beneath::open_beneath(root, path, OFlags::PATH | OFlags::NOFOLLOW) {
        Ok(file) => {
            let stat = rustix::fs::fstat(&file)?;
            Ok(Some((file, stat)))
        }
        Err(errno) if is_absent(errno) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Whether an error of opening a path means that nothing is there. A symbolic link on the way (`ELOOP`) can only
/// be one that took the place of a folder a moment ago.
fn is_absent(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG)
}

fn read_link(folder: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<u8>, Errno> {
    Ok(rustix::fs::readlinkat(folder, name, Vec::new())?.into_bytes())
}

fn layer_index(layer: usize) -> u16 {
    u16::try_from(layer).expect("overlayfs takes 500 folders, and images have at most some hundreds")
}

fn read(path: &[u8], errno: Errno) -> TreeError {
    TreeError::Read { path: text(path), source: errno.into() }
}

fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests write fixtures")]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, FileType, XattrFlags, mknodat, setxattr};

    use super::*;
    use crate::testing;

    fn list(tree: &Tree, path: &str) -> Vec<String> {
        let node = tree.lookup(path, Follow::Last).unwrap().unwrap();
        tree.read_dir(&node).unwrap().iter().map(|node| text(&node.path)).collect()
    }

    fn whiteout(path: &Path) {
        mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    }

    fn make_opaque(path: &Path) {
        setxattr(path, "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
    }

    fn found(tree: &Tree, path: &str) -> Option<String> {
        tree.lookup(path, Follow::Last).unwrap().map(|node| text(&node.path))
    }

    #[test]
    fn links_and_dot_dot_stay_inside_the_root() {
        let outer = tempfile::tempdir().unwrap();
        fs::write(outer.path().join("passwd"), "outside").unwrap();
        let root = outer.path().join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        fs::write(root.join("passwd"), "inside").unwrap();
        fs::write(root.join("usr/bin/sh"), "").unwrap();
        for (link, target) in [
            ("bin", "usr/bin"),
            ("up", "../../../.."),
            ("etc/passwd", "../../../passwd"),
            ("etc/absolute", "/usr/bin/sh"),
            ("loop", "loop"),
            ("usr/bin/mtab", "/proc/self/root"),
            ("dangling", "etc/../new/name"),
        ] {
            symlink(target, root.join(link)).unwrap();
        }
        let tree = Tree::of_folder(&root).unwrap();
        assert_eq!(tree.read_small("etc/passwd", 100).unwrap().unwrap(), b"inside");
        assert_eq!(tree.read_small("/up/../passwd", 100).unwrap().unwrap(), b"inside");
        for (path, at) in [
            ("", Some("")),
            ("/", Some("")),
            ("..", Some("")),
            ("bin/sh", Some("usr/bin/sh")),
            ("bin/../x", None),
            ("bin/../bin", Some("usr/bin")),
            ("etc/absolute", Some("usr/bin/sh")),
            ("passwd/..", None),
            ("passwd/x", None),
            ("missing/..", None),
            ("usr/bin/mtab", None),
        ] {
            assert_eq!(found(&tree, path).as_deref(), at, "{path}");
        }
        assert!(matches!(tree.lookup("loop", Follow::Last), Err(TreeError::SymlinkLoop { .. })));
        let link = tree.lookup("bin", Follow::No).unwrap().unwrap();
        assert_eq!((link.kind, link.target.as_deref()), (NodeKind::Symlink, Some(b"usr/bin".as_slice())));
        for (path, at) in [
            ("bin/new/deep/../x", "usr/bin/new/x"),
            ("dangling", "new/name"),
            ("../../x", "x"),
            ("bin", "usr/bin"),
            ("passwd/x", "passwd/x"),
            ("missing/../../bin/y", "usr/bin/y"),
        ] {
            assert_eq!(text(&tree.resolve(path).unwrap().0), at, "{path}");
        }
    }

    #[test]
    fn only_small_regular_files_are_read() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("file"), "12345").unwrap();
        mknodat(CWD, root.path().join("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        let tree = Tree::of_folder(root.path()).unwrap();
        assert_eq!(tree.read_small("file", 5).unwrap().unwrap(), b"12345");
        assert!(matches!(tree.read_small("file", 4), Err(TreeError::TooLarge { .. })));
        assert_eq!(tree.read_small("pipe", 5).unwrap(), None);
        assert_eq!(tree.read_small("", 5).unwrap(), None);
        let mut node = tree.lookup("pipe", Follow::No).unwrap().unwrap();
        node.kind = NodeKind::File;
        assert!(matches!(tree.open(&node), Err(TreeError::NotAFile { .. })));
    }

    #[test]
    fn a_folder_that_became_a_link_is_not_followed() {
        let outer = tempfile::tempdir().unwrap();
        fs::create_dir(outer.path().join("secret")).unwrap();
        fs::write(outer.path().join("secret/file"), "secret").unwrap();
        let root = outer.path().join("root");
        fs::create_dir_all(root.join("a")).unwrap();
        fs::write(root.join("a/file"), "fine").unwrap();
        let tree = Tree::of_folder(&root).unwrap();
        let folder = tree.lookup("a", Follow::No).unwrap().unwrap();
        let file = tree.lookup("a/file", Follow::No).unwrap().unwrap();
        fs::rename(root.join("a"), root.join("b")).unwrap();
        symlink("../secret", root.join("a")).unwrap();
        assert!(tree.open(&file).is_err());
        assert_eq!(tree.read_dir(&folder).unwrap(), []);
        assert_eq!(tree.child(&folder, b"file").unwrap(), None);
    }

    #[test]
    fn whiteouts_opaque_folders_and_other_kinds_hide_what_is_below() {
        if !testing::is_root() {
            return;
        }
        let temporary = tempfile::tempdir().unwrap();
        let [top, middle, low] = ["top", "middle", "low"].map(|name| temporary.path().join(name));
        for folder in ["a", "b", "c", "d/deep", "file-then-folder"] {
            fs::create_dir_all(low.join(folder)).unwrap();
            fs::write(low.join(folder).join("low"), "low").unwrap();
        }
        fs::create_dir_all(middle.join("a")).unwrap();
        fs::write(middle.join("a/middle"), "middle").unwrap();
        fs::create_dir_all(middle.join("b")).unwrap();
        make_opaque(&middle.join("b"));
        fs::write(middle.join("b/middle"), "middle").unwrap();
        fs::write(middle.join("file-then-folder"), "").unwrap();
        whiteout(&middle.join("c"));
        fs::create_dir_all(top.join("a")).unwrap();
        whiteout(&top.join("a/low"));
        fs::create_dir_all(top.join("b")).unwrap();
        fs::create_dir_all(top.join("file-then-folder")).unwrap();
        fs::create_dir_all(top.join("c")).unwrap();
        fs::create_dir_all(top.join("x")).unwrap();
        setxattr(top.join("x"), "trusted.overlay.opaque", b"x", XattrFlags::empty()).unwrap();
        let tree = Tree::of_layers(vec![top.clone(), middle, low]).unwrap();
        assert_eq!(list(&tree, ""), ["a", "b", "c", "d", "file-then-folder", "x"]);
        assert_eq!(list(&tree, "a"), ["a/middle"]);
        assert_eq!(list(&tree, "b"), ["b/middle"]);
        assert_eq!(list(&tree, "c"), [""; 0]);
        assert_eq!(list(&tree, "d"), ["d/deep"]);
        assert_eq!(list(&tree, "file-then-folder"), [""; 0]);
        // The same through names, one by one.
        assert_eq!(found(&tree, "a/low"), None);
        assert_eq!(found(&tree, "b/low"), None);
        assert_eq!(found(&tree, "c/low"), None);
        assert_eq!(found(&tree, "file-then-folder/low"), None);
        assert_eq!(found(&tree, "d/deep/low").as_deref(), Some("d/deep/low"));
        assert_eq!(tree.lookup("a/middle", Follow::No).unwrap().unwrap().layer, 1);
        assert_eq!(tree.read_small("a/middle", 10).unwrap().unwrap(), b"middle");
        assert!(tree.xattrs(&tree.lookup("x", Follow::No).unwrap().unwrap()).unwrap().is_empty());
        // A plain folder shows its device nodes.
        assert_eq!(list(&Tree::of_folder(&top).unwrap(), "a"), ["a/low"]);
    }

    #[test]
    fn a_whiteout_by_attribute_hides_too() {
        if !testing::is_root() {
            return;
        }
        let temporary = tempfile::tempdir().unwrap();
        let [top, low] = ["top", "low"].map(|name| temporary.path().join(name));
        for folder in [&top, &low] {
            fs::create_dir_all(folder).unwrap();
            fs::write(folder.join("file"), "").unwrap();
        }
        let name = "trusted.overlay.whiteout";
        setxattr(top.join("file"), name, b"", XattrFlags::empty()).unwrap();
        let tree = Tree::of_layers(vec![top, low]).unwrap();
        assert_eq!(list(&tree, ""), [""; 0]);
        assert_eq!(found(&tree, "file"), None);
    }

    #[test]
    fn a_tree_of_nothing_has_an_empty_root() {
        let tree = Tree::of_layers(Vec::new()).unwrap();
        assert_eq!(list(&tree, "/"), [""; 0]);
        assert_eq!(found(&tree, "x"), None);
        assert_eq!(tree.root().unwrap().entry().unwrap().mode, 0o755);
    }
}
