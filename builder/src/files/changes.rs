//! [`Changes`]: what a step does to the files below it, and the layer that says so.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use layer::entry::{OPAQUE_WHITEOUT, join_path, split_path};
use layer::hashing::HashingReader;
use layer::{Entry, EntryKind, Node, Timestamp, tar};

use super::index::Stat;
use super::path::{self, lossy};
use super::source::SourceTree;
use super::view::{View, step};
use crate::cancel::Cancel;
use crate::fault::{Fault, StepError};

/// Where the bytes of a file are until the layer is written.
#[derive(Debug)]
pub(crate) enum Data {
    /// It has none.
    None,
    /// In a source.
    Source(Arc<SourceTree>, Arc<Node>),
    /// Here.
    Bytes(Vec<u8>),
    /// In an archive, unpacked into an unnamed file.
    Range(Arc<File>, u64),
}

/// A file as it will be.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) entry: Entry,
    pub(crate) data: Data,
    /// Its time is the newest of all that is copied: it did not exist anywhere before.
    pub(crate) is_new: bool,
    /// Nothing of a folder below shows through.
    pub(crate) opaque: bool,
    /// Files with the same identity become hardlinks of each other.
    pub(crate) identity: Option<(u32, u64, u64)>,
}

impl Change {
    pub(crate) fn new(entry: Entry, data: Data) -> Self {
        Self { entry, data, is_new: false, opaque: false, identity: None }
    }
}

/// Which times the files of a layer get.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// For what is new when nothing is copied: the time of the step before.
    pub(crate) fallback: i64,
    /// `SOURCE_DATE_EPOCH`: no file is newer, and what is new is of this time.
    pub(crate) epoch: Option<i64>,
}

/// The files that a step changes, on top of a view of those below.
#[derive(Debug)]
pub(crate) struct Changes {
    view: View,
    changes: BTreeMap<Vec<u8>, Change>,
    newest: Option<i64>,
}

impl Changes {
    pub(crate) fn new(view: View) -> Self {
        Self { view, changes: BTreeMap::new(), newest: None }
    }

    /// Looks at a path that has no symbolic link on its way.
    pub(crate) fn lstat(&self, path: &[u8]) -> Result<Option<Stat>, Fault> {
        if path.is_empty() {
            // The root is always there, even where no layer speaks of it.
            return Ok(Some(Stat::of(&Entry::new(Vec::new(), EntryKind::Directory, 0o755))));
        }
        if let Some(change) = self.changes.get(path) {
            return Ok(Some(Stat::of(&change.entry)));
        }
        let hides = |change: &Change| change.opaque || change.entry.kind != EntryKind::Directory;
        if path::ancestors(path).any(|above| self.changes.get(above).is_some_and(hides)) {
            return Ok(None);
        }
        self.view.lstat(path)
    }

    /// Resolves every symbolic link of a path inside the root.
    pub(crate) fn resolve(&self, path: &[u8]) -> Result<Vec<u8>, Fault> {
        path::resolve(path, true, &mut |path| self.lstat(path).map(step))
    }

    /// Makes a folder and all that are missing above it.
    pub(crate) fn make_folders(&mut self, path: &[u8], mode: u32, owner: (u32, u32)) -> Result<(), Fault> {
        let mut folders: Vec<&[u8]> = path::ancestors(path).collect();
        folders.reverse();
        folders.extend((!path.is_empty()).then_some(path));
        for folder in folders {
            match self.lstat(folder)? {
                Some(stat) if stat.is_folder() => {}
                Some(_) => return Err(Fault::new(format!("mkdir /{}: not a directory", lossy(folder)))),
                None => {
                    let mut entry = Entry::new(folder, EntryKind::Directory, mode);
                    (entry.uid, entry.gid) = owner;
                    self.put(Change { is_new: true, ..Change::new(entry, Data::None) })?;
                }
            }
        }
        Ok(())
    }

    /// Puts a file in its place. The caller has made sure that the folder is there, and that what is replaced may be.
    pub(crate) fn put(&mut self, mut change: Change) -> Result<(), Fault> {
        if !change.is_new {
            let seconds = change.entry.mtime.seconds;
            self.newest = Some(self.newest.map_or(seconds, |newest| newest.max(seconds)));
        }
        let path = change.entry.path.clone();
        if change.entry.kind == EntryKind::Directory {
            let before = self.changes.get(&path);
            change.opaque = match before {
                Some(before) if before.entry.kind == EntryKind::Directory => before.opaque,
                Some(_) => self.view.lstat(&path)?.is_some_and(|stat| stat.is_folder()),
                None => false,
            };
        } else {
            self.forget_below(&path);
        }
        self.changes.insert(path, change);
        Ok(())
    }

