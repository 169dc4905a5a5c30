//! `slipway push`: sends an image to a registry.

use std::process::ExitCode;

use engine::Engine;
use engine::ops::push::{PushError, PushOptions, all_tags, push};

use crate::args::ProgressMode;
use crate::failure::Failure;
use crate::progress::{self, Shared};
use crate::session::{Session, Threads};
use crate::terminal;

const EXAMPLES: &str = "\
Examples:
  slipway push localhost:5000/app:1.0
  slipway push --insecure registry.lan:5000/app     Over plain HTTP

Layers that the registry has are not sent again. The manifest is sent last, so nobody pulls
half an image.";

/// Send an image to a registry
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Name of the image, with the registry it goes to
    #[arg(value_name = "NAME[:TAG]")]
    name: oci::Reference,
    /// Send every tag of the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Send only this platform of an image that has several
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<oci::Platform>,
    /// How layers that were built here are compressed
    #[arg(long, value_name = "KIND", default_value = "gzip")]
    compression: super::CompressionArg,
    /// Print only the name
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    registry: super::RegistryArgs,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let insecure = args.registry.names(&args.name);
    let engine = session.engine_for(&insecure)?;
    let names = if args.all_tags {
        session.wait(Threads::One, all_tags(&engine, &args.name))?
    } else {
        vec![args.name.clone()]
    };
    if names.is_empty() {
        anyhow::bail!("no image of the repository `{}` is here", args.name.familiar_name());
    }
    for name in names {
        push_one(&engine, &args, &name, session)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn push_one(engine: &Engine, args: &Args, name: &oci::Reference, session: &Session) -> anyhow::Result<()> {
    if !args.quiet {
        let repository = format!("{}/{}", name.registry(), name.repository());
        terminal::print_line(&format!("The push refers to repository [{repository}]"))?;
    }
    let options = PushOptions { platform: args.platform.clone(), compression: args.compression.into() };
    let mode = if args.quiet { ProgressMode::Quiet } else { session.progress() };
    let view = progress::of_transfer(mode);
    let pushed = session.wait_or_drop(Threads::Many, push(engine, name, options, &Shared(view.clone())));
    view.finish();
    let pushed = pushed.map_err(|error| explain(error, name))?;
    if args.quiet {
        terminal::print_line(&name.to_string())?;
    } else {
        let tag = name.tag().map_or_else(|| name.familiar(), ToString::to_string);
        terminal::print_line(&format!("{tag}: digest: {} size: {}", pushed.digest, pushed.size))?;
    }
    Ok(())
}

fn explain(error: anyhow::Error, name: &oci::Reference) -> anyhow::Error {
    match error.downcast_ref() {
        Some(PushError::NotHere { .. }) => {
            let hint =
                format!("`slipway images` lists what is here; `slipway tag IMAGE {}` gives a name", name.familiar());
            Failure::new(error).hint(hint).into()
        }
        _ => error,
    }
}
