//! Lists of tags and of repositories, in pages.

use axum::body::Body;
use axum::http::Response;
use oci::RepositoryName;

use super::App;
use super::error::RequestError;
use super::response::{self, encoded, set_next};
use super::routes::Paging;

/// The longest page, whatever a client asks for.
const MAX_PAGE: usize = 10_000;

/// Answers `GET /v2/NAME/tags/list` (distribution-spec, "Listing Tags").
pub(crate) async fn list(
    app: &App,
    repository: &RepositoryName,
    paging: Paging,
) -> Result<Response<Body>, RequestError> {
    let here = app.repository(repository);
    let limit = limit(&paging);
    if !here.is_known().await? {
        return Err(RequestError::UnknownRepository { name: repository.as_str().to_owned() });
    }
    let page = here.tags(paging.after.as_deref(), limit).await?;
    let body = serde_json::json!({ "name": repository.as_str(), "tags": page.entries });
    let last = page.entries.last().filter(|_| page.more).map(String::as_str);
    Ok(answer(&body, last, &format!("/v2/{}/tags/list", repository.as_str()), limit))
}

/// Answers `GET /v2/_catalog`, which distribution-spec reserves and Docker's registry defined.
pub(crate) async fn list_repositories(app: &App, paging: Paging) -> Result<Response<Body>, RequestError> {
    let limit = limit(&paging);
    let page = app.storage().catalog(paging.after.as_deref(), limit).await?;
    let names: Vec<&str> = page.entries.iter().map(RepositoryName::as_str).collect();
    let body = serde_json::json!({ "repositories": names });
    Ok(answer(&body, names.last().copied().filter(|_| page.more), "/v2/_catalog", limit))
}

fn limit(paging: &Paging) -> usize {
    paging.limit.unwrap_or(MAX_PAGE).min(MAX_PAGE)
}

fn answer(body: &serde_json::Value, last: Option<&str>, path: &str, limit: usize) -> Response<Body> {
    let mut answer = response::json("application/json", body);
    if let Some(last) = last {
        set_next(&mut answer, &format!("{path}?n={limit}&last={}", encoded(last)));
    }
    answer
}
