//! Git repositories through the git program, with everything closed off that a repository or its address could use to
//! run something here.
//!
//! - Nothing of the environment reaches git but what [`Environment`] lets through; it never prompts.
//! - Addresses that are not `http`, `https`, `git` or `ssh` are refused, in submodules too.
//! - No hooks, templates, filters or file system monitors run: a checkout reads no configuration but ours.
//! - Credentials are given in the environment, which other users cannot see: the arguments of programs they can.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use builder::remote::without_credentials;
use builder::{Cancel, GitCommit, GitSource, GitSourceError, RemoteError, SecretSource};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use rustix::process::{Pid, Signal};

use super::Environment;
use super::login::{self, Login};

/// The most that is kept of what git prints.
const MAX_OUTPUT: u64 = 16 << 20;

/// Where what is fetched is noted in the repository.
const FETCHED: &str = "refs/slipway/fetched";

/// The variables that hold the login of a URL.
const USER: &str = "SLIPWAY_GIT_USER";
const PASSWORD: &str = "SLIPWAY_GIT_PASSWORD";

/// A transfer that is slower than so many bytes a second for so many seconds is given up.
const SLOWEST: &str = "100";
const PATIENCE: &str = "60";

/// A credential helper that tells the login of the URL.
const ANSWER: &str = r#"!f() { test "$1" != get || printf 'username=%s\npassword=%s\n' "$SLIPWAY_GIT_USER" "$SLIPWAY_GIT_PASSWORD"; }; f"#;

/// Who fetches.
pub(super) struct Identity<'a> {
    /// The user, with all that their own git knows; or else nobody, with what is offered here.
    pub(super) own: bool,
    /// The agent of `--ssh default`.
    pub(super) agent: Option<&'a PathBuf>,
    /// Secrets, among which `GIT_AUTH_TOKEN` and `GIT_AUTH_HEADER` are looked for.
    pub(super) secrets: &'a BTreeMap<String, SecretSource>,
}

/// The git program, at work on one source.
pub(super) struct Git<'a> {
    pub(super) source: &'a GitSource,
    pub(super) environment: &'a Environment,
    pub(super) identity: Identity<'a>,
    pub(super) cancel: &'a Cancel,
}

