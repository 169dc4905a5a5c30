//! Row 1.10: what the cache finds again, and what it must not.

use super::World;

const DOCKERFILE: &str = "FROM base\nARG V\nCOPY a d /c/\nRUN write made M\nWORKDIR /w\n";

fn world() -> World {
    let world = World::new();
    world.lay("a", "A").lay("d/x", "X");
    world.build(DOCKERFILE);
    world
}

fn cached(world: &World, dockerfile: &str) -> Vec<bool> {
    let steps = world.build(dockerfile).seen.steps();
    steps.iter().filter(|step| !step.contains(" FROM ")).map(|step| step.ends_with(": cached")).collect()
}

#[test]
fn a_build_that_changes_nothing_gives_the_same_image() {
    let world = world();
    let first = world.build(DOCKERFILE);
    let mut request = world.request(DOCKERFILE);
    request.now = jiff::Timestamp::from_second(super::NOW + 1_000).expect("in range");
    let later = world.build_request(&request);
    assert!(later.seen.all_cached(), "{:?}", later.seen.steps());
    assert_eq!(first.digest(), later.digest());
}

#[test]
fn k5_times_do_not_matter_but_modes_and_bytes_do() {
    let world = world();
    super::age(&world.context().join("a"), 2_000_000);
    assert_eq!(cached(&world, DOCKERFILE), [true; 3]);
    world.mode("a", 0o600);
    assert_eq!(cached(&world, DOCKERFILE), [false; 3]);
    world.mode("a", 0o644);
    assert_eq!(cached(&world, DOCKERFILE), [true; 3]);
    world.lay("d/x", "Y");
    assert_eq!(cached(&world, DOCKERFILE), [false; 3]);
}

#[test]
fn files_that_are_not_copied_do_not_matter() {
    let world = world();
    world.lay("other", "1").lay(".git/HEAD", "x");
    assert_eq!(cached(&world, DOCKERFILE), [true; 3]);
}

#[test]
fn k1_a_command_and_its_variables_matter() {
    let world = world();
    assert_eq!(cached(&world, &DOCKERFILE.replace("made M", "made N")), [true, false, false]);
    assert_eq!(cached(&world, &DOCKERFILE.replace("RUN", "ENV A=1\nRUN")), [true, false, true]);
}

#[test]
fn a11_an_argument_matters_to_run_and_not_to_copy() {
    let world = world();
    let mut request = world.request(DOCKERFILE);
    request.build_args.insert("V".into(), "1".into());
    let steps = world.build_request(&request).seen.steps();
    assert_eq!(steps[1..], ["[2/4] COPY a d /c/: cached", "[3/4] RUN write made M: done", "[4/4] WORKDIR /w: cached"]);
}

#[test]
fn a_step_that_comes_out_the_same_keeps_what_follows() {
    let world = world();
    // Another command, the same file: the steps after it are found.
    let steps = cached(&world, &DOCKERFILE.replace("write made M", "write made M && x"));
    assert!(!steps[1]);
}

#[test]
fn k5_what_comes_from_a_stage_counts_by_its_content() {
    let world = World::new();
    let dockerfile = |command: &str| format!("FROM base AS s\nRUN {command}\nFROM base\nCOPY --from=s /out /\n");
    world.build(&dockerfile("write out O"));
    assert_eq!(cached(&world, &dockerfile("write out O && write else E")), [false, true]);
    assert_eq!(cached(&world, &dockerfile("write out P")), [false, false]);
}

#[test]
fn k9_no_cache_does_everything_again() {
    let world = world();
    let mut request = world.request(DOCKERFILE);
    request.no_cache = true;
    assert!(world.build_request(&request).seen.steps().iter().all(|step| step.ends_with(": done")));
    let mut request = world.request(&DOCKERFILE.replace("FROM base", "FROM base AS one"));
    request.no_cache_filter = vec!["ONE".into()];
    assert!(world.build_request(&request).seen.steps().iter().all(|step| step.ends_with(": done")));
    request.no_cache_filter = vec!["two".into()];
    assert!(world.build_request(&request).seen.all_cached());
}

#[test]
fn a_record_whose_layer_is_gone_is_no_hit() {
    let world = world();
    let image = world.build(DOCKERFILE);
    let copied = image.config().rootfs.diff_ids[1].clone();
    world.store.blobs().remove(&copied.0).expect("removed");
    assert_eq!(cached(&world, DOCKERFILE), [false, true, true]);
}

#[test]
fn a_damaged_cache_is_built_again() {
    let world = world();
    let mut damaged = 0;
    let mut folders = vec![world.store.layout().cache(), world.store.home().join("context-digests")];
    while let Some(folder) = folders.pop() {
        for file in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if file.path().is_dir() {
                folders.push(file.path());
            } else {
                let bytes = std::fs::read(file.path()).expect("read");
                #[expect(clippy::disallowed_methods, reason = "damage is the point")]
                std::fs::write(file.path(), &bytes[..bytes.len() / 2]).expect("written");
                damaged += 1;
            }
        }
    }
    assert!(damaged > 2);
    assert_eq!(cached(&world, DOCKERFILE), [false; 3]);
    assert_eq!(cached(&world, DOCKERFILE), [true; 3]);
}

