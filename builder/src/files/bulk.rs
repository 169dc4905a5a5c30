//! [`Bulk`]: a folder that is copied where nothing else is: its changes are made one after another from the list of what
//! is in it, while the layer is written.

use std::collections::HashMap;
use std::sync::Arc;

use layer::entry::{WHITEOUT_PREFIX, join_path};
use layer::{EntryKind, NodeKind};

use super::changes::{Change, Data};
use super::copy::{Collected, Manner, check_place, has_names, placed};
use super::path::is_below;
use super::source::SourceTree;
use super::view::View;
use crate::fault::{Fault, StepError};

/// What is in a folder, at its new place.
#[derive(Debug)]
pub(crate) struct Bulk {
    source: Arc<SourceTree>,
    found: Arc<Collected>,
    target: Vec<u8>,
    manner: Manner,
    call: u32,
    /// Whether something may be at the places.
    merges: bool,
    /// The newest time of what is copied.
    pub(crate) newest: Option<i64>,
    /// The first files whose names are how a layer says that another file is gone.
    pub(crate) whiteouts: Vec<Vec<u8>>,
    /// Device and inode of the files that have several names here, sorted.
    linked: Vec<(u64, u64)>,
}

/// How many whiteouts are remembered.
const MAX_WHITEOUTS: usize = 16;

impl Bulk {
    /// Puts a folder's content below `target`, and makes sure that what is there may be replaced. `merges` tells whether
    /// the target was there before.
    pub(crate) fn new(
        source: &Arc<SourceTree>,
        found: &Arc<Collected>,
        target: &[u8],
        (manner, call): (&Manner, u32),
        merges: bool,
        view: &View,
    ) -> Result<Self, Fault> {
        let (source, found, manner) = (source.clone(), found.clone(), manner.clone());
        let (newest, whiteouts, linked) = (None, Vec::new(), Vec::new());
        let mut bulk = Self { source, found, target: target.to_vec(), manner, call, merges, newest, whiteouts, linked };
        let mut linked = Vec::new();
        // A folder that is not there has nothing in it either.
        let mut missing: Option<Vec<u8>> = None;
        for item in bulk.found.items.iter() {
            let item = item?;
            let target = join_path(&bulk.target, item.path());
            let mut existing = None;
            if merges && missing.as_ref().is_none_or(|missing| !is_below(&target, missing)) {
                existing = view.lstat(&target)?;
                check_place(&item.node, &target, existing.as_ref())?;
                if existing.is_none() && item.node.kind == NodeKind::Directory {
                    missing = Some(target.clone());
                }
            }
            let kept = existing.filter(|_| item.keeps_existing());
            let seconds = kept.map_or_else(|| bulk.source.mtime(&item.node), |stat| stat.mtime).seconds;
            bulk.newest = bulk.newest.max(Some(seconds));
            if item.node.name().starts_with(WHITEOUT_PREFIX) && bulk.whiteouts.len() < MAX_WHITEOUTS {
                bulk.whiteouts.push(target);
            }
            if has_names(&item.node) {
                linked.push((item.node.dev, item.node.ino));
            }
        }
        linked.sort_unstable();
        bulk.linked = linked.chunk_by(PartialEq::eq).filter(|same| same.len() > 1).map(|same| same[0]).collect();
        Ok(bulk)
    }

    /// Returns how many changes there are.
    pub(crate) fn count(&self) -> u64 {
        self.found.items.count()
    }

    /// Hands out all changes in the order of a walk. The second names of a file are hardlinks of its first.
    pub(crate) fn each(
        &self,
        view: &View,
        take: &mut dyn FnMut(Change) -> Result<(), StepError>,
    ) -> Result<(), StepError> {
        let mut firsts: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
        for item in self.found.items.iter() {
            let item = item?;
            let target = join_path(&self.target, item.path());
            let existing = if self.merges && item.keeps_existing() { view.lstat(&target)? } else { None };
            let mut change = placed(&self.source, &item, target, existing, (&self.manner, self.call))?;
            let inode = (item.node.dev, item.node.ino);
            if has_names(&item.node) && self.linked.binary_search(&inode).is_ok() {
                match firsts.get(&inode) {
                    Some(first) => {
                        change.entry.kind = EntryKind::Hardlink { target: first.clone() };
                        change.data = Data::None;
                    }
                    None => drop(firsts.insert(inode, change.entry.path.clone())),
                }
            }
            take(change)?;
        }
        Ok(())
    }