/// Why git did not do it.
#[derive(Debug, thiserror::Error)]
enum GitError {
    #[error("the program `git` is not installed")]
    NoProgram,
    #[error("the program `git` cannot be run")]
    Run(#[source] io::Error),
    #[error("git {command} failed: {said}")]
    Failed { command: String, said: String },
    #[error("the repository does not contain ref {0}")]
    NoReference(String),
    #[error("what git says about the repository makes no sense")]
    Nonsense,
    #[error(transparent)]
    Source(#[from] GitSourceError),
    #[error("the repository does not contain commit {0}")]
    NoCommit(String),
    #[error("the secret `{id}` cannot be read")]
    Secret { id: String, source: io::Error },
    #[error("`{}` cannot be written", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cancelled")]
    Cancelled,
}

impl Git<'_> {
    /// Finds the commit that the source means now.
    pub(super) fn find(&self) -> Result<GitCommit, RemoteError> {
        self.find_commit().map_err(|error| self.explain(error))
    }

    /// Puts the files of a commit into an empty folder.
    pub(super) fn checkout(
        &self,
        commit: &GitCommit,
        mtime: Option<jiff::Timestamp>,
        folder: &Path,
    ) -> Result<i64, RemoteError> {
        self.check_out(commit, mtime, folder).map_err(|error| self.explain(error))
    }

    fn find_commit(&self) -> Result<GitCommit, GitError> {
        if let Some(id) = self.source.fixed_commit()? {
            let reference = self.source.reference.clone().filter(|reference| reference.starts_with("refs/"));
            return Ok(GitCommit { id: id.to_owned(), reference });
        }
        let wanted = self.source.reference.as_deref();
        let listed = match wanted {
            None => self.git(Path::new("/"), true, &["ls-remote", "--symref", "--", "slipway", "HEAD"])?,
            Some(wanted) => {
                let peeled = format!("{wanted}^{{}}");
                self.git(Path::new("/"), true, &["ls-remote", "--", "slipway", wanted, &peeled])?
            }
        };
        let (found, tag) = choose(&String::from_utf8_lossy(&listed), wanted)?;
        self.source.check(&found.id, tag.as_deref())?;
        Ok(found)
    }

    fn check_out(&self, commit: &GitCommit, mtime: Option<jiff::Timestamp>, folder: &Path) -> Result<i64, GitError> {
        let format = if commit.id.len() == 64 { "sha256" } else { "sha1" };
        self.git(folder, false, &["init", "-q", "--template=", &format!("--object-format={format}")])?;
        // What submodules with relative addresses are relative to.
        self.git(folder, false, &["config", "remote.origin.url", &login::split(&self.source.remote).0])?;
        self.fetch(commit, folder)?;
        self.git(folder, false, &["checkout", "-q", "--force", "--detach", &commit.id])?;
        if !self.source.skip_submodules && fs::symlink_metadata(folder.join(".gitmodules")).is_ok() {
            let update = ["submodule", "-q", "update", "--init", "--recursive"];
            let shallow: Vec<&str> = update.iter().copied().chain(["--depth=1"]).collect();
            match self.git(folder, true, &shallow) {
                // Not every server gives out a commit alone.
                Err(GitError::Failed { .. }) => self.git(folder, true, &update).map(drop)?,
                other => drop(other?),
            }
        }
        let said = self.git(folder, false, &["log", "-1", "--format=%ct", &commit.id])?;
        let committed = String::from_utf8_lossy(&said).trim().parse().map_err(|_| GitError::Nonsense)?;
        let keep = self.source.keep_git_dir.unwrap_or(false);
        if keep {
            self.git(folder, false, &["update-ref", "-d", FETCHED])?;
            for name in ["FETCH_HEAD", "ORIG_HEAD", "logs", "refs/slipway"] {
                let path = folder.join(".git").join(name);
                layer::remove_tree(&path).map_err(|source| GitError::Write { path, source })?;
            }
        }
        settle(folder, keep, mtime.map_or(committed, jiff::Timestamp::as_second))?;
        Ok(committed)
    }

    /// Fetches a commit: alone if the server gives it, else by the reference that led to it, else with all there is.
    fn fetch(&self, commit: &GitCommit, folder: &Path) -> Result<(), GitError> {
        let quiet = ["fetch", "-q", "--no-tags", "--no-write-fetch-head"];
        let fetch = |more: &[&str]| {
            let arguments: Vec<&str> = quiet.iter().chain(more).copied().collect();
            self.git(folder, true, &arguments)
        };
        let reference = commit.reference.as_deref();
        // With `.git`, the reference is kept under its name.
        let kept = reference.filter(|name| {
            self.source.keep_git_dir == Some(true) && ["refs/heads/", "refs/tags/"].iter().any(|p| name.starts_with(p))
        });
        if let Some(kept) = kept {
            let tried = fetch(&["--depth=1", "--", "slipway", &format!("+{kept}:{kept}")]);
            if tried.is_ok() && self.has(commit, folder) {
                return Ok(());
            }
        }
        let alone = fetch(&["--depth=1", "--", "slipway", &format!("+{}:{FETCHED}", commit.id)]);
        match alone {
            Ok(_) => return Ok(()),
            Err(GitError::Failed { .. }) => {}
            Err(error) => return Err(error),
        }
        if let Some(reference) = reference {
            let tried = fetch(&["--depth=1", "--", "slipway", &format!("+{reference}:{FETCHED}")]);
            if tried.is_ok() && self.has(commit, folder) {
                return Ok(());
            }
        }
        fetch(&["--", "slipway", "+refs/*:refs/slipway/all/*"])?;
        match self.has(commit, folder) {
            true => Ok(()),
            false => Err(GitError::NoCommit(commit.id.clone())),
        }
    }

    fn has(&self, commit: &GitCommit, folder: &Path) -> bool {
        self.git(folder, false, &["cat-file", "-e", &format!("{}^{{commit}}", commit.id)]).is_ok()
    }

    /// Runs git to its end; returns what it wrote to standard output.
    fn git(&self, folder: &Path, network: bool, arguments: &[&str]) -> Result<Vec<u8>, GitError> {
        if self.cancel.is_cancelled() {
            return Err(GitError::Cancelled);
        }
        #[expect(clippy::disallowed_methods, reason = "git is the one program that fetching needs")]
        let mut command = Command::new("git");
        command.args(arguments).current_dir(folder).env_clear();
        self.set_environment(&mut command, network)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own, so that those it starts can be stopped with it.
        command.process_group(0);
        let mut child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => GitError::NoProgram,
            _ => GitError::Run(error),
        })?;
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let guard = self.cancel.on_cancel(move || {
            if let Some(group) = group {
                // Whoever is gone already need not be stopped.
                let _ = rustix::process::kill_process_group(group, Signal::TERM);
            }
        });
        let (output, said) = read_both(&mut child);
        let status = child.wait();
        drop(guard);
        if self.cancel.is_cancelled() {
            return Err(GitError::Cancelled);
        }
        if status.map_err(GitError::Run)?.success() {
            return Ok(output);
        }
        let command = arguments.first().copied().unwrap_or_default().to_owned();
        Err(GitError::Failed { command, said: summary(&said) })
    }

    fn set_environment(&self, command: &mut Command, network: bool) -> Result<(), GitError> {
        let own = network && self.identity.own;
        command.envs(self.environment.variables(own).map(|(name, value)| (name, value)));
        let mut settings: Vec<(String, String)> = Vec::new();
        let mut set = |name: &str, value: &str| settings.push((name.to_owned(), value.to_owned()));
        set("core.hooksPath", "/dev/null");
        set("core.fsmonitor", "false");
        set("core.symlinks", "true");
        set("init.templateDir", "");
        set("submodule.recurse", "false");
        set("fetch.recurseSubmodules", "false");
        set("gc.auto", "0");
        set("maintenance.auto", "false");
        set("advice.detachedHead", "false");
        if network {
            let (url, login) = login::split(&self.source.remote);
            set("remote.slipway.url", &url);
            // A server that says nothing any more must not hold a build for ever.
            set("http.lowSpeedLimit", SLOWEST);
            set("http.lowSpeedTime", PATIENCE);
            if let Some(Login { scope, user, password }) = login {
                set(&format!("credential.{scope}.username"), &user);
                if let Some(password) = password {
                    // Nobody else is asked, or told to remember it.
                    set(&format!("credential.{scope}.helper"), "");
                    set(&format!("credential.{scope}.helper"), ANSWER);
                    command.env(USER, user).env(PASSWORD, password);
                }
            }
            if let Some((scope, header)) = self.authorization()? {
                set(&format!("http.{scope}.extraHeader"), &header);
            }
        }
        command.env("GIT_CONFIG_COUNT", settings.len().to_string());
        for (number, (name, value)) in settings.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{number}"), name);
            command.env(format!("GIT_CONFIG_VALUE_{number}"), value);
        }
        command
            .env("LC_ALL", "C")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "/bin/false")
            .env("SSH_ASKPASS_REQUIRE", "never")
            .env("GIT_ALLOW_PROTOCOL", "http:https:git:ssh")
            // Whatever is stored elsewhere is not this build's.
            .env("GIT_LFS_SKIP_SMUDGE", "1");
        if own {
            if !self.environment.has("GIT_SSH_COMMAND") && !self.environment.has("GIT_SSH") {
                command.env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes");
            }
            if let Some(agent) = self.identity.agent {
                command.env("SSH_AUTH_SOCK", agent);
            }
            return Ok(());
        }
        command
            .env("HOME", "/nonexistent")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            // Neither the user's configuration nor the keys in their folder: whoever wrote the Dockerfile has no right to them.
            .env("GIT_SSH_COMMAND", "ssh -F /dev/null -o BatchMode=yes -o IdentityFile=none -o ForwardAgent=no");
        if let Some(agent) = self.identity.agent {
            command.env("SSH_AUTH_SOCK", agent);
        }
        Ok(())
    }

    /// Returns the header that the build's secrets give to the server, and the addresses that it is for.
    fn authorization(&self) -> Result<Option<(String, String)>, GitError> {
        let Some((scheme, rest)) = self.source.remote.split_once("://") else { return Ok(None) };
        let scheme = scheme.to_ascii_lowercase();
        let authority = rest.split('/').next().unwrap_or_default();
        let host = authority.rsplit('@').next().unwrap_or_default();
        if !matches!(scheme.as_str(), "http" | "https") {
            return Ok(None);
        }
        let name = host.split(':').next().unwrap_or_default();
        let kinds = ["GIT_AUTH_HEADER", "GIT_AUTH_TOKEN"].into_iter();
        // What is for this host alone is meant rather than what is for all.
        let ids =
            kinds.clone().map(|kind| (kind, format!("{kind}.{name}"))).chain(kinds.map(|kind| (kind, kind.into())));
        for (kind, id) in ids {
            let Some(secret) = self.identity.secrets.get(&id) else { continue };
            let value = match secret {
                SecretSource::Value(value) => value.clone(),
                SecretSource::File(path) => {
                    fs::read(path).map_err(|source| GitError::Secret { id: id.clone(), source })?
                }
            };
            let value = String::from_utf8_lossy(&value).trim().to_owned();
            if value.chars().any(char::is_control) {
                let source = io::Error::new(io::ErrorKind::InvalidData, "it has more than one line");
                return Err(GitError::Secret { id, source });
            }
            let header = match kind {
                "GIT_AUTH_HEADER" => format!("Authorization: {value}"),
                _ => format!("Authorization: basic {}", BASE64_STANDARD.encode(format!("x-access-token:{value}"))),
            };
            return Ok(Some((format!("{scheme}://{host}/"), header)));
        }
        Ok(None)
    }

    fn explain(&self, error: GitError) -> RemoteError {
        let is_ssh = self.source.remote.starts_with("ssh://") || !self.source.remote.contains("://");
        let said = |what: &[&str]| match &error {
            GitError::Failed { said, .. } => what.iter().any(|what| said.contains(what)),
            _ => false,
        };
        let hint = if matches!(error, GitError::NoProgram) {
            Some("install git; on Debian: `apt-get install git`")
        } else if said(&["cannot run ssh", "ssh: not found"]) {
            Some("install the program ssh; on Debian: `apt-get install openssh-client`")
        } else if said(&["Host key verification failed"]) {
            Some(
                "this machine does not know the server's key: add it with `ssh-keyscan HOST >> ~/.ssh/known_hosts`, and check it",
            )
        } else if said(&["Permission denied"]) && is_ssh && self.identity.agent.is_none() {
            Some("offer an SSH agent to the build with `--ssh default`")
        } else if said(&["could not read Username", "could not read Password", "Authentication failed", " 401", " 403"])
        {
            Some("offer a token to the build with `--secret id=GIT_AUTH_TOKEN,env=NAME`")
        } else {
            None
        };
        RemoteError {
            message: format!("cannot fetch the repository `{}`", self.source.shown()),
            hint: hint.map(str::to_owned),
            transient: false,
            source: Some(Box::new(error)),
        }
    }
}

