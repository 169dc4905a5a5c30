//! Health: what those ask who start, balance and watch servers.

use axum::body::Body;
use axum::http::{Response, StatusCode, header};

use super::App;
use super::error::RequestError;
use super::response;
use crate::storage::StorageError;

/// How many blobs, and how many records, are named that turned out damaged.
const MOST_BAD: usize = 100;

/// Answers `GET /readyz`: whether the storage can be read, and how much of what it holds turned out damaged.
///
/// Damage alone does not make a server unready: all that is whole is served, and the next push of what is not heals
/// it.
pub(crate) async fn ready(app: &App) -> Result<Response<Body>, RequestError> {
    // What they are does not matter for that, but whether it can be known.
    let damage = async {
        let storage = app.storage();
        Ok::<_, StorageError>((storage.bad_blobs(MOST_BAD).await?, storage.damaged_records(MOST_BAD).await?))
    };
    let (status, body) = match damage.await {
        Ok((blobs, records)) if blobs.is_empty() && records.is_empty() => {
            (StatusCode::OK, serde_json::json!({ "status": "ok" }))
        }
        Ok((blobs, records)) => {
            (StatusCode::OK, serde_json::json!({ "status": "damaged", "badBlobs": blobs, "damagedRecords": records }))
        }
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, serde_json::json!({ "status": "storage unavailable" })),
    };
    let mut answer = response::json("application/json", &body);
    *answer.status_mut() = status;
    response::set(&mut answer, header::CACHE_CONTROL, "no-store");
    Ok(answer)
}
