use std::os::unix::fs::FileExt;

use super::*;
use crate::Store;

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().expect("tempdir");
    let store = Store::open(&folder.path().join("home")).expect("opened");
    (folder, store)
}

/// How many unfinished files there are in the whole store.
fn unfinished(store: &Store) -> usize {
    let staging = store.layout().staging();
    let sessions = names(&staging).expect("listed");
    let files = sessions.iter().flat_map(|session| names(&staging.join(session)).expect("listed"));
    files.filter(|name| name != "lock").count() + names(&store.layout().partials()).expect("listed").len()
}

fn write(store: &Store, bytes: &[u8]) -> BlobWriter {
    let mut writer = store.blobs().begin().expect("begun");
    writer.write_all(bytes).expect("written");
    writer
}

/// Bytes that do not repeat.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let step = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state ^ (state >> 29)).to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..length / 8 + 1).flat_map(step).collect();
    bytes.truncate(length);
    bytes
}

#[test]
fn a_blob_is_invisible_until_committed_and_whole_afterwards() {
    let (_folder, store) = store();
    let blobs = store.blobs();
    for length in [0, 1, 100, 1 << 20, (1 << 20) + 1, 9 << 20] {
        let bytes = noise(length);
        let digest = Digest::sha256(&bytes);
        let writer = write(&store, &bytes);
        assert!(!blobs.contains(&digest).expect("looked"));
        assert_eq!(writer.offset(), length as u64);
        assert_eq!(writer.commit(Some(&digest)).expect("committed"), (digest.clone(), length as u64));
        assert_eq!(blobs.read(&digest, 1 << 30).expect("read"), bytes);
        assert!(blobs.has(&Descriptor::of("x", &bytes)).expect("looked"));
        assert_eq!(unfinished(&store), 0);
    }
    assert_eq!(blobs.list().expect("listed").len(), 6);
}

#[test]
fn a_wrong_digest_stores_nothing() {
    let (_folder, store) = store();
    let expected = Digest::sha256(b"right");
    let error = write(&store, b"wrong").commit(Some(&expected)).expect_err("refused");
    assert!(matches!(error, BlobError::DigestMismatch { .. }), "{error}");
    assert_eq!((store.blobs().list().expect("listed").len(), unfinished(&store)), (0, 0));
}

#[test]
fn a_dropped_writer_leaves_nothing() {
    let (_folder, store) = store();
    drop(write(&store, &noise(6 << 20)));
    assert_eq!(unfinished(&store), 0);
}

#[test]
fn another_algorithm_is_found_by_looking_again() {
    let (_folder, store) = store();
    let digest = Digest::of(Algorithm::Sha512, b"text");
    write(&store, b"text").commit(Some(&digest)).expect("committed");
    assert_eq!(store.blobs().read(&digest, 9).expect("read"), b"text");
    let mut writer = store.blobs().begin_as(Algorithm::Sha512).expect("begun");
    writer.write_all(b"text").expect("written");
    assert_eq!(writer.commit(None).expect("committed").0, digest);
}

#[test]
fn committing_again_succeeds_and_heals_a_truncated_blob() {
    let (_folder, store) = store();
    let digest = store.blobs().put(b"some bytes").expect("put");
    assert_eq!(store.blobs().put(b"some bytes").expect("put again"), digest);
    let file = fs::OpenOptions::new().write(true).open(store.blobs().path(&digest)).expect("opened");
    file.set_len(3).expect("truncated");
    store.blobs().put(b"some bytes").expect("healed");
    assert_eq!(store.blobs().read(&digest, 99).expect("read"), b"some bytes");
}

#[test]
fn a_damaged_blob_is_reported_once_and_can_come_back() {
    let (_folder, store) = store();
    let digest = store.blobs().put(b"some bytes").expect("put");
    let file = fs::OpenOptions::new().write(true).open(store.blobs().path(&digest)).expect("opened");
    file.write_all_at(b"X", 2).expect("damaged");
    assert!(matches!(store.blobs().verify(&digest), Err(BlobError::Damaged { .. })));
    assert!(matches!(store.blobs().read(&digest, 99), Err(BlobError::NotFound { .. })));
    store.blobs().put(b"some bytes").expect("healed");
    store.blobs().verify(&digest).expect("whole");
}

#[test]
fn more_than_asked_for_is_not_read() {
    let (_folder, store) = store();
    let digest = store.blobs().put(b"some bytes").expect("put");
    assert!(matches!(store.blobs().read(&digest, 9), Err(BlobError::TooLarge { size: 10, max: 9, .. })));
}

