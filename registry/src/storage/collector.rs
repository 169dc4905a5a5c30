//! Throwing away what nothing relies on, by any replica, at any time, while everybody pushes (registry.md, 9.5).
//!
//! A blob goes in two steps. First repositories lose it that have no manifest that names it: their own record is made
//! `lapsing`, the edges are listed again, and only if none came does the record become a tombstone. When it has no edge
//! at all, its record is made `condemned`, the edges are listed again, and only if none came it becomes `dead`. Then the
//! bytes go.
//!
//! Why that is safe: whoever relies on a blob writes an edge, and reads the record then. Either the edge was there before
//! the second list, which sees it; or the record was read after the first step, and whoever reads `lapsing` or
//! `condemned` has to replace it, so that the second step, which replaces what the first wrote, fails.
//!
//! An edge without its record belongs to a push that is under way, or to one that died. The collector replaces what is
//! under the key of the record before it removes the edge, so that the push, should it live, finds its condition not to
//! hold and starts again.
//!
//! What cannot be read may say anything: nothing is thrown away that it may be about.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use oci::Digest;

use super::blobs::{BlobRecord, BlobState, OwnRecord};
use super::id::Id;
use super::keys::{self, Edge, EdgeKind, Key, TOMBSTONE};
use super::manifests::ManifestRecord;
use super::objects::Condition;
use super::records::{Held, Slot};
use super::sessions::KnownData;
use super::{Storage, StorageError};

/// A way in which the protocol would be wrong, to see whether the tests see it.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weakness {
    /// Who relies on a blob reads its record first and writes the edge then.
    EdgeAfterRead,
    /// A live blob becomes dead at once.
    NoCondemning,
    /// The edges are not listed again.
    NoSecondList,
    /// The last step does not look at what it replaces.
    BlindKill,
}

/// How to collect.
#[derive(Clone, Copy, Debug, Default)]
pub struct CollectOptions {
    /// Whether to go through everything, and not only through what lost an edge.
    pub scan: bool,
    /// Whether only to tell what would be thrown away.
    pub dry_run: bool,
    /// How long to wait after each blob that was looked at, so that others get their turn.
    pub pause: Duration,
    /// How old bytes must be that no record names; a day when nothing is said. A request that lives names what it wrote
    /// sooner than that: less is safe only while nobody pushes.
    pub unnamed: Option<Duration>,
}

/// What a collection did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// How many blobs were thrown away.
    pub blobs: u64,
    /// How many bytes they had.
    pub bytes: u64,
    /// Which blobs they were, at most [`Collected::MOST`] of them.
    pub digests: Vec<Digest>,
    /// How many blobs nothing relies on that are too young to go.
    pub young: u64,
    /// How many edges, uploads and data objects of clients or replicas that died were removed.
    pub leftovers: u64,
    /// Whether data that no record names stayed, because a record that may name it cannot be read.
    pub in_doubt: bool,
}

impl Collected {
    /// How many digests are told.
    pub const MOST: usize = 10_000;
}

/// What became of a blob that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Something relies on it, or somebody else is at it.
    Kept,
    /// Nothing relies on it, but until a moment ago something may have.
    Young,
    /// It was thrown away, and had so many bytes.
    Gone(u64),
}

/// What is known while collecting.
struct Round {
    now: Timestamp,
    options: CollectOptions,
    collected: Collected,
    seen: HashSet<Digest>,
}

impl Storage {
    /// Throws away blobs that nothing relies on. Any number may do so at once.
    pub async fn collect(&self, options: CollectOptions) -> Result<Collected, StorageError> {
        let now = self.objects().now().await?;
        let mut round = Round { now, options, collected: Collected::default(), seen: HashSet::new() };
        self.collect_candidates(&mut round).await?;
        if options.scan {
            self.scan_edges(&mut round).await?;
            // Before the records: what an upload stands on until it ends, a record names then.
            let mut known = self.upload_data().await?;
            self.scan_blobs(&mut round, &mut known).await?;
            round.collected.in_doubt = known.in_doubt;
            if !known.in_doubt {
                self.scan_data(&mut round, &known.ids).await?;
            }
        }
        Ok(round.collected)
    }

