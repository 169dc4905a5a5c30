use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::atomic::Ordering;

use layer::Follow;

use super::*;
use crate::{Store, atomic_file};

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().expect("tempdir");
    let store = Store::open(&folder.path().join("home")).expect("opened");
    (folder, store)
}

fn diff_id(text: &str) -> DiffId {
    DiffId(Digest::sha256(text.as_bytes()))
}

#[test]
fn a_stack_of_many_layers_stays_low_and_shows_all_of_them() {
    let (_folder, store) = store();
    let snapshots = store.snapshots();
    let mut snapshot = Snapshot::empty();
    for number in 0..120 {
        let active = snapshots.begin(&snapshot).expect("begun");
        let folder = active.upper().join((number % 7).to_string());
        fs::create_dir(&folder).expect("made");
        atomic_file::write(&folder.join(number.to_string()), b"").expect("written");
        snapshot = active.commit(&diff_id(&number.to_string()), false).expect("committed");
        assert!(snapshot.dirs.len() <= ENOUGH + 4, "{number}: {}", snapshot.dirs.len());
    }
    let shows_all = |snapshot: &Snapshot| {
        let tree = snapshot.tree().expect("readable");
        let there = |number: u32| tree.lookup(format!("{}/{number}", number % 7), Follow::No).expect("read").is_some();
        (0..120).all(there)
    };
    assert!(shows_all(&snapshot));
    let chain = snapshot.chain.clone().expect("not empty");
    let again = Store::open(store.home()).expect("opened").snapshots().get(&chain).expect("read");
    assert_eq!(again.as_ref(), Some(&snapshot));
    // All of them are there, but those that the topmost stands on suffice.
    let layers =
        |count: usize| (0..count).map(|number| (diff_id(&number.to_string()), not_there())).collect::<Vec<_>>();
    let quiet = |event: UnpackEvent<'_>| panic!("{event:?}");
    assert_eq!(snapshots.ensure(&layers(120), &quiet).expect("there"), snapshot);
    for (number, name) in crate::blobs::names(&store.layout().snapshots()).expect("listed").iter().enumerate() {
        let path = store.layout().snapshots().join(name);
        if number % 2 == 0 && !snapshot.dirs.contains(&path.join("fs")) {
            fs::remove_dir_all(path).expect("removed");
        }
    }
    assert_eq!(snapshots.ensure(&layers(120), &quiet).expect("there"), snapshot);
}

/// Describes a blob that nobody can read.
fn not_there() -> Descriptor {
    Descriptor::of(oci::media_type::OCI_LAYER, b"not in the store")
}

#[test]
fn large_folders_are_taken_in_only_when_the_stack_would_get_too_high() {
    let folder = tempfile::tempdir().expect("tempdir");
    let make = |name: String, files: usize| {
        let path = folder.path().join(name);
        fs::create_dir(&path).expect("made");
        for number in 0..files {
            fs::File::create(path.join(format!("{files}-{number}"))).expect("made");
        }
        path
    };
    let below: Vec<_> = (0..MOST).map(|number| make(number.to_string(), if number < 3 { 1 } else { 100 })).collect();
    assert_eq!(take_in(&make("few".into(), 1), &below[..ENOUGH - 1]).expect("counted"), 0, "a few are no matter");
    assert_eq!(take_in(&make("small".into(), 1), &below[..ENOUGH]).expect("folded"), 3);
    assert_eq!(take_in(&make("high".into(), 2), &below).expect("folded"), MOST / 2);
    assert_eq!(take_in(&make("large".into(), 60), &below[..ENOUGH]).expect("folded"), ENOUGH);
}

