//! Tells what the build cache takes on the disk.

use store::{CacheEntry, PruneError};

use crate::Engine;

/// Lists what the build cache takes, what was used last first.
///
/// # Errors
///
/// When the disk cannot be read, or it cannot be told what images use.
pub async fn du(engine: &Engine) -> Result<Vec<CacheEntry>, PruneError> {
    let store = engine.store().clone();
    let mut entries = store::blocking::run(move || store.cache_entries()).await?;
    entries.reverse();
    Ok(entries)
}