    /// Notes that blobs lost an edge.
    pub(super) async fn note_candidates(&self, blobs: impl Iterator<Item = &Digest>) -> Result<(), StorageError> {
        let lines: Vec<String> = blobs.map(ToString::to_string).collect();
        if lines.is_empty() {
            return Ok(());
        }
        let key = keys::candidates().key(&self.draw().to_string());
        self.objects().put(&key, lines.join("\n").into(), Condition::Always).await?;
        Ok(())
    }

    async fn collect_candidates(&self, round: &mut Round) -> Result<(), StorageError> {
        let mut after: Option<Key> = None;
        loop {
            let page = self.objects().list(&keys::candidates(), after.as_ref(), 1000).await?;
            for entry in &page.entries {
                // What was in one that is damaged, the next scan finds.
                let bytes = self.intact(&entry.key).await?.unwrap_or_default();
                let text = String::from_utf8_lossy(&bytes);
                let mut done = !round.options.dry_run;
                for digest in text.lines().filter_map(|line| line.parse::<Digest>().ok()) {
                    done &= self.look_at(round, &digest, false).await? != Outcome::Young;
                }
                if done {
                    self.objects().delete(&entry.key).await?;
                }
            }
            match page.entries.last().filter(|_| page.more) {
                Some(last) => after = Some(last.key.clone()),
                None => return Ok(()),
            }
        }
    }

    async fn look_at(&self, round: &mut Round, digest: &Digest, all: bool) -> Result<Outcome, StorageError> {
        let outcome = if round.options.dry_run {
            self.would_collect(digest, round.now).await?
        } else {
            self.collect_blob(digest, round.now, all).await?
        };
        // One that is kept was not looked at to the end without `all`.
        if (all || outcome != Outcome::Kept) && round.seen.insert(digest.clone()) {
            match outcome {
                Outcome::Kept => {}
                Outcome::Young => round.collected.young += 1,
                Outcome::Gone(bytes) => {
                    round.collected.blobs += 1;
                    round.collected.bytes += bytes;
                    if round.collected.digests.len() < Collected::MOST {
                        round.collected.digests.push(digest.clone());
                    }
                }
            }
        }
        if !round.options.pause.is_zero() {
            tokio::time::sleep(round.options.pause).await;
        }
        Ok(outcome)
    }

    fn is_young(&self, modified: Timestamp, now: Timestamp) -> bool {
        let age = now.duration_since(modified);
        age.is_negative() || age.unsigned_abs() < self.options().grace
    }

    /// Throws a blob away if nothing relies on it. With `all`, it also goes from each repository in which nothing does,
    /// which costs reads for each that has it.
    pub(super) async fn collect_blob(
        &self,
        digest: &Digest,
        now: Timestamp,
        all: bool,
    ) -> Result<Outcome, StorageError> {
        let mut by_repository = BTreeMap::<_, Vec<_>>::new();
        for (edge, modified) in self.edges(digest).await? {
            by_repository.entry(edge.repository.clone()).or_default().push((edge, modified));
        }
        let (mut young, mut kept) = (false, false);
        for edges in by_repository.into_values() {
            match self.let_go_of_all(edges, now).await? {
                Outcome::Kept if !all => return Ok(Outcome::Kept),
                // Another may have lost its last manifest that names it.
                Outcome::Kept => kept = true,
                Outcome::Young => young = true,
                Outcome::Gone(_) => {}
            }
        }
        match (kept, young) {
            (true, _) => Ok(Outcome::Kept),
            (false, true) => Ok(Outcome::Young),
            (false, false) => self.kill(digest, now).await,
        }
    }

    /// Removes the edges of one repository to a blob unless something there relies on it. Manifests are looked at first:
    /// as long as one of them names the blob, it need not be written down that the repository may lose it.
    async fn let_go_of_all(&self, mut edges: Vec<(Edge, Timestamp)>, now: Timestamp) -> Result<Outcome, StorageError> {
        edges.sort_by_key(|(edge, _)| edge.kind == EdgeKind::Own);
        let mut young = false;
        for (edge, modified) in edges {
            if young && edge.kind == EdgeKind::Own {
                break;
            }
            match self.let_go(&edge, modified, now).await? {
                Outcome::Kept => return Ok(Outcome::Kept),
                Outcome::Young => young = true,
                Outcome::Gone(_) => {}
            }
        }
        Ok(if young { Outcome::Young } else { Outcome::Gone(0) })
    }

