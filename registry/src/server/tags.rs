//! Lists of tags and of repositories, in pages.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use axum::body::Body;
use axum::http::{Response, header};
use bytes::Bytes;
use oci::RepositoryName;
use serde::Serialize;

use super::App;
use super::error::RequestError;
use super::response::{self, encoded, set_next};
use super::routes::Paging;

#[derive(Serialize)]
struct Tags<'a> {
    name: &'a str,
    tags: &'a [String],
}

/// The longest page, whatever a client asks for.
const MAX_PAGE: usize = 10_000;

/// Answers `GET /v2/NAME/tags/list` (distribution-spec, "Listing Tags").
pub(crate) async fn list(
    app: &App,
    repository: &RepositoryName,
    paging: Paging,
) -> Result<Response<Body>, RequestError> {
    let (here, limit) = (app.repository(repository), limit(&paging));
    let asked = (repository.clone(), paging.after, limit);
    let path = format!("/v2/{}/tags/list", repository.as_str());
    // Before anything is read: what changes meanwhile changes this.
    let at = app.storage().tag_changes()?;
    if let Some(list) = at.and_then(|at| app.lists().get(at, &asked)) {
        return Ok(answer(list.body, list.last.as_deref(), &path, limit));
    }
    if !here.is_known().await? {
        return Err(RequestError::UnknownRepository { name: repository.as_str().to_owned() });
    }
    let mut page = here.tags(asked.1.as_deref(), limit).await?;
    // Not by way of a `Value`, which would have every tag a second time.
    let body = response::bytes(&Tags { name: repository.as_str(), tags: &page.entries });
    let list = List { body, last: page.entries.pop().filter(|_| page.more) };
    if let Some(at) = at {
        app.lists().put(at, asked, list.clone());
    }
    Ok(answer(list.body, list.last.as_deref(), &path, limit))
}

/// Lists of tags that were sent lately, to send them again as long as no tag changes.
#[derive(Debug, Default)]
pub(super) struct Lists(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// What [`Storage::tag_changes`](crate::storage::Storage::tag_changes) said when they were read.
    at: u64,
    lists: HashMap<Asked, List>,
    bytes: usize,
}

/// Of which repository, after which tag, and how many.
type Asked = (RepositoryName, Option<String>, usize);

#[derive(Clone, Debug)]
struct List {
    body: Bytes,
    /// The last tag in it, if more come.
    last: Option<String>,
}

impl Lists {
    /// How many bytes are kept at most.
    const MOST: usize = 2 * 1024 * 1024;

    fn get(&self, at: u64, asked: &Asked) -> Option<List> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.lists.get(asked).filter(|_| kept.at == at).cloned()
    }

    fn put(&self, at: u64, asked: Asked, list: List) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // What a list costs beside its bytes is little.
        let bytes = list.body.len() + asked.1.as_ref().map_or(0, String::len) + 500;
        if kept.at != at || kept.bytes + bytes > Self::MOST {
            *kept = Kept { at, ..Kept::default() };
        }
        if bytes <= Self::MOST && kept.lists.insert(asked, list).is_none() {
            kept.bytes += bytes;
        }
    }
}

/// Answers `GET /v2/_catalog`, which distribution-spec reserves and Docker's registry defined.
pub(crate) async fn list_repositories(app: &App, paging: Paging) -> Result<Response<Body>, RequestError> {
    let limit = limit(&paging);
    let page = app.storage().catalog(paging.after.as_deref(), limit).await?;
    let names: Vec<&str> = page.entries.iter().map(RepositoryName::as_str).collect();
    let body = response::bytes(&serde_json::json!({ "repositories": names }));
    Ok(answer(body, names.last().copied().filter(|_| page.more), "/v2/_catalog", limit))
}

fn limit(paging: &Paging) -> usize {
    paging.limit.unwrap_or(MAX_PAGE).min(MAX_PAGE)
}

fn answer(body: Bytes, last: Option<&str>, path: &str, limit: usize) -> Response<Body> {
    let mut answer = Response::new(Body::from(body));
    response::set(&mut answer, header::CONTENT_TYPE, "application/json");
    if let Some(last) = last {
        set_next(&mut answer, &format!("{path}?n={limit}&last={}", encoded(last)));
    }
    answer
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::ServeOptions;
    use super::*;
    use crate::storage::objects::disk::{Disk, DiskOptions};
    use crate::storage::{NewManifest, Storage, StorageOptions};

    #[tokio::test]
    async fn a_list_that_is_kept_is_that_of_now() {
        let home = tempfile::tempdir().expect("tempdir");
        let open = || {
            let disk = Disk::open(home.path(), DiskOptions::new(Timestamp::now)).expect("a folder");
            Storage::new(disk.backend(), StorageOptions::default())
        };
        // Another server on the same folder changes what is there.
        let (storage, other) = (open(), open());
        let app = App::new(ServeOptions::new(storage, ([127, 0, 0, 1], 0).into()));
        let name: RepositoryName = "a".parse().expect("a name");
        let bytes = Bytes::from_static(br#"{"schemaVersion":2,"manifests":[]}"#);
        let digest = oci::Digest::sha256(&bytes);
        let parsed = oci::Parsed::parse(&bytes, Some(oci::media_type::OCI_INDEX)).expect("an index");
        let mut tags = Vec::new();
        for number in 0..5 {
            let tag: oci::Tag = format!("v{number}").parse().expect("a tag");
            let new = NewManifest {
                digest: &digest,
                bytes: &bytes,
                parsed: &parsed,
                media_type: oci::media_type::OCI_INDEX,
                tags: std::slice::from_ref(&tag),
                holds: None,
                sparse: false,
                by: None,
            };
            other.repository(&name).put_manifest(&new).await.expect("put");
            tags.push(tag);
            // Asked again, it is kept; and each page is another.
            for _ in 0..3 {
                for limit in [2, 100] {
                    let paging = Paging { after: None, limit: Some(limit) };
                    let answer = list(&app, &name, paging).await.expect("listed");
                    assert_eq!(answer.headers().contains_key(header::LINK), limit < tags.len());
                    let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.expect("read");
                    let shown: Vec<&str> = tags.iter().take(limit).map(oci::Tag::as_str).collect();
                    assert_eq!(*body, *response::bytes(&serde_json::json!({ "name": "a", "tags": shown })));
                }
            }
        }
        // Unless somebody is at the journal at that very moment, a list is kept.
        while app.lists().0.lock().expect("not poisoned").lists.is_empty() {
            list(&app, &name, Paging { after: None, limit: None }).await.expect("listed");
        }
        other.repository(&name).delete_tag(&tags[0], None).await.expect("deleted");
        let answer = list(&app, &name, Paging { after: None, limit: None }).await.expect("listed");
        let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.expect("read");
        assert!(!String::from_utf8_lossy(&body).contains("v0"));
    }
}
