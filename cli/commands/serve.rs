//! `slipway serve`: a registry that speaks the OCI distribution specification.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;

use engine::Store;
use engine::ops::serve::serve;
use registry::server::ServeEvent;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::failure::Failure;
use crate::session::Session;
use crate::terminal;

const EXAMPLES: &str = "\
Examples:
  slipway serve                                     On 127.0.0.1:5000, out of the home folder
  slipway serve --addr 0.0.0.0:5000 --root /srv/registry
  slipway serve --addr 127.0.0.1:0                  On a port that is free; it is printed

Ends on Ctrl-C or SIGTERM, once the requests under way are answered.";

/// Serve images as a registry
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Where to listen
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:5000")]
    addr: String,
    /// Folder that holds the registry's images [default: the home folder]
    #[arg(long, value_name = "DIR")]
    root: Option<std::path::PathBuf>,
    /// Print a line for each request
    #[arg(short, long)]
    verbose: bool,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let mut addresses = args.addr.to_socket_addrs().map_err(|error| explain(error, &args.addr))?;
    let addr = addresses.next().ok_or_else(|| anyhow::anyhow!("`{}` is no address to listen on", args.addr))?;
    let root = match args.root {
        Some(root) => root,
        None => session.home()?,
    };
    let store = Store::open(&root)?;
    let verbose = args.verbose;
    raise_limit();
    session.wait_for_signal(|signal| serve(store, addr, listening, move |event| log(&event, verbose), signal))?;
    Ok(ExitCode::SUCCESS)
}

/// Allows as many open files as may be: each connection is one. Shells mostly start programs with a low limit.
fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    // With the lower limit it serves as well, though fewer at a time.
    let _: rustix::io::Result<()> = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

fn explain(error: io::Error, addr: &str) -> Failure {
    let error = anyhow::Error::new(error).context(format!("`{addr}` is no address to listen on"));
    Failure::new(error).hint("an address is HOST:PORT, such as 127.0.0.1:5000; port 0 takes one that is free")
}

fn listening(addr: SocketAddr) {
    // Whoever started us may have stopped reading.
    let _: io::Result<()> = terminal::print_line(&format!("Listening on {addr}"));
    if !addr.ip().is_loopback() {
        terminal::note("warning: everyone who can reach this address can read, change and delete all images");
    }
}

fn log(event: &ServeEvent, verbose: bool) {
    match event {
        ServeEvent::Answered { method, path, status, took } if verbose => {
            let line = format!("{status} {method} {path} {:.1}ms", took.as_secs_f64() * 1000.0);
            terminal::note(&terminal::printable(&line));
        }
        ServeEvent::Answered { .. } => {}
        ServeEvent::Failed { method, path, error } => {
            terminal::note(&terminal::printable(&format!("error: {method} {path}: {error}")));
        }
        ServeEvent::UploadsExpired { count } => {
            terminal::note(&format!("removed {count} uploads that nobody finished"));
        }
        ServeEvent::ExpiryFailed { error } => terminal::note(&format!("error: cannot remove old uploads: {error}")),
    }
}