    /// Returns what was put at a path, to change it.
    pub(crate) fn get_mut(&mut self, path: &[u8]) -> Option<&mut Change> {
        self.changes.get_mut(path)
    }

    /// Returns what was put at a path, as it will be at another.
    pub(crate) fn twin(&self, path: &[u8], other: &[u8]) -> Option<Change> {
        let Change { entry, data, is_new, opaque: _, identity } = self.changes.get(path)?;
        let data = match data {
            Data::None => Data::None,
            Data::Source(source, node) => Data::Source(source.clone(), node.clone()),
            Data::Bytes(bytes) => Data::Bytes(bytes.clone()),
            Data::Range(file, offset) => Data::Range(file.clone(), *offset),
        };
        let entry = Entry { path: other.to_vec(), ..entry.clone() };
        Some(Change { entry, data, is_new: *is_new, opaque: false, identity: *identity })
    }

    fn forget_below(&mut self, folder: &[u8]) {
        let start = join_path(folder, b"");
        let below: Vec<_> = self
            .changes
            .range(start.clone()..)
            .map(|(path, _)| path)
            .take_while(|path| path.starts_with(&start))
            .cloned()
            .collect();
        for path in below {
            self.changes.remove(&path);
        }
    }

    /// Returns the newest time of what is copied, or the fallback: when this step's layer counts as made.
    pub(crate) fn created(&self, times: Times) -> i64 {
        times.epoch.unwrap_or_else(|| self.newest.unwrap_or(times.fallback))
    }

    /// Writes the layer, in one pass over all sources, and returns its headers.
    pub(crate) fn write(mut self, sink: impl Write, times: Times, cancel: &Cancel) -> Result<Vec<Entry>, StepError> {
        let created = Timestamp::from_seconds(self.created(times));
        let clamp = |mtime: Timestamp| times.epoch.map_or(mtime, |epoch| mtime.min(Timestamp::from_seconds(epoch)));
        let mut writer = tar::Writer::new(sink);
        let mut written = Vec::with_capacity(self.changes.len());
        let mut parents = BTreeSet::new();
        let mut identities: HashMap<(u32, u64, u64), Vec<u8>> = HashMap::new();
        for (path, change) in std::mem::take(&mut self.changes) {
            if cancel.is_cancelled() {
                return Err(StepError::Cancelled);
            }
            self.write_parents(&path, &clamp, &mut parents, &mut writer, &mut written)?;
            let Change { mut entry, data, is_new, opaque, identity } = change;
            entry.mtime = if is_new { created } else { clamp(entry.mtime) };
            if entry.kind == EntryKind::Directory {
                parents.insert(path.clone());
            }
            if let Some(first) = identity.and_then(|identity| identities.get(&identity)) {
                entry.kind = EntryKind::Hardlink { target: first.clone() };
                writer.append_empty(&entry)?;
            } else {
                append(&mut writer, &entry, data, cancel)?;
                if let Some(identity) = identity {
                    identities.insert(identity, path.clone());
                }
            }
            written.push(entry);
            if opaque {
                let name = join_path(&path, OPAQUE_WHITEOUT);
                let entry = Entry::new(name, EntryKind::File { size: 0 }, 0);
                writer.append_empty(&entry)?;
                written.push(entry);
            }
        }
        writer.finish()?;
        Ok(written)
    }

    /// Writes the headers of the folders above a path as they are, once each.
    fn write_parents<W: Write>(
        &self,
        path: &[u8],
        clamp: &dyn Fn(Timestamp) -> Timestamp,
        parents: &mut BTreeSet<Vec<u8>>,
        writer: &mut tar::Writer<W>,
        written: &mut Vec<Entry>,
    ) -> Result<(), StepError> {
        let (folder, _) = split_path(path);
        if folder.is_empty() || parents.contains(folder) {
            return Ok(());
        }
        let mut missing: Vec<&[u8]> = path::ancestors(path).take_while(|folder| !parents.contains(*folder)).collect();
        missing.reverse();
        for folder in missing {
            if let Some(stat) = self.view.lstat(folder)? {
                let mut entry = Entry::new(folder, EntryKind::Directory, stat.mode);
                (entry.uid, entry.gid, entry.mtime) = (stat.uid, stat.gid, clamp(stat.mtime));
                writer.append_empty(&entry)?;
                written.push(entry);
            }
            parents.insert(folder.to_vec());
        }
        Ok(())
    }
}

