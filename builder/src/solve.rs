//! [`build`]: from a request to images in the store.
//!
//! Steps run as soon as those they need are done, several at once. The first failure stops the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;
use std::time::Instant;

use oci::Platform;
use store::{Snapshot, Store};

use crate::assemble::assemble;
use crate::cancel::Cancel;
use crate::context::LazyContext;
use crate::dockerfile::{Span, Warning};
use crate::error::BuildError;
use crate::evaluate::{Evaluation, Evaluator, parse_epoch};
use crate::events::{BuildEvent, BuildEvents, Outcome, PlannedStep, StepId};
use crate::executor::Executor;
use crate::explain::Explainer;
use crate::fault::Fault;
use crate::files::source::Appearance;
use crate::graph::{Graph, StepIndex, StepKind};
use crate::image_state::ImageState;
use crate::layers::Layers;
use crate::place::Place;
use crate::plan::Plan;
use crate::remote::Remote;
use crate::remote_cache::write_inline;
use crate::request::{BuildRequest, Built, ContextModes, NamedContext};
use crate::source::ImageSource;
use crate::steps::{self, Bench, Made, Workshop, timestamp};

/// Builds what the request asks for, and puts the images into the store without a name.
///
/// Blocks until everything has ended; call it from a thread that may.
///
/// # Times
///
/// A layer of `RUN` is made at `request.now`; the cache keeps that time, so building again without changes gives the very
/// same image. A layer of `COPY` or `ADD` is as old as the newest file in it, and so are the folders made for it: it has
/// the same digest on any machine that has the same files. A line of history that makes no layer takes the time of the
/// line before. With `SOURCE_DATE_EPOCH` all of these, and all files that would be newer, are of that time.
///
/// # Errors
///
/// The first thing that went wrong; whatever ran beside it has been stopped.
pub fn build(
    request: &BuildRequest,
    store: &Store,
    executor: &dyn Executor,
    images: &dyn ImageSource,
    remote: &dyn Remote,
    events: &dyn BuildEvents,
    cancel: &Cancel,
) -> Result<Built, BuildError> {
    let lost = || request.transfer.remote.as_ref().map_or(0, |remote| remote.lost());
    let removed = || store.blobs().removed_as_damaged();
    loop {
        let (before, whole) = (lost(), removed());
        let built = attempt(request, store, executor, images, remote, events, cancel);
        if built.is_err() {
            // Steps that were done stay in the cache. Of what is wrong with the disk the build's own error tells.
            let _ = store.settle();
        }
        match &built {
            // The cache promised a layer that it could not give. Without that promise its step is done here.
            Err(error) if lost() > before && !cancel.is_cancelled() => {
                let message = format!("doing again what the cache could not give: {error}");
                events.event(BuildEvent::Warning { message, lines: None });
            }
            // A layer turned out to be damaged and is gone now, so that the step that made it is no longer found. Each
            // round takes at least one away, and what an image brought is missing for good in the next.
            Err(error) if removed() > whole && !cancel.is_cancelled() => {
                let message = format!("doing again what was damaged on the disk: {error}");
                events.event(BuildEvent::Warning { message, lines: None });
            }
            _ => return built,
        }
    }
}

