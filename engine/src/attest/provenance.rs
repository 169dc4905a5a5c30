//! How an image was built, as SLSA provenance, version 1.
//!
//! Version 1 and not 0.2, because verifiers have moved there, and BuildKit's default with them.

use builder::{BuildRequest, Material};
use serde_json::{Map, Value, json};

/// The type of the predicate.
pub const PREDICATE_TYPE: &str = "https://slsa.dev/provenance/v1";
const BUILD_TYPE: &str = "urn:slipway:dockerfile-build:v1";
const BUILDER: &str = "urn:slipway:builder";

/// How much is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProvenanceMode {
    /// What the build took from elsewhere, and which Dockerfile and target it was.
    #[default]
    Min,
    /// Also the Dockerfile itself, build arguments, labels, and the IDs of secrets; never a secret's value.
    Max,
}

/// What is said beside the request and the materials.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// The build's own name.
    pub(crate) id: Option<String>,
    /// When it began and ended.
    pub(crate) times: Option<(jiff::Timestamp, jiff::Timestamp)>,
}

/// Writes the predicate. Without a run's name and times it depends on the request and the materials alone.
pub(crate) fn predicate(mode: ProvenanceMode, request: &BuildRequest, materials: &[Material], run: &Run) -> Value {
    let mut parameters = Map::new();
    let dockerfile = &request.dockerfile;
    let name = std::path::Path::new(&dockerfile.name).file_name().map(|name| name.to_string_lossy().into_owned());
    let digest = oci::Digest::sha256(&dockerfile.bytes);
    let path = name.unwrap_or_else(|| "Dockerfile".into());
    parameters.insert("configSource".into(), json!({ "path": path, "digest": { "sha256": digest.hex() } }));
    let mut asked = json!({ "frontend": "dockerfile.v0" });
    if let Some(target) = &request.target {
        asked["target"] = json!(target);
    }
    if !request.platforms.is_empty() {
        asked["platforms"] = request.platforms.iter().map(ToString::to_string).collect();
    }
    if mode == ProvenanceMode::Max {
        let mut args = Map::new();
        for (name, value) in &request.build_args {
            args.insert(format!("build-arg:{name}"), value.as_str().into());
        }
        for (name, value) in &request.labels {
            args.insert(format!("label:{name}"), value.as_str().into());
        }
        asked["args"] = Value::Object(args);
        asked["secrets"] = request.secrets.keys().map(|id| json!({ "id": id, "optional": true })).collect();
        asked["contexts"] = request.named_contexts.keys().map(String::as_str).collect();
        asked["dockerfile"] = json!(String::from_utf8_lossy(&dockerfile.bytes));
    }
    parameters.insert("request".into(), asked);
    let mut metadata = Map::new();
    if let Some(id) = &run.id {
        metadata.insert("invocationID".into(), id.as_str().into());
    }
    if let Some((began, ended)) = run.times {
        metadata.insert("startedOn".into(), began.to_string().into());
        metadata.insert("finishedOn".into(), ended.to_string().into());
    }
    json!({
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": parameters,
            "internalParameters": { "builderPlatform": request.build_platform.to_string() },
            "resolvedDependencies": materials.iter().map(dependency).collect::<Vec<_>>(),
        },
        "runDetails": {
            "builder": { "id": BUILDER, "version": { "slipway": env!("CARGO_PKG_VERSION") } },
            "metadata": metadata,
        },
    })
}

fn dependency(material: &Material) -> Value {
    let digest = |text: &str| {
        let (algorithm, hex) = text.split_once(':').unwrap_or(("sha256", text));
        json!({ algorithm: hex })
    };
    match material {
        Material::Image { reference, platform, digest: of } => {
            json!({ "uri": image_url(reference, platform), "digest": digest(of) })
        }
        Material::Http { url, digest: of } => json!({ "uri": url, "digest": digest(of) }),
        Material::Git { url, commit } => {
            let algorithm = if commit.len() == 64 { "gitCommit256" } else { "gitCommit" };
            json!({ "uri": url, "digest": { algorithm: commit } })
        }
    }
}

/// Writes a package URL of an image: `pkg:docker/library/busybox@1?platform=linux%2Famd64`.
pub(crate) fn image_url(name: &str, platform: &str) -> String {
    let (name, digest) = name.split_once('@').map_or((name, None), |(name, digest)| (name, Some(digest)));
    let name = name.strip_prefix("docker.io/").map_or(name, |rest| rest.strip_prefix("library/").unwrap_or(rest));
    let last = name.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = match name[last..].rfind(':').map(|at| at + last) {
        Some(at) => (&name[..at], Some(&name[at + 1..])),
        None => (name, None),
    };
    let version = tag.or(digest).map(|version| format!("@{}", version.replace(':', "%3A"))).unwrap_or_default();
    format!("pkg:docker/{}{version}?platform={}", name.replace(':', "%3A"), platform.replace('/', "%2F"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use builder::{Context, DockerfileSource, SecretSource};

    #[test]
    fn images_have_package_urls() {
        for (name, expected) in [
            ("docker.io/library/busybox:1", "pkg:docker/busybox@1?platform=linux%2Famd64"),
            ("localhost:5000/a/b", "pkg:docker/localhost%3A5000/a/b?platform=linux%2Famd64"),
            ("a@sha256:ab", "pkg:docker/a@sha256%3Aab?platform=linux%2Famd64"),
        ] {
            assert_eq!(image_url(name, "linux/amd64"), expected);
        }
    }

    #[test]
    fn a_secret_is_never_said_and_arguments_only_at_most() {
        let bytes = b"FROM scratch\n".to_vec();
        let dockerfile = DockerfileSource { name: "/home/me/app/Dockerfile".into(), bytes, ignore: None };
        let mut request = BuildRequest::new(Context::None, dockerfile, jiff::Timestamp::UNIX_EPOCH);
        request.build_args.insert("V".into(), "value".into());
        request.secrets.insert("token".into(), SecretSource::Value(b"hidden".to_vec()));
        let materials = [Material::Git { url: "https://example.com/a".into(), commit: "a".repeat(40) }];
        let run = Run { id: None, times: None };
        let said = |mode| predicate(mode, &request, &materials, &run).to_string();
        let (min, max) = (said(ProvenanceMode::Min), said(ProvenanceMode::Max));
        assert!(!min.contains("value") && !min.contains("token") && min.contains("gitCommit"), "{min}");
        assert!(max.contains("build-arg:V") && max.contains("token") && max.contains("FROM scratch"), "{max}");
        assert!(!max.contains("hidden") && !max.contains("/home/me"), "{max}");
    }
}
