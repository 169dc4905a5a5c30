//! `ADD` of an archive: its files, as changes.
//!
//! The archive is its own root: `..` and absolute names and links stay in the folder it is unpacked into, as with a
//! chroot there.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use layer::compress;
use layer::entry::{join_path, split_path};
use layer::{EntryKind, Node, NodeKind, Timestamp, tar, tar::TarError};

use super::changes::{Change, Changes, Data};
use super::path::{self, Step, clean, lossy};
use super::source::SourceTree;
use super::view::step;
use crate::cancel::Cancel;
use crate::fault::{Fault, StepError};

/// Tells whether a file is an archive: it can be decompressed, and begins with a tar header.
pub(crate) fn is_archive(source: &SourceTree, node: &Node) -> Result<bool, Fault> {
    if node.kind != NodeKind::File {
        return Ok(false);
    }
    let Ok((_, plain)) = compress::decoder(source.open(node)?) else { return Ok(false) };
    Ok(matches!(tar::Reader::new(plain).next_entry(), Ok(Some(_)) | Err(TarError::Unfit { .. })))
}

/// An archive, and how it is unpacked.
pub(crate) struct Archive<'a> {
    /// Where it is.
    pub(crate) source: &'a SourceTree,
    /// The file.
    pub(crate) node: &'a Node,
    /// `--chown`.
    pub(crate) owner: Option<(u32, u32)>,
    /// Tells its hardlinks from those of other sources.
    pub(crate) call: u32,
    /// A folder of the disk that takes its files meanwhile.
    pub(crate) spool: &'a Path,
}

/// Unpacks an archive below `destination`. What follows its end is not looked at.
pub(crate) fn apply(
    changes: &mut Changes,
    archive: &Archive<'_>,
    destination: &str,
    cancel: &Cancel,
) -> Result<(), StepError> {
    let Archive { source, node, owner, call, spool } = *archive;
    let name = lossy(&node.path);
    changes.thaw()?;
    let folder = changes.resolve(&clean(destination.as_bytes()))?;
    changes.make_folders(&folder, 0o755, owner.unwrap_or_default())?;
    let unreadable =
        |error: &(dyn std::error::Error + 'static)| Fault::because(format!("cannot unpack `{name}`"), error);
    let file = source.open(node)?;
    let opened = file.try_clone().map_err(|error| unreadable(&error))?;
    let (_, plain) = compress::decoder(opened).map_err(|error| unreadable(&error))?;
    let mut reader = tar::Reader::new(plain);
    let spool = Arc::new(unnamed_file(spool).map_err(|error| unreadable(&error))?);
    let mut unpacker = Unpacker { changes, folder, owner, call, spool, spooled: 0, names: Vec::new() };
    while let Some(entry) = reader.next_entry().map_err(|error| unreadable(&error))? {
        if cancel.is_cancelled() {
            return Err(StepError::Cancelled);
        }
        unpacker
            .take(entry, &mut reader)
            .map_err(|fault| Fault { message: format!("cannot unpack `{name}`: {}", fault.message), ..fault })?;
    }
    Ok(source.check_unchanged(node, &file)?)
}

struct Unpacker<'a> {
    changes: &'a mut Changes,
    folder: Vec<u8>,
    owner: Option<(u32, u32)>,
    call: u32,
    spool: Arc<File>,
    spooled: u64,
    /// The paths of each file that has several.
    names: Vec<Vec<Vec<u8>>>,
}

