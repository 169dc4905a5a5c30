//! [`Manifest`] and [`Index`], and telling them apart so that no two readers can disagree.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::{Descriptor, media_type};

/// Names one image's config and layers (image-spec, `manifest.md`; Docker schema 2).
///
/// Digests are of exact bytes: whoever stores or forwards a manifest keeps the
/// bytes it was parsed from, and never writes this struct instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// What this is; older OCI manifests leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The type of an artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The image config.
    pub config: Descriptor,
    /// The layers, lowest first. Some writers say `null` for none.
    #[serde(default, deserialize_with = "null_as_default")]
    pub layers: Vec<Descriptor>,
    /// The manifest that this one is about (referrers).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free-form notes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub annotations: BTreeMap<String, String>,
    /// Members unknown to this version.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Names manifests per platform (image-spec, `image-index.md`; Docker manifest list).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// What this is; older OCI indexes leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The type of an artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The manifests, in order of preference.
    #[serde(default, deserialize_with = "null_as_default")]
    pub manifests: Vec<Descriptor>,
    /// The manifest that this index is about (referrers).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free-form notes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub annotations: BTreeMap<String, String>,
    /// Members unknown to this version.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Manifest {
    /// Makes an OCI manifest of a config and layers.
    pub fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media_type::OCI_MANIFEST.into()),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: BTreeMap::new(),
            other: Map::new(),
        }
    }
}

impl Index {
    /// Makes an OCI index of manifests.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media_type::OCI_INDEX.into()),
            artifact_type: None,
            manifests,
            subject: None,
            annotations: BTreeMap::new(),
            other: Map::new(),
        }
    }
}

fn null_as_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// What some manifest bytes turned out to be.
#[expect(clippy::large_enum_variant, reason = "one at a time is read, and taken apart at once")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// One image (or artifact).
    Manifest(Manifest),
    /// Manifests per platform.
    Index(Index),
}

