//! `slipway cp`.

use super::support::{TestEnv, path};

#[test]
fn files_and_folders_are_copied_as_docker_copies_them() {
    let Some(env) = TestEnv::for_containers() else { return };
    env.start("box", &["-v", "/vol"], "mkdir -p /d/e; echo in > /d/e/f; ln -s f /d/e/l; chown 33 /d/e/f; sleep 100");
    super::support::eventually(20, "it has written", || {
        env.slipway(["exec", "box", "cat", "/d/e/l"]).stdout() == "in\n"
    });
    let cp = |from: &str, to: &str| env.slipway(["cp", from, to]);
    let out = env.path("out");
    std::fs::create_dir(&out).unwrap();
    cp("box:/d/e/f", path(&out)).success();
    cp("box:/d/e/f", path(&out.join("named"))).success();
    cp("box:/d", path(&out)).success();
    cp("box:/d/.", path(&out.join("contents"))).success();
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    for name in ["f", "named", "d/e/f", "d/e/l", "contents/e/f"] {
        assert_eq!(read(name), "in\n", "{name}");
    }
    env.write("src/a", "host\n");
    env.write("src/sub/b", "below\n");
    let source = env.path("src");
    cp(path(&source), "box:/new").success();
    cp(path(&source), "box:/d").success();
    cp(&format!("{}/.", path(&source)), "box:/vol").success();
    cp(path(&source.join("a")), "box:/etc/renamed").success();
    let script = "cat /new/sub/b /d/src/a /vol/a /etc/renamed; stat -c %u /etc/renamed";
    assert_eq!(env.slipway(["exec", "box", "sh", "-c", script]).success(), "below\nhost\nhost\nhost\n0\n");
    assert!(cp("box:/nosuch", path(&out)).failure(1).contains("Could not find the file /nosuch in container box"));
    assert!(cp(path(&env.path("nosuch")), "box:/").failure(1).contains("nosuch` is not there"));
    assert!(
        cp(path(&source), "box:/no/such/place")
            .failure(1)
            .contains("Could not find the file /no/such in container box")
    );
    assert!(cp(path(&source), "box:/etc/passwd").failure(1).contains("cannot copy a directory onto the file"));
    assert!(cp("a", "b").failure(1).contains("must specify at least one container source"));
    env.slipway(["stop", "-t", "0", "box"]).success();
    cp(path(&source.join("a")), "box:/while-stopped").success();
    cp("box:/while-stopped", path(&out.join("back"))).success();
    assert_eq!(read("back"), "host\n");
    env.slipway(["start", "box"]).success();
    assert_eq!(env.slipway(["exec", "box", "cat", "/while-stopped"]).success(), "host\n");
}

#[test]
fn no_link_or_tar_leads_out_of_the_container() {
    let Some(env) = TestEnv::for_containers() else { return };
    let outside = env.write("outside/secret", "secret\n");
    let folder = env.path("outside");
    let script = format!("ln -s {} /link; ln -s / /up; ln -s {} /file; sleep 100", path(&folder), path(&outside));
    env.start("box", &[], &script);
    super::support::eventually(20, "it has written", || {
        env.slipway(["exec", "box", "test", "-h", "/file"]).code() == 0
    });
    let source = env.write("mine", "mine\n");
    assert_ne!(env.slipway(["cp", path(&source), "box:/link/x"]).code(), 0, "the link leads nowhere inside");
    env.slipway(["cp", path(&source), "box:/up/../../escaped"]).success();
    assert_eq!(env.slipway(["exec", "box", "cat", "/escaped"]).success(), "mine\n");
    assert!(
        env.slipway(["cp", "-L", "box:/file", path(&env.path("got"))]).failure(1).contains("Could not find the file")
    );
    let names: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["secret"]);
    // A tar that goes through a link of its own, and one that climbs.
    for (name, member) in [("through", "l/x"), ("climbs", "../../x")] {
        let tar = env.path(name);
        let code = "import io, sys, tarfile\nt = tarfile.open(sys.argv[1], 'w')\nl = tarfile.TarInfo('l'); l.type = tarfile.SYMTYPE; l.linkname = sys.argv[3]; t.addfile(l)\nf = tarfile.TarInfo(sys.argv[2]); f.size = 2; t.addfile(f, io.BytesIO(b'x\\n')); t.close()";
        std::process::Command::new("python3").args(["-c", code, path(&tar), member, path(&folder)]).status().unwrap();
        let mut command = env.command(["cp", "-", "box:/tmp"]);
        super::support::run(command.stdin(std::fs::File::open(tar).unwrap()));
        assert!(!folder.join("x").exists() && !env.path("x").exists(), "{name}");
    }
}
