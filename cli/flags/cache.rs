//! `--cache-from` and `--cache-to`: from text to where a cache is.

use std::path::PathBuf;

use anyhow::Context;
use engine::Compression;
use engine::remote_cache::{CacheExport, CacheOptions, CacheSource, CacheTarget, Mode, Shape};
use oci::{Digest, Reference};

use crate::failure::Failure;

/// What a cache in a folder is called when nothing else is said; as BuildKit calls it.
const TAG: &str = "latest";

/// Reads all `--cache-from`s and `--cache-to`s.
pub(crate) fn parse(from: &[String], to: &[String], load: bool) -> anyhow::Result<CacheOptions> {
    let from = from.iter().map(|text| source(text).with_context(|| format!("--cache-from `{text}`")));
    let to = to.iter().map(|text| export(text).with_context(|| format!("--cache-to `{text}`")));
    Ok(CacheOptions { from: from.collect::<Result<_, _>>()?, to: to.collect::<Result<_, _>>()?, load })
}

/// What `type=…,key=value` says.
#[derive(Default)]
struct Fields {
    kind: Option<String>,
    reference: Option<Reference>,
    src: Option<PathBuf>,
    dest: Option<PathBuf>,
    tag: Option<String>,
    digest: Option<Digest>,
    mode: Mode,
    compression: Compression,
    image_manifest: Option<bool>,
    oci_types: Option<bool>,
    ignore_error: bool,
    reset: bool,
}

fn source(text: &str) -> anyhow::Result<CacheSource> {
    // Short form: a name. A list of fields always has a `=`, and no name has one.
    if !text.contains('=') {
        return Ok(CacheSource::Registry { reference: text.parse()? });
    }
    let fields = fields(text, &["type", "ref", "src", "tag", "digest"])?;
    match fields.kind.as_deref() {
        Some("registry") => Ok(CacheSource::Registry { reference: fields.reference.context("it needs ref=NAME")? }),
        Some("local") => {
            let path = fields.src.context("it needs src=FOLDER")?;
            Ok(CacheSource::Folder { path, tag: fields.tag.unwrap_or(TAG.into()), digest: fields.digest })
        }
        kind => Err(unknown(kind, "registry and local")),
    }
}

fn export(text: &str) -> anyhow::Result<CacheExport> {
    let fields = match text {
        "inline" => Fields { kind: Some("inline".into()), ..Fields::default() },
        // As in buildx: a lone name is a registry's.
        name if !name.contains('=') => {
            Fields { kind: Some("registry".into()), reference: Some(name.parse()?), ..Fields::default() }
        }
        _ => fields(
            text,
            &[
                "type",
                "ref",
                "dest",
                "tag",
                "mode",
                "compression",
                "image-manifest",
                "oci-mediatypes",
                "ignore-error",
                "reset",
            ],
        )?,
    };
    let oci_types = fields.oci_types.unwrap_or(true);
    anyhow::ensure!(
        oci_types || fields.image_manifest != Some(true),
        "image-manifest=true goes only with OCI's media types"
    );
    let shape = Shape { image_manifest: fields.image_manifest.unwrap_or(oci_types), oci_types };
    let target = match fields.kind.as_deref() {
        Some("inline") => {
            anyhow::ensure!(fields.mode == Mode::Min, "an image holds only the records of its own layers: mode=min");
            CacheTarget::Inline
        }
        Some("registry") => {
            let reference = fields.reference.context("it needs ref=NAME")?;
            anyhow::ensure!(reference.digest().is_none(), "a cache is written under a tag, not under a digest");
            CacheTarget::Registry { reference, shape }
        }
        Some("local") => {
            let path = fields.dest.context("it needs dest=FOLDER")?;
            CacheTarget::Folder { path, tag: fields.tag.unwrap_or(TAG.into()), shape, reset: fields.reset }
        }
        kind => return Err(unknown(kind, "registry, local and inline")),
    };
    let Fields { mode, compression, ignore_error, .. } = fields;
    Ok(CacheExport { target, mode, compression, ignore_error })
}

fn unknown(kind: Option<&str>, known: &str) -> anyhow::Error {
    let error = match kind {
        None => anyhow::anyhow!("it has no type"),
        Some(kind) => anyhow::anyhow!("there is no cache of type `{kind}`"),
    };
    Failure::new(error).hint(format!("the types are {known}")).into()
}

