//! `slipway volume`: volumes of containers.

use std::process::ExitCode;

use clap::Subcommand;
use engine::networks::{VolumeError, VolumeRecord};
use engine::ops::volume::{self, Volume};
use serde_json::{Map, Value, json};

use crate::flags::pairs;
use crate::session::{Session, Threads};
use crate::template::{self, Format};
use crate::{clock, objects, terminal, units};

const EXAMPLES: &str = "\
Examples:
  slipway volume create data
  slipway run -v data:/var/lib/app app
  slipway volume inspect data
  slipway volume prune                              Those that nobody named and no container has";

/// Manage volumes of containers
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: VolumeCommand,
}

#[derive(Debug, Subcommand)]
enum VolumeCommand {
    /// Make a volume
    Create(CreateArgs),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Show all that is known about volumes, as JSON
    Inspect(InspectArgs),
    /// Remove volumes
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
    /// Remove volumes that no container has
    Prune(PruneArgs),
}

#[derive(Debug, clap::Args)]
struct CreateArgs {
    /// What it shall be called; one is made up when there is none
    #[arg(value_name = "VOLUME")]
    name: Option<String>,
    /// local, the only one there is
    #[arg(short, long, value_name = "DRIVER", default_value = "local", value_parser = ["local"])]
    driver: String,
    /// Note something about it
    #[arg(long, value_name = "NAME[=VALUE]")]
    label: Vec<String>,
    /// An option of the driver; there are none
    #[arg(short, long, value_name = "NAME=VALUE")]
    opt: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct LsArgs {
    /// Only what matches: dangling, driver, label, name
    #[arg(short, long, value_name = "NAME=VALUE")]
    filter: Vec<String>,
    /// Print a table, JSON, or what a Go template makes of each
    #[arg(long, value_name = "FORMAT", value_parser = template::format)]
    format: Option<Format>,
    /// Print only names
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, clap::Args)]
struct InspectArgs {
    /// Print an indented array, one JSON object per line, or what a Go template makes of each
    #[arg(short, long, value_name = "FORMAT", value_parser = template::format)]
    format: Option<Format>,
    /// Names of volumes
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct RmArgs {
    /// Names of volumes
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
    /// Do not mind those that are not there
    #[arg(short, long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
struct PruneArgs {
    /// Those with a name, too
    #[arg(short, long)]
    all: bool,
    /// Only what matches: label=NAME[=VALUE], label!=NAME[=VALUE]
    #[arg(long, value_name = "NAME=VALUE")]
    filter: Vec<String>,
    /// Do not ask; nobody ever is
    #[arg(short, long)]
    force: bool,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let engine = session.engine()?;
    match args.command {
        VolumeCommand::Create(args) => {
            let record = VolumeRecord {
                name: args.name.unwrap_or_default(),
                created: clock::now(),
                anonymous: false,
                labels: pairs(&args.label),
                options: pairs(&args.opt),
            };
            let name = session.wait(Threads::One, volume::create(&engine, record))?;
            terminal::print_line(&name)?;
            Ok(ExitCode::SUCCESS)
        }
        VolumeCommand::Ls(args) => ls(&args, session),
        VolumeCommand::Inspect(args) => {
            let inspected = args
                .volumes
                .into_iter()
                .map(|name| async { Ok::<_, anyhow::Error>(describe(&volume::inspect(&engine, name).await?)) });
            objects::inspect_each(session, args.format.as_ref(), inspected)
        }
        VolumeCommand::Rm(args) => {
            let missing = |error: &VolumeError| args.force && matches!(error, VolumeError::NotFound { .. });
            objects::do_each(session, &args.volumes, missing, |name| volume::remove(&engine, name))
        }
        VolumeCommand::Prune(args) => prune(&args, session),
    }
}

fn ls(args: &LsArgs, session: &Session) -> anyhow::Result<ExitCode> {
    let filters = args.filter.iter().map(|text| objects::filter(text)).collect::<Result<_, _>>()?;
    let engine = session.engine()?;
    let list = session.wait(Threads::One, volume::list(&engine, filters))?;
    if args.quiet {
        for volume in &list {
            terminal::print_line(&volume.record.name)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<_> = list.iter().map(row).collect();
    template::print_list(args.format.as_ref(), &[("DRIVER", "Driver"), ("VOLUME NAME", "Name")], &[], &rows)?;
    Ok(ExitCode::SUCCESS)
}

/// A line, with docker's member names.
fn row(volume: &Volume) -> Map<String, Value> {
    let labels: Vec<String> = volume.record.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let row = json!({
        "Availability": "N/A",
        "Driver": "local",
        "Group": "N/A",
        "Labels": labels.join(","),
        "Links": volume.links.to_string(),
        "Mountpoint": volume.mountpoint,
        "Name": volume.record.name,
        "Scope": "local",
        "Size": "N/A",
        "Status": "N/A",
    });
    match row {
        Value::Object(row) => row,
        _ => Map::new(),
    }
}

/// Shapes a volume as docker's `volume inspect` does.
fn describe(volume: &Volume) -> Value {
    let record = &volume.record;
    let or_null = |map: &std::collections::BTreeMap<String, String>| match map.is_empty() {
        true => Value::Null,
        false => json!(map),
    };
    json!({
        "CreatedAt": record.created.to_string(),
        "Driver": "local",
        "Labels": or_null(&record.labels),
        "Mountpoint": volume.mountpoint,
        "Name": record.name,
        "Options": or_null(&record.options),
        "Scope": "local",
    })
}

fn prune(args: &PruneArgs, session: &Session) -> anyhow::Result<ExitCode> {
    let filter = super::network::prune_filter(&args.filter)?;
    let engine = session.engine()?;
    let pruned = session.wait(Threads::One, volume::prune(&engine, args.all, filter))?;
    if !pruned.names.is_empty() {
        terminal::print_line(&format!("Deleted Volumes:\n{}\n", pruned.names.join("\n")))?;
    }
    terminal::print_line(&format!("Total reclaimed space: {}", units::size(pruned.bytes)))?;
    Ok(ExitCode::SUCCESS)
}
