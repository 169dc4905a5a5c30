//! What each kind of step does, one file a kind. Each takes the layers of the steps it needs and gives its own.

pub(crate) mod copy;
pub(crate) mod fetch;
pub(crate) mod from;
pub(crate) mod mount;
pub(crate) mod run;
pub(crate) mod run_key;
pub(crate) mod workdir;

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use oci::ChainId;
use store::{Active, Store};

use crate::cache::{self, Notes, Record};
use crate::cache_key::CacheKey;
use crate::cancel::Cancel;
use crate::context::LazyContext;
use crate::events::{BuildEvent, BuildEvents, StepId};
use crate::executor::{Executor, Stream};
use crate::explain::{self, Explainer, Missed};
use crate::fault::{Fault, StepError};
use crate::files::source::SourceTree;
use crate::graph::{Graph, Origin, StepIndex, StepKind};
use crate::layers::Layers;
use crate::remote::Remote;
use crate::request::BuildRequest;

/// What all steps of a build share.
pub(crate) struct Workshop<'a> {
    pub(crate) request: &'a BuildRequest,
    pub(crate) store: &'a Store,
    pub(crate) executor: &'a dyn Executor,
    pub(crate) remote: &'a dyn Remote,
    pub(crate) context: LazyContext,
    pub(crate) named_contexts: BTreeMap<String, LazyContext>,
    /// `SOURCE_DATE_EPOCH`.
    pub(crate) epoch: Option<i64>,
    pub(crate) cancel: Cancel,
    /// Takes the place of the caches that steps mount, when the build leaves those alone.
    pub(crate) own_caches: Option<Active>,
    /// Folders of caches that were emptied in this build (`--no-cache`), which happens once.
    pub(crate) emptied_caches: Mutex<HashSet<PathBuf>>,
    /// Base images whose layers were kept in this build, which happens once.
    pub(crate) kept_images: Mutex<HashSet<ChainId>>,
    /// Finds out why a step is not in the cache, when the request asks for it.
    pub(crate) explainer: Option<Explainer>,
}

impl Workshop<'_> {
    /// Returns what cache keys say of the epoch.
    pub(crate) fn epoch_key(&self) -> Option<String> {
        let epoch = self.epoch?;
        Some(if self.request.reproducible.is_some() { format!("{epoch} everywhere") } else { epoch.to_string() })
    }
}

/// What one step gets to work with.
pub(crate) struct Bench<'a> {
    pub(crate) workshop: &'a Workshop<'a>,
    /// The results of the steps that it needs.
    pub(crate) results: BTreeMap<StepIndex, Arc<Layers>>,
    pub(crate) ignore_cache: bool,
    /// How events call it.
    pub(crate) id: StepId,
    /// What the cache's records call it.
    pub(crate) name: &'a str,
    /// Takes what a process prints.
    pub(crate) output: &'a (dyn Fn(Stream, &[u8]) + Send + Sync),
    pub(crate) graph: &'a Graph,
    pub(crate) events: &'a dyn BuildEvents,
}

/// What a step made, and whether it had to.
pub(crate) struct Made {
    pub(crate) layers: Layers,
    pub(crate) cached: bool,
}

impl Bench<'_> {
    /// Returns what a step made that this one needs.
    pub(crate) fn layers(&self, step: Option<StepIndex>) -> Option<&Arc<Layers>> {
        step.and_then(|step| self.results.get(&step))
    }

    /// Finds the result of a key.
    pub(crate) fn cached(&self, key: &CacheKey, base: Option<&Layers>) -> Result<Option<Made>, Fault> {
        if self.ignore_cache {
            return Ok(None);
        }
        if let Some(record) = cache::get(self.workshop.store, key)? {
            self.note(key, base, &record);
            self.keep_image(base)?;
            return Ok(Some(Made { layers: Layers::then(base, &record), cached: true }));
        }
        let transfer = &self.workshop.request.transfer;
        let Some((remote, step)) = transfer.remote.as_ref().and_then(|remote| Some((remote, remote.get(&key.0)?)))
        else {
            return Ok(None);
        };
        // Once its layer is here, the store answers itself.
        self.keep(key, base, &step.record, None)?;
        let layers = Layers::then_from(base, &step.record, Some(remote.clone()));
        Ok(Some(Made { layers, cached: true }))
    }

    /// Takes down what is filed under a key, for caches elsewhere.
    fn note(&self, key: &CacheKey, base: Option<&Layers>, record: &Record) {
        if let Some(ledger) = &self.workshop.request.transfer.ledger {
            ledger.note(key, record, base.and_then(Layers::chain));
        }
    }

    /// Files a result under a key, with notes of what the key was made of, and the list of the files that it stands for.
    pub(crate) fn keep(
        &self,
        key: &CacheKey,
        base: Option<&Layers>,
        record: &Record,
        notes: Option<(&Notes, Option<&[u8]>)>,
    ) -> Result<(), Fault> {
        if self.workshop.request.isolated {
            return Ok(());
        }
        self.note(key, base, record);
        self.keep_image(base)?;
        cache::put(self.workshop.store, key, base, record, notes)
    }

    /// Says why the cache has no result, when the request asks for it. Comes before the result is filed.
    pub(crate) fn missed(&self, key: &CacheKey, notes: &Notes, files: Option<&[u8]>) {
        if let Some(explainer) = &self.workshop.explainer {
            let missed = Missed { key, step: self.name, notes, files, ignored: self.ignore_cache };
            let miss = explainer.explain(self.workshop.store, &missed);
            self.events.event(BuildEvent::Missed { id: self.id, miss: &miss });
        }
    }

    /// Adds to notes what the step stands on, as people call it.
    pub(crate) fn note_parent(&self, notes: &mut Notes, mut base: Option<StepIndex>) {
        while let Some(index) = base {
            let step = &self.graph.steps[index];
            match &step.kind {
                // What people see is the copy whose layer is put in place.
                StepKind::Merge { top, .. } => base = Some(*top),
                kind => {
                    notes.add(explain::PARENT_STEP, &step.name);
                    if let StepKind::Source(source) = kind {
                        notes.add(explain::BASE_IMAGE, &source.digest.to_string());
                    }
                    return;
                }
            }
        }
    }

    /// Keeps the layers of the image at the bottom, once in a build.
    fn keep_image(&self, base: Option<&Layers>) -> Result<(), Fault> {
        let image = base.map(Layers::image).unwrap_or_default();
        let Some(chain) = image.chain() else { return Ok(()) };
        let mut kept = self.workshop.kept_images.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.insert(chain.clone()) { cache::keep_base(self.workshop.store, &image) } else { Ok(()) }
    }

    /// Opens where files come from.
    pub(crate) fn source(&self, origin: &Origin) -> Result<Arc<SourceTree>, StepError> {
        let Workshop { store, cancel, .. } = self.workshop;
        match origin {
            Origin::Context => Ok(self.workshop.context.open(store)?),
            Origin::Named(name) => {
                let context = self.workshop.named_contexts.get(name);
                Ok(context.ok_or_else(|| Fault::new(format!("there is no context `{name}`")))?.open(store)?)
            }
            Origin::Step(step) => match self.layers(*step) {
                Some(layers) => layers.source(store, cancel),
                None => Layers::default().source(store, cancel),
            },
        }
    }
}

/// Makes a time of seconds; what is out of range is the nearest.
pub(crate) fn timestamp(seconds: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(seconds).unwrap_or(if seconds < 0 {
        jiff::Timestamp::MIN
    } else {
        jiff::Timestamp::MAX
    })
}
