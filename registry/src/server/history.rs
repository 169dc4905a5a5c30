//! Extensions: which there are, the history of a tag, and what it named at some moment.

use axum::body::Body;
use axum::http::{HeaderMap, Method, Response};
use jiff::Timestamp;
use oci::{RepositoryName, Tag};

use super::App;
use super::error::RequestError;
use super::manifests;
use super::response::{self, set_next};
use super::routes::Paging;
use crate::storage::Change;

/// The longest page of a history. Each change is an object of its own to read.
const MAX_PAGE: usize = 100;

/// Answers `GET /v2/[NAME/]_oci/ext/discover` (distribution-spec, `extensions/_oci.md`).
pub(crate) fn discover() -> Response<Body> {
    let extensions = serde_json::json!({ "extensions": [
        {
            "name": "_oci",
            "url": "https://github.com/opencontainers/distribution-spec/blob/main/extensions/_oci.md",
            "description": "which extensions there are, and what a tag named, the latest first",
            "endpoints": ["_oci/ext/discover", "_oci/tag-history/<tag>"],
        },
        {
            "name": "_slipway",
            "url": "docs/REGISTRY.md",
            "description": "the manifest that a tag named at some moment",
            "endpoints": ["_slipway/tags/moment"],
        },
    ]});
    response::json("application/json", &extensions)
}

/// Answers `GET /v2/NAME/_oci/tag-history/TAG` (distribution-spec, pull request 606): what the tag named, the latest
/// first, also when it was deleted.
pub(crate) async fn list(
    app: &App,
    repository: &RepositoryName,
    tag: &Tag,
    paging: Paging,
) -> Result<Response<Body>, RequestError> {
    let here = app.repository(repository);
    let limit = paging.limit.unwrap_or(MAX_PAGE).clamp(1, MAX_PAGE);
    let latest = here.changes(tag).await?;
    if latest == 0 {
        return Err(RequestError::UnknownManifest { reference: tag.to_string() });
    }
    let before = paging.after.as_deref().and_then(|last| last.parse().ok()).unwrap_or(u64::MAX);
    let end = before.saturating_sub(1).min(latest);
    let start = end.saturating_sub(limit as u64);
    let mut changes = here.history(tag, start, limit).await?.entries;
    changes.retain(|change| change.sequence <= end);
    changes.reverse();
    let entries: Vec<serde_json::Value> = changes.iter().map(entry).collect();
    let body = serde_json::json!({ "name": repository.as_str(), "tag": tag.as_str(), "history": entries });
    let mut answer = response::json("application/json", &body);
    if start > 0 {
        let name = repository.as_str();
        set_next(&mut answer, &format!("/v2/{name}/_oci/tag-history/{tag}?n={limit}&last={}", start + 1));
    }
    Ok(answer)
}

fn entry(change: &Change) -> serde_json::Value {
    let mut entry = serde_json::json!({ "sequence": change.sequence, "created": change.at.to_string() });
    match &change.digest {
        Some(digest) => {
            entry["digest"] = digest.to_string().into();
            entry["mediaType"] = change.media_type.as_deref().into();
        }
        None => entry["deleted"] = true.into(),
    }
    if let Some(by) = &change.by {
        entry["by"] = by.as_str().into();
    }
    entry
}

/// Answers `GET /v2/NAME/_slipway/tags/moment?tag=TAG&at=TIME` as a pull of the tag would have been then.
pub(crate) async fn moment(
    app: &App,
    method: &Method,
    headers: &HeaderMap,
    repository: &RepositoryName,
    tag: &Tag,
    at: Timestamp,
) -> Result<Response<Body>, RequestError> {
    let here = app.repository(repository);
    let reference = format!("{tag}@{{{at}}}");
    match here.tag_at(tag, at).await?.and_then(|change| change.digest) {
        Some(digest) => manifests::send(app, method, headers, &here, (&digest, None), reference).await,
        None => Err(RequestError::UnknownManifest { reference }),
    }
}
