//! What a power cut leaves: operations are recorded, and of those that were not synced some happened, others not.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::super::io_log::{Io, Op};
use super::super::*;
use super::{clock, runtime, short};
use crate::storage::id::Id;
use crate::storage::keys;
use crate::storage::referrers::gather;

struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % end
    }
}

/// What a file has, and which of that is safe.
#[derive(Default)]
struct Inode {
    changes: Vec<(usize, FileChange)>,
    /// What came before this many operations is safe.
    safe: usize,
}

enum FileChange {
    Write(u64, Vec<u8>),
    Cut(u64),
}

/// Works out what is on the disk when the power goes after `end` operations.
fn after_power_cut(log: &[Op], end: usize, root: &Path, target: &Path, dice: &mut Dice) {
    let log = &log[..end];
    // Names change in the order in which they were changed: all journaling file systems do that.
    let mut names_safe = 0;
    for op in log {
        if let Op::SyncFolder(before) | Op::SyncAll(before) = op {
            names_safe = names_safe.max(*before);
        }
    }
    let names_end = names_safe + dice.below(end - names_safe + 1);
    let mut inodes: Vec<Inode> = Vec::new();
    let mut names: HashMap<PathBuf, usize> = HashMap::new();
    let mut kept: HashMap<PathBuf, usize> = HashMap::new();
    let mut folders: Vec<PathBuf> = Vec::new();
    for (number, op) in log.iter().enumerate() {
        if number == names_end {
            kept.clone_from(&names);
        }
        match op {
            Op::Create(path) => {
                names.insert(path.clone(), inodes.len());
                inodes.push(Inode::default());
            }
            Op::Write(path, at, bytes) => {
                inodes[names[path]].changes.push((number, FileChange::Write(*at, bytes.clone())));
            }
            Op::Cut(path, size) => inodes[names[path]].changes.push((number, FileChange::Cut(*size))),
            Op::SyncFile(path, before) => {
                // One that was finished meanwhile has another name.
                if let Some(inode) = names.get(path) {
                    inodes[*inode].safe = inodes[*inode].safe.max(*before);
                }
            }
            Op::SyncAll(before) => inodes.iter_mut().for_each(|inode| inode.safe = inode.safe.max(*before)),
            Op::Rename(from, to) => {
                let inode = names.remove(from).expect("it was there");
                names.insert(to.clone(), inode);
            }
            Op::Link(from, to) => {
                names.insert(to.clone(), names[from]);
            }
            Op::Remove(path) => {
                names.remove(path);
                if number < names_end {
                    folders.retain(|folder| folder != path);
                }
            }
            Op::MakeFolder(path) if number < names_end => folders.push(path.clone()),
            Op::MakeFolder(_) | Op::SyncFolder(_) | Op::Acknowledged(..) => {}
        }
    }
    if names_end == end {
        kept = names;
    }
    let place = |path: &Path| target.join(path.strip_prefix(root).expect("below the root"));
    for folder in &folders {
        fs::create_dir_all(place(folder)).expect("made");
    }
    for (path, inode) in kept {
        let mut bytes = Vec::new();
        for (number, change) in &inodes[inode].changes {
            let safe = *number < inodes[inode].safe;
            match change {
                FileChange::Write(at, written) => {
                    // What was under way may have come in part.
                    let length = match (safe, dice.below(4)) {
                        (true, _) | (false, 0 | 1) => written.len(),
                        (false, 2) => 0,
                        (false, _) => dice.below(written.len() + 1),
                    };
                    let at = usize::try_from(*at).expect("small");
                    if length > 0 && bytes.len() < at + length {
                        bytes.resize(at + length, 0);
                    }
                    if length > 0 {
                        bytes[at..][..length].copy_from_slice(&written[..length]);
                    }
                }
                FileChange::Cut(size) => bytes.resize(usize::try_from(*size).expect("small"), 0),
            }
        }
        let path = place(&path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        #[expect(clippy::disallowed_methods, reason = "the test makes what a crash left")]
        fs::write(path, bytes).expect("written");
    }
}

type Objects_ = BTreeMap<Key, Bytes>;

/// Does things to a disk, and returns what its objects were after each change, and the data objects.
fn work(folder: &Path, io: Io, dice: &mut Dice) -> (Vec<Objects_>, Vec<(Id, Bytes)>) {
    let disk = Disk::open_with(folder, short(), io.clone()).expect("opened");
    let backend = disk.backend();
    let prefix = keys::tags(&"a".parse().expect("a name"));
    let (mut states, mut data) = (vec![Objects_::new()], Vec::new());
    runtime().block_on(async {
        for number in 0..150_u64 {
            let key = prefix.key(&format!("{}", dice.below(20)));
            let mut state = states.last().expect("there is one").clone();
            if dice.below(6) == 0 {
                disk.delete(&key).await.expect("removed");
                state.remove(&key);
            } else {
                let body: Bytes = format!("{number} {}", "x".repeat(dice.below(600))).into();
                let condition = match disk.get(&key).await.expect("read") {
                    Some(object) if dice.below(2) == 0 => Condition::Is(object.version),
                    None if dice.below(2) == 0 => Condition::Absent,
                    _ => Condition::Always,
                };
                let put = disk.put(&key, body.clone(), condition).await.expect("written");
                assert!(matches!(put, Put::Done(_)));
                state.insert(key, body);
            }
            states.push(state);
            if dice.below(20) == 0 {
                let (id, bytes) = (Id::from_bits(number.into()), Bytes::from(vec![number as u8; dice.below(5000)]));
                let mut writer = backend.data.begin(id).await.expect("begun");
                writer.write(std::slice::from_ref(&bytes)).await.expect("written");
                if dice.below(2) == 0 {
                    let checkpoint = match dice.below(2) {
                        0 => writer.pause().await,
                        _ => writer.pause_beside().await.expect("begun").await,
                    };
                    let checkpoint = checkpoint.expect("noted");
                    drop(writer);
                    writer = backend.data.resume(&checkpoint).await.expect("asked").expect("there");
                }
                writer.finish().await.expect("finished");
                data.push((id, bytes));
            }
            if dice.below(5) == 0 {
                disk.sync().await.expect("safe");
                io.note(|| Op::Acknowledged(states.len() - 1, data.len()));
            }
        }
    });
    // So that the power can be cut while parts of the journal are applied, however fast the thread is.
    while disk.shared.journal().has_closed() {
        if !disk.shared.apply().expect("applied") {
            std::thread::yield_now();
        }
    }
    (states, data)
}

fn objects(disk: &Disk) -> Objects_ {
    runtime().block_on(async {
        let mut all = Objects_::new();
        for entry in disk.list(&keys::all_tags(), None, 1000).await.expect("listed").entries {
            let object = disk.get(&entry.key).await.expect("read").expect("listed");
            all.insert(entry.key, object.bytes);
        }
        all
    })
}

#[test]
fn two_hundred_power_cuts_lose_nothing_that_was_acknowledged() {
    let (mut cuts, mut applied) = (0, 0);
    for seed in 1..=10_u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let root = tempfile::tempdir().expect("tempdir");
        let log = Arc::new(Mutex::new(Vec::new()));
        let (states, data) = work(&root.path().join("f"), Io { log: Some(log.clone()) }, &mut dice);
        let log = log.lock().expect("not poisoned");
        applied += log.iter().filter(|op| matches!(op, Op::SyncAll(_))).count();
        for cut in 0..20 {
            cuts += 1;
            let end = dice.below(log.len() + 1);
            let target = tempfile::tempdir().expect("tempdir");
            after_power_cut(&log, end, root.path(), target.path(), &mut dice);
            let told = log[..end].iter().rev().find_map(|op| match op {
                Op::Acknowledged(changes, data) => Some((*changes, *data)),
                _ => None,
            });
            let (changes, objects_of_data) = told.unwrap_or((0, 0));
            let folder = target.path().join("f");
            let disk = Disk::open(&folder, short()).expect("what a power cut leaves can be opened");
            let left = objects(&disk);
            let as_of = states.iter().enumerate().skip(changes).find(|(_, state)| **state == left);
            assert!(
                as_of.is_some(),
                "seed {seed}, cut at {end} of {}: not as at any moment since {changes}",
                log.len()
            );
            runtime().block_on(async {
                for (id, bytes) in &data[..objects_of_data] {
                    let length = bytes.len() as u64;
                    let content = disk.backend().data.read(*id, 0..length).await.expect("read").expect("there");
                    assert_eq!(gather(content, length).await.expect("read"), bytes);
                }
            });
            if cut % 5 != 0 {
                continue;
            }
            // It goes on as if nothing had been.
            runtime().block_on(async {
                for number in 0..8 {
                    let key = keys::tags(&"b".parse().expect("a name")).key(&number.to_string());
                    disk.put(&key, Bytes::from(vec![b'y'; 700]), Condition::Absent).await.expect("written");
                }
            });
            let after = objects(&disk);
            assert_eq!(after.len(), left.len() + 8);
            drop(disk);
            let again = Disk::open(&folder, DiskOptions::new(clock)).expect("opened again");
            assert_eq!(objects(&again), after);
        }
    }
    assert_eq!(cuts, 200);
    assert!(applied > 20, "parts of the journal were applied meanwhile: {applied}");
}