/// Chooses from a listing of references what the user means: of a branch and a tag of one name the branch, as git does.
/// Returns the annotated tag that led to the commit as well, if there is one.
fn choose(listing: &str, wanted: Option<&str>) -> Result<(GitCommit, Option<String>), GitError> {
    let find = |name: &str| {
        listing.lines().find_map(|line| line.split_once('\t').filter(|(_, found)| *found == name)).map(|(id, _)| id)
    };
    let commit = |id: &str, reference: Option<&str>| match GitSource::is_commit(id) {
        true => Ok(GitCommit { id: id.to_owned(), reference: reference.map(str::to_owned) }),
        false => Err(GitError::Nonsense),
    };
    let Some(wanted) = wanted else {
        // `ref: refs/heads/main\tHEAD` stands before the commit of the same name.
        let mut heads = listing.lines().filter_map(|line| line.split_once('\t')).filter(|(_, name)| *name == "HEAD");
        let branch = heads.clone().find_map(|(id, _)| id.strip_prefix("ref: "));
        let id = heads.find(|(id, _)| !id.starts_with("ref: ")).map(|(id, _)| id);
        return Ok((commit(id.ok_or_else(|| GitError::NoReference("HEAD".into()))?, branch)?, None));
    };
    let bare = |prefix: &str| format!("{prefix}{}", wanted.strip_prefix(prefix).unwrap_or(wanted));
    let names = [bare("refs/"), bare("refs/heads/")];
    if let Some((name, id)) = names.iter().find_map(|name| Some((name, find(name)?))) {
        let peeled = find(&format!("{name}^{{}}"));
        let tag = peeled.map(|_| id.to_owned());
        return Ok((commit(peeled.unwrap_or(id), Some(name))?, tag));
    }
    let name = bare("refs/tags/");
    let id = find(&name).ok_or_else(|| GitError::NoReference(wanted.to_owned()))?;
    let peeled = find(&format!("{name}^{{}}"));
    let tag = peeled.map(|_| id.to_owned());
    Ok((commit(peeled.unwrap_or(id), Some(&name))?, tag))
}

