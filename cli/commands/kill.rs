//! `slipway kill`: a signal to containers.

use std::process::ExitCode;

use engine::ops;

use crate::clock;
use crate::each::{each, print_name};
use crate::session::Session;

/// Kill running containers, or send them another signal
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names or IDs of containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
    /// Send this signal
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    signal: String,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let engine = session.engine()?;
    let kill = |name| {
        let (engine, signal) = (engine.clone(), args.signal.clone());
        async move { ops::kill::kill(&engine, name, signal, clock::now).await }
    };
    each(session, &args.containers, kill, print_name)
}