#[test]
fn a_layer_that_holds_nothing_has_no_folder() {
    let (_folder, store) = store();
    let snapshots = store.snapshots();
    let base = snapshots.begin(&Snapshot::empty()).expect("begun").commit(&diff_id("1"), false).expect("committed");
    let active = snapshots.begin(&base).expect("begun");
    // Copied up, and not changed.
    fs::create_dir(active.upper().join("etc")).expect("made");
    let hollow = active.commit(&diff_id("2"), true).expect("committed");
    assert_eq!(hollow.dirs, base.dirs);
    assert_eq!(hollow.chain, base.chain.map(|chain| chain.then(&diff_id("2"))));
    let top = snapshots.begin(&hollow).expect("begun").commit(&diff_id("3"), false).expect("committed");
    assert_eq!(top.dirs[1..], base.dirs);
    for snapshot in [&hollow, &top] {
        let chain = snapshot.chain.as_ref().expect("not empty");
        assert_eq!(snapshots.get(chain).expect("read").as_ref(), Some(snapshot));
    }
    let again = snapshots.begin(&base_of(&hollow, snapshots)).expect("begun").commit(&diff_id("2"), true);
    assert_eq!(again.expect("there"), hollow);
}

/// Returns what a snapshot stands on.
fn base_of(snapshot: &Snapshot, snapshots: &Snapshots) -> Snapshot {
    let below = snapshots.below(snapshot.chain.as_ref().expect("not empty")).expect("read").flatten();
    snapshots.get(&below.expect("stands on one")).expect("read").expect("there")
}

#[test]
fn an_active_snapshot_is_committed_or_gone() {
    let (_folder, store) = store();
    let snapshots = store.snapshots();
    let active = snapshots.begin(&Snapshot::empty()).expect("begun");
    assert_eq!(active.lower().expect("made"), [store.layout().floor()]);
    fs::set_permissions(active.upper(), fs::Permissions::from_mode(0o700)).expect("changed");
    atomic_file::write(&active.upper().join("a"), b"one").expect("written");
    fs::create_dir(active.work().join("work")).expect("made");
    fs::set_permissions(active.work().join("work"), fs::Permissions::from_mode(0o0)).expect("closed");
    let base = active.commit(&diff_id("1"), false).expect("committed");
    assert_eq!(base.chain, Some(ChainId::base(&diff_id("1"))));
    assert_eq!(fs::read(base.dirs[0].join("a")).expect("read"), b"one");

    let active = snapshots.begin(&base).expect("begun");
    assert_eq!(active.lower().expect("made"), [base.dirs[0].clone(), store.layout().floor()]);
    assert_eq!(fs::metadata(active.upper()).expect("there").permissions().mode() & 0o7777, 0o700, "as below");
    let two = active.commit(&diff_id("2"), false).expect("committed");
    assert_eq!(two.dirs.len(), 2);
    assert_eq!(two.dirs[1], base.dirs[0]);
    let chain = two.chain.clone().expect("not empty");
    assert_eq!(snapshots.get(&chain).expect("read"), Some(two.clone()));
    assert_eq!(snapshots.ensure(&[], &|_| ()).expect("empty"), Snapshot::empty());

    let active = snapshots.begin(&two).expect("begun");
    let (upper, id) = (active.upper(), active.id().to_owned());
    assert_ne!(snapshots.begin(&two).expect("begun").id(), id);
    active.scratch().expect("made");
    drop(active);
    assert!(!upper.exists());
    assert_eq!(Store::open(store.home()).expect("opened").snapshots().get(&chain).expect("read"), Some(two));
}

#[test]
fn of_two_equal_snapshots_the_first_stays() {
    let (_folder, store) = store();
    let snapshots = store.snapshots();
    let (one, two) =
        (snapshots.begin(&Snapshot::empty()).expect("begun"), snapshots.begin(&Snapshot::empty()).expect("begun"));
    atomic_file::write(&one.upper().join("a"), b"one").expect("written");
    let first = one.commit(&diff_id("1"), false).expect("committed");
    assert_eq!(two.commit(&diff_id("1"), false).expect("committed"), first);
    assert!(first.dirs[0].join("a").exists());
}

