//! [`Builds`]: what is remembered of builds: a record, every step's log, and the files of the last failed steps.
//!
//! ```text
//! builds/.grew         since the last pruning, a build has written more than its record
//! builds/ID/
//! ├── journal          what happened so far, a line of JSON each; locked by the build as long as it lives
//! ├── record.json      all of it, once the build is over; the journal goes then
//! ├── Dockerfile       as it was built
//! ├── logs/STEP        all that a step printed
//! ├── timeline.html    the page of `slipway history open`
//! └── kept/STEP/fs     what a failed step had written, as overlayfs has it
//! ```
//!
//! Nothing here is synced: a record that a crash of the machine damages is shown as such, and costs nothing else. A build
//! whose journal nobody holds was killed, and its journal tells how far it came.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use rustix::fs::FlockOperation;

use crate::FileError;
use crate::blobs::names;
use crate::file_error::{During, found};
use crate::session::Home;

mod record;
mod writer;

pub use record::{
    Asked, BuildRecord, BuildStatus, Entry, RecordedImage, RecordedLayer, RecordedMount, Stack, StepOutcome, StepPlan,
    StepRecord, Surroundings,
};
pub use writer::BuildWriter;

/// The builds that a store remembers.
#[derive(Clone, Debug)]
pub struct Builds {
    pub(crate) home: Arc<Home>,
}

/// The name of a build.
///
/// Made of lower case letters and digits, so that it is always a safe file name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BuildId(Box<str>);

/// Why text is no name of a build.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not the ID of a build")]
pub struct BuildIdError {
    text: String,
}

impl FromStr for BuildId {
    type Err = BuildIdError;

    fn from_str(text: &str) -> Result<Self, BuildIdError> {
        let valid = (1..=64).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase());
        if valid { Ok(Self(text.into())) } else { Err(BuildIdError { text: text.into() }) }
    }
}

impl BuildId {
    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How much is remembered; what is older goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuildLimits {
    /// How many builds.
    pub builds: usize,
    /// How many bytes of logs and records.
    pub bytes: u64,
    /// How many builds may keep the files of a failed step.
    pub kept: usize,
}

impl Default for BuildLimits {
    fn default() -> Self {
        Self { builds: 100, bytes: 1 << 30, kept: 3 }
    }
}

impl Builds {
    /// Begins to remember a build.
    ///
    /// # Errors
    ///
    /// When there is such a build already, or the disk does not take it.
    pub fn begin(&self, id: &BuildId, asked: Asked, dockerfile: &[u8]) -> Result<BuildWriter, FileError> {
        BuildWriter::begin(self.home.clone(), id, asked, dockerfile)
    }

    /// Returns all builds, the newest first. One whose record is damaged is left out.
    pub fn list(&self) -> Result<Vec<BuildRecord>, FileError> {
        let mut builds = Vec::new();
        for id in self.ids()? {
            builds.extend(self.get(&id)?);
        }
        builds.sort_by(|one: &BuildRecord, other| (other.asked.at, &other.id).cmp(&(one.asked.at, &one.id)));
        Ok(builds)
    }

