//! [`Volumes`]: folders that outlive containers.
//!
//! ```text
//! volumes/NAME/
//! ├── record.json       what people know about it
//! ├── users/CONTAINER   an empty file for each container that has it
//! ├── lock              held by who puts the image's files into it
//! ├── seeding           is there until all of them are in it
//! └── _data/            what is mounted
//! ```
//!
//! A volume is made as `.new-NAME` and renamed, so what has a name is whole. It is in use as long as one of its users is a
//! container that is there; the file of one that is gone, or was never finished, counts for nothing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use store::Layout;

use crate::containers::{ContainerError, failed, ignore_missing, lock, make_folder, read_json, write_json};
use crate::record::Record;

/// What people know about a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// It was made for a container that did not ask for a name.
    pub anonymous: bool,
    /// What the user notes about it.
    pub labels: BTreeMap<String, String>,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
}

/// Why something could not be done with a volume.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum VolumeError {
    #[error("no such volume: {name}")]
    NotFound { name: String },
    #[error(
        "\"{name}\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
    )]
    BadName { name: String },
    #[error("volume is in use - [{}]", containers.join(", "))]
    InUse { containers: Vec<String> },
    #[error("invalid option for a local volume: {name}; there are none yet")]
    Option { name: String },
    #[error(transparent)]
    File(#[from] ContainerError),
}

/// The right to put an image's files into a volume. When it is dropped before it is [finished](Seeding::finish), the next one
/// does it again.
#[derive(Debug)]
pub struct Seeding {
    note: PathBuf,
    _held: File,
}

impl Seeding {
    /// Notes that all files are there.
    ///
    /// # Errors
    ///
    /// When it cannot be noted.
    pub fn finish(self) -> Result<(), VolumeError> {
        Ok(fs::remove_file(&self.note).map_err(failed("remove", &self.note))?)
    }
}

/// All volumes of a home.
#[derive(Clone, Debug)]
pub struct Volumes {
    layout: Layout,
}

impl Volumes {
    /// Returns the volumes of a home.
    pub fn new(layout: &Layout) -> Self {
        Self { layout: layout.clone() }
    }

    /// Returns the folder that is mounted.
    pub fn data(&self, name: &str) -> PathBuf {
        self.layout.volume_data(name)
    }

    /// Makes a volume; one that is there already stays as it is. Says whether it is new.
    ///
    /// # Errors
    ///
    /// When the name is none, or the folder cannot be made.
    pub fn create(&self, record: &VolumeRecord) -> Result<bool, VolumeError> {
        let _held = self.hold()?;
        self.create_held(record)
    }

    fn create_held(&self, record: &VolumeRecord) -> Result<bool, VolumeError> {
        let name = &record.name;
        if !crate::is_name(name) {
            return Err(VolumeError::BadName { name: name.clone() });
        }
        if let Some(option) = record.options.keys().next() {
            return Err(VolumeError::Option { name: option.clone() });
        }
        let place = self.layout.volume(name);
        if place.is_dir() {
            return Ok(false);
        }
        let folder = self.layout.volumes().join(format!(".new-{name}"));
        // Of somebody who was killed; nobody else is here.
        layer::remove_tree(&folder).map_err(failed("remove", &folder))?;
        for (folder, mode) in [(folder.clone(), 0o711), (folder.join("users"), 0o700), (folder.join("_data"), 0o755)] {
            make_folder(&folder, mode)?;
        }
        write_json(&folder.join("record.json"), record, true)?;
        fs::rename(&folder, &place).map_err(failed("create", &place))?;
        Ok(true)
    }

    /// Gives a container a volume, making it when it is missing.
    ///
    /// # Errors
    ///
    /// When the name is none, or a file cannot be made.
    pub fn give(&self, record: &VolumeRecord, container: &str) -> Result<(), VolumeError> {
        let _held = self.hold()?;
        self.create_held(record)?;
        let path = self.layout.volume_users(&record.name).join(container);
        File::create(&path).map_err(failed("create", &path))?;
        Ok(())
    }

