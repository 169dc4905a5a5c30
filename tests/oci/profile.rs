//! What a program may do by default: the same under Debian's docker and under `slipway run`, system call by system call.

use super::super::clients::Docker;
use super::super::support::{TestEnv, needs};
use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

/// Debian 12 has docker 20.10; what later ones do otherwise, and so do we.
const LATER: &[(&str, &str)] = &[
    // Its look at files by handle, at NUMA nodes of others and at protection keys is harmless, so it is allowed.
    ("303", "name_to_handle_at"),
    ("310", "process_vm_readv"),
    ("311", "process_vm_writev"),
    ("329", "pkey_mprotect"),
    ("330", "pkey_alloc"),
    ("331", "pkey_free"),
    // It was a way out, more than once.
    ("425", "io_uring_setup"),
    ("426", "io_uring_enter"),
    ("427", "io_uring_register"),
    ("io-uring-setup", "io_uring_setup"),
    ("socket-alg", "AF_ALG"),
    ("socket-vsock", "AF_VSOCK"),
];

/// The first system call that Debian's docker has not heard of.
const FIRST_UNKNOWN: u32 = 449;

/// A root file system with the program that tries every call, as a tar.
fn probe(env: &TestEnv) -> String {
    let root = env.path("root");
    for name in ["bin", "etc", "tmp"] {
        std::fs::create_dir_all(root.join(name)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in ["sh", "grep", "ls", "mount", "cat", "sed", "sort"] {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/oci-programs/syscalls.c");
    let compiled =
        Command::new("cc").args(["-static", "-O1", "-o"]).arg(root.join("bin/syscalls")).arg(source).output().unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let tar = env.path("probe.tar");
    let packed = Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg(".").status().unwrap();
    assert!(packed.success());
    tar.display().to_string()
}

/// What each call came to, by its name or number.
fn calls(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once(' ')).collect()
}

#[test]
fn a_program_may_do_what_docker_lets_it_do() {
    if !needs::tools(&["cc", "busybox"]) {
        return;
    }
    let Some(docker) = Docker::shared() else { return };
    let env = TestEnv::new();
    let tar = probe(&env);
    docker.docker(["import", &tar, "probe"]).success();
    env.slipway(["import", &tar, "probe"]).success();
    let both = |flags: &[&str], program: &[&str]| {
        let arguments = [&["run", "--rm", "--network", "none"], flags, &["probe"], program].concat();
        (docker.docker(&arguments).success(), env.slipway(&arguments).success())
    };

    for flags in
        [&[][..], &["--cap-add", "SYS_ADMIN"], &["--cap-drop", "ALL"], &["--security-opt", "seccomp=unconfined"]]
    {
        let (theirs, ours) = both(flags, &["/bin/syscalls"]);
        let (theirs, ours) = (calls(&theirs), calls(&ours));
        assert!(theirs.len() > 450 && theirs.len() == ours.len(), "{} and {}", theirs.len(), ours.len());
        let differ = |name: &&&str| {
            let later = LATER.iter().any(|(known, _)| *known == **name);
            let unknown = name.parse::<u32>().is_ok_and(|number| number >= FIRST_UNKNOWN);
            ours[**name] != theirs[**name] && !later && !unknown
        };
        let different: Vec<_> =
            theirs.keys().filter(differ).map(|name| format!("{name}: {} {}", theirs[name], ours[name])).collect();
        assert!(different.is_empty(), "{flags:?}: call, docker, ours: {different:?}");
    }

    let status = ["grep", "-E", "^(Cap|NoNewPrivs|Seccomp:)", "/proc/self/status"];
    for flags in [
        &[][..],
        &["--security-opt", "no-new-privileges"],
        &["--user", "1000:1000"],
        &["--cap-add", "NET_ADMIN", "--cap-drop", "CHOWN"],
        &["--cap-drop", "ALL", "--cap-add", "KILL"],
        &["--security-opt", "seccomp=unconfined"],
    ] {
        let (theirs, ours) = both(flags, &status);
        assert_eq!(ours, theirs, "{flags:?}");
    }
    let devices = ["sh", "-c", "ls -l /dev | sed 's/ [A-Z][a-z][a-z] [ 0-9:]* / /'"];
    let (theirs, ours) = both(&[], &devices);
    assert_eq!(ours, theirs);
    // What docker hides and protects is hidden and protected; later ones hide more.
    let paths = [
        "sh",
        "-c",
        "cat /proc/self/mounts | grep -E ' /(proc|sys/firmware)' | sed -E 's/^[^ ]+ ([^ ]+) .*/\\1/' | sort",
    ];
    let (theirs, ours) = both(&[], &paths);
    let missing: Vec<_> = theirs.lines().filter(|path| !ours.lines().any(|other| other == *path)).collect();
    assert!(missing.is_empty(), "not hidden or protected: {missing:?}");
}
