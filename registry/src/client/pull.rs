//! [`pull`]: an image from a registry into the store.

use std::collections::HashSet;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use oci::{Algorithm, Descriptor, Digest, ImageConfig, Index, Manifest, Parsed, Platform, Reference, media_type};
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderName};
use store::images::{MAX_CONFIG, MAX_MANIFEST};
use store::{BlobError, Store};

use super::request::{Request, Response};
use super::session::{Access, Session};
use super::{BlobState, Client, PullError, RequestError, TransferEvents, download, sources};

/// How deep indexes may be nested.
const MAX_DEPTH: usize = 4;
/// How many manifests an image may consist of.
const MAX_MANIFESTS: usize = 1000;

const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// Which images of an index are wanted.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// The one that suits this platform best.
    Best(&'a Platform),
    /// All of them.
    All,
}

/// What was pulled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// What the reference names on the registry, and now here: a manifest, or the index that it was picked from.
    pub descriptor: Descriptor,
    /// The manifests of the images that were wanted.
    pub manifests: Vec<Descriptor>,
    /// Whether everything was here, under this name, before ("Image is up to date").
    pub already: bool,
}

/// Pulls an image: its blobs first, in parallel, then its manifest, its name last.
///
/// What is in the store is not fetched again, and what broke off is carried on, also by a later pull. Every byte is
/// checked against its digest before anybody can see it. Of an index, the manifest blob is kept whole, though only
/// the wanted images come with it.
pub async fn pull(
    client: &Client,
    store: &Store,
    reference: &Reference,
    wanted: Wanted<'_>,
    events: &dyn TransferEvents,
    now: Timestamp,
) -> Result<Pulled, PullError> {
    let session = Session::open(client, reference.registry(), reference.repository(), Access::Pull).await?;
    let puller = Puller { session: &session, store, reference, events };
    let tag_error = |error| PullError::Tag { reference: reference.familiar(), source: Box::new(error) };
    let (images, name) = (store.images().clone(), reference.clone());
    let named = store::blocking::run(move || images.resolve(&name)).await.map_err(tag_error)?;

    let root = puller.root(named.as_ref()).await?;
    let descriptor = root.descriptor.clone();
    let documents = match wanted {
        Wanted::Best(platform) => puller.choose(root, platform).await?,
        Wanted::All => puller.all(root).await?,
    };
    let manifests: Vec<&Document> = documents.iter().filter(|document| document.manifest().is_some()).collect();
    if let (Wanted::Best(_), [only]) = (wanted, &manifests[..]) {
        puller.expect_image(only)?;
    }
    let fetched = puller.blobs(manifests.iter().filter_map(|document| document.manifest())).await?;
    for document in &manifests {
        puller.check_config(document).await?;
    }
    let manifests = manifests.into_iter().map(|document| document.descriptor.clone()).collect();
    let mut kept = 0;
    // Children stand after their index.
    for document in documents.into_iter().rev() {
        kept += usize::from(puller.keep(document).await?);
    }

    let already = fetched == 0 && kept == 0 && named.is_some_and(|named| named.digest == descriptor.digest);
    if !already {
        let (images, name, named) = (store.images().clone(), reference.clone(), descriptor.clone());
        store::blocking::run(move || images.tag(&name, &named, now)).await.map_err(tag_error)?;
    }
    Ok(Pulled { descriptor, manifests, already })
}

/// Asks a registry what a reference names, without fetching it when the registry says it in a header.
pub async fn resolve(client: &Client, reference: &Reference) -> Result<Descriptor, PullError> {
    let session = Session::open(client, reference.registry(), reference.repository(), Access::Pull).await?;
    if let Some(descriptor) = head(&session, reference).await? {
        return Ok(descriptor);
    }
    Ok(get(&session, reference, &name_of(reference), None).await?.descriptor)
}

/// A manifest or an index, with its exact bytes.
pub(super) struct Document {
    pub(super) descriptor: Descriptor,
    bytes: Bytes,
    pub(super) parsed: Parsed,
    /// Whether the store has it.
    stored: bool,
}

impl Document {
    fn manifest(&self) -> Option<&Manifest> {
        match &self.parsed {
            Parsed::Manifest(manifest) => Some(manifest),
            Parsed::Index(_) => None,
        }
    }
}

struct Puller<'a> {
    session: &'a Session,
    store: &'a Store,
    reference: &'a Reference,
    events: &'a dyn TransferEvents,
}

