//! Builds that come out the same anywhere and at any time, and `slipway build --verify`.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::support::{TestEnv, needs, path, run};

/// Copies a tree as a checkout on another machine would make it: with its own times, and the modes of its umask.
fn checkout(from: &Path, to: &Path, umask: u32, time: SystemTime) {
    std::fs::create_dir_all(to).expect("create a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let from = entry.expect("readable").path();
        let to = to.join(from.file_name().expect("a name"));
        if from.is_dir() {
            checkout(&from, &to, umask, time);
            continue;
        }
        std::fs::copy(&from, &to).expect("copy");
        let executable = std::fs::metadata(&from).expect("there").permissions().mode() & 0o100 != 0;
        let mode = if executable { 0o777 } else { 0o666 } & !umask;
        std::fs::set_permissions(&to, PermissionsExt::from_mode(mode)).expect("chmod");
        std::fs::File::open(&to).and_then(|file| file.set_modified(time)).expect("touch");
    }
    std::fs::set_permissions(to, PermissionsExt::from_mode(0o777 & !umask)).expect("chmod");
    std::fs::File::open(to).and_then(|folder| folder.set_modified(time)).expect("touch");
}

/// One machine: its own home, its own copy of the context, its own umask and time.
struct Machine {
    env: TestEnv,
    context: PathBuf,
    umask: &'static str,
}

impl Machine {
    /// Two that have nothing in common but the content of the context.
    fn two(context: &Path, env: fn() -> TestEnv) -> [Self; 2] {
        let times = [Duration::from_secs(1_700_000_000), Duration::from_secs(1_700_000_061)];
        [("022", 0o022, "app"), ("077", 0o077, "elsewhere/deep/app")].map(|(umask, bits, folder)| {
            let env = env();
            let to = env.path(folder);
            checkout(context, &to, bits, SystemTime::UNIX_EPOCH + times[usize::from(bits != 0o022)]);
            Self { env, context: to, umask }
        })
    }

    /// Builds with the machine's umask; gives the digest of the manifest.
    fn build(&self, flags: &[&str]) -> String {
        let metadata = self.env.path("metadata.json");
        let mut slipway = self.env.command(["build", "-q", "--metadata-file", path(&metadata)]);
        slipway.args(flags).arg(&self.context);
        let mut shell = Command::new("sh");
        shell.args(["-c", "umask $0; exec \"$@\"", self.umask]).arg(slipway.get_program()).args(slipway.get_args());
        for (name, value) in slipway.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        run(&mut shell).success();
        let json = std::fs::read(metadata).expect("written");
        let json: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
        json["containerimage.digest"].as_str().expect("a digest").to_owned()
    }
}

fn app(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/apps").join(name)
}

/// A home with Debian in it.
fn debian() -> TestEnv {
    let env = TestEnv::new();
    let tar = needs::debian_tar().expect("there, as was seen before");
    env.slipway(["import", path(&tar), "debian:bookworm"]).success();
    env
}

const STEPS: &str = "FROM busybox AS build
WORKDIR /src
COPY . .
RUN --network=none mkdir out && cp -p script out/ && echo $SOURCE_DATE_EPOCH > out/epoch
RUN --network=none find /src /bin -exec stat -c '%n %Y %a' {} + | sort > /list
FROM busybox
COPY --from=build /src /src
RUN --network=none find /src /bin -exec stat -c '%n %Y %a' {} + | sort > /list
COPY --link script /bin/
USER 33
RUN --network=none cat /etc/hosts /etc/resolv.conf > /dev/null
";

fn context(env: &TestEnv) -> PathBuf {
    let context = env.context("context", STEPS);
    let script = env.write("context/script", "#!/bin/sh\n");
    std::fs::set_permissions(script, PermissionsExt::from_mode(0o755)).expect("chmod");
    env.write("context/sub/data", "x");
    context
}

