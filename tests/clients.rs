//! Our registry, archives and images with other people's programs: skopeo, podman, docker, buildah, containerd's
//! ctr, docker-registry.

#![expect(clippy::disallowed_methods, reason = "tests start programs and write fixtures")]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::support::{Ran, Registry, TestEnv, eventually, needs, path, run, terminate};

/// A context whose image has files that are hard to carry, and lists them.
const ODD_FILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/images/odd-files");

/// What the image of [`ODD_FILES`] lists, whoever built it and whoever runs it.
const EXPECTED_ODD_FILES: &str = include_str!("../testdata/images/odd-files/expected");

// ---- skopeo

#[test]
fn skopeo_copies_to_folders_and_back() {
    if !needs::root() || !needs::tools(&["skopeo"]) {
        return;
    }
    let env = TestEnv::with_busybox();
    let registry = env.registry();
    let app = push_app(&env, &registry);
    let digest = digest(&env, &app);
    for transport in ["oci", "dir"] {
        let folder = format!("{transport}:{}", path(&env.path(transport)));
        let folder = if transport == "oci" { format!("{folder}:app") } else { folder };
        let back = format!("{}/back/{transport}:1", registry.address);
        copy(&env, &docker(&app), &folder);
        copy(&env, &folder, &docker(&back));
        assert_eq!(self::digest(&env, &back), digest, "{transport}");
        assert_eq!(runs_elsewhere(&env, &back), told("ours", "", "argument"), "{transport}");
    }
}

#[test]
fn skopeo_copies_between_our_registry_and_debians() {
    if !needs::root() || !needs::tools(&["skopeo", "docker-registry"]) {
        return;
    }
    let env = TestEnv::with_busybox();
    let registry = env.registry();
    let debians = DebiansRegistry::start(&env);
    let app = push_app(&env, &registry);
    let there = format!("{}/team/app:1", debians.address);
    let back = format!("{}/team/app:1", registry.address);
    copy(&env, &docker(&app), &docker(&there));
    copy(&env, &docker(&there), &docker(&back));
    assert_eq!(digest(&env, &there), digest(&env, &app));
    assert_eq!(digest(&env, &back), digest(&env, &app));
    assert_eq!(runs_elsewhere(&env, &there), told("ours", "", "argument"));

    // Our client and Debian's registry, without anybody between them.
    let pushed = format!("{}/pushed:1", debians.address);
    env.slipway(["tag", "app", &pushed]).success();
    env.slipway(["push", &pushed]).success();
    assert_eq!(digest(&env, &pushed), digest(&env, &app));
}

#[test]
fn skopeo_recompresses_and_we_run_it() {
    if !needs::root() || !needs::tools(&["skopeo"]) {
        return;
    }
    let env = TestEnv::with_busybox();
    let registry = env.registry();
    let app = push_app(&env, &registry);
    for (name, options) in [
        ("zstd", ["--format=oci", "--dest-compress", "--dest-compress-format=zstd"].as_slice()),
        ("v2s2", ["--format=v2s2"].as_slice()),
    ] {
        let converted = format!("{}/{name}:1", registry.address);
        // Through a folder, because registries are asked for the blob as it is before anything is recompressed.
        let folder = format!("dir:{}", path(&env.path(name)));
        skopeo(&env, ["copy", "--src-tls-verify=false"].iter().chain(options).chain(&[docker(&app).as_str(), &folder]))
            .success();
        copy(&env, &folder, &docker(&converted));
        assert_eq!(runs_elsewhere(&env, &converted), told("ours", "", "argument"), "{name}");
    }
}

