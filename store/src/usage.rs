//! [`CacheEntry`]: what the build cache takes on the disk, piece by piece.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use oci::{ChainId, DiffId, Digest};
use rustix::fs::FlockOperation;

use crate::blobs::names;
use crate::collect::Used;
use crate::file_error::{During, found};
use crate::layout::Layout;
use crate::pins::Taken;
use crate::prune::PruneError;
use crate::{FileError, Store};

/// A piece of the build cache, which is kept or removed as a whole.
#[derive(Clone, Debug)]
pub struct CacheEntry {
    /// What it is called: 32 hexadecimal digits, or what follows them in the name of a second cache for one ID.
    pub id: String,
    /// What it is.
    pub kind: CacheKind,
    /// What made it.
    pub about: String,
    /// The entry that it stands on, when that is in the cache too.
    pub parent: Option<String>,
    /// How many bytes it takes.
    pub size: u64,
    /// Whether an image or a container needs its bytes too, so that removing it frees next to nothing.
    pub shared: bool,
    /// Whether somebody relies on it right now.
    pub in_use: bool,
    /// When it was made.
    pub created: SystemTime,
    /// When it, or something that stands on it, was last of use.
    pub last_used: SystemTime,
    pub(crate) parts: Parts,
}

/// A kind of [`CacheEntry`], with BuildKit's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheKind {
    /// Layers that steps made.
    Regular,
    /// Notes, without layers.
    Internal,
    /// Digests of a context's files.
    SourceLocal,
    /// What a `RUN --mount=type=cache` holds.
    CacheMount,
}

impl CacheKind {
    /// Returns the name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Regular => "regular",
            Self::Internal => "internal",
            Self::SourceLocal => "source.local",
            Self::CacheMount => "exec.cachemount",
        }
    }
}

/// What removing an entry removes.
#[derive(Clone, Debug)]
pub(crate) enum Parts {
    /// Records, and what they keep.
    Records { keys: Vec<Digest>, layers: Vec<DiffId>, chain: Option<ChainId>, depth: usize },
    /// A file.
    File(PathBuf),
    /// The folder of a cache mount.
    Mount(PathBuf),
}

impl Store {
    /// Lists what the build cache takes, what was not used for longest first.
    ///
    /// # Errors
    ///
    /// When the disk cannot be read, or it cannot be told what images use.
    pub fn cache_entries(&self) -> Result<Vec<CacheEntry>, PruneError> {
        let mut used = Used::default();
        self.mark_without_cache(&mut used)?;
        self.entries(&used)
    }

    pub(crate) fn entries(&self, used: &Used) -> Result<Vec<CacheEntry>, PruneError> {
        let mut entries = self.record_entries(used)?;
        let layout = self.layout();
        let contexts = layout.home().join("context-digests");
        for name in names(&contexts)? {
            let path = contexts.join(&name);
            let Some(metadata) = found(fs::metadata(&path)).during("read", &path)? else { continue };
            entries.push(CacheEntry {
                id: short(&name),
                kind: CacheKind::SourceLocal,
                about: "digests of a build context's files".into(),
                size: metadata.len(),
                ..CacheEntry::of(Parts::File(path.clone()), modified(&metadata))
            });
        }
        for name in names(&layout.cache_mounts())? {
            entries.extend(mount_entry(&layout.cache_mounts().join(&name), &name)?);
        }
        entries.sort_by(|one, other| (one.last_used, other.depth()).cmp(&(other.last_used, one.depth())));
        Ok(entries)
    }

