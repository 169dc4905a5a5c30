//! `slipway rename`: another name for a container.

use std::process::ExitCode;

use engine::ops;

use crate::clock;
use crate::session::{Session, Threads};

/// Give a container another name
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or ID of a container
    container: String,
    /// Its new name
    new_name: String,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let engine = session.engine()?;
    session.wait(Threads::One, ops::rename::rename(&engine, args.container, args.new_name, clock::now()))?;
    Ok(ExitCode::SUCCESS)
}
