//! Which repositories of a registry are known to hold a blob, so that a push can mount it instead of sending it.
//!
//! Kept among the builder's records, because it is a cache all the same: damaged or gone, a blob is sent.

use oci::{Digest, RepositoryName};
use store::Store;

/// How many repositories are remembered per blob, the latest first.
const MAX: usize = 4;

fn key(registry: &str, digest: &Digest) -> Digest {
    Digest::sha256(format!("blob source\0{registry}\0{digest}").as_bytes())
}

/// Returns the repositories in which a blob was seen, the latest first. Blocks.
pub(super) fn find(store: &Store, registry: &str, digest: &Digest) -> Vec<RepositoryName> {
    // What cannot be read is not known.
    let record = store.build_cache().get(&key(registry, digest)).ok().flatten();
    record.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// Remembers that a repository holds a blob. Blocks.
pub(super) fn note(store: &Store, registry: &str, repository: &RepositoryName, digest: &Digest) {
    let mut known = find(store, registry, digest);
    if known.first() == Some(repository) {
        return;
    }
    known.retain(|other| other != repository);
    known.insert(0, repository.clone());
    known.truncate(MAX);
    if let Ok(record) = serde_json::to_vec(&known) {
        // A full disk here only means that a blob will be sent that could have been mounted.
        let _ = store.build_cache().put(&key(registry, digest), &record, &store::Keeps::default());
    }
}
