use std::io::{Read, Write};

use oci::Digest;

use super::*;
use crate::Store;

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().expect("tempdir");
    let store = Store::open(&folder.path().join("home")).expect("opened");
    (folder, store)
}

/// Bytes of which no two stretches are the same.
fn bytes(size: usize) -> Vec<u8> {
    (0..size).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn base(store: &Store, bytes: &[u8]) -> (Digest, Marks) {
    let mut writer = store.blobs().begin().expect("begun").with_marks();
    writer.write_all(bytes).expect("written");
    let (digest, _, marks) = writer.commit_marked(None).expect("committed");
    (digest, marks.expect("taken"))
}

fn read(store: &Store, digest: &Digest) -> Vec<u8> {
    let mut bytes = Vec::new();
    store.blobs().stream(digest).expect("opened").0.read_to_end(&mut bytes).expect("read");
    bytes
}

/// What is taken from the base, by offset and length, or written.
type Piece<'a> = Result<(usize, usize), &'a [u8]>;

#[test]
fn a_patch_has_the_digest_and_the_bytes_of_the_whole() {
    let whole = bytes(3 * STRIDE + 700);
    let end = whole.len();
    let big = bytes(700_000);
    let cases: [&[Piece<'_>]; 9] = [
        &[],
        &[Err(b"own")],
        &[Ok((0, end))],
        &[Ok((0, 100)), Ok((100, end - 100))],
        &[Ok((0, 2 * STRIDE)), Err(b"in the middle"), Ok((2 * STRIDE, end - 2 * STRIDE))],
        &[Ok((0, 2 * STRIDE + 5)), Err(b"a"), Err(b"b"), Ok((2 * STRIDE + 9, 10)), Ok((3 * STRIDE, 700))],
        &[Err(b"at the start"), Ok((0, end))],
        &[Ok((STRIDE - 1, 2)), Ok((5, 10)), Err(&big), Err(&big), Ok((end - 1, 1)), Err(b"last")],
        &[Ok((7, 0)), Ok((0, STRIDE)), Ok((0, STRIDE))],
    ];
    for pieces in cases {
        let (_folder, store) = store();
        let (base, marks) = base(&store, &whole);
        let mut patch = store.blobs().patch(&base, marks).expect("begun");
        let mut expected = Vec::new();
        for piece in pieces {
            match *piece {
                Ok((offset, length)) => {
                    patch.keep(offset as u64, length as u64).expect("kept");
                    expected.extend_from_slice(&whole[offset..offset + length]);
                }
                Err(own) => {
                    patch.write_all(own).expect("written");
                    expected.extend_from_slice(own);
                }
            }
        }
        let (digest, size) = patch.commit().expect("committed");
        assert_eq!((&digest, size), (&Digest::sha256(&expected), expected.len() as u64));
        assert_eq!(store.blobs().size(&digest).expect("looked"), Some(size));
        assert!(read(&store, &digest) == expected);
        let mut opened = Vec::new();
        store.blobs().open(&digest).expect("assembled").file.read_to_end(&mut opened).expect("read");
        assert!(opened == expected);
        assert!(!store.layout().patch(&digest).exists());
        assert!(store.blobs().remove(&digest).expect("removed"));
        assert_eq!(store.blobs().size(&digest).expect("looked"), None);
    }
}

#[test]
fn a_damaged_base_is_noticed_while_a_patch_is_written() {
    let whole = bytes(2 * STRIDE + 700);
    for damage in [0, STRIDE + 3, whole.len() - 1] {
        let (_folder, store) = store();
        let (base, marks) = base(&store, &whole);
        let mut damaged = whole.clone();
        damaged[damage] ^= 1;
        crate::atomic_file::write(&store.blobs().path(&base), &damaged).expect("damaged");
        let mut patch = store.blobs().patch(&base, marks).expect("begun");
        let result = patch.write_all(b"own").and_then(|()| patch.keep(0, whole.len() as u64));
        let result = result.and_then(|()| patch.finish().map(drop));
        assert!(result.is_err() && patch.is_base_damaged(), "{damage}");
    }
}

#[test]
fn a_base_that_is_damaged_later_takes_its_patches_along() {
    let whole = bytes(2 * STRIDE);
    let (_folder, store) = store();
    let (base, marks) = base(&store, &whole);
    let mut patch = store.blobs().patch(&base, marks).expect("begun");
    patch.keep(0, whole.len() as u64).and_then(|()| patch.write_all(b"own")).expect("written");
    let (digest, _) = patch.commit().expect("committed");
    let mut damaged = whole.clone();
    damaged[5] ^= 1;
    crate::atomic_file::write(&store.blobs().path(&base), &damaged).expect("damaged");
    let error = store.blobs().open(&digest).expect_err("damaged");
    assert!(matches!(error, BlobError::Damaged { .. }), "{error}");
    assert_eq!(store.blobs().size(&digest).expect("looked"), None);
    assert_eq!(store.blobs().size(&base).expect("looked"), None);
}

#[test]
fn a_patch_is_whole_or_none() {
    let whole = bytes(STRIDE + 1);
    let (_folder, store) = store();
    let (base, marks) = base(&store, &whole);
    let mut patch = store.blobs().patch(&base, marks).expect("begun");
    patch.write_all(b"own").and_then(|()| patch.keep(0, whole.len() as u64)).expect("written");
    let (digest, _) = patch.commit().expect("committed");
    let path = store.layout().patch(&digest);
    let patch = fs::read(&path).expect("read");
    for length in (0..patch.len()).chain([patch.len() + 1]) {
        let mut bytes = patch.clone();
        bytes.resize(length, 0);
        crate::atomic_file::write(&path, &bytes).expect("written");
        assert_eq!(store.blobs().size(&digest).expect("looked"), None, "{length}");
        assert!(matches!(store.blobs().open(&digest), Err(BlobError::NotFound { .. })), "{length}");
    }
    crate::atomic_file::write(&path, &patch).expect("written");
    // Without its base it is not there either.
    fs::rename(store.blobs().path(&base), store.home().join("elsewhere")).expect("moved");
    assert_eq!(store.blobs().size(&digest).expect("looked"), None);
}

#[test]
fn a_collection_keeps_the_base_of_what_is_used() {
    let whole = bytes(STRIDE + 1);
    let (_folder, store) = store();
    let (base, marks) = base(&store, &whole);
    let mut patch = store.blobs().patch(&base, marks).expect("begun");
    patch.keep(0, whole.len() as u64).and_then(|()| patch.write_all(b"own")).expect("written");
    let (digest, _) = patch.commit().expect("committed");
    let key = Digest::sha256(b"key");
    let keeps = crate::Keeps { layers: vec![oci::DiffId(digest.clone())], ..crate::Keeps::default() };
    store.build_cache().put(&key, b"{}", &keeps).expect("put");
    assert_eq!(store.collect().expect("collected").blobs, 0);
    assert_eq!(read(&store, &digest).len(), whole.len() + 3);
    store.build_cache().remove(&key).expect("removed");
    assert_eq!(store.collect().expect("collected").blobs, 2);
    assert_eq!(store.blobs().list().expect("listed"), []);
    assert_eq!(store.blobs().size(&base).expect("looked"), None);
}
