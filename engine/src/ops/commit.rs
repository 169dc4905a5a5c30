//! Makes an image of what a container changed.

use std::io::Write;

use jiff::Timestamp;
use layer::{PackError, PackOptions, Tree, TreeError};
use oci::{Descriptor, Digest, History, ImageConfig, Manifest, Reference, media_type};
use store::{BlobError, ImageError, LayerError, Store};
use supervisor::{Container, ContainerError, Status};

use super::import::{ImportError, change, check};
use super::pause::{PauseError, freeze};
use crate::containers::{self, StartError};
use crate::{Cancel, Engine};

/// What the image is to be.
#[derive(Clone, Debug)]
pub struct CommitOptions {
    /// What to call it; untagged when `None`.
    pub name: Option<Reference>,
    /// Who made it.
    pub author: String,
    /// A note for its history.
    pub message: String,
    /// Dockerfile instructions to apply to its config.
    pub changes: Vec<String>,
    /// Freeze the container meanwhile.
    pub pause: bool,
    /// The time.
    pub now: Timestamp,
}

/// Why no image was made.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum CommitError {
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error("cannot read the container's image")]
    Base(#[from] StartError),
    #[error(transparent)]
    Pause(#[from] PauseError),
    #[error("cannot read the container's files")]
    Tree(#[from] TreeError),
    #[error("cannot pack what the container changed")]
    Pack(#[from] PackError),
    #[error("cannot store the layer")]
    Write(#[source] std::io::Error),
    #[error("the config of the container's image is damaged")]
    Config(#[source] serde_json::Error),
    #[error("the layer {diff_id} of the container's image is gone")]
    LayerGone { diff_id: oci::DiffId },
    #[error(transparent)]
    Change(#[from] ImportError),
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// Makes an image of a container's, with one more layer of what it changed; gives its ID.
///
/// # Errors
///
/// When there is no such container, or a change is not one.
pub async fn commit(
    engine: &Engine,
    name: String,
    options: CommitOptions,
    cancel: &Cancel,
) -> Result<Digest, CommitError> {
    let (all, store, cancel) = (containers::all(engine), engine.store().clone(), cancel.clone());
    store::blocking::run(move || {
        for change in &options.changes {
            check(change)?;
        }
        let container = all.find(&name)?;
        let runs = container.state(options.now)?.status == Status::Running;
        let paused = runs && options.pause;
        let paused = match paused.then(|| freeze(&container, true)) {
            // Nobody can freeze the containers of a plain user without a cgroup of theirs; and they shall be saved, too.
            Some(Err(PauseError::Freeze(error)))
                if runtime::rootless::is_confined() && error.kind() == std::io::ErrorKind::Unsupported =>
            {
                false
            }
            Some(frozen) => frozen.map(|()| true)?,
            None => false,
        };
        let layer = store_layer(&store, &container);
        if paused {
            match freeze(&container, false) {
                // It was killed meanwhile.
                Err(PauseError::NotRunning { .. }) => {}
                other => other?,
            }
        }
        let id = make_image(&store, &container, &layer?, &options, &cancel)?;
        container.emit("commit", options.now, &[("imageID", &id.to_string())]);
        Ok(id)
    })
    .await
}

/// Stores what the container changed as a plain layer.
fn store_layer(store: &Store, container: &Container) -> Result<Descriptor, CommitError> {
    let lower = Tree::of_layers(containers::lower(store, container)?)?;
    let mut blob = store.blobs().begin()?;
    let packed = layer::pack_diff(&container.upper(), &lower, &mut blob, &PackOptions::default())?;
    blob.flush().map_err(CommitError::Write)?;
    let (digest, size) = blob.commit(Some(&packed.diff_id.0))?;
    let descriptor = Descriptor::new(media_type::OCI_LAYER, digest, size);
    store.layers().record(&packed.diff_id, &descriptor)?;
    Ok(descriptor)
}

fn make_image(
    store: &Store,
    container: &Container,
    layer: &Descriptor,
    options: &CommitOptions,
    cancel: &Cancel,
) -> Result<Digest, CommitError> {
    const MOST: u64 = 8 << 20;
    let record = &container.record;
    // The image may be gone, of which only the layers are surely kept.
    let mut config: ImageConfig = match store.blobs().read(&record.image, MOST) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(CommitError::Config)?,
        Err(_) => ImageConfig {
            architecture: record.platform.architecture.clone(),
            variant: record.platform.variant.clone(),
            os: record.platform.os.clone(),
            ..ImageConfig::default()
        },
    };
    let mut layers = Vec::new();
    for diff_id in &record.layers {
        let form = store.layers().forms(diff_id)?.into_iter().next();
        layers.push(form.ok_or_else(|| CommitError::LayerGone { diff_id: diff_id.clone() })?);
    }
    layers.push(layer.clone());
    let created = Some(options.now.to_string());
    config.rootfs.diff_ids = record.layers.clone();
    config.rootfs.diff_ids.push(oci::DiffId(layer.digest.clone()));
    config.created.clone_from(&created);
    let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    config.author = text(&options.author);
    config.history.push(History {
        created,
        created_by: Some(record.config.arguments().join(" ")),
        comment: text(&options.message),
        author: text(&options.author),
        ..History::default()
    });
    let ours = &record.config;
    let theirs = &mut config.config;
    theirs.user.clone_from(&ours.user);
    theirs.exposed_ports.clone_from(&ours.exposed_ports);
    theirs.env.clone_from(&ours.env);
    theirs.entrypoint.clone_from(&ours.entrypoint);
    theirs.cmd.clone_from(&ours.cmd);
    theirs.healthcheck.clone_from(&ours.healthcheck);
    theirs.volumes = ours.volumes.clone().unwrap_or_default();
    theirs.working_dir.clone_from(&ours.working_dir);
    theirs.labels.clone_from(&ours.labels);
    theirs.stop_signal.clone_from(&ours.stop_signal);
    let (mut descriptor, mut id) = write_image(store, &config, &layers)?;
    if !options.changes.is_empty() {
        let image = store.images().image(&descriptor, &config.platform())?;
        config.config = change(store, image, &config.platform(), &options.changes, options.now, cancel)?;
        (descriptor, id) = write_image(store, &config, &layers)?;
    }
    match &options.name {
        Some(name) => store.images().tag(name, &descriptor, options.now)?,
        None => store.images().keep(&descriptor, options.now)?,
    }
    Ok(id)
}

fn write_image(
    store: &Store,
    config: &ImageConfig,
    layers: &[Descriptor],
) -> Result<(Descriptor, Digest), CommitError> {
    let bytes = serde_json::to_vec(config).expect("a config has text keys only");
    let id = store.blobs().put(&bytes)?;
    let manifest = Manifest::new(Descriptor::of(media_type::OCI_CONFIG, &bytes), layers.to_vec());
    let bytes = serde_json::to_vec(&manifest).expect("a manifest has text keys only");
    store.blobs().put(&bytes)?;
    Ok((Descriptor::of(media_type::OCI_MANIFEST, &bytes), id))
}
