//! [`Operation`]: what a request asks for, parsed once from method, path and parameters; and what that needs.
//!
//! Names contain slashes, and any word of the API may be part of one (`blobs/uploads` is a fine repository name),
//! so paths are read from their end:
//!
//! ```text
//! /healthz   /livez                       /readyz
//! /v2/                                    /v2/_catalog
//! /v2/NAME/tags/list                      /v2/NAME/referrers/DIGEST
//! /v2/NAME/manifests/TAG-OR-DIGEST        /v2/NAME/blobs/DIGEST
//! /v2/NAME/blobs/uploads[/]               /v2/NAME/blobs/uploads/ID
//! /v2/[NAME/]_oci/ext/discover            /v2/NAME/_oci/tag-history/TAG
//! /v2/NAME/_slipway/tags/moment?tag=TAG&at=TIME
//! ```

use std::fmt;

use axum::extract::Query;
use axum::http::{Method, Uri};
use jiff::Timestamp;
use oci::{Algorithm, Digest, RepositoryName, Tag};

use super::error::RequestError;
use crate::storage::UploadId;

/// Which of a repository's manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ManifestReference {
    /// The one that the tag names now.
    Tag(Tag),
    /// The one with these bytes.
    Digest(Digest),
}

impl fmt::Display for ManifestReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag.as_str()),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// Which part of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Paging {
    /// At most so many entries; no limit of the client's if it is not there.
    pub(crate) limit: Option<usize>,
    /// Only what comes after this.
    pub(crate) after: Option<String>,
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Live,
    Ready,
    Ping,
    ListRepositories { paging: Paging },
    ListTags { repository: RepositoryName, paging: Paging },
    ListReferrers { repository: RepositoryName, subject: Digest, artifact_type: Option<String>, paging: Paging },
    ReadManifest { repository: RepositoryName, reference: ManifestReference },
    PutManifest { repository: RepositoryName, reference: ManifestReference, tags: Vec<Tag> },
    DeleteManifest { repository: RepositoryName, reference: ManifestReference },
    ReadBlob { repository: RepositoryName, digest: Digest },
    DeleteBlob { repository: RepositoryName, digest: Digest },
    StartUpload { repository: RepositoryName, algorithm: Algorithm },
    PostBlob { repository: RepositoryName, digest: Digest },
    MountBlob { repository: RepositoryName, digest: Digest, from: Option<RepositoryName>, algorithm: Algorithm },
    UploadStatus { repository: RepositoryName, id: UploadId },
    AppendUpload { repository: RepositoryName, id: UploadId },
    FinishUpload { repository: RepositoryName, id: UploadId, digest: Digest },
    CancelUpload { repository: RepositoryName, id: UploadId },
    Discover,
    ListHistory { repository: RepositoryName, tag: Tag, paging: Paging },
    ReadMoment { repository: RepositoryName, tag: Tag, at: Timestamp },
}

/// What is done to a repository, as permissions see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Read, and list what there is to read.
    Pull,
    /// Add, and move tags.
    Push,
    /// Delete, by whatever name.
    Delete,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
        })
    }
}

/// One thing that must be permitted before an operation begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Need<'a> {
    /// Where; everywhere if it is not there.
    pub(crate) repository: Option<&'a RepositoryName>,
    /// What.
    pub(crate) action: Action,
}

