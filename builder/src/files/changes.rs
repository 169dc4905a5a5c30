//! [`Changes`]: what a step does to the files below it, and the layer that says so.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use layer::entry::{OPAQUE_WHITEOUT, WHITEOUT_PREFIX, join_path, split_path};
use layer::hashing::HashingReader;
use layer::{Entry, EntryKind, Node, Timestamp, tar};
use oci::Digest;

use super::bulk::Bulk;
use super::index::Stat;
use super::outline::{Cursor, Identity, Outline, Place, Places};
use super::path::{self, lossy};
use super::source::SourceTree;
use super::view::{View, step};
use crate::cancel::Cancel;
use crate::fault::{Fault, StepError};

/// Where the bytes of a file are until the layer is written.
#[derive(Clone, Debug)]
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
    /// By path, with zeros for the slashes: then they are in the order of a walk. The entries have no paths of their own,
    /// which would take memory for each file once more.
    changes: BTreeMap<Vec<u8>, Box<Change>>,
    /// What is in a folder of which there are only the folders above, and itself, among `changes`.
    bulk: Option<Bulk>,
    newest: Option<i64>,
    /// `SOURCE_DATE_EPOCH`, once [`Changes::settle`] knows it.
    epoch: Option<i64>,
}

impl Changes {
    pub(crate) fn new(view: View) -> Self {
        Self { view, changes: BTreeMap::new(), bulk: None, newest: None, epoch: None }
    }

    /// Returns what is below the changes.
    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    /// Looks at a path that has no symbolic link on its way.
    pub(crate) fn lstat(&self, path: &[u8]) -> Result<Option<Stat>, Fault> {
        if path.is_empty() {
            // The root is always there, even where no layer speaks of it.
            return Ok(Some(Stat::of(&Entry::new(Vec::new(), EntryKind::Directory, 0o755))));
        }
        let key = key(path);
        if let Some(change) = self.changes.get(&key) {
            return Ok(Some(Stat::of(&change.entry)));
        }
        let hides = |change: &Change| change.opaque || change.entry.kind != EntryKind::Directory;
        let mut above = memchr::memrchr_iter(0, &key).map(|end| &key[..end]);
        if above.any(|above| self.changes.get(above).is_some_and(|change| hides(change))) {
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
            self.newest = self.newest.max(Some(change.entry.mtime.seconds));
        }
        let path = std::mem::take(&mut change.entry.path);
        let key = key(&path);
        if change.entry.kind == EntryKind::Directory {
            let before = self.changes.get(&key);
            change.opaque = match before {
                Some(before) if before.entry.kind == EntryKind::Directory => before.opaque,
                Some(_) => self.view.lstat(&path)?.is_some_and(|stat| stat.is_folder()),
                None => false,
            };
        } else {
            self.forget_below(&key);
        }
        self.changes.insert(key, Box::new(change));
        Ok(())
    }

    /// Tells whether nothing was changed so far but a folder and those above it.
    pub(crate) fn is_only_above(&self, folder: &[u8]) -> bool {
        let folder = key(folder);
        let is_above =
            |path: &[u8]| folder.strip_prefix(path).is_some_and(|rest| rest.first().is_none_or(|byte| *byte == 0));
        self.bulk.is_none() && self.changes.iter().all(|(path, change)| !change.opaque && is_above(path))
    }

    /// Puts all that is in a folder in its place, where [nothing else](Changes::is_only_above) is. Whoever puts more must
    /// [thaw](Changes::thaw) it first.
    pub(crate) fn put_bulk(&mut self, bulk: Bulk) {
        self.newest = self.newest.max(bulk.newest);
        self.bulk = Some(bulk);
    }

    /// Puts a folder's content in its place file by file, so that others can be put beside them.
    pub(crate) fn thaw(&mut self) -> Result<(), Fault> {
        let Some(bulk) = self.bulk.take() else { return Ok(()) };
        // A bulk looks only at what is below.
        let view = std::mem::replace(&mut self.view, View::empty());
        let thawed = bulk.thaw(&view, &mut |change| self.put(change));
        self.view = view;
        thawed
    }

    /// Returns what was put at a path, to change it.
    pub(crate) fn get_mut(&mut self, path: &[u8]) -> Option<&mut Change> {
        self.changes.get_mut(&key(path)).map(Box::as_mut)
    }