/// Reads what a process prints, on both ways at once so that it never waits for us.
fn read_both(child: &mut Child) -> (Vec<u8>, Vec<u8>) {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        let said = scope.spawn(move || read(stderr));
        let output = read(stdout);
        (output, said.join().unwrap_or_default())
    })
}

fn read(source: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut source) = source {
        // What cannot be read was not said; how the process ended tells the rest.
        let _ = (&mut source).take(MAX_OUTPUT).read_to_end(&mut bytes);
        let _ = io::copy(&mut source, &mut io::sink());
    }
    bytes
}

/// Makes one line of what git said last, without what is not for people's eyes.
fn summary(said: &[u8]) -> String {
    const LONGEST: usize = 600;
    let said = without_credentials(&String::from_utf8_lossy(said));
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(4)..];
    let line: String = last.join("; ").chars().filter(|c| !c.is_control()).take(LONGEST).collect();
    if line.is_empty() { "it did not say why".into() } else { line }
}

/// Gives all files of a checkout the modes that git means, whatever the umask is, and one time. Without `keep`, all
/// `.git` go.
fn settle(folder: &Path, keep: bool, time: i64) -> Result<(), GitError> {
    let mut folders = vec![folder.to_owned()];
    let mut next = 0;
    while let Some(folder) = folders.get(next).cloned() {
        next += 1;
        let failed = |source| GitError::Write { path: folder.clone(), source };
        fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).map_err(failed)?;
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let path = entry.path();
            let failed = |source| GitError::Write { path: path.clone(), source };
            if entry.file_name() == OsStr::new(".git") && !keep {
                layer::remove_tree(&path).map_err(failed)?;
                continue;
            }
            let metadata = entry.metadata().map_err(failed)?;
            if metadata.is_dir() {
                folders.push(path);
                continue;
            }
            if !metadata.is_symlink() {
                fs::set_permissions(&path, PermissionsExt::from_mode(mode(&metadata))).map_err(failed)?;
            }
            set_time(&path, time).map_err(failed)?;
        }
    }
    // Last, because what happens in a folder changes its time.
    folders.into_iter().try_for_each(|path| set_time(&path, time).map_err(|source| GitError::Write { path, source }))
}