fn attempt(
    request: &BuildRequest,
    store: &Store,
    executor: &dyn Executor,
    images: &dyn ImageSource,
    remote: &dyn Remote,
    events: &dyn BuildEvents,
    cancel: &Cancel,
) -> Result<Built, BuildError> {
    if let Some(ledger) = &request.transfer.ledger {
        ledger.clear();
    }
    let place = Place::of(request);
    let (parsed, lint) = place.read(request)?;
    let plan = Plan::of(&parsed).map_err(|fault| place.error(fault, None))?;
    let target = plan.target(request.target.as_deref()).map_err(|fault| place.error(fault, None))?;
    let mut graph = Graph::default();
    let platforms = if request.platforms.is_empty() { vec![Platform::host()] } else { request.platforms.clone() };
    let locate = |fault: Fault, span: Option<&Span>| place.diagnostic(fault, span);
    let evaluation = Evaluation {
        request,
        plan: &plan,
        escape: parsed.directives.escape,
        images,
        events,
        lint: &lint,
        only_asking: false,
        locate: &locate,
    };
    let given = request.build_args.get("SOURCE_DATE_EPOCH").map(|text| parse_epoch(text)).transpose();
    let given = given.map_err(|fault| place.error(fault, None))?.flatten();
    let mut epoch = request.source_date_epoch.or(given);
    let mut states: Vec<(Platform, ImageState)> = Vec::new();
    for platform in &platforms {
        let mut evaluator =
            Evaluator::new(&evaluation, platform, platforms.len() > 1, &mut graph).map_err(|error| *error)?;
        epoch = epoch.or(evaluator.epoch());
        evaluator.lint_stages();
        evaluator.check_stages().map_err(|error| *error)?;
        let state = evaluator.stage(target).map_err(|error| *error)?;
        if states.is_empty() {
            evaluator.warn_of_unused_args();
        }
        states.push((platform.clone(), state));
    }
    warn(&lint.found(), events);
    lint.check().map_err(|fault| place.error(fault, None))?;
    epoch = epoch.or(request.reproducible);
    let modes = if request.reproducible.is_some() { ContextModes::Git } else { ContextModes::Keep };
    let mtime = epoch.filter(|_| request.reproducible.is_some()).map(layer::Timestamp::from_seconds);
    let appearance = Appearance { modes: request.context_modes.unwrap_or(modes), mtime };
    let ignore = request.dockerfile.ignore.clone();
    let stop = Cancel::new();
    let stopper = stop.clone();
    let _forwards = cancel.on_cancel(move || stopper.cancel());
    let files = |(name, context): (&String, &NamedContext)| match context {
        NamedContext::Files(context) => Some((name.clone(), LazyContext::new(context.clone(), None, appearance))),
        NamedContext::Image(_) | NamedContext::Layout(_) | NamedContext::Git(_) | NamedContext::Http(_) => None,
    };
    let own_caches = request.isolated.then(|| store.snapshots().begin(&Snapshot::empty())).transpose();
    let own_caches = own_caches.map_err(|error| place.error(error.into(), None))?;
    let workshop = Workshop {
        request,
        store,
        executor,
        remote,
        context: LazyContext::new(request.context.clone(), ignore, appearance),
        named_contexts: request.named_contexts.iter().filter_map(files).collect(),
        epoch,
        cancel: stop,
        own_caches,
        emptied_caches: Mutex::default(),
        kept_images: Mutex::default(),
        explainer: request.explain.then(Explainer::default),
    };
    let wanted: Vec<StepIndex> = states.iter().filter_map(|(_, state)| state.top).collect();
    let results = Solver::new(&graph, &wanted, &workshop, events, &place).run()?;
    let remember = || {
        for context in std::iter::once(&workshop.context).chain(workshop.named_contexts.values()) {
            // What cannot be remembered is merely read again next time.
            if let Err(fault) = context.save(store, request.now) {
                let message = format!("cannot remember the context's files: {}", fault.message);
                events.event(BuildEvent::Warning { message, lines: None });
            }
        }
    };
    std::thread::scope(|scope| {
        // Beside what follows, which mostly waits for the disk; where there can be no more threads, before it.
        if Builder::new().spawn_scoped(scope, remember).is_err() {
            remember();
        }
        let mut built = Built { images: Vec::new(), epoch };
        for (platform, state) in &states {
            let empty = Arc::new(Layers::default());
            let layers = state.top.and_then(|top| results.get(&top)).unwrap_or(&empty);
            let created = |step: StepIndex| {
                results.get(&step).and_then(|layers| layers.created).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
            };
            if !request.transfer.lazy {
                layers.bring(store, &workshop.cancel).map_err(|error| place.step_error(error, None))?;
            }
            let mut config = state.finish(&request.labels, layers.diff_ids(), &created, epoch.map(timestamp));
            if let Some(ledger) = request.transfer.ledger.as_ref().filter(|_| request.transfer.inline) {
                write_inline(&mut config, &ledger.inline(&layers.diff_ids()));
            }
            built.images.push(assemble(store, platform, config, layers).map_err(|fault| place.error(fault, None))?);
        }
        store.settle().map_err(|error| place.error(error.into(), None))?;
        Ok(built)
    })
}

fn warn(warnings: &[Warning], events: &dyn BuildEvents) {
    for warning in warnings {
        let message = format!("{}: {}", warning.rule.name(), warning.message);
        let lines = Some(warning.span.first_line as usize..=warning.span.last_line as usize);
        events.event(BuildEvent::Warning { message, lines });
    }
}

