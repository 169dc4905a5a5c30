//! Every path in the store.
//!
//! ```text
//! HOME/
//! ├── version                       "slipway store 1": a newer number is refused
//! ├── locks/
//! │   ├── open                      shared by every open store but those of `pinning`; exclusive while collecting
//! │   ├── pinning                   shared by open stores that pin all that they look at: pruning goes on beside them
//! │   ├── pruned                    as old as the last look at how much the build cache takes
//! │   ├── pins-N                    a byte for each digest that somebody relies on (see `pins`)
//! │   ├── collect                   held by the one process that collects or tries to
//! │   ├── sessions                  held for the moment in which a session is born or found dead
//! │   ├── images                    held for the moment in which a name changes
//! │   ├── containers                held for the moment in which a container gets or loses its name
//! │   ├── networks                  held for the moment in which a network comes or goes
//! │   ├── volumes                   held for the moment in which a volume comes or goes, or gets a container
//! │   ├── layers                    held for the moment in which a layer record changes
//! │   └── snapshots                 held for the moment in which a stale snapshot is replaced
//! ├── staging/
//! │   └── PID-N/                    all that one process has not finished
//! │       ├── lock                  held as long as that process lives
//! │       ├── bN                    a blob on its way
//! │       ├── fN                    a small file on its way
//! │       ├── lN/                   a layer being unpacked
//! │       ├── aN/{upper,work}       an active snapshot: what an overlay writes to
//! │       ├── sN/                   an empty folder that is to be used again
//! │       └── trash/N               something being thrown away
//! ├── idle/N/                       an empty one of these that the next process takes over
//! ├── partial/ALGORITHM-HEX         a download that another process may carry on, locked while in use
//! ├── blobs/ALGORITHM/HH/HEX        bytes by their digest, HH being the first two of HEX
//! ├── patches/ALGORITHM/HH/HEX      blobs that are kept as what they do not share with another
//! ├── images/REGISTRY/REPOSITORY/   `/` of the repository written as `!`
//! │   ├── TAG.json                  what the tag names, and since when
//! │   └── @ALGORITHM:HEX.json       an image that was asked for by digest
//! ├── untagged/ALGORITHM-HEX.json   images that are here without a name (docker's `<none>`)
//! ├── layers/ALGORITHM/HH/HEX.json  the forms of a layer's tar, by diff ID
//! ├── snapshots/HEX/                a stack of layers, by chain ID
//! │   ├── fs/                       the topmost layer's files, whiteouts as overlayfs has them
//! │   ├── meta.json                 the layer, the snapshot below, and the boot in which it was made
//! │   └── usage                     how many bytes it takes, once somebody counted
//! ├── empty/                        the lower folder of overlays that have no other
//! ├── floor/                        what containers mount on when their image lacks it
//! ├── cache/HH/HEX                  build cache records, by key
//! ├── cache/HH/HEX.list             the files that a record's key stands for, for `build --explain`
//! ├── cache-pruned                  the keys of records that were pruned lately, for `build --explain`
//! ├── builds/ID/                    what is remembered of a build, and all its logs (see `builds`)
//! ├── context-digests/HEX           digests of a build context's files, by the context's folder
//! ├── outlines/HEX                  where files lie in the layer of the last COPY of a kind, by the kind's key
//! ├── cache-mounts/ID/              contents of `RUN --mount=type=cache`
//! ├── containers/ID/                containers, see the crate `supervisor`; `keeps.json` names the layers that each stands on
//! ├── container-names/NAME          a link whose text is the ID of the container of this name
//! ├── networks/ID.json              networks of containers, see the crate `supervisor`
//! ├── volumes/NAME/                 volumes of containers
//! │   ├── record.json               what people know about it
//! │   ├── users/CONTAINER           the containers that have it
//! │   └── _data/                    what is mounted
//! ├── events                        what happened to containers, one line each
//! ├── registry-key                  what a push out of this home shows to a registry of it (see `registry::home`)
//! └── registry/                     what `slipway serve` keeps (see `registry::storage`)
//! ```

use std::path::{Path, PathBuf};

use oci::{ChainId, DiffId, Digest, Reference};

use crate::builds::BuildId;

/// The version that this program writes and understands.
pub const VERSION: u32 = 1;

/// Where everything is, below one folder.
#[derive(Clone, Debug)]
pub struct Layout {
    home: PathBuf,
}

impl Layout {
    /// Lays a store out below a folder.
    pub fn new(home: &Path) -> Self {
        Self { home: home.to_owned() }
    }

    /// Returns the folder that holds everything.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Returns the file that says how the rest is laid out.
    pub fn version(&self) -> PathBuf {
        self.home.join("version")
    }

    /// Returns the folder of lock files.
    pub fn locks(&self) -> PathBuf {
        self.home.join("locks")
    }

    /// Returns the lock file of a name.
    pub fn lock(&self, name: &str) -> PathBuf {
        self.locks().join(name)
    }

