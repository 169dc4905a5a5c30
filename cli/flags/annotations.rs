//! `--annotation [TYPE[PLATFORM],…:]NAME=VALUE`, and the same in `-o …,annotation….NAME=VALUE`.

use anyhow::Context;
use engine::output::annotations::{Annotation, AnnotationPlace};

/// Reads one `--annotation`; several types make several annotations.
pub(crate) fn parse(text: &str) -> anyhow::Result<Vec<Annotation>> {
    let (key, value) = text.split_once('=').with_context(|| format!("`{text}` is not of the form NAME=VALUE"))?;
    let (types, name) = key.split_once(':').unwrap_or(("manifest", key));
    anyhow::ensure!(!name.is_empty(), "`{text}` has no name before the `=`");
    let read = |kind: &str| {
        let (place, platform) = place(kind).with_context(|| format!("`{text}`"))?;
        Ok(Annotation { place, platform, name: name.to_owned(), value: value.to_owned() })
    };
    types.split(',').map(read).collect()
}

/// Reads the key of an output's `annotation[-TYPE][PLATFORM].NAME`; `None` when it is another key.
pub(crate) fn of_output(key: &str, value: &str) -> anyhow::Result<Option<Annotation>> {
    let Some(rest) = key.strip_prefix("annotation") else { return Ok(None) };
    // A platform may hold a dot, but the first one after it, if there is one, ends it.
    let end = rest.find(']').unwrap_or(0);
    let Some(dot) = rest[end..].find('.').map(|dot| dot + end) else { return Ok(None) };
    let (kind, name) = (&rest[..dot], &rest[dot + 1..]);
    anyhow::ensure!(!name.is_empty(), "`{key}` has no name behind the `.`");
    let kind = kind.strip_prefix('-').unwrap_or(kind);
    let (place, platform) = place(kind)?;
    Ok(Some(Annotation { place, platform, name: name.to_owned(), value: value.to_owned() }))
}

fn place(kind: &str) -> anyhow::Result<(AnnotationPlace, Option<oci::Platform>)> {
    let (name, platform) = match kind.strip_suffix(']').and_then(|kind| kind.split_once('[')) {
        Some((name, platform)) => (name, Some(platform.parse()?)),
        None => (kind, None),
    };
    let place = match name {
        "" | "manifest" => AnnotationPlace::Manifest,
        "manifest-descriptor" => AnnotationPlace::ManifestDescriptor,
        "index" => AnnotationPlace::Index,
        "index-descriptor" => AnnotationPlace::IndexDescriptor,
        other => anyhow::bail!(
            "unknown annotation type `{other}`; the types are manifest, index, manifest-descriptor and index-descriptor"
        ),
    };
    Ok((place, platform))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(annotation: &Annotation) -> String {
        let platform = annotation.platform.as_ref().map_or(String::new(), |platform| format!("[{platform}]"));
        format!("{:?}{platform} {}={}", annotation.place, annotation.name, annotation.value)
    }

    fn read(text: &str) -> Vec<String> {
        match parse(text) {
            Ok(annotations) => annotations.iter().map(shown).collect(),
            Err(error) => vec![format!("error: {error:#}")],
        }
    }

    #[test]
    fn annotations_are_read_as_buildx_writes_them() {
        assert_eq!(read("a=b=c"), ["Manifest a=b=c"]);
        assert_eq!(read("a="), ["Manifest a="]);
        assert_eq!(read("index:org.x=y"), ["Index org.x=y"]);
        assert_eq!(read("index,manifest:a=b"), ["Index a=b", "Manifest a=b"]);
        assert_eq!(
            read("manifest[linux/arm64],index-descriptor:a=b"),
            ["Manifest[linux/arm64] a=b", "IndexDescriptor a=b"]
        );
        assert_eq!(read("manifest-descriptor[linux/arm/v7]:a=b:c"), ["ManifestDescriptor[linux/arm/v7] a=b:c"]);
        for (text, part) in [
            ("a", "is not of the form NAME=VALUE"),
            ("=b", "has no name"),
            ("foo:a=b", "unknown annotation type `foo`"),
            ("manifest[]:a=b", "platform"),
        ] {
            assert!(read(text)[0].starts_with("error") && read(text)[0].contains(part), "{:?}", read(text));
        }
    }

    #[test]
    fn outputs_take_them_too() {
        let read = |key: &str| of_output(key, "v").unwrap().map(|annotation| shown(&annotation));
        assert_eq!(read("annotation.a.b").as_deref(), Some("Manifest a.b=v"));
        assert_eq!(read("annotation-index.a").as_deref(), Some("Index a=v"));
        assert_eq!(read("annotation[linux/arm64].a").as_deref(), Some("Manifest[linux/arm64] a=v"));
        assert_eq!(
            read("annotation-manifest-descriptor[linux/arm64].a").as_deref(),
            Some("ManifestDescriptor[linux/arm64] a=v")
        );
        assert_eq!(read("annotation"), None);
        assert_eq!(read("name"), None);
        assert!(of_output("annotation-foo.a", "v").is_err());
    }
}
