//! [`Ledger`]: the keys that the steps of a build looked up or filed, and what is filed under them.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, PoisonError};

use oci::{ChainId, DiffId};

use super::CachedStep;
use crate::cache::Record;
use crate::cache_key::CacheKey;

/// Which steps a cache is to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Those whose layers are in the image.
    #[default]
    Min,
    /// All.
    Max,
}

/// What the steps of a build made, under all keys that the build came by.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Vec<Line>>);

#[derive(Clone, Debug)]
struct Line {
    step: CachedStep,
    /// The layers up to the step's.
    chain: ChainId,
    /// Whether the layer stands on nothing that its key knows of: it may be in an image on top of anything.
    alone: bool,
}

impl Ledger {
    pub(crate) fn note(&self, key: &CacheKey, record: &Record, below: Option<&ChainId>) {
        let step = CachedStep { key: key.0.clone(), record: record.clone() };
        let diff_id = &record.diff_id;
        let chain = below.map_or_else(|| ChainId::base(diff_id), |below| below.then(diff_id));
        self.lines().push(Line { step, chain, alone: below.is_none() });
    }

    pub(crate) fn clear(&self) {
        self.lines().clear();
    }

    /// Returns what a cache is to know; `images` are the stacks of layers that the build made. Sorted by key.
    pub fn steps(&self, mode: Mode, images: &[Vec<DiffId>]) -> Vec<CachedStep> {
        let lines = self.lines();
        let wanted = Wanted::of(images);
        let steps = lines.iter().filter(|line| mode == Mode::Max || wanted.has(line));
        let steps: BTreeMap<_, _> = steps.map(|line| (line.step.key.clone(), line.step.clone())).collect();
        steps.into_values().collect()
    }

    /// Returns what an image's own config is to say: one key for each of its steps, the same ones whether the steps were
    /// done or found. Sorted by key.
    pub fn inline(&self, image: &[DiffId]) -> Vec<CachedStep> {
        let lines = self.lines();
        let wanted = Wanted::of(&[image.to_vec()]);
        // A copy between stages has two keys; the one by origin is always known, and always comes last.
        let mut last: BTreeMap<(&str, String), &Line> = BTreeMap::new();
        for line in lines.iter().filter(|line| wanted.has(line)) {
            last.insert((line.step.step(), line.chain.to_string()), line);
        }
        let steps: BTreeMap<_, _> = last.values().map(|line| (line.step.key.clone(), line.step.clone())).collect();
        steps.into_values().collect()
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, Vec<Line>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The layers of some images.
struct Wanted {
    chains: HashSet<ChainId>,
    layers: HashSet<DiffId>,
}

impl Wanted {
    fn of(images: &[Vec<DiffId>]) -> Self {
        let mut wanted = Self { chains: HashSet::new(), layers: HashSet::new() };
        for image in images {
            let mut below: Option<ChainId> = None;
            for diff_id in image {
                let chain = below.map_or_else(|| ChainId::base(diff_id), |below| below.then(diff_id));
                wanted.chains.insert(chain.clone());
                wanted.layers.insert(diff_id.clone());
                below = Some(chain);
            }
        }
        wanted
    }

    fn has(&self, line: &Line) -> bool {
        self.chains.contains(&line.chain) || (line.alone && self.layers.contains(line.step.diff_id()))
    }
}
