use oci::{ContainerConfig, Index, RootFs};

use super::*;
use crate::Store;

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().expect("tempdir");
    let store = Store::open(&folder.path().join("home")).expect("opened");
    (folder, store)
}

fn name(text: &str) -> Reference {
    text.parse().expect(text)
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("in range")
}

/// Stores an image for an architecture whose single layer is a plain tar of these bytes.
fn put_image(store: &Store, architecture: &str, tar: &[u8]) -> Descriptor {
    let layer = Descriptor::of(media_type::OCI_LAYER, tar);
    store.blobs().put(tar).expect("put");
    let config = ImageConfig {
        architecture: architecture.into(),
        os: "linux".into(),
        config: ContainerConfig { cmd: Some(vec!["sh".into()]), ..ContainerConfig::default() },
        rootfs: RootFs { diff_ids: vec![DiffId(layer.digest.clone())], ..RootFs::default() },
        ..ImageConfig::default()
    };
    let config = put_json(store, media_type::OCI_CONFIG, &config);
    let mut descriptor = put_json(store, media_type::OCI_MANIFEST, &Manifest::new(config, vec![layer]));
    descriptor.platform = Some(Platform::linux(architecture));
    descriptor
}

fn put_json<T: Serialize>(store: &Store, media_type: &str, value: &T) -> Descriptor {
    let bytes = serde_json::to_vec(value).expect("serializable");
    store.blobs().put(&bytes).expect("put");
    Descriptor::of(media_type, &bytes)
}

#[test]
fn names_are_given_moved_and_taken_away() {
    let (_folder, store) = store();
    let images = store.images();
    let (one, two) = (put_image(&store, "amd64", b"1"), put_image(&store, "amd64", b"2"));
    for text in ["a", "a/b", "a/b/c", "localhost:5000/a"] {
        images.tag(&name(text), &one, at(1)).expect("tagged");
    }
    assert_eq!(images.list().expect("listed").len(), 4);
    images.tag(&name("a"), &two, at(2)).expect("moved");
    assert_eq!(images.resolve(&name("a")).expect("read"), Some(two.clone()));
    assert_eq!(images.resolve(&name("a/b")).expect("read"), Some(one.clone()));
    assert_eq!(images.list_untagged().expect("listed"), [], "the other names still have it");
    assert_eq!(images.untag(&name("a")).expect("untagged"), Some(two));
    assert_eq!(images.untag(&name("a")).expect("nothing there"), None);
    assert_eq!(images.list().expect("listed").len(), 3);
    let reopened = Store::open(store.home()).expect("opened");
    assert_eq!(reopened.images().list().expect("listed"), images.list().expect("listed"));
}

#[test]
fn the_last_name_moving_away_leaves_an_untagged_image() {
    let (_folder, store) = store();
    let images = store.images();
    let (one, two) = (put_image(&store, "amd64", b"1"), put_image(&store, "amd64", b"2"));
    images.tag(&name("a"), &one, at(1)).expect("tagged");
    images.tag(&name("a"), &two, at(2)).expect("moved");
    assert_eq!(images.list_untagged().expect("listed"), [UntaggedImage { descriptor: one.clone(), kept_at: at(2) }]);
    let id = images.image(&one, &Platform::linux("amd64")).expect("read").config_digest;
    let found = images.find(id.short()).expect("found");
    assert_eq!((found.descriptor.digest.clone(), found.references), (one.digest.clone(), vec![]));
    images.tag(&name("b"), &one, at(3)).expect("tagged");
    assert_eq!(images.list_untagged().expect("listed"), []);
    images.keep(&two, at(4)).expect("kept, though it has a name");
    assert_eq!(images.list_untagged().expect("listed"), []);
    assert!(images.forget(&two.digest).expect("forgotten"));
}

