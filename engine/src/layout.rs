//! From an OCI layout to the store: the image that a `--build-context` names, verified blob by blob.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use builder::OciLayout;
use layer::{Follow, Tree, TreeError};
use oci::{Descriptor, Digest, ManifestError, Parsed, Platform, Reference, media_type};
use store::{BlobError, Image, ImageError, Store};

use crate::archive::{CONTAINERD_NAME, OCI_NAME};

/// Why an OCI layout does not give an image.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum LayoutError {
    #[error("cannot read the OCI layout `{}`", path.display())]
    Open { path: PathBuf, source: TreeError },
    #[error("`{}` is no OCI layout: it has no `index.json`", path.display())]
    NotALayout { path: PathBuf },
    #[error("`{name}` of the OCI layout cannot be read")]
    Read { name: String, source: TreeError },
    #[error("`{name}` of the OCI layout is no manifest")]
    Manifest { name: String, source: ManifestError },
    #[error("the OCI layout has no image `{tag}`; it has {has}")]
    NoSuchTag { tag: String, has: String },
    #[error("the OCI layout has {count} images, and none is called `latest`; it has {has}")]
    Several { count: usize, has: String },
    #[error("the OCI layout lacks `{name}`")]
    Missing { name: String },
    #[error("`{name}` of the OCI layout is damaged: its bytes hash to {actual}")]
    Damaged { name: String, actual: Digest },
    #[error("`{name}` of the OCI layout has {actual} bytes, not {expected}")]
    Size { name: String, actual: u64, expected: u64 },
    #[error("cannot copy `{name}` of the OCI layout")]
    Copy { name: String, source: io::Error },
    #[error("indexes are nested more than {MAX_DEPTH} deep")]
    TooDeep,
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    Image(#[from] ImageError),
}

const MAX_INDEX: u64 = 8 << 20;
const MAX_DEPTH: u32 = 4;

/// Brings the image of a layout that is for a platform into the store, as far as it is not there.
///
/// # Errors
///
/// When the layout has no such image, or is damaged.
pub(crate) fn bring(store: &Store, layout: &OciLayout, platform: &Platform) -> Result<Image, LayoutError> {
    let path = || layout.path.clone();
    let tree = Tree::of_folder(&layout.path).map_err(|source| LayoutError::Open { path: path(), source })?;
    let name = "index.json";
    let bytes = tree.read_small(name, MAX_INDEX).map_err(|source| LayoutError::Read { name: name.into(), source })?;
    let bytes = bytes.ok_or_else(|| LayoutError::NotALayout { path: path() })?;
    let parsed = Parsed::parse(&bytes, None).map_err(|source| LayoutError::Manifest { name: name.into(), source })?;
    let Parsed::Index(index) = parsed else { return Err(LayoutError::NotALayout { path: path() }) };
    let bringer = Bringer { store, tree };
    let top = match &layout.digest {
        Some(digest) => match index.manifests.iter().find(|line| line.digest == *digest) {
            Some(line) => line.clone(),
            None => bringer.unlisted(digest)?,
        },
        None => named(&index.manifests, layout.tag.as_ref().map(oci::Tag::as_str))?.clone(),
    };
    bringer.manifests(&top, 0, &mut HashSet::new())?;
    let image = store.images().image(&top, platform)?;
    for layer in &image.manifest.layers {
        bringer.blob(&layer.digest, Some(layer.size))?;
    }
    Ok(image)
}

/// Finds the line of an index that a tag names. Without one it is `latest`, or the only one.
fn named<'a>(lines: &'a [Descriptor], tag: Option<&str>) -> Result<&'a Descriptor, LayoutError> {
    let wanted = tag.unwrap_or("latest");
    let is_named = |line: &&Descriptor| {
        let is_tag = |name: &String| {
            name == wanted
                || name
                    .parse::<Reference>()
                    .ok()
                    .as_ref()
                    .and_then(Reference::tag)
                    .is_some_and(|tag| tag.as_str() == wanted && name.ends_with(&format!(":{wanted}")))
        };
        [OCI_NAME, CONTAINERD_NAME].iter().filter_map(|name| line.annotations.get(*name)).any(is_tag)
    };
    if let Some(line) = lines.iter().find(is_named) {
        return Ok(line);
    }
    let names: Vec<&str> = lines
        .iter()
        .filter_map(|line| line.annotations.get(OCI_NAME).or_else(|| line.annotations.get(CONTAINERD_NAME)))
        .map(String::as_str)
        .take(20)
        .collect();
    match lines {
        // Where there is no choice no name is needed, nor can one be wrong that nobody gave.
        [only] if tag.is_none() || names.is_empty() => Ok(only),
        _ => {
            let has = if names.is_empty() { "no names".to_owned() } else { names.join(", ") };
            Err(match tag {
                Some(tag) => LayoutError::NoSuchTag { tag: tag.into(), has },
                None => LayoutError::Several { count: lines.len(), has },
            })
        }
    }
}

