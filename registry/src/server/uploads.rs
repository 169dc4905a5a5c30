//! Uploads: blobs on their way in, in one request or in many (distribution-spec, "Pushing blobs").

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Response, StatusCode, header};
use bytes::Bytes;
use oci::{Algorithm, Digest, RepositoryName};
use store::Repository;
use store::repositories::{Midstate, Upload, UploadError, UploadId};

use tokio::sync::Notify;

use super::App;
use super::body::{Batch, content_length, next_batch};
use super::error::{RequestError, upload_range};
use super::response;

/// How many uploads' hashing is remembered between requests. One that is forgotten is read again at its end.
const REMEMBERED: usize = 10_000;

/// How often, and after which pauses, an upload is asked for that an earlier request still holds: 4 s in all.
const TAKEOVER_TRIES: u32 = 200;
const TAKEOVER_PAUSE: Duration = Duration::from_millis(20);

/// How far hashing has come in uploads that wait for their next request.
#[derive(Debug, Default)]
pub(crate) struct Midstates(Mutex<HashMap<UploadId, Midstate>>);

impl Midstates {
    fn take(&self, id: &UploadId) -> Option<Midstate> {
        self.0.lock().ok()?.remove(id)
    }

    fn keep(&self, upload: &Upload) {
        let (Some(midstate), Ok(mut all)) = (upload.pause(), self.0.lock()) else { return };
        if all.len() >= REMEMBERED {
            all.clear();
        }
        all.insert(upload.id().clone(), midstate);
    }
}

/// Which requests are writing to uploads right now.
///
/// A client whose connection broke comes back long before the server gives up on the old connection; so a new
/// request ends the one before it, which keeps what it has and lets go.
#[derive(Debug, Default)]
pub(crate) struct Writers(Mutex<HashMap<UploadId, Arc<Notify>>>);

impl Writers {
    fn enter(&self, id: &UploadId) -> Arc<Notify> {
        let writer = Arc::new(Notify::new());
        if let Ok(mut all) = self.0.lock() {
            all.insert(id.clone(), writer.clone());
        }
        writer
    }

    fn leave(&self, id: &UploadId, writer: &Arc<Notify>) {
        if let Ok(mut all) = self.0.lock()
            && all.get(id).is_some_and(|current| Arc::ptr_eq(current, writer))
        {
            all.remove(id);
        }
    }

    fn interrupt(&self, id: &UploadId) {
        if let Some(writer) = self.0.lock().ok().and_then(|all| all.get(id).cloned()) {
            writer.notify_one();
        }
    }
}

/// A request's place among the writers, which ends with the request, however that ends.
struct Turn {
    app: App,
    id: UploadId,
    writer: Arc<Notify>,
}

impl Turn {
    fn begin(app: &App, id: &UploadId) -> Self {
        Self { app: app.clone(), id: id.clone(), writer: app.writers().enter(id) }
    }

    /// Collects the next batch, unless another request wants to go on with the upload.
    async fn next_batch(&self, body: &mut Body) -> Batch {
        tokio::select! {
            batch = next_batch(body, self.app.memory(), self.app.limits().inactivity) => batch,
            () = self.writer.notified() => Batch { pieces: Vec::new(), end: Some(Err(RequestError::UploadBusy)) },
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.app.writers().leave(&self.id, &self.writer);
    }
}

/// Where the bytes of a request go.
#[derive(Clone)]
enum Target {
    /// A new upload.
    New(Algorithm),
    /// The end of one that is there.
    Continued(UploadId),
}

/// Answers `POST /v2/NAME/blobs/uploads/`.
pub(crate) async fn start(
    app: &App,
    repository: &RepositoryName,
    algorithm: Algorithm,
) -> Result<Response<Body>, RequestError> {
    let (app, here) = (app.clone(), app.repository(repository));
    let id = store::blocking::run(move || {
        let upload = here.begin_upload(algorithm)?;
        app.midstates().keep(&upload);
        Ok::<_, UploadError>(upload.id().clone())
    })
    .await?;
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
    let range = content_range(headers)?;
    let upload = claim(app, repository, Target::New(digest.algorithm()), range).await?;
    let unnamed = Unnamed { repository: app.repository(repository), id: Some(upload.id().clone()) };
    let (upload, end) = receive(app, body, upload, range).await?;
    end?;
    let answer = complete(app, repository, upload, digest).await?;
    unnamed.stored();
    Ok(answer)
}

/// An upload whose name no client was told: when it does not become a blob, nobody can go on with it.
struct Unnamed {
    repository: Repository,
    id: Option<UploadId>,
}

impl Unnamed {
    fn stored(mut self) {
        self.id = None;
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        let repository = self.repository.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // What cannot be removed now is removed when it is old.
            runtime.spawn(store::blocking::run(move || repository.cancel_upload(&id)));
        }
    }
}

