//! Noting which manifests are pulled, for retention rules, without anybody waiting for that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use oci::{Digest, RepositoryName};
use tokio::sync::Semaphore;

use crate::storage::{PULLS_NOTED_EVERY, Repository};

/// How often it is noted that a manifest is pulled.
const INTERVAL: Duration = Duration::from_secs(PULLS_NOTED_EVERY.unsigned_abs());
/// Of so many manifests it is known that they were noted.
const MOST: usize = 10_000;
/// So many notes are on their way at most.
const AT_ONCE: usize = 256;

/// What was noted lately. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Pulls {
    noted: Arc<Mutex<HashMap<(RepositoryName, Digest), Instant>>>,
    turns: Arc<Semaphore>,
}

impl Default for Pulls {
    fn default() -> Self {
        Self { noted: Arc::default(), turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl Pulls {
    /// Notes that a manifest is pulled, unless that was noted within the hour.
    pub(super) fn note(&self, repository: &Repository, digest: &Digest) {
        let now = Instant::now();
        let what = (repository.name().clone(), digest.clone());
        let mut noted = self.noted();
        if noted.get(&what).is_some_and(|then| now.duration_since(*then) < INTERVAL) {
            return;
        }
        // When there are too many at this moment, the next pull is noted.
        let Ok(turn) = self.turns.clone().try_acquire_owned() else { return };
        if noted.len() >= MOST {
            noted.clear();
        }
        noted.insert(what.clone(), now);
        let (pulls, repository) = (self.clone(), repository.clone());
        tokio::spawn(async move {
            let _turn = turn;
            if repository.note_pull(&what.1).await.is_err() {
                pulls.noted().remove(&what);
            }
        });
    }

    fn noted(&self) -> MutexGuard<'_, HashMap<(RepositoryName, Digest), Instant>> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