#[test]
fn a_download_is_carried_on_by_another_store() {
    let (_folder, store) = store();
    let bytes = noise(5 << 20);
    let digest = Digest::sha256(&bytes);
    let mut writer = store.blobs().begin_resumable(&digest).expect("begun");
    writer.write_all(&bytes[..3 << 20]).expect("written");
    let other = Store::open(store.home()).expect("opened");
    assert_eq!(other.blobs().begin_resumable(&digest).expect("begun").offset(), 0, "taken");
    drop(writer);
    let mut writer = other.blobs().begin_resumable(&digest).expect("begun");
    assert_eq!(writer.offset(), 3 << 20);
    writer.write_all(&bytes[3 << 20..]).expect("written");
    writer.commit(Some(&digest)).expect("committed");
    other.blobs().verify(&digest).expect("whole");
    assert_eq!(unfinished(&store), 0);
}

#[test]
fn a_download_that_went_wrong_starts_afresh() {
    let (_folder, store) = store();
    let digest = Digest::sha256(b"right");
    let mut writer = store.blobs().begin_resumable(&digest).expect("begun");
    writer.write_all(b"wrong").expect("written");
    assert!(writer.commit(Some(&digest)).is_err());
    assert_eq!(store.blobs().begin_resumable(&digest).expect("begun").offset(), 0);
}

#[test]
fn many_threads_may_commit_the_same_blobs() {
    let (_folder, store) = store();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let store = Store::open(store.home()).expect("opened");
                for number in 0..20_u32 {
                    store.blobs().put(&number.to_le_bytes().repeat(1000)).expect("put");
                }
            });
        }
    });
    let digests = store.blobs().list().expect("listed");
    assert_eq!(digests.len(), 20);
    for digest in &digests {
        store.blobs().verify(digest).expect("whole");
    }
}

#[test]
fn junk_among_the_blobs_is_not_listed() {
    let (_folder, store) = store();
    store.blobs().put(b"x").expect("put");
    for name in ["junk", "sha256/junk", "sha256/zz/junk", "md5/00/00"] {
        crate::atomic_file::write(&store.layout().blobs().join(name), b"junk").expect("written");
    }
    assert_eq!(store.blobs().list().expect("listed").len(), 1);
}

#[test]
fn a_full_disk_says_what_to_do() {
    let error = FileError::new("write", Path::new("/x"), io::Error::from_raw_os_error(28));
    assert!(matches!(error, FileError::NoSpace { .. }));
    assert!(error.to_string().contains("SLIPWAY_HOME"));
}

#[test]
fn a_blob_that_does_not_fit_on_the_disk_leaves_the_store_usable() {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    use rustix::thread::UnshareFlags;

    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "this test needs root");
        println!("skipped: needs root");
        return;
    }
    let folder = tempfile::tempdir().expect("tempdir");
    let home = folder.path().join("disk");
    fs::create_dir(&home).expect("made");
    let work = || {
        // A small disk that only this thread sees, and that goes with it.
        // SAFETY: unsharing mounts takes no memory or file descriptor away from anyone.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.expect("unshared");
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).expect("made private");
        mount("tmpfs", &home, "tmpfs", MountFlags::empty(), c"size=8m").expect("mounted");
        let store = Store::open(&home).expect("opened");
        let kept = store.blobs().put(b"kept").expect("put");
        for length in [9 << 20, 20 << 20] {
            let mut writer = store.blobs().begin().expect("begun");
            // Large blobs are written behind the caller's back: the next write tells, or the commit.
            let text = match writer.write_all(&noise(length)) {
                Err(error) => {
                    let text = writer.explain(error).to_string();
                    assert!(writer.commit(None).is_err(), "what failed stays failed");
                    text
                }
                Ok(()) => writer.commit(None).expect_err("full").to_string(),
            };
            assert!(text.contains("SLIPWAY_HOME"), "{text}");
            assert_eq!((unfinished(&store), store.blobs().list().expect("listed").len()), (0, 1));
        }
        // Room in the file's buffer, but not on the disk: the commit tells.
        let mut fill = write(&store, &noise(7 << 20));
        fill.flush().expect("written");
        let error = write(&store, &noise((1 << 20) - 1)).commit(None).expect_err("full");
        assert!(error.to_string().contains("SLIPWAY_HOME"), "{error}");
        drop(fill);
        store.blobs().put(b"there is room again").expect("put");
        store.blobs().verify(&kept).expect("unharmed");
    };
    std::thread::scope(|scope| scope.spawn(work).join().expect("no panic"));
}
