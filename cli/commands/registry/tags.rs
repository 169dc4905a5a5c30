//! `slipway registry tags`: what tags named, and setting one back.

use std::process::ExitCode;

use engine::ops::registry::{tags_log, tags_undelete};
use registry::storage::{PutManifestError, StorageOptions};

use super::repository_and_tag;
use crate::commands::ListFormat;
use crate::failure::Failure;
use crate::flags::storage::StorageArgs;
use crate::session::{Session, Threads};
use crate::{clock, table, terminal, units};

/// Show what tags named, and set one back
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true, disable_help_subcommand = true)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Log(LogArgs),
    Undelete(UndeleteArgs),
}

/// Show what a tag named, the latest first; without a tag, all of a repository
#[derive(Debug, clap::Args)]
struct LogArgs {
    #[command(flatten)]
    storage: StorageArgs,
    /// Repository or tag, as the registry knows it: `team/app:latest`
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: String,
    /// Print a table, or one JSON object per line
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: ListFormat,
}

/// Set a tag back to what it named before it was deleted or moved
#[derive(Debug, clap::Args)]
struct UndeleteArgs {
    #[command(flatten)]
    storage: StorageArgs,
    /// Tag, as the registry knows it: `team/app:latest`
    #[arg(value_name = "REPOSITORY:TAG")]
    name: String,
}

pub(super) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    match args.what {
        What::Log(args) => log(args, session),
        What::Undelete(args) => undelete(args, session),
    }
}

fn log(args: LogArgs, session: &Session) -> anyhow::Result<ExitCode> {
    let (repository, tag) = repository_and_tag(&args.name)?;
    let storage = args.storage.open(session, StorageOptions::default())?;
    let changes = session.wait_or_drop(Threads::One, tags_log(&storage, &repository, tag.as_ref()))?;
    if changes.is_empty() {
        let error = anyhow::anyhow!("`{}` never had a tag", args.name);
        return Err(Failure::new(error).hint("`slipway registry du` lists the repositories").into());
    }
    if args.format == ListFormat::Json {
        for (tag, change) in changes {
            terminal::print_json(&serde_json::to_string(&serde_json::json!({
                "repository": repository.as_str(),
                "tag": tag.as_str(),
                "sequence": change.sequence,
                "at": change.at,
                "digest": change.digest,
                "mediaType": change.media_type,
                "by": change.by,
            }))?)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let now = clock::now();
    let rows = changes.iter().map(|(tag, change)| {
        let digest = change.digest.as_ref().map_or_else(|| "<deleted>".to_owned(), ToString::to_string);
        let at = units::ago(Some(&change.at.to_string()), now);
        vec![tag.as_str().to_owned(), change.sequence.to_string(), at, digest, change.by.clone().unwrap_or_default()]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    terminal::print_line(&table::render(&["TAG", "CHANGE", "WHEN", "DIGEST", "BY"], &rows))?;
    Ok(ExitCode::SUCCESS)
}

fn undelete(args: UndeleteArgs, session: &Session) -> anyhow::Result<ExitCode> {
    let (repository, tag) = repository_and_tag(&args.name)?;
    let Some(tag) = tag else {
        return Err(Failure::new(anyhow::anyhow!("`{}` names no tag", args.name))
            .hint("add it: REPOSITORY:TAG")
            .into());
    };
    let storage = args.storage.open(session, StorageOptions::default())?;
    let done = session.wait_or_drop(Threads::One, tags_undelete(&storage, &repository, &tag));
    let done = done.map_err(|error| match error.downcast_ref() {
        Some(PutManifestError::TagMoved { .. }) => {
            Failure::new(error).hint("somebody set it meanwhile: look again").into()
        }
        _ => error,
    })?;
    let Some(digest) = done else {
        let error = anyhow::anyhow!("`{}` named nothing before that is still here", args.name);
        let hint = format!(
            "`slipway registry tags log {}` shows what it named; a deleted manifest has to be pushed again",
            args.name
        );
        return Err(Failure::new(error).hint(hint).into());
    };
    terminal::print_line(&format!("{}:{} names {digest}", repository.as_str(), tag.as_str()))?;
    Ok(ExitCode::SUCCESS)
}
