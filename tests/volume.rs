//! `slipway volume`.

use super::support::{TestEnv, needs, path};

fn inspect(env: &TestEnv, name: &str) -> serde_json::Value {
    let text = env.slipway(["volume", "inspect", name]).success();
    serde_json::from_str::<Vec<serde_json::Value>>(&text).unwrap().remove(0)
}

#[test]
fn a_volume_is_made_listed_shown_and_removed() {
    let env = TestEnv::new();
    assert_eq!(env.slipway(["volume", "create", "--label", "keep", "data"]).success(), "data\n");
    assert_eq!(env.slipway(["volume", "create", "data"]).success(), "data\n", "it is there already");
    let unnamed = env.slipway(["volume", "create"]).success();
    assert_eq!(unnamed.trim().len(), 64);
    assert!(env.slipway(["volume", "ls"]).success().starts_with("DRIVER   VOLUME NAME\nlocal    "));
    assert_eq!(env.slipway(["volume", "ls", "-q", "-f", "label=keep"]).success(), "data\n");
    let shown = inspect(&env, "data");
    let mountpoint = shown["Mountpoint"].as_str().unwrap();
    assert!(mountpoint.starts_with(env.home().to_str().unwrap()) && std::path::Path::new(mountpoint).is_dir());
    assert_eq!((&shown["Name"], &shown["Driver"], &shown["Scope"]), (&"data".into(), &"local".into(), &"local".into()));
    // Those that nobody named go first.
    let pruned = env.slipway(["volume", "prune", "-f"]).success();
    assert!(pruned.contains(unnamed.trim()) && !pruned.contains("data"), "{pruned}");
    assert_eq!(env.slipway(["volume", "rm", "data"]).success(), "data\n");
    let error = env.slipway(["volume", "rm", "data"]).failure(1);
    assert!(error.contains("no such volume: data"), "{error}");
    assert_eq!(env.slipway(["volume", "rm", "-f", "data"]).success(), "");
    assert_eq!(std::fs::read_dir(env.home().join("volumes")).unwrap().count(), 0);
}

#[test]
fn pruning_all_takes_what_the_filters_admit() {
    let env = TestEnv::new();
    for (name, label) in [("one", "a=1"), ("two", "a=2")] {
        env.slipway(["volume", "create", "--label", label, name]).success();
    }
    std::fs::write(env.home().join("volumes/one/_data/file"), vec![1; 100_000]).unwrap();
    let pruned = env.slipway(["volume", "prune", "-af", "--filter", "label!=a=2"]).success();
    assert!(pruned.starts_with("Deleted Volumes:\none\n\nTotal reclaimed space: 10"), "{pruned}");
    assert_eq!(env.slipway(["volume", "ls", "-q"]).success(), "two\n");
}

#[test]
fn bad_names_and_options_are_refused() {
    let env = TestEnv::new();
    for name in ["../x", "a/b", ".hidden", "x"] {
        let error = env.slipway(["volume", "create", name]).failure(1);
        assert!(error.contains("includes invalid characters for a local volume name"), "{name}: {error}");
    }
    let error = env.slipway(["volume", "create", "-o", "type=nfs", "data"]).failure(1);
    assert!(error.contains("invalid option"), "{error}");
    let error = env.slipway(["volume", "inspect", "../../etc"]).failure(1);
    assert!(error.contains("no such volume"), "{error}");
}

#[test]
fn a_named_volume_starts_with_the_images_files_and_outlives_its_containers() {
    if !needs::root() {
        return;
    }
    let env = TestEnv::with_busybox();
    let dockerfile =
        "FROM busybox\nRUN mkdir /srv && echo seed > /srv/seed && chown -R www-data /srv && chmod 750 /srv\n";
    env.slipway(["build", "-t", "app", path(&env.context("app", dockerfile))]).success();
    let run = |flags: &[&str], script: &str| {
        env.slipway([&["run", "--rm", "--network=none"], flags, &["app", "sh", "-c", script]].concat())
    };
    let shown =
        run(&["-v", "data:/srv"], "stat -c '%U %a' /srv; cat /srv/seed; echo more > /srv/more; rm /srv/seed").success();
    assert_eq!(shown, "www-data 750\nseed\n");
    // What is there stays as it is, read-only or not.
    assert_eq!(run(&["--mount", "source=data,target=/srv"], "ls /srv").success(), "more\n");
    let error = run(&["-v", "data:/srv:ro"], "touch /srv/x");
    assert!(error.stderr().contains("Read-only file system"), "{}", error.stderr());
    assert_eq!(run(&["-v", "bare:/srv:nocopy"], "ls /srv").success(), "");
    assert_eq!(env.slipway(["volume", "ls", "-q"]).success(), "bare\ndata\n");
    env.slipway(["volume", "rm", "bare", "data"]).success();
}

