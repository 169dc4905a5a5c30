//! `slipway inspect`: all that is known about containers and images, as docker's JSON.

use std::process::ExitCode;

use engine::containers::ContainerError;
use engine::ops::inspect::{self, Inspected};
use serde::Serialize;
use serde_json::{Value, json};

use crate::session::{Session, Threads};
use crate::template::{self, Format};
use crate::{clock, failure, terminal};

const EXAMPLES: &str = "\
Examples:
  slipway inspect web
  slipway inspect -f '{{.State.Status}}' web
  slipway inspect debian:12 | jq -r '.[0].Config.Env[]'";

/// Show all that is known about containers or images, as JSON
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Names or IDs of containers or images
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Print an indented array, one JSON object per line, or what a Go template makes of each
    #[arg(short, long, value_name = "FORMAT", value_parser = template::format)]
    format: Option<Format>,
    /// Look only for this: container or image
    #[arg(long, value_name = "TYPE", value_parser = ["container", "image"])]
    r#type: Option<String>,
    /// Count what a container wrote
    #[arg(short, long)]
    size: bool,
    /// Look at this platform of an image that has several
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<oci::Platform>,
}

impl Args {
    /// Looks only for one kind of thing.
    pub(crate) fn only(self, kind: &str) -> Self {
        Self { r#type: Some(kind.to_owned()), ..self }
    }
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let engine = session.engine()?;
    let mut found = Vec::new();
    let mut failed = Vec::new();
    for name in &args.names {
        match session.wait(Threads::One, look(&engine, name, &args)) {
            Ok(value) => found.push(value),
            Err(error) if error.is::<crate::failure::Interrupted>() => return Err(error),
            Err(error) => failed.push(error),
        }
    }
    match &args.format {
        Some(Format::Json) => {
            for object in &found {
                terminal::print_json(&object.to_string())?;
            }
        }
        Some(Format::Text(template) | Format::TableOf(template)) => {
            for object in &found {
                terminal::print_line(&template::render(template, object)?)?;
            }
        }
        Some(Format::Table) | None => {
            // docker indents by four, and prints an empty array when nothing was found.
            let mut text = Vec::new();
            let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
            let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
            Value::Array(found).serialize(&mut serializer)?;
            terminal::print_json(&String::from_utf8_lossy(&text))?;
        }
    }
    let Some(last) = failed.pop() else { return Ok(ExitCode::SUCCESS) };
    for error in failed {
        failure::note_error(&error);
    }
    Err(last)
}

/// Looks for a container, then for an image.
async fn look(engine: &engine::Engine, name: &str, args: &Args) -> anyhow::Result<Value> {
    let wanted = args.r#type.as_deref();
    if wanted != Some("image") && args.platform.is_none() {
        match inspect::container(engine, name.to_owned(), clock::now()).await {
            Ok(mut inspected) => {
                if args.size {
                    let (written, image) = inspect::sizes(engine, name.to_owned()).await?;
                    inspected.json["SizeRw"] = written.into();
                    inspected.json["SizeRootFs"] = (written + image).into();
                }
                return Ok(inspected.json);
            }
            Err(ContainerError::NotFound { .. }) if wanted.is_none() => {}
            Err(error) => return Err(error.into()),
        }
    }
    describe(&inspect::inspect(engine, name.to_owned(), args.platform.clone()).await?)
}

/// Shapes an image as docker's `image inspect` does.
fn describe(inspected: &Inspected) -> anyhow::Result<Value> {
    let config = &inspected.image.config;
    let tags = inspected.references.iter().filter(|reference| reference.tag().is_some());
    let digests = inspected.digest.as_ref().map(|digest| {
        let names = inspected.references.iter().map(|reference| format!("{}@{digest}", reference.familiar_name()));
        // Two tags of a repository have the same digest.
        names.collect::<std::collections::BTreeSet<String>>()
    });
    let comment = config.history.last().and_then(|line| line.comment.clone()).unwrap_or_default();
    let mut object = json!({
        "Id": inspected.image.config_digest,
        "RepoTags": tags.map(oci::Reference::familiar).collect::<Vec<_>>(),
        "RepoDigests": digests.unwrap_or_default(),
        "Comment": comment,
        "Created": config.created,
        "Author": config.author.clone().unwrap_or_default(),
        "Config": serde_json::to_value(&config.config)?,
        "Architecture": config.architecture,
        "Os": config.os,
        "Size": inspected.size,
        "RootFS": { "Type": config.rootfs.kind, "Layers": config.rootfs.diff_ids },
        "Metadata": { "LastTagTime": inspected.tagged_at.map(|time| time.to_string()) },
        "Descriptor": serde_json::to_value(&inspected.image.descriptor)?,
    });
    if let (Some(object), Some(variant)) = (object.as_object_mut(), &config.variant) {
        object.insert("Variant".into(), variant.clone().into());
    }
    Ok(object)
}
