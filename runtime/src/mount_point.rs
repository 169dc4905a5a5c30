//! Folders and empty files that came to be only to be mounted on, and how they go away again.

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A folder or empty file that came to be only to be mounted on.
#[derive(Debug)]
pub(crate) struct MountPointMade {
    /// As the child's mount namespace names it: below `upper`, where the root was mounted.
    path: PathBuf,
    folder: bool,
    /// When the folder that it is in was changed last before that.
    seconds: i64,
    nanos: u32,
}

/// Reads what the child says of one.
pub(crate) fn parse_made(bytes: &[u8]) -> Option<MountPointMade> {
    Some(MountPointMade {
        seconds: i64::from_ne_bytes(bytes.get(1..9)?.try_into().ok()?),
        nanos: u32::from_ne_bytes(bytes.get(9..13)?.try_into().ok()?),
        folder: *bytes.get(13)? != 0,
        path: PathBuf::from(OsStr::from_bytes(bytes.get(14..)?)),
    })
}

/// Removes a mount point that is still as empty as it was made, and gives its folder its time back.
pub(crate) fn remove_mount_point(upper: &Path, made: &MountPointMade) {
    // Never outside of upper, and by a path without links: the container is gone, nobody changes it now.
    let Ok(inside) = made.path.strip_prefix(upper) else { return };
    let (Some(parent), Some(name)) = (inside.parent(), inside.file_name()) else { return };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(root) = rustix::fs::open(upper, flags, Mode::empty()) else { return };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(folder) = rustix::fs::openat2(&root, parent, flags, Mode::empty(), resolve) else { return };
    let removed = if made.folder {
        rustix::fs::unlinkat(&folder, name, AtFlags::REMOVEDIR)
    } else {
        match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if stat.st_size == 0 && rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() => {
                rustix::fs::unlinkat(&folder, name, AtFlags::empty())
            }
            Ok(_) => return,
            Err(error) => Err(error),
        }
    };
    if removed.is_ok() {
        let times = rustix::fs::Timestamps {
            last_access: rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
            last_modification: rustix::fs::Timespec { tv_sec: made.seconds, tv_nsec: made.nanos.into() },
        };
        // A folder whose time cannot be set back is a difference that the layer then shows; no more.
        let _ = rustix::fs::futimens(&folder, &times);
    }
}
