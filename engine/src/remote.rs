//! How builds fetch URLs and git repositories: `builder::Remote` filled in with the registry client's HTTP and the git
//! program.
//!
//! **Invariant:** what a Dockerfile names is fetched with what the user offered to the build (`--ssh`, `--secret
//! id=GIT_AUTH_TOKEN`) and nothing else; only what the user names on the command line is fetched as the user's own git
//! would, with its configuration and credential helpers.

pub(crate) mod git;
pub(crate) mod http;
mod login;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

use builder::{Cancel, GitCommit, GitSource, HttpAnswer, HttpRequest, Remote, RemoteError, SecretSource};

use crate::Engine;
use git::{Git, Identity};

/// The names of variables that programs which fetch may see.
const PASSED: &[&str] = &[
    "PATH",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// The names of further ones that the user's own git needs.
const PASSED_TO_OWN: &[&str] = &[
    "HOME",
    "USER",
    "LOGNAME",
    "XDG_CONFIG_HOME",
    "XDG_CACHE_HOME",
    "XDG_RUNTIME_DIR",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_SYSTEM",
    "GIT_CONFIG_NOSYSTEM",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_SSL_CAINFO",
    "SSH_AUTH_SOCK",
    "DBUS_SESSION_BUS_ADDRESS",
];

/// The environment of the user, or as much of it as those who fetch may see.
#[derive(Clone, Debug, Default)]
pub struct Environment(Vec<(OsString, OsString)>);

impl Environment {
    /// Keeps what may matter of the variables of a process.
    pub fn of(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let known = |name: &OsString| PASSED.iter().chain(PASSED_TO_OWN).any(|known| name == known);
        Self(variables.into_iter().filter(|(name, _)| known(name)).collect())
    }

    /// Returns the variables for the user's own git, or for one that fetches on behalf of a Dockerfile.
    pub(crate) fn variables(&self, own: bool) -> impl Iterator<Item = &(OsString, OsString)> {
        self.0.iter().filter(move |(name, _)| own || PASSED.iter().any(|known| name == known))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&OsString> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }
}

/// Fetches for a build.
pub(crate) struct Fetcher<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) environment: &'a Environment,
    /// The secrets of the build, among which those for git servers are.
    pub(crate) secrets: &'a BTreeMap<String, SecretSource>,
    /// The agents that the build was given.
    pub(crate) agents: &'a BTreeMap<String, PathBuf>,
}

impl Fetcher<'_> {
    fn git<'a>(&'a self, source: &'a GitSource, cancel: &'a Cancel) -> Git<'a> {
        let identity = Identity { own: source.own, agent: self.agents.get("default"), secrets: self.secrets };
        Git { source, environment: self.environment, identity, cancel }
    }
}

impl Remote for Fetcher<'_> {
    fn http(
        &self,
        request: &HttpRequest<'_>,
        body: &mut dyn Write,
        cancel: &Cancel,
    ) -> Result<HttpAnswer, RemoteError> {
        self.runtime.block_on(http::fetch(self.engine.client(), request, body, cancel))
    }

    fn git_commit(&self, source: &GitSource, cancel: &Cancel) -> Result<GitCommit, RemoteError> {
        self.git(source, cancel).find()
    }

    fn git_checkout(
        &self,
        source: &GitSource,
        commit: &GitCommit,
        mtime: Option<jiff::Timestamp>,
        folder: &Path,
        cancel: &Cancel,
    ) -> Result<i64, RemoteError> {
        self.git(source, cancel).checkout(commit, mtime, folder)
    }
}
