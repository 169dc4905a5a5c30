//! Throwing away what nothing refers to.

use std::collections::HashSet;
use std::fs;

use oci::{ChainId, Descriptor, DiffId, Digest, Parsed};
use serde::Deserialize;

use crate::blobs::names;
use crate::file_error::{During, found};
use crate::images::MAX_CONFIG;
use crate::{BlobError, BuildCacheError, FileError, ImageError, Store};

/// What a collection gave back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reclaimed {
    /// How many blobs were removed.
    pub blobs: u64,
    /// How many snapshots were removed.
    pub snapshots: u64,
    /// How many bytes the removed blobs had.
    pub bytes: u64,
}

/// Why nothing was collected.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum CollectError {
    #[error("the store is in use")]
    Busy,
    #[error("cannot tell what the images use")]
    Image(#[from] ImageError),
    #[error("`{path}` does not tell which layers the container uses")]
    Container { path: std::path::PathBuf, source: serde_json::Error },
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    Cache(#[from] BuildCacheError),
    #[error(transparent)]
    File(#[from] FileError),
}

impl Store {
    /// Removes blobs, layer records and snapshots that nothing refers to, snapshots of an earlier boot, and downloads
    /// that nobody carries on.
    ///
    /// In use is what images (with a name or without), build cache records and containers name. Before anything is removed, all of them have been read, so a crash at any moment leaves every
    /// reference whole.
    ///
    /// Gives [`CollectError::Busy`] at once while any other process has the store open, or this one has a blob or
    /// an active snapshot unfinished; what this one begins meanwhile waits. So a server may collect at any time: what
    /// clients push is named under the same claim that brings it in. Whoever else stores a blob first and names it
    /// later, as a pull does, must not let this run in between.
    pub fn collect(&self) -> Result<Reclaimed, CollectError> {
        // A record on its way keeps layers, too.
        self.home_parts().later().rest();
        let Some(_collecting) = self.home_parts().begin_collecting() else { return Err(CollectError::Busy) };
        let work = || {
            let used = self.mark()?;
            self.sweep(&used)
        };
        self.home_parts().alone(work)?.unwrap_or(Err(CollectError::Busy))
    }

    fn mark(&self) -> Result<Used, CollectError> {
        let mut used = Used::default();
        self.mark_without_cache(&mut used)?;
        for keeps in self.build_cache().kept()? {
            used.layers.extend(keeps.layers);
            used.chains.extend(keeps.chain);
        }
        self.mark_forms(&mut used)?;
        Ok(used)
    }

    /// Marks what is in use whatever the build cache says.
    pub(crate) fn mark_without_cache(&self, used: &mut Used) -> Result<(), CollectError> {
        let images = self.images();
        for image in images.list()? {
            self.mark_image(&image.descriptor, used)?;
        }
        for image in images.list_untagged()? {
            self.mark_image(&image.descriptor, used)?;
        }
        let containers = self.layout().containers();
        for name in names(&containers)? {
            let path = containers.join(name).join("keeps.json");
            if let Some(bytes) = found(fs::read(&path)).during("read", &path)? {
                let keeps: Keeps =
                    serde_json::from_slice(&bytes).map_err(|source| CollectError::Container { path, source })?;
                used.stack(&keeps.diff_ids);
            }
        }
        self.mark_forms(used)
    }

    pub(crate) fn mark_forms(&self, used: &mut Used) -> Result<(), CollectError> {
        for diff_id in &used.layers {
            used.blobs.insert(diff_id.0.clone());
            for form in self.layers().recorded(diff_id)? {
                used.blobs.insert(form.digest);
            }
        }
        for digest in used.blobs.clone() {
            used.blobs.extend(self.blobs().base(&digest)?);
        }
        Ok(())
    }

    /// Marks all that a manifest or index leads to, as far as it is here.
    fn mark_image(&self, top: &Descriptor, used: &mut Used) -> Result<(), CollectError> {
        let mut waiting = vec![top.clone()];
        while let Some(descriptor) = waiting.pop() {
            if !used.blobs.insert(descriptor.digest.clone()) {
                continue;
            }
            match self.images().parse(&descriptor) {
                Ok(Parsed::Index(index)) => waiting.extend(index.manifests),
                Ok(Parsed::Manifest(manifest)) => {
                    used.blobs.extend(manifest.layers.into_iter().map(|layer| layer.digest));
                    used.blobs.insert(manifest.config.digest.clone());
                    used.stack(&self.diff_ids(&manifest.config.digest)?);
                }
                Err(ImageError::Blob(BlobError::File(error))) => return Err(error.into()),
                // Not pulled, or damaged: then it leads nowhere.
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Returns the diff IDs of a config; none when it is not here or not an image's.
    fn diff_ids(&self, config: &Digest) -> Result<Vec<DiffId>, CollectError> {
        match self.blobs().read(config, MAX_CONFIG) {
            Ok(bytes) => {
                let config = serde_json::from_slice::<oci::ImageConfig>(&bytes).ok();
                Ok(config.map(|config| config.rootfs.diff_ids).unwrap_or_default())
            }
            Err(BlobError::File(error)) => Err(error.into()),
            Err(_) => Ok(Vec::new()),
        }
    }

    /// Removes what is not used: first what refers, then what is referred to.
    fn sweep(&self, used: &Used) -> Result<Reclaimed, CollectError> {
        let mut reclaimed = Reclaimed::default();
        let layout = self.layout();
        let kept: HashSet<_> = used.layers.iter().map(|diff_id| layout.layer(diff_id)).collect();
        for algorithm in names(&layout.layers())? {
            let folder = layout.layers().join(algorithm);
            for prefix in names(&folder)? {
                for name in names(&folder.join(&prefix))? {
                    let path = folder.join(&prefix).join(name);
                    if !kept.contains(&path) {
                        found(fs::remove_file(&path)).during("remove", &path)?;
                    }
                }
            }
        }
        // Those of an earlier boot will be unpacked again when they are needed.
        let mut kept = HashSet::new();
        for chain in &used.chains {
            // With those that it stands on, which nothing else may name.
            let mut next = Some(chain.clone());
            while let Some(chain) = next {
                let Some(below) = self.snapshots().below(&chain)? else { break };
                next = if kept.insert(layout.snapshot(&chain)) { below } else { None };
            }
        }
        for name in names(&layout.snapshots())? {
            let path = layout.snapshots().join(name);
            if !kept.contains(&path) {
                self.home_parts().discard(&path)?;
                reclaimed.snapshots += 1;
            }
        }
        for digest in self.blobs().list()? {
            if used.blobs.contains(&digest) {
                continue;
            }
            let size = self.blobs().size(&digest)?.unwrap_or(0);
            if self.blobs().remove(&digest)? {
                reclaimed.blobs += 1;
                reclaimed.bytes += size;
            }
        }
        self.outlines().keep_only(&|base| used.blobs.contains(base))?;
        for name in names(&layout.partials())? {
            // Nobody else is here who could be at it.
            let path = layout.partials().join(name);
            found(fs::remove_file(&path)).during("remove", &path)?;
        }
        Ok(reclaimed)
    }
}

/// What is in use.
#[derive(Debug, Default)]
pub(crate) struct Used {
    pub(crate) blobs: HashSet<Digest>,
    pub(crate) layers: HashSet<DiffId>,
    pub(crate) chains: HashSet<ChainId>,
}

impl Used {
    /// Marks a stack of layers, lowest first, and every stack that it stands on.
    fn stack(&mut self, diff_ids: &[DiffId]) {
        let mut below: Option<ChainId> = None;
        for diff_id in diff_ids {
            let chain = below.map_or_else(|| ChainId::base(diff_id), |below| below.then(diff_id));
            self.layers.insert(diff_id.clone());
            self.chains.insert(chain.clone());
            below = Some(chain);
        }
    }
}

/// What `keeps.json` of a container says.
#[derive(Debug, Deserialize)]
struct Keeps {
    /// The stack of layers that the container stands on, lowest first.
    diff_ids: Vec<DiffId>,
}

#[cfg(test)]
mod tests;
