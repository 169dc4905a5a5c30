//! Makes the build cache smaller.

use std::time::{Duration, SystemTime};

use store::{CacheEntry, CollectError, PruneError, Pruned, Pruning};

use crate::Engine;

/// Tells whether an entry may go.
pub type Accepts = dyn Fn(&CacheEntry) -> bool + Send + Sync;

/// What to remove; everything that images do not share when nothing is set.
#[derive(Default)]
pub struct PruneOptions {
    /// Also what images share, and notes without layers.
    pub all: bool,
    /// Only what was last used before this.
    pub before: Option<SystemTime>,
    /// Only what this accepts.
    pub only: Option<Box<Accepts>>,
    /// No more than is needed for the cache to take so many bytes.
    pub max_used: Option<u64>,
    /// No more than is needed for the disk to have so many bytes free.
    pub min_free: Option<u64>,
    /// So many bytes stay in any case.
    pub reserved: u64,
}

/// How long to wait for others that cannot be interrupted.
const PATIENCE: Duration = Duration::from_secs(10);

/// Removes entries of the build cache, what was not used for longest first. What a build uses stays, whichever process
/// it runs in.
///
/// # Errors
///
/// [`PruneError::Busy`] when another process that does not let this happen beside it does not end in time.
pub async fn prune(engine: &Engine, options: PruneOptions) -> Result<Pruned, PruneError> {
    let store = engine.store().clone();
    store::blocking::run(move || {
        let PruneOptions { all, before, only, max_used, min_free, reserved } = options;
        let only = only.as_deref().map(|only| only as &(dyn Fn(&CacheEntry) -> bool + Sync));
        if only.is_none() && before.is_none() && max_used.is_none() && min_free.is_none() {
            // Nobody chose: the files of failed steps are as easily made again as the cache is.
            store.builds().drop_kept()?;
        }
        let pruning = Pruning { all, before, only, max_used, min_free, reserved };
        let mut waited = Duration::ZERO;
        let pause = Duration::from_millis(50);
        let mut pruned = loop {
            match store.prune(&pruning) {
                Err(PruneError::Busy) if waited < PATIENCE => {
                    std::thread::sleep(pause);
                    waited += pause;
                }
                other => break other?,
            }
        };
        match store.collect() {
            Ok(more) => pruned.bytes += more.bytes,
            // What nothing refers to is removed by whoever is alone some day.
            Err(CollectError::Busy) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(pruned)
    })
    .await
}
