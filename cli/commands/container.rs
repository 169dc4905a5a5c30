//! `slipway container`: docker's longer names for the commands about containers, and `prune`.

use std::process::ExitCode;

use engine::ops;
use engine::ops::container::PruneContainersOptions;

use crate::session::{Session, Threads};
use crate::{clock, terminal, units};

/// Docker's longer names: `container ls` is `ps`, and so on; `container prune`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Attach(super::attach::Args),
    Create(Box<super::create::Args>),
    Commit(super::commit::Args),
    Cp(super::cp::Args),
    Diff(super::diff::Args),
    Exec(super::exec::Args),
    Export(super::export::Args),
    Inspect(super::inspect::Args),
    Kill(super::kill::Args),
    Logs(super::logs::Args),
    #[command(visible_aliases = ["list", "ps"])]
    Ls(super::ps::Args),
    Pause(super::pause::Args),
    Port(super::port::Args),
    Prune(PruneArgs),
    Rename(super::rename::Args),
    Restart(super::restart::Args),
    #[command(visible_alias = "remove")]
    Rm(super::rm::Args),
    Run(Box<super::run::Args>),
    Start(super::start::Args),
    Stats(super::stats::Args),
    Stop(super::stop::Args),
    Top(super::top::Args),
    Unpause(super::unpause::Args),
    Update(super::update::Args),
    Wait(super::wait::Args),
}

/// Remove all containers that do not run
#[derive(Debug, clap::Args)]
struct PruneArgs {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Only what matches: until=TIME, label=NAME[=VALUE], label!=NAME[=VALUE]
    #[arg(long, value_name = "NAME=VALUE")]
    filter: Vec<String>,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    match args.what {
        What::Attach(args) => super::attach::run(args, session),
        What::Create(args) => super::create::run(*args, session),
        What::Commit(args) => super::commit::run(args, session),
        What::Cp(args) => super::cp::run(args, session),
        What::Diff(args) => super::diff::run(args, session),
        What::Exec(args) => super::exec::run(args, session),
        What::Export(args) => super::export::run(args, session),
        What::Inspect(args) => super::inspect::run(args.only("container"), session),
        What::Kill(args) => super::kill::run(args, session),
        What::Logs(args) => super::logs::run(args, session),
        What::Ls(args) => super::ps::run(args, session),
        What::Pause(args) => super::pause::run(args, session),
        What::Port(args) => super::port::run(args, session),
        What::Prune(args) => prune(&args, session),
        What::Rename(args) => super::rename::run(args, session),
        What::Restart(args) => super::restart::run(args, session),
        What::Rm(args) => super::rm::run(args, session),
        What::Run(args) => super::run::run(*args, session),
        What::Start(args) => super::start::run(args, session),
        What::Stats(args) => super::stats::run(args, session),
        What::Stop(args) => super::stop::run(args, session),
        What::Top(args) => super::top::run(args, session),
        What::Unpause(args) => super::unpause::run(args, session),
        What::Update(args) => super::update::run(args, session),
        What::Wait(args) => super::wait::run(args, session),
    }
}

fn prune(args: &PruneArgs, session: &Session) -> anyhow::Result<ExitCode> {
    let now = clock::now();
    let mut options = PruneContainersOptions::default();
    for filter in &args.filter {
        match filter.split_once('=') {
            Some(("until", text)) => {
                options.until = Some(units::parse_moment(text, now).map_err(anyhow::Error::msg)?);
            }
            Some(("label", label)) => options.labels.push(label.into()),
            Some(("label!", label)) => options.not_labels.push(label.into()),
            _ => anyhow::bail!("invalid filter '{filter}'"),
        }
    }
    if !args.force {
        super::prune::ask("WARNING! This will remove all stopped containers.")?;
    }
    let engine = session.engine()?;
    let pruned = session.wait(Threads::One, ops::container::prune(&engine, options, clock::now))?;
    if !pruned.ids.is_empty() {
        terminal::print_line(&format!("Deleted Containers:\n{}\n", pruned.ids.join("\n")))?;
    }
    terminal::print_line(&format!("Total reclaimed space: {}", units::size(pruned.bytes)))?;
    Ok(ExitCode::SUCCESS)
}
