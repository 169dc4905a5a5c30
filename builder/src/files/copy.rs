//! The rules of `COPY`: which files of a source it takes, and where they go.
//!
//! First [`collect`] walks the sources; that is all a cache key needs. Only when nothing is cached does [`apply`] look at
//! the files below and decide what changes.

use std::sync::Arc;

use layer::entry::{join_path, split_path};
use layer::{Entry, EntryKind, Node, NodeKind};

use super::bulk::Bulk;
use super::changes::{Change, Changes, Data};
use super::index::Stat;
use super::mode::ModeChange;
use super::path::{clean, lossy, names};
use super::source::{Seen, SourceTree};
use super::spool::{Records, Spool};
use crate::fault::Fault;
use crate::ignore::{Ignore, Matched, glob};
use crate::plan::nearest;

/// One source of a `COPY`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    /// The path as it is written, cleaned; may hold wildcards.
    pub(crate) path: Vec<u8>,
    /// `--parents`: what is wanted below `path`, which then is a folder without wildcards.
    pub(crate) include: Option<String>,
    /// `--exclude`.
    pub(crate) exclude: Vec<String>,
    /// Whether the path is taken as it is, wildcards and all.
    pub(crate) literal: bool,
}

/// What a source comes to: one of the files or folders that its path matches.
#[derive(Debug)]
pub(crate) struct Collected {
    /// The name that a file keeps in an existing folder.
    pub(crate) name: Vec<u8>,
    /// Whether a wildcard found it: then its name is part of the cache key.
    pub(crate) is_match: bool,
    /// The file or folder itself, links followed.
    pub(crate) root: Arc<Node>,
    /// What is in it, folders before what is in them.
    pub(crate) items: Items,
}

/// What is below a collected folder, in the order of a walk.
#[derive(Debug)]
pub(crate) struct Items {
    spool: Spool,
}

impl Items {
    fn push(&mut self, item: &Item) -> Result<(), Fault> {
        let Item { above, node, is_parent } = item;
        self.spool.push(|bytes| {
            bytes.extend_from_slice(&(*above as u64).to_le_bytes());
            bytes.push(u8::from(*is_parent));
            node.write_bytes(bytes);
        })
    }

    /// Returns how many there are.
    pub(crate) fn count(&self) -> u64 {
        self.spool.count()
    }

    /// Yields them, folders before what is in them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Result<Item, Fault>> {
        struct Iter<'a>(Records<'a>);
        impl Iterator for Iter<'_> {
            type Item = Result<Item, Fault>;

            fn next(&mut self) -> Option<Self::Item> {
                let read =
                    |bytes: &[u8]| Item::from_bytes(bytes).ok_or_else(|| Fault::new("a list of files is damaged"));
                self.0.next().map(|record| record.map(read)).transpose().map(Result::flatten)
            }
        }
        Iter(self.spool.read())
    }
}

/// Something below a collected folder.
#[derive(Debug)]
pub(crate) struct Item {
    /// How much of the node's path leads to the folder.
    above: usize,
    pub(crate) node: Arc<Node>,
    /// Wanted only because something below it is.
    pub(crate) is_parent: bool,
}

impl Item {
    fn new(above: usize, node: Node, is_parent: bool) -> Self {
        Self { above, node: Arc::new(node), is_parent }
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (above, bytes) = bytes.split_first_chunk()?;
        let (is_parent, bytes) = bytes.split_first()?;
        let above = usize::try_from(u64::from_le_bytes(*above)).ok()?;
        Some(Self { above, node: Arc::new(Node::from_bytes(bytes)?), is_parent: *is_parent == 1 })
    }

    /// Tells whether a folder that is at its place keeps what it has but its mode.
    pub(crate) fn keeps_existing(&self) -> bool {
        self.is_parent && self.node.kind == NodeKind::Directory
    }

    /// Returns its path below the folder.
    pub(crate) fn path(&self) -> &[u8] {
        &self.node.path[self.above..]
    }
}

