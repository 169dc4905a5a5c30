//! [`GitSource`]: what the address of a git repository says, as `ADD` and contexts write it.
//!
//! ```text
//! https://host/repo.git#REF:SUBDIR       git://host/repo   ssh://git@host/repo   git@host:repo
//! https://host/repo.git?branch=main&subdir=docs&commit=1a2b3c
//! ```

/// A git repository, and what of it is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitSource {
    /// The repository, without fragment and query.
    pub remote: String,
    /// A branch, tag, commit or any other reference; the default branch when `None`.
    pub reference: Option<String>,
    /// The folder that is wanted, cleaned; empty for all.
    pub subdir: String,
    /// How the name of the commit must begin.
    pub checksum: Option<String>,
    /// Whether `.git` is wanted; `None` when the address does not say.
    pub keep_git_dir: Option<bool>,
    /// Whether submodules are left out.
    pub skip_submodules: bool,
    /// Whether files are as old as the commit instead of as the checkout.
    pub commit_times: bool,
    /// Whether `checksum` is taken for the commit without asking what the reference is now.
    pub fetch_by_commit: bool,
    /// Whether the user themself named it, and not a Dockerfile: then it is fetched as their own git would.
    pub own: bool,
}

/// Why the address of a repository cannot be used; in BuildKit's words where it has some.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct GitSourceError {
    /// What is wrong.
    pub message: String,
}

impl From<String> for GitSourceError {
    fn from(message: String) -> Self {
        Self { message }
    }
}

impl GitSource {
    /// Reads the address of a git repository; `None` when the text is none: a path, or a URL of something else.
    ///
    /// # Errors
    ///
    /// When it is one, but says something that cannot be.
    pub fn parse(text: &str) -> Option<Result<Self, GitSourceError>> {
        let (rest, fragment) = split(text, '#');
        let (remote, query) = split(rest, '?');
        match remote.split_once("://") {
            Some((scheme, place)) => match scheme.to_ascii_lowercase().as_str() {
                // Any other URL is just a file.
                "http" | "https" => {
                    let path = place.split_once('/').map_or("", |(_, path)| path);
                    if !path.ends_with(".git") {
                        return None;
                    }
                }
                "git" | "ssh" => {}
                _ => return None,
            },
            None if is_scp(remote) => {}
            None => return None,
        }
        Some(Self::of_parts(remote, query, fragment))
    }

    /// Reads the address of a repository that is known to be one, whether or not it ends in `.git`.
    ///
    /// # Errors
    ///
    /// When it says something that cannot be.
    pub fn parse_context(text: &str) -> Result<Self, GitSourceError> {
        let (rest, fragment) = split(text, '#');
        let (remote, query) = split(rest, '?');
        Self::of_parts(remote, query, fragment)
    }

    fn of_parts(remote: &str, query: Option<&str>, fragment: Option<&str>) -> Result<Self, GitSourceError> {
        let host = match remote.split_once("://") {
            Some((_, place)) => {
                let authority = place.split('/').next().unwrap_or_default();
                authority.rsplit('@').next().unwrap_or_default()
            }
            None => remote.split_once('@').map_or("", |(_, place)| place),
        };
        // The git program would take such a host for an option.
        if host.is_empty() || host.starts_with(['-', ':']) || remote.starts_with('-') {
            return Err(format!("`{}` names no host", crate::remote::without_credentials(remote)).into());
        }
        if remote.chars().any(char::is_control) {
            return Err("the address of a git repository holds control characters".to_owned().into());
        }
        let mut source = Self { remote: remote.to_owned(), ..Self::default() };
        if let Some(fragment) = fragment {
            let fragment = percent_decode(fragment)?;
            let (reference, subdir) = fragment.split_once(':').unwrap_or((&fragment, ""));
            source.reference = Some(reference.to_owned()).filter(|reference| !reference.is_empty());
            source.subdir = clean(subdir);
        }
        source.read_query(query.unwrap_or_default())?;
        if let Some(reference) = &source.reference {
            check_reference(reference)?;
        }
        if let Some(checksum) = &source.checksum {
            check_commit(checksum)?;
        }
        Ok(source)
    }

