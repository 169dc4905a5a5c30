//! `slipway save`: writes images to an archive that `load` reads, here and with docker or podman.

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use anyhow::Context;
use engine::ops::save::save;
use engine::output::Finish;

use crate::failure::Failure;
use crate::session::{Session, Threads};
use crate::sink::Sink;

const EXAMPLES: &str = "\
Examples:
  slipway save -o app.tar app:1.0 debian:12
  slipway save app | ssh host docker load

The archive is an OCI layout with docker's manifest.json beside it.";

/// Write images to an archive
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Names or IDs of images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<std::path::PathBuf>,
    /// Save only this platform of images that have several
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<oci::Platform>,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    if args.output.is_none() && io::stdout().is_terminal() {
        let error = anyhow::anyhow!("an archive is not for a terminal");
        return Err(Failure::new(error).hint("write it to a file with -o, or redirect the output").into());
    }
    let engine = session.engine()?;
    let sink = Sink::to(args.output.as_deref(), session.cancel());
    let written = session.wait(Threads::One, save(&engine, args.images, args.platform, move || sink.open()))?;
    Box::new(written).finish().context("cannot finish the archive")?;
    Ok(ExitCode::SUCCESS)
}