    /// Removes an edge if what it says is not so any more, or if it only says that a repository has a blob that no
    /// manifest of it names.
    async fn let_go(&self, edge: &Edge, modified: Timestamp, now: Timestamp) -> Result<Outcome, StorageError> {
        let key = edge.owner();
        match &edge.kind {
            EdgeKind::Manifest(_) => {
                let slot = self.slot::<ManifestRecord>(&key).await?;
                match &slot {
                    Slot::Here(held) if held.record.incarnation == edge.incarnation => Ok(Outcome::Kept),
                    Slot::Damaged(_) => Ok(Outcome::Kept),
                    _ => self.remove_stale(edge, &slot, modified, now).await,
                }
            }
            EdgeKind::Own => {
                let slot = self.slot::<OwnRecord>(&key).await?;
                match slot {
                    Slot::Here(held) if held.record.incarnation == edge.incarnation => {
                        self.lapse(edge, held, now).await
                    }
                    Slot::Damaged(_) => Ok(Outcome::Kept),
                    slot => self.remove_stale(edge, &slot, modified, now).await,
                }
            }
        }
    }

    /// Removes an edge that no record belongs to, after it made sure that none will.
    async fn remove_stale<R>(
        &self,
        edge: &Edge,
        slot: &Slot<R>,
        modified: Timestamp,
        now: Timestamp,
    ) -> Result<Outcome, StorageError> {
        if self.is_young(modified, now) {
            return Ok(Outcome::Young);
        }
        // Another incarnation is there: then whoever wrote this edge has lost already, or knows that it is over.
        if !matches!(slot, Slot::Here(_))
            && self.bury(&edge.owner(), sequence_of(slot), slot.condition()).await?.is_none()
        {
            return Ok(Outcome::Kept);
        }
        self.objects().delete(&edge.key()).await?;
        Ok(Outcome::Gone(0))
    }

    /// Takes a blob out of a repository, none of whose manifests names it.
    async fn lapse(&self, edge: &Edge, own: Held<OwnRecord>, now: Timestamp) -> Result<Outcome, StorageError> {
        if self.is_young(own.modified, now) {
            return Ok(Outcome::Young);
        }
        let key = edge.owner();
        let mut version = own.version;
        if !own.record.lapsing {
            let lapsing = OwnRecord { lapsing: true, ..own.record };
            match self.replace(&key, &lapsing, &[], Condition::Is(version)).await? {
                Some((lapsed, _)) => version = lapsed,
                None => return Ok(Outcome::Kept),
            }
        }
        let named = |other: &Edge| other.repository == edge.repository && other.kind != EdgeKind::Own;
        if self.edges(&edge.blob).await?.iter().any(|(other, _)| named(other)) {
            let back = OwnRecord { lapsing: false, ..own.record };
            self.replace(&key, &back, &[], Condition::Is(version)).await?;
            return Ok(Outcome::Kept);
        }
        if self.bury(&key, 0, Condition::Is(version)).await?.is_none() {
            return Ok(Outcome::Kept);
        }
        self.objects().delete(&edge.key()).await?;
        Ok(Outcome::Gone(0))
    }