#[test]
fn two_machines_make_the_same_image_with_one_word() {
    if !needs::root() {
        return;
    }
    let [one, two] = Machine::two(&context(&TestEnv::new()), TestEnv::with_busybox);
    let flags = ["--reproducible", "-t", "app"];
    let digest = one.build(&flags);
    assert_eq!(digest, two.build(&flags));
    let epoch = ["run", "--rm", "--network=none", "app", "cat", "/src/out/epoch"];
    assert_eq!(one.env.slipway(epoch).success(), "315532800\n");
    // What differs is seen without the word.
    assert_ne!(one.build(&[]), two.build(&[]));
}

#[test]
fn two_machines_compile_the_same_application() {
    if !needs::root() || needs::debian_tar().is_none() {
        return;
    }
    let [one, two] = Machine::two(&app("hello-c"), debian).map(|machine| machine.build(&["--reproducible"]));
    assert_eq!(one, two);
}

#[test]
fn the_epoch_is_that_of_the_environment_or_of_the_commit() {
    let git = |folder: &Path, arguments: &[&str]| {
        let mut git = Command::new("git");
        git.arg("-C").arg(folder).args(["-c", "user.name=A", "-c", "user.email=a@b"]).args(arguments);
        git.envs([("GIT_COMMITTER_DATE", "1600000000 +0000"), ("GIT_CONFIG_GLOBAL", "/dev/null")]);
        run(&mut git).success();
    };
    let env = TestEnv::with_busybox();
    let context = env.context("app", "FROM busybox\nCOPY Dockerfile /a\n");
    let created = |flags: &[&str], epoch: &str| {
        let mut command = env.command(["build", "-t", "app"]);
        let ran = run(command.args(flags).arg(&context).env("SOURCE_DATE_EPOCH", epoch));
        let said = ran.stderr();
        ran.success();
        let json: serde_json::Value = serde_json::from_str(&env.slipway(["inspect", "app"]).success()).expect("JSON");
        (json[0]["Created"].as_str().expect("a time").to_owned(), said)
    };
    let (time, said) = created(&["--reproducible"], "");
    assert_eq!(time, "1980-01-01T00:00:00Z");
    assert!(said.contains("SOURCE_DATE_EPOCH=315532800, because the context is not in a git repository"), "{said}");
    assert_eq!(created(&["--reproducible"], "1000000000").0, "2001-09-09T01:46:40Z");
    assert_eq!(created(&["--build-arg", "SOURCE_DATE_EPOCH=5"], "1000000000").0, "1970-01-01T00:00:05Z");
    if !needs::tools(&["git"]) {
        return;
    }
    git(&context, &["init", "-q"]);
    git(&context, &["add", "."]);
    git(&context, &["commit", "-q", "-m", "x"]);
    let (time, said) = created(&["--reproducible"], "");
    assert_eq!(time, "2020-09-13T12:26:40Z");
    assert!(said.contains("SOURCE_DATE_EPOCH=1600000000, the time of the context's commit "), "{said}");
    // A repository that cannot be read is told: a guess would give another image.
    std::fs::remove_dir_all(context.join(".git/objects")).expect("removed");
    let stderr = env.slipway(["build", "--reproducible", path(&context)]).failure(1);
    assert!(stderr.contains("does not have its commit") && stderr.contains("set SOURCE_DATE_EPOCH"), "{stderr}");
    let mut command = env.command(["build", path(&context)]);
    let stderr = run(command.env("SOURCE_DATE_EPOCH", "yesterday")).failure(1);
    assert!(stderr.contains("SOURCE_DATE_EPOCH `yesterday` is not a number of seconds"), "{stderr}");
}

