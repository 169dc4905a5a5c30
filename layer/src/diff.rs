//! What an overlay upper folder changed.
//!
//! ```text
//! upper            lower         entries
//! a/               a/            a/          only because something in it changed
//!   b   (0:0)        b           a/.wh.b
//!   c   (0:0)                                made and removed again: nothing
//! d/    opaque     d/x           d/, d/.wh.x
//! e                e  (equal)                copied up, but not changed: nothing
//! ```

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::beneath::{self, Opaque};
use crate::entry::join_path;
use crate::{Entry, EntryKind, Node, NodeKind, Tree, TreeError};

/// Why a difference could not be found.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum DiffError {
    #[error("cannot open the changes in `{}`", path.display())]
    OpenUpper { path: std::path::PathBuf, source: io::Error },
    #[error("cannot read `/{path}` of the changes")]
    Read { path: String, source: io::Error },
    #[error("`/{path}` of the changes carries `{xattr}`: it was written by an overlay mount with that feature on")]
    UnsupportedOverlay { path: String, xattr: String },
    #[error("cannot read what lies below the changes")]
    Lower(#[from] TreeError),
}

/// Returns the entries of the layer that turns `lower` into `lower` with the overlay folder `upper` on top.
///
/// The bytes of a file are at its path below `upper`.
pub fn diff(upper: &Path, lower: &Tree) -> Result<Vec<Entry>, DiffError> {
    let mut entries = Vec::new();
    walk(upper, lower, &mut |entry, _| {
        entries.push(entry);
        Ok::<_, DiffError>(())
    })?;
    Ok(entries)
}

/// Takes an entry of the layer, and the file that has its bytes if it is one.
type Emit<'a, E> = &'a mut dyn FnMut(Entry, Option<File>) -> Result<(), E>;

/// Finds the changes one by one, folders before what is in them and names in the order of their bytes.
pub(crate) fn walk<E: From<DiffError>>(upper: &Path, lower: &Tree, emit: Emit<'_, E>) -> Result<(), E> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(upper, flags, Mode::empty())
        .map_err(|errno| DiffError::OpenUpper { path: upper.to_owned(), source: errno.into() })?;
    let below = lower.root().map_err(DiffError::from)?;
    let mut walk = Walk { lower, sources: HashMap::new(), waiting: HashMap::new(), told: HashSet::new(), emit };
    let mut stack = vec![Folder::open(root, Vec::new(), None, Some(below), false, lower)?];
    while let Some(folder) = stack.last_mut() {
        let Some(name) = folder.names.pop() else {
            stack.pop();
            continue;
        };
        if let Some(deeper) = walk.name(&mut stack, &name)? {
            stack.push(deeper);
        }
    }
    Ok(())
}

/// A folder of the upper that is being walked.
struct Folder {
    path: Vec<u8>,
    opened: OwnedFd,
    // Names still to come, the next one last: those here and, when nothing shows through, those below.
    names: Vec<Vec<u8>>,
    // Its entry, until it is told.
    entry: Option<Entry>,
    // The folder that it covers.
    lower: Option<Node>,
    opaque: Opaque,
}

impl Folder {
    fn open(
        opened: OwnedFd,
        path: Vec<u8>,
        entry: Option<Entry>,
        lower: Option<Node>,
        inside_opaque: bool,
        tree: &Tree,
    ) -> Result<Self, DiffError> {
        let fail = |errno| read(&path, errno);
        // The root carries overlayfs's marks too, but they mean nothing there.
        let mut opaque = beneath::opaque(opened.as_fd()).map_err(fail)?;
        if inside_opaque {
            // Only the topmost folder is marked: below it, nothing shows through either.
            opaque = Opaque::Yes;
        }
        let mut names: BTreeSet<Vec<u8>> = beneath::names_in(opened.as_fd()).map_err(fail)?.into_iter().collect();
        if opaque == Opaque::Yes
            && let Some(lower) = &lower
        {
            names.extend(tree.read_dir(lower)?.iter().map(|node| node.name().to_vec()));
        }
        let names = names.into_iter().rev().collect();
        Ok(Self { path, opened, names, entry, lower, opaque })
    }
}

/// An inode of the upper.
type Inode = (u64, u64);

struct Walk<'a, E> {
    lower: &'a Tree,
    // The first path of each inode with several names, once it is in the layer.
    sources: HashMap<Inode, Vec<u8>>,
    // Unchanged names of such inodes, with the folders above them: told when another name of theirs is.
    waiting: HashMap<Inode, Vec<(Vec<Entry>, Entry)>>,
    // Folders that are in the layer.
    told: HashSet<Vec<u8>>,
    emit: Emit<'a, E>,
}

