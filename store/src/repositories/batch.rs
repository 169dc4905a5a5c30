//! [`Batch`]: several small files that become durable together, for the price of little more than one.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::FileError;
use crate::atomic_file::{make_folders, sync_folder};
use crate::file_error::During;
use crate::session::Home;

/// How many files are synced at once.
const AT_ONCE: usize = 16;

/// Files that wait to be put into their places.
///
/// A journal writes out at once what is synced at the same time, so syncing together costs one wait for the disk
/// where one after the other costs one each.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    home: &'a Home,
    files: Vec<Staged>,
}

#[derive(Debug)]
struct Staged {
    temporary: PathBuf,
    file: File,
    path: PathBuf,
}

impl<'a> Batch<'a> {
    /// Starts without files.
    pub(super) fn new(home: &'a Home) -> Self {
        Self { home, files: Vec::new() }
    }

    /// Adds a file that is to be at `path`.
    pub(super) fn add(&mut self, path: PathBuf, bytes: &[u8]) -> Result<(), FileError> {
        let temporary = self.home.temporary('f')?;
        let mut file = File::create_new(&temporary).during("create", &temporary)?;
        let written = file.write_all(bytes).during("write", &path);
        self.files.push(Staged { temporary, file, path });
        written
    }

    /// Puts all files into their places, in the order in which they were added, and waits until they are there to
    /// stay. After a crash in the middle, those that are there are the first ones.
    pub(super) fn place(mut self) -> Result<(), FileError> {
        together(&self.files, |staged| staged.file.sync_data().during("sync", &staged.path))?;
        let mut folders: Vec<PathBuf> = Vec::new();
        while !self.files.is_empty() {
            let staged = &self.files[0];
            let folder = staged.path.parent().unwrap_or(&staged.path);
            make_folders(folder, true)?;
            fs::rename(&staged.temporary, &staged.path).during("create", &staged.path)?;
            if !folders.iter().any(|known| known == folder) {
                folders.push(folder.to_owned());
            }
            self.files.remove(0);
        }
        together(&folders, |folder: &PathBuf| sync_folder(folder as &Path))
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        for staged in &self.files {
            // The session's end removes it if this does not.
            let _ = fs::remove_file(&staged.temporary);
        }
    }
}

/// Does something that waits for the disk to all of some things at once.
fn together<T: Sync>(all: &[T], sync: impl Fn(&T) -> Result<(), FileError> + Sync) -> Result<(), FileError> {
    let sync = &sync;
    all.chunks(AT_ONCE).try_for_each(|some| match some {
        [one] => sync(one),
        _ => std::thread::scope(|scope| {
            let thread = || std::thread::Builder::new().name("sync".into());
            let threads: Vec<_> = some.iter().map(|one| thread().spawn_scoped(scope, move || sync(one))).collect();
            let ends = threads.into_iter().zip(some).map(|(thread, one)| match thread {
                Ok(thread) => thread.join().expect("syncing does not panic"),
                // Where there can be no more threads, this one does it.
                Err(_) => sync(one),
            });
            ends.collect::<Vec<_>>().into_iter().collect()
        }),
    })
}