#[test]
fn the_modes_of_git_keep_the_umask_out() {
    let [one, two] = Machine::two(&context(&TestEnv::new()), TestEnv::new);
    for machine in [&one, &two] {
        machine.env.write(
            &format!("{}/Dockerfile", machine.context.strip_prefix(machine.env.path("")).expect("in it").display()),
            "FROM scratch\nCOPY . /app\n",
        );
    }
    let list = |machine: &Machine, mode: &str| {
        let tar = machine.env.path("files.tar");
        let output = format!("type=tar,dest={}", path(&tar));
        machine.env.slipway(["build", mode, "-o", &output, path(&machine.context)]).success();
        let listed = run(Command::new("tar").arg("-tvf").arg(&tar)).success();
        listed
            .lines()
            .map(|line| format!("{} {}", &line[..10], line.rsplit(' ').next().unwrap_or("")))
            .collect::<Vec<_>>()
    };
    assert_eq!(list(&one, "--context-modes=git"), list(&two, "--context-modes=git"));
    assert!(list(&two, "--context-modes=git").contains(&"-rwxr-xr-x app/script".to_owned()));
    assert!(list(&two, "--context-modes=keep").contains(&"-rwx------ app/script".to_owned()));
    let stderr = two.env.slipway(["build", "--context-modes=svn", path(&two.context)]).failure(2);
    assert!(stderr.contains("neither `keep` nor `git`"), "{stderr}");
}

#[test]
fn a_build_that_is_fully_cached_gives_the_identical_image() {
    if !needs::root() {
        return;
    }
    let env = TestEnv::with_busybox();
    let context = env.context("app", "FROM busybox\nWORKDIR /w\nCOPY . .\nRUN --network=none date > /now\nENV A=1\n");
    let metadata = env.path("metadata.json");
    let build = || {
        env.slipway(["build", "-q", "--metadata-file", path(&metadata), path(&context)]).success();
        let text = std::fs::read_to_string(&metadata).expect("written");
        let mut metadata: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        // The one member that names the build and not the image.
        assert!(metadata.as_object_mut().is_some_and(|members| members.remove("buildx.build.ref").is_some()));
        metadata
    };
    let first = build();
    // Neither another time of the clock nor of the files matters.
    let later = SystemTime::now() + Duration::from_secs(60);
    std::fs::File::open(context.join("Dockerfile")).and_then(|file| file.set_modified(later)).expect("touch");
    assert_eq!(first, build());
}

#[test]
fn verify_names_the_files_that_differ_and_how() {
    if !needs::root() {
        return;
    }
    let env = TestEnv::with_busybox();
    let dockerfile = "FROM busybox AS build\nRUN --network=none date +%s%N > /stamp; mkdir -p /var/log; date +%s%N > /var/log/x.log\n\
                      RUN --network=none echo same > /same\n\
                      FROM busybox\nCOPY --from=build \\\n  /stamp /stamp\nCOPY --from=build /same /same\n\
                      RUN --network=none --mount=type=cache,target=/c cat /c/before; date +%s%N > /c/before; touch /n.$(cut -c1-8 /proc/sys/kernel/random/uuid)\n";
    let context = env.context("app", dockerfile);
    // What lies in a cache of normal builds neither matters to the verification, nor does it change.
    env.slipway(["build", "-q", path(&context)]).success();
    let verify = env.slipway(["build", "--verify", "-t", "app", path(&context)]);
    let (told, stderr) = (verify.stdout(), verify.stderr());
    assert_eq!(verify.code(), 1, "{told}{stderr}");
    assert!(
        stderr.contains("error: the image is not reproducible: 1 step made 2 files differently; 2 steps after that"),
        "{stderr}"
    );
    let lines: Vec<&str> = told.lines().collect();
    assert!(lines[0].contains("Dockerfile:2: [build 2/3] RUN"), "{told}");
    assert!(lines[1].starts_with("  /stamp: content from byte "), "{told}");
    assert!(lines[2].starts_with("  /var/log/x.log: content from byte "), "{told}");
    assert!(lines[3].starts_with("  hint: /var/log/x.log: logs tell the time"), "{told}");
    assert!(lines[4].contains("Dockerfile:5-6: [stage-1 2/4] COPY"), "{told}");
    assert!(lines[5].starts_with("  perhaps only because of [build 2/3] RUN"), "{told}");
    assert!(lines[6].starts_with("  /stamp: content"), "{told}");
    assert!(told.contains(": made by the first build only\n") && told.contains(": made by the second build only\n"));
    assert!(lines.last().expect("a line").starts_with("different: sha256:"), "{told}");
    assert!(!told.contains("/same"), "{told}");
    assert!(env.slipway(["inspect", "app"]).code() != 0, "what differs gets no name");
    // The normal cache is as it was.
    let cached = env.slipway(["build", path(&context)]);
    assert_eq!(cached.stderr().matches("CACHED").count(), 5, "{}", cached.stderr());

    let json = env.slipway(["build", "--verify=json", path(&context)]).stdout();
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((json["reproducible"].as_bool(), json["epoch"].as_i64()), (Some(false), Some(315_532_800)));
    let step = &json["steps"][0];
    assert_eq!((step["lines"][0].as_i64(), step["files"][0]["path"].as_str()), (Some(2), Some("/stamp")));
    assert_eq!(step["files"][0]["changes"][0]["what"], "content");
    assert!(json["steps"][1]["follows"][0].as_str().expect("a step").starts_with("[build 2/3] RUN"), "{json}");
}