#[test]
fn whoever_is_slower_gets_the_stack_of_the_faster() {
    let (_folder, store) = store();
    let snapshots = store.snapshots();
    let mut base = Snapshot::empty();
    for number in 0..ENOUGH {
        let active = snapshots.begin(&base).expect("begun");
        atomic_file::write(&active.upper().join("a"), b"one").expect("written");
        base = active.commit(&diff_id(&format!("{number}")), false).expect("committed");
    }
    // Neither sees the other in its place before it has taken in what it likes.
    let put = |files: usize| {
        let active = snapshots.begin(&base).expect("begun");
        for number in 0..files {
            atomic_file::write(&active.upper().join(format!("{number}")), b"one").expect("written");
        }
        fs::rename(active.upper(), active.folder.join("fs")).expect("moved");
        snapshots.put(&active.folder, &base, &diff_id("top"), false).expect("put")
    };
    let first = put(0);
    assert_eq!(first.dirs.len(), ENOUGH + 1, "it takes in nothing");
    assert_eq!(put(100), first);
}

#[test]
fn a_snapshot_of_another_boot_or_a_damaged_one_counts_as_none() {
    let (_folder, store) = store();
    let snapshots = store.snapshots();
    let base = snapshots.begin(&Snapshot::empty()).expect("begun").commit(&diff_id("1"), false).expect("committed");
    let two = snapshots.begin(&base).expect("begun").commit(&diff_id("2"), false).expect("committed");
    let (low, high) = (base.chain.expect("not empty"), two.chain.expect("not empty"));
    let path = store.layout().snapshot(&low).join("meta.json");
    let whole = fs::read_to_string(&path).expect("read");
    for bad in ["", "{", &whole[..whole.len() / 2], &whole.replace(boot_id(), "another")] {
        atomic_file::write(&path, bad.as_bytes()).expect("written");
        assert_eq!(snapshots.get(&low).expect("none"), None);
        assert_eq!(snapshots.get(&high).expect("nothing to stand on"), None);
    }
    atomic_file::write(&base.dirs[0].join("torn"), b"").expect("written");
    let again = snapshots.begin(&Snapshot::empty()).expect("begun").commit(&diff_id("1"), false).expect("replaced");
    assert!(!again.dirs[0].join("torn").exists());
    assert!(snapshots.get(&high).expect("whole again").is_some());
    // One that speaks of another chain.
    fs::copy(store.layout().snapshot(&high).join("meta.json"), &path).expect("copied");
    assert_eq!(snapshots.get(&low).expect("none"), None);
}

mod unpacking {
    use std::collections::BTreeMap;
    use std::io::Write;
    use std::sync::Mutex;

    use layer::tar::Writer;
    use layer::{Compression, Encoder, Entry, EntryKind, Timestamp};
    use oci::media_type;

    use super::*;

    /// Whether layers can be unpacked as root does it. Without root the test is skipped here, and fails in CI.
    fn is_root() -> bool {
        let root = rustix::process::geteuid().is_root();
        assert!(root || std::env::var_os("CI").is_none(), "this test needs root");
        if !root {
            println!("skipped: needs root");
        }
        root
    }

    fn entry(path: &str, kind: EntryKind, mode: u32, uid: u32) -> Entry {
        let mtime = Timestamp { seconds: 1_000_000, nanos: 0 };
        Entry { path: path.into(), kind, mode, uid, gid: uid, mtime, xattrs: BTreeMap::new() }
    }

    fn folder(path: &str, mode: u32, uid: u32) -> (Entry, Vec<u8>) {
        (entry(path, EntryKind::Directory, mode, uid), Vec::new())
    }

    fn file(path: &str, content: &[u8]) -> (Entry, Vec<u8>) {
        (entry(path, EntryKind::File { size: content.len() as u64 }, 0o644, 0), content.to_vec())
    }

    fn whiteout(path: &str) -> (Entry, Vec<u8>) {
        (Entry::whiteout(path.as_bytes()), Vec::new())
    }

    fn tar(entries: &[(Entry, Vec<u8>)]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        for (entry, content) in entries {
            writer.append(entry, &mut content.as_slice()).expect("appended");
        }
        writer.finish().expect("finished")
    }

    fn put(store: &Store, tar: &[u8], compression: Compression) -> (DiffId, Descriptor) {
        let mut encoder = Encoder::new(store.blobs().begin().expect("begun"), compression, 2).expect("started");
        encoder.write_all(tar).expect("written");
        let (digest, size) = encoder.finish().expect("finished").commit(None).expect("committed");
        (DiffId(Digest::sha256(tar)), Descriptor::new(media_type::OCI_LAYER_GZIP, digest, size))
    }

