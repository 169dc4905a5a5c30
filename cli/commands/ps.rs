//! `slipway ps`: lists containers.

use std::process::ExitCode;

use engine::containers::config::PortBinding;
use engine::containers::{Record, State};
use engine::ops;
use engine::ops::ps::{ListedContainer, PsOptions};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::session::{Session, Threads};
use crate::template::{self, Format};
use crate::{clock, failure, table, terminal, units};

const EXAMPLES: &str = "\
Examples:
  slipway ps -a
  slipway ps --filter status=exited --filter label=app -q
  slipway ps --format 'table {{.Names}}\\t{{.Status}}'";

/// List containers
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Show also those that do not run
    #[arg(short, long)]
    all: bool,
    /// Only what matches: id, name, label, status, exited, ancestor, before, since, health, volume, network, publish, expose
    #[arg(short, long, value_name = "NAME=VALUE")]
    filter: Vec<String>,
    /// Print a table, JSON, or what a Go template makes of each
    #[arg(long, value_name = "FORMAT", value_parser = template::format)]
    format: Option<Format>,
    /// Show the newest ones, whether they run or not
    #[arg(short = 'n', long, value_name = "NUMBER", allow_hyphen_values = true)]
    last: Option<i64>,
    /// Show the newest one
    #[arg(short, long)]
    latest: bool,
    /// Do not shorten anything
    #[arg(long)]
    no_trunc: bool,
    /// Print only IDs
    #[arg(short, long)]
    quiet: bool,
    /// Show sizes
    #[arg(short, long)]
    size: bool,
}

const COLUMNS: [template::Column; 7] = [
    ("CONTAINER ID", "ID"),
    ("IMAGE", "Image"),
    ("COMMAND", "Command"),
    ("CREATED", "RunningFor"),
    ("STATUS", "Status"),
    ("PORTS", "Ports"),
    ("NAMES", "Names"),
];

const FURTHER: [template::Column; 6] = [
    ("CREATED AT", "CreatedAt"),
    ("LABELS", "Labels"),
    ("MOUNTS", "Mounts"),
    ("NETWORKS", "Networks"),
    ("SIZE", "Size"),
    ("STATE", "State"),
];

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let mut options = PsOptions { all: args.all, size: args.size, ..PsOptions::default() };
    options.last = match (args.latest, args.last) {
        (true, _) => Some(1),
        (false, last) => last.and_then(|last| usize::try_from(last).ok()).filter(|&last| last > 0),
    };
    for filter in &args.filter {
        let Some((name, value)) = filter.split_once('=') else {
            anyhow::bail!(
                "invalid argument \"{filter}\" for \"-f, --filter\" flag: bad format of filter (expected name=value)"
            )
        };
        options.filters.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    options.size |= matches!(&args.format, Some(Format::Text(text) | Format::TableOf(text)) if text.contains(".Size"));
    let now = clock::now();
    let engine = session.engine()?;
    let list = session.wait(Threads::One, ops::ps::ps(&engine, options, now))?;
    for error in list.broken {
        failure::note_error(&error.into());
    }
    if args.quiet && args.format.is_none() {
        for container in list.containers {
            let id = container.record.id;
            terminal::print_line(if args.no_trunc { &id } else { &id[..12] })?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Map<String, Value>> =
        list.containers.iter().map(|container| row(container, args.no_trunc, now)).collect();
    let mut columns = COLUMNS.to_vec();
    if args.size {
        columns.push(("SIZE", "Size"));
    }
    template::print_list(args.format.as_ref(), &columns, &FURTHER, &rows)?;
    Ok(ExitCode::SUCCESS)
}

/// A line, with docker's member names.
fn row(container: &ListedContainer, no_trunc: bool, now: Timestamp) -> Map<String, Value> {
    let ListedContainer { record, state, size } = container;
    let command = record.config.arguments().join(" ");
    let command = if no_trunc { command } else { table::shorten(&command, 20) };
    let mounts: Vec<String> = record
        .mounts
        .iter()
        .map(
            |mount| {
                if mount.name.is_empty() { mount.source.to_string_lossy().into_owned() } else { mount.name.clone() }
            },
        )
        .filter(|text| !text.is_empty())
        .map(|text| if no_trunc { text } else { table::shorten(&text, 15) })
        .collect();
    let labels: Vec<String> = record.config.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let networks = match record.networks.as_slice() {
        [] => record.host_config.network_mode.clone(),
        networks => networks.iter().map(|network| network.network.as_str()).collect::<Vec<_>>().join(","),
    };
    let size = match size {
        Some((written, image)) => format!("{} (virtual {})", units::size(*written), units::size(written + image)),
        None => "0B".into(),
    };
    let row = json!({
        "Command": format!("\"{command}\""),
        "CreatedAt": record.created.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string(),
        "ID": if no_trunc { &record.id } else { &record.id[..12] },
        "Image": image(record),
        "Labels": labels.join(","),
        "LocalVolumes": record.mounts.iter().filter(|mount| !mount.name.is_empty()).count().to_string(),
        "Mounts": mounts.join(","),
        "Names": record.name,
        "Networks": networks,
        "Ports": ports(record, state),
        "RunningFor": units::ago(Some(&record.created.to_string()), now),
        "Size": size,
        "State": state.status.word(),
        "Status": status(state, now),
    });
    match row {
        Value::Object(row) => row,
        _ => Map::new(),
    }
}

fn image(record: &Record) -> String {
    // An ID is shown as short as others are.
    let text = &record.config.image;
    let is_id = text.len() >= 64 && text.ends_with(record.image.hex());
    if is_id { record.image.short().into() } else { text.clone() }
}

/// What docker says of a state: `Up 2 hours (healthy)`, `Exited (1) 3 minutes ago`.
pub(crate) fn status(state: &State, now: Timestamp) -> String {
    use engine::containers::Status;
    let since = |time: Option<Timestamp>| {
        time.map_or_else(|| "Less than a second".into(), |time| units::duration(now.as_second() - time.as_second()))
    };
    let health = match state.health.as_ref().map(|health| health.status.as_str()) {
        Some("starting") => " (health: starting)",
        Some("healthy") => " (healthy)",
        Some("unhealthy") => " (unhealthy)",
        _ => "",
    };
    match state.status {
        Status::Created => "Created".into(),
        Status::Running => format!("Up {}{health}", since(state.started_at)),
        Status::Paused => format!("Up {} (Paused)", since(state.started_at)),
        Status::Restarting => format!("Restarting ({}) {} ago", state.exit_code, since(state.finished_at)),
        Status::Removing => "Removal In Progress".into(),
        Status::Exited => format!("Exited ({}) {} ago", state.exit_code, since(state.finished_at)),
    }
}

/// `0.0.0.0:8080->80/tcp, 443/tcp`.
fn ports(record: &Record, state: &State) -> String {
    if !state.status.is_alive() {
        return String::new();
    }
    let shown = |port: &str, binding: &PortBinding| {
        let ip = if binding.host_ip.contains(':') { format!("[{}]", binding.host_ip) } else { binding.host_ip.clone() };
        format!("{ip}:{}->{port}", binding.host_port)
    };
    let published =
        state.ports.iter().flat_map(|(port, bindings)| bindings.iter().map(move |binding| shown(port, binding)));
    let exposed = record.config.exposed_ports.keys().filter(|port| !state.ports.contains_key(*port)).cloned();
    published.chain(exposed).collect::<Vec<_>>().join(", ")
}
