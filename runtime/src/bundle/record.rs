//! The folder of one container, and what is written there.

use super::BundleError;
use super::config::read_json;
use crate::CgroupFolders;
use crate::owner::start_time;
use crate::plan::StateText;
use oci_spec::runtime::Spec;
use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the words of the runtime-spec")]
pub enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        })
    }
}

/// The state of a container, as the runtime-spec has it and as runc extends it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// The version of the runtime-spec that the bundle follows.
    pub oci_version: String,
    /// The container's name.
    pub id: String,
    /// Its first process; 0 when that has ended.
    pub pid: u32,
    /// Where it is in its life.
    pub status: Status,
    /// The folder of the bundle.
    pub bundle: PathBuf,
    /// The folder that is its root.
    pub rootfs: PathBuf,
    /// When it was created, as RFC 3339.
    pub created: String,
    /// What the bundle says about it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Who created it.
    pub owner: String,
}

/// What is written of a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    pub(super) oci_version: String,
    pub(super) id: String,
    pub(super) pid: u32,
    /// When the process started: its number alone may become another's.
    pub(super) started: u64,
    pub(super) bundle: PathBuf,
    pub(super) rootfs: PathBuf,
    pub(super) created: String,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) owner: u32,
    pub(super) cgroups: Vec<PathBuf>,
}

impl Record {
    /// Whether the first process lives.
    pub(super) fn is_alive(&self) -> bool {
        start_time(self.pid) == Some(self.started)
    }

    pub(super) fn cgroups(&self) -> CgroupFolders {
        CgroupFolders::new(self.cgroups.clone())
    }
}

/// The folder of one container.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) id: String,
}

/// Holds a container's lock while it lives.
#[derive(Debug)]
pub(super) struct Lock {
    _file: OwnedFd,
}

