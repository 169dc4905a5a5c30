//! A layer's tar onto a folder that it cannot leave.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::beneath;
use crate::entry::{OPAQUE_WHITEOUT, WHITEOUT_PREFIX, join_path, names, split_path};
use crate::remove::remove_tree_at;
use crate::tar::{Limits, Reader, TarError, reader};
use crate::{Entry, EntryKind, Timestamp};

/// What the names `.wh.…` of a layer do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Whiteouts {
    /// Become overlayfs whiteouts: character devices 0:0 and `trusted.overlay.opaque`. Needs root.
    #[default]
    Overlay,
    /// The same with `user.overlay.opaque`, for mounts with `userxattr`.
    OverlayUser,
    /// Remove what the folder holds, for stacking layers onto one plain folder.
    Remove,
    /// Are files like any other, for archives that are no layers.
    Literal,
}

/// What to do with device nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Devices {
    /// Make them; it is an error when that is not permitted.
    #[default]
    Create,
    /// Make them, and count in [`Applied::skipped_devices`] those that are not permitted.
    CreateIfPermitted,
    /// Leave them out.
    Skip,
}

/// How a tar is applied.
#[derive(Clone, Debug)]
pub struct ApplyOptions {
    /// What `.wh.…` names do.
    pub whiteouts: Whiteouts,
    /// When to give up.
    pub limits: Limits,
    /// Whether files get the owners that the tar says. Without root they cannot.
    pub chown: bool,
    /// An owner for everything instead of what the tar says, as `--chown` wants it.
    pub owner: Option<(u32, u32)>,
    /// Whether files lose setuid, setgid and capabilities, which were meant for their old owner.
    pub drop_rights: bool,
    /// What to do with device nodes.
    pub devices: Devices,
    /// Whether an entry for the root itself sets the mode, owner and time of the folder.
    pub root_metadata: bool,
}

impl Default for ApplyOptions {
    fn default() -> Self {
        Self {
            whiteouts: Whiteouts::default(),
            limits: Limits::default(),
            chown: true,
            owner: None,
            drop_rights: false,
            devices: Devices::default(),
            root_metadata: true,
        }
    }
}

/// What a tar did to a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Entries of the tar.
    pub entries: u64,
    /// Bytes of file content.
    pub bytes: u64,
    /// Folders that were made because something lies in them, without an entry of their own: 0755, root. Sorted.
    ///
    /// Whoever stacks layers must give them the metadata of the folder below.
    pub implied: Vec<Vec<u8>>,
    /// Whether the tar had an entry for the root itself. Without one the root is as implied as the others.
    pub root: bool,
    /// Device nodes left out.
    pub skipped_devices: u64,
    /// Extended attributes that the filesystem or the kernel refused.
    pub skipped_xattrs: u64,
}

/// Why a tar could not be applied.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum ApplyError {
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error("`{path}` leaves the root of the archive")]
    Escapes { path: String },
    #[error("`{path}` is not a valid whiteout")]
    BadWhiteout { path: String },
    #[error("`{path}` links to `{target}`, which the archive does not hold")]
    MissingHardlinkTarget { path: String, target: String },
    #[error("`{path}` is the root of the archive, but not a folder")]
    RootIsNotAFolder { path: String },
    #[error("cannot create `{path}`")]
    Create { path: String, source: io::Error },
    #[error("cannot remove `{path}`")]
    Remove { path: String, source: io::Error },
    #[error("cannot set {what} of `{path}`")]
    Metadata { what: &'static str, path: String, source: io::Error },
}

/// Applies an uncompressed tar onto the folder `root`, which nothing in the tar can leave.
///
/// What is there already gives way to what the tar says: only a folder onto a folder keeps what is in it. Reads the
/// tar to its very end, so that a hashing reader has seen all of it. On an error the folder holds whatever was applied
/// until then; the caller removes it.
pub fn apply(tar: &mut dyn Read, root: BorrowedFd<'_>, options: &ApplyOptions) -> Result<Applied, ApplyError> {
    let mut reader = Reader::with_limits(tar, options.limits);
    let mut target = Target {
        root,
        options,
        parent: None,
        folders: BTreeMap::new(),
        implied: BTreeSet::new(),
        unpacked: HashSet::new(),
        buffer: vec![0; BUFFER],
        applied: Applied::default(),
    };
    while let Some(entry) = reader.next_entry()? {
        target.entry(entry, &mut reader)?;
    }
    reader.drain()?;
    target.finish()
}

