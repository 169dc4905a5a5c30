//! `slipway build -o`, `--annotation`, `--metadata-file` and `--iidfile`, read back with skopeo.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::support::{TestEnv, needs, path, run};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn read(file: &Path) -> Value {
    json(&std::fs::read_to_string(file).unwrap())
}

/// Returns the manifest behind a place that skopeo knows.
fn raw(place: &str) -> Value {
    let mut skopeo = Command::new("skopeo");
    json(&run(skopeo.args(["inspect", "--raw", "--tls-verify=false", place])).success())
}

/// Returns the kinds of a manifest and of its layers, by the ends of their media types.
fn kinds(manifest: &Value) -> (String, Vec<String>) {
    let end = |value: &Value| value["mediaType"].as_str().unwrap().rsplit('.').next().unwrap().to_owned();
    let layers = manifest["layers"].as_array().unwrap();
    (manifest["mediaType"].as_str().unwrap().split('.').nth(1).unwrap().to_owned(), layers.iter().map(end).collect())
}

/// An image whose base came compressed with gzip, with one layer of its own.
fn derived(env: &TestEnv, registry: &str) -> String {
    let base = format!("{registry}/base:1");
    let context = env.context("base", "FROM scratch\nCOPY Dockerfile /base\n");
    env.slipway(["build", "-t", &base, "--push", path(&context)]).success();
    env.slipway(["rmi", &base]).success();
    env.slipway(["pull", "-q", &base]).success();
    let context = env.context("app", &format!("FROM {base}\nCOPY Dockerfile /app\n"));
    path(&context).to_owned()
}

#[test]
fn each_form_is_what_skopeo_finds() {
    if !needs::tools(&["skopeo"]) {
        return;
    }
    let env = TestEnv::new();
    let registry = env.registry();
    let context = derived(&env, &registry.address);
    for (number, (form, kind, layers)) in [
        ("push=true", "oci", ["tar+gzip", "tar+gzip"]),
        ("compression=zstd", "oci", ["tar+gzip", "v1.tar+zstd"]),
        ("compression=zstd,force-compression=true,compression-level=19", "oci", ["tar+zstd", "tar+zstd"]),
        ("compression=uncompressed", "oci", ["tar+gzip", "tar"]),
        ("compression=uncompressed,force-compression=true", "oci", ["tar", "tar"]),
        ("oci-mediatypes=false", "docker", ["gzip", "gzip"]),
        ("oci-mediatypes=false,annotation.a=b", "oci", ["tar+gzip", "tar+gzip"]),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("{}/app:{number}", registry.address);
        let output = format!("type=registry,name={name},{form}");
        let metadata = env.path("metadata.json");
        env.slipway(["build", "-q", "-o", &output, "--metadata-file", path(&metadata), &context]).success();
        let manifest = raw(&format!("docker://{name}"));
        let (found, found_layers) = kinds(&manifest);
        let expected: Vec<&str> = layers.iter().map(|layer| layer.trim_start_matches("v1.")).collect();
        assert_eq!(
            (found.as_str(), found_layers),
            (kind, expected.iter().map(ToString::to_string).collect()),
            "{form}"
        );
        // What the file says is what the registry has.
        let digest = read(&metadata)["containerimage.digest"].as_str().unwrap().to_owned();
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &format!("docker://{name}")]);
        assert_eq!(run(&mut skopeo).success().trim(), digest, "{form}");
        // Everybody can unpack it.
        let mut copy = Command::new("skopeo");
        let to = format!("dir:{}", path(&env.path(&format!("dir{number}"))));
        copy.args(["copy", "-q", "--src-tls-verify=false", &format!("docker://{name}"), &to]);
        run(&mut copy).success();
        env.slipway(["pull", "-q", &name]).success();
    }
}

#[test]
fn an_image_can_be_pushed_by_digest_only() {
    let env = TestEnv::new();
    let registry = env.registry();
    let context = env.context("app", "FROM scratch\nCOPY Dockerfile /\n");
    let output = format!("type=image,name={}/app,push=true,push-by-digest=true", registry.address);
    let printed = env.slipway(["build", "-o", &output, path(&context)]).success();
    let name = printed.trim();
    assert!(name.starts_with(&format!("{}/app@sha256:", registry.address)), "{name}");
    assert_eq!(env.slipway(["images", "-q"]).success(), "");
    env.slipway(["pull", "-q", name]).success();
    env.slipway(["pull", &format!("{}/app:latest", registry.address)]).failure(1);
    let stderr = env.slipway(["build", "--push", path(&context)]).failure(1);
    assert!(stderr.contains("needs a name") && stderr.contains("--tag"), "{stderr}");
}

