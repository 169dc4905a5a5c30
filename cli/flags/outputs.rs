//! `build -o`: from text to where the result goes.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use anyhow::Context;
use engine::archive::ArchiveFormat;
use engine::output::{ArchiveSink, Finish, Form, ImageOutput, Output};
use engine::{Cancel, Compression};
use oci::Reference;

use crate::failure::Failure;
use crate::sink::Sink;

/// What the outputs share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Given<'a> {
    /// `--output`, each.
    pub(crate) outputs: &'a [String],
    /// `--annotation`, each.
    pub(crate) annotations: &'a [String],
    /// `--push`.
    pub(crate) push: bool,
    /// `--load`.
    pub(crate) load: bool,
    /// Whether there is a `--tag`.
    pub(crate) is_tagged: bool,
}

/// Reads all `--output`s, and adds what `--push`, `--load` and `--annotation` ask for.
pub(crate) fn parse(given: Given<'_>, cancel: &Cancel) -> anyhow::Result<Vec<Output>> {
    let mut outputs = Vec::new();
    for text in given.outputs {
        outputs.push(parse_one(text, cancel).with_context(|| format!("--output `{text}`"))?);
    }
    let is_image = |output: &Output| matches!(output, Output::Image(_));
    if given.push {
        match outputs.iter_mut().find(|output| is_image(output)) {
            Some(Output::Image(image)) => image.push = true,
            _ => outputs.push(Output::Image(ImageOutput { push: true, ..ImageOutput::default() })),
        }
    }
    let needs_image = given.load || (!given.annotations.is_empty() && outputs.is_empty());
    if needs_image && !outputs.iter().any(is_image) {
        outputs.push(Output::Image(ImageOutput::default()));
    }
    let mut shared = Vec::new();
    for text in given.annotations {
        shared.extend(super::annotations::parse(text).context("--annotation")?);
    }
    for output in &mut outputs {
        match output {
            Output::Image(ImageOutput { annotations, .. }) | Output::Archive { annotations, .. } => {
                // What one output says of itself wins.
                let own = std::mem::replace(annotations, shared.clone());
                annotations.extend(own);
            }
            Output::Tar { .. } | Output::Local { .. } | Output::CacheOnly => {}
        }
        if let Output::Image(image) = output
            && image.push
            && image.names.is_empty()
            && !given.is_tagged
        {
            let error = anyhow::anyhow!("an image needs a name to be pushed");
            return Err(Failure::new(error).hint("give one with --tag, or with name= of the output").into());
        }
    }
    Ok(outputs)
}

/// Returns the names that outputs give.
pub(crate) fn names(outputs: &[Output]) -> impl Iterator<Item = &Reference> {
    outputs.iter().flat_map(|output| match output {
        Output::Image(image) => image.names.as_slice(),
        Output::Archive { .. } | Output::Tar { .. } | Output::Local { .. } | Output::CacheOnly => &[],
    })
}

/// What `type=…,key=value` says.
#[derive(Default)]
struct Fields {
    kind: Option<String>,
    dest: Option<PathBuf>,
    image: ImageOutput,
    is_folder: bool,
    split: Option<bool>,
    /// The keys that only some kinds have.
    keys: Vec<String>,
}

fn parse_one(text: &str, cancel: &Cancel) -> anyhow::Result<Output> {
    // Short forms: a folder, or `-` for a tar on standard output.
    if !text.contains('=') {
        anyhow::ensure!(!text.is_empty(), "it is empty");
        return match text {
            "-" => Ok(Output::Tar { sink: sink(None, cancel)? }),
            folder => Ok(Output::Local { folder: folder.into(), split: None }),
        };
    }
    let mut fields = Fields::default();
    for (key, value) in super::fields(text)? {
        read_field(&mut fields, &key, value)?;
    }
    let Fields { kind, dest, mut image, is_folder, split, keys } = fields;
    let kind = kind.unwrap_or_default();
    check_keys(&kind, dest.is_some(), &keys)?;
    check_level(&image.form)?;
    let archive = |format, image: ImageOutput| -> anyhow::Result<Output> {
        let sink = match is_folder {
            true => {
                let folder = dest.clone().context("tar=false needs dest=FOLDER")?;
                ArchiveSink::Folder(folder)
            }
            false => ArchiveSink::File(sink(dest.clone(), cancel)?),
        };
        let ImageOutput { names, form, annotations, .. } = image;
        Ok(Output::Archive { format, names, form, annotations, sink })
    };
    match kind.as_str() {
        "image" | "registry" => {
            anyhow::ensure!(dest.is_none(), "an image in the store has no dest");
            image.push |= kind == "registry";
            anyhow::ensure!(!image.by_digest || image.push, "push-by-digest=true needs push=true");
            Ok(Output::Image(image))
        }
        "oci" => archive(ArchiveFormat::Oci, image),
        // As in docker: without a file, it is the store.
        "docker" if dest.is_none() && !is_folder => Ok(Output::Image(image)),
        "docker" => archive(ArchiveFormat::Docker, image),
        "tar" => Ok(Output::Tar { sink: sink(dest, cancel)? }),
        "local" => Ok(Output::Local { folder: dest.context("type=local needs dest=FOLDER")?, split }),
        "cacheonly" => Ok(Output::CacheOnly),
        "" => anyhow::bail!("it has no type"),
        other => {
            let error = anyhow::anyhow!("there is no output of type `{other}`");
            let hint = "the types are image, registry, oci, docker, tar, local and cacheonly";
            Err(Failure::new(error).hint(hint).into())
        }
    }
}