    fn read_query(&mut self, query: &str) -> Result<(), GitSourceError> {
        let mut seen: Vec<String> = Vec::new();
        let (mut tag, mut branch) = (None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = split(pair, '=');
            let key = percent_decode(&key.replace('+', " "))?;
            let value = percent_decode(&value.unwrap_or_default().replace('+', " "))?;
            if seen.contains(&key) {
                return Err(format!("query {key:?} has multiple values").into());
            }
            let is_flag = matches!(key.as_str(), "submodules" | "keep-git-dir" | "fetch-by-commit");
            if value.is_empty() && !is_flag {
                return Err(format!("query {key:?} has no value").into());
            }
            let flag = || match value.as_str() {
                "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
                "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
                other => Err(GitSourceError::from(format!("invalid {key} value: {other:?}"))),
            };
            match key.as_str() {
                "ref" => self.refer(&value)?,
                "tag" => tag = Some(value.clone()),
                "branch" => branch = Some(value.clone()),
                "subdir" => {
                    if !self.subdir.is_empty() && self.subdir != clean(&value) {
                        return Err(format!("subdir conflicts: {:?} vs {value:?}", self.subdir).into());
                    }
                    self.subdir = clean(&value);
                }
                "checksum" | "commit" => self.expect(&value)?,
                "keep-git-dir" => self.keep_git_dir = Some(flag()?),
                "submodules" => self.skip_submodules = !flag()?,
                "fetch-by-commit" => self.fetch_by_commit = flag()?,
                "mtime" => match value.as_str() {
                    "checkout" => self.commit_times = false,
                    "commit" => self.commit_times = true,
                    other => {
                        return Err(
                            format!("invalid mtime value: {other:?} (must be \"checkout\" or \"commit\")").into()
                        );
                    }
                },
                other => return Err(format!("unexpected query {other:?}").into()),
            }
            seen.push(key);
        }
        if tag.is_some() && branch.is_some() {
            return Err("branch conflicts with tag".to_owned().into());
        }
        for (given, prefix) in [(tag, "refs/tags/"), (branch, "refs/heads/")] {
            if let Some(name) = given {
                self.refer(&if name.starts_with(prefix) { name } else { format!("{prefix}{name}") })?;
            }
        }
        Ok(())
    }

    fn refer(&mut self, reference: &str) -> Result<(), GitSourceError> {
        match &self.reference {
            Some(other) if other != reference => Err(format!("ref conflicts: {other:?} vs {reference:?}").into()),
            _ => {
                self.reference = Some(reference.to_owned());
                Ok(())
            }
        }
    }

    /// Asks for a commit whose name begins like this (`--checksum`).
    ///
    /// # Errors
    ///
    /// When it is no name of a commit, or another one is asked for already.
    pub fn expect(&mut self, checksum: &str) -> Result<(), GitSourceError> {
        check_commit(checksum)?;
        match &self.checksum {
            Some(other) if other != checksum => Err(format!("checksum mismatch {checksum:?} != {other:?}").into()),
            _ => {
                self.checksum = Some(checksum.to_owned());
                Ok(())
            }
        }
    }

    /// Tells whether a text is the whole name of a commit.
    pub fn is_commit(text: &str) -> bool {
        matches!(text.len(), 40 | 64) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    }

    /// Returns the commit that is meant whatever the repository says now, if there is one.
    ///
    /// # Errors
    ///
    /// When it is not the one that the checksum asks for.
    pub fn fixed_commit(&self) -> Result<Option<&str>, GitSourceError> {
        match (&self.reference, &self.checksum) {
            (Some(reference), _) if Self::is_commit(reference) => {
                self.check(reference, None)?;
                Ok(Some(reference))
            }
            (_, checksum) if self.fetch_by_commit => match checksum {
                Some(checksum) if Self::is_commit(checksum) => Ok(Some(checksum)),
                Some(checksum) => {
                    Err(format!("fetch-by-commit requires a full commit SHA checksum, got {checksum:?}").into())
                }
                None => Err("fetch-by-commit requires a checksum or a commit SHA ref".to_owned().into()),
            },
            _ => Ok(None),
        }
    }

