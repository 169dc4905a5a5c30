//! Volumes of containers: making, listing, describing and removing them.

use std::path::PathBuf;

use supervisor::volumes::{VolumeError, VolumeRecord};
use supervisor::{ContainerError, Volumes};

use super::network::{PruneFilter, has_label};
use crate::{Engine, machine};

/// Why volumes could not be listed or pruned.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum ListVolumesError {
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error("invalid filter `{name}`; there are dangling, driver, label and name")]
    Filter { name: String },
}

/// A volume, and where it is on this machine.
#[derive(Clone, Debug)]
pub struct Volume {
    /// What people know about it.
    pub record: VolumeRecord,
    /// What is mounted.
    pub mountpoint: PathBuf,
    /// How many containers have it.
    pub links: usize,
}

fn describe(volumes: &Volumes, record: VolumeRecord) -> Volume {
    let links = volumes.users(&record.name).map_or(0, |users| users.len());
    Volume { mountpoint: volumes.data(&record.name), links, record }
}

/// Makes a volume, with a name that nobody has when it comes without; one that is there stays as it is. Gives its name.
///
/// # Errors
///
/// When the name is none, or the folder cannot be made.
pub async fn create(engine: &Engine, mut record: VolumeRecord) -> Result<String, VolumeError> {
    let volumes = Volumes::new(engine.store().layout());
    store::blocking::run(move || {
        if record.name.is_empty() {
            record.name = machine::new_id();
            record.anonymous = true;
        }
        volumes.create(&record)?;
        Ok(record.name)
    })
    .await
}

/// Returns the volumes that match all filters, by their names.
///
/// # Errors
///
/// When a filter is none, or a record cannot be read.
pub async fn list(engine: &Engine, filters: Vec<(String, String)>) -> Result<Vec<Volume>, ListVolumesError> {
    let volumes = Volumes::new(engine.store().layout());
    store::blocking::run(move || {
        let mut all: Vec<_> = volumes.list()?.into_iter().map(|record| describe(&volumes, record)).collect();
        for (name, value) in &filters {
            match name.as_str() {
                "dangling" => all.retain(|one| (one.links == 0) == matches!(value.as_str(), "true" | "1")),
                "driver" => all.retain(|_| value == "local"),
                "label" => all.retain(|one| has_label(&one.record.labels, value)),
                "name" => all.retain(|one| one.record.name.contains(value.as_str())),
                _ => return Err(ListVolumesError::Filter { name: name.clone() }),
            }
        }
        Ok(all)
    })
    .await
}

/// Returns all volumes, with how many bytes each takes.
///
/// # Errors
///
/// When a record cannot be read.
pub async fn sizes(engine: &Engine) -> Result<Vec<(Volume, u64)>, ListVolumesError> {
    let all = list(engine, Vec::new()).await?;
    let sized =
        move || all.into_iter().map(|volume| (size(&volume.mountpoint), volume)).map(|(size, volume)| (volume, size));
    Ok(store::blocking::run(move || sized().collect()).await)
}

/// Describes a volume.
///
/// # Errors
///
/// When there is none of this name.
pub async fn inspect(engine: &Engine, name: String) -> Result<Volume, VolumeError> {
    let volumes = Volumes::new(engine.store().layout());
    store::blocking::run(move || Ok(describe(&volumes, volumes.find(&name)?))).await
}

/// Removes a volume that no container has.
///
/// # Errors
///
/// When one has it, or there is no such volume.
pub async fn remove(engine: &Engine, name: String) -> Result<(), VolumeError> {
    let volumes = Volumes::new(engine.store().layout());
    store::blocking::run(move || volumes.remove(&name)).await
}

/// What was pruned.
#[derive(Clone, Debug, Default)]
pub struct PrunedVolumes {
    /// Names.
    pub names: Vec<String>,
    /// How many bytes they took.
    pub bytes: u64,
}

/// Removes the volumes that no container has: those that nobody named, or all.
///
/// # Errors
///
/// When a record cannot be read, or a volume cannot be removed.
pub async fn prune(engine: &Engine, all: bool, filter: PruneFilter) -> Result<PrunedVolumes, ListVolumesError> {
    let volumes = Volumes::new(engine.store().layout());
    store::blocking::run(move || {
        let mut pruned = PrunedVolumes::default();
        for record in volumes.list()? {
            let meant = (all || record.anonymous) && filter.admits(Some(record.created), &record.labels);
            if !meant || !volumes.users(&record.name)?.is_empty() {
                continue;
            }
            let bytes = size(&volumes.data(&record.name));
            match volumes.remove(&record.name) {
                Ok(()) => {
                    pruned.names.push(record.name);
                    pruned.bytes += bytes;
                }
                // Somebody came, or another pruned it.
                Err(VolumeError::InUse { .. } | VolumeError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(pruned)
    })
    .await
}

/// How many bytes the files below a folder take; what cannot be read counts for nothing.
fn size(folder: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    };
    entries.map(of).sum()
}