    /// Hands out all changes as they are put beside others.
    pub(crate) fn thaw(self, view: &View, put: &mut dyn FnMut(Change) -> Result<(), Fault>) -> Result<(), Fault> {
        for item in self.found.items.iter() {
            let item = item?;
            let target = join_path(&self.target, item.path());
            let existing = if self.merges && item.keeps_existing() { view.lstat(&target)? } else { None };
            put(placed(&self.source, &item, target, existing, (&self.manner, self.call))?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's own files")]
mod tests {
    use std::fs;

    use layer::tar;

    use super::*;
    use crate::cancel::Cancel;
    use crate::files::changes::{Changes, Sink, Times};
    use crate::files::copy::{self, Selection};
    use crate::files::index::LayerIndex;
    use crate::ignore::Ignore;
    use crate::stat_cache::Digests;

    struct Bytes(Vec<u8>);

    impl std::io::Write for Bytes {
        fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
            self.0.write(buffer)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Sink for Bytes {
        fn keep(&mut self, _: u64, _: u64) -> std::io::Result<()> {
            Err(std::io::Error::other("nothing is kept without an outline"))
        }
    }

    #[test]
    fn a_folder_is_the_same_layer_at_once_and_file_by_file() {
        let folder = tempfile::tempdir().expect("tempdir");
        let path = |name: &str| folder.path().join(name);
        for name in ["a", "a/deep", "a.d", "empty"] {
            fs::create_dir(path(name)).expect("made");
        }
        for name in ["a/1", "a/deep/2", "a-b", "a.d/3", "z", ".wh.gone"] {
            fs::write(path(name), name).expect("written");
        }
        fs::hard_link(path("a/1"), path("a.d/second")).expect("linked");
        fs::hard_link(path("z"), folder.path().with_extension("outside")).expect("linked");
        std::os::unix::fs::symlink("a/1", path("link")).expect("linked");
        let below = |name: &str, kind: EntryKind, mode: u32| layer::Entry::new(format!("x/y/{name}"), kind, mode);
        let below = vec![
            layer::Entry::new("x", EntryKind::Directory, 0o711),
            layer::Entry::new("x/y", EntryKind::Directory, 0o722),
            below("a", EntryKind::Directory, 0o733),
            below("a/1", EntryKind::File { size: 0 }, 0o744),
            below("other", EntryKind::Fifo, 0o755),
        ];
        let digest = oci::Digest::sha256(b"");
        let tree = layer::Tree::of_folder(folder.path()).expect("opened");
        let source = Arc::new(SourceTree::of_folder(tree, Ignore::default(), Digests::new(folder.path())));
        for (pattern, destination) in [(None, "/x/y"), (Some("**/2"), "/x/y/"), (None, "/new/place/"), (None, "/")] {
            let selection = Selection { include: pattern.map(str::to_owned), ..Selection::default() };
            let [found] = &copy::collect(&source, &selection).expect("walked")[..] else { panic!("one folder") };
            let layer = |thaw: bool| {
                let index = Arc::new(LayerIndex::of(below.clone(), &digest));
                let mut changes = Changes::new(View { indexes: vec![index], ..View::empty() });
                copy::apply(&mut changes, &source, found, destination, &Manner::default(), 1).expect("copied");
                if thaw {
                    changes.thaw().expect("thawed");
                }
                let told: Vec<_> = changes.whiteouts().collect();
                changes.settle(Times { fallback: 0, epoch: None });
                let mut bytes = Bytes(Vec::new());
                changes.write(&mut bytes, None, folder.path(), &Cancel::new()).expect("written");
                (bytes.0, told)
            };
            let (bytes, told) = layer(false);
            assert!((bytes.clone(), told) == layer(true), "{destination}");
            let mut reader = tar::Reader::new(bytes.as_slice());
            let mut paths = Vec::new();
            while let Some(entry) = reader.next_entry().expect("a tar") {
                paths.push(String::from_utf8(entry.path).expect("text"));
            }
            if destination == "/" {
                let walked = [
                    ".wh.gone",
                    "a",
                    "a/1",
                    "a/deep",
                    "a/deep/2",
                    "a-b",
                    "a.d",
                    "a.d/3",
                    "a.d/second",
                    "empty",
                    "link",
                    "z",
                ];
                assert_eq!(paths, walked);
            }
        }
        fs::remove_file(folder.path().with_extension("outside")).expect("removed");
    }

    #[test]
    fn what_may_not_be_replaced_is_refused_before_anything_is_written() {
        let folder = tempfile::tempdir().expect("tempdir");
        fs::create_dir_all(folder.path().join("in/dir")).expect("made");
        fs::write(folder.path().join("in/file"), "").expect("written");
        let tree = layer::Tree::of_folder(folder.path()).expect("opened");
        let source = Arc::new(SourceTree::of_folder(tree, Ignore::default(), Digests::new(folder.path())));
        let [found] = &copy::collect(&source, &Selection::default()).expect("walked")[..] else { panic!("one folder") };
        let digest = oci::Digest::sha256(b"");
        let entry = |path: &str, kind: EntryKind| layer::Entry::new(path, kind, 0o755);
        let file = || EntryKind::File { size: 0 };
        for (below, message) in [
            (entry("in", file()), "cannot copy to non-directory: /in"),
            (entry("in/dir", EntryKind::Symlink { target: b"..".to_vec() }), "cannot copy to non-directory: /in/dir"),
            (entry("in/file", EntryKind::Directory), "cannot replace to directory /in/file with file"),
        ] {
            let index = Arc::new(LayerIndex::of(vec![entry("in", EntryKind::Directory), below], &digest));
            let mut changes = Changes::new(View { indexes: vec![index], ..View::empty() });
            let told = copy::apply(&mut changes, &source, found, "/", &Manner::default(), 1).expect_err("refused");
            assert_eq!(told.message, message);
        }
    }
}