#[test]
fn a_volume_in_use_stays_and_anonymous_ones_go_with_their_container() {
    if !needs::root() {
        return;
    }
    let env = TestEnv::with_busybox();
    env.slipway(["create", "--name", "one", "--network=none", "-v", "data:/data", "-v", "/anon", "busybox", "true"])
        .success();
    let error = env.slipway(["volume", "rm", "data"]).failure(1);
    assert!(error.contains("volume is in use - ["), "{error}");
    assert_eq!(env.slipway(["volume", "ls", "-q", "-f", "dangling=true"]).success(), "");
    // Another container takes its volumes over, and keeps them alive.
    let script = "echo kept > /anon/file; ls -d /data /anon";
    let two =
        env.slipway(["run", "--name", "two", "--network=none", "--volumes-from", "one", "busybox", "sh", "-c", script]);
    assert_eq!(two.success(), "/anon\n/data\n");
    env.slipway(["rm", "-v", "one"]).success();
    assert_eq!(env.slipway(["volume", "ls", "-q"]).success().lines().count(), 2);
    env.slipway(["rm", "-v", "two"]).success();
    assert_eq!(env.slipway(["volume", "ls", "-q"]).success(), "data\n");
    env.slipway(["run", "--rm", "--network=none", "-v", "/anon", "busybox", "true"]).success();
    env.slipway(["run", "--name", "three", "--network=none", "-v", "/anon", "busybox", "true"]).success();
    assert_eq!(env.slipway(["volume", "ls", "-q"]).success().lines().count(), 2, "one of three");
    env.slipway(["rm", "three"]).success();
    assert_eq!(env.slipway(["volume", "ls", "-q", "-f", "dangling=true"]).success().lines().count(), 2);
    env.slipway(["volume", "prune", "-f"]).success();
    assert_eq!(env.slipway(["volume", "ls", "-q"]).success(), "data\n");
}

#[test]
fn a_container_that_is_not_made_leaves_no_volume() {
    if !needs::root() {
        return;
    }
    let env = TestEnv::with_busybox();
    for (flags, expected) in [
        (&["-v", "/anon", "--mount", "type=bind,src=/no/such,dst=/x"][..], "bind source path does not exist: /no/such"),
        (&["-v", "a1:/x", "--tmpfs", "/x"], "Duplicate mount point: /x"),
        (&["-v", "/anon", "--volumes-from", "nosuch"], "No such container: nosuch"),
        (&["-v", "..x:/x"], "includes invalid characters for a local volume name"),
    ] {
        let ran = env.slipway([&["create", "--network=none"], flags, &["busybox", "true"]].concat());
        let error = ran.failure(1);
        assert!(error.contains(expected), "{flags:?}: {error}");
    }
    assert_eq!(env.slipway(["volume", "ls", "-q"]).success(), "");
    assert_eq!(env.slipway(["ps", "-aq"]).success(), "");
}

#[test]
fn a_target_that_leads_out_stays_inside_and_memory_has_its_options() {
    if !needs::root() {
        return;
    }
    let env = TestEnv::with_busybox();
    let outside = env.path("outside");
    std::fs::create_dir(&outside).unwrap();
    let dockerfile = format!("FROM busybox\nRUN ln -s {} /out && ln -s ../../../../../../.. /up\n", path(&outside));
    env.slipway(["build", "-t", "links", path(&env.context("links", &dockerfile))]).success();
    let folder = env.write("data/file", "from the host");
    let bind = |target: &str| format!("{}:{target}", path(folder.parent().unwrap()));
    let run = |flags: &[&str], script: &str| {
        env.slipway([&["run", "--rm", "--network=none"], flags, &["links", "sh", "-c", script]].concat())
    };
    let script = format!("cat {}/x/file", path(&outside));
    assert_eq!(run(&["-v", &bind("/out/x")], &script).success(), "from the host");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "nothing was made outside");
    assert_eq!(run(&["-v", &bind("/up/etc/x")], "cat /etc/x/file").success(), "from the host");
    let shown =
        run(&["--tmpfs", "/fast:size=1m,mode=700,exec"], "grep ' /fast ' /proc/mounts; stat -c %a /fast").success();
    assert!(shown.contains("size=1024k") && !shown.contains("noexec") && shown.contains("nosuid"), "{shown}");
    assert!(shown.ends_with("700\n"), "{shown}");
}
