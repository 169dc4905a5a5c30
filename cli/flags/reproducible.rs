//! The flags of builds that come out the same anywhere and at any time.

use std::collections::BTreeMap;

use anyhow::Context as _;
use builder::{BuildRequest, Context, ContextModes};
use engine::commit_time;

use crate::failure::Failure;
use crate::terminal;

/// The variable that is the common word for all of it.
const VARIABLE: &str = "SOURCE_DATE_EPOCH";

/// 1980-01-01, the oldest time that every archive format can tell.
const OLDEST: i64 = 315_532_800;

/// What makes a build reproducible.
#[derive(Debug, clap::Args)]
pub(crate) struct Reproducible {
    /// Make the same image, bit for bit, wherever and whenever: no file is newer than the commit of the context (or
    /// $SOURCE_DATE_EPOCH, or 1980), and the context's permission bits are those that git keeps
    #[arg(long)]
    reproducible: bool,
    /// Permission bits of the context's files: `keep` them, or what `git` would keep of them
    #[arg(long, value_name = "keep|git", value_parser = modes)]
    context_modes: Option<ContextModes>,
    /// Build twice without cache, as with --reproducible, and tell which files differ and how; the exit code is 1 when
    /// any does. The image is kept when it has a name or an output, and both builds made the same
    #[arg(
        long,
        value_name = "text|json",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "text",
        value_parser = ["text", "json"],
        conflicts_with_all = ["shell_on_error", "explain", "cache_to", "attest", "provenance", "sbom"]
    )]
    pub(crate) verify: Option<String>,
}

fn modes(text: &str) -> Result<ContextModes, String> {
    match text {
        "keep" => Ok(ContextModes::Keep),
        "git" => Ok(ContextModes::Git),
        _ => Err("it is neither `keep` nor `git`".into()),
    }
}

impl Reproducible {
    /// Asks for what the flags and the environment say. Build arguments are added later: they win.
    pub(crate) fn apply(&self, request: &mut BuildRequest) -> anyhow::Result<()> {
        request.context_modes = self.context_modes;
        if let Some(text) = std::env::var(VARIABLE).ok().filter(|value| !value.is_empty()) {
            request.reproducible = Some(seconds(&text)?);
            request.build_args.insert(VARIABLE.into(), text);
        }
        Ok(())
    }

    /// Takes the epoch from the context where nothing else says one.
    pub(crate) fn find_epoch(&self, request: &mut BuildRequest, quiet: bool) -> anyhow::Result<()> {
        if (self.reproducible || self.verify.is_some()) && request.reproducible.is_none() {
            request.reproducible = Some(match request.source_date_epoch {
                Some(epoch) => epoch,
                None => epoch_of(&request.context, quiet)?,
            });
        }
        Ok(())
    }
}

/// Returns what a build argument says of the epoch; an empty one says nothing.
pub(crate) fn epoch(arguments: &BTreeMap<String, String>) -> anyhow::Result<Option<i64>> {
    arguments.get(VARIABLE).filter(|text| !text.is_empty()).map(|text| seconds(text)).transpose()
}

fn seconds(text: &str) -> anyhow::Result<i64> {
    text.parse().with_context(|| format!("{VARIABLE} `{text}` is not a number of seconds"))
}

/// Finds the time that the context itself has.
fn epoch_of(context: &Context, quiet: bool) -> anyhow::Result<i64> {
    let commit = match context {
        Context::Folder(folder) => commit_time::of_folder(folder).map_err(|error| {
            Failure::new(anyhow::Error::new(error).context("cannot tell when the context's commit was made"))
                .hint(format!("set {VARIABLE} to the time that files shall have, in seconds since 1970"))
        })?,
        Context::Checkout { committed, .. } => {
            if !quiet {
                terminal::note(&format!("{VARIABLE}={committed}, the time of the context's commit"));
            }
            return Ok(*committed);
        }
        _ => None,
    };
    let (epoch, whence) = match commit {
        Some(commit) => (commit.seconds, format!("the time of the context's commit {:.12}", commit.id)),
        None => (OLDEST, "because the context is not in a git repository".into()),
    };
    if !quiet {
        terminal::note(&format!("{VARIABLE}={epoch}, {whence}"));
    }
    Ok(epoch)
}
