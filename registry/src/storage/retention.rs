//! Rules by which tags, and manifests that no tag names, go.
//!
//! A tag that goes leaves its manifest and its history, so it can be set back until the manifest goes, too. What a
//! manifest named is collected after the grace, like everything that nothing relies on.

use std::collections::HashSet;
use std::pin::pin;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use jiff::Timestamp;
use oci::{Digest, RepositoryName, Tag};

use super::keys::{self, EdgeKind, TOMBSTONE};
use super::manifests::ManifestRecord;
use super::objects::Condition;
use super::records::Slot;
use super::tags::{TagPatterns, TagRecord};
use super::{Repository, Storage, StorageError};

/// Which tags and manifests go. A tag goes when all that is said here lets it go; immutable ones never do.
#[derive(Clone, Debug, Default)]
pub struct RetentionRules {
    /// Only tags that fit one of these are looked at; all when there are none.
    pub matching: Option<TagPatterns>,
    /// The latest of those, in each repository, stay.
    pub keep: Option<usize>,
    /// Those that were set since then stay.
    pub older_than: Option<Duration>,
    /// Those whose manifest was pulled since then stay. Pulls are noted by the hour.
    pub pulled_within: Option<Duration>,
    /// Manifests that no tag names for so long, no index names, and that are not about another manifest, go, too.
    pub untagged: Option<Duration>,
}

impl RetentionRules {
    /// Tells whether there is a rule by which tags go.
    pub fn let_tags_go(&self) -> bool {
        self.keep.is_some() || self.older_than.is_some() || self.pulled_within.is_some()
    }
}

/// What went, or would have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retired {
    /// In which repository.
    pub repository: RepositoryName,
    /// The tag; none when it is the manifest that went.
    pub tag: Option<Tag>,
    /// The manifest.
    pub digest: Digest,
    /// Since when the tag named it, or no tag did.
    pub since: Timestamp,
}

impl Storage {
    /// Removes the tags and manifests that the rules let go, or only tells which they are.
    pub async fn retire(
        &self,
        rules: &RetentionRules,
        dry_run: bool,
        by: Option<&str>,
    ) -> Result<Vec<Retired>, StorageError> {
        let now = self.objects().now().await?;
        let mut retired = Vec::new();
        let mut pages = pin!(self.pages(keys::catalog(), None));
        while let Some(page) = pages.try_next().await? {
            for entry in page.iter().filter(|entry| entry.size != TOMBSTONE) {
                let Some(name) = keys::parse_catalog(&entry.key) else { continue };
                let repository = self.repository(&name);
                let mut tags = Vec::new();
                if rules.let_tags_go() {
                    tags = repository.tags_to_retire(rules, now).await?;
                }
                if !dry_run {
                    repository.retire_tags(&mut tags, by).await?;
                }
                if let Some(age) = rules.untagged {
                    let without: HashSet<&Tag> = tags.iter().filter_map(|it| it.tag.as_ref()).collect();
                    let without = if dry_run { without } else { HashSet::new() };
                    // Not the moment from above: tags went since.
                    let moment = before(self.objects().now().await?, age);
                    let manifests = repository.retire_manifests(moment, &without, dry_run).await?;
                    tags.extend(manifests);
                }
                retired.extend(tags);
            }
        }
        self.sync().await?;
        Ok(retired)
    }

    /// Throws away what was noted about pulls more than `age` ago, and returns how many notes that were.
    pub async fn forget_pulls(&self, age: Duration) -> Result<u64, StorageError> {
        let moment = before(self.objects().now().await?, age);
        let mut forgotten = 0;
        let mut pages = pin!(self.pages(keys::pulls(), None));
        while let Some(page) = pages.try_next().await? {
            for entry in page.iter().filter(|entry| entry.modified < moment) {
                self.objects().delete(&entry.key).await?;
                forgotten += 1;
            }
        }
        Ok(forgotten)
    }
}

impl Repository {
    /// Returns the tags that the rules let go.
    async fn tags_to_retire(&self, rules: &RetentionRules, now: Timestamp) -> Result<Vec<Retired>, StorageError> {
        let mut tags: Vec<(Tag, TagRecord)> = Vec::new();
        let prefix = keys::tags(&self.name);
        let mut pages = pin!(self.storage.pages(prefix.clone(), None));
        while let Some(page) = pages.try_next().await? {
            for entry in page.iter().filter(|entry| entry.size != TOMBSTONE) {
                let Some(tag) = prefix.rest(&entry.key).and_then(|tag| tag.parse::<Tag>().ok()) else { continue };
                if rules.matching.as_ref().is_none_or(|matching| matching.fit(&self.name, &tag))
                    && let Some(record) = self.tag(&tag).await?
                {
                    tags.push((tag, record));
                }
            }
        }
        tags.sort_by(|(a, first), (b, second)| second.at.cmp(&first.at).then_with(|| a.cmp(b)));
        let stays = |tag: &Tag, record: &TagRecord| {
            self.storage.options().immutable.fit(&self.name, tag)
                || rules.older_than.is_some_and(|age| record.at > before(now, age))
        };
        let mut retired = Vec::new();
        for (tag, record) in tags.into_iter().skip(rules.keep.unwrap_or(0)).filter(|(tag, record)| !stays(tag, record))
        {
            if let Some(within) = rules.pulled_within
                && self.was_pulled_since(&record.digest, before(now, within)).await?
            {
                continue;
            }
            let TagRecord { digest, at: since, .. } = record;
            retired.push(Retired { repository: self.name.clone(), tag: Some(tag), digest, since });
        }
        Ok(retired)
    }

