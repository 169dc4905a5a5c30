//! [`Contents`]: what a place holds, be it a cache or an image that brings its records along.

use std::collections::BTreeMap;

use builder::remote_cache::{CacheDocument, CachedStep, read_inline};
use jiff::Timestamp;
use oci::{Descriptor, DiffId, Digest, ImageConfig, Manifest, Parsed};
use store::images::MAX_CONFIG;

use super::CacheError;
use super::place::{Document, Place};
use crate::Engine;

/// The media type of a cache's records.
pub(super) const CACHE_CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";
/// The most bytes of records that are read.
pub(super) const MAX_RECORDS: u64 = 8 << 20;
/// Of an image for many platforms, so many are looked into.
const MAX_IMAGES: usize = 16;

/// What a place holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Contents {
    /// The document that the place's name names.
    pub(crate) top: Option<Digest>,
    /// The steps that it knows, and when each was last of use.
    pub(crate) steps: Vec<(CachedStep, Timestamp)>,
    /// The layers that it has, as blobs of the place. Not verified.
    pub(crate) layers: BTreeMap<DiffId, Descriptor>,
    /// How many records are not ours.
    pub(crate) foreign: usize,
}

impl Contents {
    /// Reads what a place holds; `None` when its name names nothing.
    pub(crate) async fn read(engine: &Engine, place: &Place) -> Result<Option<Self>, CacheError> {
        let Some(document) = place.top(engine).await? else { return Ok(None) };
        let mut contents = Self { top: Some(document.descriptor.digest.clone()), ..Self::default() };
        match document.parsed {
            Parsed::Manifest(manifest) => contents.add_manifest(engine, place, manifest).await?,
            Parsed::Index(index) => {
                let mut members = index.manifests;
                if let Some(at) = members.iter().position(|member| member.media_type == CACHE_CONFIG) {
                    let config = members.remove(at);
                    contents.add_cache(engine, place, &config, &members).await?;
                } else {
                    let about_another =
                        |member: &Descriptor| member.annotations.contains_key("vnd.docker.reference.type");
                    let is_image = |member: &&Descriptor| {
                        oci::media_type::is_manifest(&member.media_type) && !about_another(member)
                    };
                    for member in members.iter().filter(is_image).take(MAX_IMAGES) {
                        let Document { parsed: Parsed::Manifest(manifest), .. } = place.child(engine, member).await?
                        else {
                            continue;
                        };
                        contents.add_manifest(engine, place, manifest).await?;
                    }
                }
            }
        }
        Ok(Some(contents))
    }

    async fn add_manifest(&mut self, engine: &Engine, place: &Place, manifest: Manifest) -> Result<(), CacheError> {
        if manifest.config.media_type == CACHE_CONFIG {
            return self.add_cache(engine, place, &manifest.config, &manifest.layers).await;
        }
        let bytes = place.blob(engine, &manifest.config, MAX_CONFIG).await?;
        // Whatever else it is, it has no records.
        let Ok(config) = serde_json::from_slice::<ImageConfig>(&bytes) else { return Ok(()) };
        let (steps, foreign) = read_inline(&config);
        self.foreign += foreign;
        self.steps.extend(steps.into_iter().map(|step| (step, Timestamp::UNIX_EPOCH)));
        if config.rootfs.diff_ids.len() == manifest.layers.len() {
            self.layers.extend(config.rootfs.diff_ids.into_iter().zip(manifest.layers));
        }
        Ok(())
    }

    async fn add_cache(
        &mut self,
        engine: &Engine,
        place: &Place,
        config: &Descriptor,
        blobs: &[Descriptor],
    ) -> Result<(), CacheError> {
        let bytes = place.blob(engine, config, MAX_RECORDS).await?;
        let document = CacheDocument::parse(&bytes).map_err(CacheError::Records)?;
        self.foreign += document.foreign;
        self.steps.extend(document.steps);
        let by_digest: BTreeMap<&Digest, &Descriptor> = blobs.iter().map(|blob| (&blob.digest, blob)).collect();
        for layer in document.layers {
            let (Some(notes), Some(blob)) = (layer.annotations, by_digest.get(&layer.blob)) else { continue };
            self.layers.entry(notes.diff_id).or_insert_with(|| (*blob).clone());
        }
        Ok(())
    }
}