/// Answers `POST /v2/NAME/blobs/uploads/?mount=DIGEST[&from=NAME]`; what cannot be mounted becomes an upload.
pub(crate) async fn mount(
    app: &App,
    repository: &RepositoryName,
    digest: Digest,
    from: Option<RepositoryName>,
    algorithm: Algorithm,
) -> Result<Response<Body>, RequestError> {
    let (all, here, blob) = (app.store().repositories(), app.repository(repository), digest.clone());
    let mounted = store::blocking::run(move || -> Result<bool, RequestError> {
        let source = match from {
            Some(from) if all.get(&from).has_blob(&blob)? => Some(from),
            Some(_) => None,
            None => all.owner_of(&blob)?,
        };
        Ok(source.is_some() && here.add_blob(&blob)?)
    })
    .await?;
    if mounted {
        Ok(response::created(&blob_location(repository, &digest), &digest))
    } else {
        start(app, repository, algorithm).await
    }
}

/// Answers `GET /v2/NAME/blobs/uploads/ID`.
pub(crate) async fn status(
    app: &App,
    repository: &RepositoryName,
    id: UploadId,
) -> Result<Response<Body>, RequestError> {
    let here = app.repository(repository);
    let (id, size) = store::blocking::run(move || here.upload_size(&id).map(|size| (id, size))).await?;
    Ok(progress(StatusCode::NO_CONTENT, repository, &id, size))
}

/// Answers `PATCH /v2/NAME/blobs/uploads/ID`, with or without a range or a length.
pub(crate) async fn append(
    app: &App,
    headers: &HeaderMap,
    body: &mut Body,
    repository: &RepositoryName,
    id: UploadId,
) -> Result<Response<Body>, RequestError> {
    let range = content_range(headers)?;
    let upload = claim(app, repository, Target::Continued(id), range).await?;
    let (upload, end) = receive(app, body, upload, range).await?;
    end?;
    Ok(progress(StatusCode::ACCEPTED, repository, upload.id(), upload.size()))
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
    let range = content_range(headers)?;
    let upload = match claim(app, repository, Target::Continued(id.clone()), range).await {
        Err(RequestError::UnknownUpload) => {
            // The answer to an earlier try may have been lost on its way.
            let (here, asked) = (app.repository(repository), digest.clone());
            let stored = store::blocking::run(move || here.has_blob(&asked)).await?;
            let created = stored.then(|| response::created(&blob_location(repository, &digest), &digest));
            return created.ok_or(RequestError::UnknownUpload);
        }
        claimed => claimed?,
    };
    let (upload, end) = receive(app, body, upload, range).await?;
    end?;
    complete(app, repository, upload, digest).await
}

/// Answers `DELETE /v2/NAME/blobs/uploads/ID`.
pub(crate) async fn cancel(
    app: &App,
    repository: &RepositoryName,
    id: UploadId,
) -> Result<Response<Body>, RequestError> {
    app.writers().interrupt(&id);
    app.midstates().take(&id);
    let here = app.repository(repository);
    store::blocking::run(move || here.cancel_upload(&id)).await?;
    Ok(response::empty(StatusCode::NO_CONTENT))
}

