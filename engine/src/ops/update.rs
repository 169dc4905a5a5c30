//! Changes the limits and the restart policy of containers.

use jiff::Timestamp;
use oci_spec::runtime::LinuxResources;
use runtime::{CgroupFolders, SpecOptions};
use supervisor::config::{HostConfig, RestartPolicy};
use supervisor::{Container, ContainerError};

use crate::Engine;
use crate::containers;

/// What to change; what is not named stays.
#[derive(Clone, Debug, Default)]
pub struct UpdateOptions {
    /// Bytes of memory.
    pub memory: Option<i64>,
    /// Bytes of memory and swap.
    pub memory_swap: Option<i64>,
    /// Bytes of memory below which it is left alone.
    pub memory_reservation: Option<i64>,
    /// Processors' time, in billionths.
    pub nano_cpus: Option<i64>,
    /// Weight against others.
    pub cpu_shares: Option<i64>,
    /// Which processors.
    pub cpuset_cpus: Option<String>,
    /// Which memory nodes.
    pub cpuset_mems: Option<String>,
    /// How many processes.
    pub pids_limit: Option<i64>,
    /// When to start it again.
    pub restart_policy: Option<RestartPolicy>,
}

/// Why a container was not changed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum UpdateError {
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error("Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time")]
    Swap,
    #[error("Restart policy cannot be updated because AutoRemove is enabled for the container")]
    AutoRemove,
    #[error("cannot describe the limits")]
    Spec(#[from] runtime::SpecError),
    #[error("cannot find the container's cgroup")]
    Cgroup(#[source] std::io::Error),
    #[error("cannot set the limits")]
    Limit(#[from] runtime::StartError),
}

/// Changes a container, also while it runs; gives warnings.
///
/// # Errors
///
/// When there is no such container, or the kernel refuses a limit: then the record is as it was.
pub async fn update(
    engine: &Engine,
    name: String,
    options: UpdateOptions,
    now: Timestamp,
) -> Result<Vec<String>, UpdateError> {
    let all = containers::all(engine);
    store::blocking::run(move || {
        let mut container = all.find(&name)?;
        let warnings = change(&mut container, &options, now)?;
        container.emit("update", now, &[]);
        Ok(warnings)
    })
    .await
}

fn change(container: &mut Container, options: &UpdateOptions, now: Timestamp) -> Result<Vec<String>, UpdateError> {
    let mut host = container.record.host_config.clone();
    if options.restart_policy.is_some() && host.auto_remove {
        return Err(UpdateError::AutoRemove);
    }
    let UpdateOptions { memory, memory_swap, memory_reservation, nano_cpus, cpu_shares, .. } = *options;
    for (field, value) in [
        (&mut host.memory, memory),
        (&mut host.memory_swap, memory_swap),
        (&mut host.memory_reservation, memory_reservation),
        (&mut host.nano_cpus, nano_cpus),
        (&mut host.cpu_shares, cpu_shares),
    ] {
        *field = value.unwrap_or(*field);
    }
    if host.memory_swap > 0 && host.memory > host.memory_swap {
        return Err(UpdateError::Swap);
    }
    host.cpuset_cpus = options.cpuset_cpus.clone().unwrap_or(host.cpuset_cpus);
    host.cpuset_mems = options.cpuset_mems.clone().unwrap_or(host.cpuset_mems);
    host.pids_limit = options.pids_limit.or(host.pids_limit);
    host.restart_policy = options.restart_policy.clone().unwrap_or(host.restart_policy);
    let mut warnings = Vec::new();
    let process = container.state(now)?.process;
    if let Some(process) = process.filter(|process| process.open().is_some()) {
        let folders = CgroupFolders::of_process(process.pid).map_err(UpdateError::Cgroup)?;
        let resources = resources(&host)?;
        let mut set = folders.limit(&resources);
        if set.is_err() {
            // On cgroup v1 memory must stay below memory and swap: while it grows, that one goes first.
            let larger = HostConfig { memory: 0, ..host.clone() };
            if folders.limit(&self::resources(&larger)?).is_ok() {
                set = folders.limit(&resources);
            }
        }
        warnings.extend(set?.iter().map(ToString::to_string));
    }
    container.change_record(|record| record.host_config = host)?;
    Ok(warnings)
}

/// Returns the limits of a container, without its devices, which do not change.
fn resources(host: &HostConfig) -> Result<LinuxResources, UpdateError> {
    let positive = |number: i64| Some(number).filter(|&number| number > 0);
    let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let spec = runtime::default_spec(&SpecOptions {
        args: vec!["true".into()],
        memory: positive(host.memory),
        memory_swap: Some(host.memory_swap).filter(|&swap| swap != 0),
        memory_reservation: positive(host.memory_reservation),
        nano_cpus: positive(host.nano_cpus),
        cpu_shares: u64::try_from(host.cpu_shares).ok().filter(|&shares| shares > 0),
        cpuset_cpus: text(&host.cpuset_cpus),
        cpuset_mems: text(&host.cpuset_mems),
        pids_limit: host.pids_limit,
        ..SpecOptions::default()
    })?;
    let linux = spec.linux().as_ref();
    let mut resources = linux.and_then(|linux| linux.resources().clone()).unwrap_or_default();
    resources.set_devices(None);
    Ok(resources)
}