fn fields(text: &str, allowed: &[&str]) -> anyhow::Result<Fields> {
    let mut fields = Fields::default();
    for (key, value) in super::fields(text)? {
        anyhow::ensure!(
            allowed.contains(&key.as_str()),
            "`{key}` is not supported; the keys are {}",
            allowed.join(", ")
        );
        read_field(&mut fields, &key, value)?;
    }
    Ok(fields)
}

fn read_field(fields: &mut Fields, key: &str, value: Option<String>) -> anyhow::Result<()> {
    let flag = |value: Option<&str>| super::boolean(key, value);
    match (key, value) {
        ("image-manifest", value) => fields.image_manifest = Some(flag(value.as_deref())?),
        ("oci-mediatypes", value) => fields.oci_types = Some(flag(value.as_deref())?),
        ("ignore-error", value) => fields.ignore_error = flag(value.as_deref())?,
        ("reset", value) => fields.reset = flag(value.as_deref())?,
        (key, value) if value.as_deref().unwrap_or_default().is_empty() => anyhow::bail!("`{key}` has no value"),
        ("type", Some(kind)) => fields.kind = Some(kind),
        ("ref", Some(name)) => fields.reference = Some(name.parse()?),
        ("src", Some(folder)) => fields.src = Some(folder.into()),
        ("dest", Some(folder)) => fields.dest = Some(folder.into()),
        ("tag", Some(tag)) => fields.tag = Some(tag),
        ("digest", Some(digest)) => fields.digest = Some(digest.parse()?),
        ("mode", Some(mode)) => {
            fields.mode = match mode.as_str() {
                "min" => Mode::Min,
                "max" => Mode::Max,
                other => anyhow::bail!("mode `{other}` is neither min nor max"),
            }
        }
        ("compression", Some(kind)) => {
            fields.compression = match kind.as_str() {
                "uncompressed" | "none" => Compression::None,
                "gzip" => Compression::Gzip,
                "zstd" => Compression::Zstd,
                other => anyhow::bail!("compression `{other}` is none of gzip, zstd and uncompressed"),
            }
        }
        (key, _) => anyhow::bail!("`{key}` is not supported"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(from: &[&str], to: &[&str]) -> String {
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        match parse(&own(from), &own(to), false) {
            Ok(CacheOptions { from, to, .. }) => {
                let from = from.iter().map(|source| format!("{source:?}"));
                from.chain(to.iter().map(|export| format!("{export:?}"))).collect::<Vec<_>>().join("\n")
            }
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn k12_caches_are_named_as_in_buildx() {
        let expected = "Registry { reference: r.test/c:1 }\nRegistry { reference: r.test/c:latest }\n\
                        Folder { path: \"/c\", tag: \"latest\", digest: None }";
        assert_eq!(read(&["r.test/c:1", "type=registry,ref=r.test/c", "type=local,src=/c"], &[]), expected);
        let registry = read(&[], &["type=registry,ref=r.test/c,mode=max,compression=zstd,ignore-error=true"]);
        assert_eq!(
            registry,
            "CacheExport { target: Registry { reference: r.test/c:latest, shape: Shape { image_manifest: true, \
             oci_types: true } }, mode: Max, compression: Zstd, ignore_error: true }"
        );
        assert_eq!(read(&[], &["r.test/c"]), read(&[], &["type=registry,ref=r.test/c"]));
        assert_eq!(read(&[], &["inline"]), read(&[], &["type=inline"]));
        assert!(read(&[], &["type=registry,ref=a,oci-mediatypes=false"]).contains("image_manifest: false"));
        assert!(read(&[], &["type=local,dest=/c,tag=main,reset=true"]).contains("tag: \"main\""));
    }

    #[test]
    fn k12_what_no_cache_is_called_is_refused() {
        for (text, expected) in [
            ("type=gha", "there is no cache of type `gha`"),
            ("ref=a", "it has no type"),
            ("type=registry", "it needs ref=NAME"),
            ("type=local,dest=", "`dest` has no value"),
            ("type=registry,ref=a,mode=most", "mode `most` is neither min nor max"),
            ("type=registry,ref=a,src=b", "`src` is not supported"),
            ("type=registry,ref=UPPER", "UPPER"),
            ("type=inline,mode=max", "mode=min"),
            ("type=registry,ref=a,image-manifest=true,oci-mediatypes=false", "OCI's media types"),
        ] {
            let said = read(&[], &[text]);
            assert!(said.contains(expected), "{text}: {said}");
        }
        assert!(read(&["type=inline"], &[]).contains("there is no cache of type `inline`"));
    }
}
