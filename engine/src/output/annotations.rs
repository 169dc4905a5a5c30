//! `--annotation`: notes that an image carries in its manifest, its index, or where either is listed.

use std::collections::BTreeMap;

use builder::{Built, BuiltImage};
use oci::{Descriptor, Index, Manifest, Platform, media_type};
use store::{BlobError, Store};

/// Where a note goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AnnotationPlace {
    /// Into the manifest of each image.
    #[default]
    Manifest,
    /// Where the manifest is listed: in the index, or in that of an OCI layout.
    ManifestDescriptor,
    /// Into the index of several images.
    Index,
    /// Where the index is listed.
    IndexDescriptor,
}

/// A note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Annotation {
    /// Where it goes.
    pub place: AnnotationPlace,
    /// Only to the image of this platform.
    pub platform: Option<Platform>,
    /// Its name.
    pub name: String,
    /// Its text.
    pub value: String,
}

/// Why notes cannot be written.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum AnnotationError {
    #[error("annotation `{name}` is for {platform}, which is not built")]
    NoSuchPlatform { name: String, platform: Box<Platform> },
    #[error("annotation `{name}` is for an index, and an image for one platform has none")]
    NoIndex { name: String },
    #[error("the manifest cannot be annotated")]
    Manifest(#[source] serde_json::Error),
    #[error(transparent)]
    Blob(#[from] BlobError),
}

/// Refuses notes that would have no place, before anything is built.
///
/// # Errors
///
/// When one is for an index that there will not be, or for a platform that is not built.
pub fn check(annotations: &[Annotation], platforms: &[Platform]) -> Result<(), AnnotationError> {
    let host = [Platform::host()];
    let platforms = if platforms.is_empty() { &host } else { platforms };
    for annotation in annotations {
        let name = || annotation.name.clone();
        let of_index = matches!(annotation.place, AnnotationPlace::Index | AnnotationPlace::IndexDescriptor);
        if of_index && platforms.len() == 1 {
            return Err(AnnotationError::NoIndex { name: name() });
        }
        if let Some(platform) = annotation.platform.as_ref().filter(|platform| !platforms.contains(platform)) {
            return Err(AnnotationError::NoSuchPlatform { name: name(), platform: Box::new(platform.clone()) });
        }
    }
    Ok(())
}

/// Returns what names stand for: the one image, or an index of several, which is written now; with all notes.
pub(crate) fn annotated(
    store: &Store,
    built: &Built,
    annotations: &[Annotation],
) -> Result<Descriptor, AnnotationError> {
    let manifests = built.images.iter().map(|image| annotated_image(store, image, annotations));
    let mut manifests: Vec<Descriptor> = manifests.collect::<Result<_, _>>()?;
    if let [only] = manifests.as_slice() {
        return Ok(only.clone());
    }
    for (manifest, image) in manifests.iter_mut().zip(&built.images) {
        manifest.platform = Some(image.config.platform());
    }
    let mut index = Index::new(manifests);
    index.annotations = notes(annotations, AnnotationPlace::Index, None);
    let bytes = serde_json::to_vec(&index).map_err(AnnotationError::Manifest)?;
    store.blobs().put(&bytes)?;
    let annotations = notes(annotations, AnnotationPlace::IndexDescriptor, None);
    Ok(Descriptor { annotations, ..Descriptor::of(media_type::OCI_INDEX, &bytes) })
}

fn annotated_image(
    store: &Store,
    image: &BuiltImage,
    annotations: &[Annotation],
) -> Result<Descriptor, AnnotationError> {
    let wanted = notes(annotations, AnnotationPlace::Manifest, Some(&image.platform));
    let mut descriptor = image.descriptor.clone();
    if !wanted.is_empty() {
        let bytes = store.blobs().read(&descriptor.digest, store::images::MAX_MANIFEST)?;
        let mut manifest: Manifest = serde_json::from_slice(&bytes).map_err(AnnotationError::Manifest)?;
        manifest.annotations.extend(wanted);
        let bytes = serde_json::to_vec(&manifest).map_err(AnnotationError::Manifest)?;
        store.blobs().put(&bytes)?;
        descriptor = Descriptor { platform: descriptor.platform, ..Descriptor::of(&descriptor.media_type, &bytes) };
    }
    descriptor.annotations = notes(annotations, AnnotationPlace::ManifestDescriptor, Some(&image.platform));
    Ok(descriptor)
}

/// Returns the notes for a place; those for its platform win over those for all.
fn notes(annotations: &[Annotation], place: AnnotationPlace, platform: Option<&Platform>) -> BTreeMap<String, String> {
    let here = annotations.iter().filter(|annotation| annotation.place == place);
    let (special, general): (Vec<_>, Vec<_>) = here.partition(|annotation| annotation.platform.is_some());
    let special = special.into_iter().filter(|annotation| annotation.platform.as_ref() == platform);
    general.into_iter().chain(special).map(|annotation| (annotation.name.clone(), annotation.value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotation(place: AnnotationPlace, platform: Option<&str>, value: &str) -> Annotation {
        let platform = platform.map(|text| text.parse().unwrap());
        Annotation { place, platform, name: "a".into(), value: value.into() }
    }

    #[test]
    fn a_note_for_one_platform_wins_over_that_for_all() {
        let all = [
            annotation(AnnotationPlace::Manifest, Some("linux/arm64"), "arm"),
            annotation(AnnotationPlace::Manifest, None, "all"),
            annotation(AnnotationPlace::Index, None, "index"),
        ];
        let of = |platform: &str| notes(&all, AnnotationPlace::Manifest, Some(&platform.parse().unwrap()))["a"].clone();
        assert_eq!((of("linux/arm64").as_str(), of("linux/amd64").as_str()), ("arm", "all"));
        assert_eq!(notes(&all, AnnotationPlace::Index, None)["a"], "index");
    }

    #[test]
    fn notes_without_a_place_are_refused() {
        let one: Vec<Platform> = vec!["linux/amd64".parse().unwrap()];
        let two: Vec<Platform> = vec![one[0].clone(), "linux/arm64".parse().unwrap()];
        let index = [annotation(AnnotationPlace::Index, None, "x")];
        assert!(check(&index, &two).is_ok());
        assert!(check(&index, &one).unwrap_err().to_string().contains("has none"));
        let arm = [annotation(AnnotationPlace::Manifest, Some("linux/arm64"), "x")];
        assert!(check(&arm, &two).is_ok());
        assert!(check(&arm, &one).unwrap_err().to_string().contains("linux/arm64"));
    }
}
