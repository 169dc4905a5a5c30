//! `slipway rmi`: takes names from images, and removes those that have no name left.

use std::process::ExitCode;

use engine::ops::rmi::{Removed, RmiError, RmiOptions, prune, rmi};
use engine::{CollectError, FindError};

use crate::failure::{self, Failure};
use crate::session::{Session, Threads};
use crate::terminal;

/// Remove images
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names or IDs of images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Remove an image by its ID although it has several names; be silent about images that are not there
    #[arg(short, long)]
    force: bool,
    /// Keep the blobs that nothing needs any more
    #[arg(long)]
    no_prune: bool,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let engine = session.engine()?;
    let mut deleted = false;
    let mut failed: Vec<RmiError> = Vec::new();
    for image in args.images {
        match session
            .wait(Threads::One, async { Ok::<_, anyhow::Error>(rmi(&engine, image, options(args.force)).await) })?
        {
            Ok(removed) => {
                for line in removed {
                    deleted |= matches!(line, Removed::Deleted(_));
                    terminal::print_line(&describe(&line))?;
                }
            }
            Err(RmiError::Find(FindError::NotFound { .. })) if args.force => {}
            Err(error) => failed.push(error),
        }
    }
    if deleted && !args.no_prune {
        match session.wait(Threads::One, prune(&engine)) {
            // The next one to remove something will do it.
            Err(error) if matches!(error.downcast_ref(), Some(CollectError::Busy)) => {}
            other => drop(other?),
        }
    }
    let Some(last) = failed.pop() else { return Ok(ExitCode::SUCCESS) };
    for error in failed {
        failure::note_error(&error.into());
    }
    match last {
        error @ RmiError::SeveralNames { .. } => {
            Err(Failure::new(error).hint("remove the names one by one, or all with --force").into())
        }
        error => Err(error.into()),
    }
}

fn options(force: bool) -> RmiOptions {
    RmiOptions { force }
}

fn describe(removed: &Removed) -> String {
    match removed {
        Removed::Untagged(reference) => format!("Untagged: {}", reference.familiar()),
        Removed::Deleted(id) => format!("Deleted: {id}"),
    }
}
