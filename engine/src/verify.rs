//! Building twice without cache, and telling which files came out differently and how.

pub mod files;
mod hints;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use builder::{BuildEvent, BuildEvents, BuildRequest, Built, BuiltImage, CacheTransfer, PullPolicy, StepId};
use jiff::Timestamp;
use oci::{Descriptor, DiffId, Digest};
use serde::Serialize;
use serde_json::Value;
use store::{BlobError, Store};

use crate::executor::ContainerExecutor;
use crate::image_source::{Images, cancelled};
use crate::ops::build::{BuildOpError, BuildView};
use crate::remote::{Environment, Fetcher};
use crate::ssh::{Agents, SshSource};
use crate::verify::files::{FileDifference, Files};
use crate::{Cancel, Engine};

/// What two builds of the same came to.
#[derive(Clone, Debug, Serialize)]
pub struct Verification {
    /// Whether the images are the same, bit for bit.
    pub reproducible: bool,
    /// `SOURCE_DATE_EPOCH` in both builds.
    pub epoch: Option<i64>,
    /// The images, one per platform.
    pub images: Vec<VerifiedImage>,
    /// The steps that made different layers, in the order of the Dockerfile; also such as do not reach an image.
    pub steps: Vec<StepDifference>,
}

/// An image that was built twice.
#[derive(Clone, Debug, Serialize)]
pub struct VerifiedImage {
    /// Its platform.
    pub platform: String,
    /// The digests of the manifests.
    pub manifests: [Digest; 2],
    /// What differs in the config, other than what differs in the layers.
    pub config: Vec<FieldDifference>,
}

/// A member of a config that differs.
#[derive(Clone, Debug, Serialize)]
pub struct FieldDifference {
    /// Where, as `jq` would write it.
    pub field: String,
    /// The values; null is none.
    pub values: [Value; 2],
}

/// A step that made different layers.
#[derive(Clone, Debug, Serialize)]
pub struct StepDifference {
    /// As progress calls it.
    pub step: String,
    /// Its first and last line in the Dockerfile.
    pub lines: Option<[usize; 2]>,
    /// Such steps before it that it stands on or copies from: it may differ because of them.
    pub follows: Vec<String>,
    /// The layers.
    pub layers: [Vec<DiffId>; 2],
    /// The files that differ.
    pub files: Vec<FileDifference>,
    /// How many more there are.
    pub more: usize,
}

/// What came of [`verify`].
#[derive(Clone, Debug)]
pub struct Verified {
    /// What differs.
    pub verification: Verification,
    /// What the first build made.
    pub built: Built,
}

/// So many files of a step are told.
const MOST_FILES: usize = 1000;

/// Whoever looks at the clock sees another second in the second build, even when both are quick.
const APART: Duration = Duration::from_millis(1100);

/// Builds twice, and compares all that came of it.
///
/// Neither build takes anything from the build cache or leaves anything in it, and caches that steps mount are empty.
/// `next_view` is called before each build, and `now` tells its time.
///
/// # Errors
///
/// When a build fails or is cancelled, or what it made cannot be read. That the builds differ is no error.
pub async fn verify(
    engine: &Engine,
    mut request: BuildRequest,
    ssh: Vec<SshSource>,
    environment: Environment,
    next_view: &mut dyn FnMut() -> Arc<dyn BuildView>,
    now: &dyn Fn() -> Timestamp,
    cancel: &Cancel,
) -> Result<Verified, BuildOpError> {
    request.isolated = true;
    request.transfer = CacheTransfer::default();
    let first = attempt(engine, request.clone(), ssh.clone(), environment.clone(), next_view(), cancel).await?;
    tokio::select! {
        () = tokio::time::sleep(APART) => {}
        () = cancelled(cancel) => return Err(builder::BuildError::Cancelled.into()),
    }
    request.now = now();
    // The base images are those of the first build.
    request.pull = PullPolicy::Missing;
    let second = attempt(engine, request, ssh, environment, next_view(), cancel).await?;
    let (store, cancel) = (engine.store().clone(), cancel.clone());
    store::blocking::run(move || {
        let verification = compare(&store, &first, &second, &cancel)?;
        Ok(Verified { verification, built: first.built })
    })
    .await
}

/// One of the builds.
struct Attempt {
    built: Built,
    steps: BTreeMap<StepId, Step>,
}

/// What a build told of a step.
#[derive(Clone, Debug, Default)]
struct Step {
    name: String,
    lines: Option<RangeInclusive<usize>>,
    needs: BTreeSet<StepId>,
    layers: Vec<(DiffId, Descriptor)>,
}

async fn attempt(
    engine: &Engine,
    request: BuildRequest,
    ssh: Vec<SshSource>,
    environment: Environment,
    view: Arc<dyn BuildView>,
    cancel: &Cancel,
) -> Result<Attempt, BuildOpError> {
    let (engine, cancel, runtime) = (engine.clone(), cancel.clone(), tokio::runtime::Handle::current());
    let attempt = store::blocking::run(move || {
        let agents = Agents::open(&ssh, &environment)?;
        let request = BuildRequest { agents: agents.sockets.clone(), ..request };
        let remote = Fetcher {
            engine: &engine,
            runtime: runtime.clone(),
            environment: &environment,
            secrets: &request.secrets,
            agents: &request.agents,
        };
        let images =
            Images { engine: &engine, runtime, events: &*view, now: request.now, cancel: &cancel, materials: None };
        let recorder = Recorder { view: &*view, steps: Mutex::default() };
        let built = builder::build(
            &request,
            engine.store(),
            &ContainerExecutor::default(),
            &images,
            &remote,
            &recorder,
            &cancel,
        )?;
        Ok::<_, BuildOpError>(Attempt {
            built,
            steps: recorder.steps.into_inner().unwrap_or_else(PoisonError::into_inner),
        })
    });
    attempt.await
}