type Results = BTreeMap<StepIndex, Arc<Layers>>;

/// Runs the steps of a graph.
struct Solver<'a> {
    graph: &'a Graph,
    /// For each step that is to run, the steps that it needs.
    needs: BTreeMap<StepIndex, Vec<StepIndex>>,
    /// For each step, those that need it.
    dependents: BTreeMap<StepIndex, Vec<StepIndex>>,
    workshop: &'a Workshop<'a>,
    events: &'a dyn BuildEvents,
    place: &'a Place<'a>,
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Default)]
struct Progress {
    results: Results,
    /// Steps whose needs are done.
    ready: BTreeSet<StepIndex>,
    /// For each step that cannot run yet, how many it waits for.
    waiting: BTreeMap<StepIndex, usize>,
    /// How many run right now.
    running: usize,
    failed: Option<BuildError>,
}

impl<'a> Solver<'a> {
    /// Finds out what the wanted steps need.
    fn new(
        graph: &'a Graph,
        wanted: &[StepIndex],
        workshop: &'a Workshop<'a>,
        events: &'a dyn BuildEvents,
        place: &'a Place<'a>,
    ) -> Self {
        let mut needs = BTreeMap::new();
        let mut dependents: BTreeMap<StepIndex, Vec<StepIndex>> = BTreeMap::new();
        let mut open = wanted.to_vec();
        while let Some(step) = open.pop() {
            if needs.contains_key(&step) {
                continue;
            }
            let needed = graph.steps[step].kind.needs();
            needed.iter().for_each(|need| dependents.entry(*need).or_default().push(step));
            open.extend(&needed);
            needs.insert(step, needed);
        }
        let (progress, changed) = (Mutex::default(), Condvar::new());
        Self { graph, needs, dependents, workshop, events, place, progress, changed }
    }

    /// Runs the steps, and returns what each made.
    fn run(self) -> Result<Results, BuildError> {
        self.events.event(BuildEvent::Planned { steps: self.planned() });
        for step in self.needs.keys().map(|step| &self.graph.steps[*step]).filter(|step| step.ignore_cache) {
            if let StepKind::Exec(operation) = &step.kind {
                // No cache keeps it from running.
                self.workshop.executor.expect(operation.network);
            }
        }
        let mut progress = self.lock();
        for (step, needs) in &self.needs {
            if needs.is_empty() {
                progress.ready.insert(*step);
            } else {
                progress.waiting.insert(*step, needs.len());
            }
        }
        let forks = self.dependents.values().map(Vec::len).max().unwrap_or(0);
        let widest = progress.ready.len().max(forks);
        drop(progress);
        let processors = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let most =
            if self.workshop.request.parallelism == 0 { processors() } else { self.workshop.request.parallelism };
        // A chain of steps needs no threads.
        std::thread::scope(|scope| {
            for _ in 1..most.min(widest) {
                scope.spawn(|| self.work());
            }
            self.work();
        });
        let progress = self.progress.into_inner().unwrap_or_else(PoisonError::into_inner);
        match progress.failed {
            Some(error) => Err(error),
            None => Ok(progress.results),
        }
    }

    fn planned(&self) -> Vec<PlannedStep> {
        let planned = self.needs.iter().filter(|(step, _)| self.is_shown(**step)).map(|(step, needs)| {
            let node = &self.graph.steps[*step];
            let needs = needs.iter().copied().map(StepId).collect();
            let lines = node.span.as_ref().map(|span| span.first_line as usize..=span.last_line as usize);
            let (surroundings, mounts) = (self.graph.surroundings(*step), node.kind.planned_mounts());
            let below = node.kind.below().map(StepId);
            PlannedStep { id: StepId(*step), name: node.name.clone(), needs, below, lines, surroundings, mounts }
        });
        planned.collect()
    }

    /// Tells whether people want to see a step: stacking layers is no work.
    fn is_shown(&self, step: StepIndex) -> bool {
        !matches!(self.graph.steps[step].kind, StepKind::Merge { .. } | StepKind::Diff { .. })
    }