    /// Waits until nobody else puts an image's files into a volume. When it is empty, or somebody did not get to the end, it is
    /// the caller's turn.
    ///
    /// # Errors
    ///
    /// When the volume cannot be looked at.
    pub fn begin_seeding(&self, name: &str) -> Result<Option<Seeding>, VolumeError> {
        let held = lock(&self.layout.volume(name).join("lock"))?;
        let (note, data) = (self.layout.volume(name).join("seeding"), self.data(name));
        let is_empty = fs::read_dir(&data).map_err(failed("list", &data))?.next().is_none();
        if !is_empty && !note.exists() {
            return Ok(None);
        }
        File::create(&note).map_err(failed("create", &note))?;
        Ok(Some(Seeding { note, _held: held }))
    }

    /// Takes a volume back from a container that goes away; with `anonymous`, removes it if nobody else has it.
    ///
    /// # Errors
    ///
    /// When it cannot be removed.
    pub fn take_back(&self, name: &str, container: &str, anonymous: bool) -> Result<(), VolumeError> {
        let _held = self.hold()?;
        let path = self.layout.volume_users(name).join(container);
        ignore_missing(fs::remove_file(&path)).map_err(failed("remove", &path))?;
        if anonymous && self.users(name)?.is_empty() {
            self.remove_held(name)?;
        }
        Ok(())
    }

    /// Reads all volumes, by their names.
    ///
    /// # Errors
    ///
    /// When the folder of volumes cannot be listed, or a record cannot be read.
    pub fn list(&self) -> Result<Vec<VolumeRecord>, VolumeError> {
        let folder = self.layout.volumes();
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("list", &folder)(error).into()),
        };
        let mut all = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed("list", &folder))?.file_name().to_string_lossy().into_owned();
            if crate::is_name(&name) {
                all.extend(self.read(&name)?);
            }
        }
        all.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(all)
    }

    /// Finds a volume by its name.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn find(&self, name: &str) -> Result<VolumeRecord, VolumeError> {
        let found = if crate::is_name(name) { self.read(name)? } else { None };
        found.ok_or_else(|| VolumeError::NotFound { name: name.to_owned() })
    }

    fn read(&self, name: &str) -> Result<Option<VolumeRecord>, VolumeError> {
        Ok(read_json(&self.layout.volume_record(name))?)
    }

    /// Returns the containers that have a volume.
    ///
    /// # Errors
    ///
    /// When they cannot be listed.
    pub fn users(&self, name: &str) -> Result<Vec<String>, VolumeError> {
        let folder = self.layout.volume_users(name);
        let mut users = Vec::new();
        for entry in fs::read_dir(&folder).map_err(failed("list", &folder))? {
            let id = entry.map_err(failed("list", &folder))?.file_name().to_string_lossy().into_owned();
            // One that is being made has its folder under another name.
            if self.layout.container(&id).is_dir() || self.layout.containers().join(format!(".new-{id}")).is_dir() {
                users.push(id);
            }
        }
        users.sort();
        Ok(users)
    }

    /// Removes a volume that no container has.
    ///
    /// # Errors
    ///
    /// When one has it, there is no such volume, or it cannot be removed.
    pub fn remove(&self, name: &str) -> Result<(), VolumeError> {
        let _held = self.hold()?;
        self.find(name)?;
        let containers = self.users(name)?;
        if !containers.is_empty() {
            return Err(VolumeError::InUse { containers });
        }
        self.remove_held(name)
    }

    fn remove_held(&self, name: &str) -> Result<(), VolumeError> {
        let (place, gone) = (self.layout.volume(name), self.layout.volumes().join(format!(".gone-{name}")));
        // Of somebody who was killed.
        layer::remove_tree(&gone).map_err(failed("remove", &gone))?;
        ignore_missing(fs::rename(&place, &gone)).map_err(failed("remove", &place))?;
        Ok(layer::remove_tree(&gone).map_err(failed("remove", &gone))?)
    }

    fn hold(&self) -> Result<File, ContainerError> {
        make_folder(&self.layout.volumes(), 0o711)?;
        lock(&self.layout.lock("volumes"))
    }
}

