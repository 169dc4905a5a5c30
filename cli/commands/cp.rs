//! `slipway cp`: files between a container and this machine.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use engine::ops;
use engine::ops::cp::{CpOptions, Here};

use crate::clock;
use crate::session::{Session, Threads};

const EXAMPLES: &str = "\
Examples:
  slipway cp web:/etc/nginx/nginx.conf .
  slipway cp site/. web:/usr/share/nginx/html
  slipway cp web:/var/log - | tar tv";

/// Copy files between a container and this machine
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// What to copy
    #[arg(value_name = "[CONTAINER:]SOURCE|-")]
    source: String,
    /// Where to
    #[arg(value_name = "[CONTAINER:]TARGET|-")]
    target: String,
    /// Keep owners
    #[arg(short, long)]
    archive: bool,
    /// Copy what a link leads to
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// For docker's sake: nothing is said anyhow
    #[arg(short, long, hide = true)]
    quiet: bool,
}

/// Splits `CONTAINER:PATH`; what begins as a path is one of this machine.
fn inside(text: &str) -> Option<(&str, &str)> {
    if text.starts_with(['/', '.']) || text == "-" {
        return None;
    }
    text.split_once(':').filter(|(name, _)| !name.is_empty() && !name.contains('/'))
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let options = CpOptions { archive: args.archive, follow: args.follow_link };
    match (inside(&args.source), inside(&args.target)) {
        (Some((name, path)), None) => {
            let to = match args.target.as_str() {
                "-" if io::stdout().is_terminal() => anyhow::bail!("cowardly refusing to write a tar to a terminal"),
                "-" => Here::Tar(Box::new(io::stdout()) as Box<dyn io::Write + Send>),
                path => Here::Path(PathBuf::from(path)),
            };
            let engine = session.engine()?;
            let copy = ops::cp::copy_out(&engine, name.into(), path.into(), to, options, clock::now());
            session.wait(Threads::One, copy)?;
        }
        (None, Some((name, path))) => {
            let from = match args.source.as_str() {
                "-" => Here::Tar(Box::new(io::stdin()) as Box<dyn io::Read + Send>),
                path => Here::Path(PathBuf::from(path)),
            };
            let engine = session.engine()?;
            let copy = ops::cp::copy_in(&engine, name.into(), path.into(), from, options, clock::now());
            session.wait(Threads::One, copy)?;
        }
        (Some(_), Some(_)) => anyhow::bail!("copying between containers is not supported"),
        (None, None) => anyhow::bail!("must specify at least one container source"),
    }
    Ok(ExitCode::SUCCESS)
}
