//! `slipway build --cache-to` and `--cache-from`: a build cache that travels.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::{Ran, TestEnv, needs, path, run};

/// Runs `slipway build` in a home of its own.
fn build(env: &TestEnv, home: &str, arguments: &[&str]) -> Ran {
    run(&mut build_command(env, home, arguments))
}

fn build_command(env: &TestEnv, home: &str, arguments: &[&str]) -> Command {
    let mut command = env.command(["build", "--progress", "plain"]);
    command.args(arguments).env("SLIPWAY_HOME", env.path(home));
    command
}

/// Counts the steps that were found.
fn cached(stderr: &str) -> usize {
    stderr.lines().filter(|line| line.starts_with('#') && line.ends_with(" CACHED")).count()
}

/// Lists the sizes of a home's blobs.
fn blob_sizes(home: &Path) -> Vec<u64> {
    let mut sizes = Vec::new();
    let mut open = vec![home.join("blobs")];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = std::fs::metadata(&path).unwrap();
            if metadata.is_dir() { open.push(path) } else { sizes.push(metadata.len()) }
        }
    }
    sizes
}

/// The blobs of an OCI layout.
fn layout_blobs(layout: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(layout.join("blobs/sha256")).unwrap();
    let mut blobs: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    blobs.sort();
    blobs
}

const TWO_COPIES: &str = "FROM scratch\nWORKDIR /app\nCOPY a /app/\nCOPY b /app/\n";

/// Lays out a context in a folder of its own, whose files have times and contents as told.
fn context(env: &TestEnv, name: &str, dockerfile: &str, a: &str) -> PathBuf {
    env.write(&format!("{name}/a"), a);
    env.write(&format!("{name}/b"), "b");
    env.context(name, dockerfile)
}

#[test]
fn k12_another_machine_runs_nothing_and_gets_the_identical_image() {
    if !needs::root() {
        return;
    }
    let env = TestEnv::with_busybox();
    let registry = env.registry();
    let base = format!("{}/busybox", registry.address);
    env.slipway(["tag", "busybox", &base]).success();
    env.slipway(["push", &base]).success();
    // The clock and chance are in the layers, so only a cache can bring the same ones.
    let dockerfile = format!(
        "FROM {base} AS one\nRUN cat /proc/uptime > /one\nRUN head -c 300000 /dev/urandom > /large\n\
         FROM {base}\nWORKDIR /app\nCOPY a /app/\nCOPY --from=one /one /one\nRUN cat /proc/uptime /app/a > /all\n"
    );
    let (first, second) = (context(&env, "first", &dockerfile, "a"), context(&env, "second", &dockerfile, "a"));
    let to = format!("type=registry,ref={}/cache:main,mode=max", registry.address);
    let from = format!("type=registry,ref={}/cache:main", registry.address);
    let digest = |home: &str| -> String {
        let json = std::fs::read(env.path(&format!("{home}.json"))).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        json["containerimage.digest"].as_str().unwrap().to_owned()
    };
    let metadata = |home: &str| path(&env.path(&format!("{home}.json"))).to_owned();
    let ran = build(&env, "A", &["-t", "app", "--metadata-file", &metadata("A"), "--cache-to", &to, path(&first)]);
    assert_eq!(cached(&ran.stderr()), 0, "{}", ran.stderr());
    ran.success();

    let mut command = build_command(
        &env,
        "B",
        &["-t", "app", "--metadata-file", &metadata("B"), "--cache-from", &from, path(&second)],
    );
    let ran = run(command.env("PATH", "/nowhere"));
    // All but the two FROMs, which are one.
    assert_eq!(cached(&ran.stderr()), 6, "{}", ran.stderr());
    ran.success();
    assert_eq!(digest("A"), digest("B"));
    // The layer of a stage that nobody read stays where it is.
    assert!(blob_sizes(&env.path("A")).iter().any(|size| (300_000..310_000).contains(size)));
    assert!(!blob_sizes(&env.path("B")).iter().any(|size| (300_000..310_000).contains(size)));

    // What reads that layer fetches it, and the rest is found as before.
    let reads = format!("{dockerfile}COPY --from=one /large /large\n");
    let third = context(&env, "third", &reads, "a");
    let ran = build(&env, "B", &["-t", "app", "--cache-from", &from, path(&third)]);
    assert_eq!(cached(&ran.stderr()), 6, "{}", ran.stderr());
    ran.success();
    assert!(blob_sizes(&env.path("B")).iter().any(|size| (300_000..310_000).contains(size)));
}

