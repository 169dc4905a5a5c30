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
