//! [`ContextSpec`]: what a user means by a build context, as typed: the one place where that text is parsed.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use builder::OciLayout;
use oci::Reference;
use oci::digest::DigestError;
use oci::reference::ReferenceError;

/// What stands for the files of a build: `docker build CONTEXT` and `--build-context NAME=CONTEXT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContextSpec {
    /// A folder of this machine.
    Folder(PathBuf),
    /// Standard input: a tar, or a Dockerfile.
    Stdin,
    /// A git repository, as typed, with its `#REF:FOLDER` or query.
    Git(String),
    /// Something that is fetched over HTTP: a tar, or a Dockerfile.
    Http(String),
    /// An image in an OCI layout: `oci-layout://FOLDER[:TAG][@DIGEST]`.
    OciLayout(OciLayout),
    /// An image by reference.
    Image(Reference),
    /// Nothing (`docker-image://scratch`).
    Scratch,
}

/// Why some text is no context.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum ContextSpecError {
    #[error("the build context is empty")]
    Empty,
    #[error("unable to prepare context: path `{text}` not found")]
    NotFound { text: String },
    #[error("unable to prepare context: `{text}` is not a folder")]
    NotAFolder { text: String },
    #[error("`{text}` is not of the form NAME=CONTEXT")]
    NoName { text: String },
    #[error("invalid context name `{name}`")]
    Name { name: String, source: ReferenceError },
    #[error("failed to get build context {name}: `{value}` does not exist")]
    NamedNotFound { name: String, value: String },
    #[error("failed to get build context {name}: `{value}` is not a folder")]
    NamedNotAFolder { name: String, value: String },
    #[error("invalid build context `{text}`")]
    Image { text: String, source: ReferenceError },
    #[error("invalid digest in `{text}`")]
    Digest { text: String, source: DigestError },
    #[error("`{text}` names no folder")]
    NoFolder { text: String },
    #[error("`{text}`: a target of a bake file is only known to bake")]
    Target { text: String },
    #[error("`{text}`: contexts of the kind `{kind}://` are not known")]
    Kind { text: String, kind: String },
}

impl ContextSpec {
    /// Parses the context that `build` is called with: a folder that exists wins over everything that it looks like.
    ///
    /// # Errors
    ///
    /// When the text is none of the kinds of contexts, or its folder is not there.
    pub fn positional(text: &OsStr) -> Result<Self, ContextSpecError> {
        if text.is_empty() {
            return Err(ContextSpecError::Empty);
        }
        let path = Path::new(text);
        if text.as_bytes() == b"-" {
            return Ok(Self::Stdin);
        }
        if path.is_dir() {
            return Ok(Self::Folder(path.to_owned()));
        }
        if let Some(spec) = text.to_str().map(other_kind).transpose()?.flatten() {
            return Ok(spec);
        }
        let text = path.display().to_string();
        Err(match path.exists() {
            true => ContextSpecError::NotAFolder { text },
            false => ContextSpecError::NotFound { text },
        })
    }

    /// Parses `NAME=CONTEXT` of `--build-context`, and returns the name as image names are written in short.
    ///
    /// # Errors
    ///
    /// When it has no name, or the context is of no kind, or its folder is not there.
    pub fn named(text: &str) -> Result<(String, Self), ContextSpecError> {
        let Some((name, value)) = text.split_once('=') else {
            return Err(ContextSpecError::NoName { text: text.into() });
        };
        let name = normal_name(name)?;
        if let Some(spec) = other_kind(value)? {
            return Ok((name, spec));
        }
        let path = Path::new(value);
        if path.is_dir() {
            return Ok((name, Self::Folder(path.to_owned())));
        }
        let value = value.to_owned();
        Err(match path.exists() {
            true => ContextSpecError::NamedNotAFolder { name, value },
            false => ContextSpecError::NamedNotFound { name, value },
        })
    }
}

/// Returns a context's name as docker writes the image of that name: without `docker.io/library/` and `:latest`. The
/// platform that may follow (`NAME::OS/ARCH`) stays as it is.
fn normal_name(name: &str) -> Result<String, ContextSpecError> {
    let (base, platform) = name.split_once("::").map_or((name, None), |(base, platform)| (base, Some(platform)));
    let reference: Reference = base.parse().map_err(|source| ContextSpecError::Name { name: name.into(), source })?;
    let familiar = reference.familiar();
    let short = familiar.strip_suffix(":latest").unwrap_or(&familiar);
    Ok(platform.map_or_else(|| short.to_owned(), |platform| format!("{short}::{platform}")))
}

/// Finds out which kind of context a text is, other than a folder.
fn other_kind(text: &str) -> Result<Option<ContextSpec>, ContextSpecError> {
    if is_git(text) {
        return Ok(Some(ContextSpec::Git(text.into())));
    }
    let Some((kind, rest)) = text.split_once("://") else {
        return match text.strip_prefix("target:") {
            Some(_) => Err(ContextSpecError::Target { text: text.into() }),
            None => Ok(None),
        };
    };
    match kind.to_ascii_lowercase().as_str() {
        "http" | "https" => Ok(Some(ContextSpec::Http(text.into()))),
        "docker-image" if rest == "scratch" => Ok(Some(ContextSpec::Scratch)),
        "docker-image" => {
            let image = rest.parse().map_err(|source| ContextSpecError::Image { text: text.into(), source })?;
            Ok(Some(ContextSpec::Image(image)))
        }
        "oci-layout" => layout(text, rest).map(Some),
        kind if kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') && !kind.is_empty() => {
            Err(ContextSpecError::Kind { text: text.into(), kind: kind.into() })
        }
        _ => Ok(None),
    }
}

