//! Files that are there whole or not at all, even after a crash of the machine.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::FileError;
use crate::file_error::During;

/// Replaces a file, or makes it, with mode 0644 less the umask.
///
/// The bytes go to a temporary file beside it first, so that readers see the old file or the new one. When this
/// returns, the new one survives a crash of the machine. Missing parent folders are made.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write_with_mode(path, bytes, 0o644)
}

/// Replaces a file, or makes it, with a mode less the umask: 0600 for secrets.
pub fn write_with_mode(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    write_and_place(path, bytes, mode, |temporary| fs::rename(temporary, path))
}

/// Makes a file with a mode less the umask, unless there is one: of several who try at once, all find the same bytes.
pub fn create_with_mode(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    write_and_place(path, bytes, mode, |temporary| {
        match fs::hard_link(temporary, path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
        fs::remove_file(temporary)
    })
}

fn write_and_place(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    place: impl FnOnce(&Path) -> std::io::Result<()>,
) -> Result<(), FileError> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let folder = parent(path);
    fs::create_dir_all(folder).during("create the folder", folder)?;
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".tmp-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)));
    let temporary = folder.join(name);
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary);
    let mut file = file.during("create", &temporary)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).during("write", path);
    let moved = written.and_then(|()| place(&temporary).during("replace", path));
    if moved.is_err() {
        // Whatever went wrong is reported; that the leftover stays too would not add to it.
        let _ = fs::remove_file(&temporary);
    }
    moved.and_then(|()| sync_folder(folder))
}

/// Makes the names in a folder survive a crash of the machine.
pub fn sync_folder(folder: &Path) -> Result<(), FileError> {
    File::open(folder).and_then(|file| file.sync_all()).during("sync the folder", folder)
}

/// Moves a finished temporary file to its place, making the folder when it is missing.
///
/// With `durable`, the name survives a crash of the machine when this returns (the bytes must be synced before).
pub(crate) fn place(temporary: &Path, path: &Path, durable: bool) -> Result<(), FileError> {
    let folder = parent(path);
    match replace(temporary, path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            make_folders(folder, durable)?;
            replace(temporary, path).during("create", path)?;
        }
        other => other.during("create", path)?,
    }
    if durable { sync_folder(folder) } else { Ok(()) }
}

/// Moves a file to a name that another may have.
///
/// The kernel keeps all renames between folders waiting while the disk frees what one of them replaced. So the old file
/// changes places with the new one, and is removed then.
fn replace(temporary: &Path, path: &Path) -> std::io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;
    match renameat_with(CWD, temporary, CWD, path, RenameFlags::NOREPLACE) {
        Err(Errno::EXIST) => match renameat_with(CWD, temporary, CWD, path, RenameFlags::EXCHANGE) {
            Ok(()) => fs::remove_file(temporary),
            // It is gone by now, or the file system cannot do that.
            Err(_) => fs::rename(temporary, path),
        },
        // Not every file system can.
        Err(Errno::INVAL | Errno::NOSYS) => fs::rename(temporary, path),
        other => Ok(other?),
    }
}

/// Makes a folder and its parents; with `durable`, each one's name survives a crash of the machine.
pub(crate) fn make_folders(folder: &Path, durable: bool) -> Result<(), FileError> {
    let missing: Vec<PathBuf> = folder.ancestors().take_while(|folder| !folder.exists()).map(Path::to_owned).collect();
    for folder in missing.iter().rev() {
        match fs::create_dir(folder) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            other => other.during("create the folder", folder)?,
        }
        if durable {
            sync_folder(parent(folder))?;
        }
    }
    Ok(())
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_and_no_temporary_stays() {
        let folder = tempfile::tempdir().expect("tempdir");
        let path = folder.path().join("a/b.json");
        write(&path, b"one").expect("written");
        write_with_mode(&path, b"two", 0o600).expect("replaced");
        assert_eq!(fs::read(&path).expect("readable"), b"two");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path().join("a")).expect("listed").count(), 1);
    }

    #[test]
    fn what_is_there_is_not_created_again() {
        let folder = tempfile::tempdir().expect("tempdir");
        let path = folder.path().join("secret");
        for bytes in [b"one", b"two"] {
            create_with_mode(&path, bytes, 0o600).expect("there");
            assert_eq!(fs::read(&path).expect("readable"), b"one");
        }
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 1);
    }

    #[test]
    fn a_folder_in_the_way_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().expect("tempdir");
        let path = folder.path().join("d");
        fs::create_dir(&path).expect("made");
        let error = write(&path, b"x").expect_err("refused");
        assert!(error.to_string().contains(path.to_str().expect("UTF-8")), "{error}");
        assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 1);
    }
}
