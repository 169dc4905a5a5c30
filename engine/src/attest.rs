//! What is said of an image beside it: how it was built (provenance), and what is in it (SBOM).
//!
//! | File | Owns |
//! | --- | --- |
//! | [`provenance`] | the SLSA predicate |
//! | [`sbom`] | the SPDX document, made of what [`packages`] finds in the image's files |
//!
//! Each statement is an in-toto statement in a manifest of its own, whose subject is the image (OCI 1.1 referrers). The
//! image itself stays as it is without, so that no client stumbles. In an OCI archive, where nobody answers who refers to
//! what, an index has the image first and then its statements, marked as BuildKit marks them.

pub mod packages;
pub mod provenance;
pub mod sbom;

use oci::{Descriptor, Digest, Index, Manifest, Parsed, Platform, Reference, media_type};
use serde_json::{Value, json};
use store::{BlobError, Image, ImageError, Store};

use crate::output::FilesError;
use crate::output::files;
pub use provenance::ProvenanceMode;

/// What is to be said of what is built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attestations {
    /// How it was built (`--provenance`).
    pub provenance: Option<ProvenanceMode>,
    /// What is in it (`--sbom`).
    pub sbom: bool,
}

impl Attestations {
    /// Tells whether nothing is to be said.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// Why nothing was said.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum AttestError {
    #[error("an attestation needs an output that takes it: a push, or type=oci")]
    NoOutput,
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error("cannot read the image's files for the SBOM")]
    Files(#[from] FilesError),
    #[error("an attestation cannot be written as JSON")]
    Json(#[from] serde_json::Error),
}

/// The media type of a statement.
pub const IN_TOTO: &str = "application/vnd.in-toto+json";
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
const STATEMENT: &str = "https://in-toto.io/Statement/v1";

/// What is known of a build, ready to be said of each image that it made.
#[derive(Clone, Debug)]
pub(crate) struct Evidence {
    /// The predicate of the provenance.
    pub(crate) provenance: Option<Value>,
    /// When the SBOM is made, if one is.
    pub(crate) sbom: Option<jiff::Timestamp>,
}

/// A statement in the store, and the manifest that it is about.
#[derive(Clone, Debug)]
pub(crate) struct Attached {
    pub(crate) subject: Digest,
    pub(crate) manifest: Descriptor,
}

/// Writes statements about an image, or about each of an index, into the store.
pub(crate) fn attach(
    store: &Store,
    evidence: &Evidence,
    top: &Descriptor,
    names: &[Reference],
) -> Result<Vec<Attached>, AttestError> {
    let mut images = vec![top.clone()];
    if let Parsed::Index(index) = store.images().parse(top)? {
        images = index.manifests;
    }
    let mut attached = Vec::new();
    for descriptor in images {
        let platform = descriptor.platform.clone().unwrap_or_else(Platform::host);
        let image = store.images().image(&descriptor, &platform)?;
        let mut predicates = Vec::new();
        if let Some(predicate) = &evidence.provenance {
            predicates.push((provenance::PREDICATE_TYPE, predicate.clone()));
        }
        if let Some(created) = evidence.sbom {
            predicates.push((sbom::PREDICATE_TYPE, describe(store, &image, names, created)?));
        }
        for (kind, predicate) in predicates {
            let subject = subjects(&image, names);
            let statement =
                json!({ "_type": STATEMENT, "predicateType": kind, "subject": subject, "predicate": predicate });
            attached.push(put(store, &descriptor, kind, &serde_json::to_vec(&statement)?)?);
        }
    }
    Ok(attached)
}

fn describe(store: &Store, image: &Image, names: &[Reference], created: jiff::Timestamp) -> Result<Value, AttestError> {
    let snapshot = files::snapshot(store, image)?;
    let found = packages::find(&snapshot.tree().map_err(FilesError::from)?).map_err(FilesError::from)?;
    let name = names.first().map_or_else(|| image.descriptor.digest.to_string(), ToString::to_string);
    Ok(sbom::document(&name, &image.descriptor.digest, &found, created))
}

/// Names the image that a statement is about, once for each of its names.
fn subjects(image: &Image, names: &[Reference]) -> Vec<Value> {
    let digest = json!({ image.descriptor.digest.algorithm().as_str(): image.descriptor.digest.hex() });
    let platform = image.config.platform().to_string();
    let subject = |name: String| json!({ "name": name, "digest": digest });
    if names.is_empty() {
        return vec![subject("_".into())];
    }
    names.iter().map(|name| subject(provenance::image_url(&name.familiar(), &platform))).collect()
}

/// Stores a statement, and a manifest that hangs it to its subject.
fn put(store: &Store, subject: &Descriptor, kind: &str, statement: &[u8]) -> Result<Attached, AttestError> {
    let mut layer = Descriptor::of(IN_TOTO, statement);
    layer.annotations.insert(PREDICATE_TYPE.into(), kind.into());
    let config = b"{}";
    let mut manifest = Manifest::new(Descriptor::of(media_type::OCI_EMPTY, config), vec![layer]);
    manifest.artifact_type = Some(IN_TOTO.into());
    manifest.subject = Some(Descriptor::new(&subject.media_type, subject.digest.clone(), subject.size));
    manifest.annotations.insert(PREDICATE_TYPE.into(), kind.into());
    let bytes = serde_json::to_vec(&manifest)?;
    for blob in [statement, config, bytes.as_slice()] {
        store.blobs().put(blob)?;
    }
    let manifest = Descriptor::of(media_type::OCI_MANIFEST, &bytes);
    Ok(Attached { subject: subject.digest.clone(), manifest })
}

/// Puts an image, or an index, and its statements into one index, for archives.
pub(crate) fn bundle(store: &Store, top: &Descriptor, attached: &[Attached]) -> Result<Descriptor, AttestError> {
    let mut index = match store.images().parse(top)? {
        Parsed::Index(index) => index,
        Parsed::Manifest(_) => {
            let platform = store.images().image(top, &Platform::host())?.config.platform();
            Index::new(vec![Descriptor { platform: Some(platform), annotations: Default::default(), ..top.clone() }])
        }
    };
    for statement in attached {
        let mut line = statement.manifest.clone();
        // So that no client takes it for an image of its platform.
        let unknown = || "unknown".to_owned();
        line.platform = Some(Platform { os: unknown(), architecture: unknown(), ..Platform::linux("unknown") });
        line.artifact_type = Some(IN_TOTO.into());
        line.annotations.insert("vnd.docker.reference.type".into(), "attestation-manifest".into());
        line.annotations.insert("vnd.docker.reference.digest".into(), statement.subject.to_string());
        index.manifests.push(line);
    }
    let kind = index.media_type.clone().unwrap_or_else(|| media_type::OCI_INDEX.into());
    let bytes = serde_json::to_vec(&index)?;
    store.blobs().put(&bytes)?;
    Ok(Descriptor { annotations: top.annotations.clone(), ..Descriptor::of(&kind, &bytes) })
}
