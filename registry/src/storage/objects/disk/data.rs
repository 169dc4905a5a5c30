//! [`DiskData`]: data objects, one file each.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};
use jiff::Timestamp;
use tokio::task::JoinHandle;

use super::super::{Checkpoint, Content, Data, DataWriter, ObjectError, Page};
use super::io_log::Io;
use super::{Disk, failed, found};
use crate::storage::id::Id;

/// After so many bytes the disk is told to begin writing, so that not all is left for the end.
const FLUSH: u64 = 32 * 1024 * 1024;

/// Data objects in a folder.
#[derive(Clone, Debug)]
pub(super) struct DiskData {
    paths: Arc<Paths>,
    /// Keeps the threads of the disk.
    _disk: Disk,
}

#[derive(Debug)]
struct Paths {
    data: PathBuf,
    staging: PathBuf,
    io: Io,
}

impl DiskData {
    pub(super) fn new(folder: &Path, io: Io, disk: Disk) -> Self {
        Self { paths: Arc::new(Paths { data: folder.join("data"), staging: folder.join("staging"), io }), _disk: disk }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Paths) -> Result<T, ObjectError> + Send + 'static,
    ) -> Result<T, ObjectError> {
        let paths = self.paths.clone();
        store::blocking::run(move || work(&paths)).await
    }

    fn writer(&self, id: Id, file: File, size: u64, stays: bool) -> Box<dyn DataWriter> {
        let unfinished = Unfinished { paths: self.paths.clone(), id, file, stays: stays.into() };
        Box::new(Writer { unfinished: Arc::new(unfinished), size, flushed: size, flushing: None, named: false })
    }
}

impl Paths {
    fn data(&self, id: Id) -> PathBuf {
        self.data.join(id.to_string())
    }

    fn staged(&self, id: Id) -> PathBuf {
        self.staging.join(id.to_string())
    }
}

/// The file of a data object on its way.
#[derive(Debug)]
struct Unfinished {
    paths: Arc<Paths>,
    id: Id,
    /// Locked, so that nobody else writes to it.
    file: File,
    /// Whether somebody may have noted where it is, or it is finished.
    stays: AtomicBool,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.stays.load(Ordering::Relaxed) {
            // What cannot be removed now is swept later.
            let _ = self.paths.io.remove(&self.path());
        }
    }
}

/// A data object on its way.
#[derive(Debug)]
struct Writer {
    unfinished: Arc<Unfinished>,
    size: u64,
    /// How much the disk was told to write.
    flushed: u64,
    flushing: Option<JoinHandle<io::Result<()>>>,
    /// Whether its name in `staging` is safe.
    named: bool,
}

impl Unfinished {
    fn path(&self) -> PathBuf {
        self.paths.staged(self.id)
    }

    fn sync(&self) -> io::Result<()> {
        self.paths.io.sync(&self.file, &self.path())
    }
}

impl Writer {
    async fn blocking<T: Send + 'static>(
        &self,
        action: &'static str,
        work: impl FnOnce(&Unfinished) -> io::Result<T> + Send + 'static,
    ) -> Result<T, ObjectError> {
        let unfinished = self.unfinished.clone();
        let done = store::blocking::run(move || work(&unfinished)).await;
        done.map_err(|error| failed(action, &self.unfinished.path(), error))
    }

    /// Has the disk begin to write what came, beside what comes next.
    async fn flush_beside(&mut self) -> Result<(), ObjectError> {
        if self.size - self.flushed < FLUSH {
            return Ok(());
        }
        self.await_flush().await?;
        self.flushed = self.size;
        let unfinished = self.unfinished.clone();
        self.flushing = Some(tokio::spawn(store::blocking::run(move || unfinished.sync())));
        Ok(())
    }

    async fn await_flush(&mut self) -> Result<(), ObjectError> {
        if let Some(flushing) = self.flushing.take() {
            let flushed = flushing.await.map_err(io::Error::other).and_then(|flushed| flushed);
            flushed.map_err(|error| failed("write", &self.unfinished.path(), error))?;
        }
        Ok(())
    }
}

fn checkpoint(id: Id, size: u64) -> Checkpoint {
    Checkpoint { id, size, handle: None, parts: Vec::new(), tail: None }
}

