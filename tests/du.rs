//! `slipway du`.

use super::support::{TestEnv, path};

/// Builds an image whose layers nothing else has; removes its name again, so that only the cache has them.
pub fn cached_build(env: &TestEnv, name: &str, size: usize) {
    env.write(&format!("{name}/payload"), name.bytes().cycle().take(size).collect::<Vec<u8>>());
    let context = env.context(name, "FROM scratch\nCOPY payload /\nWORKDIR /w\n");
    env.slipway(["build", "-q", "-t", name, path(&context)]).success();
    env.slipway(["rmi", name]).success();
}

/// Returns the entries of the cache.
pub fn entries(env: &TestEnv, more: &[&str]) -> Vec<serde_json::Value> {
    let text = env.slipway(["du", "--format", "json"].iter().chain(more)).success();
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn the_cache_says_what_it_takes() {
    let env = TestEnv::new();
    cached_build(&env, "a", 1_000_000);
    let all = entries(&env, &["--filter", "type=regular"]);
    let copy = all.iter().find(|entry| entry["Description"] == "[1/2] COPY payload /").expect("the layer of the COPY");
    assert!(copy["Bytes"].as_u64().expect("a number") >= 1_000_000, "{copy}");
    assert_eq!((&copy["Reclaimable"], &copy["Shared"]), (&true.into(), &false.into()));
    let folder = all.iter().find(|entry| entry["Description"] == "[2/2] WORKDIR /w").expect("the layer of the WORKDIR");
    assert_eq!(folder["Parents"][0], copy["ID"]);

    let table = env.slipway(["du"]).success();
    let line = table.lines().find(|line| line.contains("COPY payload")).expect("a line");
    assert!(line.starts_with(copy["ID"].as_str().expect("text")) && line.contains("   true          1MB   "), "{line}");
    assert!(table.contains("\nReclaimable:   1") && table.contains("\nTotal:         1"), "{table}");
    let verbose = env.slipway(["du", "--verbose", "--filter", "description=COPY"]).success();
    assert!(verbose.contains("Type:         regular\nDescription:  [1/2] COPY payload /\n"), "{verbose}");
    assert!(env.slipway(["du", "--filter", "colour=red"]).failure(1).contains("there are id, parent, type"));

    // What an image has as well is shared.
    env.slipway(["build", "-q", "-t", "a", path(&env.path("a"))]).success();
    assert!(entries(&env, &["--filter", "type=regular"]).iter().all(|entry| entry["Shared"] == true));
    assert_eq!(entries(&env, &["--filter", "type=regular,private"]).len(), 0);
}