    /// Returns a lock file of which each byte stands for some digest.
    pub fn pins(&self, number: usize) -> PathBuf {
        self.lock(&format!("pins-{number:x}"))
    }

    /// Returns the folder of what is unfinished.
    pub fn staging(&self) -> PathBuf {
        self.home.join("staging")
    }

    /// Returns a place for what a process leaves to the next one.
    pub fn idle(&self, number: usize) -> PathBuf {
        self.home.join("idle").join(number.to_string())
    }

    /// Returns the folder of downloads that can be carried on.
    pub fn partials(&self) -> PathBuf {
        self.home.join("partial")
    }

    /// Returns the file of a download that can be carried on.
    pub fn partial(&self, digest: &Digest) -> PathBuf {
        self.partials().join(flat(digest))
    }

    /// Returns the folder of all blobs.
    pub fn blobs(&self) -> PathBuf {
        self.home.join("blobs")
    }

    /// Returns the file of a blob.
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        fanned(self.blobs(), digest).join(digest.hex())
    }

    /// Returns the folder of all patches.
    pub fn patches(&self) -> PathBuf {
        self.home.join("patches")
    }

    /// Returns the file of a blob that is kept as a patch.
    pub fn patch(&self, digest: &Digest) -> PathBuf {
        fanned(self.patches(), digest).join(digest.hex())
    }

    /// Returns the folder of all references.
    pub fn images(&self) -> PathBuf {
        self.home.join("images")
    }

    /// Returns the file of a reference. Two references share one only if they are the same image's same name:
    /// with a digest, the tag is only information and has no part in it.
    pub fn image(&self, reference: &Reference) -> PathBuf {
        // The grammar of references leaves no `!`, no `@`, no `..` and at most 255 bytes for the name, so each
        // part is one safe file name. A tag has no `@`, so it never looks like a digest.
        let repository = reference.repository().as_str().replace('/', "!");
        let name = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => format!("@{digest}.json"),
            (None, Some(tag)) => format!("{tag}.json"),
            (None, None) => "latest.json".to_owned(),
        };
        self.images().join(reference.registry()).join(repository).join(name)
    }

    /// Returns the folder of records about images without a name.
    pub fn untagged_all(&self) -> PathBuf {
        self.home.join("untagged")
    }

    /// Returns the record of an image without a name.
    pub fn untagged(&self, digest: &Digest) -> PathBuf {
        self.untagged_all().join(format!("{}.json", flat(digest)))
    }

    /// Returns the folder of layer records.
    pub fn layers(&self) -> PathBuf {
        self.home.join("layers")
    }

    /// Returns the record of a layer's forms.
    pub fn layer(&self, diff_id: &DiffId) -> PathBuf {
        fanned(self.layers(), &diff_id.0).join(format!("{}.json", diff_id.0.hex()))
    }

    /// Returns the folder of snapshots.
    pub fn snapshots(&self) -> PathBuf {
        self.home.join("snapshots")
    }

    /// Returns the folder of a snapshot. Short, because overlay mounts name many of them.
    pub fn snapshot(&self, chain: &ChainId) -> PathBuf {
        self.snapshots().join(chain.0.hex())
    }

    /// Returns the folder below all layers of a container, with what it mounts on.
    pub fn floor(&self) -> PathBuf {
        self.home.join("floor")
    }

    /// Returns the folder that is always empty.
    pub fn empty(&self) -> PathBuf {
        self.home.join("empty")
    }

    /// Returns the folder of build cache records.
    pub fn cache(&self) -> PathBuf {
        self.home.join("cache")
    }

    /// Returns the file of a build cache record.
    pub fn cache_record(&self, key: &Digest) -> PathBuf {
        self.cache().join(&key.hex()[..2]).join(key.hex())
    }

    /// Returns the file of what is too long for a build cache record.
    pub fn cache_list(&self, key: &Digest) -> PathBuf {
        self.cache().join(&key.hex()[..2]).join(format!("{}.list", key.hex()))
    }

    /// Returns the file that remembers what was pruned.
    pub fn cache_pruned(&self) -> PathBuf {
        self.home.join("cache-pruned")
    }

    /// Returns the file of what is known of a build context's files; `folder` is the digest of the context's path.
    pub fn context_digests(&self, folder: &Digest) -> PathBuf {
        self.home.join("context-digests").join(folder.hex())
    }

    /// Returns the folder of what is remembered of builds.
    pub fn builds(&self) -> PathBuf {
        self.home.join("builds")
    }

    /// Returns the file that says that builds may have outgrown their limits.
    pub fn builds_grew(&self) -> PathBuf {
        self.builds().join(".grew")
    }

    /// Returns the folder of a build.
    pub fn build(&self, id: &BuildId) -> PathBuf {
        self.builds().join(id.as_str())
    }

    /// Returns the file that a build writes while it goes on.
    pub fn build_journal(&self, id: &BuildId) -> PathBuf {
        self.build(id).join("journal")
    }

    /// Returns the record of a build that is over.
    pub fn build_record(&self, id: &BuildId) -> PathBuf {
        self.build(id).join("record.json")
    }

    /// Returns the log of a step, by its number from 1.
    pub fn build_log(&self, id: &BuildId, step: usize) -> PathBuf {
        self.build(id).join("logs").join(step.to_string())
    }

    /// Returns the page with the timeline of a build.
    pub fn build_page(&self, id: &BuildId) -> PathBuf {
        self.build(id).join("timeline.html")
    }

    /// Returns the folder of a failed step's files.
    pub fn build_kept(&self, id: &BuildId, step: usize) -> PathBuf {
        self.build(id).join("kept").join(step.to_string())
    }

    /// Returns the folder of outlines.
    pub fn outlines(&self) -> PathBuf {
        self.home.join("outlines")
    }

    /// Returns the file that tells where the files of a layer lie; `key` is that of a kind of COPY.
    pub fn outline(&self, key: &Digest) -> PathBuf {
        self.outlines().join(key.hex())
    }

    /// Returns the folder of cache mounts' contents.
    pub fn cache_mounts(&self) -> PathBuf {
        self.home.join("cache-mounts")
    }

    /// Returns the folder of a cache mount that begins empty.
    pub fn cache_mount(&self, id: &str) -> PathBuf {
        self.cache_mounts().join(&Digest::sha256(id.as_bytes()).hex()[..32])
    }

    /// Returns where the disk usage of a snapshot is remembered.
    pub fn snapshot_usage(&self, chain: &ChainId) -> PathBuf {
        self.snapshot(chain).join("usage")
    }

    /// Returns the folder of containers.
    pub fn containers(&self) -> PathBuf {
        self.home.join("containers")
    }

    /// Returns the folder of a container.
    pub fn container(&self, id: &str) -> PathBuf {
        self.containers().join(id)
    }

    /// Returns the folder of containers' names.
    pub fn container_names(&self) -> PathBuf {
        self.home.join("container-names")
    }

    /// Returns the link that a container's name is; the caller has checked that it is one.
    pub fn container_name(&self, name: &str) -> PathBuf {
        self.container_names().join(name)
    }

    /// Returns the folder of networks' records.
    pub fn networks(&self) -> PathBuf {
        self.home.join("networks")
    }

    /// Returns the record of a network.
    pub fn network(&self, id: &str) -> PathBuf {
        self.networks().join(format!("{id}.json"))
    }

    /// Returns the folder of volumes.
    pub fn volumes(&self) -> PathBuf {
        self.home.join("volumes")
    }

    /// Returns the folder of a volume; the caller has checked that its name is one.
    pub fn volume(&self, name: &str) -> PathBuf {
        self.volumes().join(name)
    }

    /// Returns the folder that is mounted for a volume.
    pub fn volume_data(&self, name: &str) -> PathBuf {
        self.volume(name).join("_data")
    }

    /// Returns the record of a volume.
    pub fn volume_record(&self, name: &str) -> PathBuf {
        self.volume(name).join("record.json")
    }

    /// Returns the folder of the containers that have a volume.
    pub fn volume_users(&self, name: &str) -> PathBuf {
        self.volume(name).join("users")
    }

    /// Returns the file of what happened to containers.
    pub fn events(&self) -> PathBuf {
        self.home.join("events")
    }

    /// Returns the folder of the registry that is served out of this home.
    pub fn registry(&self) -> PathBuf {
        self.home.join("registry")
    }

    /// Returns the file of the secret by which a registry of this home knows pushes out of it.
    pub fn registry_key(&self) -> PathBuf {
        self.home.join("registry-key")
    }
}

