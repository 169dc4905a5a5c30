//! `slipway serve`: distribution-spec over HTTP, kept in a [`Storage`].
//!
//! | File | Owns |
//! | --- | --- |
//! | `connection` | sockets: accepting, limits, HTTP/1.1 and HTTP/2, stopping |
//! | `pulse` | whether a connection still serves anybody |
//! | `tls` | the certificate, and reading it again |
//! | `origin` | where clients see us behind a proxy that we trust |
//! | `routes` | what a request asks for, and what that needs to be permitted |
//! | `blobs` | reading and deleting blobs |
//! | `uploads` | blobs on their way in |
//! | `manifests` | manifests and what their tags name |
//! | `tags` | lists of tags and repositories |
//! | `referrers` | lists of manifests about another one |
//! | `history` | extensions: what tags named earlier |
//! | `upkeep` | what goes on beside answering: collecting, and reading blobs again |
//! | `health` | whether all is well |
//! | `body` | bytes between sockets and disks |
//! | `response` | answers and headers that several endpoints share |
//! | `error` | the one table from errors to status and code |
//!
//! A request goes through `connection`, becomes an operation in `routes`, is permitted or not in `App::permit`,
//! and is carried out by the function of its endpoint. All that is kept is in the storage; a server has nothing in
//! memory that it cannot do without, so any number of them serve the same.

mod connection;
mod origin;
mod pulls;
mod pulse;
mod routes;
mod tls;
mod upkeep;

mod blobs;
mod health;
mod history;
mod manifests;
mod referrers;
mod tags;
mod uploads;

mod body;
mod error;
mod response;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Method, Request, Response, header};
use oci::RepositoryName;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

pub use connection::{ServeError, Server};
pub use ipnet::IpNet;
pub use tls::{TlsError, TlsFiles};
pub use upkeep::Upkeep;

use body::Manifests;
use error::RequestError;
use origin::Origin;
use pulls::Pulls;
use routes::{Action, Operation};
use tags::Lists;
use uploads::Writers;

use crate::home::Home;
use crate::storage::{Repository, Storage};

/// What a server is started with.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Where everything is kept.
    pub storage: Storage,
    /// The home that the storage is in. Who proves to work in it, too, has blobs taken over from its local store.
    pub home: Option<Home>,
    /// Where to listen; port 0 lets the system choose.
    pub addr: SocketAddr,
    /// What clients may do.
    pub permissions: Permissions,
    /// The certificate with which TLS is spoken; without one, plain HTTP is.
    pub tls: Option<TlsFiles>,
    /// Makes the server read the certificate again. It also does by itself when the files change.
    pub reload: Arc<Notify>,
    /// The proxies that are believed when they say where clients see this server (`X-Forwarded-Host` and the like).
    pub trusted_proxies: Vec<IpNet>,
    /// Whether images may be pushed although their config or layers are missing. Indexes always may.
    pub sparse: bool,
    /// Whether clients are sent to the store for blobs that they can read there.
    pub redirect: bool,
    /// How much any client may ask for.
    pub limits: Limits,
    /// What it does beside answering.
    pub upkeep: Upkeep,
    /// Hears what happens.
    pub events: Events,
}

impl ServeOptions {
    /// Serves a storage to everyone who can reach an address, with the usual limits.
    pub fn new(storage: Storage, addr: SocketAddr) -> Self {
        Self {
            storage,
            home: None,
            addr,
            permissions: Permissions { push: true, delete: true },
            tls: None,
            reload: Arc::default(),
            trusted_proxies: Vec::new(),
            sparse: false,
            redirect: false,
            limits: Limits::default(),
            upkeep: Upkeep::default(),
            events: Events::default(),
        }
    }
}

/// What clients may do; there are no users yet, so it holds for everyone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions {
    /// Whether blobs, manifests and tags can be sent.
    pub push: bool,
    /// Whether blobs, manifests and tags can be deleted.
    pub delete: bool,
}

/// How much any client may ask for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many connections are open at once; more wait to be accepted.
    pub connections: usize,
    /// How long a peer may stay silent while it is its turn.
    pub inactivity: Duration,
    /// How long requests under way may take to end after the server was told to stop.
    pub grace: Duration,
    /// The longest manifest, in bytes.
    pub manifest_bytes: usize,
    /// How long an upload stays without anything being added to it.
    pub upload_age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Each may have a file open beside its socket, and a process usually has 1024 descriptors.
            connections: 400,
            inactivity: Duration::from_secs(60),
            grace: Duration::from_millis(800),
            manifest_bytes: 4 * 1024 * 1024,
            upload_age: Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// Something that a server did.
