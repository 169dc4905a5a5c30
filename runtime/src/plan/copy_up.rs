//! A tmpfs that starts with what the root has in its place (`tmpcopyup`).

use super::mounts::MountPlanKind;
use crate::sys;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

/// So deep are folders copied; deeper ones are a mistake or an attack.
const DEEPEST: u32 = 256;

/// Makes a tmpfs, detached, with a copy of the folder `target` of `root`, if there is one.
pub(super) fn tmpfs_with(
    root: &Path,
    target: &Path,
    options: &[(CString, Option<CString>)],
    attributes: u64,
) -> io::Result<MountPlanKind> {
    let tree = new_tmpfs(options, attributes & !sys::MOUNT_ATTR_RDONLY).map_err(io::Error::from_raw_os_error)?;
    // SAFETY: the kernel has just made it.
    let tree = unsafe { OwnedFd::from_raw_fd(tree) };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(&root, target, flags, Mode::empty(), resolve) {
        Ok(source) => {
            let into = rustix::fs::openat(&tree, c".", flags, Mode::empty())?;
            copy_folder(&source, into.as_fd(), DEEPEST)?;
            // What the options say about the folder itself holds.
            let said = |name: &CStr| options.iter().any(|(key, _)| key.as_c_str() == name);
            let stat = rustix::fs::fstat(&source)?;
            if !said(c"uid") && !said(c"gid") {
                rustix::fs::fchown(&into, Some(user(&stat)), Some(group(&stat)))?;
            }
            if !said(c"mode") {
                rustix::fs::fchmod(&into, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
            }
        }
        Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    if attributes & sys::MOUNT_ATTR_RDONLY != 0 {
        use std::os::fd::AsRawFd;
        let sealed = sys::MountAttributes { set: sys::MOUNT_ATTR_RDONLY, ..Default::default() };
        sys::mount_setattr(tree.as_raw_fd(), &sealed, false).map_err(io::Error::from_raw_os_error)?;
    }
    Ok(MountPlanKind::Ready { tree })
}

fn new_tmpfs(options: &[(CString, Option<CString>)], attributes: u64) -> Result<sys::Fd, i32> {
    let fs = sys::fsopen(c"tmpfs")?;
    let configured = options.iter().try_for_each(|(key, value)| match value {
        Some(value) => sys::fsconfig_string(fs, key, value),
        None => sys::fsconfig_flag(fs, key),
    });
    let mount = configured.and_then(|()| sys::fsconfig_create(fs)).and_then(|()| sys::fsmount(fs, attributes));
    sys::close(fs);
    mount
}

fn user(stat: &Stat) -> rustix::process::Uid {
    rustix::process::Uid::from_raw(stat.st_uid)
}

fn group(stat: &Stat) -> rustix::process::Gid {
    rustix::process::Gid::from_raw(stat.st_gid)
}

/// Copies what is in a folder; links are copied, not followed.
fn copy_folder(from: &OwnedFd, into: BorrowedFd<'_>, deepest: u32) -> io::Result<()> {
    if deepest == 0 {
        return Err(io::Error::other("folders are nested too deeply"));
    }
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        let no_links = OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                rustix::fs::mkdirat(into, name, mode)?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | no_links;
                let inner = rustix::fs::openat(from, name, flags, Mode::empty())?;
                copy_folder(&inner, rustix::fs::openat(into, name, flags, Mode::empty())?.as_fd(), deepest - 1)?;
            }
            FileType::RegularFile => {
                // What became something else meanwhile keeps nobody waiting.
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | no_links;
                let mut source = File::from(rustix::fs::openat(from, name, flags, Mode::empty())?);
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | no_links;
                io::copy(&mut source, &mut File::from(rustix::fs::openat(into, name, flags, mode)?))?;
            }
            FileType::Symlink => {
                rustix::fs::symlinkat(rustix::fs::readlinkat(from, name, Vec::new())?, into, name)?;
            }
            kind => rustix::fs::mknodat(into, name, kind, mode, stat.st_rdev)?,
        }
        rustix::fs::chownat(into, name, Some(user(&stat)), Some(group(&stat)), AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            // Again, because of the umask and the change of owner.
            rustix::fs::chmodat(into, name, mode, AtFlags::empty())?;
        }
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
            last_modification: Timespec { tv_sec: stat.st_mtime as _, tv_nsec: stat.st_mtime_nsec as _ },
        };
        rustix::fs::utimensat(into, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}