    fn leftovers(store: &Store) -> usize {
        let staging = store.layout().staging();
        let listed = |path: &Path| crate::blobs::names(path).expect("listed");
        let in_session = |name: &String| {
            let session = staging.join(name);
            let own = listed(&session).into_iter().filter(|name| !["lock", "trash"].contains(&name.as_str()));
            own.count() + listed(&session.join("trash")).len()
        };
        listed(&staging).iter().map(in_session).sum()
    }

    fn three_layers(store: &Store) -> Vec<(DiffId, Descriptor)> {
        let low = [folder("", 0o711, 7), folder("etc", 0o750, 5), file("etc/a", b"a"), file("b", b"b")];
        // Says nothing of the root, nor of `etc`.
        let middle = [file("etc/c", b"c"), whiteout("b"), file("new/deep/d", b"d")];
        let high = [folder("etc", 0o700, 0), whiteout("etc/.wh..opq"), file("big", &vec![7; 3 << 20])];
        vec![
            put(store, &tar(&low), Compression::Gzip),
            put(store, &tar(&middle), Compression::None),
            put(store, &tar(&high), Compression::Zstd),
        ]
    }

    #[test]
    fn folders_that_overlayfs_worked_in_are_used_again_when_nothing_is_in_them() {
        if !is_root() {
            return;
        }
        let (_folder, store) = store();
        let begin = || store.snapshots().begin(&Snapshot::empty()).expect("begun");
        let number = |path: &Path| fs::metadata(path).expect("there").ino();
        let folders = |active: &Active| [active.folder.clone(), active.upper(), active.work()];
        for leaves in [false, true] {
            let active = begin();
            // What overlayfs leaves there when it is told not to sync.
            let inner = active.work().join("work");
            fs::create_dir_all(inner.join("incompat/volatile")).expect("made");
            atomic_file::write(&inner.join("incompat/volatile/dirty"), b"").expect("written");
            fs::set_permissions(&inner, fs::Permissions::from_mode(0o0)).expect("changed");
            if leaves {
                atomic_file::write(&inner.join("#1"), b"x").expect("written");
            }
            let old: Vec<u64> = [inner.join("incompat/volatile"), inner.join("incompat"), inner, active.work()]
                .iter()
                .map(|path| number(path))
                .collect();
            let diff_id = DiffId(store.blobs().put_later(Vec::new()).expect("handed in"));
            active.commit(&diff_id, true).expect("committed");
            store.settle().expect("done");
            let again = begin();
            let again = folders(&again);
            for (path, mode) in again.iter().zip([0o700, 0o755, 0o755]) {
                assert_eq!(fs::metadata(path).expect("there").permissions().mode() & 0o7777, mode);
            }
            assert_eq!(fs::read_dir(&again[1]).expect("listed").count(), 0);
            let kept = again.iter().filter(|path| old.contains(&number(path))).count();
            // The two inside of the one that was not empty are kept.
            assert_eq!(kept, if leaves { 2 } else { 3 });
        }
    }

    #[test]
    fn more_layers_than_the_kernel_stacks_are_unpacked_to_a_low_stack() {
        if !is_root() {
            return;
        }
        let (_folder, store) = store();
        let mut layers = Vec::new();
        for number in 0..510 {
            layers.push(match number % 3 {
                0 => put(&store, &tar(&[file(&format!("a/{number}"), b"x")]), Compression::None),
                1 => put(&store, &tar(&[whiteout(&format!("a/{}", number - 1))]), Compression::None),
                _ => put(&store, &tar(&[]), Compression::None),
            });
        }
        let snapshot = store.snapshots().ensure(&layers, &|_| ()).expect("unpacked");
        assert!(snapshot.dirs.len() <= ENOUGH + 4, "{}", snapshot.dirs.len());
        let tree = snapshot.tree().expect("readable");
        let folder = tree.lookup("a", Follow::No).expect("read").expect("there");
        assert!(tree.read_dir(&folder).expect("listed").is_empty());
        assert_eq!(store.snapshots().ensure(&layers, &|event| panic!("{event:?}")).expect("there"), snapshot);
        assert_eq!(leftovers(&store), 0);
    }