#[derive(Clone, Debug)]
pub enum ServeEvent {
    /// A request was answered; the body of the answer may still be on its way.
    Answered {
        /// `GET` and the like.
        method: String,
        /// The path and the parameters that were asked for.
        path: String,
        /// The status of the answer.
        status: u16,
        /// How long the answer took.
        took: Duration,
    },
    /// A request failed because of us, not because of the client.
    Failed {
        /// `GET` and the like.
        method: String,
        /// The path and the parameters that were asked for.
        path: String,
        /// What went wrong, with its causes, `: ` between.
        error: String,
    },
    /// Uploads that nobody went on with were thrown away.
    UploadsExpired {
        /// How many.
        count: u64,
    },
    /// What nothing relied on was thrown away.
    Collected {
        /// How many blobs.
        blobs: u64,
        /// How many bytes they had.
        bytes: u64,
    },
    /// Throwing away what nothing relies on failed; it is tried again later.
    CollectionFailed {
        /// What went wrong, with its causes, `: ` between.
        error: String,
    },
    /// The bytes of a blob are not what its digest says any more; the next push heals it.
    BlobBad {
        /// Which blob.
        digest: oci::Digest,
    },
    /// Reading blobs again failed; it is tried again later.
    ScrubFailed {
        /// What went wrong, with its causes, `: ` between.
        error: String,
    },
    /// The certificate was read again, and is used from now on.
    TlsReloaded,
    /// The files of the certificate changed to something that is of no use; the one that was read before stays.
    TlsKept {
        /// What went wrong, with its causes, `: ` between.
        error: String,
    },
    /// Throwing away old uploads failed; it is tried again later.
    ExpiryFailed {
        /// What went wrong, with its causes, `: ` between.
        error: String,
    },
}

/// Where a server's events go. They are told from the threads that answer, so hearing them must not take long.
#[derive(Clone)]
pub struct Events(Arc<dyn Fn(ServeEvent) + Send + Sync>);

impl Events {
    /// Calls a function with every event.
    pub fn to(hear: impl Fn(ServeEvent) + Send + Sync + 'static) -> Self {
        Self(Arc::new(hear))
    }

    fn tell(&self, event: ServeEvent) {
        (self.0)(event);
    }
}

impl Default for Events {
    /// Hears nothing.
    fn default() -> Self {
        Self::to(|_| {})
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}

/// Listens and serves until `shutdown` is ready.
///
/// To learn the port that the system chose, use [`Server::bind`] and [`Server::run`].
pub async fn serve(options: ServeOptions, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
    Server::bind(options).await?.run(shutdown).await;
    Ok(())
}

/// How much memory each connection, and each request and answer on it, may use: all share what one alone does not
/// need.
///
/// A few clients get buffers as large as helps them; of hundreds each gets less, so that their sum stays the same.
/// Requests count by themselves because HTTP/2 has many on one connection.
#[derive(Clone, Debug, Default)]
struct Memory {
    sharers: Arc<AtomicUsize>,
}

impl Memory {
    /// What the connections share for each kind of buffer.
    const SHARED: usize = 16 * 1024 * 1024;
    /// Below this, buffers only cost time.
    const LEAST: usize = 32 * 1024;

    /// Counts one more that shares until what is returned is dropped.
    fn enter(&self) -> Sharer {
        self.sharers.fetch_add(1, Ordering::Relaxed);
        Sharer(self.clone())
    }

