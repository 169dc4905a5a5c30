//! `slipway attach`: this terminal to a running container.

use std::process::ExitCode;

use engine::containers::Ends;
use engine::{Engine, ops};

use super::run::{self, RawTerminal, Signals};
use crate::session::{Session, Threads};
use crate::{clock, terminal};

/// Show what a running container prints, and feed its input
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or ID of a container
    container: String,
    /// Leave the container with these keys
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// Do not feed its input
    #[arg(long)]
    no_stdin: bool,
    /// Pass signals on to the program
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    sig_proxy: bool,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let engine = session.engine()?;
    attach(&engine, &args, session)
}

/// Attaches to a container that was found running.
pub(crate) fn to_running(engine: &Engine, name: &str, session: &Session) -> anyhow::Result<ExitCode> {
    let args = Args { container: name.to_owned(), detach_keys: None, no_stdin: false, sig_proxy: true };
    attach(engine, &args, session)
}

fn attach(engine: &Engine, args: &Args, session: &Session) -> anyhow::Result<ExitCode> {
    let inspected =
        session.wait(Threads::One, ops::inspect::container(engine, args.container.clone(), clock::now()))?;
    let config = &inspected.record.config;
    let streams = run::streams(config.open_stdin && !args.no_stdin, config.tty, |_| true)?;
    let detach_keys = terminal::detach_keys(args.detach_keys.as_deref())?;
    let wants_raw = config.tty && streams.stdin.is_some();
    let size = if config.tty { terminal::size() } else { None };
    let mut raw = None;
    let end = session.wait_with(Threads::One, async {
        let control = Signals::listen(config.tty, args.sig_proxy)?;
        let attached = ops::attach::attach(engine, inspected.record.id.clone(), size, clock::now()).await?;
        if wants_raw {
            raw = RawTerminal::begin().ok();
        }
        let ends = Ends { streams, detach_keys, control };
        attached.follow(ends).await.map_err(anyhow::Error::from)
    });
    drop(raw);
    run::finish(end?)
}