impl Puller<'_> {
    /// Gets what the reference names, from the store when it is certain that the registry would send the same.
    async fn root(&self, named: Option<&Descriptor>) -> Result<Document, PullError> {
        let digest = match (self.reference.digest(), named) {
            (Some(digest), _) => Some(digest.clone()),
            // A HEAD does not count against limits on pulls.
            (None, Some(named)) => {
                let current = head(self.session, self.reference).await?;
                current.map(|current| current.digest).filter(|digest| *digest == named.digest)
            }
            (None, None) => None,
        };
        if let Some(digest) = &digest {
            let sent_as = named.filter(|named| named.digest == *digest).map(|named| named.media_type.as_str());
            if let Some(document) = self.stored(digest, sent_as).await? {
                return Ok(document);
            }
        }
        get(self.session, self.reference, &name_of(self.reference), None).await
    }

    /// Gets a manifest that an index names.
    async fn child(&self, descriptor: &Descriptor) -> Result<Document, PullError> {
        if let Some(document) = self.stored(&descriptor.digest, Some(&descriptor.media_type)).await? {
            return Ok(document);
        }
        get(self.session, self.reference, &descriptor.digest.to_string(), Some(descriptor)).await
    }

    async fn stored(&self, digest: &Digest, sent_as: Option<&str>) -> Result<Option<Document>, PullError> {
        let (blobs, wanted) = (self.store.blobs().clone(), digest.clone());
        let bytes = match store::blocking::run(move || blobs.read(&wanted, MAX_MANIFEST)).await {
            Ok(bytes) => Bytes::from(bytes),
            Err(BlobError::NotFound { .. } | BlobError::Damaged { .. } | BlobError::TooLarge { .. }) => {
                return Ok(None);
            }
            Err(source) => return Err(PullError::Store { digest: digest.clone(), source }),
        };
        Ok(Some(document(self.reference, digest.clone(), bytes, sent_as, true)?))
    }

    /// Follows indexes to the image that suits a platform best; returns all that was passed, the index first.
    async fn choose(&self, root: Document, platform: &Platform) -> Result<Vec<Document>, PullError> {
        let mut path = vec![root];
        loop {
            let last = path.last().expect("the path starts with the root");
            let Parsed::Index(index) = &last.parsed else { return Ok(path) };
            if path.len() > MAX_DEPTH {
                return Err(PullError::TooDeep { limit: MAX_DEPTH });
            }
            let chosen = best(index, platform).ok_or_else(|| PullError::NoPlatform {
                reference: self.reference.familiar(),
                wanted: Box::new(platform.clone()),
                offered: offered(index),
            })?;
            let child = self.child(chosen).await?;
            path.push(child);
        }
    }

    /// Gets everything below an index; each index stands before what it names.
    async fn all(&self, root: Document) -> Result<Vec<Document>, PullError> {
        let mut seen = HashSet::from([root.descriptor.digest.clone()]);
        let mut documents = Vec::new();
        let mut level = vec![root];
        for _ in 0..=MAX_DEPTH {
            let mut children = Vec::new();
            for document in &level {
                if let Parsed::Index(index) = &document.parsed {
                    let fresh = index.manifests.iter().filter(|child| seen.insert(child.digest.clone()));
                    children.extend(fresh.cloned());
                }
            }
            if seen.len() > MAX_MANIFESTS {
                return Err(PullError::TooMany { limit: MAX_MANIFESTS });
            }
            documents.append(&mut level);
            if children.is_empty() {
                return Ok(documents);
            }
            let parallel = self.session.client.options().parallel.max(1);
            // Boxed, because rustc cannot see that a stream of unnamed futures moves between threads.
            let fetches: Vec<_> = children.iter().map(|child| self.child(child).boxed()).collect();
            level = stream::iter(fetches).buffered(parallel).try_collect::<Vec<_>>().await?;
        }
        Err(PullError::TooDeep { limit: MAX_DEPTH })
    }

    /// Refuses artifacts that are no images.
    fn expect_image(&self, document: &Document) -> Result<(), PullError> {
        let Some(manifest) = document.manifest() else { return Ok(()) };
        let media_type = manifest.config.media_type.as_str();
        if is_image_config(media_type) {
            return Ok(());
        }
        let media_type = manifest.artifact_type.as_deref().unwrap_or(media_type);
        Err(PullError::NotAnImage { reference: self.reference.familiar(), media_type: media_type.into() })
    }

    /// Fetches the blobs of manifests that are not in the store; returns how many.
    async fn blobs(&self, manifests: impl Iterator<Item = &Manifest>) -> Result<usize, PullError> {
        let mut seen = HashSet::new();
        let mut blobs = Vec::new();
        for manifest in manifests {
            if manifest.config.size > MAX_CONFIG {
                let (digest, size) = (manifest.config.digest.clone(), manifest.config.size);
                return Err(PullError::ConfigTooLarge { digest, size, limit: MAX_CONFIG });
            }
            let all = manifest.layers.iter().chain([&manifest.config]);
            blobs.extend(all.filter(|blob| seen.insert(blob.digest.clone())));
        }
        for blob in &blobs {
            self.events.started(blob);
            self.events.state(&blob.digest, &BlobState::PullingFsLayer);
        }
        let parallel = self.session.client.options().parallel.max(1);
        let fetches: Vec<_> = blobs.into_iter().map(|blob| self.blob(blob).boxed()).collect();
        let fetched: Vec<bool> = stream::iter(fetches).buffer_unordered(parallel).try_collect().await?;
        Ok(fetched.into_iter().filter(|fetched| *fetched).count())
    }

    /// Fetches a blob, and tells whether it was not in the store.
    async fn blob(&self, blob: &Descriptor) -> Result<bool, PullError> {
        let (store, wanted) = (self.store.clone(), blob.clone());
        let has = store::blocking::run(move || store.blobs().has(&wanted)).await;
        let has = has.map_err(|source| PullError::Store { digest: blob.digest.clone(), source })?;
        if has {
            self.events.state(&blob.digest, &BlobState::AlreadyExists);
        } else {
            download::fetch(self.session, self.store, blob, self.events).await?;
        }
        let (store, reference, digest) = (self.store.clone(), self.reference.clone(), blob.digest.clone());
        store::blocking::run(move || {
            sources::note(&store, reference.registry(), reference.repository(), &digest);
        })
        .await;
        Ok(!has)
    }

    /// Checks that an image's config fits its manifest.
    async fn check_config(&self, document: &Document) -> Result<(), PullError> {
        let Some(manifest) = document.manifest() else { return Ok(()) };
        let unknown = document.descriptor.platform.as_ref().is_some_and(|platform| platform.os == "unknown");
        if !is_image_config(&manifest.config.media_type) || unknown {
            return Ok(());
        }
        let digest = manifest.config.digest.clone();
        let (blobs, wanted) = (self.store.blobs().clone(), digest.clone());
        let bytes = store::blocking::run(move || blobs.read(&wanted, MAX_CONFIG)).await;
        let bytes = bytes.map_err(|source| PullError::Store { digest: digest.clone(), source })?;
        let config: ImageConfig =
            serde_json::from_slice(&bytes).map_err(|source| PullError::Config { digest: digest.clone(), source })?;
        let (diff_ids, layers) = (config.rootfs.diff_ids.len(), manifest.layers.len());
        if diff_ids != layers {
            return Err(PullError::LayerCount { config: digest, diff_ids, layers });
        }
        Ok(())
    }

    /// Stores a manifest, and tells whether it was not there.
    async fn keep(&self, document: Document) -> Result<bool, PullError> {
        if document.stored {
            return Ok(false);
        }
        let blobs = self.store.blobs().clone();
        let digest = document.descriptor.digest.clone();
        let kept = store::blocking::run(move || {
            let digest = &document.descriptor.digest;
            let mut writer = blobs.begin_as(digest.algorithm())?;
            std::io::Write::write_all(&mut writer, &document.bytes).map_err(|error| writer.explain(error))?;
            writer.commit(Some(digest))
        });
        kept.await.map(|_| true).map_err(|source| PullError::Store { digest, source })
    }
}