#[test]
fn k12_a_cache_in_a_folder_is_an_oci_layout_that_grows() {
    let env = TestEnv::new();
    let (one, two) = (context(&env, "one", TWO_COPIES, "1"), context(&env, "two", TWO_COPIES, "2"));
    let folder = env.path("cache");
    let (to, from) = (format!("type=local,dest={}", path(&folder)), format!("type=local,src={}", path(&folder)));
    build(&env, "A", &["--cache-to", &to, path(&one)]).success();
    let index: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1, "{index}");
    assert_eq!(index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"], "latest");
    // The second writer keeps what the first wrote, and throws nothing away that is named.
    build(&env, "B", &["--cache-to", &to, path(&two)]).success();
    for context in [&one, &two] {
        let ran = build(&env, &format!("fresh-{}", cached("")), &["--cache-from", &from, path(context)]);
        assert_eq!(cached(&ran.stderr()), 3, "{}", ran.stderr());
        ran.success();
        std::fs::remove_dir_all(env.path("fresh-0")).unwrap();
    }
    // What is all there is not written again; `reset` drops what this build does not know.
    let before = layout_blobs(&folder).len();
    build(&env, "A", &["--cache-to", &to, path(&one)]).success();
    assert_eq!(layout_blobs(&folder).len(), before);
    build(&env, "A", &["--cache-to", &format!("{to},reset=true"), path(&one)]).success();
    let ran = build(&env, "C", &["--cache-from", &from, path(&two)]);
    assert_eq!(cached(&ran.stderr()), 1, "only the folder that both make: {}", ran.stderr());
    ran.success();
    assert!(layout_blobs(&folder).len() < before);
}

#[test]
fn k12_a_damaged_cache_costs_time_and_nothing_else() {
    let env = TestEnv::new();
    let app = context(&env, "app", TWO_COPIES, "1");
    let folder = env.path("cache");
    let (to, from) = (format!("type=local,dest={}", path(&folder)), format!("type=local,src={}", path(&folder)));
    let id = build(&env, "A", &["--cache-to", &to, path(&app)]).success();
    let whole: Vec<(PathBuf, Vec<u8>)> =
        layout_blobs(&folder).into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
    for (number, (blob, bytes)) in whole.iter().enumerate() {
        match number % 3 {
            0 => std::fs::write(blob, vec![0; bytes.len()]).unwrap(),
            1 => std::fs::write(blob, "{").unwrap(),
            _ => std::fs::remove_file(blob).unwrap(),
        }
        let home = format!("home-{number}");
        let ran = build(&env, &home, &["--cache-from", &from, path(&app)]);
        assert!(ran.stderr().contains("warning"), "{}", ran.stderr());
        assert_eq!(ran.success(), id, "{}", blob.display());
        // Nothing of it stays: the next build finds what this one made.
        let ran = build(&env, &home, &[path(&app)]);
        assert_eq!(cached(&ran.stderr()), 3, "{}", ran.stderr());
        assert_eq!(ran.success(), id);
        std::fs::write(blob, bytes).unwrap();
    }
}

#[test]
fn k12_many_builders_write_one_cache_and_none_loses_anothers_steps() {
    const BUILDERS: usize = 6;
    let env = TestEnv::new();
    let registry = env.registry();
    let name = format!("{}/ci/cache:main", registry.address);
    let (to, from) = (format!("type=registry,ref={name},mode=max"), name.clone());
    let contexts: Vec<PathBuf> = (0..BUILDERS)
        .map(|number| context(&env, &format!("app-{number}"), TWO_COPIES, &format!("content {number}")))
        .collect();
    let running: Vec<_> = contexts
        .iter()
        .enumerate()
        .map(|(number, context)| {
            let mut command = build_command(&env, &format!("home-{number}"), &["--cache-to", &to, path(context)]);
            std::thread::spawn(move || run(&mut command))
        })
        .collect();
    for builder in running {
        builder.join().unwrap().success();
    }
    for (number, context) in contexts.iter().enumerate() {
        let ran = build(&env, &format!("fresh-{number}"), &["--cache-from", &from, path(context)]);
        assert_eq!(cached(&ran.stderr()), 3, "builder {number}: {}", ran.stderr());
        ran.success();
    }
}

#[test]
fn k12_a_cache_that_cannot_be_read_is_a_warning_and_one_that_cannot_be_written_an_error() {
    let env = TestEnv::new();
    let app = context(&env, "app", TWO_COPIES, "1");
    // Nobody listens there: the port is reserved.
    let nowhere = "type=registry,ref=127.0.0.1:1/cache";
    let missing = format!("type=local,src={}", path(&env.path("missing")));
    let ran = build(&env, "A", &["--cache-from", nowhere, "--cache-from", &missing, path(&app)]);
    let stderr = ran.stderr();
    ran.success();
    assert!(stderr.contains("cannot read the cache `127.0.0.1:1/cache:latest`"), "{stderr}");
    assert!(stderr.contains(&format!("there is no cache `{}` yet", path(&env.path("missing")))), "{stderr}");
    let ran = build(&env, "A", &["--cache-to", nowhere, path(&app)]);
    let stderr = ran.failure(1);
    assert!(stderr.contains("cannot write the cache to `127.0.0.1:1/cache:latest`"), "{stderr}");
    let ran = build(&env, "A", &["--cache-to", &format!("{nowhere},ignore-error=true"), path(&app)]);
    assert!(ran.stderr().contains("cannot write the cache to"), "{}", ran.stderr());
    ran.success();
    let stderr = build(&env, "A", &["--cache-to", "type=gha", path(&app)]).failure(1);
    assert!(stderr.contains("there is no cache of type `gha`"), "{stderr}");
}

