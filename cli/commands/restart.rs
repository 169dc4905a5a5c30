//! `slipway restart`: stops containers and starts them again.

use std::process::ExitCode;

use engine::ops;
use engine::ops::stop::StopOptions;

use crate::clock;
use crate::each::{each, print_name};
use crate::session::Session;

/// Stop containers and start them again
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names or IDs of containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
    /// Send this signal, in place of the container's own
    #[arg(short, long, value_name = "SIGNAL")]
    signal: Option<String>,
    /// How many seconds to wait before killing; -1 waits for ever
    #[arg(short, long, visible_alias = "timeout", value_name = "SECONDS", allow_hyphen_values = true)]
    time: Option<i64>,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let engine = session.engine()?;
    let restart = |name| {
        let (engine, options) = (engine.clone(), StopOptions { signal: args.signal.clone(), timeout: args.time });
        async move { ops::restart::restart(&engine, name, options, clock::now).await }
    };
    each(session, &args.containers, restart, print_name)
}
