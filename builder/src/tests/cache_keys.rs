//! Rows K2 to K14: what enters a cache key, and what does not.

use super::{World, age};
use crate::SecretSource;

const DOCKERFILE: &str = "FROM base AS s\nCOPY d /s/\nRUN write /o/a A\nFROM base\nCOPY a /c/\nCOPY --from=s /s /s\nRUN \
                          --mount=target=/m --mount=from=s,source=/o,target=/o write made M\nWORKDIR /w\n";

fn lay(world: &World, time: i64) {
    world.lay("a", "A").lay("d/x", "X");
    for path in ["a", "d", "d/x", ""] {
        age(&world.context().join(path), time);
    }
}

/// The keys of a store after a build.
fn keys(world: &World) -> Vec<oci::Digest> {
    assert!(!world.build(DOCKERFILE).built.images.is_empty());
    world.store.build_cache().keys().expect("listed")
}

#[test]
fn k6_keys_are_the_same_in_other_homes_and_folders_with_other_times() {
    let (one, other) = (World::new(), World::new());
    lay(&one, 1_000_000);
    lay(&other, 2_000_000);
    assert_eq!(keys(&one), keys(&other));
}

fn hits(world: &World, dockerfile: &str) -> Vec<bool> {
    let steps = world.build(dockerfile).seen.steps();
    steps.iter().filter(|step| !step.contains(" FROM ")).map(|step| step.ends_with(": cached")).collect()
}

#[test]
fn k3_a_mount_of_a_stage_counts_by_what_is_at_its_path() {
    let world = World::new();
    let dockerfile = |stage: &str, path: &str| {
        format!("FROM base AS s\nRUN {stage}\nFROM base\nRUN --mount=from=s,source={path},target=/m write made M\n")
    };
    world.build(&dockerfile("write o/a A && write p/b B", "/o"));
    assert_eq!(hits(&world, &dockerfile("write o/a A && write p/b C", "/o")), [false, true], "beside the path");
    assert_eq!(hits(&world, &dockerfile("write o/a C && write p/b B", "/o")), [false, false], "at the path");
    // Below the mount nothing counts by content: a parent with the same files is another parent.
    let below = |more: &str| format!("FROM base\nRUN write a A{more}\nRUN write b B\n");
    world.build(&below(""));
    assert_eq!(hits(&world, &below(" && write c C")), [false, false]);
}

#[test]
fn k2_secrets_proxies_addresses_and_caches_do_not_count() {
    let world = World::new();
    let dockerfile = "FROM base\nRUN --mount=type=secret,id=s --mount=type=cache,id=ONE,target=/c write a A\n";
    let mut request = world.request(dockerfile);
    request.secrets.insert("s".into(), SecretSource::Value(b"1".to_vec()));
    world.build_request(&request);
    let mut request = world.request(&dockerfile.replace("ONE", "TWO"));
    request.secrets.insert("s".into(), SecretSource::Value(b"2".to_vec()));
    request.build_args.insert("HTTP_PROXY".into(), "http://proxy".into());
    assert!(world.build_request(&request).seen.all_cached());
    let mut request = world.request(dockerfile);
    request.add_hosts.push(crate::AddedHost { name: "h".into(), address: "10.0.0.1".into() });
    assert!(!world.build_request(&request).seen.all_cached(), "the name of a host counts");
    request.add_hosts[0].address = "10.0.0.2".into();
    assert!(world.build_request(&request).seen.all_cached(), "its address does not");
}

#[test]
fn k13_the_order_of_variables_counts() {
    let world = World::new();
    world.build("FROM base\nENV A=1 B=2\nRUN write a A\n");
    assert_eq!(hits(&world, "FROM base\nENV B=2 A=1\nRUN write a A\n"), [false]);
}

#[test]
fn k14_the_same_definition_gives_the_same_image() {
    let (one, other) = (World::new(), World::new());
    lay(&one, 1_000_000);
    lay(&other, 1_000_000);
    assert_eq!(one.build(DOCKERFILE).digest(), other.build(DOCKERFILE).digest());
}

#[test]
fn k1_what_a_cache_begins_with_counts_and_what_it_became_does_not() {
    let world = World::new();
    let dockerfile = |seed: &str, options: &str| {
        format!(
            "FROM base AS s\nRUN write seed/f {seed}\nFROM base\n\
             RUN --mount=type=cache,id=c,target=/m,from=s,source=/seed{options} write made M\n"
        )
    };
    world.build(&dockerfile("1", ""));
    assert_eq!(hits(&world, &dockerfile("1", "")).last(), Some(&true));
    assert_eq!(hits(&world, &dockerfile("1", ",sharing=locked")).last(), Some(&true));
    for (seed, options) in [("2", ""), ("1", ",mode=0700"), ("1", ",uid=1"), ("1", ",gid=1"), ("1", ",ro")] {
        assert_eq!(hits(&world, &dockerfile(seed, options)).last(), Some(&false), "{seed} {options}");
    }
}

