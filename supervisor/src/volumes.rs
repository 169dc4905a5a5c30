//! The volumes of a container that go away with it.

use store::Layout;

use crate::record::Record;

/// Gives up the anonymous volumes of a container that has been removed.
///
/// Those that lie in the container's own folder go with it.
pub(crate) fn release(record: &Record, layout: &Layout) {
    let folder = layout.container(&record.id);
    let volumes = record.mounts.iter().filter(|mount| mount.anonymous && !mount.source.starts_with(&folder));
    for volume in volumes {
        // What somebody else still needs, or what resists, stays: `volume prune` finds it.
        let _: std::io::Result<()> = layer::remove_tree(&volume.source);
    }
}
