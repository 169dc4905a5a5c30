//! `slipway registry gc`: throws away what nothing relies on.

use std::process::ExitCode;
use std::time::Duration;

use engine::ops::registry::{GcOptions, gc};
use registry::storage::StorageOptions;

use crate::commands::ListFormat;
use crate::flags::storage::StorageArgs;
use crate::session::{Session, Threads};
use crate::terminal;
use crate::units::{self, parse_age};

const NOTES: &str = "\
A blob goes when for the time of grace no manifest names it. Everybody may go on pushing and pulling meanwhile, and
several may collect at once. A server does this by itself: see `slipway serve --collect-every`.";

/// Throw away what nothing relies on
#[derive(Debug, clap::Args)]
#[command(after_help = NOTES)]
pub(super) struct Args {
    #[command(flatten)]
    storage: StorageArgs,
    /// Only print what would go
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Leave what was in use within this time
    #[arg(long, value_name = "AGE", default_value = "24h", value_parser = parse_age)]
    grace: Duration,
    /// Throw away uploads that nobody went on with for this time
    #[arg(long, value_name = "AGE", default_value = "24h", value_parser = parse_age)]
    uploads: Duration,
    /// Remove bytes of requests that died this long ago; less than 24h only while nobody pushes
    #[arg(long, value_name = "AGE", value_parser = parse_age)]
    unnamed: Option<Duration>,
    /// Print lines for people, or one JSON object
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: ListFormat,
}

pub(super) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let Args { storage, dry_run, grace, uploads, unnamed, format } = args;
    let storage = storage.open(session, StorageOptions { grace, ..StorageOptions::default() })?;
    let options = GcOptions { dry_run, unnamed, upload_age: uploads };
    let done = session.wait_or_drop(Threads::One, gc(&storage, options))?;
    let collected = done.collected;
    if format == ListFormat::Json {
        terminal::print_json(&serde_json::to_string(&serde_json::json!({
            "dryRun": dry_run,
            "blobs": collected.blobs,
            "bytes": collected.bytes,
            "digests": collected.digests,
            "young": collected.young,
            "leftovers": collected.leftovers,
            "inDoubt": collected.in_doubt,
            "uploads": done.uploads,
        }))?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let word = if dry_run { "would delete" } else { "deleted" };
    for digest in &collected.digests {
        terminal::print_line(&format!("{word}: {digest}"))?;
    }
    let told = collected.digests.len() as u64;
    if collected.blobs > told {
        terminal::print_line(&format!("{word}: {} more", collected.blobs - told))?;
    }
    for (count, what) in [
        (collected.young, "blobs that nothing relies on were in use lately, and stay for now"),
        (collected.leftovers, "traces of requests that died were removed"),
        (done.uploads, "uploads that nobody went on with were removed"),
    ] {
        if count > 0 {
            terminal::note(&format!("{count} {what}"));
        }
    }
    if collected.in_doubt {
        let text = "bytes that no record names stay, because some records cannot be read; see `slipway registry fsck`";
        terminal::note(text);
    }
    let total = if dry_run { "Total reclaimable space" } else { "Total reclaimed space" };
    terminal::print_line(&format!("{total}: {}", units::size(collected.bytes)))?;
    Ok(ExitCode::SUCCESS)
}