#[test]
fn files_that_did_not_change_are_not_read_again() {
    let world = world();
    world.build(DOCKERFILE);
    // The files are too fresh to be trusted.
    assert!(!world.store.layout().home().join("context-digests").exists());
    let later = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(60);
    let mut request = world.request(DOCKERFILE);
    request.now = later;
    world.build_request(&request);
    let context = crate::context::LazyContext::new(crate::Context::Folder(world.context()), None, Default::default());
    let source = context.open(&world.store).expect("opened");
    let node = source.lookup(b"a").expect("looked").expect("there").node;
    assert!(source.known_digest(&node).is_some());
    world.lay("a", "B");
    let node = source.lookup(b"a").expect("looked").expect("there").node;
    assert!(source.known_digest(&node).is_none());
}

#[test]
fn k5_a_folder_that_only_comes_along_is_not_one_that_was_asked_for() {
    let world = World::new();
    world.lay("s/d/x", "X");
    let base = "FROM base\nRUN write c/d/y Y\n";
    world.build(&format!("{base}COPY --exclude=d --exclude=!d/x s /c"));
    assert_eq!(cached(&world, &format!("{base}COPY s /c")), [true, false]);
}

fn misses(world: &World, dockerfile: &str) -> Vec<String> {
    let mut request = world.request(dockerfile);
    request.explain = true;
    world.build_request(&request).seen.misses().into_iter().map(|mut reasons| reasons.remove(0)).collect()
}

#[test]
fn a_miss_names_the_file_the_argument_the_instruction_or_the_step_before() {
    let world = World::new();
    world.lay("a", "A").lay("d/x", "X").lay("d/y", "Y");
    assert_eq!(misses(&world, DOCKERFILE), ["nothing like it was built here before"; 3]);
    assert_eq!(misses(&world, DOCKERFILE), [""; 0]);
    let after = ["the step before it, `[2/4] COPY a d /c/`, has another result".to_owned(), String::new()];
    let after = |first: &str| vec![first.to_owned(), after[0].clone()];
    world.lay("d/x", "other");
    assert_eq!(misses(&world, DOCKERFILE)[..2], after("file `d/x` has other content"));
    world.mode("d/x", 0o600);
    assert_eq!(misses(&world, DOCKERFILE)[..2], after("the mode of file `d/x` changed from `644` to `600`"));
    world.lay("d/z", "new");
    assert_eq!(misses(&world, DOCKERFILE)[..2], after("file `d/z` is new"));
    std::fs::remove_file(world.context().join("d/y")).expect("removed");
    assert_eq!(misses(&world, DOCKERFILE)[..2], after("file `d/y` is gone"));
    let other = DOCKERFILE.replace("made M", "made N");
    assert_eq!(
        misses(&world, &other),
        [
            "the instruction changed from `RUN write made M` to `RUN write made N`",
            "the step before it, `[3/4] RUN write made N`, has another result"
        ]
    );
    assert_eq!(
        misses(&world, &other.replace("COPY a d /c/", "COPY --chmod=700 a d /c/"))[0],
        "the instruction changed from `COPY a d /c/` to `COPY --chmod=700 a d /c/`"
    );
    let mut request = world.request(&other);
    request.explain = true;
    request.build_args.insert("V".into(), "1".into());
    assert_eq!(world.build_request(&request).seen.misses(), [["ARG V is new: `1`"]]);
    request.build_args.insert("V".into(), "2".into());
    assert_eq!(world.build_request(&request).seen.misses(), [["ARG V changed from `1` to `2`"]]);
    request.no_cache = true;
    assert_eq!(world.build_request(&request).seen.misses(), [["the cache was not asked (--no-cache)"]; 3]);
    assert_eq!(misses(&world, &other.replace("RUN", "ENV E=1\nRUN"))[0], "ENV E is new: `1`");
}

#[test]
fn a_miss_names_the_base_image() {
    let world = world();
    let config =
        oci::ContainerConfig { env: vec!["BASE=1".into()], cmd: Some(vec!["other".into()]), ..Default::default() };
    let was = world.images.digest("base");
    world.images.add_with(&world.store, "base", config, "motd");
    let now = world.images.digest("base");
    let base = format!("the base image of `[1/4] FROM base` changed from `{was}` to `{now}`");
    assert_eq!(misses(&world, DOCKERFILE)[0], base);
}

#[test]
fn no_value_of_a_secret_or_of_a_proxy_gets_into_the_cache() {
    let world = World::new();
    let dockerfile = "FROM base\nRUN --mount=type=secret,id=s,env=S --mount=type=secret,id=s write a A\n";
    let mut request = world.request(dockerfile);
    request.secrets.insert("s".into(), crate::SecretSource::Value(b"hunter2".to_vec()));
    request.build_args.insert("HTTP_PROXY".into(), "http://user:hunter2@proxy".into());
    world.build_request(&request);
    let mut read = 0;
    for key in world.store.build_cache().keys().expect("listed") {
        let bytes = std::fs::read(world.store.layout().cache_record(&key)).expect("read");
        assert!(!String::from_utf8_lossy(&bytes).contains("hunter2"));
        read += 1;
    }
    assert!(read > 0);
}

#[test]
fn what_is_noted_of_a_step_is_bounded() {
    let world = World::new();
    let long = "x".repeat(60_000);
    world.build(&format!("FROM base\nENV A={long}\nRUN write a {long}\nCOPY <<E /e\n{long}\nE\n"));
    for key in world.store.build_cache().keys().expect("listed") {
        let size = std::fs::metadata(world.store.layout().cache_record(&key)).expect("there").len();
        assert!(size < 200 << 10, "{size}");
    }
}
