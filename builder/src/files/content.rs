//! What of a source decides the result of a step, for its cache key (`builder.md`, K5 and K6): modes, links and bytes,
//! not times.

use std::io::Write;
use std::sync::Arc;

use layer::{Node, NodeKind};
use oci::Digest;

use super::copy::Collected;
use super::source::SourceTree;
use crate::cache_key::KeyWriter;
use crate::cancel::Cancel;
use crate::fault::{Fault, StepError};

/// Writes what was collected into a key, reading the files of which no digest is known.
pub(crate) fn write(
    key: &mut KeyWriter,
    source: &SourceTree,
    collected: &[Arc<Collected>],
    cancel: &Cancel,
) -> Result<(), StepError> {
    for found in collected {
        // The name decides where a file goes only when the destination is a folder, but then it does.
        let name = if found.is_match || found.root.kind != NodeKind::Directory { found.name.as_slice() } else { b"" };
        key.bytes("name", name);
        // Of the folder itself only what is in it is copied.
        if found.root.kind != NodeKind::Directory {
            write_node(key, source, &found.root, cancel)?;
        }
        for item in found.items.iter() {
            let item = item?;
            key.bytes("path", item.path());
            // Such a folder leaves more of one that is there as it was.
            key.number("parent", item.is_parent.into());
            write_node(key, source, &item.node, cancel)?;
        }
        key.number("items", found.items.count());
    }
    key.number("sources", collected.len() as u64);
    Ok(())
}

/// Writes a file or folder itself into a key, and nothing of what is in it.
pub(crate) fn write_root(
    key: &mut KeyWriter,
    source: &SourceTree,
    root: &Node,
    cancel: &Cancel,
) -> Result<(), StepError> {
    write_node(key, source, root, cancel)
}

/// Lists what was collected, for telling later which file made a difference: mode, what it is, and path, each file on a
/// line. Files of which no digest is known are left out.
pub(crate) fn list(lines: &mut dyn Write, source: &SourceTree, collected: &[Arc<Collected>]) -> Result<(), StepError> {
    for found in collected {
        if found.root.kind != NodeKind::Directory {
            list_node(lines, source, &found.root)?;
        }
        for item in found.items.iter() {
            let item = item?;
            list_node(lines, source, &item.node)?;
        }
    }
    Ok(())
}

fn list_node(lines: &mut dyn Write, source: &SourceTree, node: &Node) -> Result<(), StepError> {
    let (what, text) = match node.kind {
        NodeKind::File => match source.known_digest(node) {
            Some(digest) => ("file", digest.hex().to_owned()),
            None => return Ok(()),
        },
        NodeKind::Directory => ("folder", String::new()),
        NodeKind::Symlink => ("link", Digest::sha256(node.target.as_deref().unwrap_or_default()).hex().to_owned()),
        NodeKind::Socket => ("socket", String::new()),
        NodeKind::CharDevice | NodeKind::BlockDevice => ("device", format!("{}:{}", node.rdev.0, node.rdev.1)),
        NodeKind::Fifo => ("fifo", String::new()),
    };
    let (uid, gid) = source.owner(node);
    let mode = if node.kind == NodeKind::Symlink { 0 } else { node.mode };
    // A path may hold anything but a zero.
    write!(lines, "{mode:o} {uid}:{gid} {what}:{text} ")
        .and_then(|()| lines.write_all(&node.path))
        .and_then(|()| lines.write_all(&[0]))
        .map_err(|error| Fault::because("cannot write the list of a step's files", &error).into())
}

/// Tells whether the digests of all files are known, so that writing the key costs nothing.
pub(crate) fn is_known(source: &SourceTree, collected: &[Arc<Collected>]) -> Result<bool, Fault> {
    let known = |node: &Node| node.kind != NodeKind::File || source.knows(node);
    for found in collected {
        if !known(&found.root) {
            return Ok(false);
        }
        for item in found.items.iter() {
            if !known(&item?.node) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn write_node(key: &mut KeyWriter, source: &SourceTree, node: &Node, cancel: &Cancel) -> Result<(), StepError> {
    let (uid, gid) = source.owner(node);
    let kind = match node.kind {
        NodeKind::File | NodeKind::Socket => "file",
        NodeKind::Directory => "folder",
        NodeKind::Symlink => "link",
        NodeKind::CharDevice => "character device",
        NodeKind::BlockDevice => "block device",
        NodeKind::Fifo => "fifo",
    };
    key.bytes("kind", kind.as_bytes());
    key.number("mode", if node.kind == NodeKind::Symlink { 0 } else { node.mode.into() });
    key.number("uid", uid.into());
    key.number("gid", gid.into());
    key.bytes("target", node.target.as_deref().unwrap_or_default());
    key.number("major", node.rdev.0.into());
    key.number("minor", node.rdev.1.into());
    for (name, value) in &source.capabilities(node)? {
        key.bytes("xattr", name);
        key.bytes("value", value);
    }
    if node.kind == NodeKind::File {
        key.bytes("content", source.digest(node, cancel)?.hex().as_bytes());
    }
    Ok(())
}
