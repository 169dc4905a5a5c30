//! `slipway pause`: freezes containers.

use std::process::ExitCode;

use engine::ops;

use crate::clock;
use crate::each::{each, print_name};
use crate::session::Session;

/// Freeze all processes of containers
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names or IDs of containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let engine = session.engine()?;
    let pause = |name| {
        let engine = engine.clone();
        async move { ops::pause::pause(&engine, name, clock::now()).await }
    };
    each(session, &args.containers, pause, print_name)
}
