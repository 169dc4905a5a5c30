//! A layer that is like the last one of its kind: only what changed is written, and nobody can tell.

use std::fs;
use std::io::Read;

use oci::Digest;

use super::World;

const DOCKERFILE: &str = "FROM base\nCOPY --chown=web src /app/src\n";

fn world() -> World {
    let world = World::new();
    for number in 0..40 {
        world.lay(&format!("src/d{}/f{number:02}", number % 7), &content(number));
    }
    world.lay("src/link", "-> d1").lay("src/empty", "");
    fs::hard_link(world.context().join("src/d3/f03"), world.context().join("src/second")).expect("linked");
    world
}

fn content(number: usize) -> String {
    format!("file {number} {}\n", number * number).repeat(3000)
}

/// Tells how many layers are kept as patches.
fn kept(world: &World) -> usize {
    let folders = fs::read_dir(world.store.layout().patches().join("sha256")).into_iter().flatten().flatten();
    folders.map(|folder| fs::read_dir(folder.path()).expect("listed").count()).sum()
}

/// Tells how many layers are kept as patches after a build, and checks that the image is what a builder makes that never saw another.
fn patches(world: &World, dockerfile: &str) -> usize {
    let image = world.build(dockerfile);
    let count = kept(world);
    let other = World::new();
    let afresh = other.build_request(&world.request(dockerfile));
    assert_eq!(image.digest(), afresh.digest());
    let layer = &image.config().rootfs.diff_ids.last().expect("a layer").0;
    let mut bytes = Vec::new();
    world.store.blobs().stream(layer).expect("opened").0.read_to_end(&mut bytes).expect("read");
    assert_eq!(Digest::sha256(&bytes), *layer);
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
    count
}

#[test]
fn a_changed_file_costs_one_file_and_gives_the_same_layer() {
    let world = world();
    assert_eq!(patches(&world, DOCKERFILE), 0);
    let path = |path: &str| world.context().join(path);
    let changes: [(&str, &dyn Fn()); 12] = [
        ("other bytes", &|| _ = world.lay("src/d3/f17", "other")),
        ("as many bytes", &|| _ = world.lay("src/d6/f06", &content(6).replace("36", "37"))),
        ("a new file", &|| _ = world.lay("src/d3/new", &content(77))),
        ("no file any more", &|| fs::remove_file(path("src/d0/f07")).expect("removed")),
        ("another name", &|| fs::rename(path("src/d1/f08"), path("src/d1/g")).expect("renamed")),
        ("another mode", &|| _ = world.mode("src/d5/f12", 0o755)),
        ("a file instead of a link", &|| {
            fs::remove_file(path("src/link")).expect("removed");
            world.lay("src/link", "plain");
        }),
        ("a folder instead of a file", &|| {
            fs::remove_file(path("src/empty")).expect("removed");
            world.lay("src/empty/x", "X");
        }),
        ("one name of two less", &|| fs::remove_file(path("src/second")).expect("removed")),
        ("a link", &|| _ = world.lay("src/another", "-> d2/f02")),
        ("all of a folder", &|| fs::remove_dir_all(path("src/d4")).expect("removed")),
        ("a time, which the layer has", &|| super::age(&path("src/d2/f09"), 900_000)),
    ];
    let mut before = 0;
    for (what, change) in changes {
        change();
        world.lay("src/d2/always", what);
        let after = patches(&world, DOCKERFILE);
        assert_eq!(after, before + 1, "{what}");
        before = after;
    }
    world.store.collect().expect("collected");
    // What runs on it finds all files, and the patch stays one.
    let files = world.build(&format!("{DOCKERFILE}RUN write made M\n")).files();
    assert!(files.contains("644 33:34 app/src/d2/always a time") && files.contains("made M"), "{files}");
    assert_eq!(patches(&world, DOCKERFILE), before);
}

#[test]
fn a_layer_of_other_files_is_written_whole() {
    let world = world();
    patches(&world, DOCKERFILE);
    for number in 0..40 {
        world.lay(&format!("src/d{}/f{number:02}", number % 7), &content(number + 100));
    }
    assert_eq!(patches(&world, DOCKERFILE), 0);
    world.lay("src/d3/f17", "other");
    assert_eq!(patches(&world, DOCKERFILE), 1);
    // Another destination is another layer.
    assert_eq!(patches(&world, &DOCKERFILE.replace("/app", "/elsewhere")), 1);
}

#[test]
fn a_build_without_cache_reads_all_files_and_gives_the_layer_that_is_there_or_writes_it() {
    let world = world();
    let build = |world: &World| {
        let mut request = world.request(DOCKERFILE);
        request.no_cache = true;
        let image = world.build_request(&request);
        assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
        (image.digest(), image.config().rootfs.diff_ids.last().expect("a layer").0.clone())
    };
    let (image, layer) = build(&world);
    let blobs = world.store.blobs();
    assert_eq!(build(&world), (image.clone(), layer.clone()));
    blobs.remove(&layer).expect("removed");
    assert_eq!(build(&world), (image, layer.clone()));
    blobs.verify(&layer).expect("there again");
    world.lay("src/d3/f17", "other");
    let (image, other) = build(&world);
    assert_eq!(image, World::new().build_request(&world.request(DOCKERFILE)).digest());
    blobs.verify(&other).expect("written");
    assert_eq!(kept(&world), 0);
}

#[test]
fn what_is_known_of_the_last_layer_may_be_lost_or_damaged() {
    let world = world();
    patches(&world, DOCKERFILE);
    let outlines = world.store.layout().outlines();
    let outline = fs::read_dir(&outlines).expect("listed").next().expect("one").expect("read").path();
    let whole = fs::read(&outline).expect("read");
    let write = |bytes: &[u8]| store::atomic_file::write(&outline, bytes).expect("written");
    for (round, bytes) in [&[][..], &whole[..200], &[whole.clone(), vec![0]].concat()].into_iter().enumerate() {
        write(bytes);
        world.lay("src/d3/f17", &format!("round {round}"));
        assert_eq!(patches(&world, DOCKERFILE), 0);
    }
    fs::remove_dir_all(&outlines).expect("removed");
    world.lay("src/d3/f17", "no outline");
    assert_eq!(patches(&world, DOCKERFILE), 0);
}

#[test]
fn a_damaged_layer_is_not_built_upon() {
    let world = world();
    for damage in [600, 1_100_000] {
        world.lay("src/d2/always", &format!("before {damage}"));
        world.build(DOCKERFILE);
        let mut blobs = Vec::new();
        for digest in world.store.blobs().list().expect("listed") {
            let path = world.store.blobs().path(&digest);
            if fs::metadata(&path).is_ok_and(|file| file.len() > 1 << 20) {
                blobs.push(path);
            }
        }
        for path in blobs {
            let mut bytes = fs::read(&path).expect("read");
            bytes[damage] ^= 1;
            store::atomic_file::write(&path, &bytes).expect("damaged");
        }
        world.lay("src/d2/always", &format!("after {damage}"));
        let before = kept(&world);
        assert_eq!(patches(&world, DOCKERFILE), before, "{damage}");
    }
}
