//! Fetches an image from a registry.

use jiff::Timestamp;
use oci::{Platform, Reference};
use registry::client::{self, PullError, Pulled, TransferEvents, Wanted};

use crate::Engine;

/// Fetches an image, its name last; what is here is not fetched again.
///
/// # Errors
///
/// When the registry does not have it, or something breaks on the way. Whole blobs stay for the next try.
pub async fn pull(
    engine: &Engine,
    reference: &Reference,
    platform: &Platform,
    events: &dyn TransferEvents,
    now: Timestamp,
) -> Result<Pulled, PullError> {
    client::pull(engine.client(), engine.store(), reference, Wanted::Best(platform), events, now).await
}