impl Operation {
    /// Reads what a request asks for.
    pub(crate) fn parse(method: &Method, uri: &Uri) -> Result<Self, RequestError> {
        let path = uri.path();
        match path {
            "/healthz" | "/livez" => return reading(method, Self::Live),
            "/readyz" => return reading(method, Self::Ready),
            _ => {}
        }
        let rest = match path.strip_prefix("/v2") {
            Some("" | "/") => return reading(method, Self::Ping),
            Some(rest) => rest.strip_prefix('/').ok_or(RequestError::NoEndpoint)?,
            None => return Err(RequestError::NoEndpoint),
        };
        let parameters = Parameters::of(uri)?;
        if rest == "_catalog" {
            return reading(method, Self::ListRepositories { paging: parameters.paging()? });
        }
        let segments = rest.split('/').map(decoded).collect::<Result<Vec<String>, RequestError>>()?;
        let words: Vec<&str> = segments.iter().map(String::as_str).collect();
        match words.as_slice() {
            [.., "_oci", "ext", "discover"] => reading(method, Self::Discover),
            [name @ .., "_oci", "tag-history", text] => reading(
                method,
                Self::ListHistory { repository: repository(name)?, tag: tag(text)?, paging: parameters.paging()? },
            ),
            [name @ .., "_slipway", "tags", "moment"] => {
                let text = parameters.first("at").unwrap_or_default();
                let at = text.parse().map_err(|_| RequestError::BadMoment { text: clip(text) })?;
                let tag = tag(parameters.first("tag").unwrap_or_default())?;
                reading(method, Self::ReadMoment { repository: repository(name)?, tag, at })
            }
            [name @ .., "tags", "list"] => {
                reading(method, Self::ListTags { repository: repository(name)?, paging: parameters.paging()? })
            }
            [name @ .., "referrers", subject] => reading(
                method,
                Self::ListReferrers {
                    repository: repository(name)?,
                    subject: subject.parse()?,
                    artifact_type: parameters.first("artifactType").map(str::to_owned),
                    paging: parameters.paging()?,
                },
            ),
            [name @ .., "manifests", reference] => Self::manifest(method, repository(name)?, reference, &parameters),
            [name @ .., "blobs", "uploads"] | [name @ .., "blobs", "uploads", ""] => {
                Self::start(method, repository(name)?, &parameters)
            }
            [name @ .., "blobs", "uploads", id] => Self::upload(method, repository(name)?, id, &parameters),
            [name @ .., "blobs", digest] => Self::blob(method, repository(name)?, digest),
            _ => Err(RequestError::NoEndpoint),
        }
    }

    fn manifest(
        method: &Method,
        repository: RepositoryName,
        text: &str,
        parameters: &Parameters,
    ) -> Result<Self, RequestError> {
        let reference = if text.contains(':') {
            text.parse().map(ManifestReference::Digest).map_err(RequestError::from)
        } else {
            tag(text).map(ManifestReference::Tag)
        };
        match *method {
            // A tag that cannot be is simply not there; reading is not the place to teach the grammar.
            Method::GET | Method::HEAD => match reference {
                Err(RequestError::BadTag { text, .. }) => Err(RequestError::UnknownManifest { reference: text }),
                reference => Ok(Self::ReadManifest { repository, reference: reference? }),
            },
            Method::PUT => {
                let tags = parameters.all("tag").map(tag).collect::<Result<_, _>>()?;
                Ok(Self::PutManifest { repository, reference: reference?, tags })
            }
            Method::DELETE => Ok(Self::DeleteManifest { repository, reference: reference? }),
            _ => Err(RequestError::Method { allowed: "GET, HEAD, PUT, DELETE" }),
        }
    }

    fn blob(method: &Method, repository: RepositoryName, digest: &str) -> Result<Self, RequestError> {
        match *method {
            Method::GET | Method::HEAD => Ok(Self::ReadBlob { repository, digest: digest.parse()? }),
            Method::DELETE => Ok(Self::DeleteBlob { repository, digest: digest.parse()? }),
            _ => Err(RequestError::Method { allowed: "GET, HEAD, DELETE" }),
        }
    }

    fn start(method: &Method, repository: RepositoryName, parameters: &Parameters) -> Result<Self, RequestError> {
        if *method != Method::POST {
            return Err(RequestError::Method { allowed: "POST" });
        }
        let algorithm = parameters.first("digest-algorithm").map(str::parse::<Algorithm>).transpose()?;
        if let Some(digest) = parameters.first("mount") {
            let from = match parameters.first("from").filter(|from| !from.is_empty()) {
                Some(from) => Some(name(from)?),
                None => None,
            };
            let digest: Digest = digest.parse()?;
            // What cannot be mounted is about to come.
            let algorithm = algorithm.unwrap_or(digest.algorithm());
            return Ok(Self::MountBlob { repository, digest, from, algorithm });
        }
        match parameters.first("digest") {
            Some(digest) => Ok(Self::PostBlob { repository, digest: digest.parse()? }),
            None => Ok(Self::StartUpload { repository, algorithm: algorithm.unwrap_or(Algorithm::Sha256) }),
        }
    }