fn read_field(fields: &mut Fields, key: &str, value: Option<String>) -> anyhow::Result<()> {
    if let Some(annotation) = super::annotations::of_output(key, value.as_deref().unwrap_or_default())? {
        fields.image.annotations.push(annotation);
        fields.keys.push("annotation".into());
        return Ok(());
    }
    let boolean = |value: Option<String>| super::boolean(key, value.as_deref());
    let image = &mut fields.image;
    if !matches!(key, "type" | "dest") {
        fields.keys.push(key.to_owned());
    }
    match (key, value) {
        ("type", Some(kind)) => fields.kind = Some(kind),
        ("dest", Some(dest)) => fields.dest = Some(dest.into()),
        ("name", Some(names)) => {
            for name in names.split(',').filter(|name| !name.is_empty()) {
                image.names.push(name.parse()?);
            }
        }
        ("push", value) => image.push = boolean(value)?,
        ("push-by-digest", value) => image.by_digest = boolean(value)?,
        ("store", value) => image.keep = boolean(value)?,
        ("compression", Some(kind)) => {
            image.form.compression = match kind.as_str() {
                "uncompressed" | "none" => Compression::None,
                "gzip" => Compression::Gzip,
                "zstd" => Compression::Zstd,
                other => anyhow::bail!("compression `{other}` is none of gzip, zstd and uncompressed"),
            }
        }
        ("compression-level", Some(level)) => {
            let level = level.parse().with_context(|| format!("compression-level `{level}` is not a number"))?;
            image.form.level = Some(level);
        }
        ("force-compression", value) => image.form.force = boolean(value)?,
        ("oci-mediatypes", value) => image.form.docker_types = !boolean(value)?,
        ("tar", value) => fields.is_folder = !boolean(value)?,
        ("platform-split", value) => fields.split = Some(boolean(value)?),
        ("rewrite-timestamp", _) => {
            let error = anyhow::anyhow!("`rewrite-timestamp` is not supported");
            return Err(Failure::new(error).hint("`slipway build --reproducible` does that for all outputs").into());
        }
        (key, _) => anyhow::bail!("`{key}` is not supported"),
    }
    Ok(())
}

/// Refuses keys that mean nothing for a kind of output, rather than leave the user waiting for what they do.
fn check_keys(kind: &str, has_dest: bool, keys: &[String]) -> anyhow::Result<()> {
    let known: &[&str] = match kind {
        "docker" if !has_dest => &IMAGE_KEYS,
        "oci" | "docker" => &ARCHIVE_KEYS,
        "image" | "registry" => &IMAGE_KEYS,
        "local" => &["platform-split"],
        "tar" | "cacheonly" => &[],
        // The kind itself is refused.
        _ => return Ok(()),
    };
    match keys.iter().find(|key| !known.contains(&key.as_str())) {
        Some(key) => anyhow::bail!("type={kind} has no `{key}`"),
        None => Ok(()),
    }
}

const IMAGE_KEYS: [&str; 9] = [
    "name",
    "push",
    "push-by-digest",
    "store",
    "compression",
    "compression-level",
    "force-compression",
    "oci-mediatypes",
    "annotation",
];
const ARCHIVE_KEYS: [&str; 7] =
    ["name", "compression", "compression-level", "force-compression", "oci-mediatypes", "annotation", "tar"];

fn check_level(form: &Form) -> anyhow::Result<()> {
    let Some(level) = form.level else { return Ok(()) };
    let levels = match form.compression {
        Compression::None => anyhow::bail!("what is uncompressed has no compression-level"),
        Compression::Gzip => 0..=9,
        Compression::Zstd => 1..=22,
    };
    let (first, last, name) = (levels.start(), levels.end(), form.compression.as_str());
    anyhow::ensure!(levels.contains(&level), "compression-level {level} is not one of {name}'s: {first} to {last}");
    Ok(())
}

