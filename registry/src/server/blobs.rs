//! Blobs: reading them whole or in part, and deleting them.

use std::io::{Seek, SeekFrom};
use std::ops::RangeInclusive;

use axum::body::Body;
use axum::http::{HeaderMap, Method, Response, StatusCode, header};
use oci::{Digest, RepositoryName};
use store::FileError;

use super::App;
use super::body::{FileBody, read_chunk};
use super::error::RequestError;
use super::response::{self, not_modified};

/// Answers `GET` and `HEAD /v2/NAME/blobs/DIGEST` (distribution-spec, "Pulling blobs").
pub(crate) async fn read(
    app: &App,
    method: &Method,
    headers: &HeaderMap,
    repository: &RepositoryName,
    digest: Digest,
) -> Result<Response<Body>, RequestError> {
    if not_modified(headers, &digest) {
        let (here, asked) = (app.repository(repository), digest.clone());
        let known = store::blocking::run(move || here.has_blob(&asked)).await?;
        return if known {
            Ok(response::not_modified_answer(&digest))
        } else {
            Err(RequestError::UnknownBlob { digest })
        };
    }
    let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let range = range.filter(|_| *method == Method::GET && if_range(headers, &digest));
    let (store, here, asked) = (app.store().clone(), app.repository(repository), digest.clone());
    let (head, memory) = (*method == Method::HEAD, app.memory().clone());
    let (selected, size, body) = store::blocking::run(move || {
        if !here.has_blob(&asked)? {
            return Err(RequestError::UnknownBlob { digest: asked });
        }
        if head {
            let size = store.blobs().size(&asked)?.ok_or(RequestError::UnknownBlob { digest: asked })?;
            return Ok((None, size, None));
        }
        let mut blob = store.blobs().open(&asked)?;
        let selected = range.map_or(Ok(None), |range| select(&range, blob.size))?;
        let (start, length) = match &selected {
            Some(range) => (*range.start(), range.end() - range.start() + 1),
            None => (0, blob.size),
        };
        let failed = |source| FileError::new("read", &store.blobs().path(&asked), source);
        if start > 0 {
            blob.file.seek(SeekFrom::Start(start)).map_err(failed)?;
        }
        let first = read_chunk(&blob.file, length, &memory).map_err(failed)?;
        Ok((selected, blob.size, Some((blob.file, first, length))))
    })
    .await?;
    let length = body.as_ref().map_or(size, |(_, _, length)| *length);
    let body = body
        .map_or_else(Body::empty, |(file, first, length)| FileBody::body(file, first, length, app.memory().clone()));
    let mut answer = response::content(body, "application/octet-stream", length, &digest);
    response::set(&mut answer, header::ACCEPT_RANGES, "bytes");
    // Bytes that are named by their digest never change.
    response::set(&mut answer, header::CACHE_CONTROL, "max-age=31536000");
    if let Some(range) = selected {
        *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        response::set(&mut answer, header::CONTENT_RANGE, &format!("bytes {}-{}/{size}", range.start(), range.end()));
    }
    Ok(answer)
}

/// Answers `DELETE /v2/NAME/blobs/DIGEST`.
pub(crate) async fn delete(
    app: &App,
    repository: &RepositoryName,
    digest: Digest,
) -> Result<Response<Body>, RequestError> {
    let here = app.repository(repository);
    let (removed, digest) = store::blocking::run(move || here.remove_blob(&digest).map(|it| (it, digest))).await?;
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