/// Walks everything that a selection takes.
pub(crate) fn collect(source: &SourceTree, selection: &Selection) -> Result<Vec<Arc<Collected>>, Fault> {
    let matcher = |patterns: &[String]| Ignore::from_patterns(patterns.iter().map(String::as_str));
    let exclude = if selection.exclude.is_empty() { None } else { Some(matcher(&selection.exclude)?) };
    let include = selection.include.as_ref();
    if include.is_some_and(String::is_empty) {
        return Err(not_found(source, &selection.path)?.hint("--parents wants something below the root of its source"));
    }
    let filter = Filter {
        include: include.map(|pattern| matcher(std::slice::from_ref(pattern))).transpose()?,
        exclude,
        required: include.filter(|pattern| !glob::has_wildcard(pattern.as_bytes())).cloned(),
    };
    let wildcard = names(&selection.path).any(glob::has_wildcard) && selection.include.is_none() && !selection.literal;
    // Where patterns choose right below the root, BuildKit follows the links among the chosen to hash them; those deeper
    // down it takes as they are.
    let strict = selection.path.is_empty() && (filter.include.is_some() || filter.exclude.is_some());
    let mut collected = Vec::new();
    if !wildcard {
        let name = split_path(&selection.path).1.to_vec();
        collected.push(collect_one(source, &selection.path, name, false, &filter, strict)?);
        return Ok(collected);
    }
    for path in matches(source, &selection.path)? {
        let name = split_path(&path).1.to_vec();
        collected.push(collect_one(source, &path, name, true, &filter, strict)?);
    }
    Ok(collected)
}

struct Filter {
    include: Option<Ignore>,
    exclude: Option<Ignore>,
    /// A path without wildcards that must be there.
    required: Option<String>,
}

/// Finds what a path with wildcards matches, sorted.
fn matches(source: &SourceTree, path: &[u8]) -> Result<Vec<Vec<u8>>, Fault> {
    let names: Vec<&[u8]> = names(path).collect();
    let plain = names.iter().take_while(|name| !glob::has_wildcard(name)).count();
    let folder = source.resolve(&names[..plain].join(&b'/'), true)?;
    let found = source.lookup(&folder)?.filter(|found| found.is_folder() || !source.is_local());
    let Some(folder) = found else { return Err(not_found(source, &folder)?) };
    let mut found = Vec::new();
    find_matches(source, &folder, &names[plain..], &mut found)?;
    Ok(found)
}

fn find_matches(source: &SourceTree, folder: &Seen, patterns: &[&[u8]], found: &mut Vec<Vec<u8>>) -> Result<(), Fault> {
    let Some((pattern, rest)) = patterns.split_first() else { return Ok(()) };
    if !folder.is_folder() {
        return Ok(());
    }
    for child in source.children(folder)? {
        let child = child?;
        let matched = glob::matches(pattern, child.node.name())
            .map_err(|error| Fault::because(format!("invalid pattern `{}`", lossy(pattern)), &error))?;
        match (matched, rest.is_empty()) {
            (false, _) => {}
            (true, true) => found.push(child.node.path.clone()),
            (true, false) => find_matches(source, &child, rest, found)?,
        }
    }
    Ok(())
}

