//! Archives that nobody should write, and those that we write ourselves.

use jiff::Timestamp;
use layer::tar::Writer;
use layer::{Entry, EntryKind};
use oci::{Descriptor, DiffId, Digest, ImageConfig, Index, Manifest, RootFs, media_type};
use store::Store;
use tempfile::TempDir;

use super::*;

fn store() -> (TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("home")).unwrap();
    (folder, store)
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = Writer::new(Vec::new());
    for (path, bytes) in files {
        let entry = Entry::new(*path, EntryKind::File { size: bytes.len() as u64 }, 0o644);
        tar.append(&entry, &mut &bytes[..]).unwrap();
    }
    tar.finish().unwrap()
}

fn load(store: &Store, files: &[(&str, &[u8])]) -> Result<Vec<Loaded>, ReadArchiveError> {
    read(store, std::io::Cursor::new(tar(files)), Timestamp::UNIX_EPOCH)
}

fn path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// An image with one layer: its manifest's descriptor, and its blobs.
fn image() -> (Descriptor, Vec<Vec<u8>>) {
    let layer = tar(&[("hello", b"hi")]);
    let diff_id = DiffId(Digest::sha256(&layer));
    let config = ImageConfig {
        architecture: "amd64".into(),
        os: "linux".into(),
        rootfs: RootFs { diff_ids: vec![diff_id], ..RootFs::default() },
        ..ImageConfig::default()
    };
    let config = serde_json::to_vec(&config).unwrap();
    let layers = vec![Descriptor::of(media_type::OCI_LAYER, &layer)];
    let manifest = Manifest::new(Descriptor::of(media_type::OCI_CONFIG, &config), layers);
    let manifest = serde_json::to_vec(&manifest).unwrap();
    (Descriptor::of(media_type::OCI_MANIFEST, &manifest), vec![manifest, config, layer])
}

fn with_index(index: &Index, blobs: &[Vec<u8>]) -> Vec<(String, Vec<u8>)> {
    let mut files = vec![("index.json".to_owned(), serde_json::to_vec(index).unwrap())];
    files.extend(blobs.iter().map(|bytes| (path(&Digest::sha256(bytes)), bytes.clone())));
    files
}

fn load_owned(store: &Store, files: &[(String, Vec<u8>)]) -> Result<Vec<Loaded>, ReadArchiveError> {
    let files: Vec<(&str, &[u8])> = files.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
    load(store, &files)
}

#[test]
fn what_is_written_is_read_again_with_its_names() {
    let ((_one, from), (_two, to)) = (store(), store());
    let (descriptor, blobs) = image();
    for bytes in &blobs {
        from.blobs().put(bytes).unwrap();
    }
    let names = vec!["me/app:1".parse().unwrap(), "me/app:2".parse().unwrap()];
    for format in [ArchiveFormat::Oci, ArchiveFormat::Docker] {
        let images =
            [ArchiveImage { manifest: descriptor.clone(), names: names.clone(), annotations: Default::default() }];
        let bytes = write(&from, &images, format, Vec::new()).unwrap();
        assert_eq!(bytes, write(&from, &images, format, Vec::new()).unwrap(), "the bytes depend on the images alone");
        let loaded = read(&to, std::io::Cursor::new(bytes), Timestamp::UNIX_EPOCH).unwrap();
        let read_names: Vec<_> = loaded.into_iter().filter_map(|image| image.reference).collect();
        assert_eq!(read_names, names);
    }
    assert_eq!(to.images().list().unwrap().len(), 2);
}

#[test]
fn a_damaged_blob_is_not_written_to_an_archive() {
    let (_folder, store) = store();
    let (descriptor, blobs) = image();
    for bytes in &blobs {
        store.blobs().put(bytes).unwrap();
    }
    let layer = Digest::sha256(&blobs[2]);
    let mut damaged = blobs[2].clone();
    damaged[0] ^= 1;
    let file = store.blobs().path(&layer);
    std::fs::remove_file(&file).unwrap();
    std::io::Write::write_all(&mut std::fs::File::create(&file).unwrap(), &damaged).unwrap();
    let images = [ArchiveImage { manifest: descriptor, names: Vec::new(), annotations: Default::default() }];
    let error = write(&store, &images, ArchiveFormat::Oci, Vec::new()).unwrap_err();
    assert!(matches!(error, WriteArchiveError::Damaged { digest, .. } if digest == layer));
}

#[test]
fn an_image_without_a_name_is_kept_untagged() {
    let (_folder, store) = store();
    let (descriptor, blobs) = image();
    let mut line = descriptor.clone();
    // Free text, as the annotation's specification allows.
    line.annotations.insert(OCI_NAME.into(), "My App, version 1".into());
    let loaded = load_owned(&store, &with_index(&Index::new(vec![line]), &blobs)).unwrap();
    assert_eq!((loaded.len(), &loaded[0].reference), (1, &None));
    assert_eq!(store.images().list_untagged().unwrap()[0].descriptor.digest, descriptor.digest);
}