    /// Returns how large a buffer of one of them may be now, `most` being as large as is any use.
    fn share(&self, most: usize) -> usize {
        (Self::SHARED / self.sharers.load(Ordering::Relaxed).max(1)).clamp(Self::LEAST, most)
    }
}

/// Something that shares memory and is counted.
#[derive(Debug)]
struct Sharer(Memory);

impl Drop for Sharer {
    fn drop(&mut self) {
        self.0.sharers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What every request has at hand.
#[derive(Clone, Debug)]
struct App {
    parts: Arc<Parts>,
}

#[derive(Debug)]
struct Parts {
    options: ServeOptions,
    memory: Memory,
    manifests: Manifests,
    pulls: Pulls,
    lists: Lists,
    writers: Writers,
    /// Has all its permits when nobody is at work for a client that may be gone.
    working: Arc<Semaphore>,
}

/// How many may be at work at once, which is to say any number.
const WORKERS: u32 = 1 << 20;

impl App {
    fn new(options: ServeOptions) -> Self {
        let parts = Parts {
            manifests: Manifests::new(options.limits.manifest_bytes),
            options,
            memory: Memory::default(),
            pulls: Pulls::default(),
            lists: Lists::default(),
            writers: Writers::default(),
            working: Arc::new(Semaphore::new(WORKERS as usize)),
        };
        Self { parts: Arc::new(parts) }
    }

    fn storage(&self) -> &Storage {
        &self.parts.options.storage
    }

    fn home(&self) -> Option<&Home> {
        self.parts.options.home.as_ref()
    }

    fn repository(&self, name: &RepositoryName) -> Repository {
        self.storage().repository(name)
    }

    /// Says that something goes on that must not be cut off, until what is returned is dropped.
    fn working(&self) -> Option<OwnedSemaphorePermit> {
        self.parts.working.clone().try_acquire_owned().ok()
    }

    /// Does something in a task of its own, which goes on when nobody waits for the answer any more: what changes the
    /// storage is not to stop half way because a client gave its request up.
    async fn in_task<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, RequestError> {
        let working = self.working();
        let task = tokio::spawn(async move {
            let done = work.await;
            drop(working);
            done
        });
        task.await.map_err(|error| RequestError::Storage(error.into()))
    }

    /// Waits until nothing of that kind goes on.
    async fn all_worked(&self) {
        let _: Result<_, _> = self.parts.working.acquire_many(WORKERS).await;
    }

    fn limits(&self) -> &Limits {
        &self.parts.options.limits
    }

    fn memory(&self) -> &Memory {
        &self.parts.memory
    }

    fn manifests(&self) -> &Manifests {
        &self.parts.manifests
    }

    fn sparse(&self) -> bool {
        self.parts.options.sparse
    }

    fn redirects(&self) -> bool {
        self.parts.options.redirect
    }

    fn pulls(&self) -> &Pulls {
        &self.parts.pulls
    }

    fn lists(&self) -> &Lists {
        &self.parts.lists
    }

    fn writers(&self) -> &Writers {
        &self.parts.writers
    }

    /// Decides whether an operation may begin. Nothing is read or written before this.
    fn permit(&self, operation: &Operation) -> Result<(), RequestError> {
        let Permissions { push, delete } = self.parts.options.permissions;
        for need in operation.needs() {
            let permitted = match need.action {
                Action::Pull => true,
                Action::Push => push,
                Action::Delete => delete,
            };
            if !permitted {
                return Err(RequestError::NotPermitted { action: need.action });
            }
        }
        Ok(())
    }
}

/// Answers a request, whatever it is.
async fn answer(app: &App, peer: IpAddr, request: Request<Body>) -> Response<Body> {
    let began = Instant::now();
    let _sharer = app.memory().enter();
    let (parts, mut body) = request.into_parts();
    let mut answer = match carry_out(app, &parts, &mut body).await {
        Ok(answer) => answer,
        Err(error) => {
            if error.is_ours() {
                app.parts.options.events.tell(ServeEvent::Failed {
                    method: parts.method.to_string(),
                    path: parts.uri.to_string(),
                    error: chain(&error),
                });
            }
            body::drain(&mut body, &parts.headers).await;
            error.response()
        }
    };
    if let Some(namespace) = routes::namespace(&parts.method, &parts.uri) {
        response::set(&mut answer, response::OCI_NAMESPACE, &namespace);
    }
    Origin::of(peer, &app.parts.options.trusted_proxies, &parts.headers).apply(&mut answer);
    // Docker tells a registry by this header.
    response::set(&mut answer, header::HeaderName::from_static("docker-distribution-api-version"), "registry/2.0");
    app.parts.options.events.tell(ServeEvent::Answered {
        method: parts.method.to_string(),
        path: parts.uri.to_string(),
        status: answer.status().as_u16(),
        took: began.elapsed(),
    });
    answer
}

async fn carry_out(
    app: &App,
    parts: &axum::http::request::Parts,
    body: &mut Body,
) -> Result<Response<Body>, RequestError> {
    let (method, headers): (&Method, _) = (&parts.method, &parts.headers);
    let operation = Operation::parse(method, &parts.uri)?;
    app.permit(&operation)?;
    match operation {
        Operation::Live => Ok(response::json("application/json", &serde_json::json!({ "status": "ok" }))),
        Operation::Ready => health::ready(app).await,
        Operation::Ping => Ok(response::json("application/json", &serde_json::json!({}))),
        Operation::ListRepositories { paging } => tags::list_repositories(app, paging).await,
        Operation::ListTags { repository, paging } => tags::list(app, &repository, paging).await,
        Operation::ListReferrers { repository, subject, artifact_type, paging } => {
            referrers::list(app, &repository, subject, artifact_type, paging).await
        }
        Operation::ReadManifest { repository, reference } => {
            manifests::read(app, method, headers, &repository, reference).await
        }
        Operation::PutManifest { repository, reference, tags } => {
            manifests::put(app, headers, body, &repository, reference, tags).await
        }
        Operation::DeleteManifest { repository, reference } => manifests::delete(app, &repository, reference).await,
        Operation::ReadBlob { repository, digest } => blobs::read(app, method, headers, &repository, digest).await,
        Operation::DeleteBlob { repository, digest } => blobs::delete(app, &repository, digest).await,
        Operation::StartUpload { repository, algorithm } => uploads::start(app, &repository, algorithm).await,
        Operation::PostBlob { repository, digest } => uploads::post(app, headers, body, &repository, digest).await,
        Operation::MountBlob { repository, digest, from, algorithm } => {
            uploads::mount(app, parts, &repository, digest, from, algorithm).await
        }
        Operation::UploadStatus { repository, id } => uploads::status(app, &repository, id).await,
        Operation::AppendUpload { repository, id } => uploads::append(app, headers, body, &repository, id).await,
        Operation::FinishUpload { repository, id, digest } => {
            uploads::finish(app, headers, body, &repository, id, digest).await
        }
        Operation::CancelUpload { repository, id } => uploads::cancel(app, &repository, id).await,
        Operation::Discover => Ok(history::discover()),
        Operation::ListHistory { repository, tag, paging } => history::list(app, &repository, &tag, paging).await,
        Operation::ReadMoment { repository, tag, at } => {
            history::moment(app, method, headers, &repository, &tag, at).await
        }
    }
}

/// Writes an error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