    /// Removes tags unless they changed meanwhile, and leaves those that were removed.
    async fn retire_tags(&self, tags: &mut Vec<Retired>, by: Option<&str>) -> Result<(), StorageError> {
        let mut gone = Vec::new();
        for retired in tags.drain(..) {
            let Some(tag) = &retired.tag else { continue };
            let same = |record: Option<&TagRecord>| {
                record.is_some_and(|it| it.digest == retired.digest && it.at == retired.since)
            };
            if self.remove_tag(tag, by, same).await? {
                gone.push(retired);
            }
        }
        *tags = gone;
        Ok(())
    }

    /// Removes manifests that nothing but the repository's having them keeps, and that no tag names since `moment`.
    /// `without` are tags that are as good as gone.
    async fn retire_manifests(
        &self,
        moment: Timestamp,
        without: &HashSet<&Tag>,
        dry_run: bool,
    ) -> Result<Vec<Retired>, StorageError> {
        let mut retired = Vec::new();
        let mut pages = pin!(self.storage.pages(keys::manifests(&self.name), None));
        while let Some(page) = pages.try_next().await? {
            for entry in page.iter().filter(|entry| entry.size != TOMBSTONE) {
                let Some((_, digest)) = keys::parse_manifest(&entry.key) else { continue };
                let Some(held) = self.storage.slot::<ManifestRecord>(&entry.key).await?.here() else { continue };
                let Some(since) = self.untagged_since(&digest, &held.record, without).await? else { continue };
                if since > moment || self.is_part_of_another(&digest, &held.record).await? {
                    continue;
                }
                let condition = Condition::Is(held.version);
                if dry_run || self.delete_untagged(&digest, held.record, condition).await? {
                    retired.push(Retired { repository: self.name.clone(), tag: None, digest, since });
                }
            }
        }
        Ok(retired)
    }

    /// Tells since when no tag names a manifest, at the latest; `None` when one does, or may.
    async fn untagged_since(
        &self,
        digest: &Digest,
        record: &ManifestRecord,
        without: &HashSet<&Tag>,
    ) -> Result<Option<Timestamp>, StorageError> {
        let mut since = record.at;
        for tag in self.tags_once_of(digest, record.incarnation).await? {
            // What it is now, it became when it ceased to name the manifest, or later.
            since = match self.storage.slot::<TagRecord>(&keys::tag(&self.name, &tag)).await? {
                Slot::Here(held) if held.record.digest == *digest && !without.contains(&tag) => return Ok(None),
                Slot::Damaged(_) => return Ok(None),
                Slot::Here(held) => since.max(held.record.at),
                Slot::Gone(tombstone) => since.max(tombstone.modified),
                Slot::Absent => since,
            };
        }
        Ok(Some(since))
    }

    /// Tells whether an index of the repository names a manifest, or it is about a manifest that is here.
    async fn is_part_of_another(&self, digest: &Digest, record: &ManifestRecord) -> Result<bool, StorageError> {
        if let Some(subject) = &record.subject
            && self.storage.has_record(&keys::manifest(&self.name, subject)).await?
        {
            return Ok(true);
        }
        let of_another = |kind: &EdgeKind| matches!(kind, EdgeKind::Manifest(other) if other != digest);
        for (edge, _) in self.storage.edges(digest).await? {
            if edge.repository == self.name && of_another(&edge.kind) && self.storage.is_current(&edge).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Deletes a manifest unless a tag names it, also one that comes meanwhile, and tells whether it did.
    ///
    /// Who tags looks whether the manifest is there after the tag is. So either that sees that the manifest is gone, and
    /// puts it back, or the tag is seen here.
    async fn delete_untagged(
        &self,
        digest: &Digest,
        record: ManifestRecord,
        condition: Condition,
    ) -> Result<bool, StorageError> {
        let key = keys::manifest(&self.name, digest);
        let Some((gone, _)) = self.storage.bury(&key, 0, condition).await? else { return Ok(false) };
        if !self.tags_of(digest, record.incarnation).await?.is_empty() {
            // When that fails, whoever tagged it has put it back.
            self.storage.replace(&key, &record, &[], Condition::Is(gone)).await?;
            return Ok(false);
        }
        self.forget_manifest(digest, &record, None).await?;
        Ok(true)
    }
}

fn before(now: Timestamp, age: Duration) -> Timestamp {
    let age = jiff::SignedDuration::try_from(age).unwrap_or(jiff::SignedDuration::MAX);
    now.checked_sub(age).unwrap_or(Timestamp::MIN)
}