fn flat(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm().as_str(), digest.hex())
}

fn fanned(folder: PathBuf, digest: &Digest) -> PathBuf {
    folder.join(digest.algorithm().as_str()).join(&digest.hex()[..2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_references_share_a_file() {
        let layout = Layout::new(Path::new("/h"));
        let digest = Digest::sha256(b"x");
        let mut seen = std::collections::HashSet::new();
        let texts = [
            "a".to_owned(),
            "a/b".into(),
            "a/b/c".into(),
            "a.b/c".into(),
            "a.b:1/c".into(),
            "a-b".into(),
            "a__b".into(),
            "a:b".into(),
            "localhost/a".into(),
            "LOCALHOST/a".into(),
            "[::1]:5000/a".into(),
            format!("a@{digest}"),
            format!("a:sha256-{}", digest.hex()),
        ];
        for text in &texts {
            let reference: Reference = text.parse().expect(text);
            let path = layout.image(&reference);
            assert_eq!(path.components().count(), Path::new("/h/images/r/n/t").components().count(), "{path:?}");
            assert!(seen.insert(path), "{text}");
        }
    }

    #[test]
    fn the_longest_reference_fits_in_file_names() {
        let layout = Layout::new(Path::new("/h"));
        let text = format!("{}:{}", "a".repeat(235), "t".repeat(128));
        let path = layout.image(&text.parse().expect("valid"));
        assert!(path.components().all(|part| part.as_os_str().len() <= 255));
    }
}
