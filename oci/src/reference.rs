//! [`Reference`]: a name that people give to an image, with Docker's normalization.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize, de};

use crate::Digest;

/// The registry of names that name none.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// The longest `registry/repository` (distribution-spec, "Pulling manifests"), in bytes.
const MAX_NAME: usize = 255;

/// Why some text is not a reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum ReferenceError {
    #[error("the image name is empty")]
    Empty,
    #[error("invalid reference `{text}`: repository name must be lowercase")]
    Uppercase { text: String },
    #[error("invalid reference `{text}`: {what}")]
    Malformed { text: String, what: &'static str },
    #[error("invalid reference `{text}`: the name is longer than {MAX_NAME} bytes")]
    TooLong { text: String },
    #[error("invalid digest in reference `{text}`")]
    Digest { text: String, source: crate::digest::DigestError },
}

/// A set of images on a registry: `library/debian`.
///
/// Parsed by the grammar of distribution-spec, so it can never be a path that
/// climbs (`..`) and needs no escaping in a URL.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepositoryName(Box<str>);

impl RepositoryName {
    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RepositoryName {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let malformed = |what| ReferenceError::Malformed { text: clip(text), what };
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if text.len() > MAX_NAME {
            return Err(ReferenceError::TooLong { text: clip(text) });
        }
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(ReferenceError::Uppercase { text: clip(text) });
        }
        if !text.split('/').all(is_path_component) {
            return Err(malformed(
                "a repository name is made of a-z and 0-9, with `.`, `_`, `__` or `-` between, and `/`",
            ));
        }
        Ok(Self(text.into()))
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(text: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    if !bytes.first().copied().is_some_and(alphanumeric) || !bytes.last().copied().is_some_and(alphanumeric) {
        return false;
    }
    let separators = bytes.split(|&byte| alphanumeric(byte)).filter(|run| !run.is_empty());
    separators.into_iter().all(|run| matches!(run, b"." | b"_" | b"__") || run.iter().all(|&byte| byte == b'-'))
}

/// A movable name in a repository: `latest`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Box<str>);

impl Tag {
    /// Returns `latest`, the tag of names that say none.
    pub fn latest() -> Self {
        Self("latest".into())
    }

    /// Returns the tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let bytes = text.as_bytes();
        let fits = (1..=128).contains(&bytes.len())
            && word(bytes[0])
            && bytes.iter().all(|&byte| word(byte) || matches!(byte, b'.' | b'-'));
        if !fits {
            let what =
                "a tag is 1 to 128 characters of A-Z, a-z, 0-9, `_`, `.` and `-`, and starts with neither `.` nor `-`";
            return Err(ReferenceError::Malformed { text: clip(text), what });
        }
        Ok(Self(text.into()))
    }
}

/// `registry/repository` with a tag or a digest, or both.
///
/// `debian` parses as `docker.io/library/debian:latest`, as docker has it: the
/// first component is a registry only when it has a `.` or `:`, an upper-case
/// letter, or is `localhost`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: Box<str>, // Invariant: host[:port], by the grammar of `is_registry`.
    repository: RepositoryName,
    tag: Option<Tag>,
    digest: Option<Digest>, // Invariant: `tag` or `digest` is there.
}

impl Reference {
    /// Names a tag of a repository.
    pub fn tagged(registry: &str, repository: RepositoryName, tag: Tag) -> Result<Self, ReferenceError> {
        format!("{registry}/{}:{}", repository.as_str(), tag.as_str()).parse()
    }

    /// Returns the registry, `host[:port]`; `docker.io` when the name said none.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Returns the repository on that registry.
    pub fn repository(&self) -> &RepositoryName {
        &self.repository
    }

    /// Returns the tag, if there is one. With a digest beside it, it is only information.
    pub fn tag(&self) -> Option<&Tag> {
        self.tag.as_ref()
    }

    /// Returns the digest, if there is one.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Returns the same repository's image with this digest, without a tag.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// Returns the same repository's image with this tag, without a digest.
    pub fn with_tag(&self, tag: Tag) -> Self {
        Self { tag: Some(tag), digest: None, ..self.clone() }
    }

    /// Returns the shortest name that means the same repository, as docker shows it: `debian`, `me/app`, `host:5000/x`.
    pub fn familiar_name(&self) -> String {
        if &*self.registry != DEFAULT_REGISTRY {
            return format!("{}/{}", self.registry, self.repository.as_str());
        }
        let name = self.repository.as_str();
        match name.strip_prefix("library/") {
            Some(official) if !official.contains('/') => official.to_owned(),
            _ => name.to_owned(),
        }
    }

