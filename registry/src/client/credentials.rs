//! [`CredentialStore`]: who to be on which registry, from docker's `config.json` and its credential helpers.
//!
//! ```text
//! {
//!   "auths":       { "host:5000": { "auth": base64("user:password") | "identitytoken": "…" } },
//!   "credsStore":  "NAME",               every registry's credentials are with docker-credential-NAME
//!   "credHelpers": { "host": "NAME" }    this registry's are
//! }
//! ```
//!
//! docker.io is filed under `https://index.docker.io/v1/`, for historical reasons.

mod config;
mod helper;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oci::RepositoryName;
use serde_json::json;

use config::{Config, FolderLock};
use helper::Helper;

/// Where docker files the credentials for docker.io.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
/// The user name with which a helper says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";
/// How much a credential file or a helper's answer may hold.
const MAX_LEN: u64 = 4 << 20;

/// A proof of who somebody is.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A user name and a password or access token.
    Password {
        /// Who.
        username: String,
        /// The secret.
        password: String,
    },
    /// A refresh token, which a token server trades for access tokens.
    Identity {
        /// The token.
        token: String,
    },
    /// An access token that is sent as it is.
    Bearer {
        /// The token.
        token: String,
    },
}

impl fmt::Debug for Credential {
    /// Shows no secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { username, .. } => write!(f, "Password({username})"),
            Self::Identity { .. } => f.write_str("Identity"),
            Self::Bearer { .. } => f.write_str("Bearer"),
        }
    }
}

/// Why credentials could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum CredentialError {
    #[error("cannot read `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("`{}` is not a valid docker config file", path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("`{}` is not a valid docker config file: {what}", path.display())]
    Malformed { path: PathBuf, what: String },
    #[error("cannot write `{}`", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("no file to keep credentials in was given")]
    NoFile,
    #[error("`{}` names the credential helper `{name}`, which is not a program's name", path.display())]
    HelperName { path: PathBuf, name: String },
    #[error("cannot run credential helper `{program}`")]
    HelperStart { program: String, source: io::Error },
    #[error("credential helper `{program}` did not answer in {} s", helper::PATIENCE.as_secs())]
    HelperSlow { program: String },
    #[error("credential helper `{program}` says: {said}")]
    Helper { program: String, said: String },
    #[error("credential helper `{program}` did not answer as its protocol asks")]
    HelperAnswer { program: String, source: serde_json::Error },
}

/// The credential files to look in, and the one to change.
#[derive(Clone, Debug, Default)]
pub struct CredentialStore {
    config: Option<PathBuf>,
    others: Vec<PathBuf>,
    helper_folders: Option<OsString>,
}

/// Which credential belongs to which registry, as one key per way that the world files it.
struct Keys {
    /// What we write: `https://index.docker.io/v1/` or the host.
    main: String,
    /// The hosts that mean the same registry.
    hosts: Vec<String>,
}

impl Keys {
    fn of(registry: &str) -> Self {
        match registry {
            "docker.io" | "index.docker.io" | "registry-1.docker.io" => Self {
                main: DOCKER_HUB.into(),
                hosts: ["index.docker.io", "docker.io", "registry-1.docker.io"].map(String::from).into(),
            },
            host => Self { main: host.into(), hosts: vec![host.into()] },
        }
    }

    /// Tells whether a key of `auths` or `credHelpers` means this registry, with or without a scheme and docker's `/v1/`.
    fn matches(&self, key: &str) -> bool {
        let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
        let (host, path) = key.split_once('/').unwrap_or((key, ""));
        // Any other path is for a part of the registry only.
        self.hosts.iter().any(|known| known == host) && matches!(path.trim_end_matches('/'), "" | "v1" | "v2")
    }
}

impl CredentialStore {
    /// Knows no credentials.
    pub fn none() -> Self {
        Self::default()
    }

