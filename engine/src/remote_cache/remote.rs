//! [`Remote`]: `builder::RemoteCache` filled in.
//!
//! Nothing is read before a step is missed in the store, so a build that finds all it needs there waits for no network.
//! Then the records of all caches are read, side by side; layers come when somebody needs their bytes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use builder::remote_cache::{BringError, CachedStep};
use builder::{BuildEvent, Cancel, RemoteCache};
use layer::Compression;
use layer::compress::Format;
use oci::{Descriptor, DiffId, Digest};
use registry::client::artifact;
use store::layers::compression_of;
use store::{BlobError, Store};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::contents::Contents;
use super::place::Place;
use super::{CacheError, CacheSource};
use crate::Engine;
use crate::image_source::cancelled;
use crate::ops::build::BuildView;

/// The caches of a build. Clones are the same.
#[derive(Clone)]
pub(crate) struct Remote(Arc<Shared>);

struct Shared {
    engine: Engine,
    runtime: Handle,
    view: Arc<dyn BuildView>,
    cancel: Cancel,
    places: Vec<Place>,
    table: OnceLock<Table>,
    lost: Mutex<HashSet<DiffId>>,
    /// Layers on their way, so that each comes once.
    coming: Mutex<HashMap<DiffId, Arc<tokio::sync::Mutex<()>>>>,
}

/// All that the caches hold; what an earlier one says comes first.
#[derive(Default)]
struct Table {
    steps: HashMap<Digest, Vec<CachedStep>>,
    layers: BTreeMap<DiffId, Vec<(Place, Descriptor)>>,
}

impl Remote {
    /// Prepares to ask some caches; reads nothing yet.
    pub(crate) fn new(engine: &Engine, from: &[CacheSource], view: Arc<dyn BuildView>, cancel: &Cancel) -> Self {
        Self(Arc::new(Shared {
            engine: engine.clone(),
            runtime: Handle::current(),
            view,
            cancel: cancel.clone(),
            places: from.iter().map(Place::of).collect(),
            table: OnceLock::new(),
            lost: Mutex::default(),
            coming: Mutex::default(),
        }))
    }

    /// Returns a blob that a layer is known to be had as, if the caches were read.
    pub(crate) fn known(&self, diff_id: &DiffId) -> Option<Descriptor> {
        let (_, blob) = self.0.table.get()?.layers.get(diff_id)?.first()?;
        Some(blob.clone())
    }

    /// Tells whether a layer turned out not to be had.
    pub(crate) fn is_lost(&self, diff_id: &DiffId) -> bool {
        self.0.lost.lock().unwrap_or_else(PoisonError::into_inner).contains(diff_id)
    }

