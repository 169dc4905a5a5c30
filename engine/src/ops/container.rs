//! Removes all containers that do not run.

use jiff::Timestamp;
use supervisor::{ContainerError, Status};

use super::ps::folder_size;
use super::rm::{RmError, RmOptions, remove_container};
use crate::Engine;
use crate::containers;

/// Which containers to remove.
#[derive(Clone, Debug, Default)]
pub struct PruneContainersOptions {
    /// Only those that were made before.
    pub until: Option<Timestamp>,
    /// Only those that have these labels, with these values if any.
    pub labels: Vec<String>,
    /// Only those that do not have these labels.
    pub not_labels: Vec<String>,
}

/// What was removed.
#[derive(Clone, Debug, Default)]
pub struct PrunedContainers {
    /// The IDs.
    pub ids: Vec<String>,
    /// The bytes of what they had written.
    pub bytes: u64,
}

/// Removes all containers that do not run.
///
/// # Errors
///
/// When one cannot be removed.
pub async fn prune(
    engine: &Engine,
    options: PruneContainersOptions,
    now: fn() -> Timestamp,
) -> Result<PrunedContainers, RmError> {
    let all = containers::all(engine);
    containers::on_thread(move || {
        let mut pruned = PrunedContainers::default();
        for container in all.list()?.into_iter().flatten() {
            let labels = &container.record.config.labels;
            let has = |label: &String| match label.split_once('=') {
                Some((name, value)) => labels.get(name).is_some_and(|other| other == value),
                None => labels.contains_key(label),
            };
            let wanted = options.labels.iter().all(has)
                && !options.not_labels.iter().any(has)
                && options.until.is_none_or(|until| container.record.created < until);
            let ended = match container.state(now()) {
                Ok(state) => matches!(state.status, Status::Created | Status::Exited),
                Err(ContainerError::NotFound { .. }) => false,
                Err(error) => return Err(error.into()),
            };
            if !wanted || !ended {
                continue;
            }
            let size = folder_size(&container.upper());
            match remove_container(&container, container.id(), RmOptions::default(), now) {
                Ok(()) => {
                    pruned.ids.push(container.id().into());
                    pruned.bytes += size;
                }
                // Somebody has started or removed it meanwhile.
                Err(RmError::Running { .. } | RmError::Paused { .. }) => {}
                Err(RmError::Container(ContainerError::NotFound { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(pruned)
    })
    .await
}