/// Takes down what steps made, and passes everything on.
struct Recorder<'a> {
    view: &'a dyn BuildView,
    steps: Mutex<BTreeMap<StepId, Step>>,
}

impl BuildEvents for Recorder<'_> {
    fn event(&self, event: BuildEvent<'_>) {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        match &event {
            BuildEvent::Planned { steps: planned } => {
                for plan in planned {
                    let step = steps.entry(plan.id).or_default();
                    (step.name, step.lines) = (plan.name.clone(), plan.lines.clone());
                    step.needs.extend(&plan.needs);
                }
            }
            BuildEvent::Made { id, below, layers, shown_as } => {
                let step = steps.entry(*id).or_default();
                step.needs.extend(below.iter().chain(shown_as));
                step.layers.clone_from(layers);
            }
            _ => {}
        }
        drop(steps);
        self.view.event(event);
    }
}

fn compare(store: &Store, first: &Attempt, second: &Attempt, cancel: &Cancel) -> Result<Verification, BuildOpError> {
    let mut steps: Vec<StepDifference> = Vec::new();
    // For each step, those before it that differ; what is not shown has no name and only passes them on.
    let mut differing: BTreeMap<StepId, BTreeSet<StepId>> = BTreeMap::new();
    for (id, one) in &first.steps {
        let inherited = one.needs.iter().filter_map(|need| differing.get(need)).flatten().copied().collect();
        let mut reach: BTreeSet<StepId> = inherited;
        let Some(other) = second.steps.get(id) else { continue };
        let diff_ids = |step: &Step| step.layers.iter().map(|(diff_id, _)| diff_id.clone()).collect::<Vec<_>>();
        let layers = [diff_ids(one), diff_ids(other)];
        if !one.name.is_empty() && layers[0] != layers[1] {
            let (files, more) = different_files(store, one, other, cancel)?;
            let follows = reach.iter().map(|step| first.steps[step].name.clone()).collect();
            let lines = one.lines.as_ref().map(|lines| [*lines.start(), *lines.end()]);
            steps.push(StepDifference { step: one.name.clone(), lines, follows, layers, files, more });
            reach.insert(*id);
        }
        differing.insert(*id, reach);
    }
    let pairs = || first.built.images.iter().zip(&second.built.images);
    let images = pairs().map(|(one, other)| VerifiedImage {
        platform: one.platform.to_string(),
        manifests: [one.descriptor.digest.clone(), other.descriptor.digest.clone()],
        config: different_fields(one, other),
    });
    Ok(Verification {
        reproducible: pairs().all(|(one, other)| one.descriptor == other.descriptor),
        epoch: first.built.epoch,
        images: images.collect(),
        steps,
    })
}

/// Compares the files of the layers that a step made. Whatever was built is one layer, and a plain tar.
fn different_files(
    store: &Store,
    one: &Step,
    other: &Step,
    cancel: &Cancel,
) -> Result<(Vec<FileDifference>, usize), BuildOpError> {
    let ([(_, one)], [(_, other)]) = (one.layers.as_slice(), other.layers.as_slice()) else {
        return Ok((Vec::new(), 0));
    };
    let open =
        |blob: &Descriptor| -> Result<Files, BlobError> { Ok(Files::new(store.blobs().open(&blob.digest)?.file)) };
    let mut found = files::compare(open(one)?, open(other)?, cancel).map_err(BuildOpError::Compare)?;
    let more = found.len().saturating_sub(MOST_FILES);
    found.truncate(MOST_FILES);
    Ok((found, more))
}

/// Compares the configs. That the layers differ is told elsewhere.
fn different_fields(one: &BuiltImage, other: &BuiltImage) -> Vec<FieldDifference> {
    let value = |image: &BuiltImage| {
        let mut value = serde_json::to_value(&image.config).unwrap_or_default();
        if let Some(rootfs) = value.get_mut("rootfs").and_then(Value::as_object_mut) {
            rootfs.remove("diff_ids");
        }
        value
    };
    let mut found = Vec::new();
    fields(String::new(), &value(one), &value(other), &mut found);
    found
}

fn fields(path: String, one: &Value, other: &Value, found: &mut Vec<FieldDifference>) {
    let null = &Value::Null;
    match (one, other) {
        _ if one == other => {}
        (Value::Object(one), Value::Object(other)) => {
            let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
            for name in names {
                let pair = (one.get(name).unwrap_or(null), other.get(name).unwrap_or(null));
                fields(format!("{path}.{name}"), pair.0, pair.1, found);
            }
        }
        (Value::Array(one), Value::Array(other)) => {
            for at in 0..one.len().max(other.len()) {
                fields(format!("{path}[{at}]"), one.get(at).unwrap_or(null), other.get(at).unwrap_or(null), found);
            }
        }
        _ => found.push(FieldDifference { field: path, values: [one.clone(), other.clone()] }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_differ_are_named() {
        let one = serde_json::json!({"a": 1, "b": [{"c": 1}, 2], "d": {"e": "x"}});
        let other = serde_json::json!({"a": 1, "b": [{"c": 2}], "d": {"f": "x"}});
        let mut found = Vec::new();
        fields(String::new(), &one, &other, &mut found);
        let names: Vec<&str> = found.iter().map(|field| field.field.as_str()).collect();
        assert_eq!(names, [".b[0].c", ".b[1]", ".d.e", ".d.f"]);
    }
}