#[test]
fn an_image_is_found_by_name_digest_and_beginning_of_its_id() {
    let (_folder, store) = store();
    let images = store.images();
    let one = put_image(&store, "amd64", b"1");
    images.tag(&name("app:1"), &one, at(1)).expect("tagged");
    images.tag(&name("other"), &one, at(1)).expect("tagged");
    let id = images.image(&one, &Platform::linux("amd64")).expect("read").config_digest;
    let found = images.find("app:1").expect("by name");
    assert_eq!((found.reference, found.references.len()), (Some(name("app:1")), 2));
    for text in [
        id.to_string(),
        id.hex().to_owned(),
        id.short().to_owned(),
        id.hex()[..1].to_owned(),
        format!("sha256:{}", &id.hex()[..7]),
        one.digest.short().to_owned(),
        format!("app@{}", one.digest),
    ] {
        let found = images.find(&text).expect(&text);
        assert_eq!((found.descriptor.digest, found.reference, found.references.len()), (one.digest.clone(), None, 2));
    }
    for text in ["", "app", "app:2", "../x", "sha256:", "A", "xyz", &format!("elsewhere@{}", one.digest)] {
        assert!(matches!(images.find(text), Err(FindError::NotFound { .. })), "{text}");
    }
}

#[test]
fn a_beginning_of_several_ids_is_ambiguous() {
    let (_folder, store) = store();
    let mut seen = std::collections::HashMap::new();
    for number in 0..40_u8 {
        let descriptor = put_image(&store, "amd64", &[number]);
        store.images().tag(&name(&format!("i{number}")), &descriptor, at(1)).expect("tagged");
        let id = store.images().image(&descriptor, &Platform::linux("amd64")).expect("read").config_digest;
        if let Some(other) = seen.insert(id.hex()[..1].to_owned(), id.clone()) {
            let error = store.images().find(&id.hex()[..1]).expect_err("ambiguous").to_string();
            assert!(error.contains(id.short()) && error.contains(other.short()), "{error}");
            return;
        }
    }
    panic!("40 digests without a common first character");
}

#[test]
fn the_platform_picks_from_an_index() {
    let (_folder, store) = store();
    let images = store.images();
    let (amd, arm) = (put_image(&store, "amd64", b"1"), put_image(&store, "arm64", b"2"));
    let mut absent = Descriptor::of(media_type::OCI_MANIFEST, b"never stored");
    absent.platform = Some(Platform::linux("s390x"));
    let index = put_json(&store, media_type::OCI_INDEX, &Index::new(vec![absent.clone(), arm.clone(), amd.clone()]));
    let nested = put_json(&store, media_type::OCI_INDEX, &Index::new(vec![index.clone()]));
    for top in [&index, &nested] {
        for (architecture, expected) in [("amd64", &amd), ("arm64", &arm)] {
            let image = images.image(top, &Platform::linux(architecture)).expect("there");
            assert_eq!(image.descriptor.digest, expected.digest);
        }
    }
    assert!(matches!(images.image(&index, &Platform::linux("riscv64")), Err(ImageError::Platform { .. })));
    let error = images.image(&index, &Platform::linux("s390x")).expect_err("not pulled");
    assert!(matches!(error, ImageError::Blob(BlobError::NotFound { .. })), "{error}");
    // An image ID finds one of an index's manifests, and the names of the index.
    images.tag(&name("multi"), &index, at(1)).expect("tagged");
    let id = images.image(&index, &Platform::linux("arm64")).expect("there").config_digest;
    let found = images.find(id.short()).expect("found");
    assert_eq!((found.descriptor.digest, found.references), (arm.digest, vec![name("multi")]));
}

#[test]
fn an_index_that_holds_indexes_without_end_is_refused() {
    let (_folder, store) = store();
    let mut top = put_image(&store, "amd64", b"1");
    for _ in 0..20 {
        top = put_json(&store, media_type::OCI_INDEX, &Index::new(vec![top]));
    }
    assert!(store.images().image(&top, &Platform::linux("amd64")).is_err());
    assert_eq!(store.images().manifests(&top).expect("bounded"), []);
}

#[test]
fn layers_and_diff_ids_must_be_as_many() {
    let (_folder, store) = store();
    let descriptor = put_image(&store, "amd64", b"1");
    let mut image = store.images().image(&descriptor, &Platform::linux("amd64")).expect("read");
    let layers = image.layers().expect("paired");
    assert_eq!((layers.len(), &layers[0].0.0), (1, &layers[0].1.digest));
    image.manifest.layers.clear();
    assert!(matches!(image.layers(), Err(ImageError::LayerCount { layers: 0, diff_ids: 1, .. })));
}

