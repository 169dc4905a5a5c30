//! What commands share: the flags of all commands, the home folder, the engine, and waiting until something is done
//! or the user has had enough.

use std::cell::OnceCell;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use engine::{Cancel, ClientOptions, Engine, Store};
use registry::client::{CredentialStore, ProxySettings};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::args::{Globals, ProgressMode};
use crate::clock;
use crate::failure::Interrupted;

/// How long operations may take to clean up after Ctrl-C.
const GRACE: Duration = Duration::from_millis(800);

/// One call of `slipway`.
#[derive(Debug)]
pub(crate) struct Session {
    globals: Globals,
    cancel: Cancel,
    /// What was opened, to be abandoned when the user does not want to wait.
    store: OnceCell<Store>,
}

/// How many threads wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Threads {
    /// One: for what mostly works on the disk.
    One,
    /// Several: for what moves bytes over the network.
    Many,
}

impl Session {
    /// Takes the global flags; opens nothing.
    pub(crate) fn new(globals: Globals) -> Self {
        Self { globals, cancel: Cancel::new(), store: OnceCell::new() }
    }

    /// Returns how progress is shown.
    pub(crate) fn progress(&self) -> ProgressMode {
        self.globals.progress
    }

    /// Returns what is cancelled by Ctrl-C.
    pub(crate) fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Returns the folder that holds everything: `--home`, `$SLIPWAY_HOME`, or the user's data folder.
    pub(crate) fn home(&self) -> anyhow::Result<PathBuf> {
        if let Some(home) = &self.globals.home {
            return Ok(home.clone());
        }
        if rustix::process::geteuid().is_root() && engine::runtime::world().is_none() {
            return Ok("/var/lib/slipway".into());
        }
        let data = folder("XDG_DATA_HOME").or_else(|| Some(folder("HOME")?.join(".local/share")));
        match data {
            Some(data) => Ok(data.join("slipway")),
            None => anyhow::bail!("there is no folder to keep images in: set --home, $SLIPWAY_HOME or $HOME"),
        }
    }

    /// Opens the engine.
    pub(crate) fn engine(&self) -> anyhow::Result<Engine> {
        self.engine_for(&[])
    }

    /// Opens the engine, for work with registries that may be reached without a trusted certificate.
    pub(crate) fn engine_for(&self, insecure: &[&str]) -> anyhow::Result<Engine> {
        let engine = Engine::open(&self.home()?, client_options(insecure))?;
        self.store.get_or_init(|| engine.store().clone());
        Ok(engine)
    }

    /// Removes what the process has not finished: it ends now, whoever is still at work in it.
    pub(crate) fn abandon(&self) {
        if let Some(store) = self.store.get() {
            store.abandon();
        }
    }

    /// Waits for an operation that deals with signals itself.
    pub(crate) fn wait_with<T, E: Into<anyhow::Error>>(
        &self,
        threads: Threads,
        operation: impl Future<Output = Result<T, E>>,
    ) -> anyhow::Result<T> {
        let runtime = start(threads)?;
        let result = runtime.block_on(operation);
        runtime.shutdown_background();
        result.map_err(Into::into)
    }

    /// Waits for an operation. On Ctrl-C or SIGTERM it is cancelled, and gets a moment to clean up.
    pub(crate) fn wait<T, E: Into<anyhow::Error>>(
        &self,
        threads: Threads,
        operation: impl Future<Output = Result<T, E>>,
    ) -> anyhow::Result<T> {
        self.wait_or_stop(threads, GRACE, operation)
    }

    /// Waits for an operation that is dropped on Ctrl-C or SIGTERM, and has nothing to clean up then.
    pub(crate) fn wait_or_drop<T, E: Into<anyhow::Error>>(
        &self,
        threads: Threads,
        operation: impl Future<Output = Result<T, E>>,
    ) -> anyhow::Result<T> {
        self.wait_or_stop(threads, Duration::ZERO, operation)
    }

    fn wait_or_stop<T, E: Into<anyhow::Error>>(
        &self,
        threads: Threads,
        grace: Duration,
        operation: impl Future<Output = Result<T, E>>,
    ) -> anyhow::Result<T> {
        let runtime = start(threads)?;
        let result = runtime.block_on(async {
            let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
            let mut operation = std::pin::pin!(operation);
            let stopped = tokio::select! {
                result = &mut operation => return result.map_err(Into::into),
                _ = interrupt.recv() => Interrupted { signal: SignalKind::interrupt().as_raw_value() },
                _ = terminate.recv() => Interrupted { signal: SignalKind::terminate().as_raw_value() },
            };
            self.cancel.cancel();
            // Whatever it says now, the user knows why it ended.
            let _: Result<_, _> = tokio::time::timeout(grace, operation).await;
            self.abandon();
            Err(stopped.into())
        });
        // Work that still blocks ends with the process.
        runtime.shutdown_background();
        result
    }
}

impl Session {
    /// Runs something that goes on until Ctrl-C or SIGTERM, which it is told by a future and then ends by itself.
    pub(crate) fn wait_for_signal<T, E: Into<anyhow::Error>, F: Future<Output = Result<T, E>>>(
        &self,
        operation: impl FnOnce(Pin<Box<dyn Future<Output = ()> + Send>>) -> F,
    ) -> anyhow::Result<T> {
        let runtime = start(Threads::Many)?;
        let result = runtime.block_on(async {
            let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
            let signal = Box::pin(async move {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            });
            operation(signal).await.map_err(Into::into)
        });
        runtime.shutdown_background();
        result
    }
}

fn start(threads: Threads) -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = match threads {
        Threads::One => tokio::runtime::Builder::new_current_thread(),
        Threads::Many => tokio::runtime::Builder::new_multi_thread(),
    };
    Ok(builder.enable_all().build()?)
}

fn listen(kind: SignalKind) -> anyhow::Result<Signal> {
    Ok(signal(kind)?)
}

fn folder(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// Reads from the environment how registries are reached, and who we are there.
pub(crate) fn client_options(insecure: &[&str]) -> ClientOptions {
    let docker = folder("DOCKER_CONFIG").or_else(|| Some(folder("HOME")?.join(".docker")));
    let mut credentials =
        docker.map_or_else(CredentialStore::none, |folder| CredentialStore::file(folder.join("config.json")));
    let podman = folder("REGISTRY_AUTH_FILE")
        .or_else(|| Some(folder("XDG_RUNTIME_DIR")?.join("containers/auth.json")))
        .filter(|path| path.exists());
    if let Some(path) = podman {
        credentials = credentials.and_reads(path);
    }
    let variable = |name: &str| {
        let read = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        read(name).or_else(|| read(&name.to_ascii_lowercase()))
    };
    ClientOptions {
        credentials,
        insecure: insecure.iter().map(|&registry| registry.to_owned()).collect(),
        root_files: variable("SSL_CERT_FILE").map(PathBuf::from).into_iter().collect(),
        proxies: ProxySettings {
            http: variable("HTTP_PROXY"),
            https: variable("HTTPS_PROXY"),
            none_for: variable("NO_PROXY"),
        },
        clock: Some(clock::now),
        ..ClientOptions::default()
    }
}
