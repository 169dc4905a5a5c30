//! Health: what those ask who start, balance and watch servers.

use axum::body::Body;
use axum::http::{Response, StatusCode, header};

use super::App;
use super::error::RequestError;
use super::response;
use crate::storage::{Storage, StorageError};

/// How many blobs, and how many records, are named that turned out damaged.
const MOST_BAD: usize = 100;

/// Answers `GET /readyz`: whether the storage can be read, and made safe, what goes wrong all the same, and how much of
/// what it holds turned out damaged.
///
/// Damage alone does not make a server unready: all that is whole is served, and the next push of what is not heals
/// it. Nor does trouble: it says what will go wrong if nobody cares.
pub(crate) async fn ready(app: &App) -> Result<Response<Body>, RequestError> {
    let (status, body) = match look(app.storage()).await {
        Ok(body) => (StatusCode::OK, body),
        // What it is does not matter for those who ask, and may be about paths of ours.
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, serde_json::json!({ "status": "storage unavailable" })),
    };
    let mut answer = response::json("application/json", &body);
    *answer.status_mut() = status;
    response::set(&mut answer, header::CACHE_CONTROL, "no-store");
    Ok(answer)
}

async fn look(storage: &Storage) -> Result<serde_json::Value, StorageError> {
    let trouble = storage.trouble().await?;
    let (blobs, records) = (storage.bad_blobs(MOST_BAD).await?, storage.damaged_records(MOST_BAD).await?);
    let mut body = serde_json::json!({ "status": "ok" });
    if !blobs.is_empty() || !records.is_empty() {
        body = serde_json::json!({ "status": "damaged", "badBlobs": blobs, "damagedRecords": records });
    }
    if let Some(trouble) = trouble {
        body["status"] = "trouble".into();
        body["trouble"] = trouble.into();
    }
    Ok(body)
}
