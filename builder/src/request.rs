//! What a build is asked for ([`BuildRequest`]) and what comes of it ([`Built`]).

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci::{Descriptor, Digest, ImageConfig, Platform};

use crate::context::{Context, MAX_IGNORE};
use crate::executor::{AddedHost, Network, Ulimit};
use crate::git::GitSource;
use crate::ignore::Ignore;
use crate::materials::Materials;
use crate::remote_cache::CacheTransfer;

/// Everything that decides what a build makes.
///
/// Nothing else does: the builder reads no environment and no clock, so the
/// same request on the same files makes the same image.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// The files that `COPY`, `ADD` and `RUN --mount` may use.
    pub context: Context,
    /// Further contexts by name (`--build-context`); they win over stages and images of that name.
    pub named_contexts: BTreeMap<String, NamedContext>,
    /// The Dockerfile.
    pub dockerfile: DockerfileSource,
    /// The stage to build, by name or number; the last one when `None`.
    pub target: Option<String>,
    /// Values for `ARG` (`--build-arg`).
    pub build_args: BTreeMap<String, String>,
    /// Which platforms to build for; the host's when empty. Several give one image each.
    pub platforms: Vec<Platform>,
    /// The platform that `BUILDPLATFORM` means.
    pub build_platform: Platform,
    /// Labels for the image, applied after the Dockerfile's (`--label`).
    pub labels: BTreeMap<String, String>,
    /// Takes nothing from the build cache; what is built still goes into it.
    pub no_cache: bool,
    /// As `no_cache`, for these stages only.
    pub no_cache_filter: Vec<String>,
    /// When to ask the registry for a base image.
    pub pull: PullPolicy,
    /// The network of `RUN` steps that do not choose one.
    pub network: Network,
    /// Further lines of `/etc/hosts`.
    pub add_hosts: Vec<AddedHost>,
    /// Size of `/dev/shm` in bytes; 64 MiB when `None`.
    pub shm_size: Option<u64>,
    /// Resource limits of `RUN` steps.
    pub ulimits: Vec<Ulimit>,
    /// The cgroup that those of `RUN` steps are made in.
    pub cgroup_parent: Option<String>,
    /// What `RUN --mount=type=secret` may ask for, by ID.
    pub secrets: BTreeMap<String, SecretSource>,
    /// The SSH agents that `RUN --mount=type=ssh` may use, by ID: their sockets.
    pub agents: BTreeMap<String, PathBuf>,
    /// What `RUN` may ask for beyond the sandbox (`--allow`).
    pub allow: Allowed,
    /// The time that steps run now are said to be made at.
    pub now: jiff::Timestamp,
    /// Times in config and history are this many seconds after 1970, whatever the clock says.
    pub source_date_epoch: Option<i64>,
    /// Makes the same image on any machine at any time (`--reproducible`): as with `source_date_epoch`, and the context's
    /// files are as git keeps them and as old as the epoch, which `RUN` sees as `SOURCE_DATE_EPOCH`. The value is the
    /// epoch where neither `source_date_epoch`, a build argument nor the Dockerfile says one.
    pub reproducible: Option<i64>,
    /// Which permission bits the context's files have (`--context-modes`); `None` is `Git` when `reproducible`, else
    /// `Keep`.
    pub context_modes: Option<ContextModes>,
    /// Leaves the build cache alone: nothing is taken from it and nothing goes into it, and the caches that steps mount
    /// are empty ones, which go away with the build.
    pub isolated: bool,
    /// How many steps run at once; as many as there are processors when 0.
    pub parallelism: usize,
    /// Tells for each step that is not in the build cache why ([`BuildEvent::Missed`](crate::BuildEvent::Missed)).
    pub explain: bool,
    /// What is taken from caches elsewhere, and noted for them.
    pub transfer: CacheTransfer,
    /// Notes what is taken from elsewhere.
    pub materials: Option<Arc<Materials>>,
}

