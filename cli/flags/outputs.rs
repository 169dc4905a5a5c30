//! `build -o`: from text to where the result goes.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use anyhow::Context;
use engine::archive::ArchiveFormat;
use engine::output::{Finish, Output};
use engine::{Cancel, Compression};
use oci::Reference;

use crate::failure::Failure;
use crate::sink::Sink;

/// Reads all `--output`s, and adds what `--push` asks for.
pub(crate) fn parse(texts: &[String], push: bool, cancel: &Cancel) -> anyhow::Result<Vec<Output>> {
    let mut outputs = Vec::new();
    for text in texts {
        outputs.push(parse_one(text, cancel).with_context(|| format!("--output `{text}`"))?);
    }
    if push {
        match outputs.iter_mut().find(|output| matches!(output, Output::Image { .. })) {
            Some(Output::Image { push, .. }) => *push = true,
            _ => outputs.push(Output::Image { names: Vec::new(), push: true }),
        }
    }
    Ok(outputs)
}

/// What `type=…,key=value` says.
#[derive(Default)]
struct Fields {
    kind: Option<String>,
    dest: Option<PathBuf>,
    names: Vec<Reference>,
    push: bool,
    compression: Compression,
}

fn parse_one(text: &str, cancel: &Cancel) -> anyhow::Result<Output> {
    // Short forms: a folder, or `-` for a tar on standard output.
    if !text.contains('=') {
        anyhow::ensure!(!text.is_empty(), "it is empty");
        return match text {
            "-" => Ok(Output::Tar { sink: sink(None, cancel)? }),
            folder => Ok(Output::Local { folder: folder.into() }),
        };
    }
    let mut fields = Fields::default();
    for (key, value) in super::fields(text)? {
        read_field(&mut fields, &key, value)?;
    }
    let Fields { kind, dest, names, push, compression } = fields;
    let archive = |format| -> anyhow::Result<Output> {
        Ok(Output::Archive { format, names: names.clone(), compression, sink: sink(dest.clone(), cancel)? })
    };
    match kind.as_deref().unwrap_or_default() {
        "image" | "registry" => {
            anyhow::ensure!(dest.is_none(), "an image in the store has no dest");
            Ok(Output::Image { push: push || kind.as_deref() == Some("registry"), names })
        }
        "oci" => archive(ArchiveFormat::Oci),
        // As in docker: without a file, it is the store.
        "docker" if dest.is_none() => Ok(Output::Image { names, push: false }),
        "docker" => archive(ArchiveFormat::Docker),
        "tar" => Ok(Output::Tar { sink: sink(dest, cancel)? }),
        "local" => Ok(Output::Local { folder: dest.context("type=local needs dest=FOLDER")? }),
        "" => anyhow::bail!("it has no type"),
        other => {
            let error = anyhow::anyhow!("there is no output of type `{other}`");
            Err(Failure::new(error).hint("the types are image, oci, docker, tar and local").into())
        }
    }
}

fn read_field(fields: &mut Fields, key: &str, value: Option<String>) -> anyhow::Result<()> {
    match (key, value) {
        ("type", Some(kind)) => fields.kind = Some(kind),
        ("dest", Some(dest)) => fields.dest = Some(dest.into()),
        ("name", Some(names)) => {
            for name in names.split(',').filter(|name| !name.is_empty()) {
                fields.names.push(name.parse()?);
            }
        }
        ("push", value) => fields.push = super::boolean("push", value.as_deref())?,
        ("compression", Some(kind)) => {
            fields.compression = match kind.as_str() {
                "uncompressed" | "none" => Compression::None,
                "gzip" => Compression::Gzip,
                "zstd" => Compression::Zstd,
                other => anyhow::bail!("compression `{other}` is none of gzip, zstd and uncompressed"),
            }
        }
        // All our archives have OCI's types, and are tars.
        ("oci-mediatypes", value) if super::boolean(key, value.as_deref())? => {}
        ("tar", value) if super::boolean(key, value.as_deref())? => {}
        (key, _) => anyhow::bail!("`{key}` is not supported"),
    }
    Ok(())
}

/// Returns what opens a file, or standard output unless that is a terminal.
fn sink(dest: Option<PathBuf>, cancel: &Cancel) -> anyhow::Result<engine::output::Sink> {
    let sink = Sink::to(dest.as_deref(), cancel);
    if sink.is_stdout() && io::stdout().is_terminal() {
        let error = anyhow::anyhow!("an archive is not for a terminal");
        return Err(Failure::new(error).hint("name a file with dest=FILE, or redirect the output").into());
    }
    Ok(Box::new(move || Ok(Box::new(sink.open()?) as Box<dyn Finish>)))
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

    #[test]
    fn outputs_are_read_as_docker_writes_them() {
        assert_eq!(read("dist"), r#"Local { folder: "dist" }"#);
        assert_eq!(read("type=local,dest=a"), r#"Local { folder: "a" }"#);
        assert_eq!(
            read("type=oci,dest=a.tar,compression=zstd"),
            "Archive { format: Oci, names: [], compression: Zstd, .. }"
        );
        assert_eq!(
            read("type=image,name=localhost:5000/a,push=true"),
            "Image { names: [localhost:5000/a:latest], push: true }"
        );
        assert_eq!(read("type=docker"), "Image { names: [], push: false }");
        assert_eq!(read("type=iso,dest=x"), "error: there is no output of type `iso`");
        assert_eq!(read("type=local"), "error: type=local needs dest=FOLDER");
        assert_eq!(read("type=oci,dest=a,foo=b"), "error: `foo` is not supported");
    }
}
