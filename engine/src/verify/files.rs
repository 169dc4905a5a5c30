//! Comparing the files of two layers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use layer::tar::{Reader, TarError};
use layer::{Entry, EntryKind};
use serde::Serialize;

use super::hints::hint;
use crate::Cancel;

/// A file that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileDifference {
    /// Its path in the image. A name that begins with `.wh.` stands for the removal of the file called so.
    pub path: String,
    /// What differs.
    pub changes: Vec<Change>,
    /// What mostly helps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<&'static str>,
}

/// What differs in a file, with both values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Change {
    /// Only one of the builds made it.
    OnlyIn {
        /// Which: 1 or 2.
        build: u8,
    },
    /// What it is.
    Kind {
        /// The words for it.
        values: [&'static str; 2],
    },
    /// Its permission bits.
    Mode {
        /// In octal digits.
        values: [String; 2],
    },
    /// Its owner and group.
    Owner {
        /// As `UID:GID`.
        values: [String; 2],
    },
    /// The time of its last change.
    Mtime {
        /// Seconds since 1970.
        values: [i64; 2],
    },
    /// Where a link leads.
    Target {
        /// The texts.
        values: [String; 2],
    },
    /// The number of a device.
    Device {
        /// As `MAJOR:MINOR`.
        values: [String; 2],
    },
    /// How long it is.
    Size {
        /// In bytes.
        values: [u64; 2],
    },
    /// Its bytes.
    Content {
        /// The first that differs, counted from 0.
        offset: u64,
    },
    /// An extended attribute.
    Xattr {
        /// Its name.
        name: String,
    },
}

/// Why layers could not be compared.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum CompareError {
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error("cannot read a layer")]
    Read(#[source] io::Error),
    #[error("cancelled")]
    Cancelled,
}

/// The files of a layer: a plain tar.
#[derive(Debug)]
pub struct Files {
    tar: File,
}

impl Files {
    /// Takes a plain tar.
    pub fn new(tar: File) -> Self {
        Self { tar }
    }

    /// Lists the files, and where the content of each begins.
    fn list(&self) -> Result<BTreeMap<Vec<u8>, (Entry, u64)>, CompareError> {
        let mut reader = Reader::new(At { file: &self.tar, offset: 0 });
        let mut files = BTreeMap::new();
        while let Some(entry) = reader.next_entry()? {
            files.insert(entry.path.clone(), (entry, reader.offset()));
        }
        Ok(files)
    }
}

/// Tells which files of two layers differ, in the order of their paths.
///
/// # Errors
///
/// When a layer cannot be read, or `cancel` was cancelled.
pub fn compare(one: Files, other: Files, cancel: &Cancel) -> Result<Vec<FileDifference>, CompareError> {
    let lists = [one.list()?, other.list()?];
    let paths: BTreeSet<&Vec<u8>> = lists[0].keys().chain(lists[1].keys()).collect();
    let mut found = Vec::new();
    for path in paths {
        if cancel.is_cancelled() {
            return Err(CompareError::Cancelled);
        }
        let changes = match (lists[0].get(path), lists[1].get(path)) {
            (Some(_), None) => vec![Change::OnlyIn { build: 1 }],
            (None, Some(_)) => vec![Change::OnlyIn { build: 2 }],
            (None, None) => Vec::new(),
            (Some((a, from)), Some((b, to))) => {
                let mut changes = differences(a, b);
                let at = [At { file: &one.tar, offset: *from }, At { file: &other.tar, offset: *to }];
                if let Some(offset) = first_difference(at, a.size().min(b.size()), cancel)? {
                    changes.push(Change::Content { offset });
                }
                changes
            }
        };
        if !changes.is_empty() {
            let path = format!("/{}", String::from_utf8_lossy(path));
            let hint = hint(&path, &changes);
            found.push(FileDifference { path, changes, hint });
        }
    }
    Ok(found)
}

/// Tells what differs in the headers.
fn differences(one: &Entry, other: &Entry) -> Vec<Change> {
    let mut changes = Vec::new();
    let kinds = [one, other].map(|entry| word(&entry.kind));
    if kinds[0] != kinds[1] {
        changes.push(Change::Kind { values: kinds });
    }
    let target = |entry: &Entry| match &entry.kind {
        EntryKind::Symlink { target } | EntryKind::Hardlink { target } => String::from_utf8_lossy(target).into_owned(),
        _ => String::new(),
    };
    let device = |entry: &Entry| match &entry.kind {
        EntryKind::CharDevice { major, minor } | EntryKind::BlockDevice { major, minor } => format!("{major}:{minor}"),
        _ => String::new(),
    };
    let pair = |text: &dyn Fn(&Entry) -> String| Some([text(one), text(other)]).filter(|[a, b]| a != b);
    changes.extend(pair(&target).map(|values| Change::Target { values }));
    changes.extend(pair(&device).map(|values| Change::Device { values }));
    changes.extend(pair(&|entry| format!("{:04o}", entry.mode)).map(|values| Change::Mode { values }));
    changes.extend(pair(&|entry| format!("{}:{}", entry.uid, entry.gid)).map(|values| Change::Owner { values }));
    if one.mtime != other.mtime {
        changes.push(Change::Mtime { values: [one.mtime.seconds, other.mtime.seconds] });
    }
    if one.size() != other.size() {
        changes.push(Change::Size { values: [one.size(), other.size()] });
    }
    let names: BTreeSet<&Vec<u8>> = one.xattrs.keys().chain(other.xattrs.keys()).collect();
    let differ = names.into_iter().filter(|name| one.xattrs.get(*name) != other.xattrs.get(*name));
    changes.extend(differ.map(|name| Change::Xattr { name: String::from_utf8_lossy(name).into_owned() }));
    changes
}

