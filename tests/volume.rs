//! `slipway volume`.

use super::support::TestEnv;

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