/// Returns what opens a file, or standard output unless that is a terminal.
fn sink(dest: Option<PathBuf>, cancel: &Cancel) -> anyhow::Result<engine::output::Sink> {
    let sink = Sink::to(dest.as_deref(), cancel);
    if sink.is_stdout() && io::stdout().is_terminal() {
        let error = anyhow::anyhow!("an archive is not for a terminal");
        return Err(Failure::new(error).hint("name a file with dest=FILE, or redirect the output").into());
    }
    Ok(engine::output::Sink(Box::new(move || Ok(Box::new(sink.open()?) as Box<dyn Finish>))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        match parse_one(text, &Cancel::new()) {
            Ok(output) => format!("{output:?}"),
            Err(error) => format!("error: {error}"),
        }
    }

    fn image(text: &str) -> ImageOutput {
        match parse_one(text, &Cancel::new()).unwrap() {
            Output::Image(image) => image,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn outputs_are_read_as_docker_writes_them() {
        assert_eq!(read("dist"), r#"Local { folder: "dist", split: None }"#);
        assert_eq!(read("type=local,dest=a,platform-split=true"), r#"Local { folder: "a", split: Some(true) }"#);
        assert_eq!(read("type=cacheonly"), "CacheOnly");
        assert_eq!(image("type=docker"), ImageOutput::default());
        let pushed = ImageOutput { push: true, ..ImageOutput::default() };
        assert_eq!(image("type=registry"), pushed);
        let names = vec!["localhost:5000/a:latest".parse().unwrap(), "b:2".parse().unwrap()];
        assert_eq!(
            image(r#"type=image,"name=localhost:5000/a,b:2",push=true"#),
            ImageOutput { names, ..pushed.clone() }
        );
        let by_digest = ImageOutput { by_digest: true, keep: false, ..pushed };
        assert_eq!(image("type=image,push-by-digest=true,push=true,store=false"), by_digest);
        assert_eq!(image("type=docker,annotation.a=b").annotations[0].name, "a");
    }

    #[test]
    fn forms_are_read() {
        let form = |text: &str| image(&format!("type=image,{text}")).form;
        let gzip = Form::default();
        assert_eq!(form("push"), gzip);
        assert_eq!(form("compression=zstd").compression, Compression::Zstd);
        assert_eq!(form("compression=uncompressed").compression, Compression::None);
        assert_eq!(form("compression-level=9"), Form { level: Some(9), ..gzip });
        assert_eq!(
            form("force-compression=true,oci-mediatypes=false"),
            Form { force: true, docker_types: true, ..gzip }
        );
        for (text, part) in [
            ("compression-level=10", "not one of gzip's: 0 to 9"),
            ("compression=zstd,compression-level=23", "not one of zstd's: 1 to 22"),
            ("compression=uncompressed,compression-level=1", "has no compression-level"),
            ("compression-level=x", "not a number"),
            ("compression=xz", "none of gzip"),
            ("force-compression=maybe", "neither true nor false"),
        ] {
            let error = read(&format!("type=image,{text}"));
            assert!(error.starts_with("error:") && error.contains(part), "{error}");
        }
    }

    #[test]
    fn archives_are_files_or_folders() {
        let archive = read("type=oci,dest=a.tar,compression=zstd");
        assert!(
            archive.contains("format: Oci") && archive.contains("Zstd") && archive.contains("File(..)"),
            "{archive}"
        );
        let archive = read("type=docker,dest=a,tar=false");
        assert!(archive.contains("format: Docker") && archive.contains(r#"Folder("a")"#), "{archive}");
        assert_eq!(read("type=oci,tar=false"), "error: tar=false needs dest=FOLDER");
    }

    #[test]
    fn what_an_output_does_not_know_is_refused() {
        assert_eq!(read("type=iso,dest=x"), "error: there is no output of type `iso`");
        assert_eq!(read("type=local"), "error: type=local needs dest=FOLDER");
        assert_eq!(read("type=oci,dest=a,foo=b"), "error: `foo` is not supported");
        assert_eq!(read("type=local,dest=a,compression=gzip"), "error: type=local has no `compression`");
        assert_eq!(read("type=tar,dest=a,push=true"), "error: type=tar has no `push`");
        assert_eq!(read("type=image,push-by-digest=true"), "error: push-by-digest=true needs push=true");
        assert_eq!(read("type=image,rewrite-timestamp=true"), "error: `rewrite-timestamp` is not supported");
    }

    #[test]
    fn push_needs_a_name() {
        let given = Given { outputs: &[], annotations: &[], push: true, load: false, is_tagged: false };
        let error = parse(given, &Cancel::new()).unwrap_err();
        assert!(error.to_string().contains("needs a name"), "{error}");
        let outputs = ["type=image,name=a".to_owned()];
        let outputs = parse(Given { outputs: &outputs, ..given }, &Cancel::new()).unwrap();
        assert!(matches!(outputs.as_slice(), [Output::Image(image)] if image.push), "{outputs:?}");
    }
}
