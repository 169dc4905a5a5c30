//! `slipway login`: remembers who you are on a registry.

use std::io::{self, IsTerminal, Read};
use std::process::ExitCode;

use anyhow::Context;
use engine::Client;
use engine::ops::login::login;
use registry::client::StoredIn;
use rustix::termios;

use crate::failure::Failure;
use crate::session::{Session, Threads, client_options};
use crate::terminal;

const EXAMPLES: &str = "\
Examples:
  slipway login registry.example.com                                   Asks for name and password
  slipway login -u me --password-stdin registry.example.com < token

The password goes to the credential helper that ~/.docker/config.json names, else into that file.
docker, podman and skopeo read the same file.";

/// Log in to a registry
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Registry to log in to
    #[arg(value_name = "REGISTRY", default_value = oci::reference::DEFAULT_REGISTRY)]
    server: String,
    /// User name
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,
    /// Password or access token; other users of this machine can see it, so prefer --password-stdin
    #[arg(short, long, conflicts_with = "password_stdin")]
    password: Option<String>,
    /// Read the password from standard input
    #[arg(long, requires = "username")]
    password_stdin: bool,
    #[command(flatten)]
    registry: super::RegistryArgs,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let insecure: &[&str] = if args.registry.insecure { &[&args.server] } else { &[] };
    let client = Client::new(client_options(insecure));
    let username = match &args.username {
        Some(username) => username.clone(),
        None => ask(session, "Username: ", Echo::On).context("cannot ask for the user name")?,
    };
    let password = match &args.password {
        Some(password) => {
            terminal::note("warning: with -p other users of this machine can see the password; use --password-stdin");
            password.clone()
        }
        None if args.password_stdin => {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).context("cannot read the password")?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
        None => ask(session, "Password: ", Echo::Off).context("cannot ask for the password")?,
    };
    if username.is_empty() || password.is_empty() {
        anyhow::bail!("the user name and the password must not be empty");
    }
    let logged_in = session.wait_or_drop(Threads::One, login(&client, &args.server, &username, &password))?;
    if let StoredIn::File(path) = &logged_in.stored_in {
        terminal::note(&format!(
            "warning: the password is stored unencrypted in {}; a credential helper would be safer",
            path.display()
        ));
    }
    terminal::print_line("Login Succeeded")?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Echo {
    On,
    Off,
}

/// Asks a person on the terminal; Ctrl-C ends it like anything else.
fn ask(session: &Session, question: &str, echo: Echo) -> anyhow::Result<String> {
    if !io::stdin().is_terminal() {
        let error = anyhow::anyhow!("standard input is not a terminal");
        return Err(Failure::new(error).hint("give the name with -u and the password with --password-stdin").into());
    }
    terminal::write(question);
    let silent = if echo == Echo::Off { Some(Silence::begin()?) } else { None };
    let (send, receive) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut answer = String::new();
        // When nobody waits any more, the answer is not needed.
        let _: Result<(), _> = send.send(io::stdin().read_line(&mut answer).map(|_| answer));
    });
    let answer = session.wait_or_drop(Threads::One, receive)?;
    drop(silent);
    Ok(answer?.trim_end_matches(['\r', '\n']).to_owned())
}

/// Keeps the terminal from showing what is typed, until it is dropped.
struct Silence(termios::Termios);

impl Silence {
    fn begin() -> anyhow::Result<Self> {
        let before = termios::tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes &= !termios::LocalModes::ECHO;
        termios::tcsetattr(io::stdin(), termios::OptionalActions::Flush, &silent)?;
        Ok(Self(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // A terminal that is gone needs no setting.
        let _: rustix::io::Result<()> = termios::tcsetattr(io::stdin(), termios::OptionalActions::Flush, &self.0);
        terminal::note("");
    }
}
