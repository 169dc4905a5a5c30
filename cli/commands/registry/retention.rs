//! `slipway registry retention`: removes tags and manifests by rules.

use std::process::ExitCode;
use std::time::Duration;

use engine::ops::registry::retention;
use registry::storage::retention::RetentionRules;
use registry::storage::{StorageOptions, TagPatterns};

use crate::commands::ListFormat;
use crate::failure::Failure;
use crate::flags::storage::StorageArgs;
use crate::session::{Session, Threads};
use crate::units::{self, parse_age};
use crate::{clock, table, terminal};

const NOTES: &str = "\
A tag goes only when every rule that was given lets it go. Its history stays, so `slipway registry tags undelete`
brings it back as long as its manifest is there. --untagged removes manifests, and what only they named is collected.

Examples:
  slipway registry retention --keep 10 --dry-run               All but the 10 latest tags of each repository
  slipway registry retention --older-than 30d --pulled-within 14d
  slipway registry retention --match 'ci/*:pr-*' --older-than 7d --untagged 7d";

/// Remove tags and manifests by rules
#[derive(Debug, clap::Args)]
#[command(after_help = NOTES)]
pub(super) struct Args {
    #[command(flatten)]
    storage: StorageArgs,
    /// Only tags like this, REPOSITORY:TAG or TAG, where `*` is any text; may be given several times
    #[arg(long = "match", value_name = "PATTERN")]
    matching: Vec<String>,
    /// Keep so many of them in each repository, the latest
    #[arg(long, value_name = "COUNT")]
    keep: Option<usize>,
    /// Keep those that were set within this time
    #[arg(long, value_name = "AGE", value_parser = parse_age)]
    older_than: Option<Duration>,
    /// Keep those that were pulled within this time
    #[arg(long, value_name = "AGE", value_parser = parse_age)]
    pulled_within: Option<Duration>,
    /// Also remove manifests that no tag, index or subject keeps for this time
    #[arg(long, value_name = "AGE", value_parser = parse_age)]
    untagged: Option<Duration>,
    /// Never remove tags like this either; those that the server has as immutable stay anyway
    #[arg(long, value_name = "PATTERN")]
    immutable_tags: Vec<String>,
    /// Only print what would go
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Print a table, or one JSON object per line
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: ListFormat,
}

pub(super) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let rules = RetentionRules {
        matching: (!args.matching.is_empty()).then(|| TagPatterns::new(args.matching)),
        keep: args.keep,
        older_than: args.older_than,
        pulled_within: args.pulled_within,
        untagged: args.untagged,
    };
    if !rules.let_tags_go() && rules.untagged.is_none() {
        let hint = "give --keep, --older-than, --pulled-within or --untagged, and --dry-run to see what they do";
        return Err(Failure::new(anyhow::anyhow!("there is no rule by which anything goes")).hint(hint).into());
    }
    let immutable = TagPatterns::new(args.immutable_tags);
    let storage = args.storage.open(session, StorageOptions { immutable, ..StorageOptions::default() })?;
    let retired = session.wait_or_drop(Threads::One, retention(&storage, &rules, args.dry_run))?;
    if args.format == ListFormat::Json {
        for it in &retired {
            terminal::print_json(&serde_json::to_string(&serde_json::json!({
                "repository": it.repository.as_str(),
                "tag": it.tag.as_ref().map(oci::Tag::as_str),
                "digest": it.digest,
                "since": it.since,
                "dryRun": args.dry_run,
            }))?)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let now = clock::now();
    let rows = retired.iter().map(|it| {
        let tag = it.tag.as_ref().map_or("<none>", oci::Tag::as_str);
        let since = units::ago(Some(&it.since.to_string()), now);
        vec![it.repository.as_str().to_owned(), tag.to_owned(), it.digest.to_string(), since]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    if !rows.is_empty() {
        terminal::print_line(&table::render(&["REPOSITORY", "TAG", "DIGEST", "SINCE"], &rows))?;
    }
    let tags = retired.iter().filter(|it| it.tag.is_some()).count();
    let word = if args.dry_run { "would be removed" } else { "removed" };
    terminal::print_line(&format!("Total:   {tags} tags and {} manifests {word}", retired.len() - tags))?;
    Ok(ExitCode::SUCCESS)
}
