//! `--metadata-file`: what is known of a build, with the names that buildx uses.

use engine::ops::build::BuildResult;
use serde_json::{Map, Value, json};

/// Writes what is known. What describes an image is there only if an output has one.
pub(super) fn of(result: &BuildResult, build: Option<&str>) -> anyhow::Result<Value> {
    let mut metadata = Map::new();
    if let Some(id) = build {
        // Builder, node and build: there is one builder, and `slipway history` knows the build by the last part.
        metadata.insert("buildx.build.ref".into(), format!("default/default/{id}").into());
    }
    if result.has_image {
        let mut descriptor = result.descriptor.clone();
        if let [image] = result.images.as_slice() {
            let config = image.config_digest.to_string();
            metadata.insert("containerimage.config.digest".into(), config.clone().into());
            descriptor.annotations.insert("config.digest".into(), config);
            descriptor.platform = Some(image.config.platform());
        }
        metadata.insert("containerimage.digest".into(), descriptor.digest.to_string().into());
        metadata.insert("containerimage.descriptor".into(), serde_json::to_value(&descriptor)?);
        let sent = result.sent.iter().filter(|name| !result.names.contains(name));
        let names: Vec<String> = result.names.iter().chain(sent).map(ToString::to_string).collect();
        if !names.is_empty() {
            metadata.insert("image.name".into(), json!(names.join(",")));
        }
    }
    Ok(Value::Object(metadata))
}
