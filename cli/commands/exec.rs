//! `slipway exec`: one more program in a running container.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use engine::ops;
use engine::ops::exec::{ExecError, ExecRequest, Program};
use engine::ops::oci::restart_sealed;

use super::run::{self, RawTerminal, Signals};
use crate::failure::{Failure, Interrupted};
use crate::flags::container::read_environment;
use crate::session::{Session, Threads};
use crate::{clock, terminal};

const EXAMPLES: &str = "\
Examples:
  slipway exec web nginx -s reload
  slipway exec -it web sh
  slipway exec -u 33 -w /srv -e DEBUG=1 web ./task

The exit code is the program's; 126 when it cannot be executed, 127 when it is not there.";

/// Run a program in a running container
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Name or ID of a container
    container: String,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
    /// Run in the background
    #[arg(short, long)]
    detach: bool,
    /// Leave the program with these keys
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// Keep standard input open
    #[arg(short, long)]
    interactive: bool,
    /// Give the program a terminal
    #[arg(short, long)]
    tty: bool,
    /// Set an environment variable; a lone name takes the value from our environment
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Start in this folder
    #[arg(short, long, value_name = "PATH")]
    workdir: Option<String>,
    /// Run as this user, names or numbers
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Give the program all rights
    #[arg(long)]
    privileged: bool,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let result = exec(args, session);
    result.map_err(|error| match error.downcast_ref::<ExecError>().map(ExecError::exit_code) {
        Some(code) => Failure::new(error).code(code).into(),
        None if error.is::<Failure>() || error.is::<Interrupted>() => error,
        None => Failure::new(error).code(1).into(),
    })
}

fn exec(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    // Before there is a second thread. A plain user's container has no more rights over the program than that user.
    if rustix::process::geteuid().is_root() {
        let arguments: Vec<OsString> = std::env::args_os().collect();
        restart_sealed(&arguments).context("cannot protect this program from containers")?;
    }
    let program = Program {
        args: args.command,
        env: read_environment(&args.env_file, &args.env)?,
        user: args.user,
        workdir: args.workdir,
        tty: args.tty,
        privileged: args.privileged,
    };
    if let Some(path) = program.workdir.as_ref().filter(|path| !path.starts_with('/')) {
        anyhow::bail!("the working directory `{path}` must be absolute");
    }
    let streams = match args.detach {
        true => None,
        false => Some(run::streams(args.interactive, args.tty, |_| true)?),
    };
    let detach_keys = if args.tty { terminal::detach_keys(args.detach_keys.as_deref())? } else { Vec::new() };
    let engine = session.engine()?;
    let raw = match streams.as_ref().is_some_and(|streams| args.tty && streams.stdin.is_some()) {
        true => RawTerminal::begin().ok(),
        false => None,
    };
    let size = if args.tty { terminal::size() } else { None };
    let code = session.wait_with(Threads::One, async {
        let streams = match streams {
            Some(streams) => Some((streams, Signals::listen(args.tty, false)?)),
            None => None,
        };
        let request = ExecRequest { program, size, streams, detach_keys };
        ops::exec::exec(&engine, args.container, request, clock::now).await.map_err(anyhow::Error::from)
    });
    drop(raw);
    Ok(ExitCode::from(u8::try_from(code? & 0xff).unwrap_or(1)))
}