#[test]
fn k11_an_image_can_be_its_own_cache() {
    let env = TestEnv::new();
    let registry = env.registry();
    let app = context(&env, "app", TWO_COPIES, "1");
    let name = format!("{}/app", registry.address);
    for (number, inline) in
        [["--cache-to", "type=inline"], ["--build-arg", "BUILDKIT_INLINE_CACHE=1"]].iter().enumerate()
    {
        let made = format!("A{number}");
        let iid = path(&env.path(&made)).to_owned() + ".iid";
        let arguments = ["-t", &name, "--push", inline[0], inline[1], "--iidfile", &iid, path(&app)];
        build(&env, &made, &arguments).success();
        let id = std::fs::read_to_string(&iid).unwrap();
        // Neither a rebuild nor another machine changes the image that holds its own records.
        build(&env, &made, &arguments).success();
        assert_eq!(std::fs::read_to_string(&iid).unwrap(), id);
        let found = format!("B{number}");
        let arguments = ["-t", "app", "--cache-from", &name, inline[0], inline[1], "--iidfile", &iid, path(&app)];
        let ran = build(&env, &found, &arguments);
        assert_eq!(cached(&ran.stderr()), 3, "{}", ran.stderr());
        ran.success();
        assert_eq!(std::fs::read_to_string(&iid).unwrap(), id);
    }
}

#[test]
fn k10_an_image_that_is_only_sent_moves_no_layer_that_the_registry_has() {
    let env = TestEnv::new();
    let registry = env.registry();
    let app = env.context("app", "FROM scratch\nCOPY large /\nCOPY Dockerfile /\n");
    // Hard to compress, so that its blobs are known by their size.
    let large: Vec<u8> = (0..100_000_u32).flat_map(|number| number.wrapping_mul(0x9E37_79B1).to_be_bytes()).collect();
    env.write("app/large", &large);
    let name = |repository: &str| format!("{}/{repository}:1", registry.address);
    let (to, from) = (format!("type=registry,ref={}", name("cache")), name("cache"));
    build(&env, "A", &["-t", &name("first"), "--push", "--cache-to", &to, path(&app)]).success();
    let ran = build(&env, "B", &["-t", &name("second"), "--push", "--cache-from", &from, path(&app)]);
    let stderr = ran.stderr();
    assert_eq!(cached(&stderr), 2, "{stderr}");
    ran.success();
    assert!(stderr.contains("is at its registry only"), "{stderr}");
    assert!(blob_sizes(&env.path("B")).iter().all(|size| *size < 100_000), "{stderr}");
    // It is the same image, whole, and whoever wants it here gets it.
    let pull = |home: &str, name: &str| run(env.command(["pull", name]).env("SLIPWAY_HOME", env.path(home))).success();
    let digest = |pulled: &str| pulled.lines().find(|line| line.starts_with("Digest:")).unwrap().to_owned();
    assert_eq!(digest(&pull("C", &name("first"))), digest(&pull("B", &name("second"))));
    let ran = build(&env, "D", &["-t", &name("third"), "--push", "--load", "--cache-from", &from, path(&app)]);
    assert!(!ran.stderr().contains("is at its registry only"), "{}", ran.stderr());
    ran.success();

    // To another registry the layers go by way of here.
    let other = TestEnv::new();
    let elsewhere = other.registry();
    let target = format!("{}/app:1", elsewhere.address);
    build(&env, "E", &["-t", &target, "--push", "--cache-from", &from, path(&app)]).success();
    assert_eq!(digest(&pull("F", &target)), digest(&pull("C", &name("first"))));
}

#[test]
fn k12_a_layer_that_is_lost_when_the_image_is_sent_is_made_again() {
    let env = TestEnv::new();
    let registry = env.registry();
    let app = context(&env, "app", TWO_COPIES, "1");
    let folder = env.path("cache");
    let (to, from) = (format!("type=local,dest={}", path(&folder)), format!("type=local,src={}", path(&folder)));
    build(&env, "A", &["--cache-to", &to, path(&app)]).success();
    for blob in layout_blobs(&folder) {
        // The layers, and not the JSON that names them.
        if std::fs::read(&blob).unwrap().starts_with(&[0x1f, 0x8b]) {
            std::fs::remove_file(blob).unwrap();
        }
    }
    let name = format!("{}/app:1", registry.address);
    let ran = build(&env, "B", &["-t", &name, "--push", "--cache-from", &from, path(&app)]);
    assert!(ran.stderr().contains("could not give"), "{}", ran.stderr());
    ran.success();
    run(env.command(["pull", &name]).env("SLIPWAY_HOME", env.path("C"))).success();
}