    /// Reads and changes one file in the form of docker's `config.json`. It need not exist.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self { config: Some(path.into()), ..Self::default() }
    }

    /// Also reads another file of the same form (podman's `auth.json`), after the first.
    #[must_use]
    pub fn and_reads(mut self, path: impl Into<PathBuf>) -> Self {
        self.others.push(path.into());
        self
    }

    /// Looks for helpers in these folders (in the form of `PATH`) instead of this process's `PATH`.
    #[must_use]
    pub fn with_helper_folders(mut self, path: impl Into<OsString>) -> Self {
        self.helper_folders = Some(path.into());
        self
    }

    /// Finds the credential for a registry (`host[:port]`, `docker.io`); blocks while a helper runs.
    ///
    /// With a repository, keys as podman writes them for a part of a registry (`host/namespace`) are tried first,
    /// the longest before the shorter.
    pub fn get(
        &self,
        registry: &str,
        repository: Option<&RepositoryName>,
    ) -> Result<Option<Credential>, CredentialError> {
        let keys = Keys::of(registry);
        for path in self.config.iter().chain(&self.others) {
            let Some(config) = Config::read(path)? else { continue };
            if let Some(found) = self.get_in(&config, &keys, repository)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn get_in(
        &self,
        config: &Config,
        keys: &Keys,
        repository: Option<&RepositoryName>,
    ) -> Result<Option<Credential>, CredentialError> {
        let helper = config.helper(keys)?;
        if let Some(program) = helper
            && let Some(found) = self.helper(program).get(&keys.main)?
        {
            return Ok(Some(found));
        }
        let Some(auths) = config.auths() else { return Ok(None) };
        let mut prefix = repository.map(RepositoryName::as_str);
        while let Some(name) = prefix {
            for host in &keys.hosts {
                if let Some(entry) = auths.get(&format!("{host}/{name}"))
                    && let Some(found) = config.entry(entry)?
                {
                    return Ok(Some(found));
                }
            }
            prefix = name.rsplit_once('/').map(|(parent, _)| parent);
        }
        let exact = auths.get(&keys.main);
        let same = auths.iter().filter(|(key, _)| keys.matches(key)).map(|(_, entry)| entry);
        for entry in exact.into_iter().chain(same) {
            if let Some(found) = config.entry(entry)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Files a credential for a registry, with its helper if the config names one; blocks while a helper runs.
    pub fn store(&self, registry: &str, credential: &Credential) -> Result<StoredIn, CredentialError> {
        let path = self.config.as_deref().ok_or(CredentialError::NoFile)?;
        let keys = Keys::of(registry);
        let lock = FolderLock::take(path)?;
        let mut config = Config::read(path)?.unwrap_or_else(|| Config::empty(path));
        let helper = config.helper(&keys)?;
        let entry = match &helper {
            Some(program) => {
                let (username, secret) = match credential {
                    Credential::Password { username, password } => (username.as_str(), password.as_str()),
                    Credential::Identity { token } | Credential::Bearer { token } => (TOKEN_USER, token.as_str()),
                };
                self.helper(program.clone()).store(&keys.main, username, secret)?;
                json!({})
            }
            None => match credential {
                Credential::Password { username, password } => {
                    json!({ "auth": STANDARD.encode(format!("{username}:{password}")) })
                }
                Credential::Identity { token } => {
                    json!({ "auth": STANDARD.encode(format!("{TOKEN_USER}:")), "identitytoken": token })
                }
                Credential::Bearer { token } => json!({ "registrytoken": token }),
            },
        };
        // With a helper, an entry only says that there is a login; an older one with a password must not stay.
        if config.auths().and_then(|auths| auths.get(&keys.main)) != Some(&entry) {
            config.auths_mut()?.insert(keys.main, entry);
            config.write(path)?;
        }
        drop(lock);
        Ok(match helper {
            Some(program) => StoredIn::Helper(program),
            None => StoredIn::File(path.to_owned()),
        })
    }

    /// Forgets a registry's credential, and tells whether there was one; blocks while a helper runs.
    pub fn erase(&self, registry: &str) -> Result<bool, CredentialError> {
        let path = self.config.as_deref().ok_or(CredentialError::NoFile)?;
        let keys = Keys::of(registry);
        if Config::read(path)?.is_none() {
            return Ok(false);
        }
        let _lock = FolderLock::take(path)?;
        let Some(mut config) = Config::read(path)? else { return Ok(false) };
        let mut had = false;
        if let Some(program) = config.helper(&keys)? {
            let helper = self.helper(program);
            had = helper.get(&keys.main)?.is_some();
            if had {
                helper.erase(&keys.main)?;
            }
        }
        if config.auths().is_some_and(|auths| auths.keys().any(|key| keys.matches(key))) {
            let auths = config.auths_mut()?;
            auths.retain(|key, _| !keys.matches(key));
            config.write(path)?;
            had = true;
        }
        Ok(had)
    }

    fn helper(&self, program: String) -> Helper<'_> {
        Helper { program, folders: self.helper_folders.as_deref() }
    }
}

/// Where a credential was filed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredIn {
    /// In this file, in plain text.
    File(PathBuf),
    /// With this helper program.
    Helper(String),
}