impl<E: From<DiffError>> Walk<'_, E> {
    /// Looks at one name of the topmost folder; returns it when it is a folder to walk into.
    fn name(&mut self, stack: &mut [Folder], name: &[u8]) -> Result<Option<Folder>, E> {
        let folder = stack.last().expect("the caller walks it");
        let path = join_path(&folder.path, name);
        let below = match &folder.lower {
            Some(lower) => self.lower.child(lower, name).map_err(DiffError::from)?,
            None => None,
        };
        let stat = match rustix::fs::statat(&folder.opened, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(stat),
            Err(Errno::NOENT) => None, // A name from below an opaque folder.
            Err(errno) => return Err(read(&path, errno).into()),
        };
        let Some(stat) = stat.filter(|stat| !is_zero_device(stat)) else {
            return match below {
                Some(_) => self.tell(stack, Entry::whiteout(&path), None).map(|()| None),
                None => Ok(None),
            };
        };
        match beneath::kind_bits(&stat) {
            beneath::FILE => self.file(stack, name, path, &stat, below.as_ref()).map(|()| None),
            beneath::DIRECTORY => self.folder(stack, name, path, &stat, below).map(Some),
            _ => {
                let target = match beneath::kind_bits(&stat) {
                    beneath::SYMLINK => {
                        let target = rustix::fs::readlinkat(&folder.opened, name, Vec::new());
                        Some(target.map_err(|errno| read(&path, errno))?.into_bytes())
                    }
                    _ => None,
                };
                let node = Node::from_stat(path, 0, &stat, target);
                let equal = below.is_some_and(|below| same_stat(&node, &below));
                match node.entry() {
                    Some(entry) => self.leaf(stack, &node, entry, equal, None).map(|()| None),
                    None => Ok(None), // A socket means nothing without the process behind it.
                }
            }
        }
    }

    fn folder(
        &mut self,
        stack: &mut [Folder],
        name: &[u8],
        path: Vec<u8>,
        stat: &Stat,
        below: Option<Node>,
    ) -> Result<Folder, E> {
        let parent = stack.last().expect("the caller walks it");
        let opened = rustix::fs::openat(&parent.opened, name, beneath::folder_flags(), Mode::empty())
            .map_err(|errno| read(&path, errno))?;
        let xattrs = beneath::xattr_list(opened.as_fd()).map_err(|errno| read(&path, errno))?;
        refuse(&xattrs, &path, "overlay.redirect")?;
        let node = Node::from_stat(path, 0, stat, None);
        let inside_opaque = parent.opaque == Opaque::Yes;
        let equal = below.as_ref().is_some_and(|below| same_owner_and_mode(&node, below));
        let below = below.filter(|below| below.kind == NodeKind::Directory);
        let mut entry = node.entry();
        if !equal && let Some(entry) = entry.take() {
            self.tell(stack, entry, None)?;
        }
        Ok(Folder::open(opened, node.path, entry, below, inside_opaque, self.lower)?)
    }

    fn file(
        &mut self,
        stack: &mut [Folder],
        name: &[u8],
        path: Vec<u8>,
        stat: &Stat,
        below: Option<&Node>,
    ) -> Result<(), E> {
        let folder = stack.last().expect("the caller walks it");
        let fail = |errno| read(&path, errno);
        let opened = rustix::fs::openat(&folder.opened, name, beneath::file_flags(), Mode::empty()).map_err(fail)?;
        let by_attribute = folder.opaque == Opaque::XattrWhiteouts;
        if by_attribute && beneath::is_whiteout(stat, || opened.try_clone().map_err(|_| Errno::MFILE)).map_err(fail)? {
            return match below {
                Some(_) => self.tell(stack, Entry::whiteout(&path), None),
                None => Ok(()),
            };
        }
        let xattrs = beneath::xattr_list(opened.as_fd()).map_err(fail)?;
        refuse(&xattrs, &path, "overlay.metacopy")?;
        let capability = match lists(&xattrs, CAPABILITY.as_bytes()) {
            true => beneath::xattr(opened.as_fd(), CAPABILITY).map_err(fail)?,
            false => None,
        };
        let node = Node::from_stat(path, 0, stat, None);
        let mut file = File::from(opened);
        let equal = match below {
            Some(below) if same_stat(&node, below) => {
                self.same_capability(below, capability.as_deref())? && self.same_content(&node, &mut file, below)?
            }
            _ => false,
        };
        let Some(mut entry) = node.entry() else { return Ok(()) };
        if let Some(capability) = capability {
            entry.xattrs.insert(CAPABILITY.into(), capability);
        }
        self.leaf(stack, &node, entry, equal, Some(file))
    }

    /// Tells what is no folder, unless it is unchanged; names of one inode become hard links to the first.
    fn leaf(
        &mut self,
        stack: &mut [Folder],
        node: &Node,
        mut entry: Entry,
        equal: bool,
        file: Option<File>,
    ) -> Result<(), E> {
        if node.nlink < 2 {
            return if equal { Ok(()) } else { self.tell(stack, entry, file) };
        }
        let inode = (node.dev, node.ino);
        if let Some(source) = self.sources.get(&inode) {
            entry.kind = EntryKind::Hardlink { target: source.clone() };
            entry.xattrs.clear();
            return self.tell(stack, entry, None);
        }
        if equal {
            let above = stack.iter().filter_map(|folder| folder.entry.clone()).collect();
            self.waiting.entry(inode).or_default().push((above, entry));
            return Ok(());
        }
        let source = entry.path.clone();
        self.tell(stack, entry, file)?;
        for (above, mut link) in self.waiting.remove(&inode).unwrap_or_default() {
            for folder in above {
                self.tell_folder(folder)?;
            }
            link.kind = EntryKind::Hardlink { target: source.clone() };
            link.xattrs.clear();
            (self.emit)(link, None)?;
        }
        self.sources.insert(inode, source);
        Ok(())
    }

    /// Puts an entry in the layer, and in front of it the folders above that are not there yet.
    fn tell(&mut self, stack: &mut [Folder], entry: Entry, file: Option<File>) -> Result<(), E> {
        for folder in stack {
            if let Some(above) = folder.entry.take() {
                self.tell_folder(above)?;
            }
        }
        if entry.kind == EntryKind::Directory {
            return self.tell_folder(entry);
        }
        (self.emit)(entry, file)
    }

    fn tell_folder(&mut self, entry: Entry) -> Result<(), E> {
        if self.told.insert(entry.path.clone()) { (self.emit)(entry, None) } else { Ok(()) }
    }

    fn same_capability(&self, below: &Node, capability: Option<&[u8]>) -> Result<bool, DiffError> {
        let below = self.lower.xattrs(below)?;
        Ok(below.get(CAPABILITY.as_bytes()).map(Vec::as_slice) == capability)
    }

    /// Compares the bytes. Times tell too little: many tools set them, and a tar has whole seconds only.
    fn same_content(&self, node: &Node, file: &mut File, below: &Node) -> Result<bool, DiffError> {
        let fail = |source| DiffError::Read { path: String::from_utf8_lossy(&node.path).into_owned(), source };
        let mut other = self.lower.open(below)?;
        let (mut ours, mut theirs) = (vec![0; COMPARE], vec![0; COMPARE]);
        loop {
            let count = fill(file, &mut ours).map_err(fail)?;
            if count != fill(&mut other, &mut theirs).map_err(fail)? || ours[..count] != theirs[..count] {
                file.rewind().map_err(fail)?;
                return Ok(false);
            }
            if count == 0 {
                file.rewind().map_err(fail)?;
                return Ok(true);
            }
        }
    }
}

