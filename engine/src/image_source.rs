//! Where `FROM` and `run` find images: the store, else a registry.

use builder::{Cancel, OciLayout, PullPolicy};
use jiff::Timestamp;
use oci::{Descriptor, Platform, Reference};
use registry::client::{PullError, TransferEvents, Wanted, pull};
use store::{Image, ImageError, Store};
use tokio::sync::Notify;

use crate::Engine;
use crate::advice::advice;

/// Why an image could not be had.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum ObtainError {
    #[error("image `{reference}` is not here, and pulling it was forbidden")]
    NotHere { reference: String },
    #[error("cannot pull image `{reference}`")]
    Pull { reference: String, source: Box<PullError> },
    #[error("image `{reference}` cannot be used")]
    Image { reference: String, source: ImageError },
    #[error("cancelled")]
    Cancelled,
}

/// Finds an image in the store, and pulls it when it is missing or `policy` says so.
///
/// # Errors
///
/// When there is none, or it cannot be got.
pub async fn obtain(
    engine: &Engine,
    reference: &Reference,
    platform: &Platform,
    policy: PullPolicy,
    events: &dyn TransferEvents,
    now: Timestamp,
    cancel: &Cancel,
) -> Result<Image, ObtainError> {
    let unusable = |source| ObtainError::Image { reference: reference.familiar(), source };
    let read = |descriptor: Descriptor| {
        let (store, platform) = (engine.store().clone(), platform.clone());
        store::blocking::run(move || store.images().image(&descriptor, &platform))
    };
    if policy != PullPolicy::Always {
        let (store, wanted) = (engine.store().clone(), reference.clone());
        let here = store::blocking::run(move || lookup(&store, &wanted)).await.map_err(unusable)?;
        match here {
            Some(descriptor) => match read(descriptor).await {
                Ok(image) => return Ok(image),
                // Another platform's image, or an index of which only another part is here.
                Err(ImageError::Platform { .. } | ImageError::Blob(_)) if policy == PullPolicy::Missing => {}
                Err(error) => return Err(unusable(error)),
            },
            None if policy == PullPolicy::Never => {
                return Err(ObtainError::NotHere { reference: reference.familiar() });
            }
            None => {}
        }
    }
    let pulled = tokio::select! {
        pulled = pull(engine.client(), engine.store(), reference, Wanted::Best(platform), events, now) => pulled,
        () = cancelled(cancel) => return Err(ObtainError::Cancelled),
    };
    let pulled =
        pulled.map_err(|source| ObtainError::Pull { reference: reference.familiar(), source: Box::new(source) })?;
    read(pulled.descriptor).await.map_err(unusable)
}

/// Finds what a reference names; one with a digest may be here under another name.
pub(crate) fn lookup(store: &Store, reference: &Reference) -> Result<Option<Descriptor>, ImageError> {
    if let Some(descriptor) = store.images().resolve(reference)? {
        return Ok(Some(descriptor));
    }
    let Some(digest) = reference.digest() else { return Ok(None) };
    let mut tagged = store.images().list()?.into_iter();
    Ok(tagged.find(|tagged| tagged.descriptor.digest == *digest).map(|tagged| tagged.descriptor))
}

/// Waits until an operation is cancelled.
pub(crate) async fn cancelled(cancel: &Cancel) {
    let notify = std::sync::Arc::new(Notify::new());
    let waker = notify.clone();
    let _guard = cancel.on_cancel(move || waker.notify_one());
    notify.notified().await;
}

/// The builder's way to images: its threads wait for what the async client does.
pub(crate) struct Images<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) events: &'a dyn TransferEvents,
    pub(crate) now: Timestamp,
    pub(crate) cancel: &'a Cancel,
    pub(crate) materials: Option<&'a builder::Materials>,
}

impl builder::ImageSource for Images<'_> {
    fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
        policy: PullPolicy,
    ) -> Result<Image, builder::ImageSourceError> {
        let image = obtain(self.engine, reference, platform, policy, self.events, self.now, self.cancel);
        let image = self.runtime.block_on(image).map_err(|error| builder::ImageSourceError {
            message: format!("cannot resolve image `{}`", reference.familiar()),
            hint: advice(&error),
            source: Some(Box::new(error)),
        })?;
        if let Some(materials) = self.materials {
            // What the name stands for is what others can find again; of an index we have only a part.
            let named = lookup(self.engine.store(), reference).ok().flatten();
            materials.note_image(reference, platform, &named.unwrap_or_else(|| image.descriptor.clone()).digest);
        }
        Ok(image)
    }

    fn of_layout(&self, layout: &OciLayout, platform: &Platform) -> Result<Image, builder::ImageSourceError> {
        crate::layout::bring(self.engine.store(), layout, platform).map_err(|error| builder::ImageSourceError {
            message: format!("cannot use the image of `{}`", layout.path.display()),
            hint: advice(&error),
            source: Some(Box::new(error)),
        })
    }
}
