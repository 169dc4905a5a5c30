//! Builds images from a Dockerfile, and puts them where they shall go.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use builder::{BuildError, BuildEvents, BuildRequest, Built, BuiltImage};
use oci::{Descriptor, Digest, Reference};
use registry::client::{self, TransferEvents};
use store::builds::{BuildStatus, RecordedImage};
use store::{BlobError, Image, ImageError, PruneError, Store};

use super::push::PushError;
use crate::archive::{self, ArchiveFormat, ArchiveImage, WriteArchiveError};
use crate::attest::{self, AttestError, Attestations, Evidence, provenance};
use crate::image_source::Images;
use crate::output::annotations::{self, AnnotationError, annotated};
use crate::output::files::{self, FilesError};
use crate::output::{ArchiveSink, Form, ImageOutput, Output, Sink};
use crate::publish::{self, ReadyError};
use crate::recorder::{Recorder, Recording};
use crate::remote::{Environment, Fetcher};
use crate::remote_cache::{CacheError, CacheExportError, CacheOptions, Sending, Transfer};
use crate::shell::KeepingExecutor;
use crate::ssh::{Agents, SshError, SshSource};
use crate::verify::files::CompareError;
use crate::{Cancel, Engine};

/// What to build, and where it goes.
#[derive(Debug)]
pub struct BuildOptions {
    /// What to build.
    pub request: BuildRequest,
    /// Names for the image.
    pub tags: Vec<Reference>,
    /// Where the result goes; into the store when there is none.
    pub outputs: Vec<Output>,
    /// The SSH agents and keys that the build may use.
    pub ssh: Vec<SshSource>,
    /// What programs that fetch may see of the environment.
    pub environment: Environment,
    /// How large the build cache of this store may grow.
    pub cache_limit: CacheLimit,
    /// What is taken from caches elsewhere, and given to them.
    pub cache: CacheOptions,
    /// What is said of it beside it.
    pub attestations: Attestations,
    /// Says what time it is, when that is over; for the provenance.
    pub clock: fn() -> jiff::Timestamp,
    /// How it is remembered; not at all when `None`.
    pub recording: Option<Recording>,
}

/// How large a build cache may grow, before what was not used for longest goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheLimit {
    /// As much as BuildKit lets it: 80 % of the disk or 100 GB, whatever is less, as long as 20 % of the disk are free.
    #[default]
    Default,
    /// So many bytes.
    Bytes(u64),
    /// Nothing goes by itself.
    None,
}

/// Hears of everything that a build does: its steps, and what it pulls and pushes.
pub trait BuildView: BuildEvents + TransferEvents {}

impl<T: BuildEvents + TransferEvents> BuildView for T {}

