//! `slipway load`.

use std::path::PathBuf;
use std::process::Command;

use super::support::{TestEnv, path, run};

/// A home with busybox, and an archive of it.
fn saved() -> (TestEnv, PathBuf) {
    let env = TestEnv::with_busybox();
    let tar = env.path("busybox.tar");
    env.slipway(["save", "-o", path(&tar), "busybox"]).success();
    (env, tar)
}

fn in_other_home(env: &TestEnv, arguments: &[&str]) -> super::support::Ran {
    run(env.command(arguments).env("SLIPWAY_HOME", env.path("other")))
}

#[test]
fn archives_are_read_plain_and_compressed() {
    let (env, tar) = saved();
    for (program, suffix) in [("gzip", "gz"), ("zstd", "zst"), ("xz", "xz"), ("bzip2", "bz2")] {
        let compressed = env.path(&format!("busybox.tar.{suffix}"));
        run(Command::new("sh").arg("-c").arg(format!("{program} -c {} > {}", path(&tar), path(&compressed)))).success();
        let stdout = in_other_home(&env, &["load", "-i", path(&compressed)]).success();
        assert_eq!(stdout, "Loaded image: busybox:latest\n", "{suffix}");
    }
    let mut command = env.command(["load"]);
    command.env("SLIPWAY_HOME", env.path("third")).stdin(std::fs::File::open(&tar).unwrap());
    assert_eq!(run(&mut command).success(), "Loaded image: busybox:latest\n");
    let ids = |home: &str| run(env.command(["images", "-q"]).env("SLIPWAY_HOME", env.path(home))).success();
    assert_eq!(ids("home"), ids("other"));
    assert_eq!(ids("home"), ids("third"));
}

#[test]
fn an_archive_of_old_docker_is_read() {
    let (env, tar) = saved();
    // What docker wrote before version 25: a config, and a folder with `layer.tar` per layer.
    let script = r#"
        set -e; mkdir new old; tar -C new -xf "$1"; cd new
        config=$(sed 's/.*"Config":"\([^"]*\)".*/\1/' manifest.json)
        layer=$(sed 's/.*"Layers":\["\([^"]*\)".*/\1/' manifest.json)
        mkdir ../old/aaa ../old/bbb
        cp $config ../old/config.json; cp $layer ../old/aaa/layer.tar; ln -s ../aaa/layer.tar ../old/bbb/layer.tar
        echo 1.0 > ../old/aaa/VERSION; echo '{}' > ../old/aaa/json
        echo '[{"Config":"config.json","RepoTags":["old:1","old:2"],"Layers":["bbb/layer.tar"]}]' > ../old/manifest.json
        cd ../old; tar -cf ../old.tar *
    "#;
    run(Command::new("sh").args(["-c", script, "sh", path(&tar)]).current_dir(env.path("."))).success();
    let stdout = in_other_home(&env, &["load", "-i", path(&env.path("old.tar"))]).success();
    assert_eq!(stdout, "Loaded image: old:1\nLoaded image: old:2\n");
}

#[test]
fn broken_archives_are_refused_and_change_nothing() {
    let (env, tar) = saved();
    let bytes = std::fs::read(&tar).unwrap();
    let cut = env.write("cut.tar", &bytes[..bytes.len() / 2]);
    let mut wrong = bytes.clone();
    // In the middle of the layer.
    let at = bytes.len() / 2;
    wrong[at] ^= 0xff;
    let wrong = env.write("wrong.tar", &wrong);
    let text = env.write("text.tar", "this is no archive");
    let empty = env.write("empty.tar", vec![0; 10240]);
    for (file, expected) in [
        (&cut, "the tar ends in the middle of"),
        (&wrong, "is damaged: its bytes hash to"),
        (&text, "the archive is broken"),
        (&empty, "the archive holds no image"),
    ] {
        let stderr = in_other_home(&env, &["load", "-i", path(file)]).failure(1);
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(stderr.starts_with("error: cannot load images from") && stderr.contains(name), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
        assert_eq!(in_other_home(&env, &["images", "-q"]).success(), "");
    }
    let stderr = in_other_home(&env, &["load", "-i", path(&env.path("missing"))]).failure(1);
    assert!(stderr.contains("cannot open") && stderr.contains("No such file"), "{stderr}");
    // The store is unharmed.
    assert_eq!(in_other_home(&env, &["load", "-i", path(&tar)]).success(), "Loaded image: busybox:latest\n");
}

#[test]
fn an_archive_that_lacks_a_layer_is_refused() {
    let (env, tar) = saved();
    let script = r#"
        set -e; mkdir x; tar -C x -xf "$1"; cd x
        rm "$(sed 's/.*"Layers":\["\([^"]*\)".*/\1/' manifest.json)"; tar -cf ../lacks.tar .
    "#;
    run(Command::new("sh").args(["-c", script, "sh", path(&tar)]).current_dir(env.path("."))).success();
    let stderr = in_other_home(&env, &["load", "-i", path(&env.path("lacks.tar"))]).failure(1);
    assert!(stderr.contains("the archive lacks `blobs/sha256/"), "{stderr}");
}
