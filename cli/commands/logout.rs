//! `slipway logout`: forgets who you are on a registry.

use std::process::ExitCode;

use engine::Client;
use engine::ops::logout::logout;

use crate::session::{Session, Threads, client_options};
use crate::terminal;

/// Log out from a registry
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Registry to log out from
    #[arg(value_name = "REGISTRY", default_value = oci::reference::DEFAULT_REGISTRY)]
    server: String,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let client = Client::new(client_options(&[]));
    let was_there = session.wait(Threads::One, logout(&client, &args.server))?;
    terminal::print_line(&if was_there {
        format!("Removing login credentials for {}", args.server)
    } else {
        format!("Not logged in to {}", args.server)
    })?;
    Ok(ExitCode::SUCCESS)
}