    fn upload(
        method: &Method,
        repository: RepositoryName,
        id: &str,
        parameters: &Parameters,
    ) -> Result<Self, RequestError> {
        let id = id.parse().map_err(|_| RequestError::UnknownUpload);
        match *method {
            Method::GET | Method::HEAD => Ok(Self::UploadStatus { repository, id: id? }),
            Method::PATCH => Ok(Self::AppendUpload { repository, id: id? }),
            Method::PUT => {
                let digest = parameters.first("digest").ok_or(RequestError::NoDigest)?.parse()?;
                Ok(Self::FinishUpload { repository, id: id?, digest })
            }
            Method::DELETE => Ok(Self::CancelUpload { repository, id: id? }),
            _ => Err(RequestError::Method { allowed: "GET, HEAD, PATCH, PUT, DELETE" }),
        }
    }

    /// Returns everything that must be permitted before this begins.
    ///
    /// Every operation is here, and nothing is done to a repository that is not: this is where users and
    /// policies are to be asked.
    pub(crate) fn needs(&self) -> Vec<Need<'_>> {
        let need = |repository, action| Need { repository: Some(repository), action };
        match self {
            Self::Live | Self::Ready | Self::Ping | Self::Discover => Vec::new(),
            Self::ListRepositories { .. } => vec![Need { repository: None, action: Action::Pull }],
            Self::ListTags { repository, .. }
            | Self::ListReferrers { repository, .. }
            | Self::ReadManifest { repository, .. }
            | Self::ListHistory { repository, .. }
            | Self::ReadMoment { repository, .. }
            | Self::ReadBlob { repository, .. } => vec![need(repository, Action::Pull)],
            Self::PutManifest { repository, .. }
            | Self::StartUpload { repository, .. }
            | Self::PostBlob { repository, .. }
            | Self::UploadStatus { repository, .. }
            | Self::AppendUpload { repository, .. }
            | Self::FinishUpload { repository, .. }
            | Self::CancelUpload { repository, .. } => vec![need(repository, Action::Push)],
            // Without a source, any repository that may be read will do.
            Self::MountBlob { repository, from, .. } => {
                vec![need(repository, Action::Push), Need { repository: from.as_ref(), action: Action::Pull }]
            }
            Self::DeleteManifest { repository, .. } | Self::DeleteBlob { repository, .. } => {
                vec![need(repository, Action::Delete)]
            }
        }
    }
}

/// Returns the registry that a client means which takes this one for its mirror (distribution-spec, "Registry
/// Proxying"), if it says a host.
pub(crate) fn namespace(method: &Method, uri: &Uri) -> Option<String> {
    if !matches!(*method, Method::GET | Method::HEAD) || !uri.query().is_some_and(|query| query.contains("ns=")) {
        return None;
    }
    let host = |text: &&str| {
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']');
        !text.is_empty() && text.len() <= 255 && text.bytes().all(letter)
    };
    Parameters::of(uri).ok()?.first("ns").filter(host).map(str::to_owned)
}

fn reading(method: &Method, operation: Operation) -> Result<Operation, RequestError> {
    match *method {
        Method::GET | Method::HEAD => Ok(operation),
        _ => Err(RequestError::Method { allowed: "GET, HEAD" }),
    }
}

fn repository(segments: &[&str]) -> Result<RepositoryName, RequestError> {
    name(&segments.join("/"))
}

fn name(text: &str) -> Result<RepositoryName, RequestError> {
    text.parse().map_err(|source| RequestError::BadName { text: clip(text), source })
}

fn tag(text: &str) -> Result<Tag, RequestError> {
    text.parse().map_err(|source| RequestError::BadTag { text: clip(text), source })
}

/// Keeps hostile text short in messages.
fn clip(text: &str) -> String {
    text.chars().take(140).collect()
}

