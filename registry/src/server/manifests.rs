//! Manifests: reading, putting and deleting them, by tag or digest.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use oci::{Algorithm, Digest, Parsed, RepositoryName, Tag};

use super::App;
use super::blobs;
use super::error::RequestError;
use super::response::{self, Condition, not_modified};
use super::routes::ManifestReference;
use crate::storage::tags::TagTest;
use crate::storage::{Id, NewManifest, Repository};

/// Of how many manifests that an index names it is found out whether they are here, to warn if not.
const LOOKED_FOR: usize = 100;

/// Answers `GET` and `HEAD /v2/NAME/manifests/REFERENCE` (distribution-spec, "Pulling manifests").
pub(crate) async fn read(
    app: &App,
    method: &Method,
    headers: &HeaderMap,
    repository: &RepositoryName,
    reference: ManifestReference,
) -> Result<Response<Body>, RequestError> {
    let here = app.repository(repository);
    let (digest, incarnation) = match &reference {
        ManifestReference::Digest(digest) => (digest.clone(), None),
        ManifestReference::Tag(tag) => match here.tag(tag).await? {
            Some(named) => (named.digest, Some(named.incarnation)),
            None => return Err(RequestError::UnknownManifest { reference: reference.to_string() }),
        },
    };
    send(app, method, headers, &here, (&digest, incarnation), reference).await
}

/// Answers with a manifest of the repository, if it is there, and if it is the incarnation that is asked for: a tag of
/// one that was deleted names nothing, also when the manifest was pushed again.
pub(crate) async fn send(
    app: &App,
    method: &Method,
    headers: &HeaderMap,
    here: &Repository,
    (digest, incarnation): (&Digest, Option<Id>),
    reference: impl ToString,
) -> Result<Response<Body>, RequestError> {
    let unknown = || RequestError::UnknownManifest { reference: reference.to_string() };
    let record = here.manifest(digest).await?;
    let record = record.filter(|it| incarnation.is_none_or(|wanted| it.incarnation == wanted)).ok_or_else(unknown)?;
    // "It is here" keeps a client from pushing it again, so HEAD looks too. Pushed again, it is healed.
    let blob = here.manifest_blob(digest).await?.filter(|blob| blob.size() == record.size).ok_or_else(unknown)?;
    if *method == Method::GET {
        app.pulls().note(here, digest);
    }
    if not_modified(headers, digest) {
        return Ok(response::not_modified_answer(digest));
    }
    let body = match *method {
        Method::HEAD => Body::empty(),
        _ => blobs::body(app, &blob, 0..blob.size()).await?.ok_or_else(unknown)?,
    };
    Ok(response::content(body, &record.media_type, record.size, digest))
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
    let sent = app.manifests().read(body, headers, app.limits().inactivity).await?;
    let bytes = sent.bytes.clone();
    let sent_as = content_type(headers);
    let expected = match &reference {
        ManifestReference::Digest(digest) => Some(digest),
        ManifestReference::Tag(tag) => {
            tags.insert(0, tag.clone());
            None
        }
    };
    // What is named by its digest never changes.
    let condition = expected.is_none().then(|| Condition::of(headers)).flatten();
    let digest = Digest::of(expected.map_or(Algorithm::Sha256, Digest::algorithm), &bytes);
    if let Some(expected) = expected.filter(|expected| **expected != digest) {
        return Err(RequestError::DigestMismatch { expected: expected.clone(), actual: digest });
    }
    let parsed = Parsed::parse(&bytes, sent_as.as_deref()).map_err(|source| RequestError::BadManifest { source })?;
    let here = app.repository(repository);
    let by_tag = expected.is_none();
    let sparse = app.sparse();
    let put = async move {
        let test = |current: Option<&Digest>| condition.as_ref().is_none_or(|condition| condition.holds(current));
        let new = NewManifest {
            digest: &digest,
            bytes: &bytes,
            parsed: &parsed,
            media_type: sent_as.as_deref().unwrap_or(parsed.media_type()),
            tags: &tags,
            holds: condition.as_ref().map(|_| TagTest(&test)),
            sparse,
            by: None,
        };
        let put = here.put_manifest(&new).await;
        drop(sent);
        put.map(|()| (here, digest, parsed, tags))
    };
    let (here, digest, parsed, tags) = app.in_task(put).await??;
    let location = format!("/v2/{}/manifests/{digest}", repository.as_str());
    let mut answer = response::created(&location, &digest);
    if let Some(subject) = parsed.subject() {
        response::set(&mut answer, response::OCI_SUBJECT, &subject.digest.to_string());
    }
    for tag in &tags {
        if let Ok(tag) = HeaderValue::from_str(tag.as_str()) {
            answer.headers_mut().append(response::OCI_TAG, tag);
        }
    }
    if by_tag {
        response::set(&mut answer, header::ETAG, &response::etag(&digest));
    }
    warn(app, &here, &parsed, &tags, &mut answer).await?;
    Ok(answer)
}