    /// Compares the commit that was found, and the annotated tag that led to it, with the checksum.
    ///
    /// # Errors
    ///
    /// When it is another: both are named.
    pub fn check(&self, commit: &str, tag: Option<&str>) -> Result<(), GitSourceError> {
        let Some(expected) = &self.checksum else { return Ok(()) };
        if commit.starts_with(expected) || tag.is_some_and(|tag| tag.starts_with(expected)) {
            return Ok(());
        }
        Err(format!("expected checksum to match {expected}, got {commit}").into())
    }

    /// Returns the address for messages: without credentials, with what is wanted of it.
    pub fn shown(&self) -> String {
        let mut shown = crate::remote::without_credentials(&self.remote);
        if self.reference.is_some() || !self.subdir.is_empty() {
            shown.push('#');
            shown.push_str(self.reference.as_deref().unwrap_or_default());
        }
        if !self.subdir.is_empty() {
            shown.push(':');
            shown.push_str(&self.subdir);
        }
        shown
    }
}

fn split(text: &str, at: char) -> (&str, Option<&str>) {
    text.split_once(at).map_or((text, None), |(before, after)| (before, Some(after)))
}

/// Tells whether a text is of the form `user@host:path`.
fn is_scp(text: &str) -> bool {
    let Some((user, place)) = text.split_once('@') else { return false };
    let Some((host, _)) = place.split_once(':') else { return false };
    let plain = |part: &str, more: &[u8]| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
    };
    plain(user, b"-_") && plain(host, b"-.")
}

