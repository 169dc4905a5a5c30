//! [`Files`]: small objects that left the journal, one file each.
//!
//! ```text
//! objects/KEY      "slr1" crc:4 lsn:8, then the body; as old as the change; a part of the key that is longer than
//!                  names may be is cut, the first piece being a folder that ends in `~`
//! ```

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File, FileTimes};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use jiff::Timestamp;

use super::super::{Entry, Object, ObjectError};
use super::io_log::Io;
use super::{failed, found, version};
use crate::storage::keys::{Key, Prefix};

const MAGIC: &[u8; 4] = b"slr1";
const HEADER: usize = 16;
/// The longest name that a folder takes.
const LONGEST_NAME: usize = 255;

/// Small objects in files.
#[derive(Debug)]
pub(super) struct Files {
    root: PathBuf,
    staging: PathBuf,
    io: Io,
    counter: AtomicU64,
    /// What large folders had in them at some generation of the journal. All that changed a file since is pending there.
    listed: Mutex<HashMap<PathBuf, Listing>>,
    generation: Arc<AtomicU64>,
}

/// What was in a folder, in the order of the keys, and at which generation.
type Listing = (u64, Arc<[Name]>);

/// Something in a folder.
#[derive(Debug)]
struct Name {
    /// What all keys in it, or its own, begin with.
    begin: String,
    is_folder: bool,
    name: OsString,
    /// How long the object in it is, and how old, once somebody looked.
    about: OnceLock<(u64, Timestamp)>,
}

/// From how many names on a folder is worth remembering, and how many folders are.
const WORTH_REMEMBERING: usize = 100;
const REMEMBERED: usize = 64;

impl Files {
    pub(super) fn new(folder: &Path, io: Io, generation: Arc<AtomicU64>) -> Self {
        let (root, staging) = (folder.join("objects"), folder.join("staging"));
        Self { root, staging, io, counter: AtomicU64::new(0), listed: Mutex::default(), generation }
    }

    fn path(&self, key: &Key) -> PathBuf {
        let mut path = self.root.clone();
        for part in key.as_str().split('/') {
            let mut rest = part;
            // Keys are ASCII, so they can be cut anywhere.
            while rest.len() > LONGEST_NAME - 1 {
                let (first, more) = rest.split_at(LONGEST_NAME - 1);
                path.push(format!("{first}~"));
                rest = more;
            }
            path.push(rest);
        }
        path
    }

    /// Reads an object.
    pub(super) fn read(&self, key: &Key) -> Result<Option<Object>, ObjectError> {
        let path = self.path(key);
        let error = |error| failed("read", &path, error);
        let Some(mut file) = found(File::open(&path)).map_err(error)? else { return Ok(None) };
        let metadata = file.metadata().map_err(error)?;
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
        file.read_to_end(&mut bytes).map_err(error)?;
        let lsn = number_of(&bytes);
        let body = bytes.get(HEADER..).filter(|body| bytes[..8] == start_of(lsn, body));
        if body.is_none() {
            return Err(ObjectError::Damaged { what: path.display().to_string(), version: Some(version(lsn)) });
        }
        let modified = modified(&metadata).map_err(error)?;
        let mut bytes = bytes::Bytes::from(bytes);
        Ok(Some(Object { bytes: bytes.split_off(HEADER), version: version(lsn), modified }))
    }

    /// Returns which change an object is of.
    pub(super) fn version(&self, key: &Key) -> Result<Option<u64>, ObjectError> {
        let path = self.path(key);
        let error = |error| failed("read", &path, error);
        let Some(file) = found(File::open(&path)).map_err(error)? else { return Ok(None) };
        let mut header = [0; HEADER];
        let length = file.read_at(&mut header, 0).map_err(error)?;
        Ok(Some(number_of(&header[..length])))
    }

    /// Describes an object.
    pub(super) fn head(&self, key: &Key) -> Result<Option<Entry>, ObjectError> {
        let path = self.path(key);
        let error = |error| failed("read", &path, error);
        let metadata = found(fs::metadata(&path)).map_err(error)?.filter(fs::Metadata::is_file);
        metadata.map(|metadata| entry(key.clone(), &metadata).map_err(error)).transpose()
    }

    /// Writes an object over what is there. Safe only when everything is synced.
    pub(super) fn write(&self, key: &Key, object: &Object, lsn: u64) -> Result<(), ObjectError> {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let temporary = self.staging.join(format!("o{}-{number}", std::process::id()));
        let path = self.path(key);
        let error = |error| failed("write", &path, error);
        let mut bytes = Vec::with_capacity(HEADER + object.bytes.len());
        bytes.extend_from_slice(&start_of(lsn, &object.bytes));
        bytes.extend_from_slice(&lsn.to_le_bytes());
        bytes.extend_from_slice(&object.bytes);
        // Left by a process of the same number that died.
        self.io.remove(&temporary).map_err(error)?;
        let file = self.io.create(&temporary).map_err(error)?;
        let written = self.io.write(&file, &temporary, 0, &bytes).and_then(|()| {
            let modified = SystemTime::from(object.modified);
            file.set_times(FileTimes::new().set_modified(modified))
        });
        let placed = written.and_then(|()| self.place(&temporary, &path));
        if placed.is_err() {
            // Whatever went wrong is reported; that the leftover stays too would not add to it.
            let _ = self.io.remove(&temporary);
        }
        placed.map_err(error)
    }