/// Tells who pushed a manifest what is allowed, and perhaps not meant.
async fn warn(
    app: &App,
    here: &Repository,
    parsed: &Parsed,
    tags: &[Tag],
    answer: &mut Response<Body>,
) -> Result<(), RequestError> {
    let mut missing = Vec::new();
    match parsed {
        Parsed::Index(index) => {
            for child in index.manifests.iter().take(LOOKED_FOR) {
                if here.manifest(&child.digest).await?.is_none() {
                    missing.push(&child.digest);
                }
            }
        }
        Parsed::Manifest(manifest) if app.sparse() => {
            for blob in std::iter::once(&manifest.config).chain(&manifest.layers).take(LOOKED_FOR) {
                if here.blob(&blob.digest).await?.is_none() {
                    missing.push(&blob.digest);
                }
            }
        }
        Parsed::Manifest(_) => {}
    }
    match missing.as_slice() {
        [] => {}
        [one] => response::warn(answer, &format!("it names {one}, which is not in this repository")),
        [first, more @ ..] => {
            let more = more.len();
            response::warn(
                answer,
                &format!("it names {first}, which is not in this repository, and {more} more that are not"),
            );
        }
    }
    if tags.iter().any(is_fallback_tag) {
        response::warn(
            answer,
            "this registry lists referrers itself; a tag made of the subject's digest is not needed",
        );
    }
    Ok(())
}

/// Answers `DELETE /v2/NAME/manifests/REFERENCE`: a tag only, or a manifest with all its tags.
pub(crate) async fn delete(
    app: &App,
    repository: &RepositoryName,
    reference: ManifestReference,
) -> Result<Response<Body>, RequestError> {
    let here = app.repository(repository);
    let name = reference.to_string();
    let delete = async move {
        match &reference {
            ManifestReference::Tag(tag) => here.delete_tag(tag, None).await,
            ManifestReference::Digest(digest) => here.delete_manifest(digest, None).await,
        }
    };
    if app.in_task(delete).await?? {
        Ok(response::empty(StatusCode::ACCEPTED))
    } else {
        Err(RequestError::UnknownManifest { reference: name })
    }
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

#[cfg(test)]
mod tests {
    use axum::body::HttpBody as _;
    use http_body_util::BodyExt as _;
    use jiff::Timestamp;

    use super::super::ServeOptions;
    use super::*;
    use crate::storage::objects::disk::{Disk, DiskOptions};
    use crate::storage::objects::memory::Memory;
    use crate::storage::{Storage, StorageOptions};

    #[tokio::test]
    async fn a_long_manifest_is_never_in_memory_as_a_whole() {
        let home = tempfile::tempdir().expect("tempdir");
        let disk = Disk::open(home.path(), DiskOptions::new(Timestamp::now)).expect("a folder");
        let storage = Storage::new(disk.backend(), StorageOptions::default());
        let app = App::new(ServeOptions::new(storage, ([127, 0, 0, 1], 0).into()));
        let repository: RepositoryName = "a".parse().expect("a name");
        let text = format!(r#"{{"schemaVersion":2,"manifests":[],"x":"{}"}}"#, "y".repeat(3 << 20));
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(oci::media_type::OCI_INDEX));
        let reference = || ManifestReference::Tag("v1".parse().expect("a tag"));
        let mut sent = Body::from(text.clone());
        put(&app, &headers, &mut sent, &repository, reference(), Vec::new()).await.expect("put");
        let answer = read(&app, &Method::GET, &HeaderMap::new(), &repository, reference()).await.expect("read");
        let mut body = answer.into_body();
        assert_eq!(body.size_hint().exact(), Some(text.len() as u64));
        let mut all = Vec::new();
        while let Some(frame) = body.frame().await {
            let piece = frame.expect("read").into_data().expect("data");
            assert!(piece.len() <= 1 << 20, "{}", piece.len());
            all.extend_from_slice(&piece);
        }
        assert!(all == text.as_bytes());
    }

    #[tokio::test]
    async fn that_a_manifest_is_pulled_is_noted() {
        let storage = Storage::new(Memory::default().backend(), StorageOptions::default());
        let app = App::new(ServeOptions::new(storage.clone(), ([127, 0, 0, 1], 0).into()));
        let repository: RepositoryName = "a".parse().expect("a name");
        let text = r#"{"schemaVersion":2,"manifests":[]}"#;
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(oci::media_type::OCI_INDEX));
        let reference = || ManifestReference::Tag("v1".parse().expect("a tag"));
        put(&app, &headers, &mut Body::from(text), &repository, reference(), Vec::new()).await.expect("put");
        let digest = Digest::sha256(text.as_bytes());
        let here = storage.repository(&repository);
        let was_pulled = async || here.was_pulled_since(&digest, Timestamp::MIN).await.expect("told");
        read(&app, &Method::HEAD, &HeaderMap::new(), &repository, reference()).await.expect("read");
        tokio::task::yield_now().await;
        assert!(!was_pulled().await, "to ask is not to pull");
        read(&app, &Method::GET, &HeaderMap::new(), &repository, reference()).await.expect("read");
        while !was_pulled().await {
            tokio::task::yield_now().await;
        }
    }
}