    /// Returns what was put at a path, as it will be at another.
    pub(crate) fn twin(&self, path: &[u8], other: &[u8]) -> Option<Change> {
        let change = self.changes.get(&key(path))?;
        let Change { entry, data, is_new, opaque: _, identity } = &**change;
        let entry = Entry { path: other.to_vec(), ..entry.clone() };
        Some(Change { entry, data: data.clone(), is_new: *is_new, opaque: false, identity: *identity })
    }

    fn forget_below(&mut self, folder: &[u8]) {
        let start = [folder, &[0]].concat();
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

    /// Yields the files whose names are how a layer says that another file is gone: `.wh.NAME`.
    pub(crate) fn whiteouts(&self) -> impl Iterator<Item = Vec<u8>> {
        let is_whiteout = |path: &Vec<u8>| split_path(path).1.starts_with(WHITEOUT_PREFIX);
        let bulk = self.bulk.iter().flat_map(|bulk| bulk.whiteouts.iter().cloned());
        self.changes.keys().map(|key| path_of(key)).filter(is_whiteout).chain(bulk)
    }

    /// Returns the newest time of what is copied, or the fallback: when this step's layer counts as made.
    pub(crate) fn created(&self, times: Times) -> i64 {
        times.epoch.unwrap_or_else(|| self.newest.unwrap_or(times.fallback))
    }

    /// Gives everything the time it will have, and makes the second names of a file hardlinks of its first.
    pub(crate) fn settle(&mut self, times: Times) {
        let created = Timestamp::from_seconds(self.created(times));
        self.epoch = times.epoch;
        let mut identities: HashMap<(u32, u64, u64), Vec<u8>> = HashMap::new();
        for (path, change) in &mut self.changes {
            let entry = &mut change.entry;
            entry.mtime = if change.is_new { created } else { clamp(entry.mtime, times.epoch) };
            let Some(identity) = change.identity else { continue };
            match identities.get(&identity) {
                Some(first) => {
                    entry.kind = EntryKind::Hardlink { target: first.clone() };
                    change.data = Data::None;
                }
                None => drop(identities.insert(identity, path_of(path))),
            }
        }
    }

    /// Hands out what was settled in the order of a walk: the entry, its bytes, and whether nothing shows through.
    fn each(&self, mut take: impl FnMut(Entry, &Data, bool) -> Result<(), StepError>) -> Result<(), StepError> {
        for (key, Change { entry, data, opaque, .. }) in self.changes.iter().map(|(key, change)| (key, &**change)) {
            take(Entry { path: path_of(key), ..entry.clone() }, data, *opaque)?;
        }
        let Some(bulk) = &self.bulk else { return Ok(()) };
        bulk.each(&self.view, &mut |Change { mut entry, data, .. }| {
            entry.mtime = clamp(entry.mtime, self.epoch);
            take(entry, &data, false)
        })
    }

    fn count(&self) -> u64 {
        self.changes.len() as u64 + self.bulk.as_ref().map_or(0, Bulk::count)
    }

    /// Tells of each change, in order, whether it is in an earlier layer; `None` when that are so few that the layer is
    /// better written whole.
    pub(crate) fn find_in(&self, outline: &Outline) -> Result<Option<Vec<bool>>, StepError> {
        let (mut all, mut fresh) = (0_u64, 0_u64);
        let mut found = Vec::new();
        let mut cursor = outline.cursor();
        self.each(|entry, data, _| {
            // A header, and about what it costs to open a file and read it.
            let cost = entry.size() + 4096;
            all += cost;
            let known = data.known_digest().map(|content| Identity::of(&entry, content.as_ref()));
            let place = cursor.find(&entry.path)?;
            let same = place.is_some_and(|place| known == Some(place.identity));
            fresh += if same { 0 } else { cost };
            found.push(same);
            Ok(())
        })?;
        Ok((fresh <= all / 4).then_some(found))
    }

    /// Writes the layer of what was settled, in one pass over all sources but those that lie in the outline, where
    /// [`Changes::find_in`] found them. The sink must be a patch of its base then. `spool` is a folder for lists.
    pub(crate) fn write<S: Sink>(
        &self,
        sink: &mut S,
        outline: Option<(&Outline, &[bool])>,
        spool: &Path,
        cancel: &Cancel,
    ) -> Result<Written, StepError> {
        let (outline, found) = outline.unzip();
        let mut found = found.unwrap_or_default().iter();
        let headers = (self.count() <= MAX_HEADERS as u64).then(Vec::new);
        let written = Written { headers, places: Places::new(spool) };
        let cursor = outline.map(Outline::cursor);
        let mut writer = LayerWriter { tar: tar::Writer::new(sink), cursor, cancel, written };
        // The last folder whose header, and those of the folders above it, were written.
        let mut folder = Vec::new();
        self.each(|entry, data, opaque| {
            if cancel.is_cancelled() {
                return Err(StepError::Cancelled);
            }
            self.write_parents(&entry.path, &mut folder, &mut writer)?;
            let path = entry.path.clone();
            if entry.kind == EntryKind::Directory {
                folder.clone_from(&path);
            }
            match found.next() {
                Some(true) => writer.keep(entry)?,
                _ => writer.append(entry, data)?,
            }
            if opaque {
                let name = join_path(&path, OPAQUE_WHITEOUT);
                writer.append(Entry::new(name, EntryKind::File { size: 0 }, 0), &Data::None)?;
            }
            Ok(())
        })?;
        writer.tar.finish()?;
        Ok(writer.written)
    }

    /// Writes the headers of the folders above a path as they are, once each: paths come in the order of a walk, so those
    /// that were written are above the last, or it.
    fn write_parents(
        &self,
        path: &[u8],
        written: &mut Vec<u8>,
        writer: &mut LayerWriter<'_, impl Sink>,
    ) -> Result<(), StepError> {
        let is_written = |folder: &[u8]| *folder == **written || path::is_below(written, folder);
        let mut missing: Vec<&[u8]> = path::ancestors(path).take_while(|folder| !is_written(folder)).collect();
        missing.reverse();
        for folder in &missing {
            if let Some(stat) = self.view.lstat(folder)? {
                let mut entry = Entry::new(*folder, EntryKind::Directory, stat.mode);
                (entry.uid, entry.gid, entry.mtime) = (stat.uid, stat.gid, clamp(stat.mtime, self.epoch));
                writer.append(entry, &Data::None)?;
            }
        }
        if let Some(last) = missing.last() {
            *written = last.to_vec();
        }
        Ok(())
    }
}

/// Returns a path so that bytes are sorted as a walk meets paths.
fn key(path: &[u8]) -> Vec<u8> {
    path.iter().map(|byte| if *byte == b'/' { 0 } else { *byte }).collect()
}

fn path_of(key: &[u8]) -> Vec<u8> {
    key.iter().map(|byte| if *byte == 0 { b'/' } else { *byte }).collect()
}

/// Makes a time no later than the epoch.
fn clamp(mtime: Timestamp, epoch: Option<i64>) -> Timestamp {
    epoch.map_or(mtime, |epoch| mtime.min(Timestamp::from_seconds(epoch)))
}

impl Data {
    /// Returns the digest of the bytes, or nothing for no bytes; `None` when reading would tell.
    fn known_digest(&self) -> Option<Option<Digest>> {
        match self {
            Self::None => Some(None),
            Self::Source(source, node) => source.known_digest(node).map(Some),
            Self::Bytes(bytes) => Some(Some(Digest::sha256(bytes))),
            Self::Range(..) => None,
        }
    }
}

/// What is known of a layer that was written.
#[derive(Debug)]
pub(crate) struct Written {
    /// The headers, unless there are so many that they would fill memory.
    pub(crate) headers: Option<Vec<Entry>>,
    /// Where the entries are of which the content is known.
    pub(crate) places: Places,
}

/// Up to so many headers of a new layer stay in memory.
const MAX_HEADERS: usize = 20_000;

/// Where a layer's tar goes.
pub(crate) trait Sink: Write {
    /// Takes the next bytes from the layer that the outline is of.
    fn keep(&mut self, offset: u64, length: u64) -> io::Result<()>;
}

/// Writes entries, or takes them from an earlier layer.
struct LayerWriter<'a, S: Sink> {
    tar: tar::Writer<&'a mut S>,
    /// Where the earlier layer has which entry.
    cursor: Option<Cursor<'a>>,
    cancel: &'a Cancel,
    written: Written,
}