/// What file content is moved in.
const BUFFER: usize = 1 << 20;

/// Links that one path may go through, as in the kernel.
const MAX_SYMLINKS: usize = 40;

/// The aufs prefix of files that are no whiteouts but aufs's own.
const AUFS_PREFIX: &[u8] = b".wh..wh.";

/// The folder that a tar is applied to.
struct Target<'a> {
    root: BorrowedFd<'a>,
    options: &'a ApplyOptions,
    // The folder of the last entry. Forgotten when anything is removed that a path may go through.
    parent: Option<(Vec<u8>, Rc<OwnedFd>)>,
    // Folders get their metadata last, because what comes into them changes their time, and a mode may lock us out.
    folders: BTreeMap<Vec<u8>, Metadata>,
    implied: BTreeSet<Vec<u8>>,
    // With `Whiteouts::Remove`, everything that came from this tar and what it lies in: whiteouts spare it.
    unpacked: HashSet<Vec<u8>>,
    buffer: Vec<u8>,
    applied: Applied,
}

/// What a file gets after it was made.
struct Metadata {
    owner: Option<(u32, u32)>,
    mode: u32,
    mtime: Timestamp,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Target<'_> {
    fn entry(&mut self, entry: Entry, content: &mut Reader<&mut dyn Read>) -> Result<(), ApplyError> {
        self.applied.entries += 1;
        let path = clean(&entry.path).ok_or_else(|| ApplyError::Escapes { path: text(&entry.path) })?;
        let (folder, name) = split_path(&path);
        if self.options.whiteouts != Whiteouts::Literal {
            if let Some(reserved) = names(folder).find(|name| name.starts_with(WHITEOUT_PREFIX)) {
                // What aufs kept for itself means nothing to anyone else.
                return if reserved.starts_with(AUFS_PREFIX) { Ok(()) } else { Err(bad_whiteout(&path)) };
            }
            if name == OPAQUE_WHITEOUT {
                return self.opaque(folder);
            }
            if name.starts_with(AUFS_PREFIX) {
                return Ok(());
            }
            if let Some(hidden) = name.strip_prefix(WHITEOUT_PREFIX) {
                if matches!(hidden, b"" | b"." | b"..") {
                    return Err(bad_whiteout(&path));
                }
                return self.whiteout(folder, hidden);
            }
        }
        if path.is_empty() {
            return match entry.kind {
                EntryKind::Directory => {
                    self.applied.root = true;
                    if self.options.root_metadata {
                        let metadata = self.metadata(entry);
                        self.folders.insert(path, metadata);
                    }
                    Ok(())
                }
                _ => Err(ApplyError::RootIsNotAFolder { path: text(&entry.path) }),
            };
        }
        let parent = self.parent(folder)?;
        self.remember(&path);
        self.create(entry, &path, parent.as_fd(), name, content)
    }

