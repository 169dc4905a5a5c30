//! Builds that come out the same anywhere and at any time.

use super::{Image, NOW, World, age};
use crate::{BuildRequest, ContextModes};

const EPOCH: i64 = 1_600_000_000;

const DOCKERFILE: &str = "FROM base AS build
WORKDIR /w
COPY . .
RUN folder made && write out O
FROM base
COPY --from=build /made /made
COPY --from=build /w /w
COPY data/ /made/data/
RUN --mount=type=cache,target=/c --mount=type=bind,source=data,target=/d folder /made/later
";

/// Files as a checkout makes them under some umask, at some time.
fn checkout(executable: u32, plain: u32, mtime: i64) -> World {
    let world = World::new();
    world.lay("run", "#!").lay("data/deep/a", "A").lay("data/b", "B");
    world.mode("run", executable).mode("data/deep/a", plain).mode("data/b", plain);
    world.mode("data", executable).mode("data/deep", executable);
    for path in ["run", "data/deep/a", "data/b", "data/deep", "data"] {
        age(&world.context().join(path), mtime);
    }
    world
}

fn reproducible(world: &World, dockerfile: &str) -> BuildRequest {
    let mut request = world.request(dockerfile);
    request.reproducible = Some(EPOCH);
    request
}

fn newest(image: &Image<'_>) -> i64 {
    let mut newest = i64::MIN;
    for diff_id in &image.config().rootfs.diff_ids[1..] {
        let blob = image.world.store.blobs().open(&diff_id.0).expect("there");
        let mut reader = layer::tar::Reader::new(blob.file);
        while let Some(entry) = reader.next_entry().expect("a tar") {
            newest = newest.max(entry.mtime.seconds);
        }
    }
    newest
}

#[test]
fn the_image_is_the_same_whatever_the_umask_the_clock_and_the_times_of_files() {
    let digest = |(executable, plain, mtime, later)| {
        let world = checkout(executable, plain, mtime);
        let mut request = reproducible(&world, DOCKERFILE);
        request.now = jiff::Timestamp::from_second(NOW + later).expect("in range");
        let image = world.build_request(&request);
        assert_eq!(newest(&image), EPOCH);
        assert_eq!(image.config().created.as_deref(), Some("2020-09-13T12:26:40Z"));
        image.digest()
    };
    // Files may be older than the epoch: a working copy that was not touched since the commit before.
    let one = digest((0o755, 0o644, EPOCH - 100, 0));
    assert_eq!(one, digest((0o700, 0o600, EPOCH + 100, 60)));
    assert_eq!(one, digest((0o775, 0o664, EPOCH, 3600)));
}

#[test]
fn the_umask_stays_out_of_keys_with_the_modes_of_git() {
    let world = checkout(0o700, 0o600, 1_000_000);
    let mut request = world.request("FROM scratch\nCOPY . /a/");
    let keep = world.build_request(&request).files();
    assert!(keep.contains("700 0:0 a/run") && keep.contains("600 0:0 a/data/b B"), "{keep}");
    request.context_modes = Some(ContextModes::Git);
    let git = world.build_request(&request).files();
    let expected = "755 0:0 a/\n755 0:0 a/data/\n644 0:0 a/data/b B\n755 0:0 a/data/deep/\n644 0:0 a/data/deep/a A\n\
                    755 0:0 a/run #!";
    assert_eq!(git, expected);
    world.mode("run", 0o4711).mode("data/b", 0o666).mode("data", 0o2770);
    assert!(world.build_request(&request).seen.all_cached());
    world.mode("run", 0o644);
    assert!(!world.build_request(&request).seen.all_cached());
    // They may also be left as they are in a build that is reproducible otherwise.
    request.reproducible = Some(EPOCH);
    request.context_modes = Some(ContextModes::Keep);
    assert!(world.build_request(&request).files().contains("666 0:0 a/data/b B"));
}

#[test]
fn names_of_one_file_are_files_of_their_own_as_git_has_them() {
    let world = World::new();
    world.lay("a", "A");
    std::fs::hard_link(world.context().join("a"), world.context().join("b")).expect("linked");
    let linked = world.build_request(&reproducible(&world, "FROM scratch\nCOPY . /")).digest();
    let world = World::new();
    world.lay("a", "A").lay("b", "A");
    assert_eq!(world.build_request(&reproducible(&world, "FROM scratch\nCOPY . /")).digest(), linked);
}