impl Folder {
    /// Makes a new one; the name is taken from then on.
    pub(super) fn make(root: &Path, id: &str) -> Result<Folder, BundleError> {
        crate::container::check_id(id)?;
        let failed = |path: &Path, source| BundleError::File { path: path.to_owned(), source };
        let builder = || {
            use std::os::unix::fs::DirBuilderExt;
            let mut builder = fs::DirBuilder::new();
            builder.mode(0o700);
            builder
        };
        builder().recursive(true).create(root).map_err(|source| failed(root, source))?;
        let path = root.join(id);
        match builder().create(&path) {
            Ok(()) => Ok(Folder { path, id: id.to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(BundleError::Exists { id: id.to_owned() })
            }
            Err(source) => Err(failed(&path, source)),
        }
    }

    /// Finds one.
    pub(super) fn find(root: &Path, id: &str) -> Result<Folder, BundleError> {
        crate::container::check_id(id)?;
        let path = root.join(id);
        if path.is_dir() {
            Ok(Folder { path, id: id.to_owned() })
        } else {
            Err(BundleError::NoContainer { id: id.to_owned() })
        }
    }

    fn failed(path: &Path) -> impl Fn(rustix::io::Errno) -> BundleError {
        move |source| BundleError::File { path: path.to_owned(), source: source.into() }
    }

    /// Waits until nobody else changes the container.
    pub(super) fn lock(&self) -> Result<Lock, BundleError> {
        let path = self.path.join("lock");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let gone = |error: rustix::io::Errno| match error {
            rustix::io::Errno::NOENT => BundleError::NoContainer { id: self.id.clone() },
            error => Self::failed(&path)(error),
        };
        let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR).map_err(gone)?;
        loop {
            match rustix::fs::flock(&file, FlockOperation::LockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Self::failed(&path)(error)),
            }
        }
        // Who held it may have deleted the container.
        if self.path.join("lock").exists() {
            Ok(Lock { _file: file })
        } else {
            Err(BundleError::NoContainer { id: self.id.clone() })
        }
    }

    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), BundleError> {
        let path = self.path.join(name);
        let temporary = self.path.join(format!("{name}.new"));
        let written = fs::File::create(&temporary)
            .and_then(|mut file| file.write_all(bytes))
            .and_then(|()| fs::rename(&temporary, &path));
        written.map_err(|source| BundleError::File { path, source })
    }

    pub(super) fn write_record(&self, record: &Record) -> Result<(), BundleError> {
        let bytes = serde_json::to_vec(record).expect("a record has texts and numbers only");
        self.write("state.json", &bytes)
    }

    /// What is written; none while the container is being created.
    pub(super) fn record(&self) -> Result<Option<Record>, BundleError> {
        match read_json(&self.path.join("state.json")) {
            Ok(record) => Ok(Some(record)),
            Err(BundleError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                if self.path.is_dir() {
                    Ok(None)
                } else {
                    Err(BundleError::NoContainer { id: self.id.clone() })
                }
            }
            Err(error) => Err(error),
        }
    }

    /// The spec that the container was created with.
    pub(super) fn spec(&self) -> Result<Spec, BundleError> {
        read_json(&self.path.join("config.json"))
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.path.join("start.sock")
    }

    /// A path of the socket that is short enough for the kernel, however deep the folder is.
    pub(super) fn short_socket(&self) -> Result<(OwnedFd, PathBuf), BundleError> {
        use std::os::fd::AsRawFd;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(&self.path, flags, Mode::empty()).map_err(Self::failed(&self.path))?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/start.sock", folder.as_raw_fd()));
        Ok((folder, path))
    }

    /// Where the container is in its life.
    pub(super) fn status(&self, record: Option<&Record>) -> Status {
        match record {
            None => Status::Creating,
            Some(record) if !record.is_alive() => Status::Stopped,
            Some(_) if self.socket().exists() => Status::Created,
            Some(record) if record.cgroups().is_frozen() => Status::Paused,
            Some(_) => Status::Running,
        }
    }

    /// The state, as it is now.
    pub(super) fn state(&self) -> Result<State, BundleError> {
        let record = self.record()?;
        let status = self.status(record.as_ref());
        let Some(record) = record else {
            return Ok(State {
                oci_version: super::SPEC_VERSION.to_owned(),
                id: self.id.clone(),
                pid: 0,
                status,
                bundle: PathBuf::new(),
                rootfs: PathBuf::new(),
                created: String::new(),
                annotations: BTreeMap::new(),
                owner: String::new(),
            });
        };
        Ok(State {
            pid: if status == Status::Stopped { 0 } else { record.pid },
            status,
            oci_version: record.oci_version,
            id: record.id,
            bundle: record.bundle,
            rootfs: record.rootfs,
            created: record.created,
            annotations: record.annotations,
            owner: name_of(record.owner),
        })
    }

    pub(super) fn remove(&self) -> Result<(), BundleError> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(BundleError::File { path: self.path.clone(), source: error })
            }
            _ => Ok(()),
        }
    }
}

/// The name of a user; the number when there is none.
fn name_of(uid: u32) -> String {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let found = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    found.unwrap_or_else(|| uid.to_string())
}

/// The state as hooks get it, in two parts: between them is the number of the process, in ten bytes.
pub(super) fn state_text(record: &Record, status: Status) -> StateText {
    let json = |text: &str| serde_json::to_string(text).expect("a text is JSON");
    let mut text =
        format!(r#"{{"ociVersion":{},"id":{},"status":"{status}","pid":"#, json(&record.oci_version), json(&record.id));
    let pid_at = text.len();
    let annotations = serde_json::to_string(&record.annotations).expect("texts are JSON");
    text.push_str(&format!(r#","bundle":{},"annotations":{annotations}}}"#, json(&record.bundle.to_string_lossy())));
    StateText { text: text.into_bytes().into(), pid_at }
}

/// The same with a number in it.
pub(super) fn state_with(record: &Record, status: Status, pid: u32) -> Vec<u8> {
    let StateText { text, pid_at } = state_text(record, status);
    let (before, after) = text.split_at(pid_at);
    [before, pid.to_string().as_bytes(), after].concat()
}
