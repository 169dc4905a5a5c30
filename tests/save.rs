//! `slipway save`.

use super::support::{TestEnv, needs, path, run};

#[test]
fn the_same_images_give_the_same_archive() {
    let env = TestEnv::with_busybox();
    env.slipway(["tag", "busybox", "other:1"]).success();
    let (one, two) = (env.path("one.tar"), env.path("two.tar"));
    env.slipway(["save", "-o", path(&one), "busybox", "other:1"]).success();
    let piped = run(env.command(["save", "busybox", "other:1"]).stdout(std::fs::File::create(&two).unwrap()));
    piped.success();
    assert!(std::fs::read(&one).unwrap() == std::fs::read(&two).unwrap());
    let mut load = env.command(["load", "-i", path(&one)]);
    let stdout = run(load.env("SLIPWAY_HOME", env.path("other"))).success();
    assert_eq!(stdout, "Loaded image: busybox:latest\nLoaded image: other:1\n");
}

#[test]
fn skopeo_reads_both_lists_of_the_archive() {
    if !needs::tools(&["skopeo"]) {
        return;
    }
    let env = TestEnv::with_busybox();
    let tar = env.path("busybox.tar");
    env.slipway(["save", "-o", path(&tar), "busybox"]).success();
    for transport in ["oci-archive", "docker-archive"] {
        let mut skopeo = std::process::Command::new("skopeo");
        let stdout = run(skopeo.args(["inspect", "--config", &format!("{transport}:{}", path(&tar))])).success();
        assert!(stdout.contains("\"Cmd\""), "{transport}: {stdout}");
    }
}

#[test]
fn a_missing_image_leaves_no_file() {
    let env = TestEnv::with_busybox();
    let tar = env.path("x.tar");
    let stderr = env.slipway(["save", "-o", path(&tar), "busybox", "nosuch"]).failure(1);
    assert_eq!(stderr, "error: no such image: `nosuch`\nhint: `slipway images` lists what is here\n");
    assert!(!tar.exists());
    let nowhere = env.path("no/such/folder/x.tar");
    let stderr = env.slipway(["save", "-o", path(&nowhere), "busybox"]).failure(1);
    assert!(stderr.contains("No such file") && stderr.contains("x.tar"), "{stderr}");
}

#[test]
fn a_full_disk_leaves_no_half_archive() {
    if !needs::root() {
        return;
    }
    let env = TestEnv::with_busybox();
    let stderr = env.slipway(["save", "-o", "/dev/full", "busybox"]).failure(1);
    assert!(stderr.contains("No space left"), "{stderr}");
}
