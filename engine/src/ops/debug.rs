//! Opens a shell in a step of a past build.

use std::collections::BTreeMap;

use builder::{ExecStep, MountKind, Network, SecretSource, Security, StepId, StepMount};
use oci::users::ProcessUser;
use oci::{Descriptor, DiffId};
use store::builds::{BuildRecord, RecordedMount, StepRecord};
use store::{Snapshot, SnapshotError, Store};
use supervisor::start::{StartContainerError, find_user};

use crate::past::{self, PastError};
use crate::shell::{self, OpenShellError, ShellEnds};
use crate::{Cancel, Engine};

/// Which step, and what to run in it.
#[derive(Clone, Debug)]
pub struct DebugOptions {
    /// The build, as [`past::build`] finds it.
    pub build: String,
    /// The step, as [`past::step`] finds it.
    pub step: Option<String>,
    /// What to run; a shell when empty.
    pub command: Vec<String>,
    /// As whom, in place of the step's user.
    pub user: Option<String>,
    /// Secrets that the step mounts, which no record holds.
    pub secrets: BTreeMap<String, SecretSource>,
}

/// What a person is told before the shell opens.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The build.
    pub build: String,
    /// The number of the step.
    pub number: usize,
    /// Its name.
    pub name: String,
    /// What is not as it was in the build.
    pub notes: Vec<String>,
}