#[test]
fn junk_in_the_place_of_records_and_blobs_is_never_a_panic() {
    let (_folder, store) = store();
    let images = store.images();
    let one = put_image(&store, "amd64", b"1");
    images.tag(&name("good"), &one, at(1)).expect("tagged");
    images.tag(&name("bad"), &one, at(1)).expect("tagged");
    let path = store.layout().image(&name("bad"));
    let whole = fs::read(&path).expect("read");
    for length in (0..whole.len()).step_by(7) {
        atomic_file::write(&path, &whole[..length]).expect("truncated");
        assert_eq!(images.resolve(&name("bad")).expect("none"), None);
        assert_eq!(images.list().expect("the rest").len(), 1);
    }
    // A record that speaks of another name.
    fs::copy(store.layout().image(&name("good")), &path).expect("copied");
    assert_eq!(images.resolve(&name("bad")).expect("none"), None);
    for junk in ["images/file", "images/docker.io/file", "images/docker.io/library!x/a.json/deep", "untagged/junk.json"]
    {
        atomic_file::write(&store.home().join(junk), b"junk").expect("written");
    }
    assert_eq!((images.list().expect("listed").len(), images.list_untagged().expect("listed").len()), (1, 0));
    // Manifests and configs that are no such thing.
    for bytes in [b"junk".as_slice(), b"{}", br#"{"schemaVersion":2,"config":{}}"#] {
        let digest = store.blobs().put(bytes).expect("put");
        let manifest = Descriptor::new(media_type::OCI_MANIFEST, digest.clone(), bytes.len() as u64);
        assert!(matches!(images.image(&manifest, &Platform::host()), Err(ImageError::Manifest { .. })));
        let config = Descriptor::new(media_type::OCI_CONFIG, digest, bytes.len() as u64);
        let manifest = put_json(&store, media_type::OCI_MANIFEST, &Manifest::new(config, Vec::new()));
        assert!(matches!(images.image(&manifest, &Platform::host()), Err(ImageError::Config { .. })));
    }
    let chart = Descriptor::of("application/vnd.cncf.helm.config.v1+json", b"{}");
    let manifest = put_json(&store, media_type::OCI_MANIFEST, &Manifest::new(chart, Vec::new()));
    assert!(matches!(images.image(&manifest, &Platform::host()), Err(ImageError::NotAnImage { .. })));
}

#[test]
fn a_built_image_is_compressed_once_and_keeps_its_config() {
    let (_folder, store) = store();
    let images = store.images();
    let tar = b"some tar ".repeat(100_000);
    let descriptor = put_image(&store, "amd64", &tar);
    let image = images.image(&descriptor, &Platform::linux("amd64")).expect("read");
    for (compression, media_type) in
        [(Compression::Gzip, media_type::OCI_LAYER_GZIP), (Compression::Zstd, media_type::OCI_LAYER_ZSTD)]
    {
        let (published, bytes) = images.publishable(&image, compression).expect("published");
        assert_eq!(store.blobs().read(&published.digest, MAX_MANIFEST).expect("stored"), bytes);
        let read = images.image(&published, &Platform::linux("amd64")).expect("read");
        assert_eq!(
            (read.config_digest.clone(), published.platform.clone()),
            (image.config_digest.clone(), descriptor.platform.clone())
        );
        let layer = &read.manifest.layers[0];
        assert_eq!(layer.media_type, media_type);
        assert!(layer.size < 10_000 && store.blobs().has(layer).expect("looked"));
        let blobs = store.blobs().list().expect("listed").len();
        assert_eq!(images.publishable(&image, compression).expect("again"), (published, bytes));
        assert_eq!(store.blobs().list().expect("listed").len(), blobs);
        // What has no plain layers, as everything that was pulled, stays as it is.
        let (same, _) = images.publishable(&read, Compression::Gzip).expect("published");
        assert_eq!(same, read.descriptor);
    }
    // The plain form can be had from a compressed one.
    let diff_id = &image.config.rootfs.diff_ids[0];
    store.blobs().remove(&diff_id.0).expect("removed");
    let plain = store.layers().compressed(diff_id, Compression::None).expect("decompressed");
    assert_eq!(plain, Descriptor::of(media_type::OCI_LAYER, &tar));
    // A form that is another layer's is found out.
    let liar = DiffId(Digest::sha256(b"another"));
    let form = store.layers().compressed(diff_id, Compression::Gzip).expect("known");
    store.layers().record(&liar, &form).expect("recorded");
    let error = store.layers().compressed(&liar, Compression::None).expect_err("refused");
    assert!(matches!(error, crate::LayerError::DiffIdMismatch { .. }), "{error}");
}
