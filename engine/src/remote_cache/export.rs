//! [`export`]: writing a cache, together with what others wrote.
//!
//! Hundreds of builders may write one cache, so it is read, put together with what this build knows, and replaced if it is
//! still what was read; otherwise once more. What this build did not touch stays until there is too much, oldest use
//! first.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

use builder::remote_cache::{CacheDocument, CacheLayer, CachedStep, LayerNotes, Ledger};
use jiff::{SignedDuration, Timestamp};
use layer::Compression;
use oci::{Descriptor, DiffId, Digest, Index, Manifest, media_type};
use registry::client::TransferEvents;
use store::LayerError;

use super::contents::{CACHE_CONFIG, Contents, MAX_RECORDS};
use super::folder::Folder;
use super::place::Place;
use super::remote::Remote;
use super::{CacheError, CacheExport, CacheExportError, CacheTarget, Shape};
use crate::Engine;

/// So large may the records become before old ones make room: older BuildKits read no more.
const ROOM: usize = 1 << 20;
/// A cache whose records were all used within this time is not written only to say so.
const FRESH: SignedDuration = SignedDuration::from_hours(24);
/// How often others may come between.
const MAX_ROUNDS: u32 = 50;

/// What a build knows that caches want to know.
#[derive(Clone, Copy)]
pub(crate) struct Known<'a> {
    pub(crate) ledger: &'a Ledger,
    /// The layers of each image that it made.
    pub(crate) images: &'a [Vec<DiffId>],
    /// Where layers are that no step needed.
    pub(crate) remote: Option<&'a Remote>,
    pub(crate) now: Timestamp,
}

/// Writes a cache.
///
/// # Errors
///
/// When the place cannot be read or written. An unreachable place is no reason to forget what was built.
pub(crate) async fn export(
    engine: &Engine,
    export: &CacheExport,
    known: Known<'_>,
    events: &dyn TransferEvents,
) -> Result<(), CacheExportError> {
    let (place, shape, reset) = match &export.target {
        // It is in the image.
        CacheTarget::Inline => return Ok(()),
        CacheTarget::Registry { reference, shape } => (Place::Registry(reference.clone()), *shape, false),
        CacheTarget::Folder { path, tag, shape, reset } => {
            (Place::Folder(Folder { path: path.clone(), tag: tag.clone(), digest: None }), *shape, *reset)
        }
    };
    let to = place.to_string();
    let writer = Writer { engine, place, shape, known, events };
    writer.write(export, reset).await.map_err(|source| CacheExportError { to, source: Box::new(source) })
}

struct Writer<'a> {
    engine: &'a Engine,
    place: Place,
    shape: Shape,
    known: Known<'a>,
    events: &'a dyn TransferEvents,
}