fn layout(text: &str, rest: &str) -> Result<ContextSpec, ContextSpecError> {
    let (rest, digest) = match rest.rsplit_once('@') {
        Some((before, digest)) if digest.contains(':') && !digest.contains('/') => {
            let digest = digest.parse().map_err(|source| ContextSpecError::Digest { text: text.into(), source })?;
            (before, Some(digest))
        }
        _ => (rest, None),
    };
    let (path, tag) = match rest.rsplit_once(':') {
        Some((before, tag)) => tag.parse().map_or((rest, None), |tag| (before, Some(tag))),
        None => (rest, None),
    };
    if path.is_empty() {
        return Err(ContextSpecError::NoFolder { text: text.into() });
    }
    Ok(ContextSpec::OciLayout(OciLayout { path: path.into(), tag, digest }))
}

/// Tells whether docker takes a text for a git repository: `git://` and `ssh://`, `user@host:path`, `github.com/…`, and
/// HTTP when the path ends in `.git`.
fn is_git(text: &str) -> bool {
    if text.starts_with("github.com/") {
        return true;
    }
    if let Some((scheme, rest)) = text.split_once("://")
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())
    {
        return match scheme.to_ascii_lowercase().as_str() {
            "git" | "ssh" => true,
            "http" | "https" => rest
                .split(['#', '?'])
                .next()
                .is_some_and(|path| path.split_once('/').is_some_and(|(_, path)| path.ends_with(".git"))),
            _ => false,
        };
    }
    // As ssh and scp take it: `git@github.com:owner/name.git`.
    let word = |text: &str, more: &[u8]| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
    };
    let Some((user, rest)) = text.split_once('@') else { return false };
    rest.split_once(':').is_some_and(|(host, _)| word(user, b"-_") && word(host, b"-."))
}

#[cfg(test)]
mod tests {
    use oci::Tag;

    use super::*;

    fn kind(text: &str) -> String {
        match other_kind(text) {
            Ok(None) => "folder".into(),
            Ok(Some(ContextSpec::Git(_))) => "git".into(),
            Ok(Some(ContextSpec::Http(_))) => "http".into(),
            Ok(Some(ContextSpec::Image(image))) => format!("image {}", image.familiar()),
            Ok(Some(ContextSpec::OciLayout(OciLayout { path, tag, digest }))) => format!(
                "layout {} {} {}",
                path.display(),
                tag.as_ref().map_or("-", Tag::as_str),
                digest.map_or("-".into(), |digest| digest.hex()[..4].to_owned()),
            ),
            Ok(Some(other)) => format!("{other:?}").to_lowercase(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn g11_a_context_is_of_the_kind_that_docker_takes_it_for() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let layout = |text: &str| format!("oci-layout://{text}");
        let cases = [
            ("https://github.com/moby/buildkit.git", "git"),
            ("https://github.com/moby/buildkit.git#v1:sub/folder", "git"),
            ("https://github.com/moby/buildkit.git?ref=v1", "git"),
            ("HTTPS://github.com/moby/buildkit.git", "git"),
            ("http://host/x.git#main", "git"),
            ("https://github.com/moby/buildkit", "http"),
            ("https://host/x.tar.gz", "http"),
            ("https://host/x.tar#y.git", "http"),
            ("https://host.git", "http"),
            ("git://host/x", "git"),
            ("ssh://git@host:22/x", "git"),
            ("git@github.com:moby/buildkit.git#x", "git"),
            ("me_2@my-host.example:x", "git"),
            ("github.com/moby/buildkit", "git"),
            ("./github.com/moby/buildkit", "folder"),
            ("some/folder", "folder"),
            ("folder@x", "folder"),
            ("a/b@host:x", "folder"),
            ("docker-image://alpine", "image alpine:latest"),
            ("docker-image://scratch", "scratch"),
            ("docker-image://A", "invalid build context `docker-image://A`"),
            (&layout("img"), "layout img - -"),
            (&layout("/a/img:v1"), "layout /a/img v1 -"),
            (&layout(&format!("img:v1@{digest}")), "layout img v1 abab"),
            (&layout(&format!("img@{digest}")), "layout img - abab"),
            (&layout("a:b/img"), "layout a:b/img - -"),
            (&layout("me@home/img"), "layout me@home/img - -"),
            (&layout("img@sha256:12"), "invalid digest in `oci-layout://img@sha256:12`"),
            (&layout(":v1"), "`oci-layout://:v1` names no folder"),
            ("target:base", "`target:base`: a target of a bake file is only known to bake"),
            ("ftp://host/x", "`ftp://host/x`: contexts of the kind `ftp://` are not known"),
        ];
        for (text, expected) in cases {
            assert_eq!(kind(text), expected, "{text}");
        }
    }

    #[test]
    fn names_of_contexts_are_written_as_image_names() {
        let cases = [
            ("base", "base"),
            ("alpine:latest", "alpine"),
            ("docker.io/library/alpine", "alpine"),
            ("docker.io/me/app:1", "me/app:1"),
            ("localhost:5000/app", "localhost:5000/app"),
            ("base::linux/arm64", "base::linux/arm64"),
        ];
        for (text, expected) in cases {
            assert_eq!(normal_name(text).expect(text), expected);
        }
        assert_eq!(ContextSpec::named("Base=.").expect_err("upper case").to_string(), "invalid context name `Base`");
        assert!(matches!(ContextSpec::named("base"), Err(ContextSpecError::NoName { .. })));
    }
}