#[test]
fn a_layout_is_written_and_kept_up() {
    if !needs::tools(&["skopeo"]) {
        return;
    }
    let env = TestEnv::new();
    let layout = env.path("layout");
    for (number, tag) in [("1", "one"), ("2", "two"), ("3", "two")] {
        let context = env.context(number, &format!("FROM scratch\nCOPY Dockerfile /{number}\n"));
        let output = format!("type=oci,dest={},tar=false,name=app:{tag},annotation.n={number}", path(&layout));
        env.slipway(["build", "-o", &output, path(&context)]).success();
    }
    let index = read(&layout.join("index.json"));
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2, "{index}");
    let name = |at: usize| index["manifests"][at]["annotations"]["org.opencontainers.image.ref.name"].clone();
    for (at, number) in [(0, "1"), (1, "3")] {
        let place = format!("oci:{}:{}", path(&layout), name(at).as_str().unwrap());
        assert_eq!(raw(&place)["annotations"]["n"], number);
        let to = format!("dir:{}", path(&env.path("copied")));
        run(Command::new("skopeo").args(["copy", "-q", &place, &to])).success();
    }
}

#[test]
fn annotations_go_where_their_types_say() {
    if !needs::tools(&["skopeo"]) {
        return;
    }
    let env = TestEnv::new();
    let registry = env.registry();
    let context = env.context("app", "FROM scratch\nCOPY Dockerfile /\n");
    let name = format!("{}/app:1", registry.address);
    let one = ["--annotation", "a=plain", "--annotation", "manifest-descriptor:d=listed"];
    let archive = env.path("one.tar");
    let output = format!("type=oci,dest={},annotation.b=own", path(&archive));
    env.slipway(["build", "-o", &output].iter().chain(&one).chain(&[path(&context)])).success();
    let folder = env.path("unpacked");
    std::fs::create_dir(&folder).unwrap();
    run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&folder)).success();
    assert_eq!(read(&folder.join("index.json"))["manifests"][0]["annotations"]["d"], "listed");
    let manifest = raw(&format!("oci:{}", path(&folder)));
    assert_eq!((&manifest["annotations"]["a"], &manifest["annotations"]["b"]), (&"plain".into(), &"own".into()));

    let several = [
        "--platform=linux/amd64,linux/arm64",
        "--annotation=index:i=index",
        "--annotation=manifest:a=all",
        "--annotation=manifest[linux/arm64],manifest-descriptor[linux/arm64]:a=arm",
        "--push",
        "-t",
        &name,
    ];
    env.slipway(["build"].iter().chain(&several).chain(&[path(&context)])).success();
    let index = raw(&format!("docker://{name}"));
    assert_eq!(index["annotations"]["i"], "index");
    for (at, architecture, note, listed) in [(0, "amd64", "all", Value::Null), (1, "arm64", "arm", "arm".into())] {
        let line = &index["manifests"][at];
        assert_eq!((&line["platform"]["architecture"], &line["annotations"]["a"]), (&architecture.into(), &listed));
        let by_digest = format!("docker://{}/app@{}", registry.address, line["digest"].as_str().unwrap());
        assert_eq!(raw(&by_digest)["annotations"]["a"], note);
    }
    for (annotation, part) in [
        ("index:a=b", "has none"),
        ("manifest[linux/s390x]:a=b", "linux/s390x"),
        ("nosuch:a=b", "unknown annotation type"),
        ("a", "NAME=VALUE"),
    ] {
        let stderr = env.slipway(["build", "--annotation", annotation, path(&context)]).failure(1);
        assert!(stderr.contains(part), "{stderr}");
    }
}