    /// Fetches a blob that holds a layer, as it is.
    pub(crate) async fn fetch_blob(&self, digest: &Digest) -> Result<(), CacheError> {
        let all = self.0.table.get().into_iter().flat_map(|table| table.layers.values().flatten());
        let mut failed = CacheError::Blob(BlobError::NotFound { digest: digest.clone() });
        for (place, blob) in all.filter(|(_, blob)| blob.digest == *digest) {
            match place.fetch(&self.0.engine, blob, &*self.0.view).await {
                Ok(()) => return Ok(()),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    fn table(&self) -> &Table {
        self.0.table.get_or_init(|| self.0.runtime.block_on(self.0.read()))
    }
}

impl Shared {
    /// Reads all caches, side by side. One that cannot be read is a warning.
    async fn read(&self) -> Table {
        let mut reading = JoinSet::new();
        for (at, place) in self.places.iter().enumerate() {
            let (engine, place) = (self.engine.clone(), place.clone());
            reading.spawn(async move { (at, Contents::read(&engine, &place).await) });
        }
        let mut contents = BTreeMap::new();
        let all = async {
            while let Some(read) = reading.join_next().await {
                let Ok((at, read)) = read else { continue };
                contents.insert(at, read);
            }
        };
        tokio::select! {
            () = all => {}
            () = cancelled(&self.cancel) => {}
        }
        let mut table = Table::default();
        for (at, read) in contents {
            let place = &self.places[at];
            match read {
                Ok(Some(contents)) => self.add(&mut table, place, contents).await,
                Ok(None) => self.warn(format!("there is no cache {place} yet")),
                Err(error) => self.warn(format!("cannot read the cache {place}: {}", chain(&error))),
            }
        }
        table
    }

    async fn add(&self, table: &mut Table, place: &Place, contents: Contents) {
        if contents.steps.is_empty() {
            let why = if contents.foreign > 0 { ": it was written by another builder" } else { "" };
            self.warn(format!("nothing can be found in the cache {place}{why}"));
        }
        if let Place::Registry(reference) = place {
            // So that what is pushed to the same registry is mounted there.
            let blobs = contents.layers.values().map(|blob| blob.digest.clone()).collect();
            artifact::note_source(self.engine.store(), reference, blobs).await;
        }
        for (step, _) in contents.steps {
            if contents.layers.contains_key(step.diff_id()) {
                table.steps.entry(step.key.clone()).or_default().push(step);
            }
        }
        for (diff_id, blob) in contents.layers {
            table.layers.entry(diff_id).or_default().push((place.clone(), blob));
        }
    }

    fn warn(&self, message: String) {
        self.view.event(BuildEvent::Warning { message, lines: None });
    }

    /// Fetches a layer from the first place that gives it; its tar is `size` bytes long.
    async fn fetch(&self, diff_id: &DiffId, size: u64) -> Result<(), CacheError> {
        let coming =
            self.coming.lock().unwrap_or_else(PoisonError::into_inner).entry(diff_id.clone()).or_default().clone();
        let _alone = coming.lock().await;
        let store = self.engine.store();
        if store.blobs().size(&diff_id.0)? == Some(size) {
            return Ok(());
        }
        let gone = || CacheError::Gone { diff_id: diff_id.clone() };
        let places = self.table.get().and_then(|table| table.layers.get(diff_id)).ok_or_else(gone)?;
        let mut failed = None;
        for (place, blob) in places {
            match self.fetch_from(place, diff_id, blob, size).await {
                Ok(()) => return Ok(()),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        Err(failed.unwrap_or_else(gone))
    }

    async fn fetch_from(
        &self,
        place: &Place,
        diff_id: &DiffId,
        blob: &Descriptor,
        size: u64,
    ) -> Result<(), CacheError> {
        place.fetch(&self.engine, blob, &*self.view).await?;
        let (store, diff_id, blob) = (self.engine.store().clone(), diff_id.clone(), blob.clone());
        store::blocking::run(move || unpack(&store, &diff_id, &blob, size)).await
    }
}

impl RemoteCache for Remote {
    fn get(&self, key: &Digest) -> Option<CachedStep> {
        let steps = self.table().steps.get(key)?;
        let lost = self.0.lost.lock().unwrap_or_else(PoisonError::into_inner);
        steps.iter().find(|step| !lost.contains(step.diff_id())).cloned()
    }

    fn has_records(&self) -> bool {
        !self.table().steps.is_empty()
    }

    fn bring(&self, layers: &[(DiffId, Descriptor)], cancel: &Cancel) -> Result<(), BringError> {
        let all = async {
            let mut fetching = JoinSet::new();
            for (diff_id, blob) in layers.iter().cloned() {
                let shared = self.0.clone();
                fetching.spawn(async move {
                    let fetched = shared.fetch(&diff_id, blob.size).await;
                    (diff_id, fetched)
                });
            }
            let mut result = Ok(());
            while let Some(fetched) = fetching.join_next().await {
                let (diff_id, fetched) =
                    fetched.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()));
                let Err(error) = fetched else { continue };
                self.0.lost.lock().unwrap_or_else(PoisonError::into_inner).insert(diff_id.clone());
                result = Err(BringError::Layer { diff_id, source: Box::new(error) });
            }
            result
        };
        self.0.runtime.block_on(async {
            tokio::select! {
                result = all => result,
                () = cancelled(cancel) => Err(BringError::Cancelled),
            }
        })
    }

    fn lost(&self) -> usize {
        self.0.lost.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// Makes the plain tar of a layer, `size` bytes long, from the blob of a cache, verified.
fn unpack(store: &Store, diff_id: &DiffId, blob: &Descriptor, size: u64) -> Result<(), CacheError> {
    let other = || CacheError::OtherLayer { blob: blob.digest.clone() };
    let broken = |source| CacheError::Decompress { blob: blob.digest.clone(), source };
    let (format, mut plain) = layer::compress::decoder(store.blobs().open(&blob.digest)?.file).map_err(broken)?;
    let mut writer = store.blobs().begin_as(diff_id.0.algorithm())?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match plain.read(&mut buffer) {
            Ok(0) => break,
            // A few bytes can unpack to any number of them.
            Ok(count) if writer.offset() + count as u64 > size => return Err(other()),
            Ok(count) => writer.write_all(&buffer[..count]).map_err(|error| writer.explain(error))?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(broken(error)),
        }
    }
    match writer.commit(Some(&diff_id.0)) {
        // So that the layer leaves as it came; but not in an image that says something else of it than is true.
        Ok((_, actual)) if actual == size && is_as_it_says(blob, format) => Ok(store.layers().record(diff_id, blob)?),
        Ok((_, actual)) if actual == size => Ok(()),
        Ok(_) | Err(BlobError::DigestMismatch { .. }) => Err(other()),
        Err(error) => Err(error.into()),
    }
}

/// Tells whether a blob is compressed as its media type says.
fn is_as_it_says(blob: &Descriptor, format: Format) -> bool {
    match compression_of(&blob.media_type) {
        Some(Compression::None) => format == Format::Plain,
        Some(Compression::Gzip) => format == Format::Gzip,
        Some(Compression::Zstd) => format == Format::Zstd,
        None => false,
    }
}

/// Says an error and all that led to it in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut texts = vec![error.to_string()];
    let mut next = error.source();
    while let Some(error) = next {
        let text = error.to_string();
        if texts.last() != Some(&text) {
            texts.push(text);
        }
        next = error.source();
    }
    texts.join(": ")
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("places", &self.0.places).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_that_a_cache_calls_something_else_gives_its_layer_and_is_not_sent_on() {
        let folder = tempfile::tempdir().expect("tempdir");
        let store = Store::open(&folder.path().join("home")).expect("opened");
        let tar = vec![0; 1024];
        let diff_id = DiffId(Digest::sha256(&tar));
        let blob = |media_type: &str, bytes: &[u8]| {
            store.blobs().put(bytes).expect("stored");
            Descriptor::of(media_type, bytes)
        };
        let mut gzip = layer::Encoder::new(Vec::new(), Compression::Gzip, 1).expect("begun");
        gzip.write_all(&tar).expect("written");
        let gzip = gzip.finish().expect("finished");
        let size = tar.len() as u64;
        let forms = || -> Vec<String> {
            let forms = store.layers().forms(&diff_id).expect("listed").into_iter();
            forms.map(|form| form.media_type).collect()
        };
        for wrong in [oci::media_type::OCI_LAYER_ZSTD, oci::media_type::OCI_LAYER, "text/plain"] {
            unpack(&store, &diff_id, &blob(wrong, &gzip), size).expect("it is the layer");
            assert_eq!(forms(), [oci::media_type::OCI_LAYER], "{wrong}");
        }
        unpack(&store, &diff_id, &blob(oci::media_type::OCI_LAYER_GZIP, &gzip), size).expect("it is the layer");
        assert_eq!(forms(), [oci::media_type::OCI_LAYER_GZIP, oci::media_type::OCI_LAYER]);
        // Other bytes, and other sizes than the records say.
        let other = blob(oci::media_type::OCI_LAYER, &[1; 1024]);
        for (blob, size) in
            [(&other, size), (&Descriptor::of("", &gzip), size - 1), (&Descriptor::of("", &gzip), size + 1)]
        {
            let error = unpack(&store, &diff_id, blob, size).expect_err("refused");
            assert!(matches!(error, CacheError::OtherLayer { .. }), "{error}");
        }
    }
}
