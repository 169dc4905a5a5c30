//! `slipway system`.

use super::support::{TestEnv, path};

#[test]
fn what_everything_takes_is_told_and_what_nobody_uses_is_removed() {
    let Some(env) = TestEnv::for_containers() else { return };
    let context = env.context("app", "FROM busybox\nRUN --network=none dd if=/dev/zero of=/big bs=1024 count=2048\n");
    env.slipway(["build", "-q", "-t", "app", path(&context)]).success();
    let script = "dd if=/dev/zero of=/mine bs=1024 count=1024 2>/dev/null; cp /mine /data";
    env.slipway(["run", "--network=none", "--name=ended", "-v", "/data", "busybox", "sh", "-c", script]).success();
    env.start("lives", &["--label=keep"], "sleep 99");
    env.slipway(["network", "create", "unused"]).success();

    let format = "{{.Type}}: {{.TotalCount}} {{.Active}} {{.Size}} {{.Reclaimable}}";
    let rows = env.slipway(["system", "df", "--format", format]).success();
    let row =
        |kind: &str| rows.lines().find_map(|line| line.strip_prefix(&format!("{kind}: "))).expect(kind).to_owned();
    assert!(row("Images").starts_with("2 1 "), "{rows}");
    assert!(row("Containers").starts_with("2 1 ") && row("Containers").contains("1.05MB (100%)"), "{rows}");
    assert!(row("Local Volumes").starts_with("1 1 "), "{rows}");
    let table = env.slipway(["system", "df"]).success();
    let first = table.lines().next().expect("a heading");
    assert_eq!(first.split_whitespace().collect::<Vec<_>>(), ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]);
    let json = env.slipway(["system", "df", "--format", "json"]).success();
    assert!(json.lines().count() == 4 && json.contains(r#""Type":"Build Cache""#), "{json}");

    let refused = env.slipway(["system", "prune"]).failure(1);
    assert!(refused.contains("nothing was removed"), "{refused}");
    let some = env.slipway(["system", "prune", "-f", "--filter", "label=nobody"]).success();
    assert_eq!(some, "Total reclaimed space: 0B\n");
    let pruned = env.slipway(["system", "prune", "-f", "-a", "--volumes"]).success();
    for expected in ["Deleted Containers:", "Deleted Networks:\nunused\n", "Deleted Volumes:", "untagged: app:latest"] {
        assert!(pruned.contains(expected), "{expected} in {pruned}");
    }
    assert!(!pruned.contains("untagged: busybox"), "a container is made of it: {pruned}");
    assert_eq!(env.slipway(["ps", "-a", "--format", "{{.Names}}"]).success(), "lives\n");
    let images = env.slipway(["images"]).success();
    assert!(images.lines().count() == 2 && images.contains("busybox"), "{images}");
    assert_eq!(env.slipway(["volume", "ls", "-q"]).success(), "");
    assert!(env.slipway(["system", "prune", "--filter", "x=1"]).failure(1).contains("invalid filter 'x=1'"));
}
