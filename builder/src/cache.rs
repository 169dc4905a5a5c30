//! The build cache: what a step made, filed under its key, with notes of what the key was made of.

use std::io::Write;

use oci::{Descriptor, DiffId, Digest, media_type};
use serde::{Deserialize, Serialize};
use store::{Keeps, Peeked, Store};

use crate::cache_key::CacheKey;
use crate::fault::Fault;
use crate::layers::Layers;

/// What a step made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The layer's tar.
    pub(crate) diff_id: DiffId,
    /// Its size.
    pub(crate) size: u64,
    /// What stands for the layer in the keys of the steps after this one: see [`Layers::identity`].
    pub(crate) mark: Digest,
    /// The time that the image's history says.
    pub(crate) created: jiff::Timestamp,
    /// The step, for people who look into the cache.
    pub(crate) step: String,
}

impl Record {
    /// Describes the layer's blob.
    pub(crate) fn descriptor(&self) -> Descriptor {
        Descriptor::new(media_type::OCI_LAYER, self.diff_id.0.clone(), self.size)
    }
}

/// What a key was made of, in words, for `build --explain`. No secret's value ever gets in here, because none enters a
/// key; what is long is cut, and what is too much is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Notes {
    /// Names and values, in the order of the key; a name may come several times.
    pub(crate) fields: Vec<(String, String)>,
    /// Whether a list of files lies beside the record, and its digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) files: Option<Digest>,
    #[serde(skip)]
    size: usize,
}

impl Notes {
    /// So many bytes of a value are kept.
    const LONGEST: usize = 4 << 10;
    /// So many bytes are kept of all of them.
    const MOST: usize = 64 << 10;

    /// Notes a field.
    pub(crate) fn add(&mut self, name: &str, value: &str) {
        let kept = if value.len() > Self::LONGEST {
            // What was cut still tells whether it was the same.
            let end = value.floor_char_boundary(Self::LONGEST);
            format!("{}… ({})", &value[..end], Digest::sha256(value.as_bytes()))
        } else {
            value.to_owned()
        };
        if self.size + name.len() + kept.len() <= Self::MOST {
            self.size += name.len() + kept.len();
            self.fields.push((name.to_owned(), kept));
        }
    }
}

/// Finds what a key's step made, if its layer is still there.
pub(crate) fn get(store: &Store, key: &CacheKey) -> Result<Option<Record>, Fault> {
    let Some(bytes) = store.build_cache().get(&key.0)? else { return Ok(None) };
    // A record of another version is no record.
    let Some(record) = record_of(&bytes) else { return Ok(None) };
    Ok(store.blobs().has(&record.descriptor())?.then_some(record))
}

/// Files what a key's step made on top of the layers `below`, with notes, and the list of files that they speak of unless it
/// is filed already.
pub(crate) fn put(
    store: &Store,
    key: &CacheKey,
    below: Option<&Layers>,
    record: &Record,
    notes: Option<(&Notes, Option<&[u8]>)>,
) -> Result<(), Fault> {
    let mut bytes = serde_json::to_vec(record).expect("a record is plain text and numbers");
    bytes.push(b'\n');
    if let Some((notes, files)) = notes {
        let mut notes = notes.clone();
        if let Some(files) = files {
            let write = |list: &mut dyn Write| {
                list.write_all(files).map_err(|error| Fault::because("cannot write the list of a step's files", &error))
            };
            notes.files = Some(store.build_cache().put_list(&key.0, write)?);
        }
        serde_json::to_writer(&mut bytes, &notes).expect("notes are plain text");
    }
    store.build_cache().put_later(&key.0, &bytes, &keeps(below, record));
    Ok(())
}

/// Returns what a record on top of the layers `below` stands for.
pub(crate) fn keeps(below: Option<&Layers>, record: &Record) -> Keeps {
    let below = below.and_then(Layers::chain).cloned();
    let chain = match &below {
        Some(below) => below.then(&record.diff_id),
        None => oci::ChainId::base(&record.diff_id),
    };
    Keeps { layers: vec![record.diff_id.clone()], chain: Some(chain), below, about: about(&record.step) }
}

/// Cuts a step's name to what fits in a list.
fn about(step: &str) -> String {
    step.lines().next().unwrap_or_default().chars().take(200).collect()
}

/// Returns the record and the notes of a key, without counting as a use; for people.
pub(crate) fn peek(store: &Store, key: &Digest) -> Result<Option<(Record, Notes)>, Fault> {
    let Peeked::Record(bytes) = store.build_cache().peek(key)? else { return Ok(None) };
    Ok(record_of(&bytes).map(|record| (record, notes_of(&bytes))))
}

fn record_of(bytes: &[u8]) -> Option<Record> {
    serde_json::from_slice(bytes.split(|byte| *byte == b'\n').next()?).ok()
}

fn notes_of(bytes: &[u8]) -> Notes {
    let notes = bytes.splitn(2, |byte| *byte == b'\n').nth(1).and_then(|notes| serde_json::from_slice(notes).ok());
    notes.unwrap_or_default()
}

/// Tells whether a step like this one, whatever its files held, was ever done. Without that, looking for the key of the
/// files is in vain, and they need to be read only once.
pub(crate) fn was_tried(store: &Store, definition: &CacheKey) -> Result<bool, Fault> {
    Ok(store.build_cache().get(&definition.0)?.is_some())
}

/// Remembers for [`was_tried`].
pub(crate) fn tried(store: &Store, definition: &CacheKey) -> Result<(), Fault> {
    store.build_cache().put_later(&definition.0, b"{}", &Keeps::default());
    Ok(())
}

/// Keeps the layers of a base image, which no step's record names, as long as steps that stand on it are of use.
pub(crate) fn keep_base(store: &Store, image: &Layers) -> Result<(), Fault> {
    let Some(chain) = image.chain() else { return Ok(()) };
    let key = Digest::sha256(format!("slipway base {chain}").as_bytes());
    // One that is damaged keeps nothing: it is read, not only touched.
    if store.build_cache().get(&key)?.is_some() {
        return Ok(());
    }
    let keeps = Keeps {
        layers: image.diff_ids(),
        chain: Some(chain.clone()),
        below: None,
        about: "layers of a base image".into(),
    };
    Ok(store.build_cache().put(&key, b"{\"base\":true}", &keeps)?)
}
