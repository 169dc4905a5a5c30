//! `slipway system`: what everything takes on the disk, and removing what nobody uses.

use std::process::ExitCode;

use clap::Subcommand;
use engine::ops;
use engine::ops::container::PruneContainersOptions;
use engine::ops::network::PruneFilter;
use engine::ops::prune::PruneOptions;
use engine::ops::rmi::Removed;
use engine::ops::system::Usage;
use serde_json::{Map, Value, json};

use crate::session::{Session, Threads};
use crate::template::{self, Format};
use crate::{clock, terminal, units};

const EXAMPLES: &str = "\
Examples:
  slipway system df
  slipway system prune                Stopped containers, networks and images that nobody uses, build cache
  slipway system prune -a --volumes -f
  slipway system prune --filter until=24h";

/// Show what everything takes on the disk, and remove what nobody uses
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: SystemCommand,
}

#[derive(Debug, Subcommand)]
enum SystemCommand {
    /// Show what images, containers, volumes and the build cache take on the disk
    Df(DfArgs),
    /// Remove stopped containers, networks and images that nobody uses, and the build cache
    Prune(PruneArgs),
    Info(super::info::Args),
    Events(super::events::Args),
}

#[derive(Debug, clap::Args)]
struct DfArgs {
    /// Print a table, JSON, or what a Go template makes of each
    #[arg(long, value_name = "FORMAT", value_parser = template::format)]
    format: Option<Format>,
}

#[derive(Debug, clap::Args)]
struct PruneArgs {
    /// All images that no container is made of, not only those without a name, and all of the build cache
    #[arg(short, long)]
    all: bool,
    /// Also volumes that no container has and that nobody named
    #[arg(long)]
    volumes: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Only what matches: until=TIME, label=NAME[=VALUE], label!=NAME[=VALUE]; images then stay
    #[arg(long, value_name = "NAME=VALUE")]
    filter: Vec<String>,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    match args.command {
        SystemCommand::Df(args) => df(&args, session),
        SystemCommand::Prune(args) => prune(&args, session),
        SystemCommand::Info(args) => super::info::run(args, session),
        SystemCommand::Events(args) => super::events::run(args, session),
    }
}

fn df(args: &DfArgs, session: &Session) -> anyhow::Result<ExitCode> {
    let engine = session.engine()?;
    let usage = session.wait(Threads::One, ops::system::df(&engine, clock::now()))?;
    let rows = [
        row("Images", &usage.images),
        row("Containers", &usage.containers),
        row("Local Volumes", &usage.volumes),
        row("Build Cache", &usage.cache),
    ];
    const COLUMNS: [template::Column; 5] = [
        ("TYPE", "Type"),
        ("TOTAL", "TotalCount"),
        ("ACTIVE", "Active"),
        ("SIZE", "Size"),
        ("RECLAIMABLE", "Reclaimable"),
    ];
    template::print_list(args.format.as_ref(), &COLUMNS, &[], &rows)?;
    Ok(ExitCode::SUCCESS)
}

/// A line, with docker's member names.
fn row(kind: &str, usage: &Usage) -> Map<String, Value> {
    let share = (usage.reclaimable * 100).checked_div(usage.size).map(|share| format!(" ({share}%)"));
    let row = json!({
        "Active": usage.active.to_string(),
        "Reclaimable": format!("{}{}", units::size(usage.reclaimable), share.unwrap_or_default()),
        "Size": units::size(usage.size),
        "TotalCount": usage.total.to_string(),
        "Type": kind,
    });
    match row {
        Value::Object(row) => row,
        _ => Map::new(),
    }
}

fn prune(args: &PruneArgs, session: &Session) -> anyhow::Result<ExitCode> {
    let now = clock::now();
    let mut filter = PruneFilter::default();
    for text in &args.filter {
        match text.split_once('=') {
            Some(("until", time)) => filter.before = Some(units::parse_moment(time, now).map_err(anyhow::Error::msg)?),
            Some(("label", label)) => filter.labels.push(label.into()),
            Some(("label!", label)) => filter.not_labels.push(label.into()),
            _ => anyhow::bail!("invalid filter '{text}'"),
        }
    }
    if !args.force {
        terminal::write(&warning(args));
        super::prune::ask("Are you sure you want to continue? [y/N] ")?;
    }
    let engine = session.engine()?;
    let mut bytes = 0;
    let show = |title: &str, names: &[String]| match names {
        [] => Ok(()),
        names => terminal::print_line(&format!("{title}:\n{}\n", names.join("\n"))),
    };
    let options = PruneContainersOptions {
        until: filter.before,
        labels: filter.labels.clone(),
        not_labels: filter.not_labels.clone(),
    };
    let containers = session.wait(Threads::One, ops::container::prune(&engine, options, clock::now))?;
    bytes += containers.bytes;
    show("Deleted Containers", &containers.ids)?;
    show("Deleted Networks", &session.wait(Threads::One, ops::network::prune(&engine, filter.clone()))?)?;
    if args.volumes {
        let volumes = session.wait(Threads::One, ops::volume::prune(&engine, false, filter.clone()))?;
        bytes += volumes.bytes;
        show("Deleted Volumes", &volumes.names)?;
    }
    if args.filter.is_empty() {
        let images = session.wait(Threads::One, ops::system::prune_images(&engine, args.all))?;
        let lines: Vec<String> = images.iter().map(described).collect();
        show("Deleted Images", &lines)?;
    }
    // Layers have no labels: whoever asks for some wants no others to go.
    if filter.labels.is_empty() && filter.not_labels.is_empty() {
        let before = filter.before.map(std::time::SystemTime::from);
        let options = PruneOptions { all: args.all, before, ..PruneOptions::default() };
        let cache = session.wait(Threads::One, ops::prune::prune(&engine, options))?;
        bytes += cache.bytes;
        let ids: Vec<String> = cache.entries.iter().map(|entry| entry.id.clone()).collect();
        show("Deleted build cache objects", &ids)?;
    }
    terminal::print_line(&format!("Total reclaimed space: {}", units::size(bytes)))?;
    Ok(ExitCode::SUCCESS)
}

fn described(removed: &Removed) -> String {
    match removed {
        Removed::Untagged(reference) => format!("untagged: {}", reference.familiar()),
        Removed::Deleted(digest) => format!("deleted: {digest}"),
    }
}

fn warning(args: &PruneArgs) -> String {
    let mut text = String::from(
        "WARNING! This will remove:\n  - all stopped containers\n  - all networks not used by at least one container\n",
    );
    if args.volumes {
        text.push_str("  - all anonymous volumes not used by at least one container\n");
    }
    text.push_str(match (args.filter.is_empty(), args.all) {
        (false, _) => "",
        (true, true) => "  - all images without at least one container associated to them\n",
        (true, false) => "  - all dangling images\n",
    });
    text.push_str(if args.all { "  - all build cache\n" } else { "  - unused build cache\n" });
    if !args.filter.is_empty() {
        text.push_str(&format!("\n  Items to be pruned will be filtered with:\n  - {}\n", args.filter.join("\n  - ")));
    }
    text.push('\n');
    text
}
