//! Tags and their history.
//!
//! A tag is a record that names a manifest; each change has a number, one more than the last. After the change comes its
//! entry in the history, which is never changed. Should the one who changed the tag not come to that, whoever changes it
//! next does.

use std::fmt;
use std::pin::pin;

use futures_util::TryStreamExt as _;
use jiff::Timestamp;
use oci::{Digest, Tag};
use serde::{Deserialize, Serialize};

use super::id::Id;
use super::keys::{self, Key, TOMBSTONE};
use super::objects::Condition;
use super::records::{Slot, TRIES};
use super::{Page, PutManifestError, Repository, Storage, StorageError};

/// What a tag names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TagRecord {
    /// The manifest.
    pub digest: Digest,
    /// Which stay of the manifest in the repository.
    pub incarnation: Id,
    /// The manifest's media type.
    pub media_type: String,
    /// The manifest's length, in bytes.
    pub size: u64,
    /// The number of the change that made it so.
    pub sequence: u64,
    /// Who made it so, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// A change of a tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// Its number.
    pub sequence: u64,
    /// The manifest that the tag named from then on; none when it was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The manifest's media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Who did it, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// What a client says that a tag must name now: the manifest, or nothing.
#[derive(Clone, Copy)]
pub struct TagTest<'a>(pub &'a (dyn Fn(Option<&Digest>) -> bool + Send + Sync));

impl fmt::Debug for TagTest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TagTest")
    }
}

/// What a tag is to name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named<'a> {
    pub(super) digest: &'a Digest,
    pub(super) incarnation: Id,
    pub(super) media_type: &'a str,
    pub(super) size: u64,
}

/// Patterns for `repository:tag`, in which `*` stands for any characters and `**` is the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TagPatterns(Vec<String>);

impl TagPatterns {
    /// Takes patterns such as `prod/*:v*`. One without a colon is about the tags of all repositories.
    pub fn new(patterns: impl IntoIterator<Item = String>) -> Self {
        Self(patterns.into_iter().collect())
    }

    /// Tells whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells whether one of them fits.
    pub fn fit(&self, repository: &oci::RepositoryName, tag: &Tag) -> bool {
        self.0.iter().any(|pattern| match pattern.rsplit_once(':') {
            Some((name, of_tag)) => fits(name, repository.as_str()) && fits(of_tag, tag.as_str()),
            None => fits(pattern, tag.as_str()),
        })
    }
}

