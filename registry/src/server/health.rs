//! Health: what those ask who start, balance and watch servers.

use axum::body::Body;
use axum::http::{Response, StatusCode, header};

use super::App;
use super::error::RequestError;
use super::response;

/// Answers `GET /readyz`: whether the storage can be read, and how much of what it holds turned out damaged.
///
/// Damage alone does not make a server unready: all that is whole is served, and the next push of what is not heals
/// it.
pub(crate) async fn ready(app: &App) -> Result<Response<Body>, RequestError> {
    let somewhere = app.repository(&"readyz".parse().expect("a repository name"));
    // Whether it is there does not matter, but whether that can be known.
    let (status, body) = match somewhere.is_known().await {
        Ok(_) => (StatusCode::OK, serde_json::json!({ "status": "ok" })),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, serde_json::json!({ "status": "storage unavailable" })),
    };
    let mut answer = response::json("application/json", &body);
    *answer.status_mut() = status;
    response::set(&mut answer, header::CACHE_CONTROL, "no-store");
    Ok(answer)
}
