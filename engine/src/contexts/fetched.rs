//! Contexts that are fetched: a git repository, or a tar or Dockerfile behind a URL.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use builder::{Context, DockerfileSource, GitSource, HttpAnswer, HttpRequest, Remote, SecretSource};
use rustix::fs::{Mode, OFlags};
use store::Snapshot;

use super::{HEADER, OpenContext, OpenContextError, dockerfile_from, is_stdin, is_tar, unpack};
use crate::remote::{Environment, Fetcher};
use crate::ssh::{Agents, SshSource};
use crate::{Cancel, Engine};

/// The largest context that is fetched.
const MAX_CONTEXT: u64 = 64 << 30;

/// What fetching a context may use.
#[derive(Clone, Debug)]
pub struct Access {
    /// What programs that fetch may see of the environment.
    pub environment: Environment,
    /// The secrets of the build.
    pub secrets: BTreeMap<String, SecretSource>,
    /// The SSH agents and keys of the build.
    pub ssh: Vec<SshSource>,
    /// Whether `.git` stays in the files (`BUILDKIT_CONTEXT_KEEP_GIT_DIR`).
    pub keep_git_dir: bool,
    /// The time that files of a checkout get.
    pub now: jiff::Timestamp,
}

/// Opens a context that is fetched; blocks until it is here.
pub(super) struct Opener<'a> {
    pub(super) engine: &'a Engine,
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) access: &'a Access,
    pub(super) cancel: &'a Cancel,
    /// The Dockerfile that was asked for.
    pub(super) file: Option<&'a Path>,
}

impl Opener<'_> {
    fn fetch<T>(&self, fetch: impl FnOnce(&dyn Remote) -> Result<T, OpenContextError>) -> Result<T, OpenContextError> {
        let Access { environment, secrets, ssh, keep_git_dir: _, now: _ } = self.access;
        let agents = Agents::open(ssh, environment)?;
        let (engine, runtime) = (self.engine, self.runtime.clone());
        fetch(&Fetcher { engine, runtime, environment, secrets, agents: &agents.sockets })
    }

    /// Checks a repository out. The Dockerfile and `.dockerignore` are those of the folder that is wanted.
    pub(super) fn git(&self, text: &str, stdin: impl Read) -> Result<OpenContext, OpenContextError> {
        let source = git_source(text)?;
        let keep = source.keep_git_dir.unwrap_or(self.access.keep_git_dir);
        let source = GitSource { keep_git_dir: Some(keep), ..source };
        let unpacked = self.engine.store().snapshots().begin(&Snapshot::empty())?;
        let folder = unpacked.upper();
        let committed = self.fetch(|remote| {
            let commit = remote.git_commit(&source, self.cancel)?;
            let mtime = (!source.commit_times).then_some(self.access.now);
            Ok(remote.git_checkout(&source, &commit, mtime, &folder, self.cancel)?)
        })?;
        let folder = inside(&folder, &source.subdir)
            .ok_or_else(|| OpenContextError::NoSubdir { text: shown(text), subdir: source.subdir.clone() })?;
        let dockerfile = match self.file {
            Some(file) if is_stdin(file) => dockerfile_from(stdin)?,
            file => DockerfileSource::read_inside(&folder, file)?,
        };
        let context = Context::Checkout { folder, committed };
        Ok(OpenContext { context, dockerfile, _unpacked: Some(unpacked) })
    }

    /// Fetches a URL: a tar is a context, anything else is a Dockerfile.
    pub(super) fn http(&self, url: &str, stdin: impl Read) -> Result<OpenContext, OpenContextError> {
        let mut spool = self.download(url)?;
        let failed = |source| OpenContextError::Fetched { url: shown(url), source };
        let mut start = Vec::new();
        spool.by_ref().take(HEADER).read_to_end(&mut start).map_err(failed)?;
        spool.rewind().map_err(failed)?;
        if is_tar(&start) {
            let (unpacked, folder) =
                unpack(self.engine.store(), crate::interruptible::Interruptible::new(spool, self.cancel))?;
            let dockerfile = match self.file {
                Some(file) if is_stdin(file) => dockerfile_from(stdin)?,
                file => DockerfileSource::read_inside(&folder, file)?,
            };
            return Ok(OpenContext { context: Context::Fetched(folder), dockerfile, _unpacked: Some(unpacked) });
        }
        if let Some(path) = self.file {
            return Err(OpenContextError::UrlIsDockerfile { url: shown(url), path: path.to_owned() });
        }
        let dockerfile = DockerfileSource::read_from(&shown(url), spool).map_err(failed)?;
        Ok(OpenContext { context: Context::None, dockerfile, _unpacked: None })
    }

    /// Fetches a URL into a file without a name, trying again what may work the next time.
    fn download(&self, url: &str) -> Result<File, OpenContextError> {
        const TRIES: usize = 3;
        let failed = |source: io::Error| OpenContextError::Fetched { url: shown(url), source };
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let spool = rustix::fs::open(self.engine.store().home(), flags, Mode::RUSR | Mode::WUSR);
        let mut spool = File::from(spool.map_err(|error| failed(error.into()))?);
        let request = HttpRequest { url, etag: None, last_modified: None, verified: false, limit: MAX_CONTEXT };
        let mut tries = 0;
        loop {
            tries += 1;
            spool.set_len(0).and_then(|()| spool.rewind()).map_err(failed)?;
            let answer = self.fetch(|remote| Ok(remote.http(&request, &mut &spool, self.cancel)));
            match answer? {
                Ok(HttpAnswer::Content(_) | HttpAnswer::NotModified) => break,
                Err(error) if error.transient && tries < TRIES => {}
                Err(error) => return Err(error.into()),
            }
        }
        spool.rewind().map_err(failed)?;
        Ok(spool)
    }
}

/// Reads the address of a repository that the user named, to be fetched as their own git would.
///
/// # Errors
///
/// When it says something that cannot be.
pub fn git_source(text: &str) -> Result<GitSource, OpenContextError> {
    let address = text.strip_prefix("github.com/").map(|_| format!("https://{text}"));
    let parsed = GitSource::parse_context(address.as_deref().unwrap_or(text));
    let invalid = |source| OpenContextError::Git { text: shown(text), source };
    let source = parsed.map_err(invalid)?;
    source.fixed_commit().map_err(invalid)?;
    Ok(GitSource { own: true, ..source })
}

fn shown(text: &str) -> String {
    builder::remote::without_credentials(text)
}

/// Finds a folder of a checkout, whose links do not lead out of it.
fn inside(folder: &Path, subdir: &str) -> Option<PathBuf> {
    let tree = layer::Tree::of_folder(folder).ok()?;
    let found = tree.lookup(subdir, layer::Follow::Last).ok()??;
    let path = std::str::from_utf8(&found.path).ok()?;
    (found.kind == layer::NodeKind::Directory).then(|| folder.join(path))
}
