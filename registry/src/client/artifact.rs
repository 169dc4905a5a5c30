//! Single manifests and blobs, for what is kept in registries beside images: the build cache.
//!
//! A tag that many write is changed as in a compare-and-swap: the manifest goes with `If-Match` and the digest that was
//! read. `slipway serve` answers 412 when the tag has moved on; other registries do not look at the header, and the last
//! one wins.

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use oci::{Descriptor, Digest, Parsed, Reference};
use reqwest::Method;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH};
use store::Store;

use super::push::Pusher;
use super::request::{Body, Request};
use super::session::{Access, Session};
use super::{BlobState, Client, PullError, PushError, TransferEvents, download, pull, sources};

/// A manifest or an index as a registry has it.
#[derive(Clone, Debug)]
pub struct FetchedManifest {
    /// Its type, digest and size.
    pub descriptor: Descriptor,
    /// What it says.
    pub parsed: Parsed,
}

/// Fetches a manifest, verified, without keeping it; `child` is one that an index of the repository names.
pub async fn fetch_manifest(
    client: &Client,
    reference: &Reference,
    child: Option<&Descriptor>,
) -> Result<FetchedManifest, PullError> {
    let session = open(client, reference, Access::Pull).await?;
    let name = child.map_or_else(|| pull::name_of(reference), |child| child.digest.to_string());
    let document = pull::get(&session, reference, &name, child).await?;
    Ok(FetchedManifest { descriptor: document.descriptor, parsed: document.parsed })
}

/// Fetches a small blob, verified, without keeping it.
pub async fn read_blob(
    client: &Client,
    reference: &Reference,
    blob: &Descriptor,
    limit: u64,
) -> Result<Bytes, PullError> {
    let too_large = || PullError::ConfigTooLarge { digest: blob.digest.clone(), size: blob.size, limit };
    if blob.size > limit {
        return Err(too_large());
    }
    let session = open(client, reference, Access::Pull).await?;
    let request = Request::new(Method::GET, session.url(&format!("blobs/{}", blob.digest)));
    let response = session.send(&request).await?;
    let mut response = session.expect_success(&request, response).await?;
    let bytes = response.bytes(usize::try_from(limit).unwrap_or(usize::MAX)).await?.ok_or_else(too_large)?;
    let actual = Digest::of(blob.digest.algorithm(), &bytes);
    if actual != blob.digest {
        let registry = session.registry.name.clone();
        return Err(PullError::BlobDigest { registry, expected: blob.digest.clone(), actual });
    }
    Ok(bytes)
}

/// Fetches a blob into the store, verified, unless it is there.
pub async fn fetch_blob(
    client: &Client,
    store: &Store,
    reference: &Reference,
    blob: &Descriptor,
    events: &dyn TransferEvents,
) -> Result<(), PullError> {
    let (blobs, wanted) = (store.blobs().clone(), blob.clone());
    let has = store::blocking::run(move || blobs.has(&wanted)).await;
    if has.map_err(|source| PullError::Store { digest: blob.digest.clone(), source })? {
        return Ok(());
    }
    let session = open(client, reference, Access::Pull).await?;
    events.started(blob);
    events.state(&blob.digest, &BlobState::PullingFsLayer);
    download::fetch(&session, store, blob, events).await
}

/// Remembers that a repository holds blobs, so that a push to another one of its registry can mount them.
pub async fn note_source(store: &Store, reference: &Reference, blobs: Vec<Digest>) {
    let (store, reference) = (store.clone(), reference.clone());
    let note = move || {
        blobs.iter().for_each(|digest| sources::note(&store, reference.registry(), reference.repository(), digest));
    };
    store::blocking::run(note).await;
}

/// Sends blobs that the repository lacks, several at once: mounts those that another repository is known to have.
///
/// One that is neither here nor there is [`PushError::Missing`].
pub async fn push_blobs(
    client: &Client,
    store: &Store,
    reference: &Reference,
    blobs: &[Descriptor],
    events: &dyn TransferEvents,
) -> Result<(), PushError> {
    let session = open(client, reference, Access::PullPush).await?;
    let pusher = Pusher::begin(&session, store, reference, events).await;
    for blob in blobs {
        events.started(blob);
        events.state(&blob.digest, &BlobState::Preparing);
    }
    let parallel = client.options().parallel.max(1);
    // Boxed, because rustc cannot see that a stream of unnamed futures moves between threads.
    let uploads: Vec<_> = blobs.iter().map(|blob| pusher.blob(blob).boxed()).collect();
    stream::iter(uploads).buffer_unordered(parallel).try_collect().await
}

/// Has a tag name a manifest, if it still names `before` (`None`: nothing), and tells whether it did.
///
/// A registry that knows no conditions always does. All that the manifest names must be there.
pub async fn push_manifest(
    client: &Client,
    reference: &Reference,
    media_type: &str,
    bytes: &[u8],
    before: Option<&Digest>,
) -> Result<bool, PushError> {
    let session = open(client, reference, Access::PullPush).await?;
    let url = session.url(&format!("manifests/{}", pull::name_of(reference)));
    let request = Request::new(Method::PUT, url)
        .header(CONTENT_TYPE, media_type)
        .body(Body::Bytes(Bytes::copy_from_slice(bytes)));
    let request = match before {
        Some(digest) => request.header(IF_MATCH, &format!("\"{digest}\"")),
        None => request.header(IF_NONE_MATCH, "*"),
    };
    let response = session.send(&request).await?;
    if response.status == StatusCode::PRECONDITION_FAILED {
        response.drain().await;
        return Ok(false);
    }
    session.expect_success(&request, response).await?;
    Ok(true)
}

async fn open(client: &Client, reference: &Reference, access: Access) -> Result<Session, super::RequestError> {
    Session::open(client, reference.registry(), reference.repository(), access).await
}