fn word(kind: &EntryKind) -> &'static str {
    match kind {
        EntryKind::File { .. } => "file",
        EntryKind::Directory => "folder",
        EntryKind::Symlink { .. } => "symbolic link",
        EntryKind::Hardlink { .. } => "hard link",
        EntryKind::CharDevice { .. } => "character device",
        EntryKind::BlockDevice { .. } => "block device",
        EntryKind::Fifo => "pipe",
    }
}

/// Finds the first byte of the first `length` that differs.
fn first_difference([one, other]: [At<'_>; 2], length: u64, cancel: &Cancel) -> Result<Option<u64>, CompareError> {
    let mut buffers = [vec![0; PIECE], vec![0; PIECE]];
    let mut done = 0;
    while done < length {
        if cancel.is_cancelled() {
            return Err(CompareError::Cancelled);
        }
        let size = usize::try_from(length - done).unwrap_or(PIECE).min(PIECE);
        let [a, b] = &mut buffers;
        let (a, b) = (&mut a[..size], &mut b[..size]);
        one.file.read_exact_at(a, one.offset + done).map_err(CompareError::Read)?;
        other.file.read_exact_at(b, other.offset + done).map_err(CompareError::Read)?;
        if a != b {
            let place = a.iter().zip(b.iter()).take_while(|(a, b)| a == b).count();
            return Ok(Some(done + place as u64));
        }
        done += size as u64;
    }
    Ok(None)
}

const PIECE: usize = 128 << 10;

/// Reads a file from an offset, whoever else reads it.
struct At<'a> {
    file: &'a File,
    offset: u64,
}

impl io::Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use layer::{Timestamp, tar};

    use super::*;

    fn files(entries: &[(Entry, &[u8])]) -> Files {
        let mut writer = tar::Writer::new(Vec::new());
        for (entry, content) in entries {
            writer.append(entry, &mut &content[..]).unwrap();
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&writer.finish().unwrap()).unwrap();
        Files::new(file)
    }

    fn file(path: &str, content: &'static [u8]) -> (Entry, &'static [u8]) {
        (Entry::new(path, EntryKind::File { size: content.len() as u64 }, 0o644), content)
    }

    fn told(one: &[(Entry, &[u8])], other: &[(Entry, &[u8])]) -> Vec<FileDifference> {
        compare(files(one), files(other), &Cancel::new()).unwrap()
    }

    #[test]
    fn what_differs_in_a_file_is_told_with_both_values() {
        let plain = file("a", b"0123456789");
        let change = |change: &dyn Fn(&mut Entry)| {
            let mut other = plain.clone();
            change(&mut other.0);
            let mut found = told(std::slice::from_ref(&plain), &[other]);
            assert_eq!((found.len(), found[0].path.as_str(), found[0].changes.len()), (1, "/a", 1));
            found.remove(0).changes.remove(0)
        };
        assert_eq!(change(&|entry| entry.mode = 0o4755), Change::Mode { values: ["0644".into(), "4755".into()] });
        assert_eq!(change(&|entry| entry.gid = 5), Change::Owner { values: ["0:0".into(), "0:5".into()] });
        assert_eq!(change(&|entry| entry.mtime = Timestamp::from_seconds(9)), Change::Mtime { values: [0, 9] });
        let capability = |entry: &mut Entry| {
            entry.xattrs.insert(b"security.capability".to_vec(), b"x\n".to_vec());
        };
        assert_eq!(change(&capability), Change::Xattr { name: "security.capability".into() });
        assert_eq!(told(std::slice::from_ref(&plain), std::slice::from_ref(&plain)), []);
    }

    #[test]
    fn the_first_byte_that_differs_is_found_behind_other_files() {
        let long = vec![7; 300_000];
        let mut other = long.clone();
        other[299_999] = 8;
        let entry = |size| Entry::new("z", EntryKind::File { size }, 0o644);
        let one = [file("a", b"same"), (entry(300_000), &long)];
        let two = [file("a", b"same"), (entry(300_000), &other)];
        assert_eq!(told(&one, &two)[0].changes, [Change::Content { offset: 299_999 }]);
        let shorter = [file("a", b"other"), (entry(10), &long[..10])];
        let found = told(&one, &shorter);
        assert_eq!(found[0].changes, [Change::Size { values: [4, 5] }, Change::Content { offset: 0 }]);
        assert_eq!(found[1].changes, [Change::Size { values: [300_000, 10] }]);
    }

    #[test]
    fn files_of_one_build_alone_and_other_kinds_are_told() {
        let link = |target: &str| (Entry::new("l", EntryKind::Symlink { target: target.into() }, 0o777), &b""[..]);
        let folder = (Entry::new("k", EntryKind::Directory, 0o644), &b""[..]);
        let found = told(&[file("a", b""), file("k", b""), link("x")], &[file("b", b""), folder, link("y")]);
        let changes: Vec<_> = found.iter().map(|file| (file.path.as_str(), file.changes.clone())).collect();
        let expected = [
            ("/a", vec![Change::OnlyIn { build: 1 }]),
            ("/b", vec![Change::OnlyIn { build: 2 }]),
            ("/k", vec![Change::Kind { values: ["file", "folder"] }]),
            ("/l", vec![Change::Target { values: ["x".into(), "y".into()] }]),
        ];
        assert_eq!(changes, expected);
    }
}
