//! What operators ask of a registry's storage, while it is served or not.

use std::time::Duration;

use oci::{Digest, RepositoryName, Tag};
use registry::storage::collector::{CollectOptions, Collected};
use registry::storage::fsck::{Checked, FsckOptions};
use registry::storage::inspect::{Kept, Usage};
use registry::storage::retention::{RetentionRules, Retired};
use registry::storage::{Change, PutManifestError, Storage, StorageError};

/// Who is noted in the history of tags.
const OPERATOR: Option<&str> = Some("operator");

/// How to collect.
#[derive(Clone, Copy, Debug)]
pub struct GcOptions {
    /// Whether only to tell what would go.
    pub dry_run: bool,
    /// How old bytes must be that no record names; a day when nothing is said.
    pub unnamed: Option<Duration>,
    /// For how long an upload stays that nobody goes on with.
    pub upload_age: Duration,
}

/// What a collection did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GcDone {
    /// What the collector says.
    pub collected: Collected,
    /// How many uploads that nobody went on with were thrown away.
    pub uploads: u64,
}

/// Throws away what nothing relies on.
///
/// # Errors
///
/// When the storage does not answer. What was done by then is as good as a smaller collection.
pub async fn gc(storage: &Storage, options: GcOptions) -> Result<GcDone, StorageError> {
    let uploads = if options.dry_run { 0 } else { storage.expire_uploads(options.upload_age).await? };
    let GcOptions { dry_run, unnamed, upload_age: _ } = options;
    let collect = CollectOptions { scan: true, dry_run, unnamed, ..CollectOptions::default() };
    let collected = storage.collect(collect).await?;
    storage.sync().await?;
    Ok(GcDone { collected, uploads })
}

/// Tells how much repositories take.
///
/// # Errors
///
/// When the storage does not answer, or a record is damaged.
pub async fn du(storage: &Storage) -> Result<Usage, StorageError> {
    storage.usage().await
}

/// Tells what keeps a blob; `None` when it is not there.
///
/// # Errors
///
/// When the storage does not answer, or a record is damaged.
pub async fn why(storage: &Storage, digest: &Digest) -> Result<Option<Kept>, StorageError> {
    storage.why(digest).await
}

/// Checks whether everything fits together, and mends it if asked to.
///
/// # Errors
///
/// When the storage does not answer.
pub async fn fsck(storage: &Storage, options: FsckOptions) -> Result<Checked, StorageError> {
    storage.fsck(options).await
}

/// Removes the tags and manifests that rules let go, or only tells which they are. Tags stay that the storage's server has
/// as immutable.
///
/// # Errors
///
/// When the storage does not answer, or a record is damaged.
pub async fn retention(storage: &Storage, rules: &RetentionRules, dry_run: bool) -> Result<Vec<Retired>, StorageError> {
    storage.with_noted_immutable().await?.retire(rules, dry_run, Some("retention")).await
}

/// Returns the changes of a tag, or of all tags of a repository, the latest first.
///
/// # Errors
///
/// When the storage does not answer, or a record is damaged.
pub async fn tags_log(
    storage: &Storage,
    repository: &RepositoryName,
    tag: Option<&Tag>,
) -> Result<Vec<(Tag, Change)>, StorageError> {
    let repository = storage.repository(repository);
    let tags = match tag {
        Some(tag) => vec![tag.clone()],
        None => repository.tags_ever().await?,
    };
    let mut changes = Vec::new();
    for tag in tags {
        let mut after = 0;
        loop {
            let page = repository.history(&tag, after, 1000).await?;
            let last = page.entries.last().map(|change| change.sequence);
            changes.extend(page.entries.into_iter().map(|change| (tag.clone(), change)));
            match last.filter(|_| page.more) {
                Some(last) => after = last,
                None => break,
            }
        }
    }
    changes.sort_by(|(a, first), (b, second)| (second.at, b, second.sequence).cmp(&(first.at, a, first.sequence)));
    Ok(changes)
}

/// Sets a tag back to what it named before; `None` when it named nothing else, or that is gone.
///
/// # Errors
///
/// When the tag is immutable or changes meanwhile, or the storage does not answer.
pub async fn tags_undelete(
    storage: &Storage,
    repository: &RepositoryName,
    tag: &Tag,
) -> Result<Option<Digest>, PutManifestError> {
    storage.with_noted_immutable().await?.repository(repository).undelete_tag(tag, OPERATOR).await
}