/// Why some bytes are not a manifest.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum ManifestError {
    #[error("manifest is not valid JSON of the expected shape")]
    Json(#[source] serde_json::Error),
    #[error("manifest has the member `{name}` twice")]
    DuplicateMember { name: String },
    #[error("manifest has the member `{name}`, which some readers take for `{like}`")]
    MemberLike { name: String, like: &'static str },
    #[error("manifest has schemaVersion {version}, only 2 is supported")]
    SchemaVersion { version: u64 },
    #[error("manifest says it is `{inside}`, but it was sent as `{outside}`")]
    MediaTypeMismatch { inside: String, outside: String },
    #[error("manifest media type `{media_type}` is not one of OCI's or Docker's")]
    UnknownMediaType { media_type: String },
    #[error("manifest is called `{media_type}`, an index, and has `config` or `layers`, as an image has")]
    OtherShape { media_type: String },
    #[error("manifest has `manifests` as well as `config` or `layers`, so readers could disagree on what it is")]
    Ambiguous,
}

impl Parsed {
    /// Parses a manifest or index.
    ///
    /// `media_type` is what the sender called it (a `Content-Type` without its
    /// parameters, or a descriptor's member), if it said. What the bytes say of
    /// themselves must agree, the shape must fit, and no member may stand
    /// twice: CVE-2021-41190 and its kin live on readers that disagree.
    pub fn parse(bytes: &[u8], sent_as: Option<&str>) -> Result<Self, ManifestError> {
        let shape: Shape = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
        if let Some(name) = shape.duplicate {
            return Err(ManifestError::DuplicateMember { name });
        }
        if let Some((name, like)) = shape.like {
            return Err(ManifestError::MemberLike { name, like });
        }
        match shape.schema_version {
            Some(2) => {}
            other => return Err(ManifestError::SchemaVersion { version: other.unwrap_or(0) }),
        }
        if shape.has_manifests && (shape.has_config || shape.has_layers) {
            return Err(ManifestError::Ambiguous);
        }
        if let (Some(inside), Some(outside)) = (&shape.media_type, sent_as)
            && inside != outside
        {
            return Err(ManifestError::MediaTypeMismatch { inside: inside.clone(), outside: outside.into() });
        }
        let media_type = shape.media_type.as_deref().or(sent_as);
        let index = match media_type {
            Some(text) if media_type::is_index(text) => true,
            Some(text) if media_type::is_manifest(text) => false,
            Some(text) => return Err(ManifestError::UnknownMediaType { media_type: text.into() }),
            None => shape.has_manifests,
        };
        if index && (shape.has_config || shape.has_layers) {
            return Err(ManifestError::OtherShape { media_type: media_type.unwrap_or_default().into() });
        }
        if index {
            serde_json::from_slice(bytes).map(Parsed::Index).map_err(ManifestError::Json)
        } else {
            serde_json::from_slice(bytes).map(Parsed::Manifest).map_err(ManifestError::Json)
        }
    }

    /// Returns the media type: what the manifest says, else OCI's for its shape.
    pub fn media_type(&self) -> &str {
        match self {
            Self::Manifest(manifest) => manifest.media_type.as_deref().unwrap_or(media_type::OCI_MANIFEST),
            Self::Index(index) => index.media_type.as_deref().unwrap_or(media_type::OCI_INDEX),
        }
    }

    /// Returns the manifest that this one is about, if it is about one.
    pub fn subject(&self) -> Option<&Descriptor> {
        match self {
            Self::Manifest(manifest) => manifest.subject.as_ref(),
            Self::Index(index) => index.subject.as_ref(),
        }
    }

    /// Returns the annotations.
    pub fn annotations(&self) -> &BTreeMap<String, String> {
        match self {
            Self::Manifest(manifest) => &manifest.annotations,
            Self::Index(index) => &index.annotations,
        }
    }

    /// Returns the artifact type that a referrers list shows: a manifest falls back to its config's media type,
    /// an index has none of its own (distribution-spec, "Listing Referrers").
    pub fn artifact_type(&self) -> Option<&str> {
        let said = match self {
            Self::Manifest(manifest) => manifest.artifact_type.as_deref().filter(|text| !text.is_empty()),
            Self::Index(index) => index.artifact_type.as_deref().filter(|text| !text.is_empty()),
        };
        match self {
            Self::Manifest(manifest) => said.or(Some(&manifest.config.media_type)),
            Self::Index(_) => said,
        }
    }
}

/// The members that decide what a manifest is, read without building a tree.
#[derive(Default)]
struct Shape {
    schema_version: Option<u64>,
    media_type: Option<String>,
    has_config: bool,
    has_layers: bool,
    has_manifests: bool,
    duplicate: Option<String>,
    /// A member that Go's readers, which fold letters, take for the one it is like.
    like: Option<(String, &'static str)>,
}

/// The members that decide what a manifest is and what belongs to it.
const DECISIVE: [&str; 7] = ["schemaVersion", "mediaType", "config", "layers", "manifests", "subject", "artifactType"];

/// Returns the decisive member that a name only differs from by Unicode's simple case folding.
fn like(name: &str) -> Option<&'static str> {
    let folded = name.chars().map(|letter| match letter {
        'ſ' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    });
    let folded: String = folded.collect();
    DECISIVE.into_iter().find(|decisive| *decisive != name && decisive.eq_ignore_ascii_case(&folded))
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ShapeVisitor;

        impl<'de> Visitor<'de> for ShapeVisitor {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a manifest")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
                let mut shape = Shape::default();
                let mut seen = std::collections::HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    let mut duplicate = None;
                    match name.as_str() {
                        "schemaVersion" => shape.schema_version = map.next_value()?,
                        "mediaType" => {
                            shape.media_type = map.next_value::<Option<String>>()?.filter(|text| !text.is_empty());
                        }
                        "config" => shape.has_config = map.next_value::<Unique>()?.note(&mut duplicate),
                        "layers" => shape.has_layers = map.next_value::<Unique>()?.note(&mut duplicate),
                        "manifests" => shape.has_manifests = map.next_value::<Unique>()?.note(&mut duplicate),
                        _ => {
                            map.next_value::<Unique>()?.note(&mut duplicate);
                        }
                    }
                    shape.duplicate = shape.duplicate.or(duplicate);
                    if let Some(like) = like(&name) {
                        shape.like = Some((name.clone(), like));
                    }
                    if let Some(name) = seen.replace(name) {
                        shape.duplicate.get_or_insert(name);
                    }
                }
                Ok(shape)
            }
        }

        deserializer.deserialize_map(ShapeVisitor)
    }
}

