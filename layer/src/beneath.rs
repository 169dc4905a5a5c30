//! Opening paths in a way that cannot leave a root, whatever symbolic links lie on the way.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Dir, Mode, OFlags, ResolveFlags, Stat, XattrFlags};
use rustix::io::Errno;

use crate::Timestamp;

/// Opens a path below `root`, refusing every symbolic link on the way and at the end.
///
/// With `O_PATH | O_NOFOLLOW` a symbolic link at the end is opened itself.
pub(crate) fn open_beneath(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    open(root, path, flags, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

/// Opens a path as a process would whose root is `root`: absolute links and `..` stay inside.
pub(crate) fn open_in_root(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    open(root, path, flags, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

fn open(root: BorrowedFd<'_>, path: &[u8], flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    loop {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // The kernel saw a rename somewhere while it resolved `..`, and asks to try again.
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
}

/// Flags to open a folder so that it can be listed.
pub(crate) fn folder_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// Flags to open a file for reading that may turn out to be a pipe or a device.
pub(crate) fn file_flags() -> OFlags {
    OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC
}

/// Returns the names in a folder, without `.` and `..`, unsorted.
pub(crate) fn names_in(folder: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    Ok(names)
}

/// The names in a folder, sorted by bytes, one behind the other: a million take little more than their letters.
#[derive(Debug, Default)]
pub(crate) struct Names {
    // Invariant: at each of `starts` two bytes say how long the name behind them is.
    bytes: Vec<u8>,
    starts: Vec<u32>,
}

impl Names {
    /// Reads the names, without `.` and `..`.
    pub(crate) fn read(folder: BorrowedFd<'_>) -> Result<Self, Errno> {
        let mut names = Self::default();
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let length = u16::try_from(name.len()).map_err(|_| Errno::NAMETOOLONG)?;
            names.starts.push(u32::try_from(names.bytes.len()).map_err(|_| Errno::OVERFLOW)?);
            names.bytes.extend_from_slice(&length.to_le_bytes());
            names.bytes.extend_from_slice(name);
        }
        let Self { bytes, starts } = &mut names;
        starts.sort_unstable_by(|one, other| name_at(bytes, *one).cmp(name_at(bytes, *other)));
        Ok(names)
    }

    pub(crate) fn get(&self, index: usize) -> Option<&[u8]> {
        self.starts.get(index).map(|start| name_at(&self.bytes, *start))
    }
}

fn name_at(bytes: &[u8], start: u32) -> &[u8] {
    let start = start as usize + 2;
    let length = u16::from_le_bytes([bytes[start - 2], bytes[start - 1]]);
    &bytes[start..start + usize::from(length)]
}

/// Returns an extended attribute, or `None` when there is none.
pub(crate) fn xattr(file: BorrowedFd<'_>, name: &str) -> Result<Option<Vec<u8>>, Errno> {
    let mut value = vec![0; 256];
    loop {
        match rustix::fs::fgetxattr(file, name, &mut value[..]) {
            Ok(size) => {
                value.truncate(size);
                return Ok(Some(value));
            }
            Err(Errno::RANGE) if value.len() < 65536 => value.resize(65536, 0),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
            Err(errno) => return Err(errno),
        }
    }
}

/// Sets an extended attribute.
pub(crate) fn set_xattr(file: BorrowedFd<'_>, name: &[u8], value: &[u8]) -> Result<(), Errno> {
    rustix::fs::fsetxattr(file, name, value, XattrFlags::empty())
}

/// Returns the names of all extended attributes, each with a NUL behind it: none at all is one call.
pub(crate) fn xattr_list(file: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    let mut list = vec![0; 512];
    loop {
        match rustix::fs::flistxattr(file, &mut list[..]) {
            Ok(size) => {
                list.truncate(size);
                return Ok(list);
            }
            Err(Errno::RANGE) if list.len() < 65536 => list.resize(65536, 0),
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(errno) => return Err(errno),
        }
    }
}

/// Returns all extended attributes but overlayfs's own.
pub(crate) fn all_xattrs(file: BorrowedFd<'_>) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Errno> {
    let mut xattrs = BTreeMap::new();
    for name in xattr_list(file)?.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        if is_overlay_xattr(name) {
            continue;
        }
        // One that is no UTF-8 cannot be asked for by `xattr`, and one that vanished is not there.
        if let Ok(text) = std::str::from_utf8(name)
            && let Some(value) = xattr(file, text)?
        {
            xattrs.insert(name.to_vec(), value);
        }
    }
    Ok(xattrs)
}

/// Whether an attribute steers overlayfs, and so belongs to the layer folder and not to the file.
pub(crate) fn is_overlay_xattr(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

/// What overlayfs wrote on a folder under `overlay.opaque`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opaque {
    /// Nothing: the folders below show through.
    No,
    /// `x`: they do, and files in it may be whiteouts by attribute.
    XattrWhiteouts,
    /// `y`: nothing below shows through.
    Yes,
}

/// Returns how opaque a layer's folder is.
pub(crate) fn opaque(folder: BorrowedFd<'_>) -> Result<Opaque, Errno> {
    for name in ["trusted.overlay.opaque", "user.overlay.opaque"] {
        match xattr(folder, name)?.as_deref() {
            Some(b"y") => return Ok(Opaque::Yes),
            Some(b"x") => return Ok(Opaque::XattrWhiteouts),
            _ => {}
        }
    }
    Ok(Opaque::No)
}

/// Whether a file of a layer folder is a whiteout: a character device 0:0, or an empty file with the attribute.
pub(crate) fn is_whiteout(stat: &Stat, open: impl FnOnce() -> Result<OwnedFd, Errno>) -> Result<bool, Errno> {
    match kind_bits(stat) {
        CHAR => Ok(stat.st_rdev == 0),
        FILE if stat.st_size == 0 => {
            let file = open()?;
            Ok(xattr(file.as_fd(), "trusted.overlay.whiteout")?.is_some()
                || xattr(file.as_fd(), "user.overlay.whiteout")?.is_some())
        }
        _ => Ok(false),
    }
}

pub(crate) const FILE: u32 = 0o100_000;
pub(crate) const DIRECTORY: u32 = 0o040_000;
pub(crate) const SYMLINK: u32 = 0o120_000;
pub(crate) const CHAR: u32 = 0o020_000;
pub(crate) const BLOCK: u32 = 0o060_000;
pub(crate) const FIFO: u32 = 0o010_000;

/// Returns the bits of the mode that tell the kind of file.
pub(crate) fn kind_bits(stat: &Stat) -> u32 {
    stat.st_mode & 0o170_000
}

/// Returns the time of the last change of the content.
pub(crate) fn mtime(stat: &Stat) -> Timestamp {
    Timestamp { seconds: stat.st_mtime, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) }
}
