//! Questions about a Dockerfile that are answered without a build (`slipway build --call`).

use builder::{BuildError, BuildRequest, Checked, ImageSource, ImageSourceError, OciLayout, Outline, PullPolicy};
use oci::{ImageConfig, Parsed, Platform, Reference};
use registry::client::artifact::{fetch_manifest, read_blob};
use registry::client::{PullError, best};
use store::Image;

use crate::image_source::{cancelled, lookup};
use crate::{Cancel, Engine};

/// Checks a Dockerfile; see [`builder::check()`].
pub async fn check(engine: &Engine, request: BuildRequest, cancel: &Cancel) -> Checked {
    ask(engine, cancel, move |images| builder::check(&request, images)).await
}

/// Tells what a target can be given; see [`builder::outline()`].
///
/// # Errors
///
/// When a build would be refused.
pub async fn outline(engine: &Engine, request: BuildRequest, cancel: &Cancel) -> Result<Outline, BuildError> {
    ask(engine, cancel, move |images| builder::outline(&request, images)).await
}

/// Returns text as JSON carries the bytes of a file.
pub fn base64(text: &str) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text)
}

async fn ask<T: Send + 'static>(
    engine: &Engine,
    cancel: &Cancel,
    question: impl FnOnce(&Configs) -> T + Send + 'static,
) -> T {
    let (engine, cancel, runtime) = (engine.clone(), cancel.clone(), tokio::runtime::Handle::current());
    store::blocking::run(move || question(&Configs { engine, runtime, cancel })).await
}

/// Finds images as far as questions need them: manifest and config, and no layer.
struct Configs {
    engine: Engine,
    runtime: tokio::runtime::Handle,
    cancel: Cancel,
}

/// Why a config could not be had.
#[derive(Debug, thiserror::Error)]
enum ConfigError {
    #[error("it has no image for {platform}")]
    Platform { platform: String },
    #[error("its config is not valid JSON")]
    Config(#[source] serde_json::Error),
    #[error(transparent)]
    Pull(#[from] PullError),
    #[error("cancelled")]
    Cancelled,
}

impl Configs {
    fn here(&self, reference: &Reference, platform: &Platform) -> Option<Image> {
        let descriptor = lookup(self.engine.store(), reference).ok()??;
        self.engine.store().images().image(&descriptor, platform).ok()
    }

    async fn fetch(&self, reference: &Reference, platform: &Platform) -> Result<Image, ConfigError> {
        let client = self.engine.client();
        let mut fetched = fetch_manifest(client, reference, None).await?;
        // Indexes stand in indexes, but not forever.
        for _ in 0..4 {
            let Parsed::Index(index) = &fetched.parsed else { break };
            let child = best(index, platform).cloned();
            let child = child.ok_or_else(|| ConfigError::Platform { platform: platform.to_string() })?;
            fetched = fetch_manifest(client, reference, Some(&child)).await?;
        }
        let Parsed::Manifest(manifest) = fetched.parsed else {
            return Err(ConfigError::Platform { platform: platform.to_string() });
        };
        let bytes = read_blob(client, reference, &manifest.config, store::MAX_CONFIG).await?;
        let config: ImageConfig = serde_json::from_slice(&bytes).map_err(ConfigError::Config)?;
        let config_digest = manifest.config.digest.clone();
        Ok(Image { descriptor: fetched.descriptor, manifest, config, config_digest })
    }
}

impl ImageSource for Configs {
    fn resolve(&self, reference: &Reference, platform: &Platform, pull: PullPolicy) -> Result<Image, ImageSourceError> {
        let here = if pull == PullPolicy::Always { None } else { self.here(reference, platform) };
        if let Some(image) = here {
            return Ok(image);
        }
        let fetched = self.runtime.block_on(async {
            tokio::select! {
                fetched = self.fetch(reference, platform) => fetched,
                () = cancelled(&self.cancel) => Err(ConfigError::Cancelled),
            }
        });
        fetched.map_err(|error| ImageSourceError {
            message: format!("cannot resolve image `{}`", reference.familiar()),
            hint: None,
            source: Some(Box::new(error)),
        })
    }

    fn of_layout(&self, layout: &OciLayout, platform: &Platform) -> Result<Image, ImageSourceError> {
        crate::layout::bring(self.engine.store(), layout, platform).map_err(|error| ImageSourceError {
            message: format!("cannot use the image of `{}`", layout.path.display()),
            hint: crate::advice::advice(&error),
            source: Some(Box::new(error)),
        })
    }
}