impl BuildRequest {
    /// Returns a request with everything at its default.
    pub fn new(context: Context, dockerfile: DockerfileSource, now: jiff::Timestamp) -> Self {
        Self {
            context,
            named_contexts: BTreeMap::new(),
            dockerfile,
            target: None,
            build_args: BTreeMap::new(),
            platforms: Vec::new(),
            build_platform: Platform::host(),
            labels: BTreeMap::new(),
            no_cache: false,
            no_cache_filter: Vec::new(),
            pull: PullPolicy::Missing,
            network: Network::Default,
            add_hosts: Vec::new(),
            shm_size: None,
            ulimits: Vec::new(),
            cgroup_parent: None,
            secrets: BTreeMap::new(),
            agents: BTreeMap::new(),
            allow: Allowed::default(),
            now,
            source_date_epoch: None,
            reproducible: None,
            context_modes: None,
            isolated: false,
            parallelism: 0,
            explain: false,
            transfer: CacheTransfer::default(),
            materials: None,
        }
    }

    /// Returns what the context ignores, as far as that can be read: for the lint, which refuses nothing.
    pub(crate) fn ignore(&self) -> Option<Ignore> {
        let text = match (&self.context, &self.dockerfile.ignore) {
            (Context::Fetched(_) | Context::None, _) => return None,
            (Context::Folder(_) | Context::Checkout { .. }, Some(text)) => text.clone(),
            (Context::Folder(folder) | Context::Checkout { folder, .. }, None) => {
                let tree = layer::Tree::of_folder(folder).ok()?;
                tree.read_small(".dockerignore", MAX_IGNORE).ok()??
            }
        };
        Ignore::parse(&text).ok()
    }
}

/// Which permission bits files of a context have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ContextModes {
    /// Those of the file system.
    #[default]
    Keep,
    /// Those that git would keep, so that neither the umask of a checkout nor a setuid bit matters: 0755 for folders and
    /// what its owner may execute, else 0644. Hardlinks are files of their own.
    Git,
}

/// When to ask the registry for an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// When the store does not have it.
    #[default]
    Missing,
    /// Always (`--pull`).
    Always,
    /// Never.
    Never,
}

/// A Dockerfile: its bytes, and what to call it in messages.
#[derive(Clone, Debug)]
pub struct DockerfileSource {
    /// What messages call it: the path as the user gave it.
    pub name: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The bytes of `<name>.dockerignore` beside it, which wins over the context's `.dockerignore`.
    pub ignore: Option<Vec<u8>>,
}

