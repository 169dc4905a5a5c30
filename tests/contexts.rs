//! Build contexts that are no folder.

use std::process::Command;

use super::support::{TestEnv, path, run};

#[test]
fn g11_a_tar_on_standard_input_is_the_context() {
    let env = TestEnv::new();
    env.write("ctx/Dockerfile", "FROM scratch\nCOPY . /all\nCOPY sub/f /f\n");
    env.write("ctx/Other", "FROM scratch\nCOPY sub/f /other\n");
    env.write("ctx/sub/f", "content");
    // Nothing is ignored in a tar, and its owners are kept.
    env.write("ctx/.dockerignore", "sub\n");
    let tar = |more: &[&str], to: &str| {
        let mut command = Command::new("tar");
        command.args(["--owner=7", "--group=8", "-C", path(&env.path("ctx"))]).args(more);
        run(command.args(["-cf", path(&env.path(to)), "."])).success();
    };
    tar(&[], "plain");
    tar(&["-z"], "gzip");
    let feed = |arguments: &[&str], from: &str| {
        run(env.command(arguments).stdin(std::fs::File::open(env.path(from)).unwrap()))
    };
    let id = feed(&["build", "-q", "-"], "plain").success();
    let again = feed(&["build", "-"], "gzip");
    assert_eq!(again.stderr().matches("CACHED").count(), 2, "{}", again.stderr());
    assert_eq!(again.success(), id);
    let files = env.path("files.tar");
    feed(&["build", "-o", &format!("type=tar,dest={}", path(&files)), "-f", "Other", "-"], "plain").success();
    let listed = run(Command::new("tar").args(["--numeric-owner", "-tvf", path(&files)])).success();
    assert!(listed.contains(" 7/8 ") && listed.trim_end().ends_with("other"), "{listed}");
    let staging = std::fs::read_dir(env.home().join("staging")).unwrap();
    assert_eq!(staging.count(), 0, "what was unpacked is gone");
    for (arguments, expected) in [
        (&["build", "-f", "nosuch", "-"][..], "cannot read `nosuch`"),
        (&["build", "-f", "-", "-"], "cannot be both the context and the Dockerfile"),
    ] {
        let stderr = feed(arguments, "plain").failure(1);
        assert!(stderr.contains(expected), "{stderr}");
    }
    let stderr = feed(&["build", "-f", "Other", "-"], "ctx/Dockerfile").failure(1);
    assert!(stderr.contains("is a Dockerfile") && stderr.contains("hint:"), "{stderr}");
}

#[test]
fn g11_an_image_of_an_oci_layout_takes_the_place_of_a_name() {
    let env = TestEnv::new();
    let base = env.context("base", "FROM scratch\nCOPY Dockerfile /from-base\nENV KEPT=yes\nWORKDIR /work\n");
    let archive = env.path("base.tar");
    let dest = format!("type=oci,dest={}", path(&archive));
    env.slipway(["build", "-t", "one:v1", "-o", &dest, path(&base)]).success();
    let layout = env.path("layout");
    std::fs::create_dir(&layout).unwrap();
    run(Command::new("tar").args(["-C", path(&layout), "-xf", path(&archive)])).success();
    let index: serde_json::Value = serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
    let digest = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
    let app = env.context("app", "FROM base\nCOPY --from=other:9 /from-base copied\n");
    let build = |home: &str, base: &str| {
        let (one, two) = (format!("base=oci-layout://{base}"), format!("other:9=oci-layout://{base}"));
        let out = format!("type=tar,dest={}", path(&env.path("out.tar")));
        let mut command = env.command(["build", "-q", "-t", "app", "--build-context", &one, "--build-context", &two]);
        run(command.args(["-o", "type=image", "-o", &out, path(&app)]).env("SLIPWAY_HOME", env.path(home)))
    };
    let text = path(&layout);
    for (number, base) in
        [text.to_owned(), format!("{text}:v1"), format!("{text}@{digest}"), format!("{text}:v1@{digest}")]
            .into_iter()
            .enumerate()
    {
        let home = format!("home-{number}");
        build(&home, &base).success();
        let listed = run(Command::new("tar").args(["-tf", path(&env.path("out.tar"))])).success();
        assert!(listed.contains("from-base\n") && listed.contains("work/copied\n"), "{listed}");
        let mut inspect = env.command(["inspect", "app"]);
        let inspected = run(inspect.env("SLIPWAY_HOME", env.path(&home))).success();
        assert!(inspected.contains("KEPT=yes"), "{inspected}");
    }
    for (base, expected) in [
        (format!("{text}:v2"), "no image `v2`; it has"),
        (format!("{text}@sha256:{}", "0".repeat(64)), "lacks `blobs/sha256/0000"),
        (path(&app).to_owned(), "is no OCI layout"),
        (format!("{text}/nosuch"), "cannot read the OCI layout"),
    ] {
        let stderr = build("home-bad", &base).failure(1);
        assert!(stderr.contains(expected) && stderr.contains("Dockerfile:1"), "{stderr}");
    }
    let blob = layout.join("blobs/sha256").join(digest.strip_prefix("sha256:").unwrap());
    let bytes = std::fs::read_to_string(&blob).unwrap();
    std::fs::write(&blob, bytes.replacen("sha256", "sha257", 1)).unwrap();
    let stderr = build("home-damaged", text).failure(1);
    assert!(stderr.contains("is damaged: its bytes hash to"), "{stderr}");
    // What nobody asks for is not even looked at.
    let plain = env.context("plain", "FROM scratch\nCOPY Dockerfile /\n");
    env.slipway(["build", "--build-context", "unused=oci-layout:///no/such", path(&plain)]).success();
}
