//! Row 1.7: `RUN` and its mounts.

use super::{NOW, World};
use crate::{MountKind, SecretSource};

#[test]
fn r1_shell_and_exec_form() {
    let world = World::new();
    world.build("FROM base\nRUN a b\nRUN [\"c\", \"d e\"]\nSHELL [\"/s\", \"-x\"]\nRUN f");
    let argv: Vec<Vec<String>> = world.executor.ran().into_iter().map(|ran| ran.argv).collect();
    assert_eq!(argv, [vec!["/bin/sh", "-c", "a b"], vec!["c", "d e"], vec!["/s", "-x", "f"]]);
}

#[test]
fn r2_heredocs() {
    let world = World::new();
    world.build("FROM base\nRUN <<E\nprint one\nE\nRUN <<E\n#!/x\nbody\nE\nRUN cat <<E\nbody\nE\n");
    let ran = world.executor.ran();
    assert_eq!(ran[0].argv[2], "print one\n");
    assert_eq!(ran[1].argv[2], "/dev/pipes/E");
    assert!(matches!(&ran[1].mounts[0].kind, MountKind::Bind { read_only: true, .. }));
    assert_eq!(ran[1].mounts[0].target, "/dev/pipes/");
    assert_eq!(ran[2].argv[2], "cat <<E\nbody\nE");
}

#[test]
fn r3_a_mount_of_the_context_shows_what_copy_would_take() {
    let world = World::new();
    world.lay("a", "A").lay("d/x", "X").lay("ignored", "I").lay(".dockerignore", "ignored\n.dockerignore\n");
    let image = world.build("FROM base\nRUN --mount=target=/c --mount=source=a,target=/f,rw list /c && list /f");
    assert_eq!(image.seen.output(), "644 0:0 a A\n755 0:0 d/\n644 0:0 d/x X\n644 0:0 A");
    assert_eq!(image.files(), "");
    world.lay("d/x", "changed");
    assert!(!world.build("FROM base\nRUN --mount=target=/c list /c").seen.all_cached());
}

#[test]
fn r3_a_mount_of_a_stage_merges_its_layers() {
    let world = World::new();
    let dockerfile = "FROM base AS s\nRUN write t/one 1\nRUN write t/two 2\nFROM base\nRUN --mount=from=s,source=t,target=/m list /m\n\
        RUN --mount=from=s,source=t,target=/m,rw list /m";
    let image = world.build(dockerfile);
    assert_eq!(image.seen.output(), "644 0:0 one 1\n644 0:0 two 2\n".repeat(2));
    let kinds: Vec<MountKind> =
        world.executor.ran().into_iter().filter_map(|mut ran| ran.mounts.pop()).map(|mount| mount.kind).collect();
    assert!(matches!(kinds[..], [MountKind::Merged { .. }, MountKind::Overlay(_)]), "{kinds:?}");
}

#[test]
fn r4_a_cache_outlives_the_build_and_no_cache_empties_it() {
    let world = World::new();
    let mut request = world.request("FROM base\nRUN --mount=type=cache,target=/c,uid=0,mode=0711 list /c");
    world.build_request(&request);
    let folder = |world: &World| match &world.executor.ran()[0].mounts[0].kind {
        MountKind::Bind { source, read_only: false } => source.clone(),
        other => panic!("{other:?}"),
    };
    let cache = folder(&world);
    std::fs::File::create(cache.join("kept")).expect("made");
    let image = world.build("FROM base\nRUN --mount=type=cache,id=/c,target=/other list /other && x");
    assert!(image.seen.output().contains("kept"), "{}", image.seen.output());
    request.no_cache = true;
    assert_eq!(world.build_request(&request).seen.output(), "");
}

#[test]
fn r4_a_cache_can_start_with_files_of_a_stage() {
    let world = World::new();
    let image = world
        .build("FROM base AS s\nRUN write d/f F\nFROM base\nRUN --mount=type=cache,from=s,source=d,target=/c list /c");
    assert_eq!(image.seen.output(), "644 0:0 f F\n");
    // Another content is another cache; the same one, wherever it comes from, is the same.
    let from = |content: &str, run: &str| {
        let dockerfile = format!(
            "FROM base AS s\nRUN write d/f {content}\nFROM base\nRUN --mount=type=cache,from=s,source=d,target=/c {run}"
        );
        let image = world.build(&dockerfile);
        let [.., ran] = &world.executor.ran()[..] else { panic!("nothing ran") };
        let MountKind::Bind { source, .. } = &ran.mounts[0].kind else { panic!("{:?}", ran.mounts) };
        (image.seen.output(), source.clone())
    };
    let first = from("F", "list /c && once");
    let (told, other) = from("G", "list /c");
    assert_eq!(told, "644 0:0 f G\n");
    assert_ne!(first.1, other);
    assert_eq!(from("F", "list /c && again").1, first.1);
}

