//! Lists the images of the store.

use std::collections::BTreeMap;

use oci::{Descriptor, Digest, Reference};
use store::{ImageError, Store};

use super::find;
use crate::Engine;

/// Which images to list.
#[derive(Clone, Debug, Default)]
pub struct ImagesOptions {
    /// Only names that match one of these patterns: docker's, with `*`, `?` and `[…]` within a path component.
    pub references: Vec<String>,
    /// Only images without a name, or only those with one.
    pub dangling: Option<bool>,
    /// Only images that have these labels, with these values if any.
    pub labels: Vec<(String, Option<String>)>,
}

/// A line of the list: a name with its image, or an image without one.
#[derive(Clone, Debug)]
pub struct ListedImage {
    /// The name, if it has one.
    pub reference: Option<Reference>,
    /// The image ID: the digest of its config.
    pub id: Digest,
    /// The manifest's digest, if registries can have the image under it.
    pub digest: Option<Digest>,
    /// When it was made, RFC 3339.
    pub created: Option<String>,
    /// What its layers weigh together, in bytes.
    pub size: u64,
}

/// The list, newest images first.
#[derive(Debug, Default)]
pub struct ImageList {
    /// The images.
    pub images: Vec<ListedImage>,
    /// Names whose image cannot be read, and why.
    pub broken: Vec<(String, ImageError)>,
}

/// Lists the images of the store.
///
/// An image that cannot be read does not hide the others.
///
/// # Errors
///
/// When the names cannot be read.
pub async fn images(engine: &Engine, options: ImagesOptions) -> Result<ImageList, ImageError> {
    let store = engine.store().clone();
    store::blocking::run(move || list(&store, &options)).await
}

fn list(store: &Store, options: &ImagesOptions) -> Result<ImageList, ImageError> {
    let tagged = store.images().list()?.into_iter().map(|tagged| (Some(tagged.reference), tagged.descriptor));
    let untagged = store.images().list_untagged()?.into_iter().map(|untagged| (None, untagged.descriptor));
    let mut result = ImageList::default();
    for (reference, descriptor) in tagged.chain(untagged) {
        if options.dangling.is_some_and(|dangling| dangling != reference.is_none()) {
            continue;
        }
        let matches = |reference: &Reference| options.references.iter().any(|text| is_match(text, reference));
        if !options.references.is_empty() && !reference.as_ref().is_some_and(matches) {
            continue;
        }
        match read(store, reference.as_ref(), &descriptor, options) {
            Ok(image) => result.images.extend(image),
            Err(error) => {
                let name = reference.map_or_else(|| descriptor.digest.to_string(), |reference| reference.familiar());
                result.broken.push((name, error));
            }
        }
    }
    result.images.sort_by(|a, b| b.created.cmp(&a.created));
    Ok(result)
}

fn read(
    store: &Store,
    reference: Option<&Reference>,
    descriptor: &Descriptor,
    options: &ImagesOptions,
) -> Result<Option<ListedImage>, ImageError> {
    let image = find::read(store, descriptor, None)?;
    if !has_labels(&image.config.config.labels, &options.labels) {
        return Ok(None);
    }
    Ok(Some(ListedImage {
        reference: reference.cloned(),
        digest: find::is_distributed(&image).then(|| descriptor.digest.clone()),
        size: find::size(store, &image)?,
        created: image.config.created.clone(),
        id: image.config_digest,
    }))
}

fn has_labels(labels: &BTreeMap<String, String>, wanted: &[(String, Option<String>)]) -> bool {
    wanted.iter().all(|(name, value)| match (labels.get(name), value) {
        (Some(have), Some(want)) => have == want,
        (have, None) => have.is_some(),
        (None, Some(_)) => false,
    })
}

/// Matches as docker's `reference` filter does: the pattern against the name with and without the tag, written short
/// and in full. `*` stays within a path component.
fn is_match(pattern: &str, reference: &Reference) -> bool {
    let full = reference.to_string();
    let familiar = reference.familiar();
    [familiar.as_str(), full.as_str()].into_iter().any(|name| {
        let bare = without_tag(name);
        glob(pattern.as_bytes(), name.as_bytes()) || glob(pattern.as_bytes(), bare.as_bytes())
    })
}

fn without_tag(name: &str) -> &str {
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    match name.rfind(':') {
        Some(colon) if !name[colon..].contains('/') => &name[..colon],
        _ => name,
    }
}

/// Go's `path.Match`, without escapes: `*` and `?` do not match `/`.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => {
            let reach = text.iter().position(|&byte| byte == b'/').unwrap_or(text.len());
            (0..=reach).any(|skip| glob(rest, &text[skip..]))
        }
        ([b'?', rest @ ..], [byte, after @ ..]) if *byte != b'/' => glob(rest, after),
        ([b'[', rest @ ..], [byte, after @ ..]) if *byte != b'/' => {
            let Some(end) = rest.iter().position(|&byte| byte == b']') else { return false };
            let (set, rest) = (&rest[..end], &rest[end + 1..]);
            let (negated, set) = match set {
                [b'^', set @ ..] => (true, set),
                set => (false, set),
            };
            in_set(set, *byte) != negated && glob(rest, after)
        }
        ([expected, rest @ ..], [byte, after @ ..]) if expected == byte => glob(rest, after),
        _ => false,
    }
}

fn in_set(mut set: &[u8], byte: u8) -> bool {
    loop {
        match set {
            [low, b'-', high, rest @ ..] => {
                if (*low..=*high).contains(&byte) {
                    return true;
                }
                set = rest;
            }
            [one, rest @ ..] => {
                if *one == byte {
                    return true;
                }
                set = rest;
            }
            [] => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_dockers_filter_has_it() {
        for (pattern, name, expected) in [
            ("debian", "debian:12", true),
            ("debian:1*", "debian:12", true),
            ("deb*", "debian", true),
            ("*", "debian", true),
            ("*", "me/app", false),
            ("*/*", "me/app", true),
            ("docker.io/library/debian", "debian", true),
            ("localhost:5000/*", "localhost:5000/app:1", true),
            ("localhost:5000/*", "localhost:5000/a/b", false),
            ("debian:[0-9]2", "debian:12", true),
            ("debian:[^0-9]2", "debian:12", false),
            ("debia", "debian", false),
            ("[", "debian", false),
        ] {
            assert_eq!(is_match(pattern, &name.parse().expect(name)), expected, "{pattern} {name}");
        }
    }
}
