//! `slipway registry why`: what keeps a blob.

use std::process::ExitCode;

use engine::ops::registry::why;
use oci::Digest;
use registry::storage::StorageOptions;
use registry::storage::inspect::{Keeper, Reason};

use crate::commands::ListFormat;
use crate::failure::Failure;
use crate::flags::storage::StorageArgs;
use crate::session::{Session, Threads};
use crate::{clock, table, terminal, units};

/// Show what keeps a blob or manifest from being collected
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    storage: StorageArgs,
    /// The whole digest of a blob or manifest, such as `sha256:3b42…`
    digest: String,
    /// Print a table, or one JSON object per line
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: ListFormat,
}

pub(super) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let digest: Digest = args.digest.parse().map_err(|error| {
        let error = anyhow::Error::new(error).context(format!("`{}` is not a digest", args.digest));
        Failure::new(error)
            .hint("a digest is ALGORITHM:HEX, such as `sha256:` and 64 digits, as `docker inspect` prints it")
    })?;
    let storage = args.storage.open(session, StorageOptions::default())?;
    let Some(kept) = session.wait_or_drop(Threads::One, why(&storage, &digest))? else {
        let error = anyhow::anyhow!("{digest} is not in the registry");
        return Err(Failure::new(error).hint("it was never pushed, or was collected").into());
    };
    if kept.bad {
        terminal::note("its bytes are not what the digest says; the next push of it heals that");
    }
    if args.format == ListFormat::Json {
        for keeper in &kept.by {
            let (by, manifest, tags) = parts(keeper);
            terminal::print_json(&serde_json::to_string(&serde_json::json!({
                "repository": keeper.repository.as_str(),
                "by": by,
                "manifest": manifest,
                "tags": tags,
                "since": keeper.since,
            }))?)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if kept.by.is_empty() {
        let size = units::size(kept.size);
        terminal::print_line(&format!("Nothing keeps it: its {size} go with the next collection after the grace"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let now = clock::now();
    let rows = kept.by.iter().map(|keeper| {
        let (by, manifest, tags) = parts(keeper);
        let by = manifest.map_or_else(|| by.to_owned(), |manifest| format!("{by} {manifest}"));
        let since = units::ago(Some(&keeper.since.to_string()), now);
        vec![keeper.repository.as_str().to_owned(), by, tags.join(", "), since]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    terminal::print_line(&table::render(&["REPOSITORY", "KEPT BY", "TAGS", "SINCE"], &rows))?;
    Ok(ExitCode::SUCCESS)
}

fn parts(keeper: &Keeper) -> (&'static str, Option<String>, Vec<&str>) {
    match &keeper.reason {
        Reason::Pushed => ("push", None, Vec::new()),
        Reason::Unfinished => ("unfinished push", None, Vec::new()),
        Reason::Manifest { digest, tags } => {
            ("manifest", Some(digest.to_string()), tags.iter().map(oci::Tag::as_str).collect())
        }
    }
}