    /// Returns the shortest text that means the same: [`Self::familiar_name`] with the tag and the digest.
    pub fn familiar(&self) -> String {
        let mut text = self.familiar_name();
        if let Some(tag) = &self.tag {
            text = format!("{text}:{}", tag.as_str());
        }
        if let Some(digest) = &self.digest {
            text = format!("{text}@{digest}");
        }
        text
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let malformed = |what| ReferenceError::Malformed { text: clip(text), what };
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                let digest = digest.parse().map_err(|source| ReferenceError::Digest { text: clip(text), source })?;
                (name, Some(digest))
            }
            None => (text, None),
        };
        let (name, tag) = match name.rfind(':') {
            Some(colon) if !name[colon..].contains('/') => (&name[..colon], Some(name[colon + 1..].parse::<Tag>().map_err(|_| {
                malformed("a tag is 1 to 128 characters of A-Z, a-z, 0-9, `_`, `.` and `-`, and starts with neither `.` nor `-`")
            })?)),
            _ => (name, None),
        };
        let (registry, repository) = match name.split_once('/') {
            Some((first, rest)) if names_registry(first) => (first, rest.to_owned()),
            _ => (DEFAULT_REGISTRY, name.to_owned()),
        };
        if !is_registry(registry) {
            return Err(malformed("the registry before the first `/` is not a host name with an optional port"));
        }
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
        let official = registry == DEFAULT_REGISTRY && !repository.contains('/');
        let repository = if official { format!("library/{repository}") } else { repository };
        if digest.is_none() && is_hex64(name) {
            return Err(malformed("64 hexadecimal characters are an image ID, not a name"));
        }
        let repository: RepositoryName = repository.parse().map_err(|error| match error {
            ReferenceError::Uppercase { .. } => ReferenceError::Uppercase { text: clip(text) },
            ReferenceError::Malformed { what, .. } => malformed(what),
            other => other,
        })?;
        if registry.len() + 1 + repository.as_str().len() > MAX_NAME {
            return Err(ReferenceError::TooLong { text: clip(text) });
        }
        let tag = if tag.is_none() && digest.is_none() { Some(Tag::latest()) } else { tag };
        Ok(Self { registry: registry.into(), repository, tag, digest })
    }
}

fn is_hex64(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Tells whether docker takes this first component for a registry rather than a part of the repository.
fn names_registry(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// `host[:port]`, where the host is a DNS name, an IPv4 address or an IPv6 address in brackets.
fn is_registry(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((address, after)) = rest.split_once(']') else { return false };
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            ("v6", after)
        }
        None => text.find(':').map_or((text, ""), |colon| text.split_at(colon)),
    };
    let label = |label: &str| {
        let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
        edge(label.bytes().next())
            && edge(label.bytes().last())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let port_fits = port.is_empty()
        || port.strip_prefix(':').is_some_and(|digits| {
            !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<u16>().is_ok()
        });
    host.split('.').all(label) && port_fits
}

/// Keeps hostile text short in messages.
fn clip(text: &str) -> String {
    if text.chars().count() <= 300 { text.to_owned() } else { text.chars().take(300).chain(['…']).collect() }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository.as_str())?;
        if let Some(tag) = &self.tag {
            write!(f, ":{}", tag.as_str())?;
        }
        self.digest.as_ref().map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

macro_rules! text_type {
    ($($name:ty),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    )*};
}

text_type!(Reference, RepositoryName, Tag);

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_are_normalized_as_docker_does() {
        for (text, full, familiar) in [
            ("debian", "docker.io/library/debian:latest", "debian:latest"),
            ("me/app:1", "docker.io/me/app:1", "me/app:1"),
            ("docker.io/debian", "docker.io/library/debian:latest", "debian:latest"),
            ("index.docker.io/library/debian", "docker.io/library/debian:latest", "debian:latest"),
            ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
            ("127.0.0.1:5000/a/b:v", "127.0.0.1:5000/a/b:v", "127.0.0.1:5000/a/b:v"),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
            ("Host/a", "Host/a:latest", "Host/a:latest"),
            ("library/debian", "docker.io/library/debian:latest", "debian:latest"),
        ] {
            let reference: Reference = text.parse().expect(text);
            assert_eq!((reference.to_string().as_str(), reference.familiar().as_str()), (full, familiar), "{text}");
            assert_eq!(full.parse::<Reference>().as_ref(), Ok(&reference), "{text}");
        }
        let pinned: Reference = format!("debian@{DIGEST}").parse().expect("valid");
        assert_eq!(pinned.to_string(), format!("docker.io/library/debian@{DIGEST}"));
        assert_eq!(pinned.tag(), None);
    }

    #[test]
    fn what_is_not_a_reference_is_refused() {
        let long = format!("x/{}", "a".repeat(260));
        for text in [
            "",
            ":",
            "a:",
            "A",
            "a/B",
            "a//b",
            "/a",
            "a/",
            "../a",
            "a:b:c",
            "a..b",
            "a@sha256:x",
            "-a",
            "a___b",
            "a b",
            "h:99999/a",
            &long,
            &DIGEST[7..],
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }
}
