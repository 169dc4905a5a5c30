//! The files of an image, as a tar or in a folder.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use layer::tree::{Follow, Node, NodeKind, Tree, TreeError};
use layer::{ApplyError, ApplyOptions, Devices, PackError, PackOptions, Whiteouts};
use store::{Image, ImageError, Snapshot, SnapshotError, Store};

/// Why files were not written.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum FilesError {
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("cannot unpack the image")]
    Unpack(#[from] SnapshotError),
    #[error("cannot read the image's files")]
    Tree(#[from] TreeError),
    #[error("cannot write the tar")]
    Pack(#[from] PackError),
    #[error("cannot write the tar")]
    Tar(#[from] layer::tar::TarWriteError),
    #[error("cannot write into `{}`", path.display())]
    Apply { path: PathBuf, source: ApplyError },
    #[error("cannot use `{}`", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("cannot make a pipe")]
    Pipe(#[source] io::Error),
}

/// Unpacks an image, where it is not already.
pub(crate) fn snapshot(store: &Store, image: &Image) -> Result<Snapshot, FilesError> {
    Ok(store.snapshots().ensure(&image.layers()?, &|_| {})?)
}

/// Writes all files of a snapshot as one tar; of several, each has a folder of its own.
pub(crate) fn write_tar(snapshots: &[(String, Snapshot)], mut sink: impl Write) -> Result<(), FilesError> {
    let trees = snapshots.iter().map(|(folder, snapshot)| Ok((folder.as_str(), snapshot.tree()?)));
    let trees = trees.collect::<Result<Vec<_>, FilesError>>()?;
    let options = PackOptions::default();
    match &trees[..] {
        [(_, tree)] => layer::write_tree(tree, &mut sink, &options)?,
        trees => {
            let trees: Vec<_> = trees.iter().map(|(folder, tree)| (*folder, tree)).collect();
            layer::write_trees(&trees, &mut sink, &options)?
        }
    };
    Ok(())
}

/// Writes all files of a snapshot into a folder, over what is there. Without root, everything belongs to the caller.
pub(crate) fn write_folder(snapshot: &Snapshot, folder: &Path) -> Result<(), FilesError> {
    let tree = snapshot.tree()?;
    // A plain user's files stay theirs, although they are root where this runs.
    into_folder(folder, layer::rights::is_machine_root(), |sink| {
        Ok(layer::pack_tree(&tree, sink, &PackOptions::default()).map(drop)?)
    })
}

/// Copies what lies below a folder of a snapshot into `folder`, with owners and modes; says whether it was there.
pub(crate) fn copy_out(tree: &Tree, path: &str, folder: &Path) -> Result<bool, FilesError> {
    let Some(root) = tree.lookup(path, Follow::Last)?.filter(|node| node.kind == NodeKind::Directory) else {
        return Ok(false);
    };
    into_folder(folder, layer::rights::gives_owners(), |sink| {
        let mut tar = layer::tar::Writer::new(sink);
        append_below(tree, &root, root.path.len(), &mut tar)?;
        tar.finish()?;
        Ok(())
    })?;
    Ok(true)
}

fn append_below<W: Write>(
    tree: &Tree,
    node: &Node,
    prefix: usize,
    tar: &mut layer::tar::Writer<W>,
) -> Result<(), FilesError> {
    if let Some(mut entry) = node.entry() {
        let below = entry.path.get(prefix..).unwrap_or_default();
        entry.path = below.strip_prefix(b"/").unwrap_or(below).to_vec();
        entry.xattrs = tree.xattrs(node)?;
        if node.kind == NodeKind::File {
            tar.append(&entry, &mut tree.open(node)?)?;
        } else {
            tar.append_empty(&entry)?;
        }
    }
    if node.kind == NodeKind::Directory {
        for child in tree.read_dir(node)? {
            append_below(tree, &child, prefix, tar)?;
        }
    }
    Ok(())
}

/// Runs a writer of a tar on one side of a pipe, and applies the tar to a folder on the other.
fn into_folder(
    folder: &Path,
    chown: bool,
    write: impl FnOnce(&mut dyn Write) -> Result<(), FilesError> + Send,
) -> Result<(), FilesError> {
    let failed = |source| FilesError::Folder { path: folder.to_owned(), source };
    fs::create_dir_all(folder).map_err(failed)?;
    let root = File::open(folder).map_err(failed)?;
    let (mut reader, writer) = io::pipe().map_err(FilesError::Pipe)?;
    let options = ApplyOptions {
        whiteouts: Whiteouts::Literal,
        chown,
        devices: if layer::rights::is_machine_root() { Devices::CreateIfPermitted } else { Devices::Skip },
        ..ApplyOptions::default()
    };
    std::thread::scope(|scope| {
        let writing = scope.spawn(move || {
            let mut writer = io::BufWriter::with_capacity(256 << 10, writer);
            write(&mut writer)?;
            writer.flush().map_err(FilesError::Pipe)
        });
        let applied = layer::apply(&mut reader, root.as_fd(), &options);
        // The writer must not wait for a reader that is gone.
        drop(reader);
        let written = match writing.join() {
            Ok(written) => written,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        match applied {
            Ok(_) => written,
            Err(source) => match written {
                // What broke the tar is the better explanation, unless it is only that nobody reads any more.
                Err(error) if !matches!(error, FilesError::Pipe(_) | FilesError::Pack(_) | FilesError::Tar(_)) => {
                    Err(error)
                }
                _ => Err(FilesError::Apply { path: folder.to_owned(), source }),
            },
        }
    })
}
