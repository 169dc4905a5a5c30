//! `slipway export`: all files of a container as a tar.

use std::io::{self, BufWriter, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use engine::ops;

use crate::session::{Session, Threads};

/// Write all files of a container as a tar
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or ID of a container
    container: String,
    /// Write to this file in place of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let engine = session.engine()?;
    let Some(path) = args.output else {
        anyhow::ensure!(
            !io::stdout().is_terminal(),
            "cowardly refusing to save to a terminal. Use the -o flag or redirect"
        );
        let sink = BufWriter::with_capacity(1 << 20, io::stdout());
        session.wait(Threads::One, ops::export::export(&engine, args.container, sink))?;
        return Ok(ExitCode::SUCCESS);
    };
    // Beside it first, so that what has its name is whole.
    let mut name = path.clone().into_os_string();
    name.push(format!(".tmp-{}", std::process::id()));
    let temporary = PathBuf::from(name);
    let file = std::fs::File::create_new(&temporary).with_context(|| format!("cannot write `{}`", path.display()))?;
    let sink = BufWriter::with_capacity(1 << 20, file);
    let written = session.wait(Threads::One, ops::export::export(&engine, args.container, sink));
    let placed = written.and_then(|()| {
        std::fs::rename(&temporary, &path).with_context(|| format!("cannot write `{}`", path.display()))
    });
    if placed.is_err() {
        // Whatever went wrong is reported; that the leftover stays too would not add to it.
        let _: io::Result<()> = std::fs::remove_file(&temporary);
    }
    placed.map(|()| ExitCode::SUCCESS)
}