#[async_trait]
impl DataWriter for Writer {
    async fn write(&mut self, pieces: &[Bytes]) -> Result<(), ObjectError> {
        let (pieces, mut at) = (pieces.to_vec(), self.size);
        self.size = self
            .blocking("write", move |unfinished| {
                let path = unfinished.path();
                for piece in &pieces {
                    unfinished.paths.io.write(&unfinished.file, &path, at, piece)?;
                    at += piece.len() as u64;
                }
                Ok(at)
            })
            .await?;
        self.flush_beside().await
    }

    async fn pause(&mut self) -> Result<Checkpoint, ObjectError> {
        self.await_flush().await?;
        let named = self.named;
        self.blocking("write", move |unfinished| {
            unfinished.sync()?;
            if named { Ok(()) } else { unfinished.paths.io.sync_folder(&unfinished.paths.staging) }
        })
        .await?;
        self.unfinished.stays.store(true, Ordering::Relaxed);
        (self.named, self.flushed) = (true, self.size);
        let Self { unfinished, size, .. } = self;
        Ok(checkpoint(unfinished.id, *size))
    }

    async fn pause_beside(&mut self) -> Result<BoxFuture<'static, Result<Checkpoint, ObjectError>>, ObjectError> {
        self.await_flush().await?;
        self.flushed = self.size;
        let Self { unfinished, size, .. } = self;
        let checkpoint = checkpoint(unfinished.id, *size);
        let (unfinished, path) = (unfinished.clone(), unfinished.path());
        let synced = tokio::spawn(store::blocking::run(move || {
            unfinished.sync()?;
            unfinished.paths.io.sync_folder(&unfinished.paths.staging)?;
            unfinished.stays.store(true, Ordering::Relaxed);
            Ok(())
        }));
        let paused = async move {
            let synced = synced.await.map_err(io::Error::other).and_then(|synced| synced);
            synced.map(|()| checkpoint).map_err(|error| failed("write", &path, error))
        };
        Ok(paused.boxed())
    }

    async fn finish(mut self: Box<Self>) -> Result<u64, ObjectError> {
        self.await_flush().await?;
        self.blocking("write", |unfinished| {
            let Paths { data, io, .. } = &*unfinished.paths;
            unfinished.sync()?;
            io.rename(&unfinished.path(), &unfinished.paths.data(unfinished.id))?;
            unfinished.stays.store(true, Ordering::Relaxed);
            io.sync_folder(data)
        })
        .await?;
        Ok(self.size)
    }

    async fn abort(self: Box<Self>) -> Result<(), ObjectError> {
        self.blocking("remove", |unfinished| unfinished.paths.io.remove(&unfinished.path())).await
    }
}

#[async_trait]
impl Data for DiskData {
    async fn begin(&self, id: Id) -> Result<Box<dyn DataWriter>, ObjectError> {
        let file = self.blocking(move |paths| {
            let path = paths.staged(id);
            let file = paths.io.create(&path).map_err(|error| failed("create", &path, error))?;
            file.try_lock().map_err(|_| ObjectError::Busy { what: id.to_string() })?;
            Ok(file)
        });
        Ok(self.writer(id, file.await?, 0, false))
    }

    async fn resume(&self, checkpoint: &Checkpoint) -> Result<Option<Box<dyn DataWriter>>, ObjectError> {
        let (id, size) = (checkpoint.id, checkpoint.size);
        let file = self.blocking(move |paths| {
            let path = paths.staged(id);
            let error = |error| failed("open", &path, error);
            let Some(file) = found(File::options().read(true).write(true).open(&path)).map_err(error)? else {
                return Ok(None);
            };
            file.try_lock().map_err(|_| ObjectError::Busy { what: id.to_string() })?;
            // Finished or discarded between opening and locking?
            if !path.exists() || file.metadata().map_err(error)?.len() < size {
                return Ok(None);
            }
            paths.io.cut(&file, &path, size).map_err(error)?;
            Ok(Some(file))
        });
        Ok(file.await?.map(|file| self.writer(id, file, size, true)))
    }

    async fn discard(&self, checkpoint: &Checkpoint) -> Result<(), ObjectError> {
        let id = checkpoint.id;
        self.blocking(move |paths| {
            let path = paths.staged(id);
            paths.io.remove(&path).map_err(|error| failed("remove", &path, error))
        })
        .await
    }

