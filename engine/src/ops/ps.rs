//! Lists containers.

use jiff::Timestamp;
use supervisor::{Container, ContainerError, Record, State, Status};

use crate::Engine;
use crate::containers;

/// Which containers to list.
#[derive(Clone, Debug, Default)]
pub struct PsOptions {
    /// Also those that do not run.
    pub all: bool,
    /// Only the newest ones, whether they run or not.
    pub last: Option<usize>,
    /// Only those for which one of the values of each name holds.
    pub filters: Vec<(String, String)>,
    /// Also count what each wrote.
    pub size: bool,
}

/// A container of the list.
#[derive(Clone, Debug)]
pub struct ListedContainer {
    /// What it is.
    pub record: Record,
    /// What it is doing.
    pub state: State,
    /// The bytes of what it wrote, and of its image.
    pub size: Option<(u64, u64)>,
}

/// The list, newest first.
#[derive(Debug, Default)]
pub struct ContainerList {
    /// The containers.
    pub containers: Vec<ListedContainer>,
    /// Those that cannot be read.
    pub broken: Vec<ContainerError>,
}

/// Why containers were not listed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum PsError {
    #[error("invalid filter '{filter}'")]
    Filter { filter: String },
    #[error(transparent)]
    Container(#[from] ContainerError),
}

/// The filters that there are.
const FILTERS: [&str; 14] = [
    "ancestor", "before", "exited", "expose", "health", "id", "label", "name", "network", "publish", "since", "status",
    "volume", "is-task",
];

/// Lists containers, and repairs the states of those whose watcher was killed.
///
/// # Errors
///
/// When there is no such filter, or the containers cannot be listed.
pub async fn ps(engine: &Engine, options: PsOptions, now: Timestamp) -> Result<ContainerList, PsError> {
    if let Some((filter, _)) = options.filters.iter().find(|(name, _)| !FILTERS.contains(&name.as_str())) {
        return Err(PsError::Filter { filter: filter.clone() });
    }
    let (all, store) = (containers::all(engine), engine.store().clone());
    store::blocking::run(move || {
        let mut list = ContainerList::default();
        let mut found = Vec::new();
        for container in all.list()? {
            match container.and_then(|container| container.state(now).map(|state| (container, state))) {
                Ok(pair) => found.push(pair),
                // Removed since it was listed.
                Err(ContainerError::NotFound { .. }) => {}
                Err(error) => list.broken.push(error),
            }
        }
        let anchor = |name: &str| {
            let text = options.filters.iter().find(|(filter, _)| filter == name).map(|(_, value)| value);
            text.map(|text| all.find(text).map(|container| container.record.created)).transpose()
        };
        let (before, since) = (anchor("before")?, anchor("since")?);
        let asks_status = options.filters.iter().any(|(name, _)| name == "status" || name == "exited");
        for (container, state) in found {
            let shown = options.all || options.last.is_some() || asks_status || state.status.is_alive();
            let created = container.record.created;
            let in_time = before.is_none_or(|before| created < before) && since.is_none_or(|since| created > since);
            if !shown || !in_time || !matches(&container.record, &state, &options.filters) {
                continue;
            }
            let size = options.size.then(|| sizes(&store, &container));
            list.containers.push(ListedContainer { record: container.record, state, size });
            if options.last == Some(list.containers.len()) {
                break;
            }
        }
        Ok(list)
    })
    .await
}

/// Counts the bytes of what a container wrote, and of its image.
pub(crate) fn sizes(store: &store::Store, container: &Container) -> (u64, u64) {
    let written = folder_size(&container.upper());
    let layers = container.record.layers.iter().map(|diff_id| {
        let forms = store.layers().forms(diff_id).unwrap_or_default();
        let plain = forms.iter().find(|form| super::find::is_plain(&form.media_type)).or(forms.first());
        plain.map_or(0, |form| form.size)
    });
    (written, layers.sum())
}

/// Adds up the files below a folder, without following links.
pub(crate) fn folder_size(folder: &std::path::Path) -> u64 {
    let mut total = 0;
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                waiting.push(entry.path());
            } else {
                total += metadata.len();
            }
        }
    }
    total
}

/// Tells whether one of the values of each filter holds.
pub(crate) fn matches(record: &Record, state: &State, filters: &[(String, String)]) -> bool {
    let mut names: Vec<&str> = filters.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().all(|name| {
        let mut values = filters.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_str());
        // Every label must be there; of anything else, one is enough.
        if name == "label" {
            values.all(|value| holds(record, state, name, value))
        } else {
            values.any(|value| holds(record, state, name, value))
        }
    })
}

fn holds(record: &Record, state: &State, name: &str, value: &str) -> bool {
    match name {
        "id" => record.id.starts_with(value),
        "name" => name_matches(&record.name, value),
        "label" => match value.split_once('=') {
            Some((label, value)) => record.config.labels.get(label).is_some_and(|other| other == value),
            None => record.config.labels.contains_key(value),
        },
        "status" => state.status.word() == value,
        "exited" => state.status == Status::Exited && value.parse() == Ok(state.exit_code),
        "health" => state.health.as_ref().map_or("none", |health| health.status.as_str()) == value,
        "ancestor" => {
            let wanted = value.strip_suffix(":latest").unwrap_or(value);
            let image = record.config.image.strip_suffix(":latest").unwrap_or(&record.config.image);
            let is_id = value.len() >= 4 && record.image.to_string().contains(value.trim_start_matches("sha256:"));
            image == wanted || is_id
        }
        "network" => {
            record.host_config.network_mode == value || record.networks.iter().any(|network| network.network == value)
        }
        "volume" => record
            .mounts
            .iter()
            .any(|mount| mount.name == value || mount.target == value || mount.source.as_os_str() == value),
        "expose" => record.config.exposed_ports.keys().any(|port| port_matches(port, value)),
        "publish" => record.host_config.port_bindings.keys().any(|port| port_matches(port, value)),
        "is-task" => value == "false",
        // Times are looked at elsewhere.
        _ => true,
    }
}

fn port_matches(port: &str, value: &str) -> bool {
    port == value || port.strip_suffix("/tcp") == Some(value)
}

/// Docker takes a regular expression here; people write a part of the name, with or without its ends.
fn name_matches(name: &str, value: &str) -> bool {
    let value = value.trim_start_matches('/');
    let (start, rest) = match value.strip_prefix('^') {
        Some(rest) => (true, rest.trim_start_matches('/')),
        None => (false, value),
    };
    match (start, rest.strip_suffix('$')) {
        (true, Some(rest)) => name == rest,
        (true, None) => name.starts_with(rest),
        (false, Some(rest)) => name.ends_with(rest),
        (false, None) => name.contains(rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_people_write_them() {
        for (value, matches) in
            [("web", true), ("^web", true), ("web-1$", true), ("^/web-1$", true), ("^eb", false), ("web$", false)]
        {
            assert_eq!(name_matches("web-1", value), matches, "{value}");
        }
    }
}