/// Undoes percent-encoding.
fn decoded(text: &str) -> Result<String, RequestError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let hex = rest.split_at_checked(2).filter(|(hex, _)| hex.iter().all(u8::is_ascii_hexdigit));
        let (hex, after) = hex.ok_or(RequestError::NoEndpoint)?;
        let value = std::str::from_utf8(hex).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(value.ok_or(RequestError::NoEndpoint)?);
        rest = after;
    }
    String::from_utf8(bytes).map_err(|_| RequestError::NoEndpoint)
}

/// The parameters after the `?`, decoded, in order.
struct Parameters(Vec<(String, String)>);

impl Parameters {
    fn of(uri: &Uri) -> Result<Self, RequestError> {
        let Query(pairs) = Query::try_from_uri(uri).map_err(|_| RequestError::BadQuery)?;
        Ok(Self(pairs))
    }

    fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn paging(&self) -> Result<Paging, RequestError> {
        let limit = match self.first("n") {
            None | Some("") => None,
            // As many as there are is what a number too long for us means too.
            Some(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => Some(text.parse().unwrap_or(usize::MAX)),
            Some(text) => return Err(RequestError::BadPageSize { text: clip(text) }),
        };
        let after = self.first("last").filter(|last| !last.is_empty()).map(str::to_owned);
        Ok(Paging { limit, after })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn parse(method: Method, uri: &str) -> Result<Operation, RequestError> {
        Operation::parse(&method, &uri.parse().expect("a URI"))
    }

    fn named(text: &str) -> RepositoryName {
        text.parse().expect("a name")
    }

    #[test]
    fn words_of_the_api_are_fine_in_names() {
        let cases = [
            ("/v2/a/blobs/uploads/tags/list", "a/blobs/uploads"),
            ("/v2/tags/list/tags/list", "tags/list"),
            ("/v2/manifests/blobs/manifests/latest", "manifests/blobs"),
            ("/v2/a/b/c/manifests/manifests", "a/b/c"),
        ];
        for (uri, expected) in cases {
            match parse(Method::GET, uri).expect(uri) {
                Operation::ListTags { repository, .. } | Operation::ReadManifest { repository, .. } => {
                    assert_eq!(repository, named(expected), "{uri}");
                }
                other => panic!("{uri}: {other:?}"),
            }
        }
        let start = parse(Method::POST, "/v2/blobs/uploads/blobs/uploads/").expect("parsed");
        assert_eq!(start, Operation::StartUpload { repository: named("blobs/uploads"), algorithm: Algorithm::Sha256 });
    }

    #[test]
    fn a_digest_may_be_percent_encoded() {
        let encoded = DIGEST.replace(':', "%3A");
        let expected = Operation::ReadBlob { repository: named("a"), digest: DIGEST.parse().expect("a digest") };
        assert_eq!(parse(Method::GET, &format!("/v2/a/blobs/{encoded}")).expect("parsed"), expected);
        assert!(matches!(parse(Method::GET, "/v2/a%2/manifests/x"), Err(RequestError::NoEndpoint)));
        assert!(matches!(parse(Method::GET, "/v2/a%ff/manifests/x"), Err(RequestError::NoEndpoint)));
    }

    #[test]
    fn names_that_climb_or_are_malformed_are_refused() {
        for uri in [
            "/v2/../manifests/x",
            "/v2/%2e%2e/manifests/x",
            "/v2/a/../b/manifests/x",
            "/v2/A/manifests/x",
            "/v2/a//b/manifests/x",
            "/v2/a!b/manifests/x",
            "/v2/manifests/x",
            "/v2//manifests/x",
        ] {
            assert!(matches!(parse(Method::GET, uri), Err(RequestError::BadName { .. })), "{uri}");
        }
    }

    #[test]
    fn what_cannot_be_mounted_is_hashed_as_its_digest_is() {
        let long = Digest::of(Algorithm::Sha512, b"x");
        for (rest, wanted) in [("", Algorithm::Sha512), ("&digest-algorithm=sha256", Algorithm::Sha256)] {
            let uri = format!("/v2/a/blobs/uploads/?mount={long}&from=b{rest}");
            match parse(Method::POST, &uri) {
                Ok(Operation::MountBlob { algorithm, .. }) => assert_eq!(algorithm, wanted),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_page_size_from_a_client_never_overflows() {
        let limit = |uri: &str| match parse(Method::GET, uri) {
            Ok(Operation::ListTags { paging, .. }) => Some(paging.limit),
            _ => None,
        };
        assert_eq!(limit("/v2/a/tags/list"), Some(None));
        assert_eq!(limit("/v2/a/tags/list?n=0"), Some(Some(0)));
        assert_eq!(limit("/v2/a/tags/list?n=99999999999999999999999"), Some(Some(usize::MAX)));
        assert_eq!(limit("/v2/a/tags/list?n=-1"), None);
        assert_eq!(limit("/v2/a/tags/list?n=x"), None);
    }

    #[test]
    fn only_a_host_is_taken_for_the_registry_that_is_mirrored() {
        let namespace = |method, uri: &str| namespace(&method, &uri.parse().expect("a URI"));
        assert_eq!(namespace(Method::GET, "/v2/a/tags/list?ns=docker.io"), Some("docker.io".into()));
        assert_eq!(namespace(Method::HEAD, "/v2/a/manifests/x?n=1&ns=localhost%3A5000"), Some("localhost:5000".into()));
        for uri in ["/v2/a/tags/list", "/v2/a/tags/list?ns=", "/v2/a/tags/list?ns=a%0d%0ab", "/v2/a/tags/list?ns=a/b"] {
            assert_eq!(namespace(Method::GET, uri), None, "{uri}");
        }
        assert_eq!(namespace(Method::PUT, "/v2/a/manifests/x?ns=docker.io"), None);
    }

    #[test]
    fn everything_that_writes_needs_push_and_everything_that_deletes_needs_delete() {
        let upload = format!("0123456789abcdef0123456789abcdef.sha256.{}", "0".repeat(64));
        let cases = [
            (Method::GET, "/v2/a/tags/list".to_owned(), vec![Action::Pull]),
            (Method::HEAD, "/v2/a/manifests/x".into(), vec![Action::Pull]),
            (Method::GET, format!("/v2/a/blobs/{DIGEST}"), vec![Action::Pull]),
            (Method::GET, format!("/v2/a/referrers/{DIGEST}"), vec![Action::Pull]),
            (Method::GET, "/v2/a/_oci/tag-history/x".into(), vec![Action::Pull]),
            (Method::GET, "/v2/a/_slipway/tags/moment?tag=x&at=2026-11-20T10:00Z".into(), vec![Action::Pull]),
            (Method::PUT, "/v2/a/manifests/x".into(), vec![Action::Push]),
            (Method::PUT, format!("/v2/a/manifests/{DIGEST}?tag=x"), vec![Action::Push]),
            (Method::POST, "/v2/a/blobs/uploads/".into(), vec![Action::Push]),
            (Method::POST, format!("/v2/a/blobs/uploads/?digest={DIGEST}"), vec![Action::Push]),
            (Method::POST, format!("/v2/a/blobs/uploads/?mount={DIGEST}&from=b"), vec![Action::Push, Action::Pull]),
            (Method::POST, format!("/v2/a/blobs/uploads/?mount={DIGEST}"), vec![Action::Push, Action::Pull]),
            (Method::PATCH, format!("/v2/a/blobs/uploads/{upload}"), vec![Action::Push]),
            (Method::PUT, format!("/v2/a/blobs/uploads/{upload}?digest={DIGEST}"), vec![Action::Push]),
            (Method::GET, format!("/v2/a/blobs/uploads/{upload}"), vec![Action::Push]),
            (Method::DELETE, format!("/v2/a/blobs/uploads/{upload}"), vec![Action::Push]),
            (Method::DELETE, "/v2/a/manifests/x".into(), vec![Action::Delete]),
            (Method::DELETE, format!("/v2/a/manifests/{DIGEST}"), vec![Action::Delete]),
            (Method::DELETE, format!("/v2/a/blobs/{DIGEST}"), vec![Action::Delete]),
        ];
        for (method, uri, expected) in cases {
            let operation = parse(method.clone(), &uri).expect(&uri);
            let actions: Vec<Action> = operation.needs().iter().map(|need| need.action).collect();
            assert_eq!(actions, expected, "{method} {uri}");
        }
    }
}
