//! Changes, or a whole tree, to tar bytes with their digest.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

use oci::DiffId;

use crate::beneath;
use crate::diff::{self, CAPABILITY};
use crate::entry::join_path;
use crate::hashing::HashingWriter;
use crate::tar::{TarWriteError, Writer};
use crate::{DiffError, Entry, EntryKind, NodeKind, Timestamp, Tree, TreeError};

/// How a tar is packed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackOptions {
    /// Times later than this many seconds since 1970 are set to it (`SOURCE_DATE_EPOCH`).
    pub clamp_mtime: Option<i64>,
    /// Whether [`pack_tree`] keeps all extended attributes. Layers carry `security.capability` alone.
    pub all_xattrs: bool,
}

impl PackOptions {
    /// Sets what the options say about an entry.
    pub fn clamp(&self, entry: &mut Entry) {
        if let Some(limit) = self.clamp_mtime
            && entry.mtime.seconds >= limit
        {
            entry.mtime = Timestamp::from_seconds(limit);
        }
    }
}

/// What came out of packing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedTar {
    /// Digest of the tar.
    pub diff_id: DiffId,
    /// Bytes of the tar.
    pub size: u64,
    /// Entries in it.
    pub entries: u64,
}

/// Why a tar could not be packed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum PackError {
    #[error(transparent)]
    Diff(#[from] DiffError),
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error(transparent)]
    Tar(#[from] TarWriteError),
}

/// Writes the layer that turns `lower` into `lower` with the overlay folder `upper` on top, and hashes it.
pub fn pack_diff(
    upper: &Path,
    lower: &Tree,
    sink: &mut dyn Write,
    options: &PackOptions,
) -> Result<PackedTar, PackError> {
    hashed(sink, |sink| write_diff(upper, lower, sink, options))
}

/// Writes a whole tree, as one layer on nothing, and hashes it. See [`write_tree`].
pub fn pack_tree(tree: &Tree, sink: &mut dyn Write, options: &PackOptions) -> Result<PackedTar, PackError> {
    hashed(sink, |sink| write_tree(tree, sink, options))
}

fn hashed(
    sink: &mut dyn Write,
    write: impl FnOnce(&mut dyn Write) -> Result<u64, PackError>,
) -> Result<PackedTar, PackError> {
    let mut sink = HashingWriter::new(sink);
    let entries = write(&mut sink)?;
    let (_, digest, size) = sink.finish();
    Ok(PackedTar { diff_id: DiffId(digest), size, entries })
}

/// Does what [`pack_diff`] does for a sink that hashes by itself; returns the number of entries.
pub fn write_diff(upper: &Path, lower: &Tree, sink: &mut dyn Write, options: &PackOptions) -> Result<u64, PackError> {
    let mut writer = Writer::new(sink);
    diff::walk(upper, lower, &mut |mut entry, file| {
        options.clamp(&mut entry);
        append(&mut writer, &entry, file)
    })?;
    end(writer)
}

/// Writes a whole tree, as one layer on nothing; returns the number of entries.
///
/// The root itself gets no entry, and sockets are left out.
pub fn write_tree(tree: &Tree, sink: &mut dyn Write, options: &PackOptions) -> Result<u64, PackError> {
    let mut writer = Writer::new(sink);
    append_tree(tree, b"", &mut writer, options)?;
    end(writer)
}

/// Writes several trees side by side, each in a folder of its own in the root; returns the number of entries.
pub fn write_trees(trees: &[(&str, &Tree)], sink: &mut dyn Write, options: &PackOptions) -> Result<u64, PackError> {
    let mut writer = Writer::new(sink);
    for (folder, tree) in trees {
        let mut entry = Entry::new(*folder, EntryKind::Directory, 0o755);
        options.clamp(&mut entry);
        append(&mut writer, &entry, None)?;
        append_tree(tree, folder.as_bytes(), &mut writer, options)?;
    }
    end(writer)
}

/// Writes all that is in a tree below a folder.
fn append_tree(
    tree: &Tree,
    folder: &[u8],
    writer: &mut Writer<&mut dyn Write>,
    options: &PackOptions,
) -> Result<(), PackError> {
    let mut sources: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
    let mut stack = tree.read_dir(&tree.root()?)?;
    stack.reverse();
    while let Some(node) = stack.pop() {
        let Some(mut entry) = node.entry() else { continue };
        entry.path = join_path(folder, &node.path);
        options.clamp(&mut entry);
        if node.kind == NodeKind::Directory {
            if options.all_xattrs {
                entry.xattrs = tree.xattrs(&node)?;
            }
            append(writer, &entry, None)?;
            let inside = tree.read_dir(&node)?;
            stack.extend(inside.into_iter().rev());
            continue;
        }
        if node.nlink > 1 {
            let inode = (node.dev, node.ino);
            if let Some(source) = sources.get(&inode) {
                entry.kind = EntryKind::Hardlink { target: source.clone() };
                append(writer, &entry, None)?;
                continue;
            }
            sources.insert(inode, entry.path.clone());
        }
        let file = match node.kind {
            NodeKind::File => {
                let file = tree.open(&node)?;
                entry.xattrs = beneath::all_xattrs(file.as_fd()).map_err(|errno| TreeError::Read {
                    path: String::from_utf8_lossy(&node.path).into_owned(),
                    source: errno.into(),
                })?;
                if !options.all_xattrs {
                    entry.xattrs.retain(|name, _| name == CAPABILITY.as_bytes());
                }
                Some(file)
            }
            _ => None,
        };
        append(writer, &entry, file)?;
    }
    Ok(())
}

fn end(writer: Writer<&mut dyn Write>) -> Result<u64, PackError> {
    let entries = writer.entries();
    writer.finish()?;
    Ok(entries)
}

fn append(writer: &mut Writer<&mut dyn Write>, entry: &Entry, file: Option<File>) -> Result<(), PackError> {
    let (mut nothing, mut file) = (io::empty(), file);
    let content: &mut dyn Read = match &mut file {
        Some(file) => file,
        None => &mut nothing,
    };
    Ok(writer.append(entry, content)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_layer_has_the_digest_that_all_builders_give_it() {
        let upper = tempfile::tempdir().unwrap();
        let nothing = Tree::of_layers(Vec::new()).unwrap();
        let mut tar = Vec::new();
        let packed = pack_diff(upper.path(), &nothing, &mut tar, &PackOptions::default()).unwrap();
        assert_eq!(
            packed.diff_id.to_string(),
            "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
        );
        assert_eq!((packed.size, packed.entries, tar), (1024, 0, vec![0; 1024]));
    }
}