#[test]
fn verify_names_what_a_package_manager_leaves() {
    if !needs::root() || needs::debian_tar().is_none() {
        return;
    }
    let verify = debian().slipway(["build", "--verify", path(&app("nginx-site"))]);
    let (told, stderr) = (verify.stdout(), verify.stderr());
    assert_eq!(verify.code(), 1, "{told}{stderr}");
    for file in ["/var/cache/ldconfig/aux-cache", "/var/log/apt/history.log", "/var/log/dpkg.log"] {
        assert!(told.contains(&format!("\n  {file}: content from byte ")), "{file}: {told}");
    }
    assert!(told.contains("  hint: /var/log/"), "{told}");
    let mut others = told.lines().filter(|line| line.starts_with("  /") && !line.starts_with("  /var/"));
    assert_eq!(others.next(), None, "{told}");
}

#[test]
fn verify_says_when_two_builds_are_identical_and_keeps_what_has_a_name() {
    if !needs::root() {
        return;
    }
    let env = TestEnv::with_busybox();
    let dockerfile = "FROM busybox AS build\nRUN --network=none date +%s%N > /stamp && echo same > /same\n\
                      FROM busybox\nCOPY --from=build /same /same\nRUN --network=none touch /now\n";
    let context = env.context("app", dockerfile);
    let told = env.slipway(["build", "--verify", path(&context)]).success();
    assert!(told.contains("  /stamp: content") && told.contains("identical: sha256:"), "{told}");
    assert!(told.contains("What differs stays in other stages"), "{told}");
    assert_eq!(env.slipway(["images", "-q"]).success().lines().count(), 1, "nothing is kept without a name");
    let metadata = env.path("metadata.json");
    let flags = ["--metadata-file", path(&metadata), path(&context)];
    env.slipway(["build", "--verify", "-t", "app"].into_iter().chain(flags)).success();
    let digest = || {
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&metadata).expect("written")).expect("JSON");
        json["containerimage.digest"].as_str().expect("a digest").to_owned()
    };
    let verified = digest();
    assert!(told.contains(&verified), "{told} {verified}");
    assert_eq!(env.slipway(["run", "--rm", "--network=none", "app", "cat", "/same"]).success(), "same\n");
    // It is the image that a normal build makes.
    env.slipway(["build", "--reproducible", "-t", "app"].into_iter().chain(flags)).success();
    assert_eq!(digest(), verified);
    // A build that fails is told as ever.
    let broken = env.context("broken", "FROM busybox\nRUN --network=none exit 3\n");
    let stderr = env.slipway(["build", "--verify", "--explain", path(&broken)]).failure(2);
    assert!(stderr.contains("cannot be used with"), "what would do nothing is refused: {stderr}");
    let stderr = env.slipway(["build", "--verify", path(&broken)]).failure(1);
    assert!(stderr.contains("exit code: 3") && stderr.contains("Dockerfile:2"), "{stderr}");
}
