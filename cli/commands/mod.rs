//! One file per command: its flags, and how its result is printed. What it does is in `engine/src/ops`.

use std::process::ExitCode;

use clap::ValueEnum;

use crate::args::{Cli, Command};
use crate::session::Session;

pub(crate) mod attach;
pub(crate) mod build;
pub(crate) mod commit;
pub(crate) mod completion;
pub(crate) mod container;
pub(crate) mod cp;
pub(crate) mod create;
pub(crate) mod debug;
pub(crate) mod diff;
pub(crate) mod du;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod export;
pub(crate) mod history;
pub(crate) mod images;
pub(crate) mod import;
pub(crate) mod info;
pub(crate) mod inspect;
pub(crate) mod kill;
pub(crate) mod load;
pub(crate) mod login;
pub(crate) mod logout;
pub(crate) mod logs;
pub(crate) mod network;
pub(crate) mod oci;
pub(crate) mod pause;
pub(crate) mod port;
pub(crate) mod prune;
pub(crate) mod ps;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod registry;
pub(crate) mod rename;
pub(crate) mod restart;
pub(crate) mod rm;
pub(crate) mod rmi;
pub(crate) mod run;
pub(crate) mod save;
pub(crate) mod serve;
pub(crate) mod start;
pub(crate) mod stats;
pub(crate) mod stop;
pub(crate) mod system;
pub(crate) mod tag;
pub(crate) mod top;
pub(crate) mod unpause;
pub(crate) mod update;
pub(crate) mod version;
pub(crate) mod volume;
pub(crate) mod wait;

/// How a list is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListFormat {
    /// Columns for people.
    Table,
    /// One JSON object per line, with docker's member names.
    Json,
}

/// How layers are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CompressionArg {
    /// As they are.
    Uncompressed,
    /// gzip, which everything reads.
    Gzip,
    /// Zstandard, smaller and faster.
    Zstd,
}

/// Flags of commands that talk to a registry.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RegistryArgs {
    /// Talk plain HTTP, or HTTPS with a certificate that nobody vouches for; loopback needs no flag
    #[arg(long)]
    pub(crate) insecure: bool,
}

impl From<CompressionArg> for engine::Compression {
    fn from(argument: CompressionArg) -> Self {
        match argument {
            CompressionArg::Uncompressed => Self::None,
            CompressionArg::Gzip => Self::Gzip,
            CompressionArg::Zstd => Self::Zstd,
        }
    }
}

impl RegistryArgs {
    /// Returns the registry of a name, when it may be talked to without a trusted certificate.
    pub(crate) fn names<'a>(&self, name: &'a ::oci::Reference) -> Vec<&'a str> {
        self.registries(std::slice::from_ref(name))
    }

    /// Returns the registries of names, when they may be talked to without a trusted certificate.
    pub(crate) fn registries<'a>(&self, names: &'a [::oci::Reference]) -> Vec<&'a str> {
        if self.insecure { names.iter().map(::oci::Reference::registry).collect() } else { Vec::new() }
    }
}

/// Runs the command that was asked for.
pub(crate) fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    // Before anything starts a thread.
    crate::rootless::enter(&cli.command);
    let session = Session::new(cli.globals);
    match cli.command {
        Command::Build(args) => build::run(*args, &session),
        Command::Run(args) => run::run(*args, &session),
        Command::Create(args) => create::run(*args, &session),
        Command::Start(args) => start::run(args, &session),
        Command::Stop(args) => stop::run(args, &session),
        Command::Info(args) => info::run(args, &session),
        Command::System(args) => system::run(args, &session),
        Command::Port(args) => port::run(args, &session),
        Command::Kill(args) => kill::run(args, &session),
        Command::Wait(args) => wait::run(args, &session),
        Command::Ps(args) => ps::run(args, &session),
        Command::Logs(args) => logs::run(args, &session),
        Command::Attach(args) => attach::run(args, &session),
        Command::Rm(args) => rm::run(args, &session),
        Command::Exec(args) => exec::run(args, &session),
        Command::Restart(args) => restart::run(args, &session),
        Command::Pause(args) => pause::run(args, &session),
        Command::Unpause(args) => unpause::run(args, &session),
        Command::Top(args) => top::run(args, &session),
        Command::Stats(args) => stats::run(args, &session),
        Command::Events(args) => events::run(args, &session),
        Command::Commit(args) => commit::run(args, &session),
        Command::Cp(args) => cp::run(args, &session),
        Command::Diff(args) => diff::run(args, &session),
        Command::Export(args) => export::run(args, &session),
        Command::Rename(args) => rename::run(args, &session),
        Command::Update(args) => update::run(args, &session),
        Command::Container(args) => container::run(args, &session),
        Command::Push(args) => push::run(args, &session),
        Command::Pull(args) => pull::run(args, &session),
        Command::Login(args) => login::run(args, &session),
        Command::Logout(args) => logout::run(args, &session),
        Command::Images(args) => images::run(args, &session),
        Command::Inspect(args) => inspect::run(args, &session),
        Command::History(args) => history::run(args, &session),
        Command::Tag(args) => tag::run(args, &session),
        Command::Rmi(args) => rmi::run(args, &session),
        Command::Du(args) => du::run(args, &session),
        Command::Prune(args) => prune::run(args, &session),
        Command::Save(args) => save::run(args, &session),
        Command::Load(args) => load::run(args, &session),
        Command::Import(args) => import::run(args, &session),
        Command::Serve(args) => serve::run(args, &session),
        Command::Registry(args) => registry::run(args, &session),
        Command::Version(args) => version::run(&args),
        Command::Completion(args) => completion::run(&args),
        Command::Oci(args) => oci::run(args),
        Command::Debug(args) => debug::run(args, &session),
        Command::Network(args) => network::run(args, &session),
        Command::Volume(args) => volume::run(args, &session),
    }
}

/// Reads a size for clap.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    crate::units::parse_size(text)
}
