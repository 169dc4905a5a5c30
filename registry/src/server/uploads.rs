//! Uploads: blobs on their way in, in one request or in many (distribution-spec, "Pushing blobs").
//!
//! A request that adds to an upload works in a task of its own, so that a client that goes away, whether it closes the
//! connection or only gives its request up, leaves what it sent noted, and can go on from there.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Response, StatusCode, header};
use oci::{Algorithm, Digest, RepositoryName};
use tokio::sync::Notify;

use super::App;
use super::body::{Batch, content_length, next_batch};
use super::error::{RequestError, upload_range};
use super::response;
use crate::home::{self, Claim};
use crate::storage::{StorageError, Upload, UploadError, UploadId};

/// How often, and after which pauses, an upload is asked for that an earlier request still holds: 4 s in all.
const TAKEOVER_TRIES: u32 = 200;
const TAKEOVER_PAUSE: Duration = Duration::from_millis(20);

/// Which requests are writing to uploads right now.
///
/// A client whose connection broke comes back long before the server gives up on the old connection; so a new
/// request ends the one before it, which notes what it has and lets go.
#[derive(Debug, Default)]
pub(crate) struct Writers(Mutex<HashMap<UploadId, Arc<Writer>>>);

#[derive(Debug, Default)]
struct Writer {
    give_up: Notify,
    /// How many bytes of the upload are here.
    size: AtomicU64,
}

impl Writers {
    /// Takes the upload's place, unless another request has it.
    fn enter(&self, id: &UploadId) -> Option<Arc<Writer>> {
        let mut all = self.0.lock().ok()?;
        if all.contains_key(id) {
            return None;
        }
        let writer = Arc::<Writer>::default();
        all.insert(id.clone(), writer.clone());
        Some(writer)
    }

    fn leave(&self, id: &UploadId) {
        if let Ok(mut all) = self.0.lock() {
            all.remove(id);
        }
    }

    fn get(&self, id: &UploadId) -> Option<Arc<Writer>> {
        self.0.lock().ok()?.get(id).cloned()
    }
}

/// A request's place as the one that writes to an upload, which ends with this.
struct Turn {
    app: App,
    id: UploadId,
    writer: Arc<Writer>,
}

impl Turn {
    /// Waits until nobody else writes to the upload, having asked whoever does to let go.
    async fn begin(app: &App, id: &UploadId) -> Result<Self, RequestError> {
        for _ in 0..TAKEOVER_TRIES {
            if let Some(writer) = app.writers().enter(id) {
                return Ok(Self { app: app.clone(), id: id.clone(), writer });
            }
            if let Some(other) = app.writers().get(id) {
                other.give_up.notify_one();
            }
            tokio::time::sleep(TAKEOVER_PAUSE).await;
        }
        Err(RequestError::UploadBusy)
    }

    /// Collects the next batch, unless another request wants to go on with the upload.
    async fn next_batch(&self, body: &mut Body) -> Batch {
        tokio::select! {
            batch = next_batch(body, self.app.memory(), self.app.limits().inactivity) => batch,
            () = self.writer.give_up.notified() => Batch { pieces: Vec::new(), end: Some(Err(RequestError::UploadBusy)) },
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.app.writers().leave(&self.id);
    }
}

/// What is to become of the bytes of a request.
enum Purpose {
    /// All of a blob.
    Whole(Digest),
    /// More of an upload.
    More(UploadId),
    /// The rest of an upload, perhaps nothing, which then is a blob.
    Rest(UploadId, Digest),
}

/// A request that brings bytes.
struct Bringing {
    app: App,
    repository: RepositoryName,
    body: Body,
    /// What the request says of where its bytes belong.
    range: Option<(u64, u64)>,
}

/// Takes the bytes of a request in, in a task of its own that goes on when nobody waits for the answer any more.
async fn bring(
    app: &App,
    headers: &HeaderMap,
    body: &mut Body,
    repository: &RepositoryName,
    purpose: Purpose,
) -> Result<Response<Body>, RequestError> {
    let range = content_range(headers)?;
    let mut bringing = Bringing { app: app.clone(), repository: repository.clone(), body: std::mem::take(body), range };
    let work = async move {
        let answer = match purpose {
            Purpose::Whole(digest) => bringing.post(digest).await,
            Purpose::More(id) => bringing.append(id).await,
            Purpose::Rest(id, digest) => bringing.finish(id, digest).await,
        };
        (answer, bringing.body)
    };
    let (answer, rest) = app.in_task(work).await?;
    *body = rest;
    answer
}

impl Bringing {
    /// Adds the body to an upload. How it ended is the second value: what came before a broken end counts.
    async fn receive(
        &mut self,
        mut upload: Upload,
        turn: Option<&Turn>,
    ) -> Result<(Upload, Result<(), RequestError>), RequestError> {
        let (memory, inactivity) = (self.app.memory().clone(), self.app.limits().inactivity);
        let body = &mut self.body;
        let mut next = async || match turn {
            Some(turn) => turn.next_batch(body).await,
            None => next_batch(body, &memory, inactivity).await,
        };
        let start = upload.size();
        let mut batch = next().await;
        let end = loop {
            let pieces = std::mem::take(&mut batch.pieces);
            match batch.end.take() {
                // The next batch comes in while this one is hashed and written.
                None => {
                    let (appended, following) = tokio::join!(append_all(&mut upload, pieces), next());
                    appended?;
                    batch = following;
                }
                Some(end) => {
                    append_all(&mut upload, pieces).await?;
                    break end;
                }
            }
            if let Some(turn) = turn {
                turn.writer.size.store(upload.size(), Ordering::Relaxed);
            }
        };
        let declared = self.range.map(|(start, end)| end - start + 1);
        let actual = upload.size() - start;
        match declared {
            Some(declared) if end.is_ok() && declared != actual => {
                // What is not noted is as if it had not come.
                Err(RequestError::SizeMismatch { declared, actual })
            }
            _ => Ok((upload, end)),
        }
    }