    #[test]
    fn layers_are_unpacked_once_and_look_as_if_stacked() {
        if !is_root() {
            return;
        }
        let (_folder, store) = store();
        let layers = three_layers(&store);
        let seen = Mutex::new(BTreeMap::<String, u64>::new());
        let note = |event: UnpackEvent<'_>| {
            let (name, count) = match event {
                UnpackEvent::Started { total, .. } => ("total", total),
                UnpackEvent::Advanced { bytes, .. } => ("bytes", bytes),
                UnpackEvent::Finished { .. } => ("finished", 1),
            };
            *seen.lock().expect("no panic").entry(name.into()).or_default() += count;
        };
        let snapshot = store.snapshots().ensure(&layers, &note).expect("unpacked");
        let total: u64 = layers.iter().map(|(_, blob)| blob.size).sum();
        let expected = [("bytes".to_owned(), total), ("finished".into(), 3), ("total".into(), total)];
        assert_eq!(*seen.lock().expect("no panic"), BTreeMap::from(expected.clone()));
        let tree = snapshot.tree().expect("readable");
        assert!(tree.lookup("b", Follow::No).expect("read").is_none(), "whited out");
        assert!(tree.lookup("new/deep/d", Follow::No).expect("read").is_some());
        for dir in &snapshot.dirs {
            let root = fs::metadata(dir).expect("there");
            assert_eq!((root.mode() & 0o7777, root.uid()), (0o711, 7), "{dir:?}");
        }
        let implied = fs::metadata(snapshot.dirs[1].join("etc")).expect("there");
        assert_eq!((implied.mode() & 0o7777, implied.uid(), implied.mtime()), (0o750, 5, 1_000_000));

