//! `slipway images`: lists the images of the store.

use std::process::ExitCode;

use engine::ops::images::{ImagesOptions, ListedImage, images};
use jiff::Timestamp;

use super::ListFormat;
use crate::failure::{self, Failure};
use crate::session::{Session, Threads};
use crate::{clock, table, terminal, units};

const EXAMPLES: &str = "\
Examples:
  slipway images
  slipway images 'localhost:5000/*'                 Only names that match
  slipway images --filter dangling=true -q          IDs of images without a name
  slipway images --format json | jq -r .Repository";

/// List images
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Only images whose name matches
    #[arg(value_name = "NAME[:TAG]")]
    name: Option<String>,
    /// Show all images; the same as without, for docker's sake
    #[arg(short, long)]
    all: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Only what matches: dangling=true|false, reference=PATTERN, label=NAME[=VALUE]
    #[arg(short, long, value_name = "NAME=VALUE")]
    filter: Vec<String>,
    /// Print a table, or one JSON object per line
    #[arg(long, value_name = "FORMAT")]
    format: Option<super::ListFormat>,
    /// Do not shorten IDs
    #[arg(long)]
    no_trunc: bool,
    /// Print only IDs
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let options = options(&args)?;
    let engine = session.engine()?;
    let list = session.wait(Threads::One, images(&engine, options))?;
    for (name, error) in list.broken {
        failure::note_error(&anyhow::Error::new(error).context(format!("cannot read image `{name}`")));
    }
    if args.quiet {
        for image in list.images {
            terminal::print_line(&id(&image, args.no_trunc))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let now = clock::now();
    let rows: Vec<Row> = list.images.iter().map(|image| row(image, args.no_trunc, now)).collect();
    if args.format == Some(ListFormat::Json) {
        for row in rows {
            terminal::print_json(&serde_json::to_string(&row)?)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut headings = vec!["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"];
    if args.digests {
        headings.insert(2, "DIGEST");
    }
    let cells = |row: Row| {
        let mut cells = vec![row.repository, row.tag, row.id, row.created_since, row.size];
        if args.digests {
            cells.insert(2, row.digest);
        }
        cells
    };
    let rows: Vec<Vec<String>> = rows.into_iter().map(cells).collect();
    terminal::print_line(&table::render(&headings, &rows))?;
    Ok(ExitCode::SUCCESS)
}

/// A line, with docker's member names.
#[derive(serde::Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    containers: &'static str,
    created_at: String,
    created_since: String,
    digest: String,
    #[serde(rename = "ID")]
    id: String,
    repository: String,
    size: String,
    tag: String,
}

fn row(image: &ListedImage, no_trunc: bool, now: Timestamp) -> Row {
    let none = || "<none>".to_owned();
    let tag = image.reference.as_ref().and_then(|reference| reference.tag());
    Row {
        containers: "N/A",
        created_at: image.created.clone().unwrap_or_else(|| "N/A".into()),
        created_since: units::ago(image.created.as_deref(), now),
        digest: image.digest.as_ref().map_or_else(none, ToString::to_string),
        id: id(image, no_trunc),
        repository: image.reference.as_ref().map_or_else(none, oci::Reference::familiar_name),
        size: units::size(image.size),
        tag: tag.map_or_else(none, ToString::to_string),
    }
}

fn id(image: &ListedImage, no_trunc: bool) -> String {
    if no_trunc { image.id.to_string() } else { image.id.short().to_owned() }
}

fn options(args: &Args) -> anyhow::Result<ImagesOptions> {
    let mut options = ImagesOptions::default();
    options.references.extend(args.name.clone());
    for filter in &args.filter {
        let (name, value) = filter.split_once('=').unwrap_or((filter, ""));
        match (name, value) {
            ("reference", pattern) => options.references.push(pattern.into()),
            ("dangling", "true" | "1") => options.dangling = Some(true),
            ("dangling", "false" | "0") => options.dangling = Some(false),
            ("label", label) => {
                let (name, value) = match label.split_once('=') {
                    Some((name, value)) => (name, Some(value.to_owned())),
                    None => (label, None),
                };
                options.labels.push((name.into(), value));
            }
            _ => {
                let error = anyhow::anyhow!("invalid filter `{filter}`");
                let hint = "filters are dangling=true|false, reference=PATTERN and label=NAME[=VALUE]";
                return Err(Failure::new(error).hint(hint).into());
            }
        }
    }
    Ok(options)
}
