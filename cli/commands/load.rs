//! `slipway load`: reads images from an archive of `save`, ours or docker's, or an OCI layout.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::process::ExitCode;

use anyhow::Context;
use engine::ops::load::load;

use crate::failure::Failure;
use crate::session::{Session, Threads};
use crate::{clock, terminal};

const EXAMPLES: &str = "\
Examples:
  slipway load -i app.tar
  docker save app | slipway load

Reads archives of docker save and OCI image layouts, plain or compressed with gzip, zstd, bzip2 or xz.";

/// Read images from an archive
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Read from a file instead of standard input
    #[arg(short, long, value_name = "FILE")]
    input: Option<std::path::PathBuf>,
    /// Print nothing but the names
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let name = args.input.as_ref().map_or_else(|| "standard input".to_owned(), |path| format!("`{}`", path.display()));
    let source: Box<dyn Read + Send> = match &args.input {
        Some(path) => Box::new(File::open(path).with_context(|| format!("cannot open {name}"))?),
        None if io::stdin().is_terminal() => {
            let error = anyhow::anyhow!("there is no archive to load");
            return Err(Failure::new(error).hint("name a file with -i, or redirect the input").into());
        }
        None => Box::new(io::stdin()),
    };
    let engine = session.engine()?;
    let loaded = session.wait(Threads::One, load(&engine, source, clock::now(), session.cancel()));
    for image in loaded.with_context(|| format!("cannot load images from {name}"))? {
        terminal::print_line(&match image.reference {
            Some(reference) => format!("Loaded image: {}", reference.familiar()),
            None => format!("Loaded image ID: {}", image.id),
        })?;
    }
    Ok(ExitCode::SUCCESS)
}
