//! `slipway unpause`: lets paused containers go on.

use std::process::ExitCode;

use engine::ops;

use crate::clock;
use crate::each::{each, print_name};
use crate::session::Session;

/// Let the processes of paused containers go on
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names or IDs of containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let engine = session.engine()?;
    let unpause = |name| {
        let engine = engine.clone();
        async move { ops::unpause::unpause(&engine, name, clock::now()).await }
    };
    each(session, &args.containers, unpause, print_name)
}
