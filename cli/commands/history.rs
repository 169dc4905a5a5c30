//! `slipway history`: which instructions made an image; and, without one, the builds that were made here.

pub(crate) mod builds;

use std::process::ExitCode;

use engine::ops::history::{HistoryLine, history};
use jiff::Timestamp;

use super::ListFormat;
use crate::session::{Session, Threads};
use crate::{clock, table, terminal, units};

const NOTES: &str = "\
Examples:
  slipway history                    The builds that were made here, the newest first
  slipway history logs 3fa9          What the steps of a build printed; without an ID, of the last one
  slipway history logs ^0 4 > log    All that step 4 of the last build printed
  slipway history open               A page with the timeline of the last build
  slipway history app                The instructions that made the image `app`
  slipway history -- logs            The same for an image that is called as a command here

The last 100 builds are remembered, with at most 1 GB of logs, and the files of a failed step for
the last 3 builds that have one. $SLIPWAY_HISTORY=BUILDS[,SIZE[,FAILED]] says otherwise; 0 remembers nothing.";

/// Show the builds that were made here, or the instructions that made an image
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, after_help = NOTES)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: Option<builds::What>,
    /// Name or ID of an image; without one, the builds are listed
    image: Option<String>,
    /// Print a table, or one JSON object per line
    #[arg(long, value_name = "FORMAT")]
    format: Option<super::ListFormat>,
    /// Print sizes and times for people
    #[arg(short = 'H', long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    human: bool,
    /// Do not shorten IDs and instructions
    #[arg(long)]
    no_trunc: bool,
    /// Print only IDs
    #[arg(short, long)]
    quiet: bool,
    /// Look at this platform of an image that has several
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<oci::Platform>,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    if let Some(what) = args.what {
        return builds::run(what, session);
    }
    let engine = session.engine()?;
    let Some(image) = args.image.clone() else {
        builds::list(&engine, args.format, args.quiet)?;
        return Ok(ExitCode::SUCCESS);
    };
    let lines = session.wait(Threads::One, history(&engine, image, args.platform.clone()))?;
    let now = clock::now();
    let rows: Vec<Row> = lines.iter().map(|line| row(line, &args, now)).collect();
    if args.quiet {
        for row in &rows {
            terminal::print_line(&row.id)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if args.format == Some(ListFormat::Json) {
        for row in rows {
            terminal::print_json(&serde_json::to_string(&row)?)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let created = if args.human { "CREATED" } else { "CREATED AT" };
    let rows = rows.into_iter().map(|row| {
        let created = if args.human { row.created_since } else { row.created_at };
        vec![row.id, created, row.created_by, row.size, row.comment]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    terminal::print_line(&table::render(&["IMAGE", created, "CREATED BY", "SIZE", "COMMENT"], &rows))?;
    Ok(ExitCode::SUCCESS)
}

/// A line, with docker's member names.
#[derive(serde::Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    comment: String,
    created_at: String,
    created_by: String,
    created_since: String,
    #[serde(rename = "ID")]
    id: String,
    size: String,
}

fn row(line: &HistoryLine, args: &Args, now: Timestamp) -> Row {
    const WIDTH: usize = 45;
    let created_by = line.created_by.replace(['\t', '\n'], " ");
    Row {
        comment: line.comment.clone(),
        created_at: line.created.clone().unwrap_or_else(|| "N/A".into()),
        created_by: if args.no_trunc { created_by } else { table::shorten(&created_by, WIDTH) },
        created_since: units::ago(line.created.as_deref(), now),
        id: match &line.id {
            Some(id) if args.no_trunc => id.to_string(),
            Some(id) => id.short().into(),
            None => "<missing>".into(),
        },
        size: if args.human { units::size(line.size) } else { line.size.to_string() },
    }
}