    /// Live, condemned, dead: exactly as the model has it.
    async fn kill(&self, digest: &Digest, now: Timestamp) -> Result<Outcome, StorageError> {
        if self.has_edge(digest).await? {
            return Ok(Outcome::Kept);
        }
        let key = keys::blob(digest);
        let Some(held) = self.slot::<BlobRecord>(&key).await?.here() else { return Ok(Outcome::Kept) };
        let record = held.record.clone();
        let mut version = held.version;
        match record.state {
            BlobState::Dead => {
                if record.bad {
                    // From now on nobody makes it live again with the bytes that are about to go.
                    let dead = BlobRecord { bad: false, ..record.clone() };
                    match self.replace(&key, &dead, &[], Condition::Is(version)).await? {
                        Some((dead, _)) => version = dead,
                        None => return Ok(Outcome::Kept),
                    }
                }
                return self.clear(&key, &record, version).await.map(|()| Outcome::Gone(0));
            }
            BlobState::Live | BlobState::Condemned if self.is_young(held.modified, now) => return Ok(Outcome::Young),
            BlobState::Condemned => {}
            BlobState::Live => {
                let condemned = BlobRecord { state: BlobState::Condemned, ..record.clone() };
                if !self.is_weak(WeakPoint::Condemning) {
                    match self.replace(&key, &condemned, &held.bytes, Condition::Is(version)).await? {
                        Some((condemned, _)) => version = condemned,
                        None => return Ok(Outcome::Kept),
                    }
                }
            }
        }
        if !self.is_weak(WeakPoint::SecondList) && self.has_edge(digest).await? {
            let live = BlobRecord { state: BlobState::Live, ..record };
            self.replace(&key, &live, &held.bytes, Condition::Is(version)).await?;
            return Ok(Outcome::Kept);
        }
        let dead = BlobRecord { state: BlobState::Dead, ..record.clone() };
        let condition = if self.is_weak(WeakPoint::Kill) { Condition::Always } else { Condition::Is(version) };
        let Some((version, _)) = self.replace(&key, &dead, &[], condition).await? else { return Ok(Outcome::Kept) };
        self.clear(&key, &record, version).await?;
        Ok(Outcome::Gone(record.size))
    }

    /// Removes the bytes of a dead blob, and what is left of its record.
    async fn clear(
        &self,
        key: &Key,
        record: &BlobRecord,
        version: super::objects::Version,
    ) -> Result<(), StorageError> {
        if let Some(id) = record.data {
            // That it is dead must be as safe from a crash as that its bytes are gone.
            self.sync().await?;
            self.data().delete(id).await?;
        }
        self.bury(key, 0, Condition::Is(version)).await?;
        Ok(())
    }

    /// Tells what [`Self::collect_blob`] would do.
    async fn would_collect(&self, digest: &Digest, now: Timestamp) -> Result<Outcome, StorageError> {
        let mut young = false;
        for (edge, modified) in self.edges(digest).await? {
            match &edge.kind {
                EdgeKind::Manifest(_) => match self.slot::<ManifestRecord>(&edge.owner()).await? {
                    Slot::Here(held) if held.record.incarnation == edge.incarnation => return Ok(Outcome::Kept),
                    Slot::Damaged(_) => return Ok(Outcome::Kept),
                    _ => young |= self.is_young(modified, now),
                },
                EdgeKind::Own => match self.slot::<OwnRecord>(&edge.owner()).await? {
                    Slot::Here(held) => young |= self.is_young(held.modified, now),
                    Slot::Damaged(_) => return Ok(Outcome::Kept),
                    Slot::Absent | Slot::Gone(_) => young |= self.is_young(modified, now),
                },
            }
        }
        let Some(held) = self.slot::<BlobRecord>(&keys::blob(digest)).await?.here() else { return Ok(Outcome::Kept) };
        Ok(match held.record.state {
            _ if young || self.is_young(held.modified, now) => Outcome::Young,
            BlobState::Dead => Outcome::Kept,
            BlobState::Live | BlobState::Condemned => Outcome::Gone(held.record.size),
        })
    }

    /// Lists the edges of a blob, and since when they are there.
    pub(super) async fn edges(&self, digest: &Digest) -> Result<Vec<(Edge, Timestamp)>, StorageError> {
        let (mut edges, mut after) = (Vec::new(), None);
        loop {
            let page = self.objects().list(&keys::edges(digest), after.as_ref(), 1000).await?;
            edges.extend(page.entries.iter().filter_map(|entry| Some((Edge::parse(&entry.key)?, entry.modified))));
            match page.entries.last().filter(|_| page.more) {
                Some(last) => after = Some(last.key.clone()),
                None => return Ok(edges),
            }
        }
    }

    pub(super) async fn has_edge(&self, digest: &Digest) -> Result<bool, StorageError> {
        Ok(!self.objects().list(&keys::edges(digest), None, 1).await?.entries.is_empty())
    }

