//! [`Layers`]: what a step makes, and looking at it.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use oci::{ChainId, Descriptor, DiffId, Digest};
use store::{Snapshot, Store};

use crate::cache::Record;
use crate::cancel::Cancel;
use crate::fault::{Fault, StepError};
use crate::files::index::LayerIndex;
use crate::files::source::SourceTree;
use crate::files::view::View;
use crate::remote_cache::{BringError, RemoteCache};

/// A stack of layers, with the files that they make unpacked only when somebody needs them to be.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    /// The layers, lowest first.
    pub(crate) stack: Vec<Arc<Layer>>,
    /// When the topmost was made, as far as history is concerned.
    pub(crate) created: Option<jiff::Timestamp>,
    snapshot: Mutex<Option<Snapshot>>,
    source: OnceLock<Arc<SourceTree>>,
}

/// One layer of a stack.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) diff_id: DiffId,
    pub(crate) blob: Descriptor,
    /// The identity of the stack up to here.
    pub(crate) chain: ChainId,
    /// What stands for the layer in cache keys.
    pub(crate) mark: Digest,
    /// What stands for the stack up to here in cache keys.
    pub(crate) identity: ChainId,
    /// For a layer that was built here, and so is a plain tar: its headers, once somebody looked.
    pub(crate) index: Option<Arc<OnceLock<Arc<LayerIndex>>>>,
    /// Where the blob is to be had, when it may not be here.
    pub(crate) remote: Option<Arc<dyn RemoteCache>>,
}

/// Up to so many headers of a new layer stay in memory.
const MAX_KEPT: usize = 20_000;

/// Up to this size a layer that was built here is looked at in its tar instead of being unpacked.
const MAX_INDEXED: u64 = 256 << 20;

impl Layers {
    /// Takes the layers of an image.
    pub(crate) fn of_image(layers: &[(DiffId, Descriptor)], created: Option<jiff::Timestamp>) -> Self {
        let mut stack: Vec<Arc<Layer>> = Vec::with_capacity(layers.len());
        for (diff_id, blob) in layers {
            put(&mut stack, Layer::new(diff_id.clone(), blob.clone(), diff_id.0.clone(), None, None));
        }
        Self { stack, created, ..Self::default() }
    }

    /// Puts one more layer on top, which was built here.
    pub(crate) fn then(below: Option<&Self>, record: &Record) -> Self {
        Self::then_from(below, record, None)
    }

    /// Puts one more layer on top, which may be somewhere else.
    pub(crate) fn then_from(below: Option<&Self>, record: &Record, remote: Option<Arc<dyn RemoteCache>>) -> Self {
        let mut stack = below.map(|below| below.stack.clone()).unwrap_or_default();
        let index = Some(Arc::default());
        let (diff_id, blob) = (record.diff_id.clone(), record.descriptor());
        put(&mut stack, Layer::new(diff_id, blob, record.mark.clone(), index, remote));
        Self { stack, created: Some(record.created), ..Self::default() }
    }

    /// Puts layers on top of others.
    pub(crate) fn merged(base: Option<&Self>, top: &[Arc<Layer>], created: Option<jiff::Timestamp>) -> Self {
        let mut stack = base.map(|base| base.stack.clone()).unwrap_or_default();
        for layer in top {
            put(&mut stack, Layer::clone(layer));
        }
        Self { stack, created, ..Self::default() }
    }

    /// Remembers the headers of the topmost layer, which was just written; so many that they would fill memory are read
    /// again if anybody asks.
    pub(crate) fn set_index(&self, entries: Vec<layer::Entry>) {
        if entries.len() > MAX_KEPT {
            return;
        }
        if let Some((top, cell)) = self.stack.last().and_then(|layer| Some((layer, layer.index.as_ref()?))) {
            // Another step may have been faster; its headers are the same.
            let _ = cell.set(Arc::new(LayerIndex::of(entries, &top.diff_id.0)));
        }
    }

    /// Remembers what the layers look like unpacked.
    pub(crate) fn set_snapshot(&self, snapshot: Snapshot) {
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = Some(snapshot);
    }

    /// Returns the identity of the stack.
    pub(crate) fn chain(&self) -> Option<&ChainId> {
        self.stack.last().map(|layer| &layer.chain)
    }

    /// Returns what stands for the stack in the keys of the steps on it.
    ///
    /// As the chain ID, but a layer of copied files counts by the files' content, without their times: the same files
    /// that were checked out at another time, or on another machine, are the same to the steps after them. A layer that
    /// a process wrote counts by its bytes.
    pub(crate) fn identity(&self) -> Option<&ChainId> {
        self.stack.last().map(|layer| &layer.identity)
    }

    /// Returns the layers at the bottom that were not built here, as a stack of their own.
    pub(crate) fn image(&self) -> Self {
        let count = self.stack.iter().take_while(|layer| layer.index.is_none()).count();
        Self { stack: self.stack[..count].to_vec(), ..Self::default() }
    }

    /// Returns the diff IDs, lowest first.
    pub(crate) fn diff_ids(&self) -> Vec<DiffId> {
        self.stack.iter().map(|layer| layer.diff_id.clone()).collect()
    }

    /// Returns the layers unpacked, unpacking what is missing.
    pub(crate) fn snapshot(&self, store: &Store, cancel: &Cancel) -> Result<Snapshot, StepError> {
        let mut known = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(snapshot) = &*known {
            return Ok(snapshot.clone());
        }
        let snapshot = unpack(&self.stack, store, cancel)?;
        *known = Some(snapshot.clone());
        Ok(snapshot)
    }