#[test]
fn r6_secrets_are_files_or_variables_and_change_no_key() {
    let world = World::new();
    let dockerfile = "FROM base\nRUN --mount=type=secret,id=s --mount=type=secret,id=s,env=TOKEN --mount=type=secret,id=none list /run/secrets/s";
    let mut request = world.request(dockerfile);
    request.secrets.insert("s".into(), SecretSource::Value(b"hush".to_vec()));
    let image = world.build_request(&request);
    assert_eq!(image.seen.output(), "400 hush\n");
    assert!(world.executor.ran()[0].env.contains(&("TOKEN".into(), "hush".into())));
    assert_eq!(image.files(), "");
    request.secrets.insert("s".into(), SecretSource::Value(b"other".to_vec()));
    assert!(world.build_request(&request).seen.all_cached());
    let error = world.refuse("FROM base\nRUN --mount=type=secret,id=s,required x");
    assert!(error.contains("secret s: not found") && error.contains("--secret id=s"), "{error}");
}

#[test]
fn r7_an_agent_is_a_socket_that_programs_find() {
    let world = World::new();
    let mut request = world.request(
        "FROM base\nWORKDIR /w\nRUN --mount=type=ssh list /run/buildkit/ssh_agent.0\n\
         RUN --mount=type=ssh,id=b,target=sock,mode=0660,uid=5,gid=6 --mount=type=ssh list /w/sock\n\
         ENV SSH_AUTH_SOCK=/mine\nRUN --mount=type=ssh --mount=type=ssh,id=none x",
    );
    request.agents = [("default".into(), "/agents/a".into()), ("b".into(), "/agents/b".into())].into();
    let image = world.build_request(&request);
    assert_eq!(image.seen.output(), "600 0:0 /agents/a\n660 5:6 /agents/b\n");
    let ran = world.executor.ran();
    let sock = |at: usize| ran[at].env.iter().find(|(name, _)| name == "SSH_AUTH_SOCK").map(|(_, path)| path.as_str());
    assert_eq!((sock(0), sock(1), sock(2)), (Some("/run/buildkit/ssh_agent.0"), Some("/w/sock"), Some("/mine")));
    assert_eq!(ran[1].mounts.iter().filter(|mount| mount.target == "/run/buildkit/ssh_agent.1").count(), 1);
    assert_eq!(ran[2].mounts.len(), 1);
    // Which agent it is changes nothing.
    request.agents = [("default".into(), "/agents/c".into()), ("b".into(), "/agents/d".into())].into();
    assert!(world.build_request(&request).seen.all_cached());
}

#[test]
fn r7_an_agent_that_is_required_must_be_there() {
    let world = World::new();
    let error = world.refuse("FROM base\nRUN --mount=type=ssh,required x");
    assert!(error.contains("no SSH key \"default\" forwarded from the client"), "{error}");
    assert!(error.contains("--ssh default") && error.contains("Dockerfile:2"), "{error}");
    world.build("FROM base\nRUN --mount=type=ssh x");
    assert!(world.executor.ran().iter().all(|ran| ran.mounts.is_empty()));
}

#[test]
fn m4_users_are_found_in_the_image() {
    let world = World::new();
    world.build("FROM base\nRUN a\nUSER web\nRUN b\nUSER 1234\nRUN c\nUSER 5:wheel\nRUN d");
    let users: Vec<_> =
        world.executor.ran().into_iter().map(|ran| (ran.user.uid, ran.user.gid, ran.user.additional_gids)).collect();
    assert_eq!(users, [(0, 0, vec![0, 10]), (33, 34, vec![34]), (1234, 0, vec![0]), (5, 10, vec![10])]);
    let error = world.refuse("FROM base\nUSER ghost\nRUN x");
    assert!(error.contains("unable to find user `ghost`"), "{error}");
}

#[test]
fn r12_home_and_path_are_set() {
    let world = World::new();
    world.build("FROM base\nUSER web\nWORKDIR /w/../v\nRUN a\nENV HOME=/mine\nRUN b");
    let ran = world.executor.ran();
    assert_eq!(ran[0].cwd, "/v");
    let home = |at: usize| ran[at].env.iter().find(|(name, _)| name == "HOME").expect("set").1.clone();
    assert_eq!((home(0).as_str(), home(1).as_str()), ("/var/www", "/mine"));
    assert!(ran[0].env.iter().any(|(name, _)| name == "PATH"));
}