    /// Looks at all edges, for those that nobody will come back to.
    async fn scan_edges(&self, round: &mut Round) -> Result<(), StorageError> {
        let mut after: Option<Key> = None;
        loop {
            let page = self.objects().list(&keys::all_edges(), after.as_ref(), 1000).await?;
            for entry in page.entries.iter().filter(|entry| !self.is_young(entry.modified, round.now)) {
                let Some(edge) = Edge::parse(&entry.key) else { continue };
                if round.options.dry_run || self.is_current(&edge).await? {
                    continue;
                }
                if self.let_go(&edge, entry.modified, round.now).await? == Outcome::Gone(0) {
                    round.collected.leftovers += 1;
                }
            }
            match page.entries.last().filter(|_| page.more) {
                Some(last) => after = Some(last.key.clone()),
                None => return Ok(()),
            }
        }
    }

    /// Tells whether an edge is that of the record it belongs to, or may be.
    pub(super) async fn is_current(&self, edge: &Edge) -> Result<bool, StorageError> {
        fn is_of<R>(slot: &Slot<R>, incarnation: impl Fn(&R) -> Id, edge: &Edge) -> bool {
            match slot {
                Slot::Here(held) => incarnation(&held.record) == edge.incarnation,
                Slot::Damaged(_) => true,
                Slot::Absent | Slot::Gone(_) => false,
            }
        }
        let key = edge.owner();
        Ok(match &edge.kind {
            EdgeKind::Own => is_of(&self.slot(&key).await?, |record: &OwnRecord| record.incarnation, edge),
            EdgeKind::Manifest(_) => is_of(&self.slot(&key).await?, |record: &ManifestRecord| record.incarnation, edge),
        })
    }

    /// Looks at all blobs, and adds the data objects that their records name to those that are known.
    async fn scan_blobs(&self, round: &mut Round, known: &mut KnownData) -> Result<(), StorageError> {
        let mut after = None::<Key>;
        loop {
            let page = self.objects().list(&keys::blobs(), after.as_ref(), 1000).await?;
            for entry in &page.entries {
                let Some(digest) = keys::parse_blob(&entry.key) else { continue };
                let gone = entry.size == TOMBSTONE;
                if !gone && !self.is_young(entry.modified, round.now) && !round.seen.contains(&digest) {
                    self.look_at(round, &digest, true).await?;
                }
                // Also what looks like a tombstone: a record may have been cut to its length.
                let slot = self.slot::<BlobRecord>(&entry.key).await?;
                known.in_doubt |= matches!(slot, Slot::Damaged(_));
                known.ids.extend(slot.here().and_then(|held| held.record.data));
            }
            match page.entries.last().filter(|_| page.more) {
                Some(last) => after = Some(last.key.clone()),
                None => return Ok(()),
            }
        }
    }

    /// Removes data objects that no record names and no upload is about to: they are of requests that died.
    ///
    /// A request that lives finishes its data and writes the record at once; a day lies between that and this.
    async fn scan_data(&self, round: &mut Round, known: &HashSet<Id>) -> Result<(), StorageError> {
        let usual = || self.options().grace.max(Duration::from_secs(24 * 60 * 60));
        let least = round.options.unnamed.unwrap_or_else(usual);
        let mut after = None;
        loop {
            let page = self.data().list(after, 1000).await?;
            for (id, _, modified) in &page.entries {
                let age = round.now.duration_since(*modified);
                let old = !age.is_negative() && age.unsigned_abs() >= least;
                if old && !known.contains(id) && !round.options.dry_run {
                    self.data().delete(*id).await?;
                    round.collected.leftovers += 1;
                }
            }
            match page.entries.last().filter(|_| page.more) {
                Some((last, _, _)) => after = Some(*last),
                None => return Ok(()),
            }
        }
    }

    #[cfg(test)]
    fn is_weak(&self, point: WeakPoint) -> bool {
        matches!(
            (self.options().weakness, point),
            (Some(Weakness::NoCondemning), WeakPoint::Condemning | WeakPoint::SecondList)
                | (Some(Weakness::NoSecondList), WeakPoint::SecondList)
                | (Some(Weakness::BlindKill), WeakPoint::Kill)
        )
    }

    #[cfg(not(test))]
    fn is_weak(&self, _: WeakPoint) -> bool {
        false
    }
}

/// Where a test can make the protocol wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WeakPoint {
    Condemning,
    SecondList,
    Kill,
}

fn sequence_of<R>(slot: &Slot<R>) -> u64 {
    match slot {
        Slot::Gone(tombstone) => tombstone.sequence,
        Slot::Absent | Slot::Here(_) | Slot::Damaged(_) => 0,
    }
}