fn mode(metadata: &Metadata) -> u32 {
    let may = |bit| metadata.mode() & bit != 0;
    match (may(0o100), may(0o200)) {
        (true, true) => 0o755,
        (true, false) => 0o555,
        (false, true) => 0o644,
        (false, false) => 0o444,
    }
}

fn set_time(path: &Path, seconds: i64) -> io::Result<()> {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    #[test]
    fn c25_a_name_means_a_branch_rather_than_a_tag() {
        let choose = |lines: &[(&str, &str)], wanted| {
            let listing: String = lines.iter().map(|(id, name)| format!("{id}\t{name}\n")).collect();
            let (commit, tag) = choose(&listing, wanted).map_err(|error| error.to_string())?;
            Ok::<_, String>((commit.id, commit.reference.unwrap_or_default(), tag))
        };
        let found = |id: &str, name: &str, tag: Option<&str>| Ok((id.into(), name.into(), tag.map(str::to_owned)));
        let both = [(A, "refs/heads/x"), (B, "refs/tags/x"), (A, "refs/heads/other/x")];
        assert_eq!(choose(&both, Some("x")), found(A, "refs/heads/x", None));
        assert_eq!(choose(&both, Some("refs/tags/x")), found(B, "refs/tags/x", None));
        let annotated = [(B, "refs/tags/v1"), (A, "refs/tags/v1^{}")];
        assert_eq!(choose(&annotated, Some("v1")), found(A, "refs/tags/v1", Some(B)));
        assert_eq!(choose(&annotated, Some("refs/tags/v1")), found(A, "refs/tags/v1", Some(B)));
        assert_eq!(choose(&[(A, "refs/pull/1/head")], Some("pull/1/head")), found(A, "refs/pull/1/head", None));
        let head = [("ref: refs/heads/main", "HEAD"), (A, "HEAD")];
        assert_eq!(choose(&head, None), found(A, "refs/heads/main", None));
        assert!(choose(&[(A, "refs/heads/other/x")], Some("x")).unwrap_err().contains("does not contain ref x"));
        assert!(choose(&[("junk", "refs/heads/x")], Some("x")).is_err());
    }

    #[test]
    fn credentials_stay_out_of_what_is_said() {
        let said = summary(b"warning: x\n\nfatal: unable to access 'https://u:p@host/a/': \x1b[31mno\n");
        assert_eq!(said, "warning: x; fatal: unable to access 'https://***@host/a/': [31mno");
        assert_eq!(summary(b"\n"), "it did not say why");
    }

    #[test]
    fn g12_a_token_becomes_the_header_that_servers_want() {
        let source = GitSource::parse("https://host:8443/a.git").unwrap().unwrap();
        let secrets = [("GIT_AUTH_TOKEN", "t"), ("GIT_AUTH_HEADER.host", "bearer h")];
        let secrets: BTreeMap<_, _> =
            secrets.map(|(id, value)| (id.to_owned(), SecretSource::Value(value.into()))).into();
        let (environment, cancel) = (Environment::default(), Cancel::new());
        let identity = Identity { own: false, agent: None, secrets: &secrets };
        let git = Git { source: &source, environment: &environment, identity, cancel: &cancel };
        let expected = ("https://host:8443/".to_owned(), "Authorization: bearer h".to_owned());
        assert_eq!(git.authorization().unwrap(), Some(expected));
    }
}
