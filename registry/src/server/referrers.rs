//! Referrers: the manifests that are about another one.

use axum::body::Body;
use axum::http::Response;
use oci::{Digest, Index, RepositoryName, media_type};

use super::App;
use super::error::RequestError;
use super::response::{self, encoded, set_next};
use super::routes::Paging;
use crate::storage::referrers::ReferrersLimit;

/// The most referrers in one answer, and the most that are looked at for one.
const MAX_PAGE: usize = 1000;
/// How long an answer may get before the rest is left to the next page: clients take manifests of 4 MiB.
const MAX_BYTES: usize = 3 * 1024 * 1024;

/// Answers `GET /v2/NAME/referrers/DIGEST` (distribution-spec, "Listing Referrers").
pub(crate) async fn list(
    app: &App,
    repository: &RepositoryName,
    subject: Digest,
    artifact_type: Option<String>,
    paging: Paging,
) -> Result<Response<Body>, RequestError> {
    let artifact_type = artifact_type.filter(|text| !text.is_empty());
    let count = paging.limit.unwrap_or(MAX_PAGE).clamp(1, MAX_PAGE);
    let after = paging.after.map(|text| text.parse::<Digest>()).transpose()?;
    let limit = ReferrersLimit { count, bytes: MAX_BYTES, looks: MAX_PAGE };
    let here = app.repository(repository);
    let (referrers, next) = here.referrers(&subject, artifact_type.as_deref(), after.as_ref(), limit).await?;
    let index = serde_json::to_value(Index::new(referrers)).map_err(|error| RequestError::Storage(error.into()))?;
    let mut answer = response::json(media_type::OCI_INDEX, &index);
    if artifact_type.is_some() {
        response::set(&mut answer, response::OCI_FILTERS_APPLIED, "artifactType");
    }
    if let Some(last) = next {
        let mut url = format!("/v2/{}/referrers/{subject}?n={count}&last={last}", repository.as_str());
        if let Some(artifact_type) = &artifact_type {
            url.push_str(&format!("&artifactType={}", encoded(artifact_type)));
        }
        set_next(&mut answer, &url);
    }
    Ok(answer)
}
