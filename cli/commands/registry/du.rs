//! `slipway registry du`: what repositories take.

use std::process::ExitCode;

use engine::ops::registry::du;
use registry::storage::StorageOptions;
use registry::storage::inspect::Sum;

use crate::commands::ListFormat;
use crate::flags::storage::StorageArgs;
use crate::session::{Session, Threads};
use crate::{table, terminal, units};

const NOTES: &str = "\
EXCLUSIVE is what only that repository relies on, and deleting it would free; SHARED is what others rely on too, and
counts with each of them. The last line counts everything once, with what nothing relies on (see `slipway registry gc`).";

/// Show what repositories take
#[derive(Debug, clap::Args)]
#[command(after_help = NOTES)]
pub(super) struct Args {
    #[command(flatten)]
    storage: StorageArgs,
    /// Print a table, or one JSON object per line
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: ListFormat,
}

pub(super) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let storage = args.storage.open(session, StorageOptions::default())?;
    let usage = session.wait_or_drop(Threads::One, du(&storage))?;
    if args.format == ListFormat::Json {
        let sum = |sum: Sum| serde_json::json!({ "blobs": sum.blobs, "bytes": sum.bytes });
        for it in usage.repositories {
            terminal::print_json(&serde_json::to_string(&serde_json::json!({
                "repository": it.repository.as_str(),
                "exclusive": sum(it.exclusive),
                "shared": sum(it.shared),
            }))?)?;
        }
        let total = serde_json::json!({ "total": sum(usage.total), "unreferenced": sum(usage.unreferenced) });
        terminal::print_json(&serde_json::to_string(&total)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = usage.repositories.iter().map(|it| {
        let blobs = it.exclusive.blobs + it.shared.blobs;
        let (exclusive, shared) = (units::size(it.exclusive.bytes), units::size(it.shared.bytes));
        vec![it.repository.as_str().to_owned(), blobs.to_string(), exclusive, shared]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    terminal::print_line(&table::render(&["REPOSITORY", "BLOBS", "EXCLUSIVE", "SHARED"], &rows))?;
    let (total, loose) = (units::size(usage.total.bytes), units::size(usage.unreferenced.bytes));
    terminal::print_line(&format!("Total:   {total} in {} blobs, {loose} of it unreferenced", usage.total.blobs))?;
    Ok(ExitCode::SUCCESS)
}
