//! Manifests: reading, putting and deleting them, by tag or digest.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use bytes::Bytes;
use oci::{Algorithm, Digest, Parsed, RepositoryName, Tag, media_type};
use store::repositories::{ManifestRecord, NewManifest};
use store::{BlobError, Repository, Store};

use super::App;
use super::body::read_all;
use super::error::RequestError;
use super::response::{self, Condition, not_modified};
use super::routes::ManifestReference;

/// Answers `GET` and `HEAD /v2/NAME/manifests/REFERENCE` (distribution-spec, "Pulling manifests").
pub(crate) async fn read(
    app: &App,
    method: &Method,
    headers: &HeaderMap,
    repository: &RepositoryName,
    reference: ManifestReference,
) -> Result<Response<Body>, RequestError> {
    let (store, here) = (app.store().clone(), app.repository(repository));
    let head = *method == Method::HEAD;
    let (digest, record, bytes) = store::blocking::run(move || {
        let unknown = || RequestError::UnknownManifest { reference: reference.to_string() };
        let digest = match &reference {
            ManifestReference::Digest(digest) => digest.clone(),
            ManifestReference::Tag(tag) => here.tag(tag)?.ok_or_else(unknown)?.digest,
        };
        let record = here.manifest(&digest)?.ok_or_else(unknown)?;
        if head {
            // "It is here" keeps a client from pushing it again, so look.
            store.blobs().size(&digest)?.ok_or_else(unknown)?;
            return Ok((digest, record, None));
        }
        match store.blobs().read(&digest, record.size) {
            Ok(bytes) => Ok((digest, record, Some(bytes))),
            // It can be pushed again, which heals it.
            Err(BlobError::NotFound { .. } | BlobError::Damaged { .. }) => Err(unknown()),
            Err(error) => Err(RequestError::from(error)),
        }
    })
    .await?;
    if not_modified(headers, &digest) {
        return Ok(response::not_modified_answer(&digest));
    }
    let body = bytes.map_or_else(Body::empty, Body::from);
    Ok(response::content(body, &record.media_type, record.size, &digest))
}

/// Answers `PUT /v2/NAME/manifests/REFERENCE[?tag=TAG…]` (distribution-spec, "Pushing Manifests").
///
/// With `If-Match` or `If-None-Match` (RFC 9110), a tag is moved only if it names what the client read.
pub(crate) async fn put(
    app: &App,
    headers: &HeaderMap,
    body: &mut Body,
    repository: &RepositoryName,
    reference: ManifestReference,
    mut tags: Vec<Tag>,
) -> Result<Response<Body>, RequestError> {
    let limits = app.limits();
    let bytes = read_all(body, headers, limits.manifest_bytes, app.memory(), limits.inactivity).await?;
    let sent_as = content_type(headers);
    let digest = match &reference {
        ManifestReference::Digest(digest) => Some(digest.clone()),
        ManifestReference::Tag(tag) => {
            tags.insert(0, tag.clone());
            None
        }
    };
    // What is named by its digest never changes.
    let condition = digest.is_none().then(|| Condition::of(headers)).flatten();
    let (store, here, sparse) = (app.store().clone(), app.repository(repository), app.sparse());
    let (digest, record, tags, warnings) = store::blocking::run(move || -> Result<_, RequestError> {
        let (digest, record, warnings) = check(&store, &here, &bytes, digest, sent_as.as_deref(), sparse)?;
        let new = NewManifest { digest: &digest, bytes: &bytes, record: &record, tags: &tags };
        match (condition, tags.first()) {
            (Some(condition), Some(tag)) => {
                if !here.put_manifest_if(&new, tag, |current| condition.holds(current))? {
                    return Err(RequestError::TagMoved { tag: tag.to_string() });
                }
            }
            _ => here.put_manifest(&new)?,
        }
        Ok((digest, record, tags, warnings))
    })
    .await?;
    let location = format!("/v2/{}/manifests/{digest}", repository.as_str());
    let mut answer = response::created(&location, &digest);
    if let Some(subject) = &record.subject {
        response::set(&mut answer, response::OCI_SUBJECT, &subject.to_string());
    }
    for tag in &tags {
        if let Ok(tag) = HeaderValue::from_str(tag.as_str()) {
            answer.headers_mut().append(response::OCI_TAG, tag);
        }
    }
    for warning in warnings {
        response::warn(&mut answer, &warning);
    }
    if tags.iter().any(is_fallback_tag) {
        response::warn(
            &mut answer,
            "this registry lists referrers itself; a tag made of the subject's digest is not needed",
        );
    }
    Ok(answer)
}