    async fn sweep(&self, before: Timestamp, known: &HashSet<Id>) -> Result<u64, ObjectError> {
        let known = known.clone();
        self.blocking(move |paths| {
            let error = |error| failed("list", &paths.staging, error);
            let mut swept = 0;
            for entry in fs::read_dir(&paths.staging).map_err(error)? {
                let entry = entry.map_err(error)?;
                let id = entry.file_name().to_str().and_then(|name| name.parse::<Id>().ok());
                let Some(id) = id.filter(|id| !known.contains(id)) else { continue };
                let path = paths.staged(id);
                // A file that somebody writes to is locked.
                let Some(file) = found(File::open(&path)).map_err(error)? else { continue };
                if file.try_lock().is_err() {
                    continue;
                }
                let written = file.metadata().and_then(|it| it.modified()).map_err(error)?;
                if Timestamp::try_from(written).is_ok_and(|written| written < before) {
                    paths.io.remove(&path).map_err(|error| failed("remove", &path, error))?;
                    swept += 1;
                }
            }
            Ok(swept)
        })
        .await
    }

    async fn read(&self, id: Id, range: Range<u64>) -> Result<Option<Content>, ObjectError> {
        // Opening takes less time than asking another thread to.
        let path = self.paths.data(id);
        let error = |error| failed("read", &path, error);
        let Some(file) = found(File::open(&path)).map_err(error)? else { return Ok(None) };
        if file.metadata().map_err(error)?.len() < range.end {
            return Err(ObjectError::Damaged { what: path.display().to_string(), version: None });
        }
        Ok(Some(Content::File { file, offset: range.start, length: range.end.saturating_sub(range.start) }))
    }

    async fn size(&self, id: Id) -> Result<Option<u64>, ObjectError> {
        let path = self.paths.data(id);
        let metadata = found(fs::metadata(&path)).map_err(|error| failed("read", &path, error))?;
        Ok(metadata.map(|metadata| metadata.len()))
    }

    async fn delete(&self, id: Id) -> Result<(), ObjectError> {
        self.blocking(move |paths| {
            let path = paths.data(id);
            paths.io.remove(&path).map_err(|error| failed("remove", &path, error))
        })
        .await
    }

    async fn list(&self, after: Option<Id>, limit: usize) -> Result<Page<(Id, u64, Timestamp)>, ObjectError> {
        self.blocking(move |paths| {
            let error = |error| failed("list", &paths.data, error);
            let mut ids: Vec<Id> = Vec::new();
            for entry in fs::read_dir(&paths.data).map_err(error)? {
                let name = entry.map_err(error)?.file_name();
                ids.extend(name.to_str().and_then(|name| name.parse::<Id>().ok()));
            }
            ids.retain(|id| after.is_none_or(|after| *id > after));
            ids.sort_unstable();
            let more = ids.len() > limit;
            ids.truncate(limit);
            let mut entries = Vec::new();
            for id in ids {
                let Some(metadata) = found(fs::metadata(paths.data(id))).map_err(error)? else { continue };
                // A linked file may be older than its name here; this also changes with the names.
                let at = Timestamp::from_second(metadata.ctime()).map_err(|source| error(io::Error::other(source)))?;
                entries.push((id, metadata.len(), at));
            }
            Ok(Page { entries, more })
        })
        .await
    }

    async fn link(&self, id: Id, file: &Path) -> Result<bool, ObjectError> {
        let file = file.to_owned();
        self.blocking(move |paths| {
            let path = paths.data(id);
            match paths.io.link(&file, &path) {
                Ok(()) => {}
                Err(error) if cannot_link(&error) => return Ok(false),
                Err(error) => return Err(failed("create", &path, error)),
            }
            paths.io.sync_folder(&paths.data).map_err(|error| failed("sync the folder", &paths.data, error))?;
            Ok(true)
        })
        .await
    }
}

/// Tells whether an error says that a file is not there, or cannot have a second name here.
fn cannot_link(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        Errno::from_io_error(error),
        // On another disk, with too many names already, of somebody else, or on a disk without second names.
        Some(Errno::NOENT | Errno::XDEV | Errno::MLINK | Errno::PERM | Errno::ACCESS | Errno::NOSYS | Errno::OPNOTSUPP)
    )
}