#[test]
fn skopeo_inspects_lists_and_deletes() {
    if !needs::root() || !needs::tools(&["skopeo"]) {
        return;
    }
    let env = TestEnv::with_busybox();
    let registry = env.registry();
    let app = push_app(&env, &registry);
    let repository = app.strip_suffix(":1").expect("a tag");
    let other = push(&env, "busybox", &format!("{repository}:base"));

    let inspect = skopeo(&env, ["inspect", "--tls-verify=false", &docker(&app)]).success();
    assert!(inspect.contains("\"WHO=world\""), "{inspect}");
    let config = skopeo(&env, ["inspect", "--config", "--tls-verify=false", &docker(&app)]).success();
    assert!(config.contains("\"User\": \"www-data\""), "{config}");

    let tags = || skopeo(&env, ["list-tags", "--tls-verify=false", &docker(repository)]).success();
    assert!(tags().contains("\"1\",") && tags().contains("\"base\""), "{}", tags());
    skopeo(&env, ["delete", "--tls-verify=false", &docker(&app)]).success();
    assert!(!tags().contains("\"1\"") && tags().contains("\"base\""), "{}", tags());
    let gone = skopeo(&env, ["inspect", "--tls-verify=false", &docker(&app)]).failure(1);
    assert!(gone.contains("manifest unknown"), "{gone}");
    assert_eq!(run(elsewhere(&env).args(["pull", &app])).code(), 1);
    run(elsewhere(&env).args(["pull", &other])).success();
}

#[test]
fn skopeo_reads_what_build_writes() {
    if !needs::root() || !needs::tools(&["skopeo"]) {
        return;
    }
    let env = TestEnv::with_busybox();
    let registry = env.registry();
    let context = app_context(&env);
    for kind in ["oci", "docker"] {
        let tar = env.path(&format!("{kind}.tar"));
        let output = format!("type={kind},dest={}", path(&tar));
        env.slipway(["build", "--network", "none", "-t", "app", "-o", &output, path(&context)]).success();
        let sent = format!("{}/{kind}:1", registry.address);
        copy(&env, &format!("{kind}-archive:{}", path(&tar)), &docker(&sent));
        assert_eq!(runs_elsewhere(&env, &sent), told("ours", "", "argument"), "{kind}");
    }
}

// ---- podman and buildah

#[test]
fn podman_runs_what_we_built_and_we_run_what_podman_built() {
    if !needs::root() || !needs::tools(&["podman", "runc", "conmon"]) {
        return;
    }
    let env = TestEnv::with_busybox();
    let registry = env.registry();
    let app = push_app(&env, &registry);
    let podman = Containers::new(&env);
    podman.podman(["pull", "--tls-verify=false", &app]).success();
    assert_eq!(podman.run(&app), told("ours", "", "argument"));

    let built = format!("{}/podman:1", registry.address);
    let context = env.context("podman", &derived_dockerfile(&app, "podman"));
    podman.podman(["build", "--network=none", "-t", &built, path(&context)]).success();
    podman.podman(["push", "--tls-verify=false", &built]).success();
    assert_eq!(runs_elsewhere(&env, &built), told("podman", "tac", "derived"));
}

#[test]
fn podman_sees_the_same_odd_files() {
    if !needs::root() || !needs::tools(&["podman", "runc", "conmon"]) {
        return;
    }
    let env = TestEnv::with_busybox();
    let registry = env.registry();
    let ours = format!("{}/odd:ours", registry.address);
    env.slipway(["build", "--network", "none", "-t", &ours, ODD_FILES]).success();
    env.slipway(["push", &ours]).success();
    let base = push(&env, "busybox", &format!("{}/busybox:1", registry.address));
    let podman = Containers::new(&env);
    podman.podman(["pull", "--tls-verify=false", &ours]).success();
    assert_same_lines(&podman.run(&ours), EXPECTED_ODD_FILES);

    let theirs = format!("{}/odd:podman", registry.address);
    let argument = format!("BASE={base}");
    let build = ["build", "--tls-verify=false", "--network=none", "--build-arg", &argument, "-t", &theirs, ODD_FILES];
    podman.podman(build).success();
    podman.podman(["push", "--tls-verify=false", &theirs]).success();
    assert_same_lines(&runs_elsewhere(&env, &theirs), EXPECTED_ODD_FILES);
}

