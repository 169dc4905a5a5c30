//! `slipway rm`: removes containers.

use std::process::ExitCode;

use engine::ops;
use engine::ops::rm::{RmError, RmOptions};

use crate::clock;
use crate::each::{each, print_name};
use crate::session::Session;

/// Remove containers
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names or IDs of containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
    /// Kill those that run
    #[arg(short, long)]
    force: bool,
    /// Remove their anonymous volumes, too
    #[arg(short, long)]
    volumes: bool,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let engine = session.engine()?;
    let options = RmOptions { force: args.force, volumes: args.volumes };
    let rm = |name: String| {
        let engine = engine.clone();
        async move {
            match ops::rm::rm(&engine, name, options, clock::now).await {
                // As docker has it: what is not there need not be removed.
                Err(RmError::Container(error)) if options.force && is_missing(&error) => Ok(false),
                other => other.map(|()| true),
            }
        }
    };
    each(session, &args.containers, rm, |name, removed| if removed { print_name(name, ()) } else { Ok(()) })
}

fn is_missing(error: &engine::containers::ContainerError) -> bool {
    matches!(error, engine::containers::ContainerError::NotFound { .. })
}