#[test]
fn the_metadata_file_says_what_buildx_says() {
    let env = TestEnv::new();
    let context = env.context("app", "FROM scratch\nCOPY Dockerfile /\n");
    let (metadata, iid) = (env.path("metadata.json"), env.path("iid"));
    let files = ["--metadata-file", path(&metadata), "--iidfile", path(&iid)];
    env.slipway(["build", "-t", "app", "-t", "app:2"].iter().chain(&files).chain(&[path(&context)])).success();
    let said = read(&metadata);
    assert_eq!(said["image.name"], "docker.io/library/app:latest,docker.io/library/app:2");
    let id = env.slipway(["images", "-q", "--no-trunc", "app:2"]).success();
    assert_eq!(said["containerimage.config.digest"], id.trim());
    assert_eq!(std::fs::read_to_string(&iid).unwrap(), id.trim());
    assert_eq!(said["containerimage.descriptor"]["digest"], said["containerimage.digest"]);
    assert_eq!(said["containerimage.descriptor"]["annotations"]["config.digest"], id.trim());
    assert_eq!(said["containerimage.descriptor"]["platform"]["os"], "linux");
    let build = said["buildx.build.ref"].as_str().unwrap().strip_prefix("default/default/").unwrap().to_owned();
    env.slipway(["history", "inspect", &build]).success();
    // Files alone are no image.
    let folder = env.path("files");
    env.slipway(["build", "-o", path(&folder)].iter().chain(&files).chain(&[path(&context)])).success();
    let said = read(&metadata);
    assert!(said.get("containerimage.digest").is_none() && said["buildx.build.ref"].is_string(), "{said}");
}

#[test]
fn each_platform_has_a_folder_and_the_cache_can_be_all() {
    let env = TestEnv::new();
    let context = env.context("app", "FROM scratch\nARG TARGETARCH\nCOPY Dockerfile /$TARGETARCH\n");
    let build =
        |output: &str, platforms: &str| env.slipway(["build", "--platform", platforms, "-o", output, path(&context)]);
    let folder = env.path("both");
    build(path(&folder), "linux/amd64,linux/arm64").success();
    assert!(folder.join("linux_amd64/amd64").exists() && folder.join("linux_arm64/arm64").exists());
    let folder = env.path("split");
    build(&format!("type=local,dest={},platform-split=true", path(&folder)), "linux/arm64").success();
    assert!(folder.join("linux_arm64/arm64").exists());
    let merged = format!("type=local,dest={},platform-split=false", path(&env.path("merged")));
    let stderr = build(&merged, "linux/amd64,linux/arm64").failure(1);
    assert!(stderr.contains("several platforms cannot share"), "{stderr}");
    let tar = env.path("files.tar");
    let names = |platforms: &str| {
        build(&format!("type=tar,dest={}", path(&tar)), platforms).success();
        run(Command::new("tar").args(["-tf", path(&tar)])).success()
    };
    assert_eq!(names("linux/arm64"), "arm64\n");
    assert_eq!(names("linux/amd64,linux/arm64"), "linux_amd64/\nlinux_amd64/amd64\nlinux_arm64/\nlinux_arm64/arm64\n");
    build("type=cacheonly", "linux/amd64").success();
    assert_eq!(env.slipway(["images", "-q"]).success(), "");
}

