//! A cache that is damaged: what is wrong is made again, comes out the same, and is whole afterwards.

use std::fs;
use std::path::Path;

use oci::Digest;
use store::Peeked;

use super::World;

const DOCKERFILE: &str = "FROM base AS s\nCOPY d /s/\nRUN write o/a A\nFROM base\nCOPY a /c/\nCOPY --from=s /o /s\nRUN \
                          --mount=target=/m --mount=from=s,source=/o,target=/o write made M\nWORKDIR /w\n";

/// A world in which all was built once.
fn world() -> (World, String) {
    let world = World::new();
    world.lay("a", "A").lay("d/x", "X");
    let digest = world.build(DOCKERFILE).digest();
    (world, digest)
}

fn write(path: &Path, bytes: &[u8]) {
    store::atomic_file::write(path, bytes).expect("written");
}

/// Something that happens to a file.
type Damage<'a> = (&'a str, &'a dyn Fn(&Path));

const CUT: Damage<'_> = ("cut", &|path| {
    let bytes = fs::read(path).expect("read");
    write(path, &bytes[..bytes.len() / 2]);
});
const GARBAGE: Damage<'_> = ("garbage", &|path| write(path, b"\xff garbage"));
const EMPTY: Damage<'_> = ("empty", &|path| write(path, b""));
const GONE: Damage<'_> = ("gone", &|path| {
    if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.expect("removed");
});

/// Builds twice: the first build repairs, the second has nothing to do.
fn assert_repaired(world: &World, digest: &str, what: &str) {
    assert_eq!(world.build(DOCKERFILE).digest(), digest, "{what}");
    let again = world.build(DOCKERFILE);
    assert!(again.seen.all_cached(), "{what}: {:?}", again.seen.steps());
    assert_eq!(again.digest(), digest, "{what}");
    let files = again.files();
    assert!(files.contains(" s/a A") && files.contains(" made M") && files.contains(" c/a A"), "{what}: {files}");
    assert!(world.leftovers().is_empty(), "{what}: {:?}", world.leftovers());
}

#[test]
fn a_damaged_cache_is_built_again_and_gives_the_same_image() {
    let (world, digest) = world();
    let keys = world.store.build_cache().keys().expect("listed");
    let record = |key: &Digest| world.store.layout().cache_record(key);
    assert!(keys.len() > 8);
    let whole: Vec<_> = keys.iter().map(|key| fs::read(record(key)).expect("read")).collect();
    // The record of each step alone, in a store where all else is whole.
    for (at, key) in keys.iter().enumerate() {
        let other = whole[(at + 1) % whole.len()].clone();
        let swapped: Damage<'_> = ("of another key", &|path| write(path, &other));
        let (name, damage) = [CUT, GARBAGE, EMPTY, GONE, swapped][at % 5];
        damage(&record(key));
        assert_repaired(&world, &digest, &format!("record {at} is {name}"));
    }
    for (name, damage) in [CUT, GARBAGE, EMPTY, GONE] {
        keys.iter().for_each(|key| damage(&record(key)));
        assert_repaired(&world, &digest, &format!("all records are {name}"));
    }
}

const FLIPPED: Damage<'_> = ("flipped", &|path| {
    let mut bytes = fs::read(path).expect("read");
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    write(path, &bytes);
});

/// The blobs of a store that builds made: those of the base image can only be pulled again.
fn blobs(world: &World) -> Vec<Digest> {
    let base = World::new().store.blobs().list().expect("listed");
    let all = world.store.blobs().list().expect("listed").into_iter();
    all.filter(|digest| !base.contains(digest)).collect()
}

fn snapshots(world: &World) -> Vec<std::path::PathBuf> {
    let folder = fs::read_dir(world.store.layout().home().join("snapshots")).expect("listed");
    folder.map(|entry| entry.expect("read").path()).collect()
}

#[test]
fn a_layer_that_is_missing_or_short_is_made_again() {
    let (world, digest) = world();
    let blobs = blobs(&world);
    assert!(blobs.len() > 8, "layers, a config and a manifest");
    let damages = [CUT, GARBAGE, EMPTY, GONE];
    for (at, blob) in blobs.iter().enumerate() {
        let (name, damage) = damages[at % damages.len()];
        damage(&world.store.blobs().path(blob));
        assert_repaired(&world, &digest, &format!("blob {blob} is {name}"));
        world.store.blobs().verify(blob).expect("whole again");
    }
    for (name, damage) in damages {
        blobs.iter().for_each(|blob| damage(&world.store.blobs().path(blob)));
        assert_repaired(&world, &digest, &format!("all blobs are {name}"));
        blobs.iter().for_each(|blob| world.store.blobs().verify(blob).expect("whole again"));
    }
}

#[test]
fn a_layer_of_the_right_size_that_was_damaged_is_made_again_when_it_is_read() {
    let (world, digest) = world();
    for blob in blobs(&world) {
        FLIPPED.1(&world.store.blobs().path(&blob));
        // Nothing is unpacked any more, as after the machine was started anew.
        snapshots(&world).iter().for_each(|snapshot| GONE.1(snapshot));
        // A step that nobody has done yet has all layers below it read.
        let more = |number: u32| format!("{DOCKERFILE}RUN write more/{number} {blob}\n");
        assert_eq!(world.build(&more(1)).layers(), 6, "{blob}");
        assert_repaired(&world, &digest, &format!("blob {blob} is flipped"));
    }
}

#[test]
fn a_snapshot_that_is_missing_or_unfinished_is_unpacked_again() {
    let (world, digest) = world();
    for (at, snapshot) in snapshots(&world).iter().enumerate() {
        let (name, damage) = [CUT, GARBAGE, EMPTY, GONE][at % 4];
        damage(&snapshot.join("meta.json"));
        let more = format!("{DOCKERFILE}RUN write more {at}\n");
        assert!(world.build(&more).files().contains(" made M"), "{name}");
        assert_repaired(&world, &digest, &format!("snapshot {} is {name}", snapshot.display()));
    }
}

#[test]
fn a_record_that_keeps_a_base_image_is_written_again_when_it_is_damaged() {
    let (world, digest) = world();
    let keys = world.store.build_cache().keys().expect("listed");
    let path = |key: &&Digest| world.store.layout().cache_record(key);
    let keeps_base =
        |key: &&Digest| String::from_utf8_lossy(&fs::read(path(key)).expect("read")).contains("base image");
    let key = keys.iter().find(keeps_base).expect("the base is kept");
    for (name, damage) in [CUT, GARBAGE, EMPTY, GONE] {
        damage(&path(&key));
        assert_repaired(&world, &digest, name);
        let kept = world.store.build_cache().peek(key).expect("looked");
        assert!(matches!(kept, Peeked::Record(_)), "{name}: {kept:?}");
    }
}