#[test]
fn indexes_that_never_end_are_refused() {
    let (_folder, store) = store();
    let (descriptor, mut blobs) = image();
    let mut top = descriptor;
    for _ in 0..2000 {
        let index = serde_json::to_vec(&Index::new(vec![top])).unwrap();
        top = Descriptor::of(media_type::OCI_INDEX, &index);
        blobs.push(index);
    }
    let error = load_owned(&store, &with_index(&Index::new(vec![top]), &blobs)).unwrap_err();
    assert!(matches!(error, ReadArchiveError::TooDeep), "{error}");
}

#[test]
fn a_list_that_would_fill_the_memory_is_refused() {
    let (_folder, store) = store();
    let huge = vec![b' '; (16 << 20) + 1];
    let error = load(&store, &[("manifest.json", &huge)]).unwrap_err();
    assert!(matches!(error, ReadArchiveError::TooLarge { .. }), "{error}");
}

#[test]
fn links_that_go_in_circles_or_outside_find_nothing() {
    let (_folder, store) = store();
    for target in ["config.json", "../../../../etc/passwd", "/etc/passwd"] {
        let list = br#"[{"Config":"config.json","RepoTags":["x:1"],"Layers":[]}]"#;
        let mut tar = Writer::new(Vec::new());
        let link = EntryKind::Symlink { target: target.into() };
        tar.append_empty(&Entry::new("config.json", link, 0o777)).unwrap();
        let entry = Entry::new("manifest.json", EntryKind::File { size: list.len() as u64 }, 0o644);
        tar.append(&entry, &mut &list[..]).unwrap();
        let bytes = tar.finish().unwrap();
        let error = read(&store, std::io::Cursor::new(bytes), Timestamp::UNIX_EPOCH).unwrap_err();
        assert!(matches!(error, ReadArchiveError::Missing { .. }), "{target}: {error}");
    }
}

#[test]
fn a_layer_that_is_not_what_the_config_says_is_refused() {
    let (_folder, store) = store();
    let (_, blobs) = image();
    let list = br#"[{"Config":"c.json","RepoTags":["x:1"],"Layers":["l.tar"]}]"#;
    let other = tar(&[("hello", b"ho")]);
    let files: [(&str, &[u8]); 3] = [("manifest.json", list), ("c.json", &blobs[1]), ("l.tar", &other)];
    assert!(matches!(load(&store, &files).unwrap_err(), ReadArchiveError::DiffId { .. }));
    let none = br#"[{"Config":"c.json","RepoTags":["x:1"],"Layers":[]}]"#;
    let files: [(&str, &[u8]); 2] = [("manifest.json", none), ("c.json", &blobs[1])];
    assert!(matches!(load(&store, &files).unwrap_err(), ReadArchiveError::LayerCount { .. }));
    assert!(store.images().list().unwrap().is_empty(), "nothing got a name");
}

#[test]
fn a_hostile_name_is_refused_before_anything_gets_a_name() {
    let (_folder, store) = store();
    let (_, blobs) = image();
    let list = br#"[{"Config":"c.json","RepoTags":["good:1","../../x"],"Layers":["l.tar"]}]"#;
    let files: [(&str, &[u8]); 3] = [("manifest.json", list), ("c.json", &blobs[1]), ("l.tar", &blobs[2])];
    assert!(matches!(load(&store, &files).unwrap_err(), ReadArchiveError::Name { .. }));
    assert!(store.images().list().unwrap().is_empty());
}

#[test]
fn every_cut_of_an_archive_is_an_error_and_names_nothing() {
    let (_folder, store) = store();
    let (descriptor, blobs) = image();
    for bytes in &blobs {
        store.blobs().put(bytes).unwrap();
    }
    let images =
        [ArchiveImage { manifest: descriptor, names: vec!["x:1".parse().unwrap()], annotations: Default::default() }];
    let bytes = write(&store, &images, ArchiveFormat::Docker, Vec::new()).unwrap();
    let (_other, empty) = self::store();
    // A tar's end may be missing: what follows the last blob is padding.
    let last = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    for cut in (0..last).step_by(509) {
        let part = std::io::Cursor::new(bytes[..cut].to_vec());
        assert!(read(&empty, part, Timestamp::UNIX_EPOCH).is_err(), "cut at {cut}");
    }
    assert!(empty.images().list().unwrap().is_empty() && empty.images().list_untagged().unwrap().is_empty());
}

#[test]
fn indexes_that_name_each_other_many_times_are_read_once() {
    let (_folder, store) = store();
    let (manifest, mut blobs) = image();
    let mut below = manifest;
    for _ in 0..4 {
        let index = serde_json::to_vec(&Index::new(vec![below; 300])).unwrap();
        below = Descriptor::of(media_type::OCI_INDEX, &index);
        blobs.push(index);
    }
    let began = std::time::Instant::now();
    assert_eq!(load_owned(&store, &with_index(&Index::new(vec![below]), &blobs)).unwrap().len(), 1);
    // One after the other would be eight billion.
    assert!(began.elapsed() < std::time::Duration::from_secs(10), "it took {:?}", began.elapsed());
}
