//! Removes what killed processes of ours left behind.

use crate::network::SweptNetworks;
use std::fs::DirEntry;
use std::path::Path;

/// Where to look for what was left, beside the cgroups.
#[derive(Clone, Copy, Debug, Default)]
pub struct Places<'a> {
    /// Where addresses on the bridge are leased.
    pub network_state: Option<&'a Path>,
    /// A folder of files and folders that [`owned_name`](crate::owned_name) named.
    pub files: Option<&'a Path>,
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Cgroups whose owner is dead.
    pub cgroups: usize,
    /// Addresses, published ports and networks whose owner is gone.
    pub networks: SweptNetworks,
    /// Files and folders whose owner is dead.
    pub files: usize,
}

/// Removes cgroups, files, and what belongs to networks, whose owner is dead.
pub fn sweep(places: Places<'_>) -> Swept {
    Swept {
        cgroups: crate::cgroups::sweep(),
        networks: places.network_state.map(crate::network::sweep).unwrap_or_default(),
        files: places.files.map_or(0, sweep_files),
    }
}

/// Removes files and folders with an owner who is dead.
pub(crate) fn sweep_files(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let stale = entries.filter(|entry| crate::owner::is_stale(&entry.file_name()));
    let is_folder = |entry: &DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    stale
        .filter(|entry| match is_folder(entry) {
            true => std::fs::remove_dir_all(entry.path()).is_ok(),
            false => std::fs::remove_file(entry.path()).is_ok(),
        })
        .count()
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test writes files")]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_dead_go_and_those_of_the_living_stay() {
        let folder = tempfile::tempdir().unwrap();
        let living = crate::owned_name("x");
        let dead = format!("{living}9");
        for name in [living.as_str(), &dead, "other"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let dead_folder = folder.path().join(format!("{living}8"));
        std::fs::create_dir(&dead_folder).unwrap();
        std::fs::write(dead_folder.join("secret"), "").unwrap();
        assert_eq!(sweep_files(folder.path()), 2);
        assert!(!dead_folder.exists());
        assert!(folder.path().join(&living).exists() && folder.path().join("other").exists());
        assert!(!folder.path().join(&dead).exists());
    }
}
