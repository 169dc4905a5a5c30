//! Lists of tags and of repositories, in pages.

use axum::body::Body;
use axum::http::Response;
use oci::RepositoryName;
use store::repositories::Page;

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
    let (limit, after) = (limit(&paging), paging.after.clone());
    let page = store::blocking::run(move || -> Result<_, RequestError> {
        if !here.exists()? {
            return Err(RequestError::UnknownRepository { name: here.name().as_str().to_owned() });
        }
        Ok(here.tags(after.as_deref(), limit)?)
    })
    .await?;
    let body = serde_json::json!({ "name": repository.as_str(), "tags": page.entries });
    Ok(answer(&body, &page, &format!("/v2/{}/tags/list", repository.as_str()), limit))
}

/// Answers `GET /v2/_catalog`, which distribution-spec reserves and Docker's registry defined.
pub(crate) async fn list_repositories(app: &App, paging: Paging) -> Result<Response<Body>, RequestError> {
    let repositories = app.store().repositories();
    let (limit, after) = (limit(&paging), paging.after.clone());
    let page = store::blocking::run(move || repositories.names(after.as_deref(), limit)).await?;
    let body = serde_json::json!({ "repositories": page.entries });
    Ok(answer(&body, &page, "/v2/_catalog", limit))
}

fn limit(paging: &Paging) -> usize {
    paging.limit.unwrap_or(MAX_PAGE).min(MAX_PAGE)
}

fn answer(body: &serde_json::Value, page: &Page<String>, path: &str, limit: usize) -> Response<Body> {
    let mut answer = response::json("application/json", body);
    if let Some(last) = page.entries.last().filter(|_| page.more) {
        set_next(&mut answer, &format!("{path}?n={limit}&last={}", encoded(last)));
    }
    answer
}
