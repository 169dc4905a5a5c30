//! `slipway stats`: what containers use.

use std::process::ExitCode;
use std::time::Duration;

use engine::ops;
use engine::ops::stats::Usage;
use serde_json::{Map, Value, json};

use crate::session::{Session, Threads};
use crate::template::{self, Format};
use crate::{clock, terminal, units};

/// Show what containers use, again and again
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names or IDs of containers; all that run when there are none
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
    /// Show also those that do not run
    #[arg(short, long)]
    all: bool,
    /// Print a table, JSON, or what a Go template makes of each
    #[arg(long, value_name = "FORMAT", value_parser = template::format)]
    format: Option<Format>,
    /// Show it once
    #[arg(long)]
    no_stream: bool,
    /// Do not shorten IDs
    #[arg(long)]
    no_trunc: bool,
}

const COLUMNS: [template::Column; 8] = [
    ("CONTAINER ID", "ID"),
    ("NAME", "Name"),
    ("CPU %", "CPUPerc"),
    ("MEM USAGE / LIMIT", "MemUsage"),
    ("MEM %", "MemPerc"),
    ("NET I/O", "NetIO"),
    ("BLOCK I/O", "BlockIO"),
    ("PIDS", "PIDs"),
];

/// How long to measure.
const PAUSE: Duration = Duration::from_millis(1000);

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let engine = session.engine()?;
    let show = async {
        let measure = || ops::stats::stats(&engine, args.containers.clone(), args.all, clock::now());
        let mut before = measure().await?;
        loop {
            tokio::time::sleep(PAUSE).await;
            let usage = measure().await?;
            let rows: Vec<_> = usage.iter().map(|usage| row(usage, &before, args.no_trunc)).collect();
            if !args.no_stream && !matches!(args.format, Some(Format::Json | Format::Text(_))) {
                // The beginning of the screen, and nothing below it.
                terminal::print_bytes(b"\x1b[H\x1b[2J")?;
            }
            template::print_list(args.format.as_ref(), &COLUMNS, &[("CONTAINER", "Container")], &rows)?;
            if args.no_stream {
                return Ok::<_, anyhow::Error>(());
            }
            before = usage;
        }
    };
    session.wait_or_drop(Threads::One, show)?;
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
fn row(usage: &Usage, before: &[Usage], no_trunc: bool) -> Map<String, Value> {
    let earlier = before.iter().find(|earlier| earlier.id == usage.id);
    let cpu = match (usage.cpu, earlier.and_then(|earlier| Some((earlier.cpu?, earlier.time)))) {
        (Some(cpu), Some((earlier, time))) if usage.time > time => {
            let share = cpu.saturating_sub(earlier) as f64 / (usage.time - time) as f64;
            format!("{:.2}%", share * 100.0)
        }
        (Some(_), _) => "0.00%".into(),
        (None, _) => "0.00%".into(),
    };
    let share = match usage.memory_limit {
        0 => 0.0,
        limit => usage.memory as f64 / limit as f64 * 100.0,
    };
    let pair = |(one, other): (u64, u64)| format!("{} / {}", units::size(one), units::size(other));
    let id = if no_trunc { usage.id.as_str() } else { &usage.id[..12] };
    let row = json!({
        "BlockIO": pair(usage.block),
        "CPUPerc": cpu,
        "Container": id,
        "ID": id,
        "MemPerc": format!("{share:.2}%"),
        "MemUsage": format!("{} / {}", units::binary_size(usage.memory), units::binary_size(usage.memory_limit)),
        "Name": usage.name,
        "NetIO": pair(usage.network),
        "PIDs": usage.pids.to_string(),
    });
    match row {
        Value::Object(row) => row,
        _ => Map::new(),
    }
}
