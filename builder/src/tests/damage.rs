//! A cache that is damaged: what is wrong is made again, comes out the same, and is whole afterwards.

use std::fs;
use std::path::{Path, PathBuf};

use oci::Digest;

use super::{Seen, World};

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
        for (name, damage) in [CUT, GARBAGE, EMPTY, GONE, swapped] {
            damage(&record(key));
            assert_repaired(&world, &digest, &format!("record {at} is {name}"));
        }
    }
    for (name, damage) in [CUT, GARBAGE, EMPTY, GONE] {
        keys.iter().for_each(|key| damage(&record(key)));
        assert_repaired(&world, &digest, &format!("all records are {name}"));
    }
}
