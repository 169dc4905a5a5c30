//! [`push`]: an image from the store to a registry.

use std::collections::HashSet;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use oci::{Descriptor, Digest, Parsed, Reference, RepositoryName, media_type};
use reqwest::header::{CONTENT_TYPE, HeaderName};
use reqwest::{Method, StatusCode, Url};
use store::{BlobError, Store};

use super::endpoint::is_loopback;
use super::request::{Body, Request};
use super::session::{Access, Session, scope};
use super::{BlobState, Client, PushError, RequestError, TransferEvents, sources, upload};
use crate::home::{self, Claim, Home};

/// How large a manifest may be.
const MAX_MANIFEST: u64 = 8 << 20;
/// How deep indexes may be nested.
const MAX_DEPTH: usize = 4;
/// From how many repositories mounting a blob is tried.
const MAX_MOUNTS: usize = 3;

const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// What was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The digest of the manifest or index.
    pub digest: Digest,
    /// Its size.
    pub size: u64,
}

/// Sends an image, and the blobs that the registry lacks, to a registry.
///
/// `descriptor` is of a manifest or index whose blobs are all in the store (`store.images().publishable`). Blobs go
/// first and the manifest last, so nobody ever pulls a manifest that names a missing blob. What another repository
/// of the same registry is known to have is mounted instead of sent, and a registry of this very home takes all from the
/// store by itself.
pub async fn push(
    client: &Client,
    store: &Store,
    reference: &Reference,
    descriptor: &Descriptor,
    events: &dyn TransferEvents,
) -> Result<Pushed, PushError> {
    if let Some(digest) = reference.digest()
        && *digest != descriptor.digest
    {
        let (reference, actual) = (reference.familiar(), descriptor.digest.clone());
        return Err(PushError::OtherDigest { reference, actual });
    }
    let session = Session::open(client, reference.registry(), reference.repository(), Access::PullPush).await?;
    let pusher = Pusher::begin(&session, store, reference, events).await;
    let documents = pusher.documents(descriptor).await?;
    pusher.blobs(&documents).await?;
    // Children stand after their index, and the root is first.
    for (at, document) in documents.iter().enumerate().rev() {
        let name = match reference.tag() {
            Some(tag) if at == 0 && reference.digest().is_none() => tag.to_string(),
            _ => document.descriptor.digest.to_string(),
        };
        pusher.manifest(&name, document).await?;
    }
    Ok(Pushed { digest: descriptor.digest.clone(), size: documents[0].bytes.len() as u64 })
}

/// A manifest or an index, with its exact bytes.
struct Document {
    descriptor: Descriptor,
    bytes: Bytes,
    parsed: Parsed,
}

pub(super) struct Pusher<'a> {
    session: &'a Session,
    store: &'a Store,
    reference: &'a Reference,
    events: &'a dyn TransferEvents,
    /// The store's home, when the registry may be of the same.
    home: Option<Home>,
}

impl<'a> Pusher<'a> {
    /// Prepares to push out of a store.
    pub(super) async fn begin(
        session: &'a Session,
        store: &'a Store,
        reference: &'a Reference,
        events: &'a dyn TransferEvents,
    ) -> Self {
        let home = if is_loopback(&session.registry.endpoint.base) {
            let layout = store.layout().clone();
            // Without a key that can be read, blobs are sent as to any registry.
            store::blocking::run(move || Home::find(&layout)).await.ok().flatten()
        } else {
            None
        };
        Self { session, store, reference, events, home }
    }
}