struct Bringer<'a> {
    store: &'a Store,
    tree: Tree,
}

impl Bringer<'_> {
    /// Describes a manifest that no index names, by what it says of itself.
    fn unlisted(&self, digest: &Digest) -> Result<Descriptor, LayoutError> {
        let size = self.blob(digest, None)?;
        let parsed = self.parse(digest, None)?;
        let kind = if matches!(parsed, Parsed::Index(_)) { media_type::OCI_INDEX } else { media_type::OCI_MANIFEST };
        let bytes = self.store.blobs().read(digest, MAX_INDEX)?;
        let own = serde_json::from_slice::<Own>(&bytes).ok().and_then(|own| own.media_type);
        Ok(Descriptor::new(own.as_deref().unwrap_or(kind), digest.clone(), size))
    }

    fn parse(&self, digest: &Digest, media_type: Option<&str>) -> Result<Parsed, LayoutError> {
        let bytes = self.store.blobs().read(digest, MAX_INDEX)?;
        Parsed::parse(&bytes, media_type).map_err(|source| LayoutError::Manifest { name: name(digest), source })
    }

    /// Brings a manifest or index, and the manifests and configs below it: what is needed to choose.
    fn manifests(&self, top: &Descriptor, depth: u32, seen: &mut HashSet<Digest>) -> Result<(), LayoutError> {
        if depth > MAX_DEPTH {
            return Err(LayoutError::TooDeep);
        }
        if !seen.insert(top.digest.clone()) {
            return Ok(());
        }
        self.blob(&top.digest, Some(top.size))?;
        match self.parse(&top.digest, Some(&top.media_type))? {
            Parsed::Manifest(manifest) => self.blob(&manifest.config.digest, Some(manifest.config.size)).map(drop),
            // An index may name images of other platforms that were left out.
            Parsed::Index(index) => {
                index.manifests.iter().try_for_each(|line| match self.manifests(line, depth + 1, seen) {
                    Err(LayoutError::Missing { .. }) => Ok(()),
                    result => result,
                })
            }
        }
    }

    /// Brings a blob, unless it is here, and returns its size.
    fn blob(&self, digest: &Digest, size: Option<u64>) -> Result<u64, LayoutError> {
        if let Some(here) = self.store.blobs().size(digest)?
            && size.is_none_or(|size| size == here)
        {
            return Ok(here);
        }
        let name = name(digest);
        let read = |source| LayoutError::Read { name: name.clone(), source };
        let node = self.tree.lookup(&name, Follow::Last).map_err(read)?;
        let node = node.ok_or_else(|| LayoutError::Missing { name: name.clone() })?;
        if let Some(expected) = size.filter(|size| *size != node.size) {
            return Err(LayoutError::Size { name, actual: node.size, expected });
        }
        let mut file = self.tree.open(&node).map_err(read)?.take(node.size);
        let mut blob = self.store.blobs().begin_as(digest.algorithm())?;
        copy(&mut file, &mut blob).map_err(|source| LayoutError::Copy { name: name.clone(), source })?;
        let committed = blob.commit(Some(digest));
        let (_, size) = committed.map_err(|error| match error {
            BlobError::DigestMismatch { actual, .. } => LayoutError::Damaged { name: name.clone(), actual },
            other => other.into(),
        })?;
        Ok(size)
    }
}

/// What a manifest says of itself.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Own {
    media_type: Option<String>,
}

fn name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

fn copy(source: &mut impl Read, sink: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => sink.write_all(&buffer[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
