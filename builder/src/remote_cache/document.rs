//! [`CacheDocument`]: the records of a cache as JSON, in the shape that BuildKit gives them.
//!
//! ```text
//! { "layers":  [ { "blob": "sha256:…", "parent": -1, "annotations": { "mediaType", "diffID", "size", "createdAt" } } ],
//!   "records": [ { "digest": KEY, "results": [ { "layer": 0, "createdAt": … } ],
//!                  "slipway": { what the step made }, "used": … } ] }
//! ```
//!
//! `layers` and the named members of `records` are BuildKit's. It reads such a document and finds nothing in it, because
//! no key of its own is there; we find nothing in its documents, because their records have no `slipway`. In an image's
//! config, under [`INLINE_MEMBER`], stand the `records` alone, and `layer` counts those of the image.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use oci::{DiffId, Digest, ImageConfig};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::CachedStep;

/// The member of an image's config that holds records.
pub const INLINE_MEMBER: &str = "moby.buildkit.cache.v0";

/// What a cache knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheDocument {
    /// The layers, each once.
    pub layers: Vec<CacheLayer>,
    /// The steps, and when each was last of use.
    pub steps: Vec<(CachedStep, Timestamp)>,
    /// How many records there are that are not ours.
    pub foreign: usize,
}

/// A layer of a cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheLayer {
    /// The blob that holds it.
    pub blob: Digest,
    /// Which layer it stands on, counted from 0; -1 for one that is not in the cache.
    #[serde(default)]
    pub parent: i64,
    /// What is known of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<LayerNotes>,
}

/// What is known of a cache's layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LayerNotes {
    /// What the blob is.
    pub media_type: String,
    /// The layer.
    #[serde(rename = "diffID")]
    pub diff_id: DiffId,
    /// The size of the blob.
    pub size: u64,
    /// When the layer was made.
    pub created_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct Written {
    #[serde(default)]
    layers: Vec<Value>,
    #[serde(default)]
    records: Vec<Value>,
}

#[derive(Serialize, Deserialize)]
struct WrittenRecord {
    #[serde(flatten)]
    step: CachedStep,
    #[serde(default)]
    results: Vec<WrittenResult>,
    /// Left out of images: it would change them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    used: Option<Timestamp>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenResult {
    #[serde(default)]
    layer: usize,
    created_at: Timestamp,
}

impl CacheDocument {
    /// Reads a document; layers and records that are not as ours are left out.
    ///
    /// # Errors
    ///
    /// When it is not JSON of this shape.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let written: Written = serde_json::from_slice(bytes)?;
        let (steps, foreign) = steps_of(written.records);
        let layers = written.layers.into_iter().filter_map(|layer| serde_json::from_value(layer).ok());
        Ok(Self { layers: layers.collect(), steps, foreign })
    }

    /// Writes the document. The same content gives the same bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let at = |diff_id: &DiffId| {
            let is_it = |layer: &CacheLayer| layer.annotations.as_ref().is_some_and(|notes| notes.diff_id == *diff_id);
            self.layers.iter().position(is_it)
        };
        let value = |layer| serde_json::to_value(layer).expect("text keys only");
        let records = self.steps.iter().map(|(step, used)| record(step, at(step.diff_id()), Some(*used)));
        let written = Written { layers: self.layers.iter().map(value).collect(), records: records.collect() };
        serde_json::to_vec(&written).expect("text keys only")
    }
}

/// Writes records into an image's config.
pub(crate) fn write_inline(config: &mut ImageConfig, steps: &[CachedStep]) {
    let at = |diff_id: &DiffId| config.rootfs.diff_ids.iter().position(|layer| layer == diff_id);
    let records: Vec<Value> = steps.iter().map(|step| record(step, at(step.diff_id()), None)).collect();
    let bytes = serde_json::to_vec(&records).expect("text keys only");
    config.other.insert(INLINE_MEMBER.to_owned(), STANDARD.encode(bytes).into());
}

/// Reads the records in an image's config; none when there are none that we can read. Also returns how many there are
/// that are not ours.
pub fn read_inline(config: &ImageConfig) -> (Vec<CachedStep>, usize) {
    let text = config.other.get(INLINE_MEMBER).and_then(Value::as_str);
    let bytes = text.and_then(|text| STANDARD.decode(text).ok());
    let records: Option<Vec<Value>> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let (steps, foreign) = steps_of(records.unwrap_or_default());
    (steps.into_iter().map(|(step, _)| step).collect(), foreign)
}

fn record(step: &CachedStep, layer: Option<usize>, used: Option<Timestamp>) -> Value {
    let result = |layer| WrittenResult { layer, created_at: step.created() };
    let written = WrittenRecord { step: step.clone(), results: layer.into_iter().map(result).collect(), used };
    serde_json::to_value(written).expect("text keys only")
}

/// Takes our records out of all.
fn steps_of(records: Vec<Value>) -> (Vec<(CachedStep, Timestamp)>, usize) {
    let count = records.len();
    let ours = records.into_iter().filter_map(|record| serde_json::from_value::<WrittenRecord>(record).ok());
    let steps: Vec<_> = ours.map(|record| (record.step, record.used.unwrap_or(Timestamp::UNIX_EPOCH))).collect();
    let foreign = count - steps.len();
    (steps, foreign)
}