        assert_eq!(store.snapshots().ensure(&layers, &note).expect("nothing to do"), snapshot);
        assert_eq!(*seen.lock().expect("no panic"), BTreeMap::from(expected), "nothing was unpacked again");
        // One in the middle that is gone comes back, and the others stay.
        let chain = ChainId::of(&[layers[0].0.clone(), layers[1].0.clone()]).expect("two");
        store.home_parts().discard(&store.layout().snapshot(&chain)).expect("removed");
        assert_eq!(store.snapshots().ensure(&layers, &note).expect("unpacked"), snapshot);
        assert_eq!(seen.lock().expect("no panic")["finished"], 4);
        assert_eq!(leftovers(&store), 0);
    }

    #[test]
    fn a_broken_layer_leaves_nothing_and_those_below_stay() {
        if !is_root() {
            return;
        }
        let (_folder, store) = store();
        let good = three_layers(&store);
        let lie = (diff_id("another"), good[1].1.clone());
        let error = store.snapshots().ensure(&[good[0].clone(), lie, good[2].clone()], &|_| ()).expect_err("refused");
        assert!(matches!(error, SnapshotError::DiffIdMismatch { .. }), "{error}");
        assert!(store.snapshots().get(&ChainId::base(&good[0].0)).expect("looked").is_some());
        assert_eq!(crate::blobs::names(&store.layout().snapshots()).expect("listed").len(), 1);

        for bytes in [b"junk".repeat(200), tar(&[file("a", &[1; 5000])])[..3000].to_vec()] {
            let digest = store.blobs().put(&bytes).expect("put");
            let blob = Descriptor::new(media_type::OCI_LAYER, digest.clone(), bytes.len() as u64);
            let error = store.snapshots().ensure(&[(DiffId(digest), blob)], &|_| ()).expect_err("refused");
            assert!(matches!(error, SnapshotError::Apply { .. }), "{error:?}");
        }
        let (missing, blob) = (diff_id("x"), Descriptor::of(media_type::OCI_LAYER, b"never stored"));
        let error = store.snapshots().ensure(&[(missing, blob)], &|_| ()).expect_err("refused");
        assert!(matches!(error, SnapshotError::Blob(BlobError::NotFound { .. })), "{error}");
        assert_eq!(leftovers(&store), 0);
    }

    #[test]
    fn a_blob_that_the_disk_damaged_is_told_from_a_wrong_one() {
        if !is_root() {
            return;
        }
        let (_folder, store) = store();
        let layers = three_layers(&store);
        let path = store.blobs().path(&layers[2].1.digest);
        let half = fs::metadata(&path).expect("there").len() / 2;
        fs::OpenOptions::new().write(true).open(&path).expect("opened").set_len(half).expect("cut");
        let error = store.snapshots().ensure(&layers, &|_| ()).expect_err("refused");
        assert!(matches!(error, SnapshotError::Blob(BlobError::Damaged { .. })), "{error:?}");
        assert!(!store.blobs().contains(&layers[2].1.digest).expect("looked"), "so that it can be pulled again");
        assert_eq!(leftovers(&store), 0);
    }

    #[test]
    fn unpacking_stops_when_told() {
        let (_folder, store) = store();
        let layers = three_layers(&store);
        let calls = std::sync::atomic::AtomicUsize::new(0);
        let stopped = || calls.fetch_add(1, Ordering::Relaxed) > 3;
        let result = store.snapshots().ensure_unless(&layers, &|_| (), &stopped);
        assert!(matches!(result, Err(SnapshotError::Stopped)), "{result:?}");
        assert_eq!(leftovers(&store), 0);
    }

    #[test]
    fn several_stores_may_unpack_the_same_layers() {
        if !is_root() {
            return;
        }
        let (_folder, store) = store();
        let layers = three_layers(&store);
        let snapshots: Vec<Snapshot> = std::thread::scope(|scope| {
            let unpack = || Store::open(store.home()).expect("opened").snapshots().ensure(&layers, &|_| ());
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(unpack)).collect();
            workers.into_iter().map(|worker| worker.join().expect("no panic").expect("unpacked")).collect()
        });
        assert!(snapshots.iter().all(|snapshot| *snapshot == snapshots[0]));
        assert!(snapshots[0].tree().expect("readable").lookup("big", Follow::No).expect("read").is_some());
        assert_eq!(leftovers(&store), 0);
    }

    #[test]
    fn the_kernel_stacks_snapshots_as_the_tree_shows_them() {
        use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};

        if !is_root() {
            return;
        }
        let (folder, store) = store();
        let merged = folder.path().join("merged");
        fs::create_dir(&merged).expect("made");
        let snapshot = store.snapshots().ensure(&three_layers(&store), &|_| ()).expect("unpacked");
        let active = store.snapshots().begin(&snapshot).expect("begun");
        let lower: Vec<_> =
            active.lower().expect("made").iter().map(|dir| dir.to_str().expect("UTF-8").to_owned()).collect();
        let (upper, work) = (active.upper(), active.work());
        let options = format!("lowerdir={},upperdir={},workdir={}", lower.join(":"), upper.display(), work.display());
        let run = || {
            // SAFETY: unsharing mounts takes no memory or file descriptor away from anyone.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.expect("unshared");
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).expect("made private");
            let options = std::ffi::CString::new(options).expect("no NUL");
            mount("overlay", &merged, "overlay", MountFlags::empty(), options.as_c_str()).expect("mounted");
            let listed = |path: &str| {
                let mut names = crate::blobs::names(&merged.join(path)).expect("listed");
                names.sort_unstable();
                names
            };
            assert_eq!(listed(""), ["big", "dev", "etc", "new", "proc", "sys"]);
            assert_eq!(listed("etc"), [""; 0], "opaque");
            let root = fs::metadata(&merged).expect("there");
            assert_eq!((root.mode() & 0o7777, root.uid()), (0o711, 7));
            fs::remove_file(merged.join("big")).expect("removed");
            atomic_file::write(&merged.join("etc/made"), b"in the container").expect("written");
            unmount(&merged, UnmountFlags::empty()).expect("unmounted");
        };
        std::thread::scope(|scope| scope.spawn(run).join().expect("no panic"));
        let tree = active.commit(&diff_id("run"), false).expect("committed").tree().expect("readable");
        assert!(tree.lookup("big", Follow::No).expect("read").is_none());
        let made = tree.read_small("etc/made", 100).expect("read");
        assert_eq!(made.as_deref(), Some(b"in the container".as_slice()));
    }
}