/// Any JSON value, looked through for members that stand twice.
struct Unique {
    null: bool,
    duplicate: Option<String>,
}

impl Unique {
    /// Records a duplicate, and tells whether the value is more than `null`.
    fn note(self, duplicate: &mut Option<String>) -> bool {
        if duplicate.is_none() {
            *duplicate = self.duplicate;
        }
        !self.null
    }
}

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct UniqueVisitor;

        const PLAIN: Unique = Unique { null: false, duplicate: None };

        impl<'de> Visitor<'de> for UniqueVisitor {
            type Value = Unique;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any JSON value")
            }

            fn visit_unit<E>(self) -> Result<Unique, E> {
                Ok(Unique { null: true, duplicate: None })
            }

            fn visit_bool<E>(self, _: bool) -> Result<Unique, E> {
                Ok(PLAIN)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Unique, E> {
                Ok(PLAIN)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Unique, E> {
                Ok(PLAIN)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Unique, E> {
                Ok(PLAIN)
            }

            fn visit_str<E>(self, _: &str) -> Result<Unique, E> {
                Ok(PLAIN)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Unique, A::Error> {
                let mut duplicate = None;
                while let Some(value) = seq.next_element::<Unique>()? {
                    value.note(&mut duplicate);
                }
                Ok(Unique { null: false, duplicate })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique, A::Error> {
                let mut duplicate = None;
                let mut seen = std::collections::HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if duplicate.is_some() {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    map.next_value::<Unique>()?.note(&mut duplicate);
                    if let Some(name) = seen.replace(name) {
                        duplicate.get_or_insert(name);
                    }
                }
                Ok(Unique { null: false, duplicate })
            }
        }

        deserializer.deserialize_any(UniqueVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0}"#;

    fn parse(text: &str, sent_as: Option<&str>) -> Result<Parsed, ManifestError> {
        Parsed::parse(text.as_bytes(), sent_as)
    }

    #[test]
    fn an_image_and_an_index_are_told_apart() {
        let image = format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":null,"x-own":[1]}}"#);
        let Ok(Parsed::Manifest(manifest)) = parse(&image, Some(media_type::OCI_MANIFEST)) else {
            panic!("not an image")
        };
        assert!(manifest.layers.is_empty());
        assert!(manifest.other.contains_key("x-own"));
        assert!(matches!(parse(r#"{"schemaVersion":2,"manifests":[]}"#, None), Ok(Parsed::Index(_))));
    }

    #[test]
    fn readers_cannot_be_made_to_disagree() {
        let both = format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[],"manifests":[]}}"#);
        assert!(matches!(parse(&both, None), Err(ManifestError::Ambiguous)));
        let twice = format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[],"layers":[]}}"#);
        assert!(matches!(parse(&twice, None), Err(ManifestError::DuplicateMember { name }) if name == "layers"));
        let deep = format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[],"annotations":{{"a":"1","a":"2"}}}}"#);
        assert!(matches!(parse(&deep, None), Err(ManifestError::DuplicateMember { name }) if name == "a"));
        for name in ["Layers", "LAYERS", "layerſ", "Manifests", "mediatype"] {
            let folded = format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[],"{name}":[]}}"#);
            assert!(matches!(parse(&folded, None), Err(ManifestError::MemberLike { .. })), "{name}");
        }
        let lie = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{CONFIG},"layers":[]}}"#,
            media_type::OCI_MANIFEST
        );
        assert!(matches!(parse(&lie, Some(media_type::OCI_INDEX)), Err(ManifestError::MediaTypeMismatch { .. })));
        let image = format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[]}}"#);
        assert!(matches!(parse(&image, Some(media_type::OCI_INDEX)), Err(ManifestError::OtherShape { .. })));
    }

    #[test]
    fn old_and_broken_manifests_are_refused() {
        assert!(matches!(parse(r#"{"schemaVersion":1}"#, None), Err(ManifestError::SchemaVersion { version: 1 })));
        assert!(matches!(parse("{}", None), Err(ManifestError::SchemaVersion { version: 0 })));
        assert!(matches!(parse("[", None), Err(ManifestError::Json(_))));
        assert!(matches!(
            parse(r#"{"schemaVersion":2}"#, Some("text/plain")),
            Err(ManifestError::UnknownMediaType { .. })
        ));
    }
}