impl Writer<'_> {
    async fn write(&self, export: &CacheExport, reset: bool) -> Result<(), CacheError> {
        let steps = self.known.ledger.steps(export.mode, self.known.images);
        if steps.is_empty() {
            return Ok(());
        }
        let layers = self.layers(&steps, export.compression).await?;
        for round in 0..MAX_ROUNDS {
            let there = match Contents::read(self.engine, &self.place).await {
                Ok(there) => there.unwrap_or_default(),
                // Something else, or a damaged cache: it is replaced.
                Err(CacheError::Records(_) | CacheError::Damaged { .. } | CacheError::Manifest { .. })
                    if round == 0 =>
                {
                    self.unreadable().await?
                }
                Err(error) => return Err(error),
            };
            let top = there.top.clone();
            let mut there = if reset { Contents::default() } else { there };
            // What it promised and could not give is not promised again.
            there.layers.retain(|diff_id, _| !self.known.remote.is_some_and(|remote| remote.is_lost(diff_id)));
            let merged = Merged::of(&steps, &layers, there, self.known.now);
            if !merged.is_new && top.is_some() {
                return Ok(());
            }
            if self.replace(&layers, &merged, top.as_ref()).await? {
                return Ok(());
            }
            tokio::time::sleep(pause(round)).await;
        }
        Err(CacheError::Contended { rounds: MAX_ROUNDS })
    }

    /// Finds what names the unreadable thing, so that it can be replaced.
    async fn unreadable(&self) -> Result<Contents, CacheError> {
        let top = match &self.place {
            Place::Registry(_) => self.place.top(self.engine).await.ok().flatten().map(|top| top.descriptor),
            Place::Folder(folder) => folder.top()?,
        };
        Ok(Contents { top: top.map(|top| top.digest), ..Contents::default() })
    }

    /// Finds the blob that each step's layer leaves as.
    async fn layers(
        &self,
        steps: &[CachedStep],
        compression: Compression,
    ) -> Result<BTreeMap<DiffId, Descriptor>, CacheError> {
        let mut layers = BTreeMap::new();
        for step in steps {
            if layers.contains_key(step.diff_id()) {
                continue;
            }
            let (store, diff_id) = (self.engine.store().clone(), step.diff_id().clone());
            let made = store::blocking::run(move || store.layers().compressed(&diff_id, compression)).await;
            let blob = match made {
                Ok(blob) => blob,
                Err(LayerError::NotFound { .. }) => {
                    let known = self.known.remote.and_then(|remote| remote.known(step.diff_id()));
                    known.ok_or_else(|| CacheError::Gone { diff_id: step.diff_id().clone() })?
                }
                Err(error) => return Err(error.into()),
            };
            layers.insert(step.diff_id().clone(), blob);
        }
        Ok(layers)
    }

    /// Sends what the place lacks, and then the document; tells whether nobody came between.
    async fn replace(
        &self,
        layers: &BTreeMap<DiffId, Descriptor>,
        merged: &Merged,
        before: Option<&Digest>,
    ) -> Result<bool, CacheError> {
        let records = merged.document().to_bytes();
        let (store, bytes) = (self.engine.store().clone(), records.clone());
        store::blocking::run(move || store.blobs().put(&bytes)).await?;
        let config = Descriptor::of(CACHE_CONFIG, &records);
        let mut blobs: Vec<Descriptor> = layers.values().cloned().collect();
        blobs.push(config.clone());
        self.send(&blobs).await?;
        let (descriptor, bytes) = self.document(config, merged);
        let replaced = self.place.replace(self.engine, &descriptor, bytes, before).await?;
        if !replaced {
            return Ok(false);
        }
        // A registry that knows no conditions may have let another come between.
        match (&self.place, self.place.top(self.engine).await?) {
            (Place::Registry(_), Some(now)) if now.descriptor.digest != descriptor.digest => {
                let now = Contents::read(self.engine, &self.place).await?.unwrap_or_default();
                let has = |key: &Digest| now.steps.iter().any(|(step, _)| step.key == *key);
                Ok(merged.own.iter().all(has))
            }
            _ => Ok(true),
        }
    }

    /// Sends blobs; what is neither here nor there is fetched from the cache that it was found in.
    async fn send(&self, blobs: &[Descriptor]) -> Result<(), CacheError> {
        for _ in 0..=blobs.len() {
            let error = match self.place.send(self.engine, blobs, self.events).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            match (Place::missing(&error), self.known.remote) {
                (Some(digest), Some(remote)) => remote.fetch_blob(digest).await?,
                _ => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes the document that names records and layers.
    fn document(&self, config: Descriptor, merged: &Merged) -> (Descriptor, Vec<u8>) {
        let layers = merged.layers.iter().map(|(diff_id, blob)| {
            let created = merged.created(diff_id);
            let mut layer = Descriptor::new(&self.layer_type(&blob.media_type), blob.digest.clone(), blob.size);
            layer.annotations.insert("containerd.io/uncompressed".into(), diff_id.to_string());
            layer.annotations.extend(created.map(|created| ("buildkit/createdat".into(), created.to_string())));
            layer
        });
        let layers: Vec<Descriptor> = layers.collect();
        let Shape { image_manifest, oci_types } = self.shape;
        let (media_type, bytes) = if image_manifest {
            let media_type = if oci_types { media_type::OCI_MANIFEST } else { media_type::DOCKER_MANIFEST };
            let mut manifest = Manifest::new(config, layers);
            manifest.media_type = Some(media_type.into());
            (media_type, serde_json::to_vec(&manifest))
        } else {
            let media_type = if oci_types { media_type::OCI_INDEX } else { media_type::DOCKER_INDEX };
            let mut index = Index::new(layers.into_iter().chain([config]).collect());
            index.media_type = Some(media_type.into());
            (media_type, serde_json::to_vec(&index))
        };
        let bytes = bytes.expect("text keys only");
        (Descriptor::of(media_type, &bytes), bytes)
    }

    fn layer_type(&self, media_type: &str) -> String {
        let changed = match (self.shape.oci_types, media_type) {
            (false, media_type::OCI_LAYER) => media_type::DOCKER_LAYER,
            (false, media_type::OCI_LAYER_GZIP) => media_type::DOCKER_LAYER_GZIP,
            (true, media_type::DOCKER_LAYER) => media_type::OCI_LAYER,
            (true, media_type::DOCKER_LAYER_GZIP) => media_type::OCI_LAYER_GZIP,
            (_, other) => other,
        };
        changed.to_owned()
    }
}

/// What this build knows, together with what was there.
struct Merged {
    /// The keys of this build.
    own: Vec<Digest>,
    /// By key.
    steps: BTreeMap<Digest, (CachedStep, Timestamp)>,
    layers: BTreeMap<DiffId, Descriptor>,
    /// Whether there is anything that was not there.
    is_new: bool,
}

impl Merged {
    fn of(steps: &[CachedStep], layers: &BTreeMap<DiffId, Descriptor>, there: Contents, now: Timestamp) -> Self {
        let mut merged = Self {
            own: steps.iter().map(|step| step.key.clone()).collect(),
            steps: BTreeMap::new(),
            layers: there.layers,
            is_new: false,
        };
        for (step, used) in there.steps {
            if merged.layers.contains_key(step.diff_id()) {
                merged.steps.entry(step.key.clone()).or_insert((step, used));
            }
        }
        for step in steps {
            let is_fresh = |used: Timestamp| now.duration_since(used) < FRESH;
            let there = merged.steps.get_mut(&step.key).filter(|(there, _)| there.diff_id() == step.diff_id());
            match there {
                Some((_, used)) if is_fresh(*used) => continue,
                // It keeps the time at which the step was first done, and so the image keeps its digest.
                Some((_, used)) => *used = now,
                // What is newer wins: whoever builds without the cache wants the others to have the new result.
                None => {
                    let Some(blob) = layers.get(step.diff_id()).cloned() else { continue };
                    merged.layers.entry(step.diff_id().clone()).or_insert(blob);
                    merged.steps.insert(step.key.clone(), (step.clone(), now));
                }
            }
            merged.is_new = true;
        }
        merged.make_room();
        merged
    }

    /// Drops what was not of use for the longest time, but nothing of this build as long as it can be read at all.
    fn make_room(&mut self) {
        let size = |step: &CachedStep| serde_json::to_vec(step).map_or(0, |bytes| bytes.len() + 400);
        let mut total: usize = self.steps.values().map(|(step, _)| size(step)).sum();
        let mut order: Vec<(bool, Timestamp, Digest)> =
            self.steps.iter().map(|(key, (_, used))| (self.own.contains(key), *used, key.clone())).collect();
        if total > ROOM {
            order.sort();
            for (own, _, key) in order {
                if total <= if own { MAX_RECORDS as usize } else { ROOM } {
                    break;
                }
                total -= self.steps.remove(&key).map_or(0, |(step, _)| size(&step));
                self.is_new = true;
            }
        }
        let used: std::collections::BTreeSet<&DiffId> = self.steps.values().map(|(step, _)| step.diff_id()).collect();
        self.layers.retain(|diff_id, _| used.contains(diff_id));
    }

    fn created(&self, diff_id: &DiffId) -> Option<Timestamp> {
        self.steps.values().filter(|(step, _)| step.diff_id() == diff_id).map(|(step, _)| step.created()).min()
    }

    fn document(&self) -> CacheDocument {
        let layers = self.layers.iter().map(|(diff_id, blob)| CacheLayer {
            blob: blob.digest.clone(),
            // Below it may stand an image, which is not in the cache.
            parent: -1,
            annotations: Some(LayerNotes {
                media_type: blob.media_type.clone(),
                diff_id: diff_id.clone(),
                size: blob.size,
                created_at: self.created(diff_id).unwrap_or(Timestamp::UNIX_EPOCH),
            }),
        });
        CacheDocument { layers: layers.collect(), steps: self.steps.values().cloned().collect(), foreign: 0 }
    }
}

/// Returns how long to wait before another round: the longer the more rounds there were, and different for everybody.
fn pause(round: u32) -> Duration {
    let most = 20_u64 << round.min(6);
    Duration::from_millis(most / 2 + RandomState::new().build_hasher().finish() % most)
}