    /// Returns the names of all builds, in no order.
    pub fn ids(&self) -> Result<Vec<BuildId>, FileError> {
        Ok(names(&self.home.layout().builds())?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Returns what is known of a build; `None` when there is none, or its record is damaged.
    pub fn get(&self, id: &BuildId) -> Result<Option<BuildRecord>, FileError> {
        let layout = self.home.layout();
        let path = layout.build_record(id);
        let bytes = found(fs::read(&path)).during("read", &path)?;
        if let Some(record) = bytes.and_then(|bytes| serde_json::from_slice::<BuildRecord>(&bytes).ok()) {
            return Ok((record.id == id.as_str()).then_some(record));
        }
        // Not over, or it never came to an end.
        let path = layout.build_journal(id);
        let Some(bytes) = found(fs::read(&path)).during("read", &path)? else { return Ok(None) };
        let Some(mut record) = BuildRecord::of_journal(id, &bytes) else { return Ok(None) };
        if !self.is_running(id)? {
            record.interrupt();
        }
        Ok(Some(record))
    }

    /// Tells whether a process is at work on a build.
    fn is_running(&self, id: &BuildId) -> Result<bool, FileError> {
        let path = self.home.layout().build_journal(id);
        let Some(file) = found(File::open(&path)).during("open", &path)? else { return Ok(false) };
        Ok(rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_err())
    }

    /// Returns the file that holds all that a step printed; it is missing when that was nothing.
    pub fn log(&self, id: &BuildId, step: usize) -> PathBuf {
        self.home.layout().build_log(id, step)
    }

    /// Opens a step's log; `None` when it printed nothing.
    pub fn open_log(&self, id: &BuildId, step: usize) -> Result<Option<File>, FileError> {
        let path = self.log(id, step);
        found(File::open(&path)).during("open", &path)
    }

    /// Returns the Dockerfile that was built.
    pub fn dockerfile(&self, id: &BuildId) -> Result<Vec<u8>, FileError> {
        let path = self.home.layout().build(id).join("Dockerfile");
        Ok(found(fs::read(&path)).during("read", &path)?.unwrap_or_default())
    }

    /// Returns the folder with what a failed step had written, if it is still kept and whole.
    pub fn kept(&self, id: &BuildId, step: &StepRecord) -> Option<PathBuf> {
        let boot = step.kept.as_deref()?;
        let folder = self.home.layout().build_kept(id, step.number).join("fs");
        // What was never synced is not to be trusted after the machine went down.
        (boot == crate::snapshots::boot_id() && folder.is_dir()).then_some(folder)
    }

    /// Forgets a build, and tells whether there was one. One that runs stays.
    pub fn remove(&self, id: &BuildId) -> Result<bool, FileError> {
        let folder = self.home.layout().build(id);
        if !folder.exists() || self.is_running(id)? {
            return Ok(false);
        }
        self.home.discard(&folder)?;
        Ok(true)
    }

    /// Throws away the files of failed steps, and returns how many builds had some.
    pub fn drop_kept(&self) -> Result<usize, FileError> {
        self.prune_kept(0)
    }

    /// Tells whether [`Builds::prune`] may have something to do, at the price of a look: there are a tenth too many
    /// builds, or one has written logs or kept files since.
    pub fn needs_pruning(&self, limits: BuildLimits) -> Result<bool, FileError> {
        let most = limits.builds.saturating_add(limits.builds / 10);
        Ok(self.home.layout().builds_grew().exists() || self.ids()?.len() > most)
    }

    /// Forgets the oldest builds until what is left is within the limits; those that run stay. Returns how many went.
    pub fn prune(&self, limits: BuildLimits) -> Result<usize, FileError> {
        // Before looking: what a build adds meanwhile is for the next time.
        let mark = self.home.layout().builds_grew();
        found(fs::remove_file(&mark)).during("remove", &mark)?;
        let builds = self.by_age()?;
        let mut gone = 0;
        let mut bytes: u64 = 0;
        let mut keep = 0;
        for (_, id) in &builds {
            keep += 1;
            bytes += size(&self.home.layout().build(id)).unwrap_or(0);
            if keep > limits.builds || (bytes > limits.bytes && keep > 1) {
                gone += usize::from(self.remove(id)?);
            }
        }
        self.prune_kept(limits.kept)?;
        Ok(gone)
    }

    fn prune_kept(&self, keep: usize) -> Result<usize, FileError> {
        let layout = self.home.layout();
        let with_files = self.by_age()?.into_iter().map(|(_, id)| (layout.build(&id).join("kept"), id));
        let mut gone = 0;
        for (folder, id) in with_files.filter(|(folder, _)| folder.exists()).skip(keep) {
            // Somebody may have a shell in the files of one that runs.
            if !self.is_running(&id)? {
                self.home.discard(&folder)?;
                gone += 1;
            }
        }
        Ok(gone)
    }

    /// Returns the builds, the newest first, without reading their records.
    fn by_age(&self) -> Result<Vec<(std::time::SystemTime, BuildId)>, FileError> {
        let mut builds = Vec::new();
        for id in self.ids()? {
            // The Dockerfile is written when a build begins, and never again.
            let folder = self.home.layout().build(&id);
            // Between making the folder and writing it, the build is as new as can be.
            let metadata = fs::symlink_metadata(folder.join("Dockerfile")).or_else(|_| fs::symlink_metadata(&folder));
            let began = metadata.and_then(|metadata| metadata.modified()).unwrap_or(std::time::UNIX_EPOCH);
            builds.push((began, id));
        }
        builds.sort_by(|one, other| other.cmp(one));
        Ok(builds)
    }
}

/// Counts the bytes of records and logs; the kept files of failed steps have a limit of their own.
fn size(folder: &std::path::Path) -> io::Result<u64> {
    let mut bytes = 0;
    for folder in [folder.to_owned(), folder.join("logs")] {
        let Some(entries) = found(fs::read_dir(&folder))? else { continue };
        for entry in entries {
            let metadata = entry?.metadata()?;
            bytes += if metadata.is_file() { metadata.len() } else { 0 };
        }
    }
    Ok(bytes)
}

/// Makes a folder that only its owner may look into.
fn private_folder(path: &std::path::Path) -> Result<(), FileError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).during("create the folder", path)
}

#[cfg(test)]
mod tests;