fn collect_one(
    source: &SourceTree,
    path: &[u8],
    name: Vec<u8>,
    is_match: bool,
    filter: &Filter,
    strict: bool,
) -> Result<Arc<Collected>, Fault> {
    let root = match source.lookup(&source.resolve(path, true)?)? {
        Some(root) => root,
        None => return Err(not_found(source, path)?),
    };
    if let Some(required) = &filter.required {
        let wanted = join_path(&root.node.path, &clean(required.as_bytes()));
        if source.lookup(&source.resolve(&wanted, false)?)?.is_none() {
            return Err(not_found(source, &wanted)?);
        }
    }
    let state = State {
        include: filter.include.as_ref().map(Ignore::root),
        exclude: filter.exclude.as_ref().map(Ignore::root),
    };
    let above = root.node.path.len() + usize::from(!root.node.path.is_empty());
    let items = Items { spool: Spool::new(source.spool()) };
    let mut walk = Walk { source, filter, above, items, parents: Vec::new() };
    if root.is_folder() {
        walk.folder(&root, &state)?;
    }
    let items = walk.items;
    if let (Some(required), 0) = (&filter.required, items.count()) {
        let fault = Fault::new(format!("\"/{}\": not found", lossy(&join_path(&root.node.path, required.as_bytes()))));
        return Err(fault.hint(match &filter.exclude {
            None => "--parents follows no symbolic link on the way to what it copies",
            Some(_) => "--exclude leaves nothing of it",
        }));
    }
    if strict {
        for item in items.iter() {
            let item = item?;
            let is_link = item.node.kind == NodeKind::Symlink && !item.path().contains(&b'/');
            if is_link && source.lookup(&source.resolve(&item.node.path, true)?)?.is_none() {
                return Err(not_found(source, &item.node.path)?);
            }
        }
    }
    Ok(Arc::new(Collected { name, is_match, root: Arc::new(root.node), items }))
}

/// What patterns said of a folder.
struct State {
    include: Option<Matched>,
    exclude: Option<Matched>,
}

struct Walk<'a> {
    source: &'a SourceTree,
    filter: &'a Filter,
    /// How much of each path leads to what is walked.
    above: usize,
    items: Items,
    /// The folders on the way that are not wanted themselves: they come along when something in them does.
    parents: Vec<Item>,
}

impl Walk<'_> {
    fn folder(&mut self, folder: &Seen, state: &State) -> Result<(), Fault> {
        let (source, filter, above) = (self.source, self.filter, self.above);
        for child in source.children(folder)? {
            let child = child?;
            let path = &child.node.path[above..];
            let step = |ignore: &Option<Ignore>, matched: &Option<Matched>| match (ignore, matched) {
                (Some(ignore), Some(matched)) => {
                    let (matches, next) = ignore.step(matched, path);
                    (Some(matches), Some(next))
                }
                _ => (None, None),
            };
            let (included, include) = step(&filter.include, &state.include);
            let (excluded, exclude) = step(&filter.exclude, &state.exclude);
            let wanted = included.unwrap_or(true) && !excluded.unwrap_or(false);
            if !child.is_folder() {
                if wanted {
                    self.take(&Item::new(above, child.node, false))?;
                }
                continue;
            }
            let item = Item::new(above, child.node.clone(), !wanted);
            if wanted {
                self.take(&item)?;
                self.folder(&child, &State { include, exclude })?;
            } else {
                let parents = self.parents.len();
                self.parents.push(item);
                self.folder(&child, &State { include, exclude })?;
                // Gone if it was taken along.
                self.parents.truncate(parents);
            }
        }
        Ok(())
    }

    fn take(&mut self, item: &Item) -> Result<(), Fault> {
        for parent in self.parents.drain(..) {
            self.items.push(&parent)?;
        }
        self.items.push(item)
    }
}

/// Says that a source is missing, whether it was ignored, and what was probably meant.
fn not_found(source: &SourceTree, path: &[u8]) -> Result<Fault, Fault> {
    let place = if source.is_local() { " in the build context" } else { "" };
    let fault = Fault::new(format!("\"/{}\": not found{place}", lossy(path)));
    if source.is_ignored(path)? {
        return Ok(fault.hint("it is there, but `.dockerignore` excludes it from the build"));
    }
    if let Some(target) = source.lookup(&source.resolve(path, false)?)?.and_then(|link| link.node.target) {
        return Ok(fault.hint(format!("it is a symbolic link to `{}`, which is not there", lossy(&target))));
    }
    // The last advice of all; files beside the context are what people mean most often then.
    let elsewhere =
        |fault: Fault| if source.is_local() { fault.hint("only files below the context are seen") } else { fault };
    let (folder, name) = split_path(path);
    let Some(folder) = source.lookup(&source.resolve(folder, true)?)? else { return Ok(elsewhere(fault)) };
    let names: Vec<String> =
        source.children(&folder)?.map(|child| Ok(lossy(child?.node.name()))).collect::<Result<_, Fault>>()?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    Ok(match nearest(&lossy(name), &names) {
        Some(meant) => {
            fault.hint(format!("did you mean `{}`?", lossy(&join_path(&folder.node.path, meant.as_bytes()))))
        }
        None => elsewhere(fault),
    })
}