/// Why there is no shell.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum DebugError {
    #[error(transparent)]
    Past(#[from] PastError),
    #[error("nothing of step {number} was made, nor of what it stands on")]
    NothingMade { number: usize },
    #[error("the files of step {number} are not here any more")]
    Gone { number: usize, source: SnapshotError },
    #[error("cannot find the user of the step")]
    User(#[source] Box<StartContainerError>),
    #[error("cannot read the secret `{id}`")]
    Secret { id: String, source: std::io::Error },
    #[error(transparent)]
    Shell(#[from] OpenShellError),
}

/// Opens a shell in the files that a step of a past build left, with its variables, user and folder; returns the exit code.
///
/// What is written there goes away with the shell. `ends` is called when all is ready.
///
/// # Errors
///
/// When there is no such step, or its files are gone.
pub async fn debug(
    engine: &Engine,
    options: DebugOptions,
    ends: impl FnOnce(&Opened) -> std::io::Result<ShellEnds> + Send + 'static,
    cancel: &Cancel,
) -> Result<i32, DebugError> {
    let (store, cancel) = (engine.store().clone(), cancel.clone());
    store::blocking::run(move || open(&store, &options, ends, &cancel)).await
}

fn open(
    store: &Store,
    options: &DebugOptions,
    ends: impl FnOnce(&Opened) -> std::io::Result<ShellEnds>,
    cancel: &Cancel,
) -> Result<i32, DebugError> {
    let build = past::build(store, &options.build)?;
    let step = past::step(&build, options.step.as_deref())?;
    let mut notes = Vec::new();
    let files = files(store, &build, step, &mut notes)?;
    let here = step.plan.surroundings.clone().unwrap_or_default();
    let tree = files.tree().map_err(OpenShellError::Tree)?;
    let user = options.user.as_deref().unwrap_or(&here.user);
    let mut user = find_user(&tree, user, &[]).map_err(|error| DebugError::User(Box::new(error)))?;
    if !user.additional_gids.contains(&user.gid) {
        user.additional_gids.insert(0, user.gid);
    }
    let mut env = environment(&here.env, &user);
    let mut mounts = Vec::new();
    for mount in &step.plan.mounts {
        match self::mount(store, mount, options)? {
            Mounted::Yes(kind) => mounts.push(StepMount { target: mount.target.clone(), kind }),
            Mounted::No(why) => notes.push(format!("{} is not mounted: {why}", mount.target)),
        }
    }
    mounts.sort_by(|one, other| one.target.cmp(&other.target));
    env.dedup();
    let like = ExecStep {
        id: StepId(step.plan.id),
        rootfs: builder::Overlay { lower: Vec::new(), upper: "/".into(), work: "/".into() },
        argv: Vec::new(),
        env,
        cwd: if here.cwd.is_empty() { "/".into() } else { here.cwd },
        user,
        hostname: "buildkitsandbox".into(),
        mounts,
        network: match here.network.as_str() {
            "none" => Network::None,
            "host" => Network::Host,
            _ => Network::Default,
        },
        security: if here.insecure { Security::Insecure } else { Security::Sandbox },
        shm_size: None,
        ulimits: &[],
        add_hosts: &[],
        cgroup_parent: None,
        output: &|_, _| {},
        cancel,
    };
    let ends = |borrowed: bool| {
        if borrowed {
            notes.push("its files have no shell; this is the machine's busybox".into());
        }
        let (build, name) = (build.id.clone(), step.plan.name.clone());
        let opened = Opened { build, number: step.number, name, notes };
        ends(&opened).map_err(OpenShellError::Terminal)
    };
    let status = shell::open(store, &files, &like, &here.shell, &options.command, ends)?;
    Ok(status.code)
}

/// Finds the files that a step left; or those that it had begun with, when it left none.
fn files(
    store: &Store,
    build: &BuildRecord,
    step: &StepRecord,
    notes: &mut Vec<String>,
) -> Result<Snapshot, DebugError> {
    if let Some(stack) = build.stack(step.result) {
        return snapshot(store, &stack, step.number);
    }
    let below = match step.plan.below {
        Some(below) => build.stack(below).ok_or(DebugError::NothingMade { number: step.number })?,
        None => Vec::new(),
    };
    let below = snapshot(store, &below, step.number)?;
    let kept = build.id.parse().ok().and_then(|id| store.builds().kept(&id, step));
    let Some(kept) = kept else {
        notes.push("the step did not come to its end; these are the files that it began with".into());
        return Ok(below);
    };
    let dirs = std::iter::once(kept).chain(below.dirs).collect();
    Ok(Snapshot { chain: None, dirs })
}

fn snapshot(store: &Store, stack: &[&store::builds::RecordedLayer], number: usize) -> Result<Snapshot, DebugError> {
    let layers: Vec<(DiffId, Descriptor)> =
        stack.iter().map(|layer| (layer.diff_id.clone(), layer.blob.clone())).collect();
    store.snapshots().ensure(&layers, &|_| {}).map_err(|source| DebugError::Gone { number, source })
}

fn environment(env: &[String], user: &ProcessUser) -> Vec<(String, String)> {
    let pair = |text: &String| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        (name.to_owned(), value.to_owned())
    };
    let mut env: Vec<(String, String)> = env.iter().map(pair).collect();
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    for (name, value) in [("PATH", path), ("HOME", user.home.as_str())] {
        if !env.iter().any(|(other, _)| other == name) {
            env.push((name.into(), value.into()));
        }
    }
    env
}

enum Mounted {
    Yes(MountKind),
    No(String),
}

fn mount(store: &Store, mount: &RecordedMount, options: &DebugOptions) -> Result<Mounted, DebugError> {
    let id = mount.id.as_deref().unwrap_or_default();
    Ok(match mount.kind.as_str() {
        "tmpfs" => Mounted::Yes(MountKind::Tmpfs { size: mount.size }),
        "cache" => {
            // What cannot be read is as good as gone.
            let folder = store::last_cache_mount(store.layout(), id, mount.seeded).ok().flatten();
            let contents = folder.and_then(|folder| store::cache_contents(&folder).ok());
            match contents.and_then(|contents| contents.into_iter().next_back()) {
                Some((_, source)) => Mounted::Yes(MountKind::Bind { source, read_only: mount.read_only }),
                None => Mounted::No(format!("the cache `{id}` is not there any more")),
            }
        }
        "secret" => match options.secrets.get(id) {
            Some(source) => {
                let value = match source {
                    SecretSource::Value(value) => value.clone(),
                    SecretSource::File(path) => {
                        std::fs::read(path).map_err(|source| DebugError::Secret { id: id.to_owned(), source })?
                    }
                };
                Mounted::Yes(MountKind::Secret { value, mode: 0o400, uid: 0, gid: 0 })
            }
            None => Mounted::No(format!("it is the secret `{id}`, which is not kept; give it with --secret id={id},…")),
        },
        "ssh" => Mounted::No(format!("it was the SSH agent `{id}`, which is not kept")),
        "script" => Mounted::No("it was a script of the Dockerfile".into()),
        _ => Mounted::No("it was files of the context or of another stage".into()),
    })
}