/// Takes the volumes of a container that has been removed back; with `anonymous`, those go that nobody named.
pub(crate) fn release(record: &Record, layout: &Layout, anonymous: bool) {
    let volumes = Volumes::new(layout);
    for mount in record.mounts.iter().filter(|mount| !mount.name.is_empty()) {
        // What resists stays: `volume prune` finds it.
        let _: Result<(), VolumeError> = volumes.take_back(&mount.name, &record.id, anonymous && mount.anonymous);
    }
}

/// Whether a path of the machine is what a volume's name would be mistaken for.
pub fn is_path(text: &str) -> bool {
    text.contains('/') || Path::new(text).file_name().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str) -> VolumeRecord {
        let created = Timestamp::UNIX_EPOCH;
        VolumeRecord { name: name.into(), created, anonymous: false, labels: BTreeMap::new(), options: BTreeMap::new() }
    }

    fn home() -> (tempfile::TempDir, Layout, Volumes) {
        let folder = tempfile::tempdir().expect("tempdir");
        let layout = Layout::new(folder.path());
        fs::create_dir_all(layout.locks()).expect("made");
        let volumes = Volumes::new(&layout);
        (folder, layout, volumes)
    }

    #[test]
    fn a_volume_in_use_stays_and_one_of_a_container_that_is_gone_goes() {
        let (_folder, layout, volumes) = home();
        assert!(volumes.create(&record("data")).expect("made") && !volumes.create(&record("data")).expect("there"));
        fs::create_dir_all(layout.container("c1")).expect("made");
        volumes.give(&record("data"), "c1").expect("given");
        File::create(volumes.data("data").join("file")).expect("made");
        volumes.give(&record("data"), "c2").expect("given");
        assert!(volumes.begin_seeding("data").expect("looked").is_none(), "it is not empty");
        let error = volumes.remove("data").expect_err("in use");
        assert_eq!(error.to_string(), "volume is in use - [c1]");
        fs::remove_dir(layout.container("c1")).expect("removed");
        volumes.remove("data").expect("removed");
        assert!(matches!(volumes.find("data"), Err(VolumeError::NotFound { .. })));
        assert_eq!(volumes.list().expect("listed"), []);
    }

    #[test]
    fn a_volume_is_seeded_once_and_again_when_that_was_broken_off() {
        let (_folder, _, volumes) = home();
        volumes.create(&record("data")).expect("made");
        let seeding = volumes.begin_seeding("data").expect("looked").expect("empty");
        File::create(volumes.data("data").join("first")).expect("made");
        // Somebody is killed here.
        drop(seeding);
        let seeding = volumes.begin_seeding("data").expect("looked").expect("not at the end");
        std::thread::scope(|scope| {
            let other = scope.spawn(|| volumes.begin_seeding("data").expect("looked").is_none());
            File::create(volumes.data("data").join("second")).expect("made");
            seeding.finish().expect("noted");
            assert!(other.join().expect("no panic"), "whoever waited has nothing to do");
        });
    }

    #[test]
    fn an_anonymous_volume_goes_with_its_last_container() {
        let (_folder, layout, volumes) = home();
        for container in ["c1", "c2"] {
            fs::create_dir_all(layout.container(container)).expect("made");
            volumes.give(&record("x1"), container).expect("given");
        }
        volumes.take_back("x1", "c1", true).expect("taken");
        assert_eq!(volumes.users("x1").expect("listed"), ["c2"]);
        volumes.take_back("x1", "c2", true).expect("taken");
        assert!(volumes.find("x1").is_err());
    }

    #[test]
    fn names_are_names_and_what_was_half_made_is_nothing() {
        let (_folder, layout, volumes) = home();
        for name in ["", "a", "../x", "a/b", ".hidden", "-x"] {
            assert!(matches!(volumes.create(&record(name)), Err(VolumeError::BadName { .. })), "{name}");
            assert!(volumes.find(name).is_err());
        }
        fs::create_dir_all(layout.volumes().join(".new-data/_data/old")).expect("made");
        volumes.create(&record("data")).expect("made");
        volumes.give(&record("data"), "c").expect("given");
        assert_eq!(fs::read_dir(volumes.data("data")).expect("listed").count(), 0, "nothing of the other is there");
        assert_eq!(volumes.list().expect("listed").len(), 1);
    }
}
