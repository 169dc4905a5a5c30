//! `slipway commit`: an image of what a container changed.

use std::process::ExitCode;

use engine::ops;
use engine::ops::commit::CommitOptions;

use crate::session::{Session, Threads};
use crate::{clock, terminal};

/// Make an image of what a container changed
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or ID of a container
    container: String,
    /// Name of the image
    #[arg(value_name = "NAME[:TAG]")]
    name: Option<oci::Reference>,
    /// Who made it
    #[arg(short, long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    author: String,
    /// Apply a Dockerfile instruction to its config
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// A note for its history
    #[arg(short, long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    message: String,
    /// Freeze the container meanwhile
    #[arg(short, long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    pause: bool,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let engine = session.engine()?;
    let options = CommitOptions {
        name: args.name,
        author: args.author,
        message: args.message,
        changes: args.change,
        pause: args.pause,
        now: clock::now(),
    };
    let id = session.wait(Threads::One, ops::commit::commit(&engine, args.container, options, session.cancel()))?;
    terminal::print_line(&id.to_string())?;
    Ok(ExitCode::SUCCESS)
}
