//! Tells what everything takes on the disk, and removes what nobody uses.

use std::collections::BTreeSet;

use jiff::Timestamp;
use oci::{Descriptor, Digest, Reference};
use store::{ImageError, Store};
use supervisor::{ContainerError, Containers, Record};

use super::rmi::Removed;
use crate::{Engine, containers};

/// What a kind of things takes on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// How many there are.
    pub total: usize,
    /// How many are in use.
    pub active: usize,
    /// How many bytes they take.
    pub size: u64,
    /// How many of them are of no use to anybody.
    pub reclaimable: u64,
}

/// What everything takes on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Images; a layer that several have is counted once.
    pub images: Usage,
    /// What containers wrote.
    pub containers: Usage,
    /// Volumes.
    pub volumes: Usage,
    /// The build cache, without what images share.
    pub cache: Usage,
}

/// Why it could not be told, or removed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum SystemError {
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error(transparent)]
    Volumes(#[from] super::volume::ListVolumesError),
    #[error(transparent)]
    Cache(#[from] store::PruneError),
}

/// Tells what everything takes on the disk.
///
/// # Errors
///
/// When the disk cannot be read.
pub async fn df(engine: &Engine, now: Timestamp) -> Result<DiskUsage, SystemError> {
    let (all, store) = (containers::all(engine), engine.store().clone());
    let (images, of_containers) = store::blocking::run(move || {
        let used: BTreeSet<Digest> = records(&all)?.into_iter().map(|record| record.image).collect();
        Ok::<_, SystemError>((images_usage(&store, &used)?, containers_usage(&all, now)?))
    })
    .await?;
    let mut volumes = Usage::default();
    for (volume, size) in super::volume::sizes(engine).await? {
        volumes.total += 1;
        volumes.size += size;
        if volume.links > 0 {
            volumes.active += 1;
        } else {
            volumes.reclaimable += size;
        }
    }
    let mut cache = Usage::default();
    for entry in super::du::du(engine).await? {
        cache.total += 1;
        cache.active += usize::from(entry.in_use);
        if !entry.shared {
            cache.size += entry.size;
            cache.reclaimable += if entry.in_use { 0 } else { entry.size };
        }
    }
    Ok(DiskUsage { images, containers: of_containers, volumes, cache })
}

/// The records of containers that can be read.
fn records(all: &Containers) -> Result<Vec<Record>, ContainerError> {
    Ok(all.list()?.into_iter().flatten().map(|container| container.record).collect())
}

/// The images that are here, each once, with its names.
pub(crate) fn images(store: &Store) -> Result<Vec<(Descriptor, Vec<Reference>)>, ImageError> {
    let mut images: Vec<(Descriptor, Vec<Reference>)> = Vec::new();
    for tagged in store.images().list()? {
        match images.iter_mut().find(|(descriptor, _)| descriptor.digest == tagged.descriptor.digest) {
            Some((_, names)) => names.push(tagged.reference),
            None => images.push((tagged.descriptor, vec![tagged.reference])),
        }
    }
    images.extend(store.images().list_untagged()?.into_iter().map(|untagged| (untagged.descriptor, Vec::new())));
    Ok(images)
}

fn images_usage(store: &Store, used: &BTreeSet<Digest>) -> Result<Usage, ImageError> {
    let mut usage = Usage::default();
    // Layers, with whether an image has them that a container is made of.
    let mut layers = std::collections::BTreeMap::new();
    for (descriptor, _) in images(store)? {
        usage.total += 1;
        // One that is not whole takes next to nothing.
        let Ok(image) = super::find::read(store, &descriptor, None) else { continue };
        let is_used = used.contains(&image.config_digest);
        usage.active += usize::from(is_used);
        let sizes = super::find::layer_sizes(store, &image)?;
        for ((diff_id, _), size) in image.layers()?.into_iter().zip(sizes) {
            let (_, needed) = layers.entry(diff_id.to_string()).or_insert((size, false));
            *needed |= is_used;
        }
    }
    for (size, needed) in layers.into_values() {
        usage.size += size;
        usage.reclaimable += if needed { 0 } else { size };
    }
    Ok(usage)
}

fn containers_usage(all: &Containers, now: Timestamp) -> Result<Usage, ContainerError> {
    let mut usage = Usage::default();
    for container in all.list()?.into_iter().flatten() {
        let state = match container.state(now) {
            Err(ContainerError::NotFound { .. }) => continue,
            other => other?,
        };
        let size = super::ps::folder_size(&container.upper());
        usage.total += 1;
        usage.size += size;
        if state.status.is_alive() {
            usage.active += 1;
        } else {
            usage.reclaimable += size;
        }
    }
    Ok(usage)
}

/// Removes images that no container is made of: those without a name, or all. Their blobs go with the build cache.
///
/// # Errors
///
/// When the names or a container cannot be read, or an image cannot be removed.
pub async fn prune_images(engine: &Engine, all: bool) -> Result<Vec<Removed>, SystemError> {
    let (containers, store) = (containers::all(engine), engine.store().clone());
    store::blocking::run(move || {
        let mut removed = Vec::new();
        for (descriptor, names) in images(&store)? {
            if !all && !names.is_empty() {
                continue;
            }
            // A container may have been made of it since the last one was removed.
            let mut used = BTreeSet::new();
            for container in containers.list()? {
                used.insert(container?.record.manifest);
            }
            let image = super::find::read(&store, &descriptor, None).ok();
            let is_used = used.contains(&descriptor.digest)
                || image.as_ref().is_some_and(|image| used.contains(&image.descriptor.digest));
            if is_used {
                continue;
            }
            for name in names {
                // It may have become another's.
                if store.images().untag_from(&name, &descriptor.digest)? {
                    removed.push(Removed::Untagged(name));
                }
            }
            // It may have got a name that was not listed.
            if store.images().list()?.iter().all(|named| named.descriptor.digest != descriptor.digest) {
                store.images().forget(&descriptor.digest)?;
                removed.push(Removed::Deleted(image.map_or(descriptor.digest, |image| image.config_digest)));
            }
        }
        Ok(removed)
    })
    .await
}