#[test]
fn stages_that_do_not_need_each_other_run_at_once() {
    let world = World::new();
    let mut request = world.request(
        "FROM base AS a\nRUN wait\nFROM base AS b\nRUN fail 3\nFROM base\nCOPY --from=a /x /\nCOPY --from=b /x /",
    );
    request.parallelism = 2;
    // `wait` ends only because `fail` runs beside it and stops the build.
    let (built, seen) = world.try_build(&request);
    let error = built.map(|_| ()).expect_err("failed").render(false);
    assert!(error.contains("exit code: 3"), "{error}");
    assert!(seen.steps().contains(&"[a 2/2] RUN wait: cancelled".to_owned()), "{:?}", seen.steps());
    assert_eq!(world.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_cancelled_build_stops_and_leaves_nothing() {
    let world = World::new();
    let cancel = world.cancel.clone();
    let built = std::thread::scope(|scope| {
        let build = scope.spawn(|| world.try_build(&world.request("FROM base\nRUN wait\nRUN x")).0);
        while world.executor.ran().is_empty() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        cancel.cancel();
        build.join().expect("no panic")
    });
    assert!(matches!(built, Err(crate::BuildError::Cancelled)));
    assert_eq!(world.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_run_is_made_when_it_ran_and_a_copy_when_its_files_were() {
    let world = World::new();
    world.lay("a", "A");
    let image = world.build("FROM base\nENV A=1\nCOPY a /\nENV B=1\nRUN x\nENV C=1");
    let created: Vec<&str> = image.config().history.iter().filter_map(|line| line.created.as_deref()).collect();
    let (base, file, now) = ("2001-02-03T04:05:06Z", "1970-01-12T13:46:40Z", "2023-11-14T22:13:20Z");
    assert_eq!(created[created.len() - 5..], [base, file, file, now, now]);
    assert_eq!(image.config().created.as_deref(), Some(now));
    assert_eq!(NOW, 1_700_000_000);
}

#[test]
fn r13_what_a_process_makes_itself_stays_where_nothing_was_mounted() {
    let world = World::new();
    let image = world.build("FROM base\nRUN write /etc/hostname && folder /run/secrets && folder /etc/hosts.d");
    assert_eq!(image.files(), "644 0:0 etc/hostname \n755 0:0 etc/hosts.d/\n755 0:0 run/\n755 0:0 run/secrets/");
}

#[test]
fn r4_an_emptied_cache_is_left_to_whoever_is_at_work_in_it() {
    let world = World::new();
    let mut request = world.request("FROM base\nRUN --mount=type=cache,target=/c list /c");
    world.build_request(&request);
    let MountKind::Bind { source: cache, .. } = world.executor.ran()[0].mounts[0].kind.clone() else { panic!() };
    std::fs::File::create(cache.join("used")).expect("made");
    let folder = cache.parent().expect("a folder").to_owned();
    let lock = std::fs::File::open(folder.join("lock")).expect("opened");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockShared).expect("locked");
    request.no_cache = true;
    assert_eq!(world.build_request(&request).seen.output(), "");
    assert!(cache.join("used").exists(), "somebody has it mounted, or is about to");
    drop(lock);
    world.build_request(&request);
    assert!(!cache.exists());
    assert!(folder.join("data-2").exists());
}

#[test]
fn r4_without_cache_a_private_cache_is_empty_even_when_it_is_the_second() {
    let world = World::new();
    let mut request = world.request("FROM base\nRUN --mount=type=cache,target=/c,sharing=private list /c");
    world.build_request(&request);
    let MountKind::Bind { source: first, .. } = world.executor.ran()[0].mounts[0].kind.clone() else { panic!() };
    let lock = std::fs::File::open(first.with_file_name("lock")).expect("opened");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockShared).expect("locked");
    request.no_cache = true;
    world.build_request(&request);
    let MountKind::Bind { source: second, .. } = world.executor.ran()[0].mounts[0].kind.clone() else { panic!() };
    assert_ne!(first, second);
    std::fs::File::create(second.join("old")).expect("made");
    assert_eq!(world.build_request(&request).seen.output(), "");
}

#[test]
fn r3_a_file_that_is_mounted_writable_keeps_its_mode_and_owner() {
    let world = World::new();
    let image = world.build(
        "FROM base AS s\nCOPY --chown=5:6 --chmod=4717 <<f /\nF\nf\nFROM base\nRUN --mount=from=s,source=/f,target=/m,rw list /m",
    );
    assert_eq!(image.seen.output(), "4717 5:6 F\n");
}
