//! Makes a container of an image, without starting it.

use std::collections::BTreeMap;

use builder::{Cancel, PullPolicy};
use jiff::Timestamp;
use oci::{Platform, Reference};
use registry::client::TransferEvents;
use store::{FindError, Image, ImageError, Store};
use supervisor::config::{Config, HostConfig};
use supervisor::log::{LogError, LogOptions};
use supervisor::networks::NetworksError;
use supervisor::record::{Endpoint, Record};
use supervisor::start::StartContainerError;
use supervisor::{Container, ContainerError, Containers, Networks};

use crate::Engine;
use crate::image_source::{self, ObtainError};
use crate::machine;
use crate::mounts::{Making, MountError, MountRequest};
use crate::output::files::{self, FilesError};

mod names;

/// What to make, and how. [`CreateOptions::new`] gives docker's defaults.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// The image: a name, or the beginning of an ID.
    pub image: String,
    /// Its ID.
    pub id: String,
    /// Its name; one is made up when there is none.
    pub name: Option<String>,
    /// For which platform.
    pub platform: Platform,
    /// When to ask the registry.
    pub pull: PullPolicy,
    /// The program and what it sees, over the image's.
    pub config: Config,
    /// How the machine treats it.
    pub host_config: HostConfig,
    /// What is mounted.
    pub mounts: Vec<MountRequest>,
    /// What it is attached to.
    pub networks: Vec<Endpoint>,
    /// The time.
    pub now: Timestamp,
}

impl CreateOptions {
    /// Takes an image as it is.
    pub fn new(image: &str, now: Timestamp) -> Self {
        Self {
            image: image.into(),
            id: machine::new_id(),
            name: None,
            platform: Platform::host(),
            pull: PullPolicy::Missing,
            config: Config::default(),
            host_config: HostConfig::default(),
            mounts: Vec::new(),
            networks: Vec::new(),
            now,
        }
    }
}

