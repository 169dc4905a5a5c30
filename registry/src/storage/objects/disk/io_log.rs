//! [`Io`]: every change that the disk family makes, through one door, so that a test can tell what a power cut leaves.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
#[cfg(test)]
use std::sync::{Arc, Mutex};

/// Something that was done to a disk.
#[cfg(test)]
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// A file got its name.
    Create(PathBuf),
    /// Bytes went to a place in a file.
    Write(PathBuf, u64, Vec<u8>),
    /// A file was cut.
    Cut(PathBuf, u64),
    /// A file's bytes are safe, as they were after so many operations.
    SyncFile(PathBuf, usize),
    /// A folder's names are safe, as they were after so many operations; which folder makes no difference to the test.
    SyncFolder(usize),
    /// A file got another name.
    Rename(PathBuf, PathBuf),
    /// A file got a second name.
    Link(PathBuf, PathBuf),
    /// A name is gone.
    Remove(PathBuf),
    /// A folder was made.
    MakeFolder(PathBuf),
    /// Everything is safe, as it was after so many operations.
    SyncAll(usize),
    /// The test was told that what it did so far is safe: so many changes, so many data objects.
    Acknowledged(usize, usize),
}

/// Does things to a disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Io {
    #[cfg(test)]
    pub(super) log: Option<Arc<Mutex<Vec<Op>>>>,
}

impl Io {
    /// Returns how much was done.
    #[cfg(test)]
    fn done(&self) -> usize {
        self.log.as_ref().map_or(0, |log| log.lock().expect("not poisoned").len())
    }

    #[cfg(test)]
    pub(super) fn note(&self, op: impl FnOnce() -> Op) {
        if let Some(log) = &self.log {
            log.lock().expect("not poisoned").push(op());
        }
    }

    /// Makes a file, to read and to write; refuses one that is there.
    pub(super) fn create(&self, path: &Path) -> io::Result<File> {
        let file = File::options().read(true).write(true).create_new(true).open(path)?;
        #[cfg(test)]
        self.note(|| Op::Create(path.to_owned()));
        Ok(file)
    }

    /// Writes bytes to a place in a file.
    pub(super) fn write(&self, file: &File, path: &Path, at: u64, bytes: &[u8]) -> io::Result<()> {
        // Before, because a power cut may come in the middle.
        #[cfg(test)]
        self.note(|| Op::Write(path.to_owned(), at, bytes.to_vec()));
        #[cfg(not(test))]
        let _ = path;
        file.write_all_at(bytes, at)
    }

    /// Cuts a file.
    pub(super) fn cut(&self, file: &File, path: &Path, size: u64) -> io::Result<()> {
        #[cfg(test)]
        self.note(|| Op::Cut(path.to_owned(), size));
        #[cfg(not(test))]
        let _ = path;
        file.set_len(size)
    }

    /// Makes the bytes of a file safe.
    pub(super) fn sync(&self, file: &File, path: &Path) -> io::Result<()> {
        #[cfg(test)]
        let before = self.done();
        file.sync_data()?;
        #[cfg(test)]
        self.note(|| Op::SyncFile(path.to_owned(), before));
        #[cfg(not(test))]
        let _ = path;
        Ok(())
    }

    /// Makes the names in a folder safe.
    pub(super) fn sync_folder(&self, path: &Path) -> io::Result<()> {
        #[cfg(test)]
        let before = self.done();
        File::open(path)?.sync_all()?;
        #[cfg(test)]
        self.note(|| Op::SyncFolder(before));
        Ok(())
    }

    /// Gives a file another name.
    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)?;
        #[cfg(test)]
        self.note(|| Op::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    /// Gives a file a second name.
    pub(super) fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)?;
        #[cfg(test)]
        self.note(|| Op::Link(from.to_owned(), to.to_owned()));
        Ok(())
    }

    /// Removes a name, if it is there.
    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        if super::found(fs::remove_file(path))?.is_some() {
            #[cfg(test)]
            self.note(|| Op::Remove(path.to_owned()));
        }
        Ok(())
    }

    /// Makes a folder and those that it is in, and their names safe.
    pub(super) fn make_folders(&self, path: &Path) -> io::Result<()> {
        let missing: Vec<PathBuf> = path.ancestors().take_while(|it| !it.exists()).map(Path::to_owned).collect();
        for folder in missing.iter().rev() {
            self.make_folder(folder)?;
            self.sync_folder(folder.parent().unwrap_or(folder))?;
        }
        Ok(())
    }

    /// Makes a folder, unless it is there.
    pub(super) fn make_folder(&self, path: &Path) -> io::Result<()> {
        match fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
            Ok(()) => {
                #[cfg(test)]
                self.note(|| Op::MakeFolder(path.to_owned()));
                Ok(())
            }
        }
    }

    /// Removes a folder in which nothing is.
    pub(super) fn remove_folder(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)?;
        #[cfg(test)]
        self.note(|| Op::Remove(path.to_owned()));
        Ok(())
    }

    /// Makes everything safe that is on the disk of a folder.
    pub(super) fn sync_all(&self, folder: &Path) -> io::Result<()> {
        #[cfg(test)]
        let before = self.done();
        rustix::fs::syncfs(File::open(folder)?)?;
        #[cfg(test)]
        self.note(|| Op::SyncAll(before));
        Ok(())
    }
}
