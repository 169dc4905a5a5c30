//! What stands before and after the name of a command: the global flags, and the list of commands.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::commands;

const EXAMPLES: &str = "\
Examples:
  slipway build -t app .                     Build the Dockerfile of this folder
  slipway run --rm -p 8080:80 app            Run it, reachable on port 8080
  slipway ps -a                              List containers
  slipway serve &                            Serve images on 127.0.0.1:5000
  slipway tag app localhost:5000/app
  slipway push localhost:5000/app            Send it there

Everything is kept in one folder: --home, else $SLIPWAY_HOME, else /var/lib/slipway for root
and ~/.local/share/slipway for everybody else. There is no daemon.";

/// Builds images from Dockerfiles, stores and serves them, and runs them.
#[derive(Debug, Parser)]
#[command(
    name = "slipway",
    version,
    after_help = EXAMPLES,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    max_term_width = 110
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// Reads the arguments. The flags of a command are put together only when it is named first, or somebody may want to
    /// know about all: with all of them a small command would be busy for half of its time.
    pub(crate) fn of(arguments: Vec<OsString>) -> Result<Self, clap::Error> {
        let mut command = Self::command();
        let word = arguments.get(1).and_then(|word| word.to_str());
        if word.is_none_or(|word| command.find_subcommand(word).is_none()) {
            command.build();
        }
        let mut matches = command.try_get_matches_from_mut(arguments)?;
        Self::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
    }
}

/// Flags that every command takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Globals {
    /// Folder that holds everything slipway keeps
    #[arg(
        long,
        global = true,
        env = "SLIPWAY_HOME",
        value_name = "DIR",
        hide_env_values = true,
        hide_possible_values = true,
        help_heading = "Global options"
    )]
    pub(crate) home: Option<PathBuf>,
    /// How to show what is going on: auto, plain, tty, quiet or rawjson
    #[arg(
        long,
        global = true,
        env = "SLIPWAY_PROGRESS",
        value_name = "MODE",
        default_value = "auto",
        hide_env_values = true,
        hide_possible_values = true,
        help_heading = "Global options"
    )]
    pub(crate) progress: ProgressMode,
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressMode {
    /// A live view on a terminal, plain lines otherwise
    Auto,
    /// One line per event, nothing is redrawn
    Plain,
    /// The live view
    Tty,
    /// Nothing but results and errors
    Quiet,
    /// One JSON object per event
    #[value(name = "rawjson")]
    RawJson,
}

/// What a user can ask for.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum Command {
    Build(Box<commands::build::Args>),
    Run(Box<commands::run::Args>),
    Create(Box<commands::create::Args>),
    Start(commands::start::Args),
    Stop(commands::stop::Args),
    Kill(commands::kill::Args),
    Wait(commands::wait::Args),
    Port(commands::port::Args),
    Ps(commands::ps::Args),
    Logs(commands::logs::Args),
    Attach(commands::attach::Args),
    Rm(commands::rm::Args),
    Exec(commands::exec::Args),
    Restart(commands::restart::Args),
    Pause(commands::pause::Args),
    Unpause(commands::unpause::Args),
    Top(commands::top::Args),
    Stats(commands::stats::Args),
    Events(commands::events::Args),
    Commit(commands::commit::Args),
    Cp(commands::cp::Args),
    Diff(commands::diff::Args),
    Export(commands::export::Args),
    Rename(commands::rename::Args),
    Update(commands::update::Args),
    Container(commands::container::Args),
    Push(commands::push::Args),
    Pull(commands::pull::Args),
    Login(commands::login::Args),
    Logout(commands::logout::Args),
    Images(commands::images::Args),
    Inspect(commands::inspect::Args),
    History(commands::history::Args),
    Tag(commands::tag::Args),
    Rmi(commands::rmi::Args),
    Du(commands::du::Args),
    Prune(commands::prune::Args),
    Save(commands::save::Args),
    Load(commands::load::Args),
    Import(commands::import::Args),
    Serve(commands::serve::Args),
    Registry(commands::registry::Args),
    Version(commands::version::Args),
    Completion(commands::completion::Args),
    Debug(commands::debug::Args),
    Network(commands::network::Args),
    Volume(commands::volume::Args),
    Info(commands::info::Args),
    System(commands::system::Args),
    Oci(commands::oci::Args),
}