    fn place(&self, temporary: &Path, path: &Path) -> io::Result<()> {
        match self.io.rename(temporary, path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let folders: Vec<_> = path.ancestors().skip(1).take_while(|it| !it.exists()).collect();
                folders.into_iter().rev().try_for_each(|folder| self.io.make_folder(folder))?;
                self.io.rename(temporary, path)
            }
            other => other,
        }
    }

    /// Removes an object, and its folder with the last one in it. Only one may write or remove at a time.
    pub(super) fn remove(&self, key: &Key) -> Result<(), ObjectError> {
        let path = self.path(key);
        self.io.remove(&path).map_err(|error| failed("remove", &path, error))?;
        if let Some(folder) = path.parent() {
            // Others are in it, then.
            let _ = self.io.remove_folder(folder);
        }
        Ok(())
    }

    /// Lists objects below a prefix and after a key, in byte order.
    pub(super) fn list(&self, prefix: &Prefix, after: Option<&Key>, limit: usize) -> Result<Vec<Entry>, ObjectError> {
        let text = prefix.as_str();
        let folder = text.rfind('/').map_or("", |end| &text[..end]);
        let start = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let path = self.path(&Key::listed(folder));
        let mut found = Vec::new();
        self.walk(&path, &start, text, after.map_or("", Key::as_str), limit, &mut found)?;
        Ok(found)
    }

    /// Goes through a folder, in which all keys begin with `start`.
    fn walk(
        &self,
        folder: &Path,
        start: &str,
        prefix: &str,
        after: &str,
        limit: usize,
        entries: &mut Vec<Entry>,
    ) -> Result<(), ObjectError> {
        let names = self.names(folder, start)?;
        // All below a folder that comes before this one comes before `after`.
        let from = names.partition_point(|name| *name.begin < *after && !after.starts_with(&name.begin));
        for Name { begin, is_folder, name, about } in &names[from..] {
            if entries.len() >= limit {
                return Ok(());
            }
            if *is_folder {
                if begin.starts_with(prefix) || prefix.starts_with(begin) {
                    self.walk(&folder.join(name), begin, prefix, after, limit, entries)?;
                }
            } else if begin.starts_with(prefix) && **begin > *after {
                if about.get().is_none() {
                    let path = folder.join(name);
                    let error = |error| failed("read", &path, error);
                    let Some(metadata) = found(fs::metadata(&path)).map_err(error)? else { continue };
                    let Entry { size, modified, .. } = entry(Key::listed(begin), &metadata).map_err(error)?;
                    // Whoever was faster saw the same, or what is pending.
                    let _ = about.set((size, modified));
                }
                let about = about.get().copied();
                entries.extend(about.map(|(size, modified)| Entry { key: Key::listed(begin), size, modified }));
            }
        }
        Ok(())
    }

    /// Returns what is in a folder, in which all keys begin with `start`, in the order of the keys.
    fn names(&self, folder: &Path, start: &str) -> Result<Arc<[Name]>, ObjectError> {
        let generation = self.generation.load(Ordering::SeqCst);
        let remembered = || self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, names)) = remembered().get(folder).filter(|(of, _)| *of == generation) {
            return Ok(names.clone());
        }
        let error = |error| failed("list", folder, error);
        let mut names = Vec::new();
        for entry in found(fs::read_dir(folder)).map_err(error)?.into_iter().flatten() {
            let entry = entry.map_err(error)?;
            let name = entry.file_name();
            let Some(text) = name.to_str() else { continue };
            let is_folder = entry.file_type().map_err(error)?.is_dir();
            let begin = match text.strip_suffix('~') {
                Some(cut) if is_folder => format!("{start}{cut}"),
                _ if is_folder => format!("{start}{text}/"),
                _ => format!("{start}{text}"),
            };
            names.push(Name { begin, is_folder, name, about: OnceLock::new() });
        }
        names.sort_unstable_by(|a, b| (&a.begin, a.is_folder, &a.name).cmp(&(&b.begin, b.is_folder, &b.name)));
        let names: Arc<[Name]> = names.into();
        if names.len() >= WORTH_REMEMBERING {
            let mut listed = remembered();
            if listed.len() >= REMEMBERED {
                listed.clear();
            }
            listed.insert(folder.to_owned(), (generation, names.clone()));
        }
        Ok(names)
    }
}

fn entry(key: Key, metadata: &fs::Metadata) -> io::Result<Entry> {
    Ok(Entry { key, size: metadata.len().saturating_sub(HEADER as u64), modified: modified(metadata)? })
}

fn modified(metadata: &fs::Metadata) -> io::Result<Timestamp> {
    Timestamp::try_from(metadata.modified()?).map_err(io::Error::other)
}

/// Reads the number of the change; 0, which no change has, when the file is too short to have one.
fn number_of(bytes: &[u8]) -> u64 {
    bytes.get(8..HEADER).map_or(0, |number| u64::from_le_bytes(number.try_into().expect("8 bytes")))
}

/// Returns what a file begins with: the mark, and the checksum of the rest.
fn start_of(lsn: u64, body: &[u8]) -> [u8; 8] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&lsn.to_le_bytes());
    hasher.update(body);
    let mut start = [0; 8];
    start[..4].copy_from_slice(MAGIC);
    start[4..].copy_from_slice(&hasher.finalize().to_le_bytes());
    start
}
