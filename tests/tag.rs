//! `slipway tag`.

use super::support::TestEnv;

#[test]
fn a_name_stands_for_the_image_it_was_given_to() {
    let env = TestEnv::with_busybox();
    let id = env.slipway(["images", "-q", "busybox"]).success();
    env.slipway(["tag", "busybox", "me/app:1"]).success();
    env.slipway(["tag", id.trim(), "me/app:2"]).success();
    for name in ["me/app:1", "docker.io/me/app:2"] {
        assert_eq!(env.slipway(["images", "-q", name]).success(), id, "{name}");
    }
}

#[test]
fn bad_names_are_refused_before_anything_happens() {
    let env = TestEnv::with_busybox();
    let stderr = env.slipway(["tag", "busybox", "Upper/Case"]).failure(2);
    assert!(stderr.contains("Upper/Case"), "{stderr}");
    let stderr = env.slipway(["tag", "busybox", "UPPER"]).failure(2);
    assert!(stderr.contains("repository name must be lowercase"), "{stderr}");
    assert_eq!(
        env.slipway(["tag", "nosuch", "x"]).failure(1),
        "error: no such image: `nosuch`\nhint: `slipway images` lists what is here\n"
    );
    let digest = format!("x@sha256:{}", "0".repeat(64));
    assert!(env.slipway(["tag", "busybox", &digest]).failure(1).contains("names an image by its digest"));
}
