//! Tells which instructions made an image.

use oci::{Digest, History, Platform};
use store::{FindError, Image, Store};

use super::find;
use crate::Engine;

/// A line of an image's history.
#[derive(Clone, Debug)]
pub struct HistoryLine {
    /// The image's ID on the newest line; older ones have none of their own.
    pub id: Option<Digest>,
    /// When, RFC 3339.
    pub created: Option<String>,
    /// By which instruction.
    pub created_by: String,
    /// What its layer weighs, in bytes.
    pub size: u64,
    /// A note.
    pub comment: String,
}

/// Returns the history of an image, newest first.
///
/// # Errors
///
/// When there is no such image, or it cannot be read.
pub async fn history(
    engine: &Engine,
    image: String,
    platform: Option<Platform>,
) -> Result<Vec<HistoryLine>, FindError> {
    let store = engine.store().clone();
    store::blocking::run(move || {
        let (_, image) = find::find(&store, &image, platform.as_ref())?;
        lines(&store, &image)
    })
    .await
}

fn lines(store: &Store, image: &Image) -> Result<Vec<HistoryLine>, FindError> {
    let mut sizes = find::layer_sizes(store, image)?.into_iter();
    // Layers that the history says nothing of are shown on lines of their own, so that sizes add up.
    let with_layers = image.config.history.iter().filter(|line| !line.empty_layer).count();
    let unnamed = image.config.rootfs.diff_ids.len().saturating_sub(with_layers);
    let missing = std::iter::repeat_n(History::default(), unnamed);
    let mut lines: Vec<HistoryLine> = image
        .config
        .history
        .iter()
        .cloned()
        .chain(missing)
        .map(|line| HistoryLine {
            id: None,
            size: if line.empty_layer { 0 } else { sizes.next().unwrap_or(0) },
            created: line.created,
            created_by: line.created_by.unwrap_or_default(),
            comment: line.comment.unwrap_or_default(),
        })
        .collect();
    lines.reverse();
    if let Some(newest) = lines.first_mut() {
        newest.id = Some(image.config_digest.clone());
    }
    Ok(lines)
}
