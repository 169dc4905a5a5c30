//! `slipway prune`: makes the build cache smaller.

use std::io::{BufRead, stdin};
use std::process::ExitCode;

use engine::ops::prune::{PruneOptions, prune};

use super::du::{HEADINGS, cells};
use crate::failure::Failure;
use crate::flags::cache_filter;
use crate::session::{Session, Threads};
use crate::{clock, table, terminal, units};

const EXAMPLES: &str = "\
Examples:
  slipway prune                                     What no image shares, after asking
  slipway prune -af                                 All of the build cache
  slipway prune -f --filter until=24h               What was of no use for a day
  slipway prune -f --filter type=exec.cachemount    What cache mounts hold
  slipway prune -f --max-used-space 20g             Until the cache takes no more than that

Images stay, and so does what a build uses right now. What was of no use for longest goes first.
Builds do this by themselves when the cache grows too large: see `slipway build --cache-limit`.";

/// Remove build cache
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Also what images share, and notes without layers
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Only what matches; see `slipway du --help`
    #[arg(long, value_name = "NAME[=VALUE]")]
    filter: Vec<String>,
    /// Only until the cache takes no more than this
    #[arg(long, value_name = "BYTES", value_parser = super::bytes)]
    max_used_space: Option<u64>,
    /// Only until the disk has so much free
    #[arg(long, value_name = "BYTES", value_parser = super::bytes)]
    min_free_space: Option<u64>,
    /// Leave so much in any case
    #[arg(long, visible_alias = "keep-storage", value_name = "BYTES", value_parser = super::bytes)]
    reserved_space: Option<u64>,
    /// Print only how much was freed
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let now = clock::now();
    let filter = cache_filter::parse(&args.filter, now)?;
    if !args.force {
        let what = if args.all { "all of the build cache" } else { "all of the build cache that no image shares" };
        let limited = !args.filter.is_empty() || args.max_used_space.is_some() || args.min_free_space.is_some();
        let what = if limited { "the build cache that was asked for" } else { what };
        ask(&format!("This removes {what}. Go on? [y/N] "))?;
    }
    let engine = session.engine()?;
    let options = PruneOptions {
        // Whoever names what is only noted, or shared, wants it gone.
        all: args.all || filter.names_kind("internal"),
        before: filter.before,
        only: Some(Box::new(move |entry| filter.accepts(entry))),
        max_used: args.max_used_space,
        min_free: args.min_free_space,
        reserved: args.reserved_space.unwrap_or(0),
    };
    let pruned = session.wait(Threads::One, prune(&engine, options))?;
    if !args.quiet && !pruned.entries.is_empty() {
        let rows: Vec<Vec<String>> = pruned.entries.iter().map(|entry| cells(entry, now)).collect();
        terminal::print_line(&table::render(&HEADINGS, &rows))?;
    }
    terminal::print_line(&format!("Total:   {}", units::size(pruned.bytes)))?;
    Ok(ExitCode::SUCCESS)
}

/// Asks on the terminal; anything but yes ends the program.
pub(super) fn ask(question: &str) -> anyhow::Result<()> {
    terminal::write(question);
    let mut answer = String::new();
    stdin().lock().read_line(&mut answer)?;
    if ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) {
        return Ok(());
    }
    if answer.is_empty() {
        terminal::write("\n");
    }
    Err(Failure::new(anyhow::anyhow!("nothing was removed")).hint("answer `y`, or do not be asked with --force").into())
}
