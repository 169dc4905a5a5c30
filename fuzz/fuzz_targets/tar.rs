//! Layers and archives: decompressors, the tar reader, and applying to a folder that nothing may leave.

#![no_main]

use std::fs::{self, File};
use std::io::{self, Cursor, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use layer::tar::{Limits, Reader, Writer};
use layer::{ApplyOptions, Devices, Entry, EntryKind, Timestamp, Whiteouts, apply, compress, remove_tree};
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits { entries: 500, bytes: 4 << 20 };
const SECRET: &[u8] = b"what lies outside";

/// A folder around the root that tars are applied to: `FENCE/root`, and `FENCE/outside/secret`, which must stay.
struct Fence(PathBuf);

impl Fence {
    /// The fence of this process, a folder below `TMPDIR` with its process ID.
    fn get() -> &'static Self {
        static FENCE: OnceLock<Fence> = OnceLock::new();
        FENCE.get_or_init(|| {
            let folder = std::env::temp_dir().join(format!("fuzz-tar-{}", std::process::id()));
            fs::DirBuilder::new().mode(0o700).create(&folder).expect("a folder of one's own");
            fs::create_dir(folder.join("outside")).expect("a folder");
            fs::write(folder.join("outside/secret"), SECRET).expect("a file");
            Self(folder)
        })
    }

    fn root(&self) -> PathBuf {
        self.0.join("root")
    }

    /// What can be seen of all that is not the root.
    fn state(&self) -> Vec<(PathBuf, [i64; 7])> {
        let mut state = Vec::new();
        for path in [self.0.clone(), self.0.join("outside"), self.0.join("outside/secret")] {
            let is = fs::symlink_metadata(&path).expect("what lies outside is still there");
            let ids = i64::from(is.uid()) << 32 | i64::from(is.gid());
            let facts = [i64::from(is.mode()), ids, is.nlink() as i64, is.size() as i64, is.mtime(), is.mtime_nsec()];
            state.push((path, [facts[0], facts[1], facts[2], facts[3], facts[4], facts[5], is.ctime_nsec()]));
        }
        assert_eq!(names(&self.0), ["outside", "root"]);
        assert_eq!(names(&self.0.join("outside")), ["secret"]);
        assert_eq!(fs::read(self.0.join("outside/secret")).expect("readable"), SECRET);
        state
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Makes a tar from lines such as `d a`, `f a/b text`, `l link target`, `h link target`, `c null 1:3`, `p pipe`; `@` at
/// the front of a path or target is the absolute path of the fence.
fn from_lines(text: &[u8], fence: &Path) -> Vec<u8> {
    let fence = fence.as_os_str().as_encoded_bytes();
    let expanded = |word: &[u8]| match word.strip_prefix(b"@") {
        Some(rest) => [fence, rest].concat(),
        None => word.to_vec(),
    };
    let mut writer = Writer::new(Vec::new());
    for line in text.split(|byte| *byte == b'\n').take(100) {
        let mut words = line.splitn(3, |byte| *byte == b' ');
        let [kind, path, rest] = [(); 3].map(|()| words.next().unwrap_or_default());
        let target = expanded(rest);
        let kind = match kind {
            b"d" => EntryKind::Directory,
            b"f" => EntryKind::File { size: rest.len() as u64 },
            b"l" => EntryKind::Symlink { target },
            b"h" => EntryKind::Hardlink { target },
            b"p" => EntryKind::Fifo,
            b"c" => EntryKind::CharDevice { major: 0, minor: rest.len() as u32 },
            _ => continue,
        };
        let mut entry = Entry::new(expanded(path), kind, 0o4751);
        entry.mtime = Timestamp::from_seconds(1_000_000_000);
        entry.xattrs.insert(b"user.note".to_vec(), rest.to_vec());
        // A writer after an error is useless; what it wrote before is a tar nobody need read.
        let mut content = rest;
        if writer.append(&entry, &mut content).is_err() {
            return Vec::new();
        }
    }
    writer.finish().unwrap_or_default()
}

/// Entries with their content, or an error.
fn read(tar: &[u8]) -> Option<Vec<(Entry, Vec<u8>)>> {
    let mut reader = Reader::with_limits(tar, LIMITS);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry().ok()? {
        let mut content = Vec::new();
        reader.read_to_end(&mut content).ok()?;
        assert_eq!(content.len() as u64, entry.size(), "a file is as long as it says");
        entries.push((entry, content));
    }
    reader.drain().ok()?;
    assert!(entries.len() as u64 <= LIMITS.entries);
    assert!(entries.iter().map(|(_, content)| content.len() as u64).sum::<u64>() <= LIMITS.bytes);
    Some(entries)
}

/// What was read, written and read again is the same.
fn check_round_trip(entries: &[(Entry, Vec<u8>)]) {
    let mut writer = Writer::new(Vec::new());
    for (entry, content) in entries {
        if writer.append(entry, &mut content.as_slice()).is_err() {
            return;
        }
    }
    let Ok(tar) = writer.finish() else { return };
    let mut reader = Reader::new(tar.as_slice());
    for (entry, content) in entries {
        let again = reader.next_entry().expect("our own tar").expect("as many entries as before");
        // What we write has whole seconds.
        let whole = Entry { mtime: Timestamp::from_seconds(entry.mtime.seconds), ..entry.clone() };
        assert_eq!(again, whole);
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).expect("our own tar");
        assert!(&bytes == content, "the content of {:?} changed", entry.path.escape_ascii());
    }
    assert_eq!(reader.next_entry().expect("our own tar"), None);
    reader.drain().expect("our own tar");
}

fuzz_target!(|data: &[u8]| {
    // The first byte says how; the rest is a tar, compressed or not, or lines.
    let Some((&how, data)) = data.split_first() else { return };
    let fence = Fence::get();
    let tar = match how & 1 {
        1 => from_lines(data, &fence.0),
        _ => {
            let source = Cursor::new(data.to_vec());
            let Ok((_, decoder)) = compress::decoder(source) else { return };
            let mut tar = Vec::new();
            // A bomb is cut off; what cannot be decompressed is a tar that stops in the middle.
            let _: io::Result<usize> = decoder.take(8 << 20).read_to_end(&mut tar);
            tar
        }
    };
    let entries = read(&tar);
    if let Some(entries) = &entries {
        check_round_trip(entries);
    }

    let whiteouts = [Whiteouts::Overlay, Whiteouts::OverlayUser, Whiteouts::Remove, Whiteouts::Literal];
    let whiteouts = whiteouts[usize::from(how >> 1) % 4];
    let is_root = rustix::process::geteuid().is_root();
    let options = ApplyOptions {
        whiteouts: if is_root || whiteouts != Whiteouts::Overlay { whiteouts } else { Whiteouts::OverlayUser },
        limits: LIMITS,
        chown: is_root && how & 8 != 0,
        owner: None,
        drop_rights: false,
        devices: if how & 16 != 0 { Devices::CreateIfPermitted } else { Devices::Skip },
        root_metadata: how & 32 != 0,
    };
    let root = fence.root();
    fs::create_dir(&root).expect("a folder");
    let before = fence.state();
    let folder = File::open(&root).expect("a folder");
    let applied = apply(&mut tar.as_slice(), folder.as_fd(), &options);
    if how & 64 != 0 && applied.is_ok() {
        // A layer onto what it made itself: everything is in the way.
        let _ = apply(&mut tar.as_slice(), folder.as_fd(), &options);
    }
    assert_eq!(fence.state(), before, "something outside the root changed");
    match applied {
        Ok(applied) => {
            let entries = entries.expect("what was applied can be read");
            assert_eq!(applied.entries, entries.len() as u64);
            assert!(applied.bytes <= LIMITS.bytes);
        }
        Err(error) => assert!(error.to_string().len() < 20_000, "a message that grows"),
    }
    drop(folder);
    remove_tree(&root).expect("whatever was applied can be removed");
    assert!(!root.exists());
});