/// Answers `DELETE /v2/NAME/manifests/REFERENCE`: a tag only, or a manifest with all its tags.
pub(crate) async fn delete(
    app: &App,
    repository: &RepositoryName,
    reference: ManifestReference,
) -> Result<Response<Body>, RequestError> {
    let here = app.repository(repository);
    let (removed, reference) = store::blocking::run(move || {
        let removed = match &reference {
            ManifestReference::Tag(tag) => here.delete_tag(tag),
            ManifestReference::Digest(digest) => here.delete_manifest(digest),
        };
        removed.map(|removed| (removed, reference))
    })
    .await?;
    if removed {
        Ok(response::empty(StatusCode::ACCEPTED))
    } else {
        Err(RequestError::UnknownManifest { reference: reference.to_string() })
    }
}

/// Checks a manifest that was sent, and notes what it says. Last comes what its sender should know.
fn check(
    store: &Store,
    repository: &Repository,
    bytes: &Bytes,
    expected: Option<Digest>,
    sent_as: Option<&str>,
    sparse: bool,
) -> Result<(Digest, ManifestRecord, Vec<String>), RequestError> {
    let algorithm = expected.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
    let actual = Digest::of(algorithm, bytes);
    if let Some(expected) = expected.filter(|expected| *expected != actual) {
        return Err(RequestError::DigestMismatch { expected, actual });
    }
    let parsed = Parsed::parse(bytes, sent_as).map_err(|source| RequestError::BadManifest { source })?;
    // An index may name platforms that are not here (distribution-spec, "Pushing Manifests": sparse indexes), and a
    // subject may come later. An image without its own blobs could never be pulled.
    let missing = match &parsed {
        Parsed::Manifest(manifest) => {
            let needed = std::iter::once(&manifest.config).chain(&manifest.layers);
            let mut missing = Vec::new();
            for descriptor in needed.filter(|it| !media_type::is_nondistributable(&it.media_type)) {
                if !repository.has_blob(&descriptor.digest)? || store.blobs().size(&descriptor.digest)?.is_none() {
                    missing.push(&descriptor.digest);
                }
            }
            if let Some(digest) = missing.first().filter(|_| !sparse) {
                return Err(RequestError::MissingReference { digest: (*digest).clone() });
            }
            missing
        }
        Parsed::Index(index) => {
            let mut missing = Vec::new();
            for child in &index.manifests {
                if repository.manifest(&child.digest)?.is_none() {
                    missing.push(&child.digest);
                }
            }
            missing
        }
    };
    let warnings = missing.first().map(|first| match missing.len() - 1 {
        0 => format!("it names {first}, which is not in this repository"),
        more => format!("it names {first}, which is not in this repository, and {more} more that are not"),
    });
    let media_type = sent_as.unwrap_or(parsed.media_type());
    let record = ManifestRecord::of(&parsed, media_type, bytes.len() as u64);
    Ok((actual, record, warnings.into_iter().collect()))
}

/// Tells whether clients note referrers under a tag (distribution-spec, "Referrers Tag Schema").
fn is_fallback_tag(tag: &Tag) -> bool {
    let hex = tag.as_str().strip_prefix("sha256-").or_else(|| tag.as_str().strip_prefix("sha512-"));
    hex.is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Returns what the client calls the body, without parameters such as a character set.
fn content_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let media_type = value.split(';').next().unwrap_or(value).trim();
    (!media_type.is_empty()).then(|| media_type.to_owned())
}