fn append<W: Write>(writer: &mut tar::Writer<W>, entry: &Entry, data: Data, cancel: &Cancel) -> Result<(), StepError> {
    let result = match data {
        Data::None => writer.append_empty(entry),
        Data::Bytes(bytes) => writer.append(entry, &mut bytes.as_slice()),
        Data::Range(file, offset) => writer.append(entry, &mut Stoppable(RangeReader { file, offset }, cancel)),
        Data::Source(source, node) => return append_source(writer, entry, &source, &node, cancel),
    };
    result.map_err(|error| if cancel.is_cancelled() { StepError::Cancelled } else { error.into() })
}

fn append_source<W: Write>(
    writer: &mut tar::Writer<W>,
    entry: &Entry,
    source: &SourceTree,
    node: &Node,
    cancel: &Cancel,
) -> Result<(), StepError> {
    let file = source.open(node)?;
    let mut reader = Stoppable(&file, cancel);
    let (result, digest) = if source.knows(node) {
        (writer.append(entry, &mut reader), None)
    } else {
        let mut reader = HashingReader::new(reader);
        let result = writer.append(entry, &mut reader);
        (result, Some(reader.finish().1))
    };
    if cancel.is_cancelled() {
        return Err(StepError::Cancelled);
    }
    // A file that became shorter ends the writing early; that it changed says more than that.
    source.check_unchanged(node, &file)?;
    result?;
    if let Some(digest) = digest {
        source.remember(node, digest);
    }
    Ok(())
}

/// Stops reading when the build is cancelled.
struct Stoppable<'a, R>(R, &'a Cancel);

impl<R: Read> Read for Stoppable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.1.is_cancelled() {
            return Err(io::Error::other("the build was cancelled"));
        }
        self.0.read(buffer)
    }
}

/// Reads a file from an offset without moving the place where others read it.
struct RangeReader {
    file: Arc<File>,
    offset: u64,
}

impl Read for RangeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::copy::{self, Manner, Selection};
    use crate::ignore::Ignore;
    use crate::stat_cache::Digests;

    /// Does something to the context when the layer's first bytes come.
    struct Meddler<'a>(Option<&'a dyn Fn()>);

    impl Write for Meddler<'_> {
        fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
            if let Some(meddle) = self.0.take() {
                meddle();
            }
            Ok(buffer.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test's own files")]
    fn a_context_that_changes_while_it_is_read_is_refused() {
        type Meddle<'a> = &'a dyn Fn(&std::path::Path);
        let rewrite = |path: &std::path::Path| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            std::fs::write(path, vec![b'2'; 4 << 20]).expect("written");
        };
        let replace = |path: &std::path::Path| {
            std::fs::write(path.with_extension("new"), vec![b'2'; 4 << 20]).expect("written");
            std::fs::rename(path.with_extension("new"), path).expect("renamed");
        };
        let shorten = |path: &std::path::Path| std::fs::write(path, "").expect("written");
        let remove = |path: &std::path::Path| std::fs::remove_file(path).expect("removed");
        let cases: [(Meddle<'_>, &str); 5] = [
            (&|_| {}, ""),
            (&rewrite, "`b` changed while it was read"),
            (&replace, "`b` changed while it was read"),
            (&shorten, "`b` changed while it was read"),
            (&remove, "cannot read `/b`"),
        ];
        for is_known in [false, true] {
            for (meddle, message) in &cases {
                let folder = tempfile::tempdir().expect("tempdir");
                let path = folder.path().join("b");
                std::fs::write(folder.path().join("a"), vec![b'0'; 4 << 20]).expect("written");
                std::fs::write(&path, vec![b'1'; 4 << 20]).expect("written");
                let tree = layer::Tree::of_folder(folder.path()).expect("opened");
                let source = Arc::new(SourceTree::of_folder(tree, Ignore::default(), Digests::default()));
                let mut changes = Changes::new(View::empty());
                for found in copy::collect(&source, &Selection::default()).expect("walked") {
                    if is_known {
                        source.digest(&found.items[1].node, &Cancel::new()).expect("read");
                    }
                    copy::apply(&mut changes, &source, &found, "/", &Manner::default(), 1).expect("copied");
                }
                let meddle = || meddle(&path);
                let times = Times { fallback: 0, epoch: None };
                let told = match changes.write(Meddler(Some(&meddle)), times, &Cancel::new()) {
                    Ok(_) => String::new(),
                    Err(StepError::Fault(fault)) => fault.message,
                    Err(other) => panic!("{other:?}"),
                };
                assert!(told.starts_with(message) && told.is_empty() == message.is_empty(), "{told} for {message}");
            }
        }
    }
}