impl Unpacker<'_> {
    fn take(&mut self, mut entry: layer::Entry, data: &mut dyn Read) -> Result<(), Fault> {
        let inside = clean(&entry.path);
        if inside.is_empty() {
            // The root itself, `./`: the folder is there and stays as it is.
            return Ok(());
        }
        let (above, name) = split_path(&inside);
        let above = match self.resolve(above)? {
            (above, true) => above,
            (above, false) => {
                if self.lstat_inside(split_path(&inside).0)? {
                    // A link that leads nowhere: nothing can be made behind it.
                    return Err(Fault::new(format!("open /{}: no such file or directory", lossy(&inside))));
                }
                // Folders that the archive only implies belong to root, whatever `--chown` says.
                self.changes.make_folders(&above, 0o755, (0, 0))?;
                above
            }
        };
        if self.changes.lstat(&above)?.is_some_and(|above| above.kind != NodeKind::Directory) {
            return Err(Fault::new(format!("open /{}: not a directory", lossy(&inside))));
        }
        entry.path = join_path(&above, name);
        self.own(&mut entry);
        let mut change = match &entry.kind {
            EntryKind::Hardlink { target } => return self.link(&entry, &clean(target)),
            EntryKind::File { size } => {
                let (offset, size) = (self.spooled, *size);
                let copied = io::copy(&mut data.take(size), &mut &*self.spool)
                    .map_err(|error| Fault::because(format!("cannot read `{}`", lossy(&inside)), &error))?;
                self.spooled += copied;
                if copied != size {
                    return Err(Fault::new(format!("`{}` ends too early", lossy(&inside))));
                }
                Change::new(entry, Data::Range(self.spool.clone(), offset))
            }
            _ => Change::new(entry, Data::None),
        };
        change.entry.xattrs.retain(|name, _| name == CAPABILITY);
        if change.entry.xattrs.get(CAPABILITY).is_some_and(|value| !is_capability(value)) {
            return Err(Fault::new(format!("`{}` has capabilities that Linux does not take", lossy(&inside))));
        }
        self.changes.put(change)
    }

    /// Makes a second name for a file that the archive held before. Both get the metadata of the second's header, as it is
    /// one file.
    fn link(&mut self, header: &layer::Entry, target: &[u8]) -> Result<(), Fault> {
        let missing = || Fault::new(format!("link to /{}: no such file or directory", lossy(target)));
        let (folder, name) = split_path(target);
        let target = join_path(&self.resolve(folder)?.0, name);
        let change = match self.changes.get_mut(&target) {
            Some(change) if change.entry.kind != EntryKind::Directory => change,
            _ => return Err(missing()),
        };
        let identity = *change.identity.get_or_insert_with(|| {
            self.names.push(vec![target.clone()]);
            (self.call, u64::MAX, self.names.len() as u64 - 1)
        });
        let twin = self.changes.twin(&target, &header.path).ok_or_else(missing)?;
        self.changes.put(twin)?;
        let names = usize::try_from(identity.2).ok().and_then(|index| self.names.get_mut(index)).ok_or_else(missing)?;
        names.push(header.path.clone());
        for name in names {
            if let Some(change) = self.changes.get_mut(name).filter(|change| change.identity == Some(identity)) {
                let entry = &mut change.entry;
                (entry.mode, entry.uid, entry.gid, entry.mtime) = (header.mode, header.uid, header.gid, header.mtime);
            }
        }
        Ok(())
    }

    fn own(&self, entry: &mut layer::Entry) {
        if let Some(owner) = self.owner {
            (entry.uid, entry.gid) = owner;
        }
        entry.mtime = Timestamp::from_seconds(entry.mtime.seconds);
    }

    /// Resolves a folder of the archive inside the folder it is unpacked into, and tells whether it is there.
    fn resolve(&self, inside: &[u8]) -> Result<(Vec<u8>, bool), Fault> {
        let below = |path: &[u8]| if path.is_empty() { self.folder.clone() } else { join_path(&self.folder, path) };
        let resolved = path::resolve(inside, true, &mut |path| -> Result<Step, Fault> {
            self.changes.lstat(&below(path)).map(step)
        })?;
        let path = below(&resolved);
        let there = path.is_empty() || self.changes.lstat(&path)?.is_some();
        Ok((path, there))
    }

    /// Tells whether something, be it a link, is at a path of the archive.
    fn lstat_inside(&self, inside: &[u8]) -> Result<bool, Fault> {
        let (above, name) = split_path(inside);
        let (above, _) = self.resolve(above)?;
        Ok(!name.is_empty() && self.changes.lstat(&join_path(&above, name))?.is_some())
    }
}

const CAPABILITY: &[u8] = b"security.capability";

/// Tells whether Linux takes this as the capabilities of a file: `struct vfs_cap_data` of revision 2 or 3.
fn is_capability(value: &[u8]) -> bool {
    let revision = value.first_chunk().map(|magic| u32::from_le_bytes(*magic) & 0xFF00_0000);
    matches!((revision, value.len()), (Some(0x0200_0000), 20) | (Some(0x0300_0000), 24))
}

/// Makes a file without a name, which is gone with its last descriptor.
pub(crate) fn unnamed_file(folder: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR)?))
}