    fn record_entries(&self, used: &Used) -> Result<Vec<CacheEntry>, PruneError> {
        let layout = self.layout();
        let mut entries: Vec<CacheEntry> = Vec::new();
        let mut by_chain: HashMap<ChainId, usize> = HashMap::new();
        let mut below: Vec<Option<ChainId>> = Vec::new();
        // A layer that several stacks have is counted once.
        let mut counted: HashMap<DiffId, usize> = HashMap::new();
        for (key, keeps, size) in self.build_cache().all()? {
            let Ok(metadata) = fs::metadata(layout.cache_record(&key)) else { continue };
            let keeps = keeps.unwrap_or_default();
            if let Some(at) = keeps.chain.as_ref().and_then(|chain| by_chain.get(chain)) {
                let entry = &mut entries[*at];
                entry.size += size;
                entry.last_used = entry.last_used.max(modified(&metadata));
                if entry.about.is_empty() {
                    entry.about.clone_from(&keeps.about);
                }
                if let Parts::Records { keys, .. } = &mut entry.parts {
                    keys.push(key);
                }
                continue;
            }
            let at = entries.len();
            let mut made = modified(&metadata);
            let (mut bytes, mut shared) = (size, false);
            for diff_id in &keeps.layers {
                let first = *counted.entry(diff_id.clone()).or_insert(at);
                shared |= first != at || used.layers.contains(diff_id);
                if first != at {
                    entries[first].shared = true;
                    continue;
                }
                for blob in self.forms_of(diff_id)? {
                    for path in [layout.blob(&blob), layout.patch(&blob)] {
                        if let Ok(metadata) = fs::metadata(path) {
                            bytes += metadata.len();
                            made = made.min(modified(&metadata));
                        }
                    }
                }
            }
            if let Some(chain) = &keeps.chain {
                bytes += self.snapshot_usage(chain)?;
                by_chain.insert(chain.clone(), at);
            }
            let kind = if keeps.layers.is_empty() { CacheKind::Internal } else { CacheKind::Regular };
            let id = keeps.chain.as_ref().map_or(key.hex(), |chain| chain.0.hex());
            entries.push(CacheEntry {
                id: short(id),
                kind,
                about: keeps.about,
                size: bytes,
                shared,
                created: made,
                ..CacheEntry::of(
                    Parts::Records { keys: vec![key], layers: keeps.layers, chain: keeps.chain, depth: 0 },
                    modified(&metadata),
                )
            });
            below.push(keeps.below);
        }
        for at in 0..entries.len() {
            let mut depth = 0;
            let mut here = at;
            let last_used = entries[at].last_used;
            let mut seen = HashSet::new();
            while let Some(parent) = below[here].as_ref().and_then(|below| by_chain.get(below)).copied() {
                if !seen.insert(parent) {
                    break;
                }
                if depth == 0 {
                    entries[at].parent = Some(entries[parent].id.clone());
                }
                // What something that was used stands on is of use too.
                entries[parent].last_used = entries[parent].last_used.max(last_used);
                depth += 1;
                here = parent;
            }
            if let Parts::Records { depth: known, layers, chain, .. } = &mut entries[at].parts {
                *known = depth;
                let digests = layers.iter().map(|layer| &layer.0).chain(chain.as_ref().map(|chain| &chain.0));
                let is_free = Taken::default().take(layout, digests)?;
                entries[at].in_use = !is_free;
            }
        }
        Ok(entries)
    }

    /// Returns the blobs that hold a layer, without relying on any.
    pub(crate) fn forms_of(&self, diff_id: &DiffId) -> Result<Vec<Digest>, PruneError> {
        let mut blobs = vec![diff_id.0.clone()];
        let recorded = self.layers().recorded(diff_id)?;
        blobs.extend(recorded.into_iter().map(|form| form.digest).filter(|digest| *digest != diff_id.0));
        Ok(blobs)
    }

    /// Counts what a snapshot takes, once: it does not change.
    fn snapshot_usage(&self, chain: &ChainId) -> Result<u64, FileError> {
        let folder = self.layout().snapshot(chain);
        if !folder.exists() {
            return Ok(0);
        }
        let path = self.layout().snapshot_usage(chain);
        let known = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
        if let Some(known) = known {
            return Ok(known);
        }
        let size = disk_usage(&folder);
        // The folder may be gone by now.
        let _ = self.home_parts().write_file(&path, format!("{size}\n").as_bytes(), false);
        Ok(size)
    }
}

