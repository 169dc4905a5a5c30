//! `slipway rmi`.

use super::support::TestEnv;

fn blobs(env: &TestEnv) -> usize {
    fn count(folder: &std::path::Path) -> usize {
        let entries = std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
        entries.map(|path| if path.is_dir() { count(&path) } else { 1 }).sum()
    }
    count(&env.home().join("blobs"))
}

#[test]
fn the_last_name_takes_the_image_with_it() {
    let env = TestEnv::with_busybox();
    let id = env.slipway(["images", "-q", "--no-trunc", "busybox"]).success();
    env.slipway(["tag", "busybox", "other"]).success();
    assert_eq!(env.slipway(["rmi", "busybox"]).success(), "Untagged: busybox:latest\n");
    assert!(blobs(&env) > 0);
    assert_eq!(env.slipway(["rmi", "other"]).success(), format!("Untagged: other:latest\nDeleted: {id}"));
    assert_eq!(blobs(&env), 0, "nothing needs the blobs any more");
    assert_eq!(env.slipway(["images", "-q"]).success(), "");
}

#[test]
fn an_image_with_several_names_is_not_removed_by_its_id() {
    let env = TestEnv::with_busybox();
    let id = env.slipway(["images", "-q", "busybox"]).success();
    env.slipway(["tag", "busybox", "other"]).success();
    let stderr = env.slipway(["rmi", id.trim()]).failure(1);
    assert!(stderr.contains("busybox:latest, other:latest") && stderr.contains("--force"), "{stderr}");
    let stdout = env.slipway(["rmi", "--force", id.trim()]).success();
    assert_eq!(stdout.lines().count(), 3, "{stdout}");
}

#[test]
fn one_missing_image_does_not_save_the_others() {
    let env = TestEnv::with_busybox();
    let ran = env.slipway(["rmi", "nosuch", "busybox"]);
    assert!(ran.stdout().starts_with("Untagged: busybox:latest\n"), "{}", ran.stdout());
    assert_eq!(ran.failure(1), "error: no such image: `nosuch`\nhint: `slipway images` lists what is here\n");
    assert_eq!(env.slipway(["rmi", "--force", "nosuch"]).success(), "");
}
