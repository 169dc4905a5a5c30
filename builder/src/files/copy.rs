//! The rules of `COPY`: which files of a source it takes, and where they go.
//!
//! First [`collect`] walks the sources; that is all a cache key needs. Only when nothing is cached does [`apply`] look at
//! the files below and decide what changes.

use std::sync::Arc;

use layer::entry::{join_path, split_path};
use layer::{Entry, EntryKind, Node, NodeKind};

use super::changes::{Change, Changes, Data};
use super::mode::ModeChange;
use super::path::{clean, lossy, names};
use super::source::{Seen, SourceTree};
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
    pub(crate) items: Vec<Item>,
    /// Whether only what patterns name is wanted.
    pub(crate) has_include: bool,
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
    fn new(path: &[u8], node: Node, is_parent: bool) -> Self {
        Self { above: node.path.len() - path.len(), node: Arc::new(node), is_parent }
    }

    /// Returns its path below the folder.
    pub(crate) fn path(&self) -> &[u8] {
        &self.node.path[self.above..]
    }
}

/// Walks everything that a selection takes.
pub(crate) fn collect(source: &SourceTree, selection: &Selection) -> Result<Vec<Collected>, Fault> {
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
    let Some(folder) = source.lookup(&folder)? else { return Ok(Vec::new()) };
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
) -> Result<Collected, Fault> {
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
    let mut items = Vec::new();
    let state = State {
        include: filter.include.as_ref().map(Ignore::root),
        exclude: filter.exclude.as_ref().map(Ignore::root),
    };
    if root.is_folder() {
        walk(source, &root, b"", &state, filter, &mut items)?;
    }
    if let (Some(required), None, true) = (&filter.required, &filter.exclude, items.is_empty()) {
        let fault = Fault::new(format!("\"/{}\": not found", lossy(&join_path(&root.node.path, required.as_bytes()))));
        return Err(fault.hint("--parents follows no symbolic link on the way to what it copies"));
    }
    if strict {
        let is_link = |item: &&Item| item.node.kind == NodeKind::Symlink && !item.path().contains(&b'/');
        for item in items.iter().filter(is_link) {
            if source.lookup(&source.resolve(&item.node.path, true)?)?.is_none() {
                return Err(not_found(source, &item.node.path)?);
            }
        }
    }
    Ok(Collected { name, is_match, root: Arc::new(root.node), items, has_include: filter.include.is_some() })
}

/// What patterns said of a folder.
struct State {
    include: Option<Matched>,
    exclude: Option<Matched>,
}

fn walk(
    source: &SourceTree,
    folder: &Seen,
    path: &[u8],
    state: &State,
    filter: &Filter,
    items: &mut Vec<Item>,
) -> Result<(), Fault> {
    for child in source.children(folder)? {
        let path = join_path(path, child.node.name());
        let step = |ignore: &Option<Ignore>, matched: &Option<Matched>| match (ignore, matched) {
            (Some(ignore), Some(matched)) => {
                let (matches, next) = ignore.step(matched, &path);
                (Some(matches), Some(next))
            }
            _ => (None, None),
        };
        let (included, include) = step(&filter.include, &state.include);
        let (excluded, exclude) = step(&filter.exclude, &state.exclude);
        let wanted = included.unwrap_or(true) && !excluded.unwrap_or(false);
        if !child.is_folder() {
            if wanted {
                items.push(Item::new(&path, child.node, false));
            }
            continue;
        }
        // A folder that is not wanted itself comes along when something in it does.
        let before = items.len();
        items.push(Item::new(&path, child.node.clone(), !wanted));
        walk(source, &child, &path, &State { include, exclude }, filter, items)?;
        if !wanted && items.len() == before + 1 {
            items.pop();
        }
    }
    Ok(())
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
    let names: Vec<String> = source.children(&folder)?.iter().map(|child| lossy(child.node.name())).collect();
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
    collected: &Collected,
    destination: &str,
    manner: &Manner,
    call: u32,
) -> Result<(), Fault> {
    let is_folder = destination.ends_with('/') || destination.ends_with("/.");
    let cleaned = clean(destination.as_bytes());
    let above = if is_folder { cleaned.clone() } else { split_path(&cleaned).0.to_vec() };
    let above = changes.resolve(&above)?;
    changes.make_folders(&above, manner.folder_mode(), manner.folder_owner())?;
    let mut target = changes.resolve(&cleaned)?;
    let existing = changes.lstat(&target)?;
    let mut placer = Placer { changes, source, manner, call, has_include: collected.has_include };
    if collected.root.kind == NodeKind::Directory {
        match existing {
            None => placer.changes.make_folders(&target, manner.folder_mode(), manner.folder_owner())?,
            Some(stat) if stat.is_folder() => {}
            Some(_) => return Err(Fault::new(format!("cannot copy to non-directory: /{}", lossy(&target)))),
        }
        return collected.items.iter().try_for_each(|item| placer.place(item, join_path(&target, item.path())));
    }
    if existing.is_some_and(|stat| stat.is_folder()) {
        target = join_path(&target, &collected.name);
    }
    placer.changes.make_folders(split_path(&target).0, manner.folder_mode(), manner.folder_owner())?;
    placer.place_file(&collected.root, target)
}

/// Puts a file with these bytes where it belongs.
pub(crate) fn apply_inline(
    changes: &mut Changes,
    name: &str,
    content: Vec<u8>,
    destination: &str,
    manner: &Manner,
) -> Result<(), Fault> {
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

struct Placer<'a> {
    changes: &'a mut Changes,
    source: &'a Arc<SourceTree>,
    manner: &'a Manner,
    call: u32,
    has_include: bool,
}

impl Placer<'_> {
    fn place(&mut self, item: &Item, target: Vec<u8>) -> Result<(), Fault> {
        if item.node.kind == NodeKind::Directory {
            self.place_folder(item, target)
        } else {
            self.place_file(&item.node, target)
        }
    }

    fn place_folder(&mut self, item: &Item, target: Vec<u8>) -> Result<(), Fault> {
        match self.changes.lstat(&target)? {
            // A folder that is there takes the source's metadata; where patterns chose what to copy, only its mode.
            Some(stat) if stat.is_folder() && (item.is_parent || self.has_include) => {
                let mut entry = Entry::new(target, EntryKind::Directory, item.node.mode);
                (entry.uid, entry.gid, entry.mtime) = (stat.uid, stat.gid, stat.mtime);
                return self.changes.put(Change::new(entry, Data::None));
            }
            Some(stat) if !stat.is_folder() => {
                return Err(Fault::new(format!("cannot copy to non-directory: /{}", lossy(&target))));
            }
            _ => {}
        }
        let entry = self.entry(&item.node, target)?;
        self.changes.put(Change::new(entry, Data::None))
    }

    fn place_file(&mut self, node: &Arc<Node>, target: Vec<u8>) -> Result<(), Fault> {
        refuse_folder(self.changes, &target)?;
        let entry = self.entry(node, target)?;
        let data = match entry.kind {
            EntryKind::File { size } if size > 0 => Data::Source(self.source.clone(), node.clone()),
            _ => Data::None,
        };
        let mut change = Change::new(entry, data);
        if node.kind == NodeKind::File && node.nlink > 1 {
            change.identity = Some((self.call, node.dev, node.ino));
        }
        self.changes.put(change)
    }

    fn entry(&self, node: &Node, target: Vec<u8>) -> Result<Entry, Fault> {
        let mut entry = self.source.entry(node)?;
        entry.path = target;
        self.manner.change(&mut entry);
        Ok(entry)
    }
}
