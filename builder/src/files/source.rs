//! [`SourceTree`]: where files come from: the context less what is ignored, a stage, or an image.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use layer::hashing::HashingReader;
use layer::{Entry, EntryKind, Node, NodeKind, Timestamp, Tree, TreeError};
use oci::Digest;

use super::path::{self, Step};
use crate::cancel::Cancel;
use crate::fault::{Fault, StepError};
use crate::ignore::{Ignore, Matched};
use crate::request::ContextModes;
use crate::stat_cache::Digests;

/// A file of a source, with what the ignore patterns said on the way to it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) node: Node,
    matched: Option<Matched>,
}

impl Seen {
    pub(crate) fn is_folder(&self) -> bool {
        self.node.kind == NodeKind::Directory
    }
}

/// What makes one content of one file, as far as the kernel tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
    pub(crate) size: u64,
    pub(crate) mtime: Timestamp,
    pub(crate) ctime: Timestamp,
}

impl Stamp {
    pub(crate) fn of(node: &Node) -> Self {
        Self { dev: node.dev, ino: node.ino, size: node.size, mtime: node.mtime, ctime: node.ctime }
    }

    fn of_metadata(file: &Metadata) -> Self {
        let time = |seconds, nanos| Timestamp { seconds, nanos: u32::try_from(nanos).unwrap_or_default() };
        let (mtime, ctime) = (time(file.mtime(), file.mtime_nsec()), time(file.ctime(), file.ctime_nsec()));
        Self { dev: file.dev(), ino: file.ino(), size: file.size(), mtime, ctime }
    }
}

/// What the files of a context are made to look like.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Appearance {
    /// Which permission bits they have.
    pub(crate) modes: ContextModes,
    /// How old they all are; git keeps no times, and a checkout makes new ones.
    pub(crate) mtime: Option<Timestamp>,
}

impl Appearance {
    fn of(self, mut node: Node) -> Node {
        if self.modes == ContextModes::Git {
            let executable = node.kind == NodeKind::Directory || node.mode & 0o100 != 0;
            if node.kind != NodeKind::Symlink {
                node.mode = if executable { 0o755 } else { 0o644 };
            }
            node.nlink = 1;
        }
        node
    }
}

/// A tree that files are taken from.
#[derive(Debug)]
pub(crate) struct SourceTree {
    tree: Tree,
    ignore: Option<Ignore>,
    /// Files of a context, not of layers: somebody may change them.
    local: bool,
    /// Whether files belong to whom they say, and have attributes. Those of a folder of this machine belong to root.
    has_owners: bool,
    appearance: Appearance,
    /// A folder of the disk for lists that do not fit into memory.
    spool: PathBuf,
    digests: Mutex<Digests>,
}

impl SourceTree {
    /// Takes files from a stage or an image. `spool` is a folder of the disk for what does not fit into memory.
    pub(crate) fn of_layers(tree: Tree, spool: &Path) -> Self {
        Self {
            tree,
            ignore: None,
            local: false,
            has_owners: true,
            appearance: Appearance::default(),
            spool: spool.to_owned(),
            digests: Mutex::new(Digests::new(spool)),
        }
    }

    /// Takes files from a folder of this machine. `digests` is what is known of them from earlier builds.
    pub(crate) fn of_folder(tree: Tree, ignore: Ignore, digests: Digests) -> Self {
        let ignore = (!ignore.is_empty()).then_some(ignore);
        Self {
            tree,
            ignore,
            local: true,
            has_owners: false,
            appearance: Appearance::default(),
            spool: digests.folder().to_owned(),
            digests: Mutex::new(digests),
        }
    }

    /// Takes files from a folder that was filled for this build.
    pub(crate) fn of_fetched(tree: Tree, spool: &Path) -> Self {
        // Only root could give the files to others when it filled the folder.
        let has_owners = layer::rights::gives_owners();
        Self {
            tree,
            ignore: None,
            local: true,
            has_owners,
            appearance: Appearance::default(),
            spool: spool.to_owned(),
            digests: Mutex::new(Digests::new(spool)),
        }
    }

