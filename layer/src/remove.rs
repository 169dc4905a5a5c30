//! Removing folders whose content somebody else chose.

use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

/// Removes a folder and all below it, or a file. It is no error when it is not there.
///
/// Symlinks are removed, never followed. Depth does not matter: a folder that is not empty is first moved up to
/// the top, so there is neither recursion nor more than two open folders. Folders without permissions are given
/// some. Several processes may remove the same folder; for each it is gone afterwards.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    const OTHERS: u32 = 1000;
    for _ in 0..OTHERS {
        match remove_tree_at(rustix::fs::CWD, path) {
            // Another one is at it, too: what vanished or came up meanwhile is its doing.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {}
            other => return other,
        }
    }
    remove_tree_at(rustix::fs::CWD, path)
}

/// Does the same with a path below an open folder.
pub(crate) fn remove_tree_at(at: BorrowedFd<'_>, path: impl rustix::path::Arg + Copy) -> io::Result<()> {
    match rustix::fs::unlinkat(at, path, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let top = open_folder(at, path)?;
    let mut waiting = VecDeque::new();
    for name in names(top.as_fd())? {
        if !remove_entry(top.as_fd(), &name)? {
            waiting.push_back(name);
        }
    }
    let mut counter = 0_u64;
    while let Some(folder_name) = waiting.pop_front() {
        let folder = open_folder(top.as_fd(), folder_name.as_c_str())?;
        for name in names(folder.as_fd())? {
            if !remove_entry(folder.as_fd(), &name)? {
                waiting.push_back(move_up(folder.as_fd(), &name, top.as_fd(), &mut counter)?);
            }
        }
        rustix::fs::unlinkat(top.as_fd(), folder_name.as_c_str(), AtFlags::REMOVEDIR)?;
    }
    match rustix::fs::unlinkat(at, path, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Removes a file or an empty folder; `false` means that it is a folder with something in it.
fn remove_entry(folder: BorrowedFd<'_>, name: &CStr) -> io::Result<bool> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    match rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        // Not a folder after all, so the first attempt's error was the true one.
        Err(Errno::NOTDIR) => Err(Errno::PERM.into()),
        Err(error) => Err(error.into()),
    }
}

/// Moves a folder to the top under a name that is free there, and returns the name.
fn move_up(from: BorrowedFd<'_>, name: &CStr, top: BorrowedFd<'_>, counter: &mut u64) -> io::Result<CString> {
    let mut may_retry = true;
    loop {
        let new_name = CString::new(format!("{counter}")).expect("digits have no NUL");
        *counter += 1;
        match rustix::fs::renameat_with(from, name, top, &new_name, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(new_name),
            Err(Errno::EXIST) => {}
            // Moving a folder writes its `..`, for which it must be writable itself.
            Err(Errno::ACCESS) if may_retry => {
                may_retry = false;
                rustix::fs::chmodat(from, name, Mode::RWXU, AtFlags::empty())?;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn open_folder(at: BorrowedFd<'_>, name: impl rustix::path::Arg + Copy) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = match rustix::fs::openat(at, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            // `unlinkat` said that this is a folder, so there is no symlink to follow.
            rustix::fs::chmodat(at, name, Mode::RWXU, AtFlags::empty())?;
            rustix::fs::openat(at, name, flags, Mode::empty())?
        }
        other => other?,
    };
    if !rustix::process::geteuid().is_root() {
        rustix::fs::fchmod(&folder, Mode::RWXU)?;
    }
    Ok(folder)
}

fn names(folder: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn several_may_remove_the_same_folder() {
        let folder = tempfile::tempdir().expect("tempdir");
        for round in 0..30 {
            let tree = folder.path().join(round.to_string());
            for outer in 0..10 {
                fs::create_dir_all(tree.join(format!("{outer}/x/y/z"))).expect("made");
                fs::File::create(tree.join(format!("{outer}/x/file"))).expect("made");
            }
            std::thread::scope(|scope| {
                let removing: Vec<_> = (0..4).map(|_| scope.spawn(|| remove_tree(&tree))).collect();
                for one in removing {
                    one.join().expect("no panic").expect("removed");
                    assert!(!tree.exists());
                }
            });
        }
    }

    #[test]
    fn symlinks_are_removed_and_their_targets_stay() {
        let folder = tempfile::tempdir().expect("tempdir");
        let outside = folder.path().join("outside");
        fs::create_dir_all(outside.join("keep")).expect("made");
        let tree = folder.path().join("tree");
        fs::create_dir_all(tree.join("a/0")).expect("made");
        fs::create_dir_all(tree.join("0/0/x")).expect("made");
        symlink(&outside, tree.join("a/link")).expect("linked");
        symlink(&outside, tree.join("1")).expect("linked");
        fs::create_dir_all(tree.join("a/closed/in")).expect("made");
        fs::set_permissions(tree.join("a/closed"), fs::Permissions::from_mode(0o0)).expect("closed");
        remove_tree(&tree).expect("removed");
        assert!(!tree.exists());
        assert!(outside.join("keep").exists());
        remove_tree(&tree).expect("nothing to do");
    }

    #[test]
    fn a_tree_deeper_than_any_path_is_removed() {
        let folder = tempfile::tempdir().expect("tempdir");
        let tree = folder.path().join("tree");
        fs::create_dir(&tree).expect("made");
        let mut at = open_folder(rustix::fs::CWD, tree.as_path()).expect("opened");
        for _ in 0..5000 {
            rustix::fs::mkdirat(&at, c"d", Mode::RWXU).expect("made");
            at = open_folder(at.as_fd(), c"d").expect("opened");
        }
        remove_tree(&tree).expect("removed");
        assert!(!tree.exists());
    }
}