/// How files change on their way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Manner {
    /// `--chown`; files keep their owner when `None`, and folders that are made belong to root.
    pub(crate) owner: Option<(u32, u32)>,
    /// `--chmod`.
    pub(crate) mode: Option<ModeChange>,
}

impl Manner {
    fn folder_mode(&self) -> u32 {
        self.mode.as_ref().map_or(0o755, ModeChange::for_created_folders)
    }

    fn folder_owner(&self) -> (u32, u32) {
        self.owner.unwrap_or_default()
    }

    fn change(&self, entry: &mut Entry) {
        if let Some(owner) = self.owner {
            (entry.uid, entry.gid) = owner;
        }
        if let (Some(mode), false) = (&self.mode, matches!(entry.kind, EntryKind::Symlink { .. })) {
            entry.mode = mode.apply(entry.mode, entry.kind == EntryKind::Directory);
        }
    }
}

/// Puts what was collected from one source where it belongs. `destination` is absolute; a `/` or `/.` at its end says
/// that it is a folder.
pub(crate) fn apply(
    changes: &mut Changes,
    source: &Arc<SourceTree>,
    collected: &Arc<Collected>,
    destination: &str,
    manner: &Manner,
    call: u32,
) -> Result<(), Fault> {
    changes.thaw()?;
    let is_folder = destination.ends_with('/') || destination.ends_with("/.");
    let cleaned = clean(destination.as_bytes());
    let above = if is_folder { cleaned.clone() } else { split_path(&cleaned).0.to_vec() };
    let above = changes.resolve(&above)?;
    // What is made here is not there yet for what is in it.
    let was_there = |changes: &Changes, path: &[u8]| Ok::<_, Fault>(path.is_empty() || changes.lstat(path)?.is_some());
    let was_above = was_there(changes, &above)?;
    changes.make_folders(&above, manner.folder_mode(), manner.folder_owner())?;
    let mut target = changes.resolve(&cleaned)?;
    let existing = changes.lstat(&target)?;
    if collected.root.kind == NodeKind::Directory {
        let merges = existing.is_some() && (was_above || target != above);
        match existing {
            None => changes.make_folders(&target, manner.folder_mode(), manner.folder_owner())?,
            Some(stat) if stat.is_folder() => {}
            Some(_) => return Err(Fault::new(format!("cannot copy to non-directory: /{}", lossy(&target)))),
        }
        if changes.is_only_above(&target) {
            let bulk = Bulk::new(source, collected, &target, (manner, call), merges, changes.view())?;
            changes.put_bulk(bulk);
            return Ok(());
        }
        for item in collected.items.iter() {
            let item = item?;
            let target = join_path(&target, item.path());
            let existing = changes.lstat(&target)?;
            check_place(&item.node, &target, existing.as_ref())?;
            changes.put(placed(source, &item, target, existing, (manner, call))?)?;
        }
        return Ok(());
    }
    if existing.is_some_and(|stat| stat.is_folder()) {
        target = join_path(&target, &collected.name);
    }
    changes.make_folders(split_path(&target).0, manner.folder_mode(), manner.folder_owner())?;
    check_place(&collected.root, &target, changes.lstat(&target)?.as_ref())?;
    changes.put(placed_file(source, &collected.root, target, (manner, call))?)
}

