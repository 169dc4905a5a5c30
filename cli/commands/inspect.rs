//! `slipway inspect`: all that is known about images, as docker's JSON.

use std::process::ExitCode;

use engine::ops::inspect::{Inspected, inspect};
use serde::Serialize;
use serde_json::{Value, json};

use super::ListFormat;
use crate::session::{Session, Threads};
use crate::{failure, terminal};

const EXAMPLES: &str = "\
Examples:
  slipway inspect debian:12
  slipway inspect app | jq -r '.[0].Config.Env[]'";

/// Show all that is known about images, as JSON
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Names or IDs of images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Print an indented array, or one JSON object per line
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<super::ListFormat>,
    /// What to look for; only images can be inspected
    #[arg(long, value_name = "TYPE", value_parser = ["image"])]
    r#type: Option<String>,
    /// Look at this platform of an image that has several
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<oci::Platform>,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let engine = session.engine()?;
    let mut found = Vec::new();
    let mut failed = Vec::new();
    for image in args.images {
        match session.wait(Threads::One, inspect(&engine, image, args.platform.clone())) {
            Ok(inspected) => found.push(describe(&inspected)?),
            Err(error) if error.is::<crate::failure::Interrupted>() => return Err(error),
            Err(error) => failed.push(error),
        }
    }
    if args.format == Some(ListFormat::Json) {
        for object in &found {
            terminal::print_json(&object.to_string())?;
        }
    } else {
        // docker indents by four, and prints an empty array when nothing was found.
        let mut text = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        serde_json::Value::Array(found).serialize(&mut serde_json::Serializer::with_formatter(&mut text, formatter))?;
        terminal::print_json(&String::from_utf8_lossy(&text))?;
    }
    let Some(last) = failed.pop() else { return Ok(ExitCode::SUCCESS) };
    for error in failed {
        failure::note_error(&error);
    }
    Err(last)
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
