//! `slipway start`: containers that exist.

use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use engine::containers::{Ends, StartError};
use engine::ops;
use engine::ops::start::StartOptions;

use super::run::{self, RawTerminal, Signals};
use crate::each::{each, print_name};
use crate::failure::Failure;
use crate::session::{Session, Threads};
use crate::{clock, terminal};

/// Start containers that exist
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names or IDs of containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
    /// Show what the program prints, pass signals on, and end with its exit code
    #[arg(short, long)]
    attach: bool,
    /// Feed the program's input
    #[arg(short, long)]
    interactive: bool,
    /// Leave the container with these keys
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let engine = session.engine()?;
    if args.attach || args.interactive {
        return start_attached(args, &engine, session);
    }
    let start = |name| {
        let engine = engine.clone();
        async move {
            let warnings = ops::start::start(&engine, name, StartOptions { size: None, now: clock::now() }).await?;
            for warning in warnings {
                terminal::note(&terminal::printable(&format!("warning: {warning}")));
            }
            Ok::<_, StartError>(())
        }
    };
    each(session, &args.containers, start, print_name)
}

fn start_attached(args: Args, engine: &engine::Engine, session: &Session) -> anyhow::Result<ExitCode> {
    let [name] = args.containers.as_slice() else {
        anyhow::bail!("you cannot start and attach multiple containers at once")
    };
    let record = session.wait(Threads::One, ops::inspect::container(engine, name.clone(), clock::now()))?.record;
    let tty = record.config.tty;
    let streams = run::streams(args.interactive && record.config.open_stdin, tty, |_| true)?;
    let wants_raw = tty && streams.stdin.is_some();
    let detach_keys = terminal::detach_keys(args.detach_keys.as_deref())?;
    let raw = Mutex::new(None);
    let running = |warnings: Vec<String>| {
        for warning in warnings {
            terminal::note(&terminal::printable(&format!("warning: {warning}")));
        }
        if wants_raw {
            *raw.lock().unwrap_or_else(PoisonError::into_inner) = RawTerminal::begin().ok();
        }
    };
    let options = StartOptions { size: if tty { terminal::size() } else { None }, now: clock::now() };
    let end = session.wait_with(Threads::One, async {
        let ends = Ends { streams, detach_keys, control: Signals::listen(tty, true)? };
        ops::start::start_attached(engine, record.id, options, ends, running).await.map_err(anyhow::Error::from)
    });
    drop(raw);
    match end {
        Ok(Some(end)) => run::finish(end),
        Ok(None) => super::attach::to_running(engine, name, session),
        Err(error) => {
            let code = match error.downcast_ref() {
                Some(StartError::Refused(refused)) => u8::try_from(refused.code).unwrap_or(1),
                _ => 1,
            };
            Err(Failure::new(error).code(code).into())
        }
    }
}