    fn work(&self) {
        let mut progress = self.lock();
        loop {
            if progress.failed.is_none() && self.workshop.cancel.is_cancelled() {
                progress.failed = Some(BuildError::Cancelled);
                self.changed.notify_all();
            }
            if progress.failed.is_some() {
                return;
            }
            let Some(step) = progress.ready.pop_first() else {
                if progress.running == 0 {
                    return;
                }
                progress = self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            progress.running += 1;
            let results = self.needs[&step]
                .iter()
                .filter_map(|need| Some((*need, progress.results.get(need)?.clone())))
                .collect();
            drop(progress);
            let running = Running(self);
            let made = self.step(step, results);
            drop(running);
            progress = self.lock();
            // Under one lock with what it makes ready: a thread that sees nothing ready and nothing running goes.
            progress.running -= 1;
            match made {
                Ok(layers) => self.done(&mut progress, step, layers),
                Err(error) => {
                    progress.failed.get_or_insert(error);
                    self.workshop.cancel.cancel();
                }
            }
            self.changed.notify_all();
        }
    }

    /// Notes that all is lost because a step panicked: nobody must wait for it.
    fn give_up(&self) {
        let mut progress = self.lock();
        progress.running -= 1;
        progress.failed.get_or_insert(BuildError::Cancelled);
        self.workshop.cancel.cancel();
        self.changed.notify_all();
    }

    fn done(&self, progress: &mut Progress, step: StepIndex, layers: Layers) {
        progress.results.insert(step, Arc::new(layers));
        for dependent in self.dependents.get(&step).into_iter().flatten() {
            if let Some(left) = progress.waiting.get_mut(dependent) {
                *left -= 1;
                if *left == 0 {
                    progress.waiting.remove(dependent);
                    progress.ready.insert(*dependent);
                }
            }
        }
    }

    fn step(&self, index: StepIndex, results: Results) -> Result<Layers, BuildError> {
        let step = &self.graph.steps[index];
        let id = StepId(index);
        let shown = self.is_shown(index);
        let started = Instant::now();
        if shown {
            self.events.event(BuildEvent::StepStarted { id });
        }
        let output = |stream, bytes: &[u8]| self.events.event(BuildEvent::Output { id, stream, bytes });
        let bench = Bench {
            workshop: self.workshop,
            results,
            ignore_cache: step.ignore_cache,
            id,
            name: &step.name,
            output: &output,
            graph: self.graph,
            events: self.events,
        };
        let stack = |layers| Ok(Made { layers, cached: false });
        let made = match &step.kind {
            StepKind::Source(source) => stack(steps::from::source(source)),
            StepKind::Fetch(operation) => steps::fetch::run(operation, &bench),
            StepKind::Exec(operation) => steps::run::run(operation, &bench),
            StepKind::Copy(operation) => steps::copy::run(operation, &bench),
            StepKind::MakeFolder(operation) => steps::workdir::run(operation, &bench),
            StepKind::Merge { base, top } => {
                let top = bench.layers(Some(*top)).expect("a step runs after those it needs");
                stack(steps::from::merge(bench.layers(*base).map(Arc::as_ref), top))
            }
            StepKind::Diff { lower, upper } => {
                let upper = bench.layers(Some(*upper)).expect("a step runs after those it needs");
                stack(steps::from::diff(bench.layers(*lower).map(Arc::as_ref), upper))
            }
        };
        let made = made.map_err(|error| self.place.step_error(error, step.span.as_ref()));
        if let Ok(made) = &made {
            let below = step.kind.below();
            let stands_on = bench.layers(below).map_or(0, |below| below.stack.len());
            let added = made.layers.stack.iter().skip(stands_on);
            let layers = added.map(|layer| (layer.diff_id.clone(), layer.blob.clone())).collect();
            let shown_as = if let StepKind::Merge { top, .. } = &step.kind { Some(StepId(*top)) } else { None };
            self.events.event(BuildEvent::Made { id, below: below.map(StepId), layers, shown_as });
        }
        if shown {
            let outcome = match &made {
                Ok(Made { cached: true, .. }) => Outcome::Cached,
                Ok(_) => Outcome::Done,
                Err(BuildError::Cancelled) => Outcome::Cancelled,
                Err(error) => Outcome::Failed { message: error.to_string() },
            };
            self.events.event(BuildEvent::StepFinished { id, outcome, took: started.elapsed() });
        }
        made.map(|made| made.layers)
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A step that runs.
struct Running<'a>(&'a Solver<'a>);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.give_up();
        }
    }
}