/// Puts a file with these bytes where it belongs.
pub(crate) fn apply_inline(
    changes: &mut Changes,
    name: &str,
    content: Vec<u8>,
    destination: &str,
    manner: &Manner,
) -> Result<(), Fault> {
    changes.thaw()?;
    let is_folder = destination.ends_with('/') || destination.ends_with("/.");
    let cleaned = clean(destination.as_bytes());
    let above = if is_folder { cleaned.clone() } else { split_path(&cleaned).0.to_vec() };
    let above = changes.resolve(&above)?;
    changes.make_folders(&above, manner.folder_mode(), manner.folder_owner())?;
    let mut target = changes.resolve(&cleaned)?;
    if changes.lstat(&target)?.is_some_and(|stat| stat.is_folder()) {
        target = join_path(&target, name.as_bytes());
    }
    refuse_folder(changes, &target)?;
    let mut entry = Entry::new(target, EntryKind::File { size: content.len() as u64 }, 0o644);
    manner.change(&mut entry);
    (entry.uid, entry.gid) = manner.folder_owner();
    changes.put(Change { is_new: true, ..Change::new(entry, Data::Bytes(content)) })
}

fn refuse_folder(changes: &Changes, target: &[u8]) -> Result<(), Fault> {
    if changes.lstat(target)?.is_some_and(|stat| stat.is_folder()) {
        return Err(Fault::new(format!("cannot replace to directory /{} with file", lossy(target))));
    }
    Ok(())
}

/// Refuses to put a folder where a file is, and a file where a folder is.
pub(crate) fn check_place(node: &Node, target: &[u8], existing: Option<&Stat>) -> Result<(), Fault> {
    match (node.kind == NodeKind::Directory, existing.map(Stat::is_folder)) {
        (true, Some(false)) => Err(Fault::new(format!("cannot copy to non-directory: /{}", lossy(target)))),
        (false, Some(true)) => Err(Fault::new(format!("cannot replace to directory /{} with file", lossy(target)))),
        _ => Ok(()),
    }
}

/// Tells whether other names of the file may be copied too.
pub(crate) fn has_names(node: &Node) -> bool {
    node.kind == NodeKind::File && node.nlink > 1
}

/// Returns what an item becomes at its place, on top of what is there.
pub(crate) fn placed(
    source: &Arc<SourceTree>,
    item: &Item,
    target: Vec<u8>,
    existing: Option<Stat>,
    (manner, call): (&Manner, u32),
) -> Result<Change, Fault> {
    if item.node.kind != NodeKind::Directory {
        return placed_file(source, &item.node, target, (manner, call));
    }
    // A folder that is there takes the source's metadata; one that only leads to what was chosen, only its mode.
    if let Some(stat) = existing.filter(|_| item.keeps_existing()) {
        let mut entry = Entry::new(target, EntryKind::Directory, item.node.mode);
        (entry.uid, entry.gid, entry.mtime) = (stat.uid, stat.gid, stat.mtime);
        return Ok(Change::new(entry, Data::None));
    }
    Ok(Change::new(placed_entry(source, &item.node, target, manner)?, Data::None))
}

fn placed_file(
    source: &Arc<SourceTree>,
    node: &Arc<Node>,
    target: Vec<u8>,
    (manner, call): (&Manner, u32),
) -> Result<Change, Fault> {
    let entry = placed_entry(source, node, target, manner)?;
    let data = match entry.kind {
        EntryKind::File { size } if size > 0 => Data::Source(source.clone(), node.clone()),
        _ => Data::None,
    };
    let identity = has_names(node).then_some((call, node.dev, node.ino));
    Ok(Change { identity, ..Change::new(entry, data) })
}

fn placed_entry(source: &SourceTree, node: &Node, target: Vec<u8>, manner: &Manner) -> Result<Entry, Fault> {
    let mut entry = source.entry(node)?;
    entry.path = target;
    manner.change(&mut entry);
    Ok(entry)
}
