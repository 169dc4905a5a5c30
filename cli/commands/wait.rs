//! `slipway wait`: until containers have ended.

use std::process::ExitCode;

use engine::containers::WaitCondition;
use engine::ops;

use crate::each::each;
use crate::session::Session;
use crate::{clock, terminal};

/// Wait until containers have ended, and print their exit codes
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names or IDs of containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let engine = session.engine()?;
    let wait = |name| {
        let engine = engine.clone();
        async move { ops::wait::wait(&engine, name, WaitCondition::NotRunning, clock::now).await }
    };
    each(session, &args.containers, wait, |_, exited| Ok(terminal::print_line(&exited.code.to_string())?))
}
