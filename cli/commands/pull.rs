//! `slipway pull`: fetches an image from a registry.

use std::process::ExitCode;

use anyhow::Context;
use engine::ops::pull::pull;

use crate::args::ProgressMode;
use crate::progress::{self, Shared};
use crate::session::{Session, Threads};
use crate::{clock, terminal};

const EXAMPLES: &str = "\
Examples:
  slipway pull debian:12
  slipway pull --platform linux/arm64 alpine
  slipway pull localhost:5000/app@sha256:…          Exactly these bytes";

/// Fetch an image from a registry
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Name of the image
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    name: oci::Reference,
    /// Fetch the image for this platform [default: the machine's]
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<oci::Platform>,
    /// Print only the name
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    registry: super::RegistryArgs,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let insecure = args.registry.names(&args.name);
    let engine = session.engine_for(&insecure)?;
    let platform = args.platform.clone().unwrap_or_else(oci::Platform::host);
    if !args.quiet {
        let what = args.name.tag().map_or_else(|| args.name.to_string(), ToString::to_string);
        terminal::print_line(&format!("{what}: Pulling from {}", args.name.repository()))?;
    }
    let mode = if args.quiet { ProgressMode::Quiet } else { session.progress() };
    let view = progress::of_transfer(mode);
    let pulled =
        session.wait_or_drop(Threads::Many, pull(&engine, &args.name, &platform, &Shared(view.clone()), clock::now()));
    view.finish();
    let pulled = pulled.with_context(|| format!("cannot pull `{}`", args.name.familiar()))?;
    if !args.quiet {
        let status = if pulled.already { "Image is up to date" } else { "Downloaded newer image" };
        terminal::print_line(&format!("Digest: {}", pulled.descriptor.digest))?;
        terminal::print_line(&format!("Status: {status} for {}", args.name.familiar()))?;
    }
    terminal::print_line(&args.name.to_string())?;
    Ok(ExitCode::SUCCESS)
}