/// Tells whether a config of this type makes an image of a manifest. The last one is that of very old images.
fn is_image_config(media_type: &str) -> bool {
    matches!(media_type, media_type::OCI_CONFIG | media_type::DOCKER_CONFIG | "application/octet-stream")
}

/// Picks the manifest of an index that suits a platform best, the earlier one when two do.
///
/// One without a platform is taken when none with a platform fits: some tools leave it out of single images.
pub fn best<'a>(index: &'a Index, platform: &Platform) -> Option<&'a Descriptor> {
    let about_another = |child: &Descriptor| child.annotations.contains_key("vnd.docker.reference.type");
    let images = || index.manifests.iter().filter(|child| !about_another(child));
    let rank = |child: &'a Descriptor| Some((platform.rank(child.platform.as_ref()?)?, child));
    let ranked = images().filter_map(rank).min_by_key(|(rank, _)| *rank).map(|(_, child)| child);
    ranked.or_else(|| images().find(|child| child.platform.is_none()))
}

fn offered(index: &Index) -> Vec<String> {
    let platforms = index.manifests.iter().filter_map(|child| child.platform.as_ref());
    platforms.filter(|platform| platform.os != "unknown").map(Platform::to_string).take(50).collect()
}

/// Returns how the registry is asked for a reference.
pub(super) fn name_of(reference: &Reference) -> String {
    match (reference.digest(), reference.tag()) {
        (Some(digest), _) => digest.to_string(),
        (None, Some(tag)) => tag.to_string(),
        (None, None) => "latest".into(),
    }
}