impl<S: Sink> LayerWriter<'_, S> {
    /// Takes an entry from the earlier layer, where it was found before.
    fn keep(&mut self, entry: Entry) -> Result<(), StepError> {
        let place = self.cursor.as_mut().map(|cursor| cursor.find(&entry.path)).transpose()?.flatten();
        let place = place.ok_or_else(|| Fault::new("the outline of a layer changed while it was read"))?;
        self.keep_at(entry, place)
    }

    fn keep_at(&mut self, entry: Entry, place: Place) -> Result<(), StepError> {
        let kept = self.tar.ready_made(place.length)?.keep(place.start, place.length);
        self.stoppable(kept.map_err(tar::TarWriteError::Write))?;
        self.note(entry);
        Ok(())
    }

    /// Writes an entry, or takes it from the earlier layer when it has none of its own bytes and lies there.
    fn append(&mut self, entry: Entry, data: &Data) -> Result<(), StepError> {
        if let (Some(cursor), Data::None) = (&mut self.cursor, data)
            && let Some(place) = cursor.find(&entry.path)?
            && place.identity == Identity::of(&entry, None)
        {
            return self.keep_at(entry, place);
        }
        let start = self.tar.position();
        let known = data.known_digest();
        let new = self.append_data(&entry, data)?;
        if let (Some(content), None) = (known.or(new.map(Some)), &self.cursor) {
            let identity = Identity::of(&entry, content.as_ref());
            let place = Place { identity, start, length: self.tar.position() - start };
            self.written.places.push(&entry.path, &place)?;
        }
        self.note(entry);
        Ok(())
    }

    fn note(&mut self, entry: Entry) {
        match &mut self.written.headers {
            Some(headers) if headers.len() == MAX_HEADERS => self.written.headers = None,
            Some(headers) => headers.push(entry),
            None => {}
        }
    }

    /// Writes an entry; returns the digest of its bytes when it was not known before.
    fn append_data(&mut self, entry: &Entry, data: &Data) -> Result<Option<Digest>, StepError> {
        let result = match data {
            Data::None => self.tar.append_empty(entry),
            Data::Bytes(bytes) => self.tar.append(entry, &mut bytes.as_slice()),
            Data::Range(file, offset) => {
                let reader = RangeReader { file: file.clone(), offset: *offset };
                self.tar.append(entry, &mut Stoppable(reader, self.cancel))
            }
            Data::Source(source, node) => return self.append_source(entry, source, node),
        };
        self.stoppable(result)?;
        Ok(None)
    }

    fn append_source(&mut self, entry: &Entry, source: &SourceTree, node: &Node) -> Result<Option<Digest>, StepError> {
        let file = source.open(node)?;
        let mut reader = Stoppable(&file, self.cancel);
        let (result, digest) = if source.knows(node) {
            (self.tar.append(entry, &mut reader), None)
        } else {
            let mut reader = HashingReader::new(reader);
            let result = self.tar.append(entry, &mut reader);
            (result, Some(reader.finish().1))
        };
        if self.cancel.is_cancelled() {
            return Err(StepError::Cancelled);
        }
        // A file that became shorter ends the writing early; that it changed says more than that.
        source.check_unchanged(node, &file)?;
        result?;
        if let Some(digest) = &digest {
            source.remember(node, digest.clone());
        }
        Ok(digest)
    }

    fn stoppable<T>(&self, result: Result<T, tar::TarWriteError>) -> Result<T, StepError> {
        result.map_err(|error| if self.cancel.is_cancelled() { StepError::Cancelled } else { error.into() })
    }
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

    impl Sink for Meddler<'_> {
        fn keep(&mut self, _: u64, _: u64) -> io::Result<()> {
            Err(io::Error::other("nothing is kept without an outline"))
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
                let source = Arc::new(SourceTree::of_folder(tree, Ignore::default(), Digests::new(folder.path())));
                let mut changes = Changes::new(View::empty());
                for found in copy::collect(&source, &Selection::default()).expect("walked") {
                    if is_known {
                        let b = found.items.iter().nth(1).expect("two files").expect("read");
                        source.digest(&b.node, &Cancel::new()).expect("read");
                    }
                    copy::apply(&mut changes, &source, &found, "/", &Manner::default(), 1).expect("copied");
                }
                let meddle = || meddle(&path);
                let times = Times { fallback: 0, epoch: None };
                changes.settle(times);
                let told = match changes.write(&mut Meddler(Some(&meddle)), None, folder.path(), &Cancel::new()) {
                    Ok(_) => String::new(),
                    Err(StepError::Fault(fault)) => fault.message,
                    Err(other) => panic!("{other:?}"),
                };
                assert!(told.starts_with(message) && told.is_empty() == message.is_empty(), "{told} for {message}");
            }
        }
    }
}