/// The one extended attribute that layers carry, as containerd and BuildKit export it.
pub(crate) const CAPABILITY: &str = "security.capability";

/// What files are compared in.
const COMPARE: usize = 128 << 10;

fn same_owner_and_mode(one: &Node, other: &Node) -> bool {
    (one.kind, one.mode, one.uid, one.gid) == (other.kind, other.mode, other.uid, other.gid)
}

/// Whether two are the same as far as `stat` and the text of a link tell.
///
/// Only whole seconds count: what is below may have come out of a tar since.
fn same_stat(one: &Node, other: &Node) -> bool {
    same_owner_and_mode(one, other)
        && (one.size, one.mtime.seconds, one.rdev) == (other.size, other.mtime.seconds, other.rdev)
        && one.target == other.target
}

fn is_zero_device(stat: &Stat) -> bool {
    beneath::kind_bits(stat) == beneath::CHAR && stat.st_rdev == 0
}

/// Refuses what the kernel writes only with features that we mount without, since the folder alone is not the whole
/// truth then.
fn refuse(xattrs: &[u8], path: &[u8], feature: &str) -> Result<(), DiffError> {
    for space in ["trusted.", "user."] {
        let xattr = [space, feature].concat();
        if lists(xattrs, xattr.as_bytes()) {
            return Err(DiffError::UnsupportedOverlay { path: String::from_utf8_lossy(path).into_owned(), xattr });
        }
    }
    Ok(())
}

/// Whether a list of attributes has one.
fn lists(xattrs: &[u8], name: &[u8]) -> bool {
    xattrs.split(|&byte| byte == 0).any(|other| other == name)
}

fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn read(path: &[u8], errno: Errno) -> DiffError {
    DiffError::Read { path: String::from_utf8_lossy(path).into_owned(), source: errno.into() }
}

#[cfg(test)]
mod tests;