#[test]
fn k1_k2_whatever_a_process_can_see_counts() {
    let dockerfile = "FROM base\nRUN write a A\n";
    let world = World::new();
    world.build(dockerfile);
    let with = |change: &dyn Fn(&mut crate::BuildRequest)| {
        let mut request = world.request(dockerfile);
        change(&mut request);
        let steps = world.build_request(&request).seen.steps();
        steps[1].ends_with(": cached")
    };
    assert!(with(&|_| ()));
    assert!(!with(&|request| request.shm_size = Some(1 << 20)));
    assert!(!with(&|request| request.cgroup_parent = Some("/p".into())));
    assert!(!with(&|request| request.source_date_epoch = Some(1)));
    let limit = |soft| crate::Ulimit { name: "nofile".into(), soft, hard: 9 };
    assert!(!with(&|request| request.ulimits.push(limit(1))));
    assert!(!with(&|request| request.ulimits.push(limit(2))));
    assert!(with(&|request| request.ulimits.push(limit(2))), "done a moment ago");
    for other in [
        "FROM base\nRUN --network=none write a A\n",
        "FROM base\nUSER web\nRUN write a A\n",
        "FROM base\nRUN [\"/bin/sh\", \"-c\", \"write a A\", \"\"]\n",
        "FROM base\nRUN --mount=type=tmpfs,target=/t write a A\n",
        "FROM base\nRUN --mount=type=tmpfs,target=/t,size=4096 write a A\n",
        "FROM base\nRUN --mount=type=tmpfs,target=/u write a A\n",
        "FROM base\nRUN --mount=type=secret,id=s write a A\n",
        "FROM base\nRUN --mount=type=secret,id=s,mode=0440 write a A\n",
        "FROM base\nRUN --mount=type=secret,id=s,env=S write a A\n",
        "FROM base\nRUN --mount=type=bind,from=base,target=/b write a A\n",
        "FROM base\nRUN --mount=type=bind,from=base,target=/b,rw write a A\n",
        "FROM base\nRUN --mount=type=bind,from=base,target=/b,source=/etc write a A\n",
    ] {
        assert!(hits(&world, other).contains(&false), "{other}");
        assert!(!hits(&world, other).contains(&false), "{other}");
    }
}

#[test]
fn k3_a_mount_of_the_context_counts_by_the_files_at_its_path() {
    let world = World::new();
    world.lay("d/a", "A").lay("d/link", "-> a").lay("e/b", "B").lay("Dockerfile", "");
    let dockerfile = "FROM base\nRUN --mount=target=/m,source=d write made M\n";
    let run = |world: &World| hits(world, dockerfile).last().copied();
    world.build(dockerfile);
    world.lay("e/b", "C").lay("new", "N");
    assert_eq!(run(&world), Some(true), "beside the path");
    world.lay("d/a", "B");
    assert_eq!(run(&world), Some(false), "bytes");
    world.mode("d/a", 0o755);
    assert_eq!(run(&world), Some(false), "mode");
    world.lay("d/empty/", "");
    assert_eq!(run(&world), Some(false), "an empty folder");
    std::fs::remove_file(world.context().join("d/link")).expect("removed");
    world.lay("d/link", "-> empty");
    assert_eq!(run(&world), Some(false), "where a link points");
    assert_eq!(run(&world), Some(true));
}

#[test]
fn k4_whatever_decides_the_result_of_a_copy_counts() {
    let world = World::new();
    world.lay("d/x", "X").lay("d/y", "Y").lay("d/sub/z", "Z").lay("link", "-> d/x");
    let first = "COPY d /c/";
    world.build(&format!("FROM base\n{first}\n"));
    assert_eq!(hits(&world, &format!("FROM base\n{first}\n")), [true]);
    for other in [
        "COPY d /c2/",
        "COPY --chown=web d /c/",
        "COPY --chown=33 d /c/",
        "COPY --chmod=700 d /c/",
        "COPY --link d /c/",
        "COPY --exclude=x d /c/",
        "COPY --exclude=sub/* d /c/",
        "COPY --parents d /c/",
        "COPY --parents ./d/sub/z /c/",
        "COPY --parents d/./sub/z /c/",
        "COPY d/* /c/",
        "COPY d/x /c/",
        "COPY d/y /c/",
        "COPY link /c/",
        "COPY d/x d/y /c/",
        "COPY d/y d/x d/sub /c/",
        "COPY <<x /c/\nX\nx",
        "COPY <<y /c/\nX\ny",
        "WORKDIR /c/",
    ] {
        let dockerfile = format!("FROM base\n{other}\n");
        assert!(hits(&world, &dockerfile).contains(&false), "{other}");
        let afresh = World::new();
        let request = world.request(&dockerfile);
        let again = world.build_request(&request);
        assert!(again.seen.all_cached(), "{other}: {:?}", again.seen.steps());
        assert_eq!(again.digest(), afresh.build_request(&request).digest(), "{other}");
    }
}