/// What was built.
#[derive(Clone, Debug)]
pub struct BuildResult {
    /// The images, one per platform.
    pub images: Vec<BuiltImage>,
    /// The manifest, or the index of several, as it left: pushed, or in an archive, or else as the store has it.
    pub descriptor: Descriptor,
    /// The image ID: the config's digest, or the index's when there are several images.
    pub id: Digest,
    /// The names that were given.
    pub names: Vec<Reference>,
    /// Where it was sent to.
    pub sent: Vec<Reference>,
    /// Whether an output has an image, and not only its files.
    pub has_image: bool,
    /// Whether it is in the store for good: under a name, or untagged.
    pub kept: bool,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum BuildOpError {
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    Ssh(#[from] SshError),
    #[error("cannot make the image ready to leave")]
    Ready(#[from] ReadyError),
    #[error(transparent)]
    Annotation(#[from] AnnotationError),
    #[error(transparent)]
    Attest(#[from] AttestError),
    #[error("cannot open the output")]
    Open(#[source] io::Error),
    #[error("cannot finish the output")]
    Finish(#[source] io::Error),
    #[error(transparent)]
    Archive(#[from] WriteArchiveError),
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(transparent)]
    Push(#[from] PushError),
    #[error(transparent)]
    Cache(#[from] CacheExportError),
    #[error("cannot send the image on from the cache")]
    SendOn(#[from] Box<CacheError>),
    #[error("the files of several platforms cannot share `{}`", folder.display())]
    Merged { folder: PathBuf },
    #[error("cannot compare what the builds made")]
    Compare(#[source] CompareError),
    #[error("`{tag}` cannot be given to an image, because it is a digest")]
    Digest { tag: Reference },
}

/// Builds what the request asks for, and hands the result to each output.
///
/// When `cancel` is cancelled, everything that runs is stopped within a second.
///
/// # Errors
///
/// When the build fails or is cancelled, or an output does. Names are given last.
pub async fn build(
    engine: &Engine,
    options: BuildOptions,
    view: Arc<dyn BuildView>,
    cancel: &Cancel,
) -> Result<BuildResult, BuildOpError> {
    if let Some(tag) = options.tags.iter().find(|tag| tag.digest().is_some()) {
        return Err(BuildOpError::Digest { tag: tag.clone() });
    }
    check_outputs(&options)?;
    let recorder =
        Recorder::begin(engine.store(), options.recording.as_ref(), &options.request, &options.tags, view.clone());
    let recorder = Arc::new(recorder);
    // Beside the build there is time to forget what is old. What cannot be removed now is tried again by the next build.
    let (limits, builds) = (options.recording.as_ref().map(|recording| recording.limits), engine.store().builds());
    let limits = limits.filter(|limits| builds.needs_pruning(*limits).unwrap_or(true));
    let forgetting = limits.map(|limits| std::thread::spawn(move || builds.prune(limits)));
    let (cache_limit, now) = (options.cache_limit, options.request.now);
    let result = build_recorded(engine, options, view.clone(), &recorder, cancel).await;
    if result.is_ok() {
        keep_small(engine, cache_limit, now, &*view).await;
    }
    let (status, error, images) = match &result {
        Ok(result) => (BuildStatus::Completed, None, result.images.iter().map(remembered).collect()),
        Err(BuildOpError::Build(BuildError::Cancelled)) => (BuildStatus::Canceled, None, Vec::new()),
        Err(error) => (BuildStatus::Error, Some(error.to_string()), Vec::new()),
    };
    recorder.finish(status, error, images);
    // It holds the store, whose end takes away what this process has left unfinished.
    let _: Option<std::thread::Result<_>> = forgetting.map(std::thread::JoinHandle::join);
    result
}

/// Refuses what cannot be handed out, before anything is built.
fn check_outputs(options: &BuildOptions) -> Result<(), BuildOpError> {
    let platforms = &options.request.platforms;
    let takes_statements = |output: &Output| match output {
        Output::Image(image) => image.push,
        Output::Archive { format, .. } => *format == ArchiveFormat::Oci,
        Output::Tar { .. } | Output::Local { .. } | Output::CacheOnly => false,
    };
    if !options.attestations.is_empty() && !options.outputs.iter().any(takes_statements) {
        return Err(AttestError::NoOutput.into());
    }
    for output in &options.outputs {
        match output {
            Output::Image(ImageOutput { annotations, .. }) | Output::Archive { annotations, .. } => {
                annotations::check(annotations, platforms)?;
            }
            Output::Local { split: Some(false), folder } if platforms.len() > 1 => {
                return Err(BuildOpError::Merged { folder: folder.clone() });
            }
            Output::Tar { .. } | Output::Local { .. } | Output::CacheOnly => {}
        }
    }
    Ok(())
}

fn remembered(image: &BuiltImage) -> RecordedImage {
    RecordedImage {
        platform: image.platform.to_string(),
        digest: image.descriptor.digest.clone(),
        id: image.config_digest.clone(),
    }
}

async fn build_recorded(
    engine: &Engine,
    options: BuildOptions,
    view: Arc<dyn BuildView>,
    recorder: &Arc<Recorder>,
    cancel: &Cancel,
) -> Result<BuildResult, BuildOpError> {
    let BuildOptions {
        mut request,
        tags,
        outputs,
        ssh,
        environment,
        cache,
        cache_limit: _,
        recording,
        attestations,
        clock,
    } = options;
    let now = request.now;
    // From here on others may prune beside this build, and leave it what it uses.
    engine.store().pin_all().map_err(BlobError::from)?;
    let transfer = Transfer::prepare(engine, cache, &mut request, &view, cancel);
    // Beside the build there is time to clean up after those that were killed.
    std::thread::spawn(crate::machine::sweep);
    let id = recording.as_ref().map(|recording| recording.id.as_str().to_owned());
    let surroundings = Arc::new((ssh, environment, recording));
    request.transfer.lazy = transfer.may_leave_layers(&outputs) && attestations.is_empty();
    request.materials = attestations.provenance.map(|_| Default::default());
    let asked = attestations.provenance.map(|mode| (mode, request.clone()));
    let built = loop {
        let solving = Solving { engine, surroundings: &surroundings, view: &view, recorder, cancel };
        let built = solving.solve(request.clone()).await?;
        if !request.transfer.lazy {
            break built;
        }
        let names = all_names(&tags, &outputs);
        match transfer.send_on(engine, &built, &names, &*view, cancel).await.map_err(Box::new)? {
            Sending::Whole => break built,
            Sending::Sent(descriptor) => {
                transfer.write(engine, &built.images, &*view).await?;
                let id = match built.images.as_slice() {
                    [image] => image.config_digest.clone(),
                    _ => descriptor.digest.clone(),
                };
                let (images, sent) = (built.images, names.clone());
                let descriptor = *descriptor;
                return Ok(BuildResult { images, descriptor, id, names, sent, has_image: true, kept: false });
            }
            Sending::Lost => request.transfer.lazy = false,
        }
    };
    let epoch = built.epoch.and_then(|epoch| jiff::Timestamp::from_second(epoch).ok());
    let provenance = asked.map(|(mode, request)| {
        let materials = request.materials.as_ref().map(|materials| materials.list()).unwrap_or_default();
        // What shall come out the same anywhere at any time says neither when it was built nor which build it was.
        let run = match epoch {
            Some(_) => provenance::Run { id: None, times: None },
            None => provenance::Run { id, times: Some((now, clock())) },
        };
        provenance::predicate(mode, &request, &materials, &run)
    });
    let evidence = Evidence { provenance, sbom: attestations.sbom.then_some(epoch.unwrap_or(now)) };
    let result = hand_out_with(engine, built, tags, outputs, evidence, &*view, now).await?;
    transfer.write(engine, &result.images, &*view).await?;
    Ok(result)
}

/// All that solving a request needs beside it.
struct Solving<'a> {
    engine: &'a Engine,
    surroundings: &'a Arc<(Vec<SshSource>, Environment, Option<Recording>)>,
    view: &'a Arc<dyn BuildView>,
    recorder: &'a Arc<Recorder>,
    cancel: &'a Cancel,
}

impl Solving<'_> {
    async fn solve(&self, request: BuildRequest) -> Result<Built, BuildOpError> {
        let now = request.now;
        let (engine, cancel, surroundings) = (self.engine.clone(), self.cancel.clone(), self.surroundings.clone());
        let (view, runtime) = (self.view.clone(), tokio::runtime::Handle::current());
        let recorder = self.recorder.clone();
        store::blocking::run(move || {
            let (ssh, environment, recording) = &*surroundings;
            let agents = Agents::open(ssh, environment)?;
            let request = BuildRequest { agents: agents.sockets.clone(), ..request };
            let remote = Fetcher {
                engine: &engine,
                runtime: runtime.clone(),
                environment,
                secrets: &request.secrets,
                agents: &request.agents,
            };
            let materials = request.materials.as_deref();
            let images = Images { engine: &engine, runtime, events: &*view, now, cancel: &cancel, materials };
            let shell = recording.as_ref().and_then(|recording| recording.shell_on_error.as_deref());
            let executor = KeepingExecutor {
                store: engine.store(),
                recorder: &recorder,
                shell,
                opened: Mutex::new(false),
                inner: Default::default(),
            };
            builder::build(&request, engine.store(), &executor, &images, &remote, &*recorder, &cancel)
                .map_err(BuildOpError::from)
        })
        .await
    }
}

/// Returns the names that an image gets which goes to registries only.
fn all_names(tags: &[Reference], outputs: &[Output]) -> Vec<Reference> {
    let mut names = Vec::new();
    for output in outputs {
        if let Output::Image(image) = output {
            names.extend(tags.iter().chain(&image.names).cloned());
        }
    }
    names.dedup();
    names
}

/// Hands what was built to each output.
///
/// # Errors
///
/// When an output fails. Names are given last.
pub async fn hand_out(
    engine: &Engine,
    built: Built,
    tags: Vec<Reference>,
    outputs: Vec<Output>,
    view: &dyn BuildView,
    now: jiff::Timestamp,
) -> Result<BuildResult, BuildOpError> {
    let evidence = Evidence { provenance: None, sbom: None };
    hand_out_with(engine, built, tags, outputs, evidence, view, now).await
}

async fn hand_out_with(
    engine: &Engine,
    built: Built,
    tags: Vec<Reference>,
    outputs: Vec<Output>,
    evidence: Evidence,
    view: &dyn BuildView,
    now: jiff::Timestamp,
) -> Result<BuildResult, BuildOpError> {
    let store = engine.store().clone();
    let placed = store::blocking::run(move || place(&store, built, tags, outputs, &evidence, now)).await?;
    for (reference, descriptor) in &placed.push {
        client::push(engine.client(), engine.store(), reference, descriptor, view)
            .await
            .map_err(|source| PushError::Push { reference: reference.familiar(), source: Box::new(source) })?;
    }
    Ok(placed.result)
}

/// Makes the build cache smaller when this build made it outgrow its limit.
async fn keep_small(engine: &Engine, limit: CacheLimit, now: jiff::Timestamp, view: &dyn BuildView) {
    let limit = match limit {
        CacheLimit::None => return,
        CacheLimit::Default => None,
        CacheLimit::Bytes(bytes) => Some(bytes),
    };
    let now = std::time::SystemTime::from(now);
    // A limit that somebody gave is kept by every build.
    if limit.is_none() && !engine.store().is_pruning_due(now) {
        return;
    }
    let store = engine.store().clone();
    match store::blocking::run(move || store.prune_to_limit(limit, now)).await {
        // Somebody else is at work who cannot be interrupted; the next build will do it.
        Ok(_) | Err(PruneError::Busy) => {}
        Err(error) => {
            let message = format!("cannot make the build cache smaller: {error}");
            view.event(builder::BuildEvent::Warning { message, lines: None });
        }
    }
}

/// What was put in its place, and what remains to be sent.
struct Placed {
    result: BuildResult,
    push: Vec<(Reference, Descriptor)>,
}

fn place(
    store: &Store,
    built: Built,
    tags: Vec<Reference>,
    outputs: Vec<Output>,
    evidence: &Evidence,
    now: jiff::Timestamp,
) -> Result<Placed, BuildOpError> {
    let mut names = Vec::new();
    let (mut pushed, mut archived, mut named) = (Vec::new(), None, None);
    let mut referrers = Vec::new();
    let mut kept = false;
    let outputs = if outputs.is_empty() { vec![Output::Image(ImageOutput::default())] } else { outputs };
    for output in outputs {
        match output {
            Output::Image(output) => {
                let mut descriptor = annotated(store, &built, &output.annotations)?;
                if output.form != Form::default() {
                    descriptor = publish::ready(store, &descriptor, output.form)?;
                }
                let all: Vec<Reference> = tags.iter().cloned().chain(output.names).collect();
                if output.push {
                    let ready = publish::ready(store, &descriptor, output.form)?;
                    let target = |name: &Reference| match output.by_digest {
                        true => name.with_digest(ready.digest.clone()),
                        false => name.clone(),
                    };
                    pushed.extend(all.iter().map(|name| (target(name), ready.clone())));
                    for statement in attest::attach(store, evidence, &ready, &all)? {
                        let digest = &statement.manifest.digest;
                        let targets =
                            all.iter().map(|name| (name.with_digest(digest.clone()), statement.manifest.clone()));
                        referrers.extend(targets);
                    }
                }
                if output.keep && !output.by_digest {
                    kept = true;
                    names.extend(all.into_iter().map(|name| (name, descriptor.clone())));
                }
                named = named.or(Some(descriptor));
            }
            Output::Archive { format, names: further, form, annotations, sink } => {
                let all: Vec<Reference> = tags.iter().cloned().chain(further).collect();
                let descriptor = annotated(store, &built, &annotations)?;
                let mut ready = publish::ready(store, &descriptor, form)?;
                if format == ArchiveFormat::Oci {
                    let attached = attest::attach(store, evidence, &ready, &all)?;
                    if !attached.is_empty() {
                        ready = attest::bundle(store, &ready, &attached)?;
                    }
                }
                write_archive(store, &ready, all, format, sink)?;
                archived = archived.or(Some(ready));
            }
            Output::Tar { sink } => write_tar(store, &built, sink)?,
            Output::Local { folder, split } => write_folders(store, &built, &folder, split)?,
            Output::CacheOnly => {}
        }
    }
    names.dedup();
    if kept {
        for (name, descriptor) in &names {
            store.images().tag(name, descriptor, now)?;
        }
        if let Some(descriptor) = named.as_ref().filter(|_| names.is_empty()) {
            store.images().keep(descriptor, now)?;
        }
    }
    let has_image = named.is_some() || archived.is_some();
    let left = pushed.first().map(|(_, descriptor)| descriptor.clone()).or(archived).or(named);
    let descriptor = match left {
        Some(descriptor) => descriptor,
        None => annotated(store, &built, &[])?,
    };
    let id = match built.images.as_slice() {
        [image] => image.config_digest.clone(),
        _ => descriptor.digest.clone(),
    };
    let names = names.into_iter().map(|(name, _)| name).collect();
    let sent = pushed.iter().map(|(name, _)| name.clone()).collect();
    let result = BuildResult { images: built.images, descriptor, id, names, sent, has_image, kept };
    // What is about an image comes after it.
    pushed.extend(referrers);
    Ok(Placed { result, push: pushed })
}

fn write_archive(
    store: &Store,
    ready: &Descriptor,
    names: Vec<Reference>,
    format: ArchiveFormat,
    sink: ArchiveSink,
) -> Result<(), BuildOpError> {
    let images = [ArchiveImage { manifest: ready.clone(), names, annotations: ready.annotations.clone() }];
    match sink {
        ArchiveSink::Folder(folder) => Ok(archive::write_layout(store, &images, &folder)?),
        ArchiveSink::File(sink) => {
            let sink = (sink.0)().map_err(BuildOpError::Open)?;
            archive::write(store, &images, format, sink)?.finish().map_err(BuildOpError::Finish)
        }
    }
}

fn read(store: &Store, image: &BuiltImage) -> Result<Image, ImageError> {
    store.images().image(&image.descriptor, &image.config.platform())
}

fn write_tar(store: &Store, built: &Built, sink: Sink) -> Result<(), BuildOpError> {
    let mut snapshots = Vec::with_capacity(built.images.len());
    for image in &built.images {
        snapshots.push((folder_of(image), files::snapshot(store, &read(store, image)?)?));
    }
    let mut sink = (sink.0)().map_err(BuildOpError::Open)?;
    files::write_tar(&snapshots, &mut sink)?;
    sink.finish().map_err(BuildOpError::Finish)
}

/// Returns the name of the folder that a platform's files are in when there are several, as BuildKit calls it.
fn folder_of(image: &BuiltImage) -> String {
    image.platform.to_string().replace('/', "_")
}

fn write_folders(
    store: &Store,
    built: &Built,
    folder: &std::path::Path,
    split: Option<bool>,
) -> Result<(), BuildOpError> {
    let split = split.unwrap_or(built.images.len() > 1);
    for image in &built.images {
        let folder: PathBuf = match split {
            false => folder.to_owned(),
            true => folder.join(folder_of(image)),
        };
        let snapshot = files::snapshot(store, &read(store, image)?)?;
        files::write_folder(&snapshot, &folder)?;
    }
    Ok(())
}
