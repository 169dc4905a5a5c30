//! From layers and a config to an image in the store; no layer is touched.

use oci::{Descriptor, ImageConfig, Manifest, Platform, media_type};
use store::Store;

use crate::fault::Fault;
use crate::layers::Layers;
use crate::request::BuiltImage;

/// Stores the config and the manifest, which names the layers as they are: those built here are plain tars.
pub(crate) fn assemble(
    store: &Store,
    platform: &Platform,
    config: ImageConfig,
    layers: &Layers,
) -> Result<BuiltImage, Fault> {
    let config_bytes = serde_json::to_vec(&config).expect("a config has text keys only");
    let described = Descriptor::of(media_type::OCI_CONFIG, &config_bytes);
    // Both at once: `build` waits for the disk at its end.
    let config_digest = store.blobs().put_later(config_bytes)?;
    let manifest = Manifest::new(described, layers.stack.iter().map(|layer| oci_form(&layer.blob)).collect());
    let manifest_bytes = serde_json::to_vec(&manifest).expect("a manifest has text keys only");
    let descriptor = Descriptor::of(media_type::OCI_MANIFEST, &manifest_bytes);
    store.blobs().put_later(manifest_bytes)?;
    Ok(BuiltImage { platform: platform.clone(), descriptor, config, config_digest })
}

/// Returns a layer's descriptor with the OCI media type: an OCI manifest does not name docker's.
fn oci_form(layer: &Descriptor) -> Descriptor {
    let media_type = match layer.media_type.as_str() {
        media_type::DOCKER_LAYER => media_type::OCI_LAYER,
        media_type::DOCKER_LAYER_GZIP => media_type::OCI_LAYER_GZIP,
        other => other,
    };
    Descriptor { media_type: media_type.to_owned(), ..layer.clone() }
}
