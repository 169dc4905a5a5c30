//! Blobs: reading them whole or in part, and deleting them.

use std::ops::{Range, RangeInclusive};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, Method, Response, StatusCode, header};
use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream, StreamExt};
use oci::{Digest, RepositoryName};

use super::App;
use super::body::FileBody;
use super::error::RequestError;
use super::response::{self, not_modified};
use crate::storage::{Blob, Content, ObjectError, StorageError};

/// With this header, a client gets the bytes from us even where others are sent to the store.
const NO_REDIRECT: HeaderName = HeaderName::from_static("slipway-no-redirect");
/// For how long an address of the store may be used; a slow client begins within that, and may then take its time.
const SIGNED_FOR: Duration = Duration::from_secs(20 * 60);
/// How much of a blob is asked of a bucket at once, if there is memory, and how many parts at a time.
const PART: usize = 8 * 1024 * 1024;
const AHEAD: usize = 4;
/// What any bytes are called.
const BYTES: &str = "application/octet-stream";

/// Answers `GET` and `HEAD /v2/NAME/blobs/DIGEST` (distribution-spec, "Pulling blobs").
pub(crate) async fn read(
    app: &App,
    method: &Method,
    headers: &HeaderMap,
    repository: &RepositoryName,
    digest: Digest,
) -> Result<Response<Body>, RequestError> {
    let repository = app.repository(repository);
    let unknown = || RequestError::UnknownBlob { digest: digest.clone() };
    if *method == Method::HEAD {
        let size = repository.blob_size(&digest).await?.ok_or_else(unknown)?;
        return Ok(match not_modified(headers, &digest) {
            true => response::not_modified_answer(&digest),
            false => whole(Body::empty(), size, &digest),
        });
    }
    let blob = repository.blob(&digest).await?.ok_or_else(unknown)?;
    if not_modified(headers, &digest) {
        return Ok(response::not_modified_answer(&digest));
    }
    if app.redirects()
        && !headers.contains_key(NO_REDIRECT)
        && let Some(url) = blob.signed_url(SIGNED_FOR, BYTES).await?
    {
        let mut answer = response::empty(StatusCode::TEMPORARY_REDIRECT);
        response::set(&mut answer, header::LOCATION, &url);
        response::set(&mut answer, response::CONTENT_DIGEST, &digest.to_string());
        return Ok(answer);
    }
    let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    let selected = match range.filter(|_| if_range(headers, &digest)) {
        Some(range) => select(range, blob.size())?,
        None => None,
    };
    let wanted = selected.as_ref().map_or(0..blob.size(), |range| *range.start()..range.end() + 1);
    let body = body(app, &blob, wanted.clone()).await?.ok_or_else(unknown)?;
    let mut answer = whole(body, wanted.end - wanted.start, &digest);
    if let Some(range) = selected {
        let (start, end, size) = (range.start(), range.end(), blob.size());
        *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        response::set(&mut answer, header::CONTENT_RANGE, &format!("bytes {start}-{end}/{size}"));
    }
    Ok(answer)
}

fn whole(body: Body, length: u64, digest: &Digest) -> Response<Body> {
    let mut answer = response::content(body, BYTES, length, digest);
    let headers = answer.headers_mut();
    headers.insert(header::ACCEPT_RANGES, header::HeaderValue::from_static("bytes"));
    // Bytes that are named by their digest never change.
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("max-age=31536000"));
    answer
}

/// Sends some of a blob, or nothing if it was thrown away meanwhile.
///
/// What comes over a network is asked for in parts, the next ones while one is sent: a single stream from a bucket is
/// slower than most clients.
pub(crate) async fn body(app: &App, blob: &Blob, wanted: Range<u64>) -> Result<Option<Body>, RequestError> {
    if wanted.is_empty() {
        return Ok(Some(Body::empty()));
    }
    // Many clients at once keep a bucket busy by themselves, and there is no memory for parts of all of them.
    let share = app.memory().share(PART);
    let (part, ahead) = if share >= PART / 4 { (share as u64, AHEAD) } else { (PART as u64, 1) };
    let first = wanted.start..wanted.end.min(wanted.start + part);
    let whole = first == wanted;
    let content = match blob.read(first.clone()).await? {
        // A file has all of it.
        Some(Content::File { .. }) if !whole => blob.read(wanted.clone()).await?,
        content => content,
    };
    Ok(match content {
        None => None,
        Some(Content::File { file, offset, length }) => {
            Some(FileBody::body(file, offset, length, app.memory().clone()).await?)
        }
        Some(Content::Bytes(bytes)) if whole => Some(Body::from(bytes)),
        Some(content) => {
            let starts = (first.end..wanted.end).step_by(usize::try_from(part).unwrap_or(PART));
            let parts = starts.map(move |start| start..wanted.end.min(start + part));
            let blob = blob.clone();
            let following = stream::iter(parts).map(move |range| read_part(blob.clone(), range)).buffered(ahead);
            Some(Body::from_stream(pieces(content).chain(following)))
        }
    })
}

