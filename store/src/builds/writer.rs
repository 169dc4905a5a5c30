//! [`BuildWriter`]: writes a build's record while the build goes on.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::FlockOperation;

use super::record::{Asked, BuildRecord, BuildStatus, Entry, RecordedImage};
use super::{BuildId, private_folder};
use crate::FileError;
use crate::file_error::During;
use crate::session::Home;

/// A step whose log reaches this is cut: it would fill the disk.
const LONGEST_LOG: u64 = 256 << 20;

/// Writes what happens in a build, from several threads.
///
/// Dropping it without [`BuildWriter::finish`] leaves a build that was interrupted.
#[derive(Debug)]
pub struct BuildWriter {
    home: Arc<Home>,
    id: BuildId,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    record: BuildRecord,
    /// Locked as long as the build lives.
    journal: File,
    /// Lines that are not in the journal yet: a build that takes all from the cache writes it once.
    waiting: Vec<u8>,
    logs: BTreeMap<usize, Log>,
    /// The first thing that went wrong; nothing is written after it.
    failed: Option<FileError>,
    /// Whether others were told that there is more than a record.
    grew: bool,
}

#[derive(Debug)]
struct Log {
    file: File,
    bytes: u64,
}

impl BuildWriter {
    pub(super) fn begin(home: Arc<Home>, id: &BuildId, asked: Asked, dockerfile: &[u8]) -> Result<Self, FileError> {
        let folder = home.layout().build(id);
        let create = || fs::DirBuilder::new().mode(0o700).create(&folder);
        if let Err(error) = create() {
            if error.kind() != std::io::ErrorKind::NotFound {
                return Err(FileError::new("create the folder", &folder, error));
            }
            private_folder(&home.layout().builds())?;
            create().during("create the folder", &folder)?;
        }
        let path = home.layout().build_journal(id);
        let journal = private_file(&path)?;
        rustix::fs::flock(&journal, FlockOperation::LockExclusive).during("lock", &path)?;
        let path = folder.join("Dockerfile");
        private_file(&path)?.write_all(dockerfile).during("write", &path)?;
        let state = State {
            record: BuildRecord::new(id, asked.clone()),
            journal,
            waiting: Vec::new(),
            logs: BTreeMap::new(),
            failed: None,
            grew: false,
        };
        let writer = Self { home, id: id.clone(), state: Mutex::new(state) };
        writer.add(Entry::Begun { asked });
        writer.flush();
        Ok(writer)
    }

    /// Adds something that happened. It is on the disk after the next [`BuildWriter::flush`] or log.
    pub fn add(&self, entry: Entry) {
        let mut state = self.state();
        if state.failed.is_some() {
            return;
        }
        serde_json::to_writer(&mut state.waiting, &entry).expect("entries have text keys only");
        state.waiting.push(b'\n');
        state.record.add(entry);
        if state.waiting.len() > 64 << 10 {
            self.write_waiting(&mut state);
        }
    }

    /// Writes what waits: something begins that may take long.
    pub fn flush(&self) {
        self.write_waiting(&mut self.state());
    }

    /// Adds what a step printed, by its number in the graph.
    pub fn log(&self, step: usize, bytes: &[u8]) {
        let mut state = self.state();
        if state.failed.is_some() {
            return;
        }
        let number = state.record.step_mut(step).number;
        if !state.logs.contains_key(&number) {
            self.write_waiting(&mut state);
            self.grow(&mut state);
            let path = self.home.layout().build_log(&self.id, number);
            let opened = path.parent().map_or(Ok(()), private_folder).and_then(|()| private_file(&path));
            match opened {
                Ok(file) => {
                    state.logs.insert(number, Log { file, bytes: 0 });
                }
                Err(error) => {
                    state.failed = Some(error);
                    return;
                }
            }
        }
        let State { logs, record, failed, .. } = &mut *state;
        let Some(log) = logs.get_mut(&number) else { return };
        if log.bytes >= LONGEST_LOG {
            return;
        }
        let room = usize::try_from(LONGEST_LOG - log.bytes).unwrap_or(usize::MAX);
        let taken = &bytes[..bytes.len().min(room)];
        let mut written = log.file.write_all(taken);
        if taken.len() < bytes.len() {
            written = written.and_then(|()| log.file.write_all(b"\n[the rest of this log was not kept]\n"));
        }
        log.bytes += taken.len() as u64;
        record.step_mut(step).log_bytes = log.bytes;
        if let Err(error) = written {
            failed.get_or_insert(FileError::of_write(&self.home.layout().build_log(&self.id, number), error));
        }
    }

    /// Closes a step's log.
    pub fn close_log(&self, step: usize) {
        let mut state = self.state();
        let number = state.record.step_mut(step).number;
        state.logs.remove(&number);
    }

    /// Takes the folder of what a failed step had written, which goes with the build from now on. It must be in this
    /// store, and nobody may have it mounted.
    ///
    /// Returns where it is now.
    ///
    /// # Errors
    ///
    /// When it cannot be moved: then it is where it was.
    pub fn keep(&self, step: usize, upper: &Path) -> Result<PathBuf, FileError> {
        let number = {
            let mut state = self.state();
            self.grow(&mut state);
            state.record.step_mut(step).number
        };
        let folder = self.home.layout().build_kept(&self.id, number);
        private_folder(&folder)?;
        let place = folder.join("fs");
        fs::rename(upper, &place).during("create", &place)?;
        self.add(Entry::Kept { step, boot: crate::snapshots::boot_id().to_owned() });
        self.flush();
        Ok(place)
    }

    /// Ends the record. Later changes are lost.
    ///
    /// # Errors
    ///
    /// The first thing that went wrong since the build began.
    pub fn finish(
        &self,
        status: BuildStatus,
        seconds: f64,
        error: Option<String>,
        images: Vec<RecordedImage>,
    ) -> Result<(), FileError> {
        let mut state = self.state();
        state.logs.clear();
        if let Some(error) = state.failed.take() {
            return Err(error);
        }
        state.record.add(Entry::Over { status, seconds, error, images });
        let bytes = serde_json::to_vec(&state.record).expect("records have text keys only");
        let path = self.home.layout().build_record(&self.id);
        // Half a record is none, and the journal is there until it is whole.
        private_file(&path)?.write_all(&bytes).during("write", &path)?;
        let path = self.home.layout().build_journal(&self.id);
        fs::remove_file(&path).during("remove", &path)
    }

    /// Says that builds may have outgrown their limits. If nobody can be told, the number of builds still bounds them.
    fn grow(&self, state: &mut State) {
        if !std::mem::replace(&mut state.grew, true) {
            let _: Result<File, FileError> = private_file(&self.home.layout().builds_grew());
        }
    }

    fn write_waiting(&self, state: &mut State) {
        let waiting = std::mem::take(&mut state.waiting);
        if waiting.is_empty() || state.failed.is_some() {
            return;
        }
        if let Err(error) = state.journal.write_all(&waiting) {
            state.failed = Some(FileError::of_write(&self.home.layout().build_journal(&self.id), error));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn private_file(path: &Path) -> Result<File, FileError> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).during("create", path)
}
