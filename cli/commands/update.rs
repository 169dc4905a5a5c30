//! `slipway update`: other limits for containers.

use std::process::ExitCode;

use engine::ops;
use engine::ops::update::UpdateOptions;

use crate::each::each;
use crate::flags::container;
use crate::session::Session;
use crate::{clock, terminal};

/// Change the limits and the restart policy of containers
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names or IDs of containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
    /// Limit memory
    #[arg(short, long, value_name = "BYTES", value_parser = super::bytes)]
    memory: Option<u64>,
    /// Limit memory and swap together; -1 is no limit
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Take memory away last below this
    #[arg(long, value_name = "BYTES", value_parser = super::bytes)]
    memory_reservation: Option<u64>,
    /// Limit processors, as a fraction
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<f64>,
    /// Weight against other containers
    #[arg(short, long, value_name = "WEIGHT")]
    cpu_shares: Option<i64>,
    /// Run on these processors
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Use memory of these nodes
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Limit the number of processes; -1 is no limit
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// When to start it again
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let memory = args.memory.map(container::memory).transpose()?;
    let options = UpdateOptions {
        memory,
        // Only the container's record knows whether they fit.
        memory_swap: args.memory_swap.map(|text| container::memory_swap(&text, memory.unwrap_or(1))).transpose()?,
        memory_reservation: args.memory_reservation.map(bytes),
        nano_cpus: args.cpus.map(container::nano_cpus).transpose()?,
        cpu_shares: args.cpu_shares,
        cpuset_cpus: args.cpuset_cpus,
        cpuset_mems: args.cpuset_mems,
        pids_limit: args.pids_limit,
        restart_policy: args.restart.as_deref().map(container::restart_policy).transpose()?,
    };
    let engine = session.engine()?;
    let update = |name| {
        let (engine, options) = (engine.clone(), options.clone());
        async move { ops::update::update(&engine, name, options, clock::now()).await }
    };
    each(session, &args.containers, update, |name, warnings| {
        for warning in warnings {
            terminal::note(&terminal::printable(&format!("warning: {warning}")));
        }
        Ok(terminal::print_line(name)?)
    })
}
