//! Making the build cache smaller, beside builds that use it.
//!
//! Nothing that anybody relies on is removed: each entry is taken (see `pins`) before it goes, and one that is in use, or
//! was used since it was chosen, stays. The record goes first, so that a crash leaves only what nothing refers to, for the
//! next collection.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use layer::remove_tree;
use oci::Digest;
use rustix::fs::FlockOperation;

use crate::collect::Used;
use crate::file_error::{During, found};
use crate::pins::Taken;
use crate::usage::Parts;
use crate::{BlobError, BuildCacheError, CacheEntry, CacheKind, CollectError, FileError, Store};

/// What is removed.
#[derive(Clone, Copy, Default)]
pub struct Pruning<'a> {
    /// Also what images share, and notes without layers.
    pub all: bool,
    /// Only what was last used before this.
    pub before: Option<SystemTime>,
    /// Only what this accepts.
    pub only: Option<&'a (dyn Fn(&CacheEntry) -> bool + Sync)>,
    /// Removes no more than is needed for the cache to take so many bytes.
    pub max_used: Option<u64>,
    /// Removes no more than is needed for the disk to have so many bytes free.
    pub min_free: Option<u64>,
    /// Leaves so many bytes in any case.
    pub reserved: u64,
}

impl std::fmt::Debug for Pruning<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pruning").field("all", &self.all).field("max_used", &self.max_used).finish_non_exhaustive()
    }
}

/// What was removed.
#[derive(Clone, Debug, Default)]
pub struct Pruned {
    /// The entries, in the order in which they went.
    pub entries: Vec<CacheEntry>,
    /// How many bytes are free now that were not.
    pub bytes: u64,
}