    /// Makes the files look like this.
    pub(crate) fn appearing(self, appearance: Appearance) -> Self {
        let has_owners = self.has_owners && !(self.local && appearance.modes == ContextModes::Git);
        Self { appearance, has_owners, ..self }
    }

    /// Returns a folder of the disk for what does not fit into memory.
    pub(crate) fn spool(&self) -> &Path {
        &self.spool
    }

    /// Tells whether these are files of this machine.
    pub(crate) fn is_local(&self) -> bool {
        self.local
    }

    /// Returns the root, which is never ignored.
    pub(crate) fn root(&self) -> Result<Seen, Fault> {
        Ok(Seen { node: self.tree.root()?, matched: self.ignore.as_ref().map(Ignore::root) })
    }

    /// Finds a path without following any link.
    pub(crate) fn lookup(&self, path: &[u8]) -> Result<Option<Seen>, Fault> {
        let mut seen = self.root()?;
        let mut names = path::names(path).peekable();
        while let Some(name) = names.next() {
            if !seen.is_folder() {
                return Ok(None);
            }
            let Some(node) = self.tree.child(&seen.node, name)? else { return Ok(None) };
            let (excluded, next) = self.step(&seen, node);
            seen = next;
            // What is above matters only by what it gave to the patterns below it.
            if names.peek().is_none() && !self.shows(excluded, &seen)? {
                return Ok(None);
            }
        }
        Ok(Some(seen))
    }

    /// Tells whether a path is there but ignored.
    pub(crate) fn is_ignored(&self, path: &[u8]) -> Result<bool, Fault> {
        Ok(self.ignore.is_some()
            && self.tree.lookup(path, layer::Follow::Last)?.is_some()
            && self.lookup(&self.resolve(path, true)?)?.is_none())
    }

    /// Resolves every symbolic link of a path, also a last one when `last` is set.
    pub(crate) fn resolve(&self, path: &[u8], last: bool) -> Result<Vec<u8>, Fault> {
        path::resolve(path, last, &mut |path| {
            Ok(match self.lookup(path)? {
                None => Step::Missing,
                Some(Seen { node: Node { target: Some(target), .. }, .. }) => Step::Link(target),
                Some(_) => Step::Other,
            })
        })
    }