#[test]
fn k4_an_owner_by_name_counts_as_who_that_is_in_the_image() {
    let world = World::new();
    world.lay("a", "A");
    let dockerfile = |id: u32| {
        format!(
            "FROM base\nRUN write etc/passwd web:x:{id}:{id}::/:/bin/sh\nCOPY --chown=web a /c/\nCOPY --chown=5 a /d/\n"
        )
    };
    for id in [7, 8] {
        assert_eq!(hits(&world, &dockerfile(id)), [false; 3]);
        let image = world.build(&dockerfile(id));
        assert!(image.seen.all_cached());
        assert!(image.files().contains(&format!("644 {id}:{id} c/a A")), "{}", image.files());
    }
}

#[test]
fn k7_a_context_counts_by_its_bytes_whatever_its_times_say() {
    let world = World::new();
    world.lay("a", "one");
    let dockerfile = "FROM base\nCOPY a /c/\n";
    let later = |seconds| jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
    // So late that the files count as old, and their digests are kept.
    let build = |now| {
        let mut request = world.request(dockerfile);
        request.now = now;
        world.build_request(&request)
    };
    build(later(60));
    assert!(build(later(61)).seen.all_cached());
    // As long, and as old; only the kernel knows better.
    world.lay("a", "two");
    let image = build(later(62));
    assert!(!image.seen.all_cached());
    assert!(image.files().contains(" c/a two"), "{}", image.files());
    // Another folder of the same path is another context.
    std::fs::remove_dir_all(world.context()).expect("removed");
    world.lay("a", "one");
    let image = build(later(63));
    assert!(image.seen.all_cached(), "as at first: {:?}", image.seen.steps());
    assert!(image.files().contains(" c/a one"), "{}", image.files());
}

#[test]
fn k8_a_base_image_counts_by_its_layers_and_by_what_its_config_tells_a_process() {
    let world = World::new();
    world.lay("a", "A");
    let dockerfile = "FROM base\nCOPY a /c/\nRUN write made M\nWORKDIR /w\n";
    world.build(dockerfile);
    let base = |change: &dyn Fn(&mut oci::ContainerConfig), more: &str| {
        let env = vec!["BASE=1".into()];
        let mut config = oci::ContainerConfig { env, cmd: Some(vec!["sh".into()]), ..Default::default() };
        change(&mut config);
        world.images.add_with(&world.store, "base", config, more);
    };
    base(&|config| config.cmd = Some(vec!["other".into()]), "");
    assert_eq!(hits(&world, dockerfile), [true; 3], "no process sees the command");
    assert_eq!(
        world.build(dockerfile).config().config.cmd,
        Some(vec!["other".into()]),
        "but the image has the new one"
    );
    base(&|config| config.env.push("MORE=1".into()), "");
    assert_eq!(hits(&world, dockerfile), [true, false, true], "its variables are those of processes");
    base(&|config| config.user = "web".into(), "");
    assert_eq!(hits(&world, dockerfile)[..2], [true, false], "and so is its user");
    base(&|_| (), "motd");
    assert_eq!(hits(&world, dockerfile), [false; 3], "its files");
}

#[test]
fn k10_what_is_found_by_its_key_is_neither_read_nor_unpacked() {
    let world = World::new();
    lay(&world, 1_000_000);
    let digest = world.build(DOCKERFILE).digest();
    let snapshots = world.store.layout().home().join("snapshots");
    std::fs::remove_dir_all(&snapshots).expect("removed");
    std::fs::create_dir(&snapshots).expect("made");
    world.executor.ran();
    let again = world.build(DOCKERFILE);
    assert!(again.seen.all_cached(), "{:?}", again.seen.steps());
    assert_eq!(again.digest(), digest);
    assert!(world.executor.ran().is_empty());
    assert_eq!(std::fs::read_dir(&snapshots).expect("listed").count(), 0, "nothing was unpacked");
    // A stage that came out the same by another way: its result is looked into, and then what follows is found.
    let other = DOCKERFILE.replace("write /o/a A", "write /o/a A && x");
    let steps = world.build(&other).seen.steps();
    let done: Vec<_> = steps.iter().filter(|step| step.ends_with(": done") && !step.contains(" FROM ")).collect();
    assert_eq!(done.len(), 1, "{steps:?}");
}
