//! [`Place`]: where a cache is, as manifests and blobs.

use std::fmt;

use oci::{Descriptor, Digest, Parsed, Reference};
use registry::client::{PullError, PushError, TransferEvents, artifact};
use store::images::MAX_MANIFEST;

use super::folder::Folder;
use super::{CacheError, CacheSource};
use crate::Engine;

/// Where a cache is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A name in a registry.
    Registry(Reference),
    /// A name in an OCI layout.
    Folder(Folder),
}

/// A manifest or an index of a place.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    pub(crate) descriptor: Descriptor,
    pub(crate) parsed: Parsed,
}

impl Place {
    pub(crate) fn of(source: &CacheSource) -> Self {
        match source {
            CacheSource::Registry { reference } => Self::Registry(reference.clone()),
            CacheSource::Folder { path, tag, digest } => {
                Self::Folder(Folder { path: path.clone(), tag: tag.clone(), digest: digest.clone() })
            }
        }
    }

    /// Reads what the name names; `None` when it names nothing.
    pub(crate) async fn top(&self, engine: &Engine) -> Result<Option<Document>, CacheError> {
        match self {
            Self::Registry(reference) => match artifact::fetch_manifest(engine.client(), reference, None).await {
                Ok(fetched) => Ok(Some(Document { descriptor: fetched.descriptor, parsed: fetched.parsed })),
                Err(PullError::NotFound { .. }) => Ok(None),
                Err(error) => Err(error.into()),
            },
            Self::Folder(folder) => {
                let folder = folder.clone();
                let read = move || match folder.top()? {
                    Some(descriptor) => document(&descriptor, &folder.read(&descriptor, MAX_MANIFEST)?).map(Some),
                    None => Ok(None),
                };
                store::blocking::run(read).await
            }
        }
    }

    /// Reads a manifest that an index of this place names.
    pub(crate) async fn child(&self, engine: &Engine, descriptor: &Descriptor) -> Result<Document, CacheError> {
        match self {
            Self::Registry(reference) => {
                let fetched = artifact::fetch_manifest(engine.client(), reference, Some(descriptor)).await?;
                Ok(Document { descriptor: fetched.descriptor, parsed: fetched.parsed })
            }
            Self::Folder(_) => document(descriptor, &self.blob(engine, descriptor, MAX_MANIFEST).await?),
        }
    }

    /// Reads a small blob, verified.
    pub(crate) async fn blob(&self, engine: &Engine, blob: &Descriptor, limit: u64) -> Result<Vec<u8>, CacheError> {
        match self {
            Self::Registry(reference) => {
                Ok(artifact::read_blob(engine.client(), reference, blob, limit).await?.to_vec())
            }
            Self::Folder(folder) => {
                let (folder, blob) = (folder.clone(), blob.clone());
                store::blocking::run(move || folder.read(&blob, limit)).await
            }
        }
    }

    /// Copies a blob into the store, verified, unless it is there.
    pub(crate) async fn fetch(
        &self,
        engine: &Engine,
        blob: &Descriptor,
        events: &dyn TransferEvents,
    ) -> Result<(), CacheError> {
        match self {
            Self::Registry(reference) => {
                Ok(artifact::fetch_blob(engine.client(), engine.store(), reference, blob, events).await?)
            }
            Self::Folder(folder) => {
                let (folder, store, blob) = (folder.clone(), engine.store().clone(), blob.clone());
                store::blocking::run(move || folder.fetch(&store, &blob)).await
            }
        }
    }

    /// Copies blobs of the store here. One that is neither in the store nor here is [`PushError::Missing`].
    pub(crate) async fn send(
        &self,
        engine: &Engine,
        blobs: &[Descriptor],
        events: &dyn TransferEvents,
    ) -> Result<(), CacheError> {
        match self {
            Self::Registry(reference) => {
                Ok(artifact::push_blobs(engine.client(), engine.store(), reference, blobs, events).await?)
            }
            Self::Folder(folder) => {
                let (folder, store, blobs) = (folder.clone(), engine.store().clone(), blobs.to_vec());
                let send = move || blobs.iter().try_for_each(|blob| folder.send(&store, blob));
                store::blocking::run(send).await
            }
        }
    }

    /// Has the name name a document, if it still names `before`, and tells whether it did. All that the document names
    /// must be here.
    pub(crate) async fn replace(
        &self,
        engine: &Engine,
        descriptor: &Descriptor,
        bytes: Vec<u8>,
        before: Option<&Digest>,
    ) -> Result<bool, CacheError> {
        match self {
            Self::Registry(reference) => {
                let media_type = &descriptor.media_type;
                Ok(artifact::push_manifest(engine.client(), reference, media_type, &bytes, before).await?)
            }
            Self::Folder(folder) => {
                let (folder, descriptor, before) = (folder.clone(), descriptor.clone(), before.cloned());
                store::blocking::run(move || folder.replace(&descriptor, &bytes, before.as_ref())).await
            }
        }
    }

    /// Tells which blob an error says is missing, here and in the store.
    pub(crate) fn missing(error: &CacheError) -> Option<&Digest> {
        match error {
            CacheError::Push(PushError::Missing { digest, .. }) => Some(digest),
            CacheError::Blob(store::BlobError::NotFound { digest }) => Some(digest),
            _ => None,
        }
    }
}

fn document(descriptor: &Descriptor, bytes: &[u8]) -> Result<Document, CacheError> {
    let parsed = Parsed::parse(bytes, Some(&descriptor.media_type))
        .map_err(|source| CacheError::Manifest { digest: descriptor.digest.clone(), source })?;
    Ok(Document { descriptor: descriptor.clone(), parsed })
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(reference) => write!(f, "`{}`", reference.familiar()),
            Self::Folder(folder) => write!(f, "`{}`", folder.path.display()),
        }
    }
}