/// Tells whether a text is what a pattern says, in which `*` stands for any characters. Linear in both, for any pattern
/// that a user may think of.
pub(super) fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut from) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while from < text.len() {
        if pattern.get(at) == Some(&b'*') {
            star = Some((at, from));
            at += 1;
        } else if pattern.get(at) == Some(&text[from]) {
            (at, from) = (at + 1, from + 1);
        } else if let Some((star_at, star_from)) = star {
            // The last star takes one more.
            star = Some((star_at, star_from + 1));
            (at, from) = (star_at + 1, star_from + 1);
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

impl Storage {
    /// Returns a number that is another after each change of a tag, whoever changed it, if that is known at once.
    pub fn tag_changes(&self) -> Result<Option<u64>, StorageError> {
        Ok(self.objects().tag_changes()?)
    }

    /// Writes down which tags are immutable, for those who change tags without being told. Who says nothing of that leaves
    /// what was said; a pattern that fits no tag takes it back.
    pub async fn note_immutable(&self) -> Result<(), StorageError> {
        let (key, patterns) = (keys::immutable(), &self.options().immutable);
        if patterns.is_empty() {
            return Ok(());
        }
        let damaged = |source| StorageError::DamagedRecord { key: key.as_str().to_owned(), source };
        let bytes = serde_json::to_vec(&patterns.0).map_err(damaged)?;
        if self.intact(&key).await?.is_none_or(|noted| *noted != *bytes) {
            self.objects().put(&key, bytes.into(), Condition::Always).await?;
            self.sync().await?;
        }
        Ok(())
    }

    /// Returns the same storage, with those tags immutable too that a server wrote down.
    pub async fn with_noted_immutable(&self) -> Result<Self, StorageError> {
        let key = keys::immutable();
        let Some(noted) = self.objects().get(&key).await? else { return Ok(self.clone()) };
        let damaged = |source| StorageError::DamagedRecord { key: key.as_str().to_owned(), source };
        let noted: Vec<String> = serde_json::from_slice(&noted.bytes).map_err(damaged)?;
        let mut options = self.options().clone();
        options.immutable.0.extend(noted);
        Ok(Self::new(self.backend().clone(), options))
    }
}

impl Repository {
    /// Returns what a tag names, if there is such a tag.
    pub async fn tag(&self, tag: &Tag) -> Result<Option<TagRecord>, StorageError> {
        let slot = self.storage.slot::<TagRecord>(&keys::tag(&self.name, tag)).await?;
        Ok(slot.here().map(|held| held.record))
    }

    /// Returns tags in byte order: those after `after`, which need not be a tag, at most `limit`.
    pub async fn tags(&self, after: Option<&str>, limit: usize) -> Result<Page<String>, StorageError> {
        let prefix = keys::tags(&self.name);
        let mut page = Page { entries: Vec::new(), more: false };
        let mut after = after.map(|after| prefix.key(after));
        loop {
            // One more than asked for, to learn whether there is more.
            let wanted = limit.saturating_add(1).saturating_sub(page.entries.len()).min(10_000);
            let listed = self.storage.objects().list(&prefix, after.as_ref(), wanted).await?;
            for entry in listed.entries.iter().filter(|entry| entry.size != TOMBSTONE) {
                if page.entries.len() == limit {
                    page.more = true;
                    return Ok(page);
                }
                page.entries.extend(prefix.rest(&entry.key).map(str::to_owned));
            }
            match listed.entries.last().filter(|_| listed.more) {
                Some(last) => after = Some(last.key.clone()),
                None => return Ok(page),
            }
        }
    }

    /// Removes a tag that is not immutable, and tells whether it was there. The manifest stays. When this returns, it
    /// survives a crash of the machine.
    pub async fn delete_tag(&self, tag: &Tag, by: Option<&str>) -> Result<bool, PutManifestError> {
        self.check_stays(tag, None).await?;
        // One that somebody set since stays, too.
        let immutable = self.storage.options().immutable.fit(&self.name, tag);
        let removed = self.remove_tag(tag, by, |record| !immutable || record.is_none()).await?;
        self.storage.sync().await?;
        Ok(removed)
    }

    /// Returns changes of a tag, the oldest first: those after number `after`, at most `limit`.
    pub async fn history(&self, tag: &Tag, after: u64, limit: usize) -> Result<Page<Change>, StorageError> {
        let prefix = keys::history(&self.name, tag);
        // `~` comes after all that an ID may have.
        let start = prefix.key(&format!("{after:016x}-~"));
        let listed = self.storage.objects().list(&prefix, Some(&start), limit).await?;
        let mut page = Page { entries: Vec::new(), more: listed.more };
        for entry in &listed.entries {
            page.entries.extend(self.change(&entry.key).await?);
        }
        let last = page.entries.last().map_or(after, |change| change.sequence);
        if !page.more && page.entries.len() < limit {
            page.entries.extend(self.unwritten_change(tag).await?.filter(|change| change.sequence > last));
        }
        Ok(page)
    }

    /// Returns what a tag named at a moment, by the store's clock, if it named something.
    pub async fn tag_at(&self, tag: &Tag, moment: Timestamp) -> Result<Option<Change>, StorageError> {
        // Changes come one after the other, so the last one before the moment is found by halves.
        let (mut before, mut after, mut latest) = (0, self.changes(tag).await? + 1, None);
        while before + 1 < after {
            let middle = before + (after - before) / 2;
            // What cannot be read says nothing of what comes after it.
            let mut from = middle - 1;
            let found = loop {
                let mut page = self.history(tag, from, 1).await?;
                from += 1;
                if !page.entries.is_empty() || !page.more || from + 1 >= after {
                    break page.entries.pop();
                }
            };
            match found {
                Some(change) if change.at <= moment => {
                    before = change.sequence.max(middle);
                    latest = Some(change);
                }
                Some(_) | None => after = middle,
            }
        }
        Ok(latest.filter(|change: &Change| change.digest.is_some()))
    }

    /// Returns how often a tag was changed, which is the number of the latest change.
    pub async fn changes(&self, tag: &Tag) -> Result<u64, StorageError> {
        let slot = self.storage.slot::<TagRecord>(&keys::tag(&self.name, tag)).await?;
        Ok(self.latest_change(tag, &slot).await?.map_or(0, |change| change.sequence))
    }

    /// Sets a tag back to the last manifest that it named before the one, or the nothing, that it names now. Returns
    /// that manifest; `None` when there is none, or it is not here any more.
    pub async fn undelete_tag(&self, tag: &Tag, by: Option<&str>) -> Result<Option<Digest>, PutManifestError> {
        let current = self.tag(tag).await?.map(|record| record.digest);
        let (mut after, mut candidate) = (0, None);
        loop {
            let page = self.history(tag, after, 1000).await?;
            for change in page.entries {
                after = change.sequence;
                candidate = change.digest.filter(|digest| Some(digest) != current.as_ref()).or(candidate);
            }
            if !page.more {
                break;
            }
        }
        let Some(digest) = candidate else { return Ok(None) };
        let Some(manifest) = self.manifest(&digest).await? else { return Ok(None) };
        let named = Named {
            digest: &digest,
            incarnation: manifest.incarnation,
            media_type: &manifest.media_type,
            size: manifest.size,
        };
        let test = |now: Option<&Digest>| now == current.as_ref();
        self.set_tag(tag, named, Some(TagTest(&test)), by).await?;
        // Deleted between the look and the tag?
        if self.manifest(&digest).await?.is_none_or(|now| now.incarnation != manifest.incarnation) {
            let same = |record: Option<&TagRecord>| record.is_some_and(|it| it.incarnation == manifest.incarnation);
            self.remove_tag(tag, by, same).await?;
            return Ok(None);
        }
        self.storage.sync().await?;
        Ok(Some(digest))
    }

    /// Tells early whether a tag will not move; what counts is [`Self::set_tag`].
    pub(super) async fn check_tag(&self, tag: &Tag, holds: TagTest<'_>) -> Result<(), PutManifestError> {
        let current = self.tag(tag).await?;
        if (holds.0)(current.as_ref().map(|record| &record.digest)) {
            Ok(())
        } else {
            Err(PutManifestError::TagMoved { tag: tag.clone() })
        }
    }

    /// Tells early whether a tag is immutable and names another manifest; what counts is [`Self::set_tag`].
    pub(super) async fn check_immutable(&self, tag: &Tag, digest: &Digest) -> Result<(), PutManifestError> {
        if !self.storage.options().immutable.fit(&self.name, tag) {
            return Ok(());
        }
        match self.tag(tag).await? {
            Some(record) if record.digest != *digest => {
                Err(PutManifestError::TagImmutable { tag: tag.clone(), digest: record.digest })
            }
            _ => Ok(()),
        }
    }

    /// Refuses when a tag is immutable and names a manifest, this one if one is given: what could be deleted could be
    /// set to another then.
    async fn check_stays(&self, tag: &Tag, digest: Option<&Digest>) -> Result<(), PutManifestError> {
        if !self.storage.options().immutable.fit(&self.name, tag) {
            return Ok(());
        }
        let slot = self.storage.slot::<TagRecord>(&keys::tag(&self.name, tag)).await?;
        match self.latest_change(tag, &slot).await?.and_then(|change| change.digest) {
            Some(named) if digest.is_none_or(|digest| named == *digest) => {
                Err(PutManifestError::TagImmutable { tag: tag.clone(), digest: named })
            }
            _ => Ok(()),
        }
    }

    /// Refuses when an immutable tag names a manifest.
    pub(super) async fn check_untagged(&self, digest: &Digest) -> Result<(), PutManifestError> {
        if self.storage.options().immutable.is_empty() {
            return Ok(());
        }
        let hints = keys::named_ever(&self.name, digest);
        let mut pages = pin!(self.storage.pages(hints.clone(), None));
        while let Some(page) = pages.try_next().await? {
            for (_, tag) in page.iter().filter_map(|entry| keys::parse_named(&hints, &entry.key)) {
                self.check_stays(&tag, Some(digest)).await?;
            }
        }
        Ok(())
    }

    /// Moves a tag to a manifest, if it is not immutable and `holds` says so of what it names now. No other change of
    /// the tag comes between.
    pub(super) async fn set_tag(
        &self,
        tag: &Tag,
        named: Named<'_>,
        holds: Option<TagTest<'_>>,
        by: Option<&str>,
    ) -> Result<(), PutManifestError> {
        let key = keys::tag(&self.name, tag);
        let immutable = self.storage.options().immutable.fit(&self.name, tag);
        // Before the tag names it, so that whoever deletes the manifest finds the tag.
        let hint = keys::named(&self.name, named.digest, named.incarnation, tag);
        self.storage.objects().put(&hint, bytes::Bytes::new(), Condition::Always).await?;
        for _ in 0..TRIES {
            let slot = self.storage.slot::<TagRecord>(&key).await?;
            if let Slot::Here(held) = &slot
                && held.record.digest == *named.digest
                && held.record.incarnation == named.incarnation
            {
                return Ok(());
            }
            let latest = self.latest_change(tag, &slot).await?;
            let current = latest.as_ref().and_then(|change| change.digest.as_ref());
            if holds.is_some_and(|holds| !(holds.0)(current)) {
                return Err(PutManifestError::TagMoved { tag: tag.clone() });
            }
            if let Some(digest) = current.filter(|digest| immutable && *digest != named.digest) {
                return Err(PutManifestError::TagImmutable { tag: tag.clone(), digest: digest.clone() });
            }
            self.write_change(tag, &slot).await?;
            let record = TagRecord {
                digest: named.digest.clone(),
                incarnation: named.incarnation,
                media_type: named.media_type.to_owned(),
                size: named.size,
                sequence: latest.map_or(0, |change| change.sequence) + 1,
                by: by.map(str::to_owned),
                at: self.storage.objects().now().await?,
            };
            if let Some((_, nonce)) = self.storage.replace(&key, &record, &[], slot.condition()).await? {
                return Ok(self.put_change(tag, nonce, &Change::of(&record)).await?);
            }
        }
        Err(StorageError::Contended { key: key.as_str().to_owned() }.into())
    }

    /// Removes a tag if `fits` says so of what it names, if that can be known, and tells whether it did.
    pub(super) async fn remove_tag(
        &self,
        tag: &Tag,
        by: Option<&str>,
        fits: impl Fn(Option<&TagRecord>) -> bool,
    ) -> Result<bool, StorageError> {
        let key = keys::tag(&self.name, tag);
        for _ in 0..TRIES {
            let slot = self.storage.slot::<TagRecord>(&key).await?;
            let record = match &slot {
                Slot::Absent | Slot::Gone(_) => return Ok(false),
                Slot::Damaged(_) => None,
                Slot::Here(held) => Some(&held.record),
            };
            if !fits(record) {
                return Ok(false);
            }
            self.write_change(tag, &slot).await?;
            let sequence = self.latest_change(tag, &slot).await?.map_or(0, |change| change.sequence) + 1;
            let at = self.storage.objects().now().await?;
            if let Some((_, nonce)) = self.storage.bury(&key, sequence, slot.condition()).await? {
                let by = by.map(str::to_owned);
                self.put_change(tag, nonce, &Change { sequence, digest: None, media_type: None, by, at }).await?;
                return Ok(true);
            }
        }
        Err(StorageError::Contended { key: key.as_str().to_owned() })
    }

    /// Makes sure that the history has the change that led to what the tag is now.
    async fn write_change(&self, tag: &Tag, slot: &Slot<TagRecord>) -> Result<(), StorageError> {
        let Some((nonce, change)) = change_of(slot) else { return Ok(()) };
        let key = keys::change(&self.name, tag, change.sequence, nonce);
        if self.storage.objects().head(&key).await?.is_some() {
            return Ok(());
        }
        self.put_change(tag, nonce, &change).await
    }

    /// Returns the change that led to what the tag is now, if the history does not have it.
    async fn unwritten_change(&self, tag: &Tag) -> Result<Option<Change>, StorageError> {
        let slot = self.storage.slot::<TagRecord>(&keys::tag(&self.name, tag)).await?;
        let Some((nonce, change)) = change_of(&slot) else { return Ok(None) };
        let key = keys::change(&self.name, tag, change.sequence, nonce);
        Ok(self.storage.objects().head(&key).await?.is_none().then_some(change))
    }

    async fn put_change(&self, tag: &Tag, nonce: Id, change: &Change) -> Result<(), StorageError> {
        let key = keys::change(&self.name, tag, change.sequence, nonce);
        let body = serde_json::to_vec(change)
            .map_err(|source| StorageError::DamagedRecord { key: key.as_str().to_owned(), source })?;
        self.storage.objects().put(&key, body.into(), Condition::Absent).await?;
        Ok(())
    }

    async fn change(&self, key: &Key) -> Result<Option<Change>, StorageError> {
        let bytes = self.storage.intact(key).await?;
        // One that is damaged is missing from the history.
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// Returns the change that led to what the tag is now. When its record cannot be read, that is the last that the
    /// history has.
    async fn latest_change(&self, tag: &Tag, slot: &Slot<TagRecord>) -> Result<Option<Change>, StorageError> {
        let Slot::Damaged(_) = slot else { return Ok(change_of(slot).map(|(_, change)| change)) };
        let mut latest = None;
        let mut pages = pin!(self.storage.pages(keys::history(&self.name, tag), None));
        while let Some(mut page) = pages.try_next().await? {
            while let Some(entry) = page.pop() {
                if let Some(change) = self.change(&entry.key).await? {
                    latest = Some(change);
                    break;
                }
            }
        }
        Ok(latest)
    }

    /// Makes a tag whose record cannot be read what its history says, and tells whether that could be done.
    pub(super) async fn mend_tag(&self, tag: &Tag, by: Option<&str>) -> Result<bool, PutManifestError> {
        let slot = self.storage.slot::<TagRecord>(&keys::tag(&self.name, tag)).await?;
        let Some(latest) = self.latest_change(tag, &slot).await? else { return Ok(false) };
        let manifest = match &latest.digest {
            Some(digest) => self.manifest(digest).await?.map(|manifest| (digest, manifest)),
            None => None,
        };
        let Some((digest, manifest)) = manifest else {
            return Ok(self.remove_tag(tag, by, |record| record.is_none()).await?);
        };
        let (incarnation, media_type) = (manifest.incarnation, &*manifest.media_type);
        let test = |now: Option<&Digest>| now == Some(digest);
        let named = Named { digest, incarnation, media_type, size: manifest.size };
        self.set_tag(tag, named, Some(TagTest(&test)), by).await.map(|()| true)
    }
}

impl Change {
    fn of(record: &TagRecord) -> Self {
        let TagRecord { digest, incarnation: _, media_type, size: _, sequence, by, at } = record;
        Self {
            sequence: *sequence,
            digest: Some(digest.clone()),
            media_type: Some(media_type.clone()),
            by: by.clone(),
            at: *at,
        }
    }
}

/// Tells from what a tag is which change led to that.
fn change_of(slot: &Slot<TagRecord>) -> Option<(Id, Change)> {
    match slot {
        Slot::Absent | Slot::Damaged(_) => None,
        Slot::Gone(tombstone) => {
            let (sequence, at) = (tombstone.sequence, tombstone.modified);
            Some((tombstone.nonce, Change { sequence, digest: None, media_type: None, by: None, at }))
        }
        Slot::Here(held) => Some((held.nonce, Change::of(&held.record))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_what_they_say() {
        let cases = [
            ("v*", "v1", true),
            ("v*", "1v", false),
            ("*", "", true),
            ("", "", true),
            ("", "x", false),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "aXbY", false),
            ("*-rc*", "1.0-rc1", true),
            ("**", "x", true),
            ("a", "aa", false),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
        assert!(!fits(&"*a".repeat(2000), &"a".repeat(1999)));
        let patterns = TagPatterns::new(["prod/*:v*".to_owned(), "stable".to_owned()]);
        let (prod, other) = ("prod/x".parse().expect("a name"), "other".parse().expect("a name"));
        let (v1, stable): (Tag, Tag) = ("v1".parse().expect("a tag"), "stable".parse().expect("a tag"));
        assert!(patterns.fit(&prod, &v1) && patterns.fit(&other, &stable) && !patterns.fit(&other, &v1));
    }
}