async fn complete(
    app: &App,
    repository: &RepositoryName,
    upload: Upload,
    digest: Digest,
) -> Result<Response<Body>, RequestError> {
    // A finished upload needs no midstate, and a refused one has no bytes.
    app.midstates().take(upload.id());
    let digest = store::blocking::run(move || upload.finish(&digest).map(|_| digest)).await?;
    Ok(response::created(&blob_location(repository, &digest), &digest))
}

/// Adds the body of a request to an upload, which stays claimed. How the body ended is the second value: what came
/// before a broken end is kept, so that the client can go on from there.
async fn receive(
    app: &App,
    body: &mut Body,
    mut upload: Upload,
    range: Option<(u64, u64)>,
) -> Result<(Upload, Result<(), RequestError>), RequestError> {
    let turn = Turn::begin(app, upload.id());
    let (start, before) = (upload.size(), upload.pause());
    let mut batch = turn.next_batch(body).await;
    let end = loop {
        let write = write(app, upload, batch.pieces);
        match batch.end {
            // The next batch comes in while this one is hashed and written.
            None => (upload, batch) = tokio::try_join!(write, async { Ok(turn.next_batch(body).await) })?,
            Some(end) => {
                upload = write.await?;
                break end;
            }
        }
    };
    let declared = range.map(|(start, end)| end - start + 1);
    let actual = upload.size() - start;
    if let (Ok(()), Some(declared)) = (&end, declared)
        && declared != actual
    {
        let app = app.clone();
        let upload = store::blocking::run(move || {
            upload.back(start, before)?;
            app.midstates().keep(&upload);
            Ok::<_, UploadError>(upload)
        });
        return Ok((upload.await?, Err(RequestError::SizeMismatch { declared, actual })));
    }
    Ok((upload, end))
}

/// Hashes and writes one batch. When the request is given up meanwhile, the next one can still go on from here.
async fn write(app: &App, mut upload: Upload, pieces: Vec<Bytes>) -> Result<Upload, RequestError> {
    let app = app.clone();
    let written = store::blocking::run(move || {
        upload.append_all(&pieces)?;
        app.midstates().keep(&upload);
        Ok::<_, UploadError>(upload)
    });
    Ok(written.await?)
}

/// Claims the upload that a request writes to, ending an earlier request that still writes to it.
async fn claim(
    app: &App,
    repository: &RepositoryName,
    target: Target,
    range: Option<(u64, u64)>,
) -> Result<Upload, RequestError> {
    let mut tries = 0;
    loop {
        let (opener, here, target_) = (app.clone(), app.repository(repository), target.clone());
        match (store::blocking::run(move || open(&opener, &here, target_, range)).await, &target) {
            (Err(RequestError::UploadBusy), Target::Continued(id)) if tries < TAKEOVER_TRIES => {
                app.writers().interrupt(id);
                tries += 1;
                tokio::time::sleep(TAKEOVER_PAUSE).await;
            }
            (opened, _) => return opened,
        }
    }
}

/// Claims an upload that nobody writes to, and checks that the request goes on where it stands.
fn open(app: &App, repository: &Repository, target: Target, range: Option<(u64, u64)>) -> Result<Upload, RequestError> {
    let upload = match target {
        Target::New(algorithm) => repository.begin_upload(algorithm)?,
        Target::Continued(id) => {
            let midstate = app.midstates().take(&id);
            let upload = repository.resume_upload(&id, midstate)?;
            app.midstates().keep(&upload);
            upload
        }
    };
    match range {
        Some((start, _)) if start != upload.size() => Err(RequestError::OutOfOrder {
            start,
            size: upload.size(),
            location: upload_location(repository.name(), upload.id()),
        }),
        _ => Ok(upload),
    }
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