impl Pusher<'_> {
    /// Reads a manifest and all below it; each index stands before what it names.
    ///
    /// A manifest that is not in the store is left out when the registry has it: of an index, often only one
    /// platform was pulled.
    async fn documents(&self, root: &Descriptor) -> Result<Vec<Document>, PushError> {
        let mut seen = HashSet::new();
        let mut documents = Vec::new();
        let mut level = vec![root.clone()];
        for _ in 0..=MAX_DEPTH {
            let mut next = Vec::new();
            for descriptor in level {
                if !seen.insert(descriptor.digest.clone()) {
                    continue;
                }
                let Some(document) = self.document(&descriptor).await? else {
                    self.expect_manifest(&descriptor).await?;
                    continue;
                };
                if let Parsed::Index(index) = &document.parsed {
                    next.extend(index.manifests.iter().cloned());
                }
                documents.push(document);
            }
            if next.is_empty() {
                return Ok(documents);
            }
            level = next;
        }
        Err(PushError::TooDeep { limit: MAX_DEPTH })
    }

    async fn document(&self, descriptor: &Descriptor) -> Result<Option<Document>, PushError> {
        let (blobs, digest) = (self.store.blobs().clone(), descriptor.digest.clone());
        let bytes = match store::blocking::run(move || blobs.read(&digest, MAX_MANIFEST)).await {
            Ok(bytes) => Bytes::from(bytes),
            Err(BlobError::NotFound { .. }) => return Ok(None),
            Err(source) => return Err(PushError::Store { digest: descriptor.digest.clone(), source }),
        };
        let parsed = Parsed::parse(&bytes, Some(&descriptor.media_type))
            .map_err(|source| PushError::Manifest { digest: descriptor.digest.clone(), source })?;
        Ok(Some(Document { descriptor: descriptor.clone(), bytes, parsed }))
    }

    async fn expect_manifest(&self, descriptor: &Descriptor) -> Result<(), PushError> {
        let request = Request::new(Method::HEAD, self.session.url(&format!("manifests/{}", descriptor.digest)))
            .header(reqwest::header::ACCEPT, &descriptor.media_type);
        let response = self.session.send(&request).await?;
        if response.status == StatusCode::NOT_FOUND {
            return Err(self.missing(&descriptor.digest));
        }
        self.session.expect_success(&request, response).await?;
        Ok(())
    }

    fn missing(&self, digest: &Digest) -> PushError {
        PushError::Missing { registry: self.session.registry.name.clone(), digest: digest.clone() }
    }

    async fn blobs(&self, documents: &[Document]) -> Result<(), PushError> {
        let mut seen = HashSet::new();
        let mut blobs = Vec::new();
        for document in documents {
            let Parsed::Manifest(manifest) = &document.parsed else { continue };
            let all = manifest.layers.iter().chain([&manifest.config]);
            let distributed = all.filter(|blob| !media_type::is_nondistributable(&blob.media_type));
            blobs.extend(distributed.filter(|blob| seen.insert(blob.digest.clone())));
        }
        for blob in &blobs {
            self.events.started(blob);
            self.events.state(&blob.digest, &BlobState::Preparing);
        }
        let parallel = self.session.client.options().parallel.max(1);
        // Boxed, because rustc cannot see that a stream of unnamed futures moves between threads.
        let uploads: Vec<_> = blobs.into_iter().map(|blob| self.blob(blob).boxed()).collect();
        stream::iter(uploads).buffer_unordered(parallel).try_collect().await
    }

    /// Sees to it that the repository has a blob.
    pub(super) async fn blob(&self, blob: &Descriptor) -> Result<(), PushError> {
        let state = if upload::exists(self.session, blob).await? {
            BlobState::LayerAlreadyExists
        } else {
            match self.mount(blob).await? {
                Mount::Mounted(Some(repository)) => BlobState::MountedFrom(repository),
                Mount::Mounted(None) => BlobState::Mounted,
                Mount::Upload(location) => self.upload(blob, location).await?,
            }
        };
        let (store, reference, digest) = (self.store.clone(), self.reference.clone(), blob.digest.clone());
        store::blocking::run(move || sources::note(&store, reference.registry(), reference.repository(), &digest))
            .await;
        self.events.state(&blob.digest, &state);
        Ok(())
    }

    /// Tries to have the registry take a blob over from another of its repositories, or from the store itself.
    async fn mount(&self, blob: &Descriptor) -> Result<Mount, PushError> {
        let (store, registry, digest) = (self.store.clone(), self.reference.registry().to_owned(), blob.digest.clone());
        let known = store::blocking::run(move || sources::find(&store, &registry, &digest)).await;
        let others = known.into_iter().filter(|repository| repository != self.reference.repository());
        let proof = self.proof(blob).await;
        // Who shows where the blob is need not name a repository that has it.
        let nowhere = proof.is_some().then_some(None);
        for from in others.take(MAX_MOUNTS).map(Some).chain(nowhere) {
            let mut url = self.session.url("blobs/uploads/");
            url.query_pairs_mut().append_pair("mount", &blob.digest.to_string());
            if let Some(from) = &from {
                url.query_pairs_mut().append_pair("from", from.as_str());
            }
            let mut request = Request::new(Method::POST, url);
            if let Some(proof) = &proof {
                request = request.header(home::HEADER, proof);
            }
            request.scopes = from.iter().map(|from| scope(from, "pull")).collect();
            // Whatever is wrong with mounting, the blob can still be sent.
            let Ok(response) = self.session.attempt(&request, &mut |_| {}).await else { continue };
            match response.status {
                StatusCode::CREATED => return Ok(Mount::Mounted(from)),
                StatusCode::ACCEPTED => {
                    return Ok(Mount::Upload(upload::next_location(self.session, &response).ok()));
                }
                _ => {}
            }
        }
        Ok(Mount::Upload(None))
    }

    /// Proves to a registry of the same home that it may take a blob from the store, if that has it.
    async fn proof(&self, blob: &Descriptor) -> Option<String> {
        let (home, clock) = (self.home.as_ref()?, self.session.client.options().clock?);
        let (blobs, digest) = (self.store.blobs().clone(), blob.digest.clone());
        // Opened, it is a file, whatever it was before. What is wrong with it is told when it is to be sent.
        let opened = store::blocking::run(move || blobs.open(&digest)).await.ok()?;
        let base = &self.session.registry.endpoint.base;
        let host = base.host_str().filter(|_| opened.size == blob.size)?;
        let host = base.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let claim = Claim { host: &host, repository: self.reference.repository(), digest: &blob.digest };
        Some(home.prove(claim, clock()))
    }

    async fn upload(&self, blob: &Descriptor, location: Option<Url>) -> Result<BlobState, PushError> {
        let (blobs, digest) = (self.store.blobs().clone(), blob.digest.clone());
        let opened = match store::blocking::run(move || blobs.open(&digest)).await {
            Ok(opened) => opened,
            Err(BlobError::NotFound { .. }) => return Err(self.missing(&blob.digest)),
            Err(source) => return Err(PushError::Store { digest: blob.digest.clone(), source }),
        };
        if opened.size != blob.size {
            let source = BlobError::Damaged { digest: blob.digest.clone() };
            return Err(PushError::Store { digest: blob.digest.clone(), source });
        }
        self.events.state(&blob.digest, &BlobState::Pushing);
        self.events.progress(&blob.digest, 0, blob.size);
        match upload::send(self.session, blob, opened.file, location, self.events).await {
            Ok(()) => Ok(BlobState::Pushed),
            Err(error) => Err(self.look_closer(blob, error).await),
        }
    }

    /// When a registry says that a blob's bytes are wrong, the store's may be.
    async fn look_closer(&self, blob: &Descriptor, error: RequestError) -> PushError {
        if matches!(&error, RequestError::Status { status: 400, said, .. } if said.code == "DIGEST_INVALID") {
            let (blobs, digest) = (self.store.blobs().clone(), blob.digest.clone());
            if let Err(source) = store::blocking::run(move || blobs.verify(&digest)).await {
                return PushError::Store { digest: blob.digest.clone(), source };
            }
        }
        error.into()
    }

    /// Sends a manifest, under a tag or under its digest.
    async fn manifest(&self, name: &str, document: &Document) -> Result<(), PushError> {
        let request = Request::new(Method::PUT, self.session.url(&format!("manifests/{name}")))
            .header(CONTENT_TYPE, document.parsed_type())
            .body(Body::Bytes(document.bytes.clone()));
        let response = self.session.send(&request).await?;
        let response = self.session.expect_success(&request, response).await?;
        let stored: Option<Digest> = response.header(&DOCKER_CONTENT_DIGEST).and_then(|text| text.parse().ok());
        let expected = &document.descriptor.digest;
        match stored.filter(|stored| stored.algorithm() == expected.algorithm() && stored != expected) {
            Some(actual) => {
                let registry = self.session.registry.name.clone();
                Err(PushError::StoredAs { registry, expected: expected.clone(), actual })
            }
            None => Ok(()),
        }
    }
}

impl Document {
    /// Returns what the manifest says it is; older ones leave that to their descriptor.
    fn parsed_type(&self) -> &str {
        &self.descriptor.media_type
    }
}

/// What came of trying to mount.
enum Mount {
    /// From a repository, if one was named.
    Mounted(Option<RepositoryName>),
    /// It has to be sent; the registry may have begun an upload already.
    Upload(Option<Url>),
}
