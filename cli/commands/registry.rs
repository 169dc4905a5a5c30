//! `slipway registry`: what operators ask of a registry's storage, while it is served or not.

mod du;
mod fsck;
mod gc;
mod retention;
mod tags;
mod why;

use std::process::ExitCode;

use anyhow::Context;
use oci::{RepositoryName, Tag};

use crate::failure::Failure;
use crate::session::Session;

const NOTES: &str = "\
Examples:
  slipway registry gc --dry-run              What nothing relies on
  slipway registry du                        What repositories take
  slipway registry why sha256:3b42…          What keeps a blob
  slipway registry fsck --repair             Whether everything fits together, and mending what does not
  slipway registry tags log app:latest       What a tag named, and when
  slipway registry tags undelete app:latest
  slipway registry retention --keep 10 --older-than 30d --dry-run

They work on the storage itself, whether or not it is served at the moment.";

/// Look after the storage of a registry
#[derive(Debug, clap::Args)]
#[command(after_help = NOTES, arg_required_else_help = true, disable_help_subcommand = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Gc(gc::Args),
    Du(du::Args),
    Why(why::Args),
    Fsck(fsck::Args),
    Tags(tags::Args),
    Retention(retention::Args),
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    match args.what {
        What::Gc(args) => gc::run(args, session),
        What::Du(args) => du::run(args, session),
        What::Why(args) => why::run(args, session),
        What::Fsck(args) => fsck::run(args, session),
        What::Tags(args) => tags::run(args, session),
        What::Retention(args) => retention::run(args, session),
    }
}

/// Reads `REPOSITORY[:TAG]`, as the registry itself knows them.
fn repository_and_tag(text: &str) -> anyhow::Result<(RepositoryName, Option<Tag>)> {
    let (name, tag) = match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (text, None),
    };
    let parse = || -> anyhow::Result<_> {
        Ok((name.parse().context("not a repository")?, tag.map(str::parse).transpose().context("not a tag")?))
    };
    parse().map_err(|error| {
        let error = error.context(format!("`{text}` does not name a tag of this registry"));
        Failure::new(error).hint("it is REPOSITORY:TAG, without the registry before it: `team/app:latest`").into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_named_without_the_registry() {
        let read = |text: &str| {
            let (name, tag) = repository_and_tag(text).expect("read");
            (name.as_str().to_owned(), tag.map(|tag| tag.as_str().to_owned()))
        };
        assert_eq!(read("team/app:v1"), ("team/app".to_owned(), Some("v1".to_owned())));
        assert_eq!(read("team/app"), ("team/app".to_owned(), None));
        for bad in ["", "a:", ":a", "localhost:5000/app", "localhost:5000/app:v1", "A:b", "a:b:c"] {
            assert!(repository_and_tag(bad).is_err(), "{bad}");
        }
    }
}