fn manifest_request(session: &Session, method: Method, name: &str) -> Request {
    let types = [
        media_type::OCI_INDEX,
        media_type::OCI_MANIFEST,
        media_type::DOCKER_INDEX,
        media_type::DOCKER_MANIFEST,
        "application/json;q=0.5",
        "*/*;q=0.1",
    ];
    // One header with all: some registries read only the first.
    let mut request = Request::new(method, session.url(&format!("manifests/{name}"))).header(ACCEPT, &types.join(", "));
    // Some caches fetch the whole image before they answer.
    request.patience = 3;
    request
}

fn not_found(reference: &Reference, error: RequestError) -> PullError {
    match error {
        RequestError::NotFound { registry, said, .. } => {
            PullError::NotFound { reference: reference.familiar(), registry, said }
        }
        other => other.into(),
    }
}

/// Returns the media type of a manifest's answer, if it is one that says something.
fn sent_as(response: &Response) -> Option<String> {
    let value = response.header(&CONTENT_TYPE)?;
    let media_type = value.split(';').next().unwrap_or(value).trim();
    // Proxies and simple web servers say `text/plain`; the bytes tell more.
    (media_type::is_index(media_type) || media_type::is_manifest(media_type)).then(|| media_type.to_owned())
}

/// Asks what a reference names; `None` when the registry does not say it all in headers.
async fn head(session: &Session, reference: &Reference) -> Result<Option<Descriptor>, PullError> {
    let request = manifest_request(session, Method::HEAD, &name_of(reference));
    let response = session.send(&request).await?;
    if response.status.as_u16() == 405 {
        return Ok(None);
    }
    let response = session.expect_success(&request, response).await.map_err(|error| not_found(reference, error))?;
    let digest = response.header(&DOCKER_CONTENT_DIGEST).and_then(|text| text.parse::<Digest>().ok());
    let said = digest.zip(sent_as(&response)).zip(response.content_length());
    Ok(said.map(|((digest, media_type), size)| Descriptor::new(&media_type, digest, size)))
}

/// Fetches a manifest by tag or digest, and checks its bytes.
pub(super) async fn get(
    session: &Session,
    reference: &Reference,
    name: &str,
    expected: Option<&Descriptor>,
) -> Result<Document, PullError> {
    let too_large = || PullError::ManifestTooLarge { reference: reference.familiar(), limit: MAX_MANIFEST };
    if expected.is_some_and(|expected| expected.size > MAX_MANIFEST) {
        return Err(too_large());
    }
    let request = manifest_request(session, Method::GET, name);
    let response = session.send(&request).await?;
    let mut response = session.expect_success(&request, response).await.map_err(|error| not_found(reference, error))?;
    let bytes = response.bytes(MAX_MANIFEST as usize).await?.ok_or_else(too_large)?;

    let asked: Option<Digest> = name.parse().ok();
    let header: Option<Digest> = response.header(&DOCKER_CONTENT_DIGEST).and_then(|text| text.parse().ok());
    for expected in asked.iter().chain(&header) {
        let actual = Digest::of(expected.algorithm(), &bytes);
        if actual != *expected {
            let registry = session.registry.name.clone();
            return Err(PullError::ManifestDigest { registry, expected: expected.clone(), actual });
        }
    }
    if let Some(expected) = expected.filter(|expected| expected.size != bytes.len() as u64) {
        let (digest, actual) = (expected.digest.clone(), bytes.len() as u64);
        return Err(PullError::ManifestSize { digest, expected: expected.size, actual });
    }
    let digest = asked.or(header).unwrap_or_else(|| Digest::of(Algorithm::Sha256, &bytes));
    let sent_as = expected.map(|expected| expected.media_type.clone()).or_else(|| sent_as(&response));
    let mut document = document(reference, digest, bytes, sent_as.as_deref(), false)?;
    document.descriptor.platform = expected.and_then(|expected| expected.platform.clone());
    Ok(document)
}

fn document(
    reference: &Reference,
    digest: Digest,
    bytes: Bytes,
    sent_as: Option<&str>,
    stored: bool,
) -> Result<Document, PullError> {
    let parsed = Parsed::parse(&bytes, sent_as)
        .map_err(|source| PullError::Manifest { reference: reference.familiar(), source })?;
    let descriptor = Descriptor::new(sent_as.unwrap_or(parsed.media_type()), digest, bytes.len() as u64);
    Ok(Document { descriptor, bytes, parsed, stored })
}