impl CacheEntry {
    fn of(parts: Parts, last_used: SystemTime) -> Self {
        Self {
            id: String::new(),
            kind: CacheKind::Regular,
            about: String::new(),
            parent: None,
            size: 0,
            shared: false,
            in_use: false,
            created: last_used,
            last_used,
            parts,
        }
    }

    /// Returns how many entries it stands on: of those that were used at the same time, the topmost go first.
    fn depth(&self) -> usize {
        match &self.parts {
            Parts::Records { depth, .. } => *depth,
            Parts::File(_) | Parts::Mount(_) => 0,
        }
    }
}

fn mount_entry(folder: &Path, name: &str) -> Result<Option<CacheEntry>, PruneError> {
    let path = folder.join("lock");
    let Some(metadata) = found(fs::metadata(&path)).during("read", &path)? else { return Ok(None) };
    if !names(folder)?.iter().any(|name| name.starts_with("data")) {
        return Ok(None);
    }
    let lock = fs::File::open(&path).during("open", &path)?;
    let in_use = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err();
    let id = fs::read_to_string(folder.join("id")).unwrap_or_default();
    let id: String = id.chars().take(200).collect();
    Ok(Some(CacheEntry {
        id: name.to_owned(),
        kind: CacheKind::CacheMount,
        about: format!(
            "cache mount {}",
            if id.is_empty() { "of an unknown ID" } else { id.strip_prefix('/').unwrap_or(&id) }
        ),
        size: disk_usage(folder),
        in_use,
        ..CacheEntry::of(Parts::Mount(folder.to_owned()), modified(&metadata))
    }))
}

/// Returns the folder of the cache mount with this ID that was used last. One that is `seeded` begins with files of a stage or
/// an image, and there is one for each such content. See [`cache_contents`] for what is mounted of it.
///
/// # Errors
///
/// When the folder of cache mounts cannot be read.
pub fn last_cache_mount(layout: &Layout, id: &str, seeded: bool) -> std::io::Result<Option<PathBuf>> {
    let own = layout.cache_mount(id);
    if !seeded {
        return Ok(Some(own));
    }
    // Each copy for a step that wanted it for itself has the name with a number.
    let is_own = |folder: &Path| folder.as_os_str().as_encoded_bytes().starts_with(own.as_os_str().as_encoded_bytes());
    let mut last = None;
    for entry in fs::read_dir(layout.cache_mounts())? {
        let folder = entry?.path();
        if !is_own(&folder) && fs::read(folder.join("id")).is_ok_and(|it| it == id.as_bytes()) {
            let used = fs::metadata(folder.join("lock")).map_or(SystemTime::UNIX_EPOCH, |lock| modified(&lock));
            last = last.max(Some((used, folder)));
        }
    }
    Ok(last.map(|(_, folder)| folder))
}

/// Lists what the folder of a cache mount holds, and held before it was emptied: the last is what is mounted.
///
/// # Errors
///
/// When the folder cannot be read.
pub fn cache_contents(folder: &Path) -> std::io::Result<Vec<(u64, PathBuf)>> {
    let mut contents = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = match name.to_str() {
            Some("data") => Some(0),
            Some(name) => name.strip_prefix("data-").and_then(|number| number.parse().ok()),
            None => None,
        };
        contents.extend(number.map(|number| (number, entry.path())));
    }
    contents.sort();
    Ok(contents)
}

fn short(hex: &str) -> String {
    hex.chars().take(32).collect()
}

fn modified(metadata: &fs::Metadata) -> SystemTime {
    metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Counts the bytes that a folder takes; a file with several names once. What cannot be read counts nothing: others may
/// be at work in it.
fn disk_usage(folder: &Path) -> u64 {
    let mut seen = HashSet::new();
    let mut total = 0;
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.nlink() > 1 && !metadata.is_dir() && !seen.insert((metadata.dev(), metadata.ino())) {
                continue;
            }
            total += metadata.blocks() * 512;
            if metadata.is_dir() {
                open.push(entry.path());
            }
        }
    }
    total
}