    /// Lists what is in a folder and not ignored, sorted by bytes.
    pub(crate) fn children<'a>(
        &'a self,
        folder: &'a Seen,
    ) -> Result<impl Iterator<Item = Result<Seen, Fault>> + 'a, Fault> {
        let seen = |node: Result<Node, TreeError>| {
            let (excluded, seen) = self.step(folder, node?);
            Ok(self.shows(excluded, &seen)?.then_some(seen))
        };
        Ok(self.tree.children(&folder.node)?.filter_map(move |node| seen(node).transpose()))
    }

    fn step(&self, folder: &Seen, node: Node) -> (bool, Seen) {
        let node = self.appearance.of(node);
        match (&self.ignore, &folder.matched) {
            (Some(ignore), Some(matched)) => {
                let (excluded, matched) = ignore.step(matched, &node.path);
                (excluded, Seen { node, matched: Some(matched) })
            }
            _ => (false, Seen { node, matched: None }),
        }
    }

    /// Tells whether something is there for the build: not ignored, or a folder above something that is not.
    fn shows(&self, excluded: bool, seen: &Seen) -> Result<bool, Fault> {
        let (true, Some(ignore), Some(matched)) = (excluded, &self.ignore, &seen.matched) else { return Ok(true) };
        if !seen.is_folder() || !ignore.may_include_below(&seen.node.path, matched) {
            return Ok(false);
        }
        for node in self.tree.children(&seen.node)? {
            let (excluded, below) = self.step(seen, node?);
            if self.shows(excluded, &below)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns the header that a file gets in a layer, under the path it has here.
    pub(crate) fn entry(&self, node: &Node) -> Result<Entry, Fault> {
        let mut entry = node.entry().unwrap_or_else(|| {
            // A socket becomes an empty file, as with BuildKit.
            Entry::new(node.path.clone(), EntryKind::File { size: 0 }, node.mode)
        });
        entry.mtime = self.mtime(node);
        (entry.uid, entry.gid) = self.owner(node);
        entry.xattrs = self.capabilities(node)?;
        Ok(entry)
    }

    /// Returns the time that a file gets in a layer.
    pub(crate) fn mtime(&self, node: &Node) -> Timestamp {
        self.appearance.mtime.unwrap_or(node.mtime)
    }

    /// Returns whom a file belongs to in a layer.
    pub(crate) fn owner(&self, node: &Node) -> (u32, u32) {
        if self.has_owners { (node.uid, node.gid) } else { (0, 0) }
    }

    /// Returns the only attribute that layers keep.
    pub(crate) fn capabilities(&self, node: &Node) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Fault> {
        if node.kind != NodeKind::File || !self.has_owners {
            return Ok(BTreeMap::new());
        }
        let mut xattrs = self.tree.xattrs(node)?;
        xattrs.retain(|name, _| name == b"security.capability");
        Ok(xattrs)
    }

    /// Opens a file.
    pub(crate) fn open(&self, node: &Node) -> Result<File, Fault> {
        Ok(self.tree.open(node)?)
    }

    /// Refuses a file that is no longer what it was when the source was walked. After reading it to the end this says
    /// whether what was read is one content, and the one that the digest of the cache key stands for.
    pub(crate) fn check_unchanged(&self, node: &Node, file: &File) -> Result<(), Fault> {
        // Nobody writes to a layer.
        if !self.local {
            return Ok(());
        }
        let name = || format!("`{}`", path::lossy(&node.path));
        let now = file.metadata().map_err(|error| Fault::because(format!("cannot read {}", name()), &error))?;
        if Stamp::of_metadata(&now) == Stamp::of(node) {
            return Ok(());
        }
        let fault = Fault::new(format!("{} changed while it was read", name()));
        Err(fault.hint("build again when nothing writes to the context, or name the file in `.dockerignore`"))
    }

    /// Returns the digest of a file's bytes if it is known.
    pub(crate) fn known_digest(&self, node: &Node) -> Option<Digest> {
        self.digests.lock().unwrap_or_else(PoisonError::into_inner).get(&Stamp::of(node))
    }

    /// Tells whether the digest of a file's bytes is known.
    pub(crate) fn knows(&self, node: &Node) -> bool {
        self.digests.lock().unwrap_or_else(PoisonError::into_inner).contains(&Stamp::of(node))
    }

    /// Remembers the digest of a file's bytes.
    pub(crate) fn remember(&self, node: &Node, digest: Digest) {
        self.digests.lock().unwrap_or_else(PoisonError::into_inner).insert(&Stamp::of(node), &digest);
    }

    /// Returns the digest of a file's bytes, reading them if it must.
    pub(crate) fn digest(&self, node: &Node, cancel: &Cancel) -> Result<Digest, StepError> {
        if let Some(digest) = self.known_digest(node) {
            return Ok(digest);
        }
        let file = self.open(node)?;
        let mut reader = HashingReader::new(&file);
        let mut buffer = vec![0; 256 << 10];
        loop {
            if cancel.is_cancelled() {
                return Err(StepError::Cancelled);
            }
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(Fault::because(format!("cannot read `{}`", path::lossy(&node.path)), &error).into());
                }
            }
        }
        let (_, digest, _) = reader.finish();
        self.check_unchanged(node, &file)?;
        self.remember(node, digest.clone());
        Ok(digest)
    }

    /// Shows all digests that are known, so that they can be kept for the next build.
    pub(crate) fn with_digests<T>(&self, show: impl FnOnce(&Digests) -> T) -> T {
        show(&self.digests.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
