//! [`Transfer`]: what a build does about caches before and after.

use std::sync::Arc;

use builder::remote_cache::Ledger;
use builder::{BuildEvent, BuildRequest, Built, BuiltImage, Cancel, RemoteCache};
use jiff::Timestamp;
use oci::{Descriptor, Reference};

use super::export::{Known, export};
use super::remote::{Remote, chain};
use super::send_on::{lacks_layers, send_on};
use super::{CacheError, CacheExport, CacheExportError, CacheOptions, CacheTarget};
use crate::Engine;
use crate::ops::build::BuildView;
use crate::output::{Form, ImageOutput, Output};

/// What came of sending an image of which layers are not here.
pub(crate) enum Sending {
    /// All layers are here.
    Whole,
    /// It was sent; this is what it is there.
    Sent(Box<Descriptor>),
    /// A layer cannot be had: the build must bring them all, or do their steps again.
    Lost,
}

/// The caches of one build.
pub(crate) struct Transfer {
    to: Vec<CacheExport>,
    ledger: Option<Arc<Ledger>>,
    remote: Option<Remote>,
    load: bool,
    now: Timestamp,
}

impl Transfer {
    /// Has a request take from caches and note what is written to others. Contacts nobody yet.
    pub(crate) fn prepare(
        engine: &Engine,
        options: CacheOptions,
        request: &mut BuildRequest,
        view: &Arc<dyn BuildView>,
        cancel: &Cancel,
    ) -> Self {
        let CacheOptions { from, to, load } = options;
        let remote = (!from.is_empty()).then(|| Remote::new(engine, &from, view.clone(), cancel));
        // As docker has it, the build argument asks for it too.
        let argument = request.build_args.get("BUILDKIT_INLINE_CACHE").map(String::as_str);
        let inline = matches!(argument, Some("1" | "t" | "T" | "true" | "TRUE" | "True"))
            || to.iter().any(|export| export.target == CacheTarget::Inline);
        let ledger = (inline || !to.is_empty()).then(Arc::<Ledger>::default);
        request.transfer.remote = remote.clone().map(|remote| Arc::new(remote) as Arc<dyn RemoteCache>);
        request.transfer.ledger.clone_from(&ledger);
        request.transfer.inline = inline;
        Self { to, ledger, remote, load, now: request.now }
    }

    /// Tells whether layers of the image may stay where they are: it is only sent on.
    pub(crate) fn may_leave_layers(&self, outputs: &[Output]) -> bool {
        let plainly_sent = |image: &ImageOutput| {
            image.push && !image.by_digest && image.form == Form::default() && image.annotations.is_empty()
        };
        let only_sent = outputs.iter().all(|output| matches!(output, Output::Image(image) if plainly_sent(image)));
        self.remote.is_some() && !self.load && !outputs.is_empty() && only_sent
    }

    /// Sends an image of which layers are not here.
    pub(crate) async fn send_on(
        &self,
        engine: &Engine,
        built: &Built,
        names: &[Reference],
        view: &dyn BuildView,
        cancel: &Cancel,
    ) -> Result<Sending, CacheError> {
        let Some(remote) = &self.remote else { return Ok(Sending::Whole) };
        let (store, looked_at) = (engine.store().clone(), built.clone());
        if !store::blocking::run(move || lacks_layers(&store, &looked_at)).await? {
            return Ok(Sending::Whole);
        }
        match send_on(engine, remote, built, names, view, cancel).await {
            Ok(descriptor) => Ok(Sending::Sent(Box::new(descriptor))),
            // The registry that the image was to go to is at fault.
            Err(error @ CacheError::Push(_)) => Err(error),
            Err(_) => Ok(Sending::Lost),
        }
    }

    /// Writes the caches that are to be written.
    ///
    /// # Errors
    ///
    /// The first that could not be written, after all were tried; those that may fail are warnings.
    pub(crate) async fn write(
        &self,
        engine: &Engine,
        images: &[BuiltImage],
        view: &dyn BuildView,
    ) -> Result<(), CacheExportError> {
        let Some(ledger) = &self.ledger else { return Ok(()) };
        let images: Vec<_> = images.iter().map(|image| image.config.rootfs.diff_ids.clone()).collect();
        let mut failed = Ok(());
        for to in &self.to {
            let known = Known { ledger, images: &images, remote: self.remote.as_ref(), now: self.now };
            match export(engine, to, known, view).await {
                Ok(()) => {}
                Err(error) if to.ignore_error => {
                    view.event(BuildEvent::Warning { message: chain(&error), lines: None });
                }
                Err(error) => failed = failed.and(Err(error)),
            }
        }
        failed
    }
}