#[test]
fn podman_and_slipway_read_each_others_archives() {
    if !needs::root() || !needs::tools(&["podman", "runc", "conmon"]) {
        return;
    }
    let env = TestEnv::with_busybox();
    build_app(&env);
    let podman = Containers::new(&env);
    let saved = env.path("saved.tar");
    env.slipway(["save", "-o", path(&saved), "app"]).success();
    let loaded = podman.podman(["load", "-i", path(&saved)]).success();
    assert!(loaded.contains("docker.io/library/app:latest"), "{loaded}");
    assert_eq!(podman.run("docker.io/library/app:latest"), told("ours", "", "argument"));

    let context = env.context("podman", &derived_dockerfile("docker.io/library/app:latest", "podman"));
    podman.podman(["build", "--pull=never", "--network=none", "-t", "localhost/pod:1", path(&context)]).success();
    for format in ["docker-archive", "oci-archive"] {
        let tar = env.path(format);
        podman.podman(["save", "--format", format, "-o", path(&tar), "localhost/pod:1"]).success();
        let mut load = env.command(["load", "-i", path(&tar)]);
        let stdout = run(load.env("SLIPWAY_HOME", env.path(&format!("home-{format}")))).success();
        assert_eq!(stdout, "Loaded image: localhost/pod:1\n", "{format}");
        let mut ours = env.command(["run", "--rm", "--network", "none", "--pull", "never", "localhost/pod:1"]);
        let ran = run(ours.env("SLIPWAY_HOME", env.path(&format!("home-{format}"))));
        assert_eq!(ran.success(), told("podman", "tac", "derived"), "{format}");
    }
}

#[test]
fn buildah_pulls_commits_and_pushes() {
    if !needs::root() || !needs::tools(&["buildah", "runc"]) {
        return;
    }
    let env = TestEnv::with_busybox();
    let registry = env.registry();
    let app = push_app(&env, &registry);
    let buildah = Containers::new(&env);
    let container = buildah.buildah(["from", "--tls-verify=false", &app]).success();
    let container = container.trim();
    let change = "echo buildah > /greeting && rm -r /srv && mkdir /srv && rm /bin/tac";
    buildah.buildah(["run", "--network=none", "--user=root", container, "--", "sh", "-c", change]).success();
    buildah.buildah(["config", "--cmd", "derived", container]).success();
    let committed = format!("{}/buildah:1", registry.address);
    buildah.buildah(["commit", "--rm", container, &committed]).success();
    buildah.buildah(["push", "--tls-verify=false", &committed]).success();
    assert_eq!(runs_elsewhere(&env, &committed), told("buildah", "tac", "derived"));
}

#[test]
fn buildah_pushes_an_index_and_we_pull_our_platform() {
    if !needs::root() || !needs::tools(&["buildah", "skopeo"]) {
        return;
    }
    let env = TestEnv::with_busybox();
    let registry = env.registry();
    let app = push_app(&env, &registry);
    let buildah = Containers::new(&env);
    let other = push(&env, "busybox", &format!("{}/busybox:1", registry.address));
    buildah.buildah(["manifest", "create", "list"]).success();
    for (image, architecture) in [(&other, "s390x"), (&app, "amd64")] {
        let image = docker(image);
        buildah.buildah(["manifest", "add", "--tls-verify=false", "--arch", architecture, "list", &image]).success();
    }
    let index = format!("{}/index:1", registry.address);
    buildah.buildah(["manifest", "push", "--tls-verify=false", "--all", "list", &docker(&index)]).success();
    assert_eq!(runs_elsewhere(&env, &index), told("ours", "", "argument"));
    let back = format!("{}/index:2", registry.address);
    let options = ["copy", "--all", "--src-tls-verify=false", "--dest-tls-verify=false"];
    skopeo(&env, options.iter().chain(&[docker(&index).as_str(), &docker(&back)])).success();
    assert_eq!(digest(&env, &back), digest(&env, &index));
}

// ---- docker