    fn create(
        &mut self,
        mut entry: Entry,
        path: &[u8],
        parent: BorrowedFd<'_>,
        name: &[u8],
        content: &mut Reader<&mut dyn Read>,
    ) -> Result<(), ApplyError> {
        match std::mem::replace(&mut entry.kind, EntryKind::Fifo) {
            EntryKind::File { size } => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mode = Mode::RUSR | Mode::WUSR;
                let file = self.replacing(path, parent, name, || rustix::fs::openat(parent, name, flags, mode))?;
                let file = self.fill(file, path, size, content)?;
                let metadata = self.metadata(entry);
                self.set_metadata(file.as_fd(), path, &metadata)
            }
            EntryKind::Directory => {
                self.folder(path, parent, name)?;
                let metadata = self.metadata(entry);
                self.implied.remove(path);
                self.folders.insert(path.to_vec(), metadata);
                Ok(())
            }
            EntryKind::Hardlink { target } => self.hardlink(path, parent, name, &target),
            EntryKind::Symlink { target } => {
                let target = target.as_slice();
                self.replacing(path, parent, name, || rustix::fs::symlinkat(target, parent, name))?;
                self.set_node_metadata(path, parent, name, None, entry)
            }
            EntryKind::Fifo => self.node(path, parent, name, FileType::Fifo, (0, 0), entry),
            EntryKind::CharDevice { major, minor } => {
                self.node(path, parent, name, FileType::CharacterDevice, (major, minor), entry)
            }
            EntryKind::BlockDevice { major, minor } => {
                self.node(path, parent, name, FileType::BlockDevice, (major, minor), entry)
            }
        }
    }

    /// Makes a pipe or a device.
    fn node(
        &mut self,
        path: &[u8],
        parent: BorrowedFd<'_>,
        name: &[u8],
        kind: FileType,
        (major, minor): (u32, u32),
        entry: Entry,
    ) -> Result<(), ApplyError> {
        let is_device = kind != FileType::Fifo;
        if is_device && self.options.devices == Devices::Skip {
            self.applied.skipped_devices += 1;
            return Ok(());
        }
        let (mode, device) = (Mode::RUSR | Mode::WUSR, rustix::fs::makedev(major, minor));
        match self.replacing(path, parent, name, || rustix::fs::mknodat(parent, name, kind, mode, device)) {
            Err(ApplyError::Create { source, .. })
                if is_device
                    && self.options.devices == Devices::CreateIfPermitted
                    && source.kind() == io::ErrorKind::PermissionDenied =>
            {
                self.applied.skipped_devices += 1;
                Ok(())
            }
            Err(error) => Err(error),
            Ok(()) => {
                let mode = entry.mode;
                self.set_node_metadata(path, parent, name, Some(mode), entry)
            }
        }
    }

    fn fill(
        &mut self,
        file: OwnedFd,
        path: &[u8],
        size: u64,
        content: &mut Reader<&mut dyn Read>,
    ) -> Result<File, ApplyError> {
        let mut file = File::from(file);
        let mut rest = size;
        while rest > 0 {
            let want = usize::try_from(rest).map_or(BUFFER, |rest| rest.min(BUFFER));
            let count = content.read(&mut self.buffer[..want]).map_err(reader::from_io)?;
            if count == 0 {
                return Err(TarError::BadEntry { path: text(path), why: "its content is shorter than its size" }.into());
            }
            file.write_all(&self.buffer[..count]).map_err(|source| ApplyError::Create { path: text(path), source })?;
            rest -= count as u64;
            self.applied.bytes += count as u64;
        }
        Ok(file)
    }

    /// Makes a folder, or keeps the one that is there.
    fn folder(&mut self, path: &[u8], parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), ApplyError> {
        let make = || rustix::fs::mkdirat(parent, name, Mode::RWXU);
        match make() {
            Err(Errno::EXIST) => {}
            result => return result.map_err(|errno| create(path, errno)),
        }
        let there = stat(parent, name).map_err(|errno| create(path, errno))?;
        match there {
            Some(there) if beneath::kind_bits(&there) == beneath::DIRECTORY => Ok(()),
            Some(there) if self.is_whiteout(&there) => {
                // The whiteout speaks of what is below, and the folder must not bring it back.
                self.clear(path, parent, name)?;
                make().map_err(|errno| create(path, errno))?;
                self.set_opaque(path, parent, name)
            }
            _ => {
                self.clear(path, parent, name)?;
                make().map_err(|errno| create(path, errno))
            }
        }
    }

    fn hardlink(&mut self, path: &[u8], parent: BorrowedFd<'_>, name: &[u8], target: &[u8]) -> Result<(), ApplyError> {
        let missing = || ApplyError::MissingHardlinkTarget { path: text(path), target: text(target) };
        let target = clean(target).ok_or_else(|| ApplyError::Escapes { path: text(target) })?;
        let (folder, target_name) = split_path(&target);
        let from = match beneath::open_in_root(self.root, folder, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(from) => from,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Err(missing()),
            Err(errno) => return Err(create(path, errno)),
        };
        let there = stat(from.as_fd(), target_name).map_err(|errno| create(path, errno))?.ok_or_else(missing)?;
        if self.is_whiteout(&there) {
            return Err(missing());
        }
        if let Ok(Some(here)) = stat(parent, name)
            && (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
        {
            return Ok(());
        }
        let link = || rustix::fs::linkat(&from, target_name, parent, name, AtFlags::empty());
        match self.replacing(path, parent, name, link) {
            Err(ApplyError::Create { source, .. }) if source.kind() == io::ErrorKind::NotFound => Err(missing()),
            result => result,
        }
    }

    /// Makes something, after removing what is in its way.
    fn replacing<T>(
        &mut self,
        path: &[u8],
        parent: BorrowedFd<'_>,
        name: &[u8],
        make: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, ApplyError> {
        match make() {
            Err(Errno::EXIST) => {
                self.clear(path, parent, name)?;
                make()
            }
            result => result,
        }
        .map_err(|errno| create(path, errno))
    }

    fn whiteout(&mut self, folder: &[u8], hidden: &[u8]) -> Result<(), ApplyError> {
        let path = join_path(folder, hidden);
        if self.options.whiteouts == Whiteouts::Remove {
            let Some(parent) = self.existing(folder)? else { return Ok(()) };
            if self.unpacked.contains(&path) {
                return self.spare(&path);
            }
            return self.clear(&path, parent.as_fd(), hidden);
        }
        let parent = self.parent(folder)?;
        let (kind, mode) = (FileType::CharacterDevice, Mode::empty());
        match rustix::fs::mknodat(&parent, hidden, kind, mode, 0) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(create(&path, errno)),
        }
        // Whiteouts speak of the layers below only. What this layer has there stays, and hides them by itself, but
        // for a folder, through which they would show.
        match stat(parent.as_fd(), hidden).map_err(|errno| create(&path, errno))? {
            Some(there) if beneath::kind_bits(&there) == beneath::DIRECTORY => {
                self.set_opaque(&path, parent.as_fd(), hidden)
            }
            _ => Ok(()),
        }
    }

    fn opaque(&mut self, folder: &[u8]) -> Result<(), ApplyError> {
        if self.options.whiteouts == Whiteouts::Remove {
            return self.spare(folder);
        }
        if folder.is_empty() {
            return self.write_opaque(b"", self.root);
        }
        let (parent, name) = split_path(folder);
        let parent = self.parent(parent)?;
        match stat(parent.as_fd(), name).map_err(|errno| create(folder, errno))? {
            Some(there) if beneath::kind_bits(&there) == beneath::DIRECTORY => {}
            _ => {
                drop(self.parent(folder)?);
            }
        }
        self.set_opaque(folder, parent.as_fd(), name)
    }

    fn set_opaque(&self, path: &[u8], parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), ApplyError> {
        let folder = rustix::fs::openat(parent, name, beneath::folder_flags(), Mode::empty())
            .map_err(|errno| metadata("the opaque mark", path, errno))?;
        self.write_opaque(path, folder.as_fd())
    }

    fn write_opaque(&self, path: &[u8], folder: BorrowedFd<'_>) -> Result<(), ApplyError> {
        let name: &[u8] = match self.options.whiteouts {
            Whiteouts::OverlayUser => b"user.overlay.opaque",
            _ => b"trusted.overlay.opaque",
        };
        beneath::set_xattr(folder, name, b"y").map_err(|errno| metadata("the opaque mark", path, errno))
    }

    /// Removes everything in a folder that did not come from this tar.
    fn spare(&mut self, folder: &[u8]) -> Result<(), ApplyError> {
        let mut folders = vec![folder.to_vec()];
        while let Some(folder) = folders.pop() {
            let fail = |errno| ApplyError::Remove { path: text(&folder), source: Errno::into(errno) };
            let flags = beneath::folder_flags();
            let opened = match beneath::open_in_root(self.root, &folder, flags) {
                Ok(opened) => opened,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(errno) => return Err(fail(errno)),
            };
            for name in beneath::names_in(opened.as_fd()).map_err(fail)? {
                let path = join_path(&folder, &name);
                if self.unpacked.contains(&path) {
                    folders.push(path);
                } else {
                    self.clear(&path, opened.as_fd(), &name)?;
                }
            }
        }
        Ok(())
    }

    /// Removes whatever a name stands for, with everything in it.
    fn clear(&mut self, path: &[u8], parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), ApplyError> {
        let fail = |errno| ApplyError::Remove { path: text(path), source: Errno::into(errno) };
        let Some(there) = stat(parent, name).map_err(fail)? else { return Ok(()) };
        match beneath::kind_bits(&there) {
            beneath::DIRECTORY => {
                self.parent = None;
                // A `0` is what follows `/`, so these are the keys that start with the path and a `/`.
                let below = [path, b"/"].concat()..[path, b"0"].concat();
                self.folders.remove(path);
                self.implied.remove(path);
                let gone: Vec<Vec<u8>> = self.folders.range(below.clone()).map(|(folder, _)| folder.clone()).collect();
                for folder in gone {
                    self.folders.remove(&folder);
                    self.implied.remove(&folder);
                }
                remove_tree_at(parent, name).map_err(|source| ApplyError::Remove { path: text(path), source })
            }
            kind => {
                if kind == beneath::SYMLINK {
                    self.parent = None;
                }
                rustix::fs::unlinkat(parent, name, AtFlags::empty()).map_err(fail)
            }
        }
    }

    /// Notes that a path came from this tar, where a whiteout may ask.
    fn remember(&mut self, path: &[u8]) {
        if self.options.whiteouts != Whiteouts::Remove {
            return;
        }
        let mut path = path;
        while !path.is_empty() && self.unpacked.insert(path.to_vec()) {
            path = split_path(path).0;
        }
    }

    /// Returns a folder to create in, making what is missing of it.
    fn parent(&mut self, folder: &[u8]) -> Result<Rc<OwnedFd>, ApplyError> {
        if let Some((path, opened)) = &self.parent
            && path == folder
        {
            return Ok(opened.clone());
        }
        let opened = match self.existing(folder)? {
            Some(opened) => opened,
            None => self.make_folders(folder)?,
        };
        let opened = Rc::new(opened);
        self.parent = Some((folder.to_vec(), opened.clone()));
        Ok(opened)
    }

    fn existing(&self, folder: &[u8]) -> Result<Option<OwnedFd>, ApplyError> {
        match beneath::open_in_root(self.root, folder, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(opened) => Ok(Some(opened)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(create(folder, errno)),
        }
    }

    /// Makes a path of folders, name by name, following links as a chroot would.
    fn make_folders(&mut self, folder: &[u8]) -> Result<OwnedFd, ApplyError> {
        let root = self.root;
        let open = |path: &[u8]| beneath::open_beneath(root, path, OFlags::PATH | OFlags::DIRECTORY);
        let mut rest: VecDeque<Vec<u8>> = names(folder).map(<[u8]>::to_vec).collect();
        let mut here: Vec<u8> = Vec::new();
        let mut opened = open(&here).map_err(|errno| create(folder, errno))?;
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            if name == b".." {
                here = split_path(&here).0.to_vec();
                opened = open(&here).map_err(|errno| create(folder, errno))?;
                continue;
            }
            let path = join_path(&here, &name);
            let fail = |errno| create(&path, errno);
            let there = stat(opened.as_fd(), &name).map_err(fail)?;
            match there.as_ref().map(beneath::kind_bits) {
                Some(beneath::DIRECTORY) => {}
                Some(beneath::SYMLINK) => {
                    links += 1;
                    if links > MAX_SYMLINKS {
                        return Err(fail(Errno::LOOP));
                    }
                    let target = rustix::fs::readlinkat(&opened, &name, Vec::new()).map_err(fail)?;
                    let target = target.as_bytes();
                    if target.starts_with(b"/") {
                        here.clear();
                        opened = open(&here).map_err(fail)?;
                    }
                    let mut longer: VecDeque<Vec<u8>> = names(target).map(<[u8]>::to_vec).collect();
                    longer.append(&mut rest);
                    rest = longer;
                    continue;
                }
                None => self.imply(&path, opened.as_fd(), &name)?,
                Some(_) if there.as_ref().is_some_and(|there| self.is_whiteout(there)) => {
                    self.imply(&path, opened.as_fd(), &name)?;
                }
                Some(_) => return Err(fail(Errno::NOTDIR)),
            }
            opened = open(&path).map_err(fail)?;
            here = path;
        }
        Ok(opened)
    }

    /// Makes a folder that has no entry so far.
    fn imply(&mut self, path: &[u8], parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), ApplyError> {
        self.folder(path, parent, name)?;
        self.remember(path);
        self.implied.insert(path.to_vec());
        let owner = self.options.owner.or(self.options.chown.then_some((0, 0)));
        let metadata = Metadata { owner, mode: 0o755, mtime: Timestamp::default(), xattrs: BTreeMap::new() };
        self.folders.insert(path.to_vec(), metadata);
        Ok(())
    }

    fn is_whiteout(&self, stat: &Stat) -> bool {
        matches!(self.options.whiteouts, Whiteouts::Overlay | Whiteouts::OverlayUser)
            && beneath::kind_bits(stat) == beneath::CHAR
            && stat.st_rdev == 0
    }

    fn metadata(&self, mut entry: Entry) -> Metadata {
        if self.options.drop_rights {
            entry.mode &= !0o6000;
            entry.xattrs.remove(&b"security.capability"[..]);
        }
        let owner = self.options.owner.or(self.options.chown.then_some((entry.uid, entry.gid)));
        Metadata { owner, mode: entry.mode, mtime: entry.mtime, xattrs: entry.xattrs }
    }

    /// Sets owner, mode, attributes and time, in this order: a new owner takes away setuid and capabilities.
    fn set_metadata(&mut self, file: BorrowedFd<'_>, path: &[u8], wanted: &Metadata) -> Result<(), ApplyError> {
        if let Some((uid, gid)) = wanted.owner {
            rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .map_err(|errno| metadata("the owner", path, errno))?;
        }
        rustix::fs::fchmod(file, Mode::from_raw_mode(wanted.mode & 0o7777))
            .map_err(|errno| metadata("the mode", path, errno))?;
        for (name, value) in &wanted.xattrs {
            // A tar that could set these would decide what the layers below show.
            if beneath::is_overlay_xattr(name) {
                self.applied.skipped_xattrs += 1;
                continue;
            }
            match beneath::set_xattr(file, name, value) {
                Ok(()) => {}
                Err(Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS)
                    if name != b"security.capability" || wanted.owner.is_none() =>
                {
                    self.applied.skipped_xattrs += 1;
                }
                Err(errno) => return Err(metadata("an extended attribute", path, errno)),
            }
        }
        rustix::fs::futimens(file, &times(wanted.mtime)).map_err(|errno| metadata("the time", path, errno))
    }

    /// Does the same for what cannot be opened: links, pipes and devices.
    fn set_node_metadata(
        &mut self,
        path: &[u8],
        parent: BorrowedFd<'_>,
        name: &[u8],
        mode: Option<u32>,
        entry: Entry,
    ) -> Result<(), ApplyError> {
        let wanted = self.metadata(entry);
        if let Some((uid, gid)) = wanted.owner {
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            rustix::fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|errno| metadata("the owner", path, errno))?;
        }
        if let Some(mode) = mode {
            rustix::fs::chmodat(parent, name, Mode::from_raw_mode(mode & 0o7777), AtFlags::empty())
                .map_err(|errno| metadata("the mode", path, errno))?;
        }
        self.applied.skipped_xattrs += wanted.xattrs.len() as u64;
        rustix::fs::utimensat(parent, name, &times(wanted.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| metadata("the time", path, errno))
    }

    fn finish(mut self) -> Result<Applied, ApplyError> {
        // What lies deeper comes first: a folder's mode may lock us out of it.
        for (path, wanted) in std::mem::take(&mut self.folders).into_iter().rev() {
            match beneath::open_in_root(self.root, &path, beneath::folder_flags()) {
                Ok(folder) => self.set_metadata(folder.as_fd(), &path, &wanted)?,
                // Something else took its place later in the tar, on the way or at the end.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(metadata("the mode", &path, errno)),
            }
        }
        self.applied.implied = self.implied.into_iter().collect();
        Ok(self.applied)
    }
}

/// Resolves `..` in a path by its text alone; `None` when it leads out.
fn clean(path: &[u8]) -> Option<Vec<u8>> {
    let mut clean: Vec<&[u8]> = Vec::new();
    for name in names(path) {
        if name == b".." {
            clean.pop()?;
        } else {
            clean.push(name);
        }
    }
    Some(clean.join(&b'/'))
}

fn stat(folder: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn times(mtime: Timestamp) -> Timestamps {
    let time = Timespec { tv_sec: mtime.seconds, tv_nsec: i64::from(mtime.nanos) };
    Timestamps { last_access: time, last_modification: time }
}

fn create(path: &[u8], errno: Errno) -> ApplyError {
    ApplyError::Create { path: text(path), source: errno.into() }
}

fn metadata(what: &'static str, path: &[u8], errno: Errno) -> ApplyError {
    ApplyError::Metadata { what, path: text(path), source: errno.into() }
}

fn bad_whiteout(path: &[u8]) -> ApplyError {
    ApplyError::BadWhiteout { path: text(path) }
}

fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

#[cfg(test)]
mod tests;