impl DockerfileSource {
    /// Reads a Dockerfile, and `<name>.dockerignore` beside it if there is one.
    ///
    /// Without `path` it is `Dockerfile` of the context's folder, or else `dockerfile`.
    ///
    /// # Errors
    ///
    /// When the file cannot be read: the path that was tried first, and why.
    pub fn read(context: &Path, path: Option<&Path>) -> Result<Self, ReadDockerfileError> {
        let path = match path {
            Some(path) => path.to_owned(),
            None => {
                let (upper, lower) = (context.join("Dockerfile"), context.join("dockerfile"));
                if !upper.exists() && lower.exists() { lower } else { upper }
            }
        };
        let error = |source| ReadDockerfileError { path: path.clone(), source };
        let Self { bytes, .. } = Self::read_from("", std::fs::File::open(&path).map_err(error)?).map_err(error)?;
        let mut beside = path.clone().into_os_string();
        beside.push(".dockerignore");
        let ignore = match std::fs::read(Path::new(&beside)) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(source) => return Err(ReadDockerfileError { path: beside.into(), source }),
        };
        Ok(Self { name: path.to_string_lossy().into_owned(), bytes, ignore })
    }

    /// Reads a Dockerfile to its end, and calls it `name`.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is far too large.
    pub fn read_from(name: &str, source: impl std::io::Read) -> std::io::Result<Self> {
        let mut bytes = Vec::new();
        source.take(MAX_DOCKERFILE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_DOCKERFILE {
            return Err(std::io::Error::other("larger than 64 MiB, which no Dockerfile is"));
        }
        Ok(Self { name: name.to_owned(), bytes, ignore: None })
    }

    /// Reads the Dockerfile of a folder that nothing leads out of: neither `path`, which is relative to the folder, nor a
    /// symbolic link.
    ///
    /// # Errors
    ///
    /// When there is none, or it cannot be read.
    pub fn read_inside(folder: &Path, path: Option<&Path>) -> Result<Self, ReadDockerfileError> {
        use std::os::unix::ffi::OsStrExt;
        let wanted = path.unwrap_or(Path::new("Dockerfile"));
        let error = |source| ReadDockerfileError { path: wanted.to_owned(), source };
        let tree = layer::Tree::of_folder(folder).map_err(|source| error(std::io::Error::other(source)))?;
        let read = |path: &Path| {
            let read = tree.read_small(path.as_os_str().as_bytes(), MAX_DOCKERFILE);
            read.map_err(|source| error(std::io::Error::other(source)))
        };
        let mut found = read(wanted)?;
        if found.is_none() && wanted.file_name().is_some_and(|name| name == "Dockerfile") {
            found = read(&wanted.with_file_name("dockerfile"))?;
        }
        let bytes = found.ok_or_else(|| error(std::io::ErrorKind::NotFound.into()))?;
        let mut beside = wanted.to_owned().into_os_string();
        beside.push(".dockerignore");
        let ignore = read(Path::new(&beside))?;
        Ok(Self { name: wanted.to_string_lossy().into_owned(), bytes, ignore })
    }
}

const MAX_DOCKERFILE: u64 = 64 << 20;

/// Why a Dockerfile could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read `{}`", path.display())]
pub struct ReadDockerfileError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub source: std::io::Error,
}

/// What a `--build-context` stands for.
#[derive(Clone, Debug)]
pub enum NamedContext {
    /// Files.
    Files(Context),
    /// An image, by reference (`docker-image://`).
    Image(oci::Reference),
    /// An image in an OCI layout (`oci-layout://`).
    Layout(OciLayout),
    /// A git repository, which is fetched when the build needs it.
    Git(GitSource),
    /// A URL: an archive whose files are meant, or else just a file.
    Http(String),
}

/// Where an image is in an OCI layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OciLayout {
    /// The folder.
    pub path: PathBuf,
    /// The name in its index; `latest`, or the only image, when neither this nor a digest is said.
    pub tag: Option<oci::Tag>,
    /// The manifest or index, whatever it is called.
    pub digest: Option<Digest>,
}

/// Where the value of a secret comes from; it is read when a step asks for it.
#[derive(Clone)]
pub enum SecretSource {
    /// A file.
    File(PathBuf),
    /// The value itself.
    Value(Vec<u8>),
}

impl std::fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Value(_) => f.write_str("Value(…)"),
        }
    }
}

/// What `RUN` may ask for beyond the sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// `RUN --network=host` (`--allow network.host`).
    pub network_host: bool,
    /// `RUN --security=insecure` (`--allow security.insecure`).
    pub security_insecure: bool,
}

/// What a build made.
#[derive(Clone, Debug)]
pub struct Built {
    /// One image for each platform, in the order asked for.
    pub images: Vec<BuiltImage>,
    /// `SOURCE_DATE_EPOCH`, wherever it came from.
    pub epoch: Option<i64>,
}

/// An image in the store.
#[derive(Clone, Debug)]
pub struct BuiltImage {
    /// Which platform it is for.
    pub platform: Platform,
    /// The manifest, which names plain tar layers. `store.images().publishable` gives the one to push.
    pub descriptor: Descriptor,
    /// The config that the manifest names.
    pub config: ImageConfig,
    /// The digest of the config's bytes: the image ID.
    pub config_digest: Digest,
}
