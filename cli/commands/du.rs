//! `slipway du`: what the build cache takes on the disk.

use std::process::ExitCode;

use engine::CacheEntry;
use engine::ops::du::du;
use jiff::Timestamp;

use super::ListFormat;
use crate::flags::cache_filter;
use crate::session::{Session, Threads};
use crate::{clock, table, terminal, units};

const EXAMPLES: &str = "\
Examples:
  slipway du
  slipway du --verbose --filter type=exec.cachemount
  slipway du --format json | jq -r 'select(.Reclaimable) | .ID'

A `*` after a size means that images or other entries share it: removing the entry frees little.
Filters: id=, parent=, type=regular|internal|source.local|exec.cachemount, description=WORD,
until=AGE, inuse=, shared=, private=.";

/// Show what the build cache takes on the disk
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Only what matches
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    filter: Vec<String>,
    /// Print a table, or one JSON object per line
    #[arg(long, value_name = "FORMAT")]
    format: Option<ListFormat>,
    /// Print all that is known of each entry, and also entries without layers
    #[arg(short, long)]
    verbose: bool,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let now = clock::now();
    let filter = cache_filter::parse(&args.filter, now)?;
    let engine = session.engine()?;
    let entries = session.wait(Threads::One, du(&engine))?;
    let entries: Vec<CacheEntry> = entries.into_iter().filter(|entry| filter.accepts(entry)).collect();
    if args.format == Some(ListFormat::Json) {
        for entry in &entries {
            terminal::print_json(&serde_json::to_string(&Row::of(entry))?)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if args.verbose {
        for entry in &entries {
            terminal::print_line(&Row::of(entry).block())?;
        }
    } else {
        let is_shown = |entry: &&CacheEntry| entry.kind.as_str() != "internal" || filter.names_kind("internal");
        let rows: Vec<Vec<String>> = entries.iter().filter(is_shown).map(|entry| cells(entry, now)).collect();
        terminal::print_line(&table::render(&HEADINGS, &rows))?;
    }
    let sum = |holds: &dyn Fn(&CacheEntry) -> bool| {
        units::size(entries.iter().filter(|entry| holds(entry)).map(|entry| entry.size).sum())
    };
    terminal::print_line(&format!(
        "Shared:        {}\nPrivate:       {}\nReclaimable:   {}\nTotal:         {}",
        sum(&|entry| entry.shared),
        sum(&|entry| !entry.shared),
        sum(&|entry| !entry.in_use && !entry.shared),
        sum(&|_| true),
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// What stands above the columns of `du` and `prune`.
pub(crate) const HEADINGS: [&str; 5] = ["ID", "RECLAIMABLE", "SIZE", "LAST ACCESSED", "DESCRIPTION"];

/// Returns a line of the table.
pub(crate) fn cells(entry: &CacheEntry, now: Timestamp) -> Vec<String> {
    let shared = if entry.shared { "*" } else { "" };
    vec![
        entry.id.clone(),
        (!entry.in_use).to_string(),
        format!("{}{shared}", units::size(entry.size)),
        units::ago(Some(&moment(entry.last_used)), now),
        table::shorten(&terminal::printable(&entry.about), 48),
    ]
}

fn moment(time: std::time::SystemTime) -> String {
    Timestamp::try_from(time).map(|moment| moment.to_string()).unwrap_or_default()
}

/// An entry, with docker's member names.
#[derive(serde::Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    #[serde(rename = "Type")]
    kind: &'a str,
    description: &'a str,
    parents: Vec<&'a str>,
    created_at: String,
    last_used_at: String,
    in_use: bool,
    mutable: bool,
    reclaimable: bool,
    shared: bool,
    size: String,
    bytes: u64,
}

impl<'a> Row<'a> {
    fn of(entry: &'a CacheEntry) -> Self {
        Self {
            id: &entry.id,
            kind: entry.kind.as_str(),
            description: &entry.about,
            parents: entry.parent.iter().map(String::as_str).collect(),
            created_at: moment(entry.created),
            last_used_at: moment(entry.last_used),
            in_use: entry.in_use,
            mutable: entry.kind == engine::CacheKind::CacheMount,
            reclaimable: !entry.in_use,
            shared: entry.shared,
            size: units::size(entry.size),
            bytes: entry.size,
        }
    }

    fn block(&self) -> String {
        let mut lines = vec![
            format!("ID:           {}", self.id),
            format!("Type:         {}", self.kind),
            format!("Description:  {}", terminal::printable(self.description)),
        ];
        if let [parent] = self.parents.as_slice() {
            lines.push(format!("Parent:       {parent}"));
        }
        lines.extend([
            format!("Created at:   {}", self.created_at),
            format!("Last used:    {}", self.last_used_at),
            format!("Mutable:      {}", self.mutable),
            format!("Reclaimable:  {}", self.reclaimable),
            format!("Shared:       {}", self.shared),
            format!("Size:         {}\n", self.size),
        ]);
        lines.join("\n")
    }
}