#[test]
fn docker_runs_what_we_built_and_we_run_what_docker_built() {
    let Some(docker) = Docker::shared() else { return };
    let env = TestEnv::with_busybox();
    let registry = env.registry();
    let app = push_app(&env, &registry);
    let pulled = docker.docker(["pull", &app]).success();
    assert!(pulled.contains(&digest(&env, &app)), "{pulled}");
    assert_eq!(docker.run(&app), told("ours", "", "argument"));

    let built = format!("{}/docker:1", registry.address);
    let context = env.context("docker-context", &derived_dockerfile(&app, "docker"));
    docker.docker(["build", "--network=host", "-t", &built, path(&context)]).success();
    let pushed = docker.docker(["push", &built]).success();
    // What the image shares with ours is mounted from our repository, not sent again.
    assert!(pushed.contains("Mounted from app"), "{pushed}");
    assert_eq!(runs_elsewhere(&env, &built), told("docker", "tac", "derived"));
}

#[test]
fn docker_sees_the_same_odd_files() {
    let Some(docker) = Docker::shared() else { return };
    let env = TestEnv::with_busybox();
    let registry = env.registry();
    let ours = format!("{}/odd:ours", registry.address);
    env.slipway(["build", "--network", "none", "-t", &ours, ODD_FILES]).success();
    // Where it was built, and where it was unpacked.
    let ran = env.slipway(["run", "--rm", "--network", "none", &ours]).success();
    assert_same_lines(&ran, EXPECTED_ODD_FILES);
    env.slipway(["push", &ours]).success();
    assert_same_lines(&runs_elsewhere(&env, &ours), EXPECTED_ODD_FILES);
    docker.docker(["pull", "-q", &ours]).success();
    assert_same_lines(&docker.run(&ours), EXPECTED_ODD_FILES);

    let base = push(&env, "busybox", &format!("{}/busybox:1", registry.address));
    let theirs = format!("{}/odd:docker", registry.address);
    let argument = format!("BASE={base}");
    docker.docker(["build", "--network=host", "--build-arg", &argument, "-t", &theirs, ODD_FILES]).success();
    docker.docker(["push", "-q", &theirs]).success();
    assert_same_lines(&docker.run(&theirs), EXPECTED_ODD_FILES);
    assert_same_lines(&runs_elsewhere(&env, &theirs), EXPECTED_ODD_FILES);
}

#[test]
fn docker_and_slipway_read_each_others_archives() {
    let Some(docker) = Docker::shared() else { return };
    let env = TestEnv::with_busybox();
    build_app(&env);
    // The daemon is shared, so the name is this test's own.
    env.slipway(["tag", "app", "archived:1"]).success();
    let saved = env.path("saved.tar");
    env.slipway(["save", "-o", path(&saved), "archived:1"]).success();
    assert_eq!(docker.docker(["load", "-q", "-i", path(&saved)]).success(), "Loaded image: archived:1\n");
    assert_eq!(docker.run("archived:1"), told("ours", "", "argument"));

    let context = env.context("docker-context", &derived_dockerfile("archived:1", "docker"));
    docker.docker(["build", "--network=host", "-t", "archived:2", path(&context)]).success();
    let theirs = env.path("theirs.tar");
    docker.docker(["save", "-o", path(&theirs), "archived:1", "archived:2"]).success();
    let loaded = run(elsewhere(&env).args(["load", "-i", path(&theirs)])).success();
    // Docker writes them in any order.
    let mut loaded: Vec<&str> = loaded.lines().collect();
    loaded.sort_unstable();
    assert_eq!(loaded, ["Loaded image: archived:1", "Loaded image: archived:2"]);
    for (name, expected) in
        [("archived:1", told("ours", "", "argument")), ("archived:2", told("docker", "tac", "derived"))]
    {
        let ran = run(elsewhere(&env).args(["run", "--rm", "--network", "none", "--pull", "never", name]));
        assert_eq!(ran.success(), expected, "{name}");
    }
}

// ---- containerd