/// Refuses what git would not take for a reference, and what it would take for something else.
fn check_reference(reference: &str) -> Result<(), GitSourceError> {
    let bad = reference.starts_with(['-', '/', '.', '+'])
        || reference.ends_with(['/', '.'])
        || reference.ends_with(".lock")
        || reference.contains("..")
        || reference.contains("//")
        || reference.contains("@{")
        || reference.chars().any(|c| c.is_control() || matches!(c, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\'));
    if bad {
        return Err(format!("{reference:?} cannot be a git reference").into());
    }
    Ok(())
}

fn check_commit(checksum: &str) -> Result<(), GitSourceError> {
    if checksum.is_empty() || checksum.len() > 64 || !checksum.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(format!("invalid checksum {checksum} for Git URL, expected hex commit hash").into());
    }
    Ok(())
}

/// Cleans a folder inside of a repository: `..` does not lead out.
fn clean(path: &str) -> String {
    String::from_utf8_lossy(&crate::files::path::clean(path.as_bytes())).into_owned()
}

/// Takes the escapes out of a part of a URL.
///
/// # Errors
///
/// When one is cut short, or the bytes are not UTF-8.
pub fn percent_decode(text: &str) -> Result<String, GitSourceError> {
    let invalid = || GitSourceError::from(format!("invalid URL escape in {text:?}"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |index: usize| rest.get(index).and_then(|digit| char::from(*digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else { return Err(invalid()) };
        bytes.push((high * 16 + low) as u8);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> GitSource {
        GitSource::parse(text).expect("a repository").expect("a good one")
    }

    fn refuse(text: &str) -> String {
        GitSource::parse(text).expect("a repository").expect_err("a bad one").to_string()
    }

    #[test]
    fn g12_repositories_are_told_from_files_and_paths() {
        for text in [
            "https://github.com/moby/buildkit.git",
            "http://host/a/b.git#main",
            "HTTPS://host/a.git",
            "git://host/anything",
            "ssh://git@host:2222/a/b",
            "git@github.com:moby/buildkit",
            "me-2@host.example:a.git#v1:docs",
        ] {
            assert!(matches!(GitSource::parse(text), Some(Ok(_))), "{text}");
        }
        for text in [
            "https://github.com/moby/buildkit",
            "https://host/a.tar.gz",
            "https://repo.git",
            "./git@host:x",
            "github.com/moby/buildkit.git",
            "folder/file",
            "ext::sh -c x",
            "file:///srv/a.git",
            "a b@host:x",
            "",
        ] {
            assert!(GitSource::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn g12_the_fragment_names_the_reference_and_the_folder() {
        let source = parse("https://host/a.git#feature/x:docs/../sub/");
        assert_eq!((source.reference.as_deref(), source.subdir.as_str()), (Some("feature/x"), "sub"));
        let source = parse("git@host:a.git#:sub");
        assert_eq!((source.reference, source.subdir.as_str()), (None, "sub"));
        assert_eq!(parse("git://host/a#:../../etc").subdir, "etc");
        assert_eq!(parse("git@host:a.git").remote, "git@host:a.git");
        assert_eq!(parse("git@host:a.git#refs/pull/1/head").shown(), "git@host:a.git#refs/pull/1/head");
        assert_eq!(parse("https://u:p@host/a.git#:s").shown(), "https://***@host/a.git#:s");
    }

    #[test]
    fn g12_the_query_says_the_same_and_more() {
        let commit = "1".repeat(40);
        let source = parse(&format!(
            "https://host/a.git?branch=main&subdir=docs%2Fx&commit={commit}&keep-git-dir&submodules=false&mtime=commit"
        ));
        assert_eq!(
            source,
            GitSource {
                remote: "https://host/a.git".into(),
                reference: Some("refs/heads/main".into()),
                subdir: "docs/x".into(),
                checksum: Some(commit.clone()),
                keep_git_dir: Some(true),
                skip_submodules: true,
                commit_times: true,
                fetch_by_commit: false,
                own: false,
            }
        );
        assert_eq!(parse("https://host/a.git?tag=v1").reference.as_deref(), Some("refs/tags/v1"));
        assert_eq!(parse("https://host/a.git?ref=v1#v1:x").reference.as_deref(), Some("v1"));
        assert_eq!(parse("git@host:a.git?ref=v1").reference.as_deref(), Some("v1"));
        let fixed = parse(&format!("https://host/a.git?commit={commit}&fetch-by-commit=1"));
        assert_eq!(fixed.fixed_commit(), Ok(Some(commit.as_str())));
    }

    #[test]
    fn g12_a_query_that_contradicts_is_refused() {
        for (text, message) in [
            ("https://host/a.git?ref=a#b", "ref conflicts: \"b\" vs \"a\""),
            ("https://host/a.git?subdir=a#:b", "subdir conflicts: \"b\" vs \"a\""),
            ("https://host/a.git?tag=a&branch=b", "branch conflicts with tag"),
            ("https://host/a.git?tag=a#b", "ref conflicts: \"b\" vs \"refs/tags/a\""),
            ("https://host/a.git?ref=", "query \"ref\" has no value"),
            ("https://host/a.git?ref=a&ref=b", "query \"ref\" has multiple values"),
            ("https://host/a.git?colour=red", "unexpected query \"colour\""),
            ("https://host/a.git?mtime=never", "invalid mtime value: \"never\" (must be \"checkout\" or \"commit\")"),
            ("https://host/a.git?submodules=perhaps", "invalid submodules value: \"perhaps\""),
            ("https://host/a.git?commit=xyz", "invalid checksum xyz for Git URL, expected hex commit hash"),
        ] {
            assert_eq!(refuse(text), message, "{text}");
        }
        let bare = parse("https://host/a.git?fetch-by-commit");
        assert!(bare.fixed_commit().is_err());
    }

    #[test]
    fn g12_nothing_can_pass_for_an_option_of_git() {
        for text in [
            "https://host/a.git#--upload-pack=touch x",
            "https://host/a.git#-b",
            "https://host/a.git?ref=--output=x",
            "https://host/a.git#a..b",
            "https://host/a.git#a%0Ab",
            "ssh://-oProxyCommand=x/a",
            "ssh://git@-oProxyCommand/a",
            "git:///a",
        ] {
            refuse(text);
        }
    }

    #[test]
    fn c25_a_checksum_is_the_beginning_of_the_commit() {
        let mut source = parse("https://host/a.git#main");
        source.expect("abc").expect("taken");
        assert!(source.check("abcdef", None).is_ok());
        assert!(source.check("123", Some("abcd")).is_ok());
        let message = source.check("123456", None).expect_err("another").to_string();
        assert_eq!(message, "expected checksum to match abc, got 123456");
        assert!(source.expect("abd").is_err());
    }
}
