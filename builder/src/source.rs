//! [`ImageSource`]: where `FROM` and `--from` find images. The engine fills it in with the store and the registry client.

use oci::{Platform, Reference};

use crate::request::{OciLayout, PullPolicy};

/// Finds images.
///
/// # Contract
///
/// - The image that is returned is for the platform that was asked for, or one that runs there.
/// - Its manifest, config and layers are in the store.
/// - A reference with a digest gives the image of that digest or an error.
pub trait ImageSource: Send + Sync {
    /// Finds an image by its reference.
    ///
    /// # Errors
    ///
    /// When there is none, or it cannot be got.
    fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
        pull: PullPolicy,
    ) -> Result<store::Image, ImageSourceError>;

    /// Finds an image in an OCI layout (`--build-context NAME=oci-layout://…`).
    ///
    /// # Errors
    ///
    /// When there is none, or it is damaged. A source that knows no layouts says so.
    fn of_layout(&self, layout: &OciLayout, _platform: &Platform) -> Result<store::Image, ImageSourceError> {
        let message = format!("no OCI layout can be read here, such as `{}`", layout.path.display());
        Err(ImageSourceError { message, hint: None, source: None })
    }
}

/// Why an image could not be found; the source's whole chain is shown.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ImageSourceError {
    /// What went wrong, in the words of [`crate::BuildError`]: ``cannot resolve image `alpine:latest` ``.
    pub message: String,
    /// What the user can do.
    pub hint: Option<String>,
    /// Why.
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}