/// Returns what a registry says of the referrers of a manifest: the types of their predicates, and the predicates.
fn referrers(address: &str, repository: &str, digest: &str) -> Vec<(String, Value)> {
    let fetch =
        |path: &str| json(&run(Command::new("curl").args(["-sSf", &format!("http://{address}/v2/{path}")])).success());
    let index = fetch(&format!("{repository}/referrers/{digest}"));
    let lines = index["manifests"].as_array().unwrap().iter().map(|line| {
        assert_eq!(line["artifactType"], "application/vnd.in-toto+json");
        let manifest = fetch(&format!("{repository}/manifests/{}", line["digest"].as_str().unwrap()));
        assert_eq!(manifest["subject"]["digest"], digest);
        let layer = &manifest["layers"][0];
        let kind = layer["annotations"]["in-toto.io/predicate-type"].as_str().unwrap().to_owned();
        assert_eq!(line["annotations"]["in-toto.io/predicate-type"], kind);
        let statement = fetch(&format!("{repository}/blobs/{}", layer["digest"].as_str().unwrap()));
        assert_eq!(
            (&statement["predicateType"], statement["subject"][0]["digest"]["sha256"].as_str()),
            (&kind.as_str().into(), digest.strip_prefix("sha256:"))
        );
        (kind, statement["predicate"].clone())
    });
    let mut found: Vec<_> = lines.collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

#[test]
fn attestations_hang_beside_the_image_and_change_nothing_of_it() {
    if !needs::tools(&["skopeo", "curl"]) {
        return;
    }
    let env = TestEnv::with_busybox();
    let registry = env.registry();
    let status = "Package: base-files\nStatus: install ok installed\nVersion: 12.4\nArchitecture: amd64\n";
    env.write("app/status", status);
    env.write("app/Cargo.lock", "[[package]]\nname = \"serde\"\nversion = \"1.0.0\"\n");
    let dockerfile = "FROM busybox\nARG V\nCOPY status /var/lib/dpkg/status\nCOPY Cargo.lock /src/\n";
    let context = env.context("app", dockerfile);
    let secret = env.write("secret", "hidden");
    let name = format!("{}/app:1", registry.address);
    let metadata = env.path("metadata.json");
    let secret = format!("--secret=id=token,src={}", path(&secret));
    let build = |more: &[&str]| {
        let common = ["build", "-q", "--push", "-t", &name, "--build-arg=V=seven", &secret, "--metadata-file"];
        env.slipway(common.iter().chain(&[path(&metadata)]).chain(more).chain(&[path(&context)])).success();
        read(&metadata)["containerimage.digest"].as_str().unwrap().to_owned()
    };
    let plain = build(&[]);
    assert_eq!(referrers(&registry.address, "app", &plain), []);
    let digest = build(&["--provenance=mode=max", "--sbom", "--reproducible"]);
    let found = referrers(&registry.address, "app", &digest);
    let kinds: Vec<&str> = found.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["https://slsa.dev/provenance/v1", "https://spdx.dev/Document"]);
    let provenance = &found[0].1;
    assert!(provenance["buildDefinition"]["externalParameters"]["request"]["args"]["build-arg:V"] == "seven");
    let base = &provenance["buildDefinition"]["resolvedDependencies"][0];
    assert!(base["uri"].as_str().unwrap().starts_with("pkg:docker/busybox@latest?platform="), "{base}");
    assert_eq!(base["digest"]["sha256"].as_str().map(str::len), Some(64));
    let text = provenance.to_string();
    assert!(text.contains("token") && !text.contains("hidden") && !text.contains("startedOn"), "{text}");
    let packages = found[1].1["packages"].to_string();
    assert!(packages.contains("pkg:deb/base-files@12.4?arch=amd64"), "{packages}");
    assert!(packages.contains("pkg:cargo/serde@1.0.0"), "{packages}");
    // The same again is the very same: nothing is added.
    assert_eq!(build(&["--attest=type=provenance,mode=max", "--attest=type=sbom", "--reproducible"]), digest);
    assert_eq!(referrers(&registry.address, "app", &digest).len(), 2);
    // The tag names the image itself, which no client can stumble over.
    let manifest = raw(&format!("docker://{name}"));
    assert_eq!(manifest["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    let to = format!("dir:{}", path(&env.path("copied")));
    run(Command::new("skopeo").args(["copy", "-q", "--src-tls-verify=false", &format!("docker://{name}"), &to]))
        .success();
    // Each image of an index has its own.
    build(&["--platform=linux/amd64", "--provenance"]);
    let stderr = env.slipway(["build", "--sbom", path(&context)]).failure(1);
    assert!(stderr.contains("type=oci"), "{stderr}");
}

#[test]
fn an_archive_has_its_attestations_beside_the_image() {
    if !needs::tools(&["skopeo"]) {
        return;
    }
    let env = TestEnv::new();
    let context = env.context("app", "FROM scratch\nCOPY Dockerfile /\nCMD [\"x\"]\n");
    let archive = env.path("app.tar");
    let output = format!("type=oci,dest={},name=app:1", path(&archive));
    env.slipway(["build", "--provenance", "--sbom", "-o", &output, path(&context)]).success();
    let place = format!("oci-archive:{}", path(&archive));
    let index = raw(&place);
    let lines = index["manifests"].as_array().unwrap();
    assert_eq!(lines.len(), 3, "{index}");
    for line in &lines[1..] {
        assert_eq!(line["platform"]["os"], "unknown");
        assert_eq!(line["annotations"]["vnd.docker.reference.digest"], lines[0]["digest"]);
    }
    // Clients take the image out of it.
    let to = format!("dir:{}", path(&env.path("copied")));
    run(Command::new("skopeo").args(["copy", "-q", &place, &to])).success();
    let copied = read(&env.path("copied").join("manifest.json"));
    assert_eq!(copied["layers"].as_array().unwrap().len(), 1, "{copied}");
    assert_eq!(env.slipway(["load", "-i", path(&archive)]).success(), "Loaded image: app:1\n");
    assert!(env.slipway(["inspect", "app:1"]).success().contains("\"x\""));
}
