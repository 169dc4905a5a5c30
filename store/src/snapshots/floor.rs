//! The floor of a container: folders and empty files that it mounts on, below all layers of its image.
//!
//! ```text
//! floor/   dev/  etc/hosts  etc/resolv.conf  proc/  sys/
//! ```
//!
//! Without it they would be made in the upper folder, and removed again, for each step of a build.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use layer::remove_tree;

use super::{Snapshots, make_folder};
use crate::FileError;
use crate::file_error::During;
use crate::session::Home;

/// Folders, each before what is in it.
const FOLDERS: [&str; 5] = ["", "dev", "etc", "proc", "sys"];
const FILES: [&str; 2] = ["etc/hosts", "etc/resolv.conf"];

impl Snapshots {
    /// Returns the floor, making it when it is missing.
    pub(super) fn floor(&self) -> Result<PathBuf, FileError> {
        let floor = self.home.layout().floor();
        if self.home.has_floor.get().is_none() {
            if !floor.exists() {
                make(&self.home, &floor)?;
            }
            // Another thread may have said so meanwhile.
            let _: Result<(), ()> = self.home.has_floor.set(());
        }
        Ok(floor)
    }
}

/// Makes it aside, so that it is there whole or not at all. It looks the same whenever it was made.
fn make(home: &Home, floor: &Path) -> Result<(), FileError> {
    let aside = home.temporary('s')?;
    for name in FOLDERS {
        make_folder(&aside.join(name), 0o755)?;
    }
    let paths = FILES.iter().chain(FOLDERS.iter().rev()).map(|name| aside.join(name));
    for (path, is_file) in paths.zip(FILES.iter().map(|_| true).chain(FOLDERS.iter().map(|_| false))) {
        let opened = if is_file { fs::File::create(&path) } else { fs::File::open(&path) };
        let times = opened.and_then(|file| {
            if is_file {
                file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
            }
            file.set_modified(UNIX_EPOCH)
        });
        times.during("create", &path)?;
    }
    match fs::rename(&aside, floor) {
        // Another was faster.
        Err(_) if floor.exists() => remove_tree(&aside).during("remove", &aside),
        other => other.during("create", floor),
    }
}