/// Why no container was made.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum CreateError {
    #[error(transparent)]
    Find(#[from] FindError),
    #[error(transparent)]
    Obtain(#[from] ObtainError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("no command is given, and the image names none")]
    NoCommand,
    #[error("cannot prepare the container's files")]
    Files(#[from] FilesError),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Networks(#[from] NetworksError),
    #[error("ports cannot be published on the network `{network}`")]
    NoPorts { network: String },
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Option(#[from] StartContainerError),
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error("cannot use the store")]
    Store(#[from] store::FileError),
}

/// What making a container tells.
pub trait CreateEvents: TransferEvents {
    /// The image is not here and will be pulled.
    fn pulling(&self, image: &str);
    /// The container is there.
    fn created(&self, id: &str);
}

/// Makes a container; the image is pulled when it is missing.
///
/// # Errors
///
/// When there is no such image, the name is taken, or what was asked for cannot be had. Nothing is left then.
pub async fn create(
    engine: &Engine,
    options: CreateOptions,
    events: &(dyn CreateEvents + Sync),
    cancel: &Cancel,
) -> Result<Container, CreateError> {
    if !options.host_config.port_bindings.is_empty() && ["none", "host"].contains(&&*options.host_config.network_mode) {
        return Err(CreateError::NoPorts { network: options.host_config.network_mode });
    }
    LogOptions::parse(&options.host_config.log_config)?;
    supervisor::start::security(options.host_config.security_opt.as_deref().unwrap_or_default())?;
    // Builds may prune beside it.
    engine.store().pin_all()?;
    let image = find_image(engine, &options, events, cancel).await?;
    let store = engine.store().clone();
    let container = store::blocking::run(move || make(&store, &image, options)).await?;
    events.created(container.id());
    Ok(container)
}

async fn find_image(
    engine: &Engine,
    options: &CreateOptions,
    events: &(dyn CreateEvents + Sync),
    cancel: &Cancel,
) -> Result<Image, CreateError> {
    let reference: Result<Reference, _> = options.image.parse();
    if options.pull != PullPolicy::Always {
        let (store, text, platform) = (engine.store().clone(), options.image.clone(), options.platform.clone());
        let found = store::blocking::run(move || super::find::find(&store, &text, Some(&platform))).await;
        match (found, &reference) {
            (Ok((_, image)), _) => return Ok(image),
            // Missing, or there for another platform: the registry may have it.
            (Err(FindError::NotFound { .. } | FindError::Image(_)), Ok(reference)) => {
                if options.pull == PullPolicy::Missing {
                    events.pulling(&reference.familiar());
                }
            }
            (Err(error), _) => return Err(error.into()),
        }
    }
    let reference = reference.map_err(|_| FindError::NotFound { text: options.image.clone() })?;
    let obtained =
        image_source::obtain(engine, &reference, &options.platform, options.pull, events, options.now, cancel).await?;
    Ok(obtained)
}

fn make(store: &Store, image: &Image, options: CreateOptions) -> Result<Container, CreateError> {
    let CreateOptions { image: text, id, name, platform: _, pull: _, config, host_config, mounts, mut networks, now } =
        options;
    let config = merge(config, &image.config.config, &text);
    if config.arguments().is_empty() {
        return Err(CreateError::NoCommand);
    }
    let snapshot = files::snapshot(store, image)?;
    let tree = snapshot.tree().map_err(FilesError::Tree)?;
    let all = Containers::new(store.layout());
    let new = all.begin(&id)?;
    let making = Making { containers: &all, container: &id, tree: &tree, now };
    let others = host_config.volumes_from.as_deref().unwrap_or_default();
    let made = making.make(mounts, others, config.volumes.iter().flat_map(BTreeMap::keys))?;
    let known = Networks::new(store.layout());
    for endpoint in networks.iter().filter(|endpoint| !supervisor::network::is_default(&endpoint.network)) {
        known.find(&endpoint.network)?;
    }
    let hostname = match (config.hostname.as_str(), host_config.network_mode.as_str()) {
        ("", "host") => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        ("", _) => id[..12].to_owned(),
        (hostname, _) => hostname.to_owned(),
    };
    if networks.is_empty() && ["default", "bridge", ""].contains(&host_config.network_mode.as_str()) {
        networks.push(Endpoint { network: "bridge".into(), ..Endpoint::default() });
    }
    let mut record = Record {
        id,
        name: name.as_deref().map(|name| name.strip_prefix('/').unwrap_or(name).to_owned()).unwrap_or_default(),
        created: now,
        image: image.config_digest.clone(),
        manifest: image.descriptor.digest.clone(),
        platform: image.config.platform(),
        layers: image.config.rootfs.diff_ids.clone(),
        config: Config { hostname, ..config },
        host_config,
        mounts: made.mounts().to_vec(),
        networks,
        networkless: false,
    };
    if name.is_none() {
        record.name = names::free(&all, &record.id);
    }
    let container = new.place(record)?;
    made.keep();
    container.emit("create", now, &[]);
    Ok(container)
}

/// Puts what the user wants over what the image says, as docker does.
fn merge(mut config: Config, image: &oci::ContainerConfig, text: &str) -> Config {
    config.image = text.to_owned();
    if config.user.is_empty() {
        config.user.clone_from(&image.user);
    }
    for (port, empty) in &image.exposed_ports {
        config.exposed_ports.entry(port.clone()).or_insert(*empty);
    }
    let name = |setting: &str| setting.split('=').next().unwrap_or_default().to_owned();
    for setting in &image.env {
        if !config.env.iter().any(|other| name(other) == name(setting)) {
            config.env.push(setting.clone());
        }
    }
    for (name, value) in &image.labels {
        config.labels.entry(name.clone()).or_insert_with(|| value.clone());
    }
    // A new entrypoint drops the image's command.
    if config.entrypoint.is_none() {
        if config.cmd.as_ref().is_none_or(Vec::is_empty) {
            config.cmd.clone_from(&image.cmd);
        }
        config.entrypoint.clone_from(&image.entrypoint);
    }
    if config.working_dir.is_empty() {
        config.working_dir.clone_from(&image.working_dir);
    }
    let volumes: BTreeMap<_, _> =
        config.volumes.iter().flatten().chain(&image.volumes).map(|(path, empty)| (path.clone(), *empty)).collect();
    config.volumes = Some(volumes).filter(|volumes| !volumes.is_empty());
    if config.stop_signal.is_none() {
        config.stop_signal.clone_from(&image.stop_signal);
    }
    config.healthcheck = match (config.healthcheck.take(), &image.healthcheck) {
        (None, image) => image.clone(),
        (Some(user), None) => Some(user),
        (Some(mut user), Some(image)) => {
            if user.test.is_empty() {
                user.test.clone_from(&image.test);
            }
            for (ours, theirs) in [
                (&mut user.interval, image.interval),
                (&mut user.timeout, image.timeout),
                (&mut user.start_period, image.start_period),
                (&mut user.start_interval, image.start_interval),
                (&mut user.retries, image.retries),
            ] {
                if *ours == 0 {
                    *ours = theirs;
                }
            }
            Some(user)
        }
    };
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_new_entrypoint_drops_the_images_command() {
        let image = oci::ContainerConfig {
            entrypoint: Some(words("/entry")),
            cmd: Some(words("default args")),
            ..oci::ContainerConfig::default()
        };
        let arguments = |config: Config| merge(config, &image, "x").arguments();
        assert_eq!(arguments(Config::default()), words("/entry default args"));
        assert_eq!(arguments(Config { cmd: Some(words("a b")), ..Config::default() }), words("/entry a b"));
        assert_eq!(arguments(Config { entrypoint: Some(words("/other")), ..Config::default() }), words("/other"));
        let cleared = Config { entrypoint: Some(Vec::new()), cmd: Some(words("sh")), ..Config::default() };
        assert_eq!(arguments(cleared), words("sh"));
    }

    #[test]
    fn what_the_user_says_wins_over_the_image() {
        let image = oci::ContainerConfig {
            env: words("PATH=/bin A=1 B=2"),
            user: "web".into(),
            labels: [("a".to_owned(), "image".to_owned()), ("b".to_owned(), "image".to_owned())].into(),
            stop_signal: Some("SIGQUIT".into()),
            healthcheck: Some(oci::HealthConfig { test: words("CMD true"), interval: 5, ..Default::default() }),
            ..oci::ContainerConfig::default()
        };
        let config = Config {
            env: words("B=3 HOME=/h"),
            labels: [("a".to_owned(), "user".to_owned())].into(),
            healthcheck: Some(oci::HealthConfig { interval: 7, ..Default::default() }),
            ..Config::default()
        };
        let merged = merge(config, &image, "x");
        assert_eq!(merged.env, words("B=3 HOME=/h PATH=/bin A=1"));
        assert_eq!((merged.user.as_str(), merged.stop_signal.as_deref()), ("web", Some("SIGQUIT")));
        assert_eq!((merged.labels["a"].as_str(), merged.labels["b"].as_str()), ("user", "image"));
        let health = merged.healthcheck.expect("there");
        assert_eq!((health.test, health.interval), (words("CMD true"), 7));
    }
}
