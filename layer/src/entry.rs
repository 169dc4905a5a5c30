//! [`Entry`]: one file of a layer as tar tells it, without its bytes.

use std::collections::BTreeMap;

/// A moment, as files carry it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// Nanoseconds after `seconds`, below 1 000 000 000.
    pub nanos: u32,
}

impl Timestamp {
    /// Returns the moment at whole seconds.
    pub fn from_seconds(seconds: i64) -> Self {
        Self { seconds, nanos: 0 }
    }
}

/// What an [`Entry`] is, with what only that kind has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File {
        /// Bytes of content.
        size: u64,
    },
    /// A folder.
    Directory,
    /// A symbolic link.
    Symlink {
        /// The text of the link, as it is.
        target: Vec<u8>,
    },
    /// Another name for a file of the same layer.
    Hardlink {
        /// Path of that file, written like [`Entry::path`].
        target: Vec<u8>,
    },
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// One file of a layer: name, kind and metadata, without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path relative to the root: names joined by `/`, no empty name and no `.`; `b""` is the root itself.
    ///
    /// [`tar::Reader`](crate::tar::Reader) leaves `..` in it, for whoever applies the entry to judge.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits with setuid, setgid and sticky: `0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change of the content.
    pub mtime: Timestamp,
    /// Extended attributes by full name, such as `security.capability`.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What a whiteout's name starts with (image-spec, `layer.md`, "Whiteouts").
pub const WHITEOUT_PREFIX: &[u8] = b".wh.";

/// The name that marks a folder as opaque (image-spec, `layer.md`, "Opaque Whiteout").
pub const OPAQUE_WHITEOUT: &[u8] = b".wh..wh..opq";

impl Entry {
    /// Makes an entry owned by root with no attributes and mtime 0.
    pub fn new(path: impl Into<Vec<u8>>, kind: EntryKind, mode: u32) -> Self {
        Self { path: path.into(), kind, mode, uid: 0, gid: 0, mtime: Timestamp::default(), xattrs: BTreeMap::new() }
    }

    /// Makes the whiteout that removes `path`: an empty file `.wh.NAME` beside it, mtime 0.
    pub fn whiteout(path: &[u8]) -> Self {
        let (parent, name) = split_path(path);
        let name = [WHITEOUT_PREFIX, name].concat();
        Self::new(join_path(parent, &name), EntryKind::File { size: 0 }, 0)
    }

    /// Returns the number of content bytes that follow the header in a tar.
    pub fn size(&self) -> u64 {
        match self.kind {
            EntryKind::File { size } => size,
            _ => 0,
        }
    }

    /// Returns the path of the folder that holds this, and its name there.
    pub fn split(&self) -> (&[u8], &[u8]) {
        split_path(&self.path)
    }
}

/// Splits a path into the path of its folder and its name; the root gives two empty ones.
pub fn split_path(path: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memrchr(b'/', path) {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// Joins the path of a folder and a name in it.
pub fn join_path(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}

/// Joins a path's names by single `/`, dropping empty names and `.` but keeping `..`.
pub fn tidy_path(path: &[u8]) -> Vec<u8> {
    let mut tidy = Vec::with_capacity(path.len());
    for name in names(path) {
        if !tidy.is_empty() {
            tidy.push(b'/');
        }
        tidy.extend_from_slice(name);
    }
    tidy
}

/// Yields a path's names, without empty ones and `.`.
pub(crate) fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whiteout_stands_beside_what_it_removes() {
        assert_eq!(Entry::whiteout(b"a/b").path, b"a/.wh.b");
        assert_eq!(Entry::whiteout(b"b").path, b".wh.b");
    }

    #[test]
    fn a_tidy_path_has_single_slashes_and_keeps_dot_dot() {
        for (path, tidy) in
            [("./", ""), ("/", ""), ("//a/./b//", "a/b"), ("../x", "../x"), ("a/../b", "a/../b"), ("...", "...")]
        {
            assert_eq!(tidy_path(path.as_bytes()), tidy.as_bytes(), "{path}");
        }
    }
}
