//! `slipway diff`: what a container changed in its files.

use std::process::ExitCode;

use engine::ops;
use engine::ops::diff::ChangeKind;

use crate::session::{Session, Threads};
use crate::terminal;

/// Show what a container changed: A is added, C changed, D deleted
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or ID of a container
    container: String,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let engine = session.engine()?;
    for change in session.wait(Threads::One, ops::diff::diff(&engine, args.container))? {
        let letter = match change.kind {
            ChangeKind::Added => 'A',
            ChangeKind::Changed => 'C',
            ChangeKind::Deleted => 'D',
        };
        terminal::print_line(&format!("{letter} {}", terminal::printable(&change.path)))?;
    }
    Ok(ExitCode::SUCCESS)
}
