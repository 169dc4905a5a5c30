//! `slipway tag`: gives an image one more name.

use std::process::ExitCode;

use engine::ops::tag::tag;

use crate::clock;
use crate::session::{Session, Threads};

const EXAMPLES: &str = "\
Examples:
  slipway tag app localhost:5000/app:1.0
  slipway tag 4bcff6392 app:old                     By the start of its ID";

/// Give an image one more name
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Name or ID of the image
    #[arg(value_name = "IMAGE")]
    source: String,
    /// The new name
    #[arg(value_name = "NAME[:TAG]")]
    target: oci::Reference,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let engine = session.engine()?;
    session.wait(Threads::One, tag(&engine, args.source, args.target, clock::now()))?;
    Ok(ExitCode::SUCCESS)
}