    /// Returns the files, to be copied from.
    pub(crate) fn source(&self, store: &Store, cancel: &Cancel) -> Result<Arc<SourceTree>, StepError> {
        if let Some(source) = self.source.get() {
            return Ok(source.clone());
        }
        let tree = self.snapshot(store, cancel)?.tree()?;
        Ok(self.source.get_or_init(|| Arc::new(SourceTree::of_layers(tree, store.home()))).clone())
    }

    /// Fetches the blobs of all layers that are somewhere else.
    pub(crate) fn bring(&self, store: &Store, cancel: &Cancel) -> Result<(), StepError> {
        bring(&self.stack.iter().collect::<Vec<_>>(), store, cancel)
    }

    /// Returns a view of the files for looking at a few of them: unpacks nothing that was built here.
    pub(crate) fn view(&self, store: &Store, cancel: &Cancel) -> Result<View, StepError> {
        let mut view = View { blobs: Some(store.blobs().clone()), ..View::empty() };
        let known = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(snapshot) = known {
            view.tree = Some(snapshot.tree()?);
            return Ok(view);
        }
        let mut rest = self.stack.as_slice();
        while let Some((top, below)) = rest.split_last() {
            if let Some(snapshot) = store.snapshots().get(&top.chain).map_err(Fault::from)? {
                view.tree = Some(snapshot.tree()?);
                return Ok(view);
            }
            let Some(cell) = top.index.as_ref().filter(|cell| cell.get().is_some() || top.blob.size <= MAX_INDEXED)
            else {
                view.tree = Some(unpack(rest, store, cancel)?.tree()?);
                return Ok(view);
            };
            let index = match cell.get() {
                Some(index) => index.clone(),
                None => {
                    bring(&[top], store, cancel)?;
                    let index = LayerIndex::read(store.blobs(), &top.blob.digest).or_else(|fault| {
                        // If the disk is at fault, that is what must be said.
                        store.blobs().verify(&top.blob.digest)?;
                        Err(fault)
                    });
                    let index = Arc::new(index?);
                    cell.get_or_init(|| index).clone()
                }
            };
            view.indexes.push(index);
            rest = below;
        }
        Ok(view)
    }
}

/// Fetches those blobs that are somewhere else and not here yet.
fn bring(layers: &[&Arc<Layer>], store: &Store, cancel: &Cancel) -> Result<(), StepError> {
    let mut missing: Vec<(DiffId, Descriptor)> = Vec::new();
    let mut from = None;
    for layer in layers {
        let Some(remote) = &layer.remote else { continue };
        if !store.blobs().has(&layer.blob)? {
            missing.push((layer.diff_id.clone(), layer.blob.clone()));
            from = Some(remote);
        }
    }
    let Some(remote) = from else { return Ok(()) };
    remote.bring(&missing, cancel).map_err(|error| match error {
        BringError::Cancelled => StepError::Cancelled,
        error @ BringError::Layer { .. } => Fault::because("a cached layer is needed", &error).into(),
    })
}

/// Fetches what unpacking a stack needs.
fn bring_unpacked(stack: &[Arc<Layer>], store: &Store, cancel: &Cancel) -> Result<(), StepError> {
    if stack.iter().all(|layer| layer.remote.is_none()) {
        return Ok(());
    }
    let mut needed = Vec::new();
    for layer in stack {
        if store.snapshots().get(&layer.chain)?.is_none() {
            needed.push(layer);
        }
    }
    bring(&needed, store, cancel)
}

impl Layer {
    /// Describes a layer that has no place in a stack yet.
    fn new(
        diff_id: DiffId,
        blob: Descriptor,
        mark: Digest,
        index: Option<Arc<OnceLock<Arc<LayerIndex>>>>,
        remote: Option<Arc<dyn RemoteCache>>,
    ) -> Self {
        let (chain, identity) = (ChainId::base(&diff_id), ChainId(mark.clone()));
        Self { diff_id, blob, chain, mark, identity, index, remote }
    }
}

/// Puts a layer on top of a stack.
fn put(stack: &mut Vec<Arc<Layer>>, layer: Layer) {
    let mark = DiffId(layer.mark.clone());
    let (chain, identity) = match stack.last() {
        Some(below) => (below.chain.then(&layer.diff_id), below.identity.then(&mark)),
        None => (ChainId::base(&layer.diff_id), ChainId::base(&mark)),
    };
    stack.push(Arc::new(Layer { chain, identity, ..layer }));
}

fn unpack(stack: &[Arc<Layer>], store: &Store, cancel: &Cancel) -> Result<Snapshot, StepError> {
    let Some(top) = stack.last() else { return Ok(Snapshot::empty()) };
    if let Some(snapshot) = store.snapshots().get(&top.chain).map_err(Fault::from)? {
        return Ok(snapshot);
    }
    bring_unpacked(stack, store, cancel)?;
    let layers: Vec<_> = stack.iter().map(|layer| (layer.diff_id.clone(), layer.blob.clone())).collect();
    let unpacked = store.snapshots().ensure_unless(&layers, &|_| {}, &|| cancel.is_cancelled());
    unpacked.map_err(|error| if cancel.is_cancelled() { StepError::Cancelled } else { error.into() })
}
