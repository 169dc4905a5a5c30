//! What a server does beside answering: throwing away what nothing relies on, and reading blobs again.
//!
//! Any number of servers on the same storage may all do so.

use std::time::Duration;

use oci::Digest;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{ServeEvent, ServeOptions, chain};
use crate::storage::Ids;
use crate::storage::collector::CollectOptions;

/// How often everything is gone through, and not only what lost an edge.
const SCAN_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);
/// How long to wait after each blob that was looked at, so that clients get their turn.
const PAUSE: Duration = Duration::from_millis(1);
/// How long to wait before all blobs are read again, or after it failed.
const SCRUB_PAUSE: Duration = Duration::from_secs(60 * 60);
/// For how long it is known when a manifest was pulled.
const PULLS_AGE: Duration = Duration::from_secs(400 * 24 * 60 * 60);

/// What a server does beside answering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upkeep {
    /// How often to look for what nothing relies on any more; never when it is 0.
    pub collect_every: Duration,
    /// How many bytes a second are read to see whether they are what they were; none when it is 0.
    pub scrub_rate: u64,
}

impl Default for Upkeep {
    fn default() -> Self {
        Self { collect_every: Duration::from_secs(10 * 60), scrub_rate: 1024 * 1024 }
    }
}

/// Starts what there is to do.
pub(crate) fn spawn(tasks: &mut JoinSet<()>, options: &ServeOptions) {
    if !options.upkeep.collect_every.is_zero() {
        tasks.spawn(collect(options.clone()));
    }
    if options.upkeep.scrub_rate > 0 {
        tasks.spawn(scrub(options.clone()));
    }
}

async fn collect(options: ServeOptions) {
    let mut next_scan = Instant::now() + SCAN_INTERVAL;
    loop {
        tokio::time::sleep(options.upkeep.collect_every).await;
        let scan = Instant::now() >= next_scan;
        let collected =
            options.storage.collect(CollectOptions { scan, pause: PAUSE, ..CollectOptions::default() }).await;
        let failed = match collected {
            Ok(collected) => {
                if collected.blobs > 0 {
                    let (blobs, bytes) = (collected.blobs, collected.bytes);
                    options.events.tell(ServeEvent::Collected { blobs, bytes });
                }
                if !scan {
                    continue;
                }
                next_scan = Instant::now() + SCAN_INTERVAL;
                options.storage.forget_pulls(PULLS_AGE).await.err()
            }
            Err(error) => Some(error),
        };
        if let Some(error) = failed {
            options.events.tell(ServeEvent::CollectionFailed { error: chain(&error) });
        }
    }
}

async fn scrub(options: ServeOptions) {
    // Somewhere, so that servers that are started often, or many, get everywhere.
    let mut after = Some(Digest::sha256(&Ids::Random.draw().to_bytes()));
    loop {
        match options.storage.scrub(after.take().as_ref(), options.upkeep.scrub_rate).await {
            Ok(scrubbed) => {
                for digest in scrubbed.bad {
                    options.events.tell(ServeEvent::BlobBad { digest });
                }
                if let Some(error) = scrubbed.why {
                    options.events.tell(ServeEvent::ScrubFailed { error: chain(&error) });
                }
            }
            Err(error) => options.events.tell(ServeEvent::ScrubFailed { error: chain(&error) }),
        }
        tokio::time::sleep(SCRUB_PAUSE).await;
    }
}
