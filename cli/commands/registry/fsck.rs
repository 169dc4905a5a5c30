//! `slipway registry fsck`: whether everything fits together.

use std::process::ExitCode;

use engine::ops::registry::fsck;
use registry::storage::StorageOptions;
use registry::storage::fsck::{FsckOptions, Mending, Problem};

use crate::commands::ListFormat;
use crate::flags::storage::StorageArgs;
use crate::session::{Session, Threads};
use crate::{terminal, units};

const NOTES: &str = "\
Exit code 1 says that something is wrong, and was not mended. The registry may be served meanwhile.

With --repair, what keeps blobs from being collected is put back, tags that name nothing are removed (their history
stays), and blobs without their bytes are marked, so that the next push brings them back.";

/// Check whether everything in the storage fits together
#[derive(Debug, clap::Args)]
#[command(after_help = NOTES)]
pub(super) struct Args {
    #[command(flatten)]
    storage: StorageArgs,
    /// Mend what can be mended
    #[arg(long)]
    repair: bool,
    /// Read all bytes, and see whether they are what their digests say
    #[arg(long)]
    verify: bool,
    /// Images may lack their config or layers, as `slipway serve --sparse` lets them
    #[arg(long)]
    sparse: bool,
    /// Print lines for people, or one JSON object
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: ListFormat,
}

pub(super) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let Args { storage, repair, verify, sparse, format } = args;
    let storage = storage.open(session, StorageOptions::default())?;
    let options = FsckOptions { repair, verify, sparse, ..FsckOptions::default() };
    let checked = session.wait_or_drop(Threads::One, fsck(&storage, options))?;
    let code = if checked.is_wrong() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    if format == ListFormat::Json {
        let problems = checked.problems.iter();
        let problem = |it: &Problem| serde_json::json!({ "problem": it.fault.to_string(), "mended": word(it.mending) });
        terminal::print_json(&serde_json::to_string(&serde_json::json!({
            "ok": !checked.is_wrong(),
            "blobs": checked.blobs.blobs,
            "bytes": checked.blobs.bytes,
            "manifests": checked.manifests,
            "tags": checked.tags,
            "staleEdges": checked.stale_edges,
            "unnamedData": checked.unnamed.blobs,
            "unnamedBytes": checked.unnamed.bytes,
            "problems": problems.map(problem).collect::<Vec<_>>(),
        }))?)?;
        return Ok(code);
    }
    for Problem { fault, mending } in &checked.problems {
        let done = match mending {
            Mending::Nothing => String::new(),
            mending => format!(" ({})", word(*mending)),
        };
        terminal::print_line(&terminal::printable(&format!("wrong: {fault}{done}")))?;
    }
    let leftovers = checked.stale_edges + checked.unnamed.blobs;
    if leftovers > 0 {
        let bytes = units::size(checked.unnamed.bytes);
        terminal::note(&format!(
            "{leftovers} traces of requests that died, {bytes}, are left to `slipway registry gc`"
        ));
    }
    let (blobs, bytes) = (checked.blobs.blobs, units::size(checked.blobs.bytes));
    let (tags, manifests, wrong) = (checked.tags, checked.manifests, checked.problems.len());
    terminal::print_line(&format!(
        "Checked: {blobs} blobs with {bytes}, {manifests} manifests, {tags} tags: {wrong} wrong"
    ))?;
    Ok(code)
}

fn word(mending: Mending) -> &'static str {
    match mending {
        Mending::Nothing => "no",
        Mending::Marked => "marked, the next push heals it",
        Mending::Done => "mended",
    }
}