/// Reads some of a blob into memory.
async fn read_part(blob: Blob, range: Range<u64>) -> Result<Bytes, ObjectError> {
    let gone = |what: &str| ObjectError::Damaged { what: what.to_owned(), version: None };
    let size = usize::try_from(range.end - range.start).unwrap_or(0);
    let content = blob.read(range).await.map_err(|error| match error {
        StorageError::Object(error) => error,
        error => ObjectError::Unavailable { source: error.into() },
    })?;
    match content.ok_or_else(|| gone("a blob that is being read"))? {
        Content::Bytes(bytes) => Ok(bytes),
        content => {
            let mut all = BytesMut::with_capacity(size);
            let mut pieces = pieces(content);
            while let Some(piece) = pieces.next().await {
                all.extend_from_slice(&piece?);
            }
            Ok(all.freeze())
        }
    }
}

/// Returns content piece by piece.
fn pieces(content: Content) -> BoxStream<'static, Result<Bytes, ObjectError>> {
    match content {
        Content::Bytes(bytes) => stream::once(std::future::ready(Ok(bytes))).boxed(),
        Content::Stream(stream) => stream,
        Content::File { file, offset, length } => stream::once(store::blocking::run(move || {
            let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
            file.read_exact_at(&mut bytes, offset).map(|()| bytes.into()).map_err(|source| ObjectError::Failed {
                action: "read",
                what: "data".into(),
                source: source.into(),
            })
        }))
        .boxed(),
    }
}

/// Answers `DELETE /v2/NAME/blobs/DIGEST`.
pub(crate) async fn delete(
    app: &App,
    repository: &RepositoryName,
    digest: Digest,
) -> Result<Response<Body>, RequestError> {
    let (here, deleted) = (app.repository(repository), digest.clone());
    let removed = app.in_task(async move { here.delete_blob(&deleted).await }).await??;
    if removed { Ok(response::empty(StatusCode::ACCEPTED)) } else { Err(RequestError::UnknownBlob { digest }) }
}

/// Tells whether a range still counts: `If-Range` may name content that is not this (RFC 9110, section 13.1.5).
fn if_range(headers: &HeaderMap, digest: &Digest) -> bool {
    headers.get(header::IF_RANGE).is_none_or(|value| value.as_bytes() == response::etag(digest).as_bytes())
}

/// Picks the bytes that a `Range` header means, or all of them if it means nothing to us (RFC 9110, section 14.2).
///
/// An inverted range is refused, as Go's servers do and the conformance suite expects, where the RFC would ignore it.
fn select(range: &str, size: u64) -> Result<Option<RangeInclusive<u64>>, RequestError> {
    let Some(range) = range.trim().strip_prefix("bytes=") else { return Ok(None) };
    // Several ranges may be answered with everything, and nobody asks a registry for several.
    let Some((start, end)) = range.trim().split_once('-').filter(|_| !range.contains(',')) else { return Ok(None) };
    let number = |text: &str| match text {
        "" => Some(None),
        _ if text.bytes().all(|byte| byte.is_ascii_digit()) => Some(Some(text.parse().unwrap_or(u64::MAX))),
        _ => None,
    };
    let outside = RequestError::RangeOutside { size };
    let (start, last) = match (number(start.trim()), number(end.trim())) {
        (Some(Some(start)), Some(end)) => (start, end.unwrap_or(u64::MAX)),
        (Some(None), Some(Some(0))) => return Err(outside),
        (Some(None), Some(Some(count))) => (size.saturating_sub(count), u64::MAX),
        _ => return Ok(None),
    };
    if start >= size || last < start { Err(outside) } else { Ok(Some(start..=last.min(size - 1))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_clamped_refused_or_ignored() {
        let cases = [
            ("bytes=0-0", Some(Some(0..=0))),
            ("bytes=500-1499", Some(Some(500..=1499))),
            ("bytes=500-", Some(Some(500..=2047))),
            ("bytes=-500", Some(Some(1548..=2047))),
            ("bytes=-9999", Some(Some(0..=2047))),
            ("bytes=2000-5000", Some(Some(2000..=2047))),
            ("bytes=0-99999999999999999999999", Some(Some(0..=2047))),
            ("bytes=2048-", None),
            ("bytes=5000-10000", None),
            ("bytes=500-0", None),
            ("bytes=-0", None),
            ("bytes=0-1,5-6", Some(None)),
            ("bytes=a-b", Some(None)),
            ("bytes=-", Some(None)),
            ("lines=1-2", Some(None)),
            ("", Some(None)),
        ];
        for (text, expected) in cases {
            assert_eq!(select(text, 2048).ok(), expected, "{text}");
        }
        assert!(select("bytes=0-", 0).is_err());
    }
}
