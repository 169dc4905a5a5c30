//! Retention: which tags and manifests go because nobody will miss them.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use oci::{Digest, RepositoryName, Tag};

use super::tags::{TagRecord, fits};
use super::{Repository, Storage, StorageError, keys};

/// What stays of the tags that it is about. A tag goes when no rule is about it that keeps it, and one is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetentionRule {
    /// The repositories; `*` stands for any characters.
    pub repositories: String,
    /// The tags.
    pub tags: String,
    /// So many of the newest stay.
    pub newest: Option<usize>,
    /// Those that were set not longer ago than this stay.
    pub within: Option<Duration>,
    /// Those that were pulled not longer ago than this stay.
    pub pulled_within: Option<Duration>,
}

/// Something that goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retired {
    /// The repository.
    pub repository: RepositoryName,
    /// The tag.
    pub tag: Tag,
    /// What it names.
    pub digest: Digest,
}

impl Storage {
    /// Removes the tags that no rule keeps, or with `dry_run` only tells which. They can be had back, as long as their
    /// manifests are there.
    pub async fn retain(
        &self,
        rules: &[RetentionRule],
        dry_run: bool,
        by: Option<&str>,
    ) -> Result<Vec<Retired>, StorageError> {
        let now = self.objects().now().await?;
        let (mut retired, mut after) = (Vec::new(), None::<RepositoryName>);
        loop {
            let page = self.catalog(after.as_ref().map(RepositoryName::as_str), 100).await?;
            for name in &page.entries {
                let repository = self.repository(name);
                for (tag, record) in repository.unkept(rules, now).await? {
                    let same = |current: &TagRecord| current.sequence == record.sequence;
                    if dry_run || repository.remove_tag(&tag, by, same).await? {
                        retired.push(Retired { repository: name.clone(), tag, digest: record.digest });
                    }
                }
            }
            match page.entries.last().filter(|_| page.more) {
                Some(last) => after = Some(last.clone()),
                None => break,
            }
        }
        self.sync().await?;
        Ok(retired)
    }
}

impl Repository {
    /// Returns the tags that a rule is about and none keeps.
    async fn unkept(&self, rules: &[RetentionRule], now: Timestamp) -> Result<Vec<(Tag, TagRecord)>, StorageError> {
        let rules: Vec<_> = rules.iter().filter(|rule| fits(&rule.repositories, self.name.as_str())).collect();
        if rules.is_empty() {
            return Ok(Vec::new());
        }
        let (mut tags, mut after) = (Vec::new(), None::<String>);
        loop {
            let page = self.tags(after.as_deref(), 1000).await?;
            for tag in page.entries.iter().filter_map(|tag| tag.parse::<Tag>().ok()) {
                tags.extend(self.tag(&tag).await?.map(|record| (tag, record)));
            }
            match page.entries.last().filter(|_| page.more) {
                Some(last) => after = Some(last.clone()),
                None => break,
            }
        }
        // The newest first, and of those that are as new the one with the later name.
        tags.sort_by(|(tag, record), (other_tag, other)| (other.at, other_tag).cmp(&(record.at, tag)));
        let (mut touched, mut kept) = (BTreeSet::new(), BTreeSet::new());
        for rule in rules {
            let about = tags.iter().filter(|(tag, _)| fits(&rule.tags, tag.as_str()));
            let pulled = match rule.pulled_within {
                Some(within) => self.pulled_since(now.saturating_sub(within).unwrap_or(Timestamp::MIN)).await?,
                None => BTreeSet::new(),
            };
            for (number, (tag, record)) in about.enumerate() {
                touched.insert(tag.clone());
                let age = now.duration_since(record.at);
                let young = |within: Duration| age.is_negative() || age.unsigned_abs() <= within;
                if rule.newest.is_some_and(|newest| number < newest)
                    || rule.within.is_some_and(young)
                    || pulled.contains(&record.digest)
                {
                    kept.insert(tag.clone());
                }
            }
        }
        tags.retain(|(tag, _)| touched.contains(tag) && !kept.contains(tag));
        Ok(tags)
    }

    /// Returns the manifests that were pulled since a moment; whole days count.
    async fn pulled_since(&self, since: Timestamp) -> Result<BTreeSet<Digest>, StorageError> {
        let mut pulled = BTreeSet::new();
        let since = since.to_string();
        let day = since.split('T').next().unwrap_or_default();
        let mut after = Some(keys::pulls().key(day));
        loop {
            let page = self.storage.objects().list(&keys::pulls(), after.as_ref(), 1000).await?;
            for entry in &page.entries {
                pulled.extend(
                    keys::parse_pull(&entry.key).filter(|(_, name, _)| *name == self.name).map(|(.., digest)| digest),
                );
            }
            match page.entries.last().filter(|_| page.more) {
                Some(last) => after = Some(last.key.clone()),
                None => return Ok(pulled),
            }
        }
    }
}
