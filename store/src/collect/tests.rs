use jiff::Timestamp;
use oci::{ImageConfig, Index, Manifest, RootFs, media_type};

use super::*;
use crate::{Keeps, atomic_file};

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().expect("tempdir");
    let store = Store::open(&folder.path().join("home")).expect("opened");
    (folder, store)
}

fn put_json<T: serde::Serialize>(store: &Store, media_type: &str, value: &T) -> Descriptor {
    let bytes = serde_json::to_vec(value).expect("serializable");
    store.blobs().put(&bytes).expect("put");
    Descriptor::of(media_type, &bytes)
}

/// An image of one plain layer that is also there compressed and unpacked.
fn put_image(store: &Store, tar: &[u8]) -> (Descriptor, DiffId) {
    let diff_id = DiffId(store.blobs().put(tar).expect("put"));
    let zipped = [b"zipped ", tar].concat();
    store.blobs().put(&zipped).expect("put");
    store.layers().record(&diff_id, &Descriptor::of(media_type::OCI_LAYER_GZIP, &zipped)).expect("recorded");
    let active = store.snapshots().begin(&crate::Snapshot::empty()).expect("begun");
    active.commit(&diff_id, false).expect("committed");
    let rootfs = RootFs { diff_ids: vec![diff_id.clone()], ..RootFs::default() };
    let config = put_json(store, media_type::OCI_CONFIG, &ImageConfig { rootfs, ..ImageConfig::default() });
    let layer = Descriptor::of(media_type::OCI_LAYER, tar);
    (put_json(store, media_type::OCI_MANIFEST, &Manifest::new(config, vec![layer])), diff_id)
}

#[test]
fn what_images_use_stays_and_the_rest_goes() {
    let (_folder, store) = store();
    let (first, _) = put_image(&store, b"1");
    let (second, _) = put_image(&store, b"2");
    let (third, gone) = put_image(&store, b"3");
    let index = put_json(&store, media_type::OCI_INDEX, &Index::new(vec![first]));
    let name = |text: &str| text.parse().expect(text);
    store.images().tag(&name("multi"), &index, Timestamp::UNIX_EPOCH).expect("tagged");
    store.images().keep(&second, Timestamp::UNIX_EPOCH).expect("kept");
    store.images().tag(&name("gone"), &third, Timestamp::UNIX_EPOCH).expect("tagged");
    assert_eq!(store.collect().expect("collected"), Reclaimed::default());

    store.images().untag(&name("gone")).expect("untagged");
    store.blobs().begin_resumable(&Digest::sha256(b"never finished")).expect("begun");
    let reclaimed = store.collect().expect("collected");
    assert_eq!((reclaimed.blobs, reclaimed.snapshots), (4, 1));
    assert!(reclaimed.bytes > 100);
    assert_eq!(store.blobs().list().expect("listed").len(), 9);
    assert_eq!(names(&store.layout().partials()).expect("listed").len(), 0);
    assert!(store.snapshots().get(&ChainId::base(&gone)).expect("looked").is_none());
    assert!(!store.layout().layer(&gone).exists());

    // A snapshot that is of no use any more, though its layer is.
    let image = store.images().image(&second, &oci::Platform::host()).expect("read");
    let stale = ChainId::of(&image.config.rootfs.diff_ids).expect("one layer");
    atomic_file::write(&store.layout().snapshot(&stale).join("meta.json"), b"torn").expect("written");
    assert_eq!(store.collect().expect("collected"), Reclaimed { snapshots: 1, ..Reclaimed::default() });

    store.images().untag(&name("multi")).expect("untagged");
    store.images().forget(&second.digest).expect("forgotten");
    store.collect().expect("collected");
    assert_eq!(store.blobs().list().expect("listed"), []);
}

#[test]
fn build_cache_and_containers_keep_their_layers() {
    let (_folder, store) = store();
    let (_, cached) = put_image(&store, b"1");
    let (_, used) = put_image(&store, b"2");
    let key = Digest::sha256(b"key");
    let keeps =
        Keeps { layers: vec![cached.clone()], chain: Some(ChainId::base(&cached)), below: None, about: String::new() };
    store.build_cache().put(&key, b"record", &keeps).expect("put");
    let keeps = store.containers_dir().join("c1/keeps.json");
    atomic_file::write(&keeps, format!(r#"{{"diff_ids":["{used}"]}}"#).as_bytes()).expect("written");
    let reclaimed = store.collect().expect("collected");
    // The manifests and configs only.
    assert_eq!((reclaimed.blobs, reclaimed.snapshots), (4, 0));
    assert_eq!(store.layers().forms(&cached).expect("read").len(), 2);
    assert!(store.snapshots().get(&ChainId::base(&used)).expect("looked").is_some());
    atomic_file::write(&keeps, b"junk").expect("written");
    store.build_cache().clear().expect("cleared");
    assert!(matches!(store.collect(), Err(CollectError::Container { .. })));
    assert_eq!(store.layers().forms(&cached).expect("nothing was removed").len(), 2);
}

#[test]
fn a_store_in_use_is_left_alone() {
    let (_folder, store) = store();
    let digest = store.blobs().put(b"not named yet").expect("put");
    let writer = store.blobs().begin().expect("begun");
    assert!(matches!(store.collect(), Err(CollectError::Busy)));
    drop(writer);
    let other = Store::open(store.home()).expect("opened");
    assert!(matches!(store.collect(), Err(CollectError::Busy)));
    assert!(matches!(other.collect(), Err(CollectError::Busy)), "a refusal keeps the shared lock");
    drop(other);
    assert!(store.blobs().contains(&digest).expect("looked"));
    assert_eq!(store.collect().expect("collected").blobs, 1);
    let other = Store::open(store.home()).expect("opened");
    assert!(matches!(store.collect(), Err(CollectError::Busy)), "a collection goes back to the shared lock");
    drop(other);
}

#[test]
fn what_begins_during_a_collection_waits_for_its_end() {
    let (_folder, store) = store();
    let collecting = store.home_parts().begin_collecting().expect("nothing is unfinished");
    assert!(matches!(store.collect(), Err(CollectError::Busy)));
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| tell.send(store.blobs().put(b"x").expect("put")).expect("heard"));
        assert!(told.recv_timeout(std::time::Duration::from_millis(50)).is_err());
        drop(collecting);
        told.recv().expect("after all");
    });
}