#[test]
fn containerd_pulls_and_pushes_back() {
    let Some(docker) = Docker::shared() else { return };
    if !needs::tools(&["ctr"]) {
        return;
    }
    let env = TestEnv::with_busybox();
    let registry = env.registry();
    let app = push_app(&env, &registry);
    let back = format!("{}/back/ctr:1", registry.address);
    let ctr = |arguments: &[&str]| {
        let mut command = client(&env, "ctr");
        command.arg("--address").arg(docker.env.path("docker-exec/containerd/containerd.sock"));
        run(command.args(["--namespace", "slipway-test"]).args(arguments)).success()
    };
    ctr(&["images", "pull", "--plain-http", &app]);
    ctr(&["images", "tag", &app, &back]);
    ctr(&["images", "push", "--plain-http", &back]);
    assert_eq!(digest(&env, &back), digest(&env, &app));
    assert_eq!(runs_elsewhere(&env, &back), told("ours", "", "argument"));
    ctr(&["images", "remove", "--sync", &app, &back]);
}

// ---- what needs no peer, or just curl

#[test]
fn two_builds_on_two_stores_give_one_digest() {
    if !needs::root() {
        return;
    }
    let (one, two) = (TestEnv::new(), TestEnv::new());
    let context = one.context("context", "FROM scratch\nCOPY files /files\nENV A=b\nCOPY --chown=7:8 files/a /\n");
    one.write("context/files/a", "a");
    one.write("context/files/deep/b", vec![b'b'; 100_000]);
    std::os::unix::fs::symlink("deep/b", context.join("files/link")).unwrap();
    std::fs::hard_link(context.join("files/a"), context.join("files/hardlink")).unwrap();
    let mode = |name: &str, mode| {
        std::fs::set_permissions(context.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("files", 0o755);
    mode("files/deep", 0o700);
    mode("files/a", 0o4755);
    mode("files/deep/b", 0o640);
    let touch = "find context -exec touch -h -d 2020-02-02T02:02:02.123456789Z {} +";
    run(Command::new("sh").args(["-c", touch]).current_dir(one.path(""))).success();
    let copy = two.path("another/place");
    std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
    run(Command::new("cp").arg("-a").args([&context, &copy])).success();

    let registries = [one.registry(), two.registry()];
    let mut pushed = Vec::new();
    let mut ids = Vec::new();
    for ((env, context), registry) in [(&one, &context), (&two, &copy)].into_iter().zip(&registries) {
        let name = format!("{}/same:1", registry.address);
        ids.push(env.slipway(["build", "-q", "-t", &name, path(context)]).success());
        let stdout = env.slipway(["push", &name]).success();
        pushed.push(stdout.split_once("digest: ").expect("a digest").1.to_owned());
    }
    assert_eq!(ids[0], ids[1], "the image's ID");
    assert_eq!(pushed[0], pushed[1], "the digest and size of the manifest with compressed layers");
}

#[test]
fn curl_needs_no_more_than_the_spec_says() {
    if !needs::root() || !needs::tools(&["curl"]) {
        return;
    }
    let env = TestEnv::with_busybox();
    let registry = env.registry();
    push_app(&env, &registry);
    let curl = |arguments: &[&str], url: &str| {
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "20", "--noproxy", "*"]).args(arguments);
        run(command.arg(format!("http://{}{url}", registry.address))).success()
    };
    let status = ["-o", "/dev/null", "-w", "%{http_code}"];
    assert_eq!(curl(&status, "/v2/"), "200");
    assert_eq!(curl(&["-o", "/dev/null", "-w", "%{http_code}", "-I"], "/v2/app/manifests/1"), "200");
    assert_eq!(curl(&status, "/v2/app/manifests/2"), "404");
    assert!(curl(&[], "/v2/app/manifests/2").contains("MANIFEST_UNKNOWN"));
    assert_eq!(curl(&[], "/v2/app/tags/list"), r#"{"name":"app","tags":["1"]}"#);

    let folder = env.path("upload");
    let content = env.write("content", "from curl");
    let sum = "sha256:".to_owned() + run(Command::new("sha256sum").arg(&content)).success().split(' ').next().unwrap();
    let headers = curl(&["-D", "-", "-o", "/dev/null", "-X", "POST"], "/v2/curl/blobs/uploads/");
    let location = headers.lines().find_map(|line| line.strip_prefix("location: ")).expect("a Location").trim();
    let location = location.strip_prefix(&format!("http://{}", registry.address)).unwrap_or(location);
    let separator = if location.contains('?') { '&' } else { '?' };
    let data = format!("@{}", path(&content));
    let put = ["-o", path(&folder), "-w", "%{http_code}", "-X", "PUT", "--data-binary", &data];
    let octets = ["-H", "Content-Type: application/octet-stream"];
    assert_eq!(curl(&[put.as_slice(), &octets].concat(), &format!("{location}{separator}digest={sum}")), "201");
    assert_eq!(curl(&["-r", "5-"], &format!("/v2/curl/blobs/{sum}")), "curl");
}

// ---- what the tests share

/// Writes the context of an image whose program tells what only a right image, rightly run, would tell; see [`told`].
fn app_context(env: &TestEnv) -> PathBuf {
    env.write(
        "app/check",
        "#!/bin/sh\n\
         id -u; pwd; cat /link; echo \"hello $WHO $*\"; stat -c '%a %U' /usr/bin/check /sticky | tr '\\n' ' '; echo\n\
         for name in home/old bin/yes bin/tac; do test -e /$name || echo no $name; done\n",
    );
    let check = env.path("app/check");
    std::fs::set_permissions(check, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    env.context(
        "app",
        "FROM busybox\n\
         RUN touch /home/old\n\
         RUN rm -r /home && mkdir /home && rm /bin/yes && mkdir -m 1777 /sticky\n\
         RUN echo ours > /greeting && ln -s greeting /link\n\
         ENV WHO=world\n\
         WORKDIR /srv\n\
         COPY --chown=www-data:www-data check /usr/bin/check\n\
         USER www-data\n\
         ENTRYPOINT [\"check\"]\n\
         CMD [\"argument\"]\n",
    )
}

/// Returns what the image of [`app_context`], or one derived from it, tells.
fn told(greeting: &str, lacks: &str, argument: &str) -> String {
    let lacks = if lacks.is_empty() { String::new() } else { format!("no bin/{lacks}\n") };
    format!("33\n/srv\n{greeting}\nhello world {argument}\n755 www-data 1777 root \nno home/old\nno bin/yes\n{lacks}")
}

/// Returns a Dockerfile that changes, replaces and removes files of the app's image.
fn derived_dockerfile(base: &str, who: &str) -> String {
    format!(
        "FROM {base}\n\
         USER root\n\
         RUN echo {who} > /greeting && rm -r /srv && mkdir /srv && rm /bin/tac\n\
         USER www-data\n\
         CMD [\"derived\"]\n"
    )
}

/// Asserts that two listings are the same; shows only the lines in which they differ.
#[track_caller]
fn assert_same_lines(actual: &str, expected: &str) {
    let lines = |text: &str, other: &str| -> Vec<String> {
        let other: Vec<&str> = other.lines().collect();
        text.lines().filter(|line| !other.contains(line)).map(str::to_owned).collect()
    };
    assert_eq!(lines(actual, expected), lines(expected, actual), "the lines that only one of them has");
    assert_eq!(actual.lines().count(), expected.lines().count());
}

/// Builds [`app_context`] as `app`.
fn build_app(env: &TestEnv) {
    let context = app_context(env);
    env.slipway(["build", "--network", "none", "-t", "app", path(&context)]).success();
}

/// Builds `app` and pushes it; gives its name on the registry.
fn push_app(env: &TestEnv, registry: &Registry) -> String {
    build_app(env);
    push(env, "app", &format!("{}/app:1", registry.address))
}

/// Pushes an image under a name; gives that name.
fn push(env: &TestEnv, image: &str, name: &str) -> String {
    env.slipway(["tag", image, name]).success();
    env.slipway(["push", name]).success();
    name.to_owned()
}

/// Prepares `slipway` with a second store, which has nothing but what the test gives it.
fn elsewhere(env: &TestEnv) -> Command {
    let mut command = env.command([] as [&str; 0]);
    command.env("SLIPWAY_HOME", env.path("elsewhere"));
    command
}

/// Pulls an image into the second store and runs it; gives what it tells.
fn runs_elsewhere(env: &TestEnv, image: &str) -> String {
    run(elsewhere(env).args(["pull", image])).success();
    run(elsewhere(env).args(["run", "--rm", "--network", "none", "--pull", "never", image])).success()
}

/// Returns a reference as skopeo and buildah spell it.
fn docker(reference: &str) -> String {
    format!("docker://{reference}")
}

/// Prepares somebody else's program with nothing of the caller's settings.
fn client(env: &TestEnv, program: &str) -> Command {
    let mut command = Command::new(program);
    let temporary = env.path("tmp");
    std::fs::create_dir_all(&temporary).expect("create a folder");
    command.stdin(Stdio::null()).env("HOME", env.path("")).env("TMPDIR", temporary);
    for name in ["REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "CONTAINER_HOST"] {
        command.env_remove(name);
    }
    for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"] {
        command.env_remove(name);
    }
    command
}

/// Runs skopeo.
fn skopeo<I: IntoIterator<Item: AsRef<OsStr>>>(env: &TestEnv, arguments: I) -> Ran {
    run(client(env, "skopeo").arg("--insecure-policy").args(arguments))
}

/// Copies an image with skopeo.
fn copy(env: &TestEnv, from: &str, to: &str) {
    skopeo(env, ["copy", "--src-tls-verify=false", "--dest-tls-verify=false", from, to]).success();
}

/// Returns the digest of what a registry has under a name.
fn digest(env: &TestEnv, image: &str) -> String {
    let stdout = skopeo(env, ["inspect", "--raw", "--tls-verify=false", &docker(image)]).success();
    let manifest = env.write("manifest.json", stdout);
    skopeo(env, ["manifest-digest", path(&manifest)]).success().trim().to_owned()
}

/// Debian's docker-registry on a free port; it ends with the test.
struct DebiansRegistry {
    child: Child,
    address: String,
}

impl DebiansRegistry {
    fn start(env: &TestEnv) -> Self {
        let config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\n\
             http: {{addr: \"127.0.0.1:0\"}}\n",
            path(&env.path("debians")),
        );
        let config = env.write("debians.yml", config);
        let mut command = client(env, "docker-registry");
        command.args(["serve", path(&config)]).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("start docker-registry");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
        let listening = lines.find_map(|line| {
            let address = line.split_once("listening on ")?.1;
            Some(address.chars().take_while(|c| c.is_ascii_digit() || matches!(c, '.' | ':')).collect())
        });
        // Reads to the end, so that the registry never blocks on a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let address = listening.expect("docker-registry tells its address");
        Self { child, address }
    }
}

impl Drop for DebiansRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A storage of their own for podman and buildah; unmounted when dropped.
struct Containers<'a> {
    env: &'a TestEnv,
    config: PathBuf,
}

impl<'a> Containers<'a> {
    fn new(env: &'a TestEnv) -> Self {
        // The default limits are higher than what a machine without CAP_SYS_RESOURCE may set.
        let config = format!(
            "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\nnetns = \"none\"\n\
             [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\nlock_type = \"file\"\n\
             runtime = \"runc\"\ntmp_dir = \"{}\"\n",
            path(&env.path("containers/tmp")),
        );
        Self { env, config: env.write("containers.conf", config) }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = client(self.env, program);
        command.env("CONTAINERS_CONF", &self.config).env("BUILDAH_RUNTIME", "/usr/sbin/runc");
        command.arg("--root").arg(self.env.path("containers/root"));
        command.arg("--runroot").arg(self.env.path("containers/run"));
        command.args(["--storage-driver", "overlay"]);
        command
    }

    fn podman<I: IntoIterator<Item: AsRef<OsStr>>>(&self, arguments: I) -> Ran {
        run(self.command("podman").args(arguments))
    }

    fn buildah<I: IntoIterator<Item: AsRef<OsStr>>>(&self, arguments: I) -> Ran {
        run(self.command("buildah").args(arguments))
    }

    fn run(&self, image: &str) -> String {
        self.podman(["run", "--rm", "--pull=never", "--network=none", image]).success()
    }
}

impl Drop for Containers<'_> {
    fn drop(&mut self) {
        for mount in mounts_below(&self.env.path("containers")) {
            let _ = rustix::mount::unmount(&mount, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// Debian's dockerd with everything it has in a folder of its own, and no hand on the machine's network.
pub struct Docker {
    env: TestEnv,
    child: Child,
}

impl Docker {
    /// Returns the daemon that the tests share, or `None` to skip. It ends with its last user.
    pub fn shared() -> Option<Arc<Self>> {
        static SHARED: Mutex<Weak<Docker>> = Mutex::new(Weak::new());
        if !needs::root() || !needs::tools(&["dockerd", "docker", "containerd", "runc"]) {
            return None;
        }
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        Some(shared.upgrade().unwrap_or_else(|| {
            let docker = Arc::new(Self::start());
            *shared = Arc::downgrade(&docker);
            docker
        }))
    }

    fn start() -> Self {
        let env = TestEnv::new();
        let log = std::fs::File::create(env.path("dockerd.log")).expect("create a log");
        let mut command = client(&env, "unshare");
        // What other tests mount and unmount is none of its business.
        command.args(["--mount", "--propagation=private", "/usr/sbin/dockerd"]);
        command.arg("--data-root").arg(env.path("docker-data"));
        command.arg("--exec-root").arg(env.path("docker-exec"));
        command.arg("--pidfile").arg(env.path("docker.pid"));
        command.arg("--config-file").arg(env.write("daemon.json", "{}"));
        command.arg("--host").arg(format!("unix://{}", path(&env.path("docker.sock"))));
        command.args(["--iptables=false", "--ip6tables=false", "--bridge=none", "--insecure-registry=127.0.0.0/8"]);
        let child = command.stdout(log.try_clone().expect("a log")).stderr(log).spawn().expect("start dockerd");
        let mut docker = Self { env, child };
        eventually(60, "dockerd answers", || {
            let ended = docker.child.try_wait().expect("wait for dockerd");
            assert!(ended.is_none(), "dockerd ended: {}", docker.log());
            docker.docker(["version"]).code() == 0
        });
        docker
    }

    fn log(&self) -> String {
        let log = std::fs::read_to_string(self.env.path("dockerd.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Runs Debian's docker client; another one may come first on the path.
    pub fn docker<I: IntoIterator<Item: AsRef<OsStr>>>(&self, arguments: I) -> Ran {
        let mut command = client(&self.env, "/usr/bin/docker");
        command.env("DOCKER_HOST", format!("unix://{}", path(&self.env.path("docker.sock"))));
        command.env("DOCKER_BUILDKIT", "1").env("DOCKER_CONFIG", self.env.path("docker"));
        command.env_remove("DOCKER_CONTEXT");
        run(command.args(arguments))
    }

    fn run(&self, image: &str) -> String {
        self.docker(["run", "--rm", "--pull=never", "--network=none", image]).success()
    }
}

impl Drop for Docker {
    /// Stops the daemon, and sees that its containerd and its mounts went with it.
    fn drop(&mut self) {
        terminate(self.child.id());
        let _ = self.child.wait();
        let folder = self.env.path("docker-");
        let ours = |command: &[u8]| command.windows(path(&folder).len()).any(|part| part == path(&folder).as_bytes());
        let left = || {
            let processes = std::fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
            processes
                .filter(|process| std::fs::read(process.path().join("cmdline")).is_ok_and(|line| ours(&line)))
                .count()
        };
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while left() > 0 && std::time::Instant::now() < end {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let (processes, mounts) = (left(), mounts_below(&self.env.path("")));
        for mount in &mounts {
            let _ = rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH);
        }
        if !std::thread::panicking() {
            assert_eq!((processes, mounts), (0, Vec::new()), "dockerd left something behind: {}", self.log());
        }
    }
}

/// Returns what is mounted below a folder, the innermost first.
fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("/proc");
    let targets = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut below: Vec<PathBuf> = targets.filter(|target| target.starts_with(folder)).collect();
    below.reverse();
    below
}