    async fn post(&mut self, digest: Digest) -> Result<Response<Body>, RequestError> {
        if let Some((start, _)) = self.range.filter(|(start, _)| *start != 0) {
            let location = format!("/v2/{}/blobs/uploads/", self.repository.as_str());
            return Err(RequestError::OutOfOrder { start, size: 0, location });
        }
        let upload = self.app.repository(&self.repository).receive(digest.algorithm());
        let (upload, end) = self.receive(upload, None).await?;
        end?;
        upload.finish(&digest).await?;
        Ok(response::created(&blob_location(&self.repository, &digest), &digest))
    }

    async fn append(&mut self, id: UploadId) -> Result<Response<Body>, RequestError> {
        let turn = Turn::begin(&self.app, &id).await?;
        let upload = resume(&self.app, &self.repository, &id, self.range).await?;
        let (mut upload, end) = self.receive(upload, Some(&turn)).await?;
        upload.pause().await?;
        end?;
        Ok(progress(StatusCode::ACCEPTED, &self.repository, &id, upload.size()))
    }

    async fn finish(&mut self, id: UploadId, digest: Digest) -> Result<Response<Body>, RequestError> {
        let turn = Turn::begin(&self.app, &id).await?;
        let upload = match resume(&self.app, &self.repository, &id, self.range).await {
            Err(RequestError::UnknownUpload) => {
                // The answer to an earlier try may have been lost on its way.
                let stored = self.app.repository(&self.repository).blob_size(&digest).await?.is_some();
                let created = stored.then(|| response::created(&blob_location(&self.repository, &digest), &digest));
                return created.ok_or(RequestError::UnknownUpload);
            }
            resumed => resumed?,
        };
        let (mut upload, end) = self.receive(upload, Some(&turn)).await?;
        if let Err(broken) = end {
            upload.pause().await?;
            return Err(broken);
        }
        upload.finish(&digest).await?;
        Ok(response::created(&blob_location(&self.repository, &digest), &digest))
    }
}

/// Opens an upload where it stands, and checks that the request goes on there.
async fn resume(
    app: &App,
    repository: &RepositoryName,
    id: &UploadId,
    range: Option<(u64, u64)>,
) -> Result<Upload, RequestError> {
    let upload = app.repository(repository).resume_upload(id).await?;
    match range {
        Some((start, _)) if start != upload.size() => {
            let location = upload_location(repository, id);
            Err(RequestError::OutOfOrder { start, size: upload.size(), location })
        }
        _ => Ok(upload),
    }
}

async fn append_all(upload: &mut Upload, pieces: Vec<bytes::Bytes>) -> Result<(), UploadError> {
    if pieces.is_empty() { Ok(()) } else { upload.append(pieces).await }
}

/// Answers `POST /v2/NAME/blobs/uploads/`.
pub(crate) async fn start(
    app: &App,
    repository: &RepositoryName,
    algorithm: Algorithm,
) -> Result<Response<Body>, RequestError> {
    let id = app.repository(repository).begin_upload(algorithm).await?;
    Ok(progress(StatusCode::ACCEPTED, repository, &id, 0))
}

/// Answers `POST /v2/NAME/blobs/uploads/?digest=DIGEST`: the whole blob in one request.
pub(crate) async fn post(
    app: &App,
    headers: &HeaderMap,
    body: &mut Body,
    repository: &RepositoryName,
    digest: Digest,
) -> Result<Response<Body>, RequestError> {
    bring(app, headers, body, repository, Purpose::Whole(digest)).await
}

/// Answers `POST /v2/NAME/blobs/uploads/?mount=DIGEST[&from=NAME]`; what cannot be mounted becomes an upload.
pub(crate) async fn mount(
    app: &App,
    request: &Parts,
    repository: &RepositoryName,
    digest: Digest,
    from: Option<RepositoryName>,
    algorithm: Algorithm,
) -> Result<Response<Body>, RequestError> {
    let source = match from {
        Some(from) => Some(from),
        None => app.storage().owners(&digest, 1).await?.into_iter().next(),
    };
    let mounted = match source {
        Some(source) => {
            let (here, digest) = (app.repository(repository), digest.clone());
            app.in_task(async move { here.mount(&digest, &source).await }).await??
        }
        None => false,
    };
    if mounted || adopt(app, request, repository, &digest).await? {
        Ok(response::created(&blob_location(repository, &digest), &digest))
    } else {
        start(app, repository, algorithm).await
    }
}

/// Takes a blob over from the local store of the home that is served, for a client that proves to work in it.
///
/// Whether the local store has it is looked at after that only, so nobody else learns of it.
async fn adopt(app: &App, request: &Parts, repository: &RepositoryName, digest: &Digest) -> Result<bool, RequestError> {
    let (Some(home), Some(said)) = (app.home(), request.headers.get(home::HEADER)) else { return Ok(false) };
    let host = request.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = request.uri.authority().map_or(host, |authority| Some(authority.as_str()));
    let (Some(host), Ok(said)) = (host, said.to_str()) else { return Ok(false) };
    let now = app.storage().backend().objects.now().await.map_err(StorageError::from)?;
    if !home.believes(said, Claim { host, repository, digest }, now) {
        return Ok(false);
    }
    let (here, file, digest) = (app.repository(repository), home.blob(digest), digest.clone());
    let adopted = app.in_task(async move { here.adopt(&digest, &file).await }).await?;
    Ok(adopted.map_err(UploadError::from)?)
}

/// Answers `GET /v2/NAME/blobs/uploads/ID`.
pub(crate) async fn status(
    app: &App,
    repository: &RepositoryName,
    id: UploadId,
) -> Result<Response<Body>, RequestError> {
    let noted = app.repository(repository).upload_size(&id).await?;
    let coming = app.writers().get(&id).map_or(0, |writer| writer.size.load(Ordering::Relaxed));
    Ok(progress(StatusCode::NO_CONTENT, repository, &id, noted.max(coming)))
}

/// Answers `PATCH /v2/NAME/blobs/uploads/ID`, with or without a range or a length.
pub(crate) async fn append(
    app: &App,
    headers: &HeaderMap,
    body: &mut Body,
    repository: &RepositoryName,
    id: UploadId,
) -> Result<Response<Body>, RequestError> {
    bring(app, headers, body, repository, Purpose::More(id)).await
}

/// Answers `PUT /v2/NAME/blobs/uploads/ID?digest=DIGEST`, with or without a last chunk.
pub(crate) async fn finish(
    app: &App,
    headers: &HeaderMap,
    body: &mut Body,
    repository: &RepositoryName,
    id: UploadId,
    digest: Digest,
) -> Result<Response<Body>, RequestError> {
    bring(app, headers, body, repository, Purpose::Rest(id, digest)).await
}

/// Answers `DELETE /v2/NAME/blobs/uploads/ID`.
pub(crate) async fn cancel(
    app: &App,
    repository: &RepositoryName,
    id: UploadId,
) -> Result<Response<Body>, RequestError> {
    let _turn = Turn::begin(app, &id).await?;
    app.repository(repository).cancel_upload(&id).await?;
    Ok(response::empty(StatusCode::NO_CONTENT))
}

/// Reads `Content-Range: START-END`, in which there is no unit. Docker sends none at all.
fn content_range(headers: &HeaderMap) -> Result<Option<(u64, u64)>, RequestError> {
    let Some(value) = headers.get(header::CONTENT_RANGE) else { return Ok(None) };
    let text = value.to_str().unwrap_or("?");
    let number = |text: &str| text.parse::<u64>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    let range = text.split_once('-').and_then(|(start, end)| Some((number(start)?, number(end)?)));
    // The last byte is named, so a range has at least one, and one past it must still be a number.
    let range = range.filter(|(start, end)| start <= end && *end < u64::MAX);
    let (start, end) = range.ok_or_else(|| RequestError::BadContentRange { text: text.chars().take(80).collect() })?;
    let declared = end - start + 1;
    match content_length(headers) {
        Some(actual) if actual != declared => Err(RequestError::SizeMismatch { declared, actual }),
        _ => Ok(Some((start, end))),
    }
}

fn progress(status: StatusCode, repository: &RepositoryName, id: &UploadId, size: u64) -> Response<Body> {
    let mut answer = response::empty(status);
    response::set(&mut answer, header::LOCATION, &upload_location(repository, id));
    response::set(&mut answer, header::RANGE, &upload_range(size));
    response::set(&mut answer, response::UPLOAD_UUID, &id.to_string());
    answer
}

fn upload_location(repository: &RepositoryName, id: &UploadId) -> String {
    format!("/v2/{}/blobs/uploads/{id}", repository.as_str())
}

fn blob_location(repository: &RepositoryName, digest: &Digest) -> String {
    format!("/v2/{}/blobs/{digest}", repository.as_str())
}