#[test]
fn processes_see_the_epoch_but_the_image_does_not_tell_it() {
    let world = World::new();
    let ran = |dockerfile: &str, change: &dyn Fn(&mut BuildRequest)| {
        let mut request = reproducible(&world, dockerfile);
        change(&mut request);
        let image = world.build_request(&request);
        assert!(!format!("{:?}", image.config().config.env).contains("EPOCH") || dockerfile.contains("ENV"));
        let env = world.executor.ran().pop().expect("ran").env;
        env.into_iter().find(|(name, _)| name == "SOURCE_DATE_EPOCH").map(|(_, value)| value)
    };
    let epoch = Some(EPOCH.to_string());
    assert_eq!(ran("FROM base\nRUN a", &|_| {}), epoch);
    assert_eq!(ran("FROM base\nARG SOURCE_DATE_EPOCH\nRUN b", &|_| {}), epoch);
    // What the Dockerfile says is what its author wanted.
    assert_eq!(ran("ARG SOURCE_DATE_EPOCH=5\nFROM base\nRUN c", &|_| {}).as_deref(), Some("5"));
    assert_eq!(ran("FROM base\nENV SOURCE_DATE_EPOCH=6\nRUN d", &|_| {}).as_deref(), Some("6"));
    let given = |request: &mut BuildRequest| request.source_date_epoch = Some(7);
    assert_eq!(ran("FROM base\nRUN e", &given).as_deref(), Some("7"));
    // As with BuildKit, a build argument alone sets times and nothing else.
    let argument = |request: &mut BuildRequest| {
        request.reproducible = None;
        request.build_args.insert("SOURCE_DATE_EPOCH".into(), "8".into());
    };
    assert_eq!(ran("FROM base\nRUN f", &argument), None);
}

#[test]
fn each_way_to_an_epoch_has_records_of_its_own() {
    let world = World::new();
    world.lay("a", "A");
    let dockerfile = "FROM base\nCOPY a /a\nRUN write x X\nWORKDIR /w";
    let mut plain = world.request(dockerfile);
    plain.source_date_epoch = Some(EPOCH);
    world.build_request(&plain);
    let request = reproducible(&world, dockerfile);
    let image = world.build_request(&request);
    let fresh = World::new();
    fresh.lay("a", "A");
    assert_eq!(image.digest(), fresh.build_request(&reproducible(&fresh, dockerfile)).digest());
    assert!(world.build_request(&request).seen.all_cached());
}

#[test]
fn an_isolated_build_neither_takes_nor_leaves_anything() {
    let world = World::new();
    world.lay("a", "A");
    let dockerfile = "FROM base\nCOPY a /a\nRUN --mount=type=cache,target=/c write x X";
    let caches = || {
        let root = world.store.layout().cache_mounts();
        let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let mut isolated = world.request(dockerfile);
    isolated.isolated = true;
    let first = world.build_request(&isolated);
    assert!(caches().is_empty());
    let normal = world.build(dockerfile);
    assert!(!normal.seen.all_cached(), "{:?}", normal.seen.steps());
    assert_eq!(caches().len(), 1);
    let kept = caches()[0].join("data/kept");
    std::fs::File::create(&kept).expect("made");
    let again = world.build_request(&isolated);
    assert!(!again.seen.all_cached(), "{:?}", again.seen.steps());
    assert!(kept.exists() && caches().len() == 1);
    assert!(world.build(dockerfile).seen.all_cached());
    assert_eq!(first.digest(), again.digest());
    assert!(world.leftovers().is_empty());
}

#[test]
fn row_1_12_an_epoch_is_the_time_of_all_that_is_new_and_of_nothing_below() {
    let dockerfile = "FROM base\nCOPY a /c/a\nRUN write x X\nWORKDIR /w\nLABEL l=1\n";
    for (given, global, expected) in [
        (Some("0"), "", Some(0)),
        (Some("5"), "", Some(5)),
        (Some("5"), "ARG SOURCE_DATE_EPOCH=7\n", Some(5)),
        (None, "ARG SOURCE_DATE_EPOCH=7\n", Some(7)),
        (None, "ARG SOURCE_DATE_EPOCH\n", None),
        (Some(""), "", None),
        (None, "", None),
    ] {
        let world = World::new();
        world.lay("a", "A");
        let mut request = world.request(&format!("{global}{dockerfile}"));
        request.build_args.extend(given.map(|given| ("SOURCE_DATE_EPOCH".to_owned(), given.to_owned())));
        let image = world.build_request(&request);
        let config = image.config();
        let seconds = |text: &Option<String>| -> i64 {
            text.as_deref().expect("a time").parse::<jiff::Timestamp>().expect("valid").as_second()
        };
        // The first line is that of the base image.
        let history: Vec<i64> = config.history[1..].iter().map(|line| seconds(&line.created)).collect();
        assert_ne!(Some(seconds(&config.history[0].created)), expected, "{given:?} {global}");
        let what = format!("{given:?} {global}");
        match expected {
            Some(epoch) => {
                assert_eq!(seconds(&config.created), epoch, "{what}");
                assert!(history.iter().all(|created| *created == epoch), "{what}: {history:?}");
                assert!(newest(&image) <= epoch, "{what}");
            }
            None => {
                assert_eq!(seconds(&config.created), super::NOW, "{what}");
                assert!(newest(&image) > 7, "{what}");
            }
        }
    }
    let world = World::new();
    for wrong in ["x", "1.5", "99999999999999999999"] {
        let mut request = world.request("FROM base\nRUN x\n");
        request.build_args.insert("SOURCE_DATE_EPOCH".into(), wrong.into());
        let error = world.try_build(&request).0.map(|_| ()).expect_err("refused").render(false);
        assert!(error.contains(&format!("invalid SOURCE_DATE_EPOCH: {wrong}")), "{error}");
    }
}