/// Why the cache was not made smaller.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum PruneError {
    #[error("another slipway is at work in the store, and its work cannot be interrupted")]
    Busy,
    #[error(transparent)]
    Collect(#[from] CollectError),
    #[error(transparent)]
    Cache(#[from] BuildCacheError),
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    File(#[from] FileError),
}

impl Store {
    /// Removes entries of the build cache, what was not used for longest first.
    ///
    /// Goes on beside builds, and beside whoever else pins what they look at ([`Store::pin_all`]).
    ///
    /// # Errors
    ///
    /// [`PruneError::Busy`] while a store is open that does not pin, or another prunes.
    pub fn prune(&self, pruning: &Pruning<'_>) -> Result<Pruned, PruneError> {
        self.home_parts().beside_pinning(|| self.prune_now(pruning))?.unwrap_or(Err(PruneError::Busy))
    }

    fn prune_now(&self, pruning: &Pruning<'_>) -> Result<Pruned, PruneError> {
        let mut used = Used::default();
        self.mark_without_cache(&mut used)?;
        let entries = self.entries(&used)?;
        let total: u64 = entries.iter().filter(|entry| !entry.shared).map(|entry| entry.size).sum();
        let mut wanted = self.wanted(pruning, total)?;
        let mut chosen = Vec::new();
        for entry in entries {
            if wanted == 0 {
                break;
            }
            let is_old = pruning.before.is_none_or(|before| entry.last_used < before);
            let is_asked = pruning.only.is_none_or(|only| only(&entry));
            let is_plain = !entry.shared && entry.kind != CacheKind::Internal;
            if !entry.in_use && is_old && is_asked && (pruning.all || is_plain) {
                wanted = wanted.saturating_sub(if entry.shared { 0 } else { entry.size });
                chosen.push(entry);
            }
        }
        let mut pruned = Pruned::default();
        while !chosen.is_empty() {
            let batch = chosen.drain(..chosen.len().min(BATCH)).collect();
            self.remove_batch(batch, &mut pruned)?;
        }
        Ok(pruned)
    }

    /// Removes entries, unless somebody relies on them.
    fn remove_batch(&self, batch: Vec<CacheEntry>, pruned: &mut Pruned) -> Result<(), PruneError> {
        let mut trash = Vec::new();
        let mut taken = Taken::default();
        let mut ours = Vec::new();
        for entry in batch {
            let is_gone = match &entry.parts {
                Parts::File(path) => found(fs::remove_file(path)).during("remove", path)?.is_some(),
                Parts::Mount(folder) => self.empty_mount(folder, &mut trash)?,
                Parts::Records { layers, chain, .. } => {
                    let mut digests: Vec<Digest> = chain.iter().map(|chain| chain.0.clone()).collect();
                    for layer in layers {
                        digests.extend(self.forms_of(layer)?);
                    }
                    if taken.take(self.layout(), &digests)? {
                        ours.push(entry);
                    }
                    continue;
                }
            };
            if is_gone {
                pruned.bytes += entry.size;
                pruned.entries.push(entry);
            }
        }
        // From here on nobody can begin to rely on these. Whoever did and is done has left names or records of it, so
        // what is named is looked up only now.
        let mut used = Used::default();
        self.mark_without_cache(&mut used)?;
        // Used, and let go of, since it was chosen.
        let is_unused = |entry: &CacheEntry| {
            let last_used = |key| self.build_cache().last_used(key);
            entry.keys().iter().all(|key| last_used(key).is_none_or(|used| used <= entry.last_used))
        };
        ours.retain(is_unused);
        let keys: HashSet<Digest> = ours.iter().flat_map(|entry| entry.keys().iter().cloned()).collect();
        for (key, keeps, _) in self.build_cache().all()? {
            if let Some(keeps) = keeps.filter(|_| !keys.contains(&key)) {
                used.layers.extend(keeps.layers);
                used.chains.extend(keeps.chain);
            }
        }
        // With what their patches stand on.
        self.mark_forms(&mut used)?;
        if !keys.is_empty() {
            self.build_cache().note_pruned(&keys.iter().cloned().collect::<Vec<_>>())?;
        }
        for entry in ours {
            pruned.bytes += self.remove_records(&entry, &used, &mut trash)?;
            pruned.entries.push(entry);
        }
        drop(taken);
        for path in trash {
            // What resists now is swept up with this process's session.
            let _ = remove_tree(&path);
        }
        Ok(())
    }

    /// Returns how many bytes are to go; all when no limit is given.
    fn wanted(&self, pruning: &Pruning<'_>, total: u64) -> Result<u64, PruneError> {
        if pruning.max_used.is_none() && pruning.min_free.is_none() {
            return Ok(if pruning.reserved == 0 { u64::MAX } else { total.saturating_sub(pruning.reserved) });
        }
        let over = pruning.max_used.map_or(0, |most| total.saturating_sub(most));
        let lacking = match pruning.min_free {
            Some(least) => least.saturating_sub(self.disk_space()?.1),
            None => 0,
        };
        Ok(over.max(lacking).min(total.saturating_sub(pruning.reserved)))
    }

    /// Returns how many bytes the store's disk has, and how many of them are free.
    ///
    /// # Errors
    ///
    /// When the system does not say.
    pub fn disk_space(&self) -> Result<(u64, u64), FileError> {
        let path = self.home();
        let disk = rustix::fs::statvfs(path).during("ask for the free space of", path)?;
        Ok((disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize))
    }

    /// Removes the records of an entry that was taken, and what only they keep; returns how many bytes that gives back.
    fn remove_records(&self, entry: &CacheEntry, used: &Used, trash: &mut Vec<PathBuf>) -> Result<u64, PruneError> {
        let Parts::Records { keys, layers, chain, .. } = &entry.parts else { return Ok(0) };
        let mut freed = 0;
        for key in keys {
            for path in [self.layout().cache_record(key), self.layout().cache_list(key)] {
                freed += fs::metadata(&path).map_or(0, |metadata| metadata.len());
            }
            self.build_cache().remove(key)?;
        }
        if let Some(chain) = chain.as_ref().filter(|chain| !used.chains.contains(chain)) {
            let usage = fs::read_to_string(self.layout().snapshot_usage(chain)).unwrap_or_default();
            freed += usage.trim().parse().unwrap_or(0);
            self.set_aside(&self.layout().snapshot(chain), trash)?;
        }
        for layer in layers.iter().filter(|layer| !used.layers.contains(layer)) {
            for form in self.forms_of(layer)?.iter().filter(|form| !used.blobs.contains(form)) {
                for path in [self.layout().blob(form), self.layout().patch(form)] {
                    freed += fs::metadata(&path).map_or(0, |metadata| metadata.len());
                }
                self.blobs().remove(form)?;
            }
            let record = self.layout().layer(layer);
            found(fs::remove_file(&record)).during("remove", &record)?;
        }
        Ok(freed)
    }

    /// Moves a file or folder out of sight, to be removed later.
    fn set_aside(&self, path: &Path, trash: &mut Vec<PathBuf>) -> Result<(), PruneError> {
        trash.extend(self.home_parts().put_aside(path)?);
        Ok(())
    }

    /// Removes what a cache mount holds, unless it is mounted. The folder itself stays, with the lock that says so.
    fn empty_mount(&self, folder: &Path, trash: &mut Vec<PathBuf>) -> Result<bool, PruneError> {
        let path = folder.join("lock");
        let Some(lock) = found(fs::File::open(&path)).during("open", &path)? else { return Ok(false) };
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(false);
        }
        for name in crate::blobs::names(folder)? {
            if !["lock", "id", "making"].contains(&name.as_str()) {
                self.set_aside(&folder.join(&name), trash)?;
            }
        }
        Ok(true)
    }

    /// Tells whether something was filed in the cache, and nobody looked for a minute whether it outgrew its limit.
    pub fn is_pruning_due(&self, now: SystemTime) -> bool {
        let path = self.layout().lock("pruned");
        let last = fs::metadata(&path).and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        // A clock that was set back must not keep this from ever happening.
        let rested = now.duration_since(last).is_ok_and(|rested| rested < Duration::from_secs(60));
        self.build_cache().has_written() && !rested
    }

    /// Makes the cache smaller when it outgrew its limit, as a build does when it has ended. `limit` is the most that it
    /// may take; what was not used for 60 days goes anyhow.
    ///
    /// # Errors
    ///
    /// As [`Store::prune`].
    pub fn prune_to_limit(&self, limit: Option<u64>, now: SystemTime) -> Result<Pruned, PruneError> {
        const GB: u64 = 1_000_000_000;
        self.home_parts().write_file(&self.layout().lock("pruned"), b"", false)?;
        let (disk, _) = self.disk_space()?;
        let old = Pruning { before: now.checked_sub(UNUSED), all: true, ..Pruning::default() };
        let mut pruned = self.prune(&old)?;
        let limits = match limit {
            // The user's word counts for more than what we think the disk needs.
            Some(limit) => Pruning { max_used: Some(limit), ..Pruning::default() },
            None => Pruning {
                max_used: Some((disk / 5 * 4).min(100 * GB)),
                min_free: Some(disk / 5),
                reserved: (disk / 10).min(10 * GB),
                ..Pruning::default()
            },
        };
        let more = self.prune(&limits)?;
        pruned.entries.extend(more.entries);
        pruned.bytes += more.bytes;
        Ok(pruned)
    }
}

/// So many entries are removed under one claim: builds that look for one of them wait for so long.
const BATCH: usize = 256;

/// How long something may be of no use before it goes.
const UNUSED: Duration = Duration::from_secs(60 * 24 * 60 * 60);

impl CacheEntry {
    fn keys(&self) -> &[Digest] {
        match &self.parts {
            Parts::Records { keys, .. } => keys,
            Parts::File(_) | Parts::Mount(_) => &[],
        }
    }
}
