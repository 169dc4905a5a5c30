//! The rules of the house that a machine can hold.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Which crates of the workspace each may use. A new edge is a design decision: change `docs/ARCHITECTURE.md` with it.
const EDGES: &[(&str, &[&str])] = &[
    ("oci", &[]),
    ("layer", &["oci"]),
    ("runtime", &["oci"]),
    ("store", &["oci", "layer"]),
    ("builder", &["oci", "layer", "store"]),
    ("registry", &["oci", "layer", "store"]),
    ("supervisor", &["oci", "layer", "store", "runtime"]),
    ("engine", &["oci", "layer", "store", "builder", "registry", "runtime", "supervisor"]),
    ("slipway", &["oci", "builder", "registry", "engine"]),
];

/// Crates that cannot wait, because they have no tokio.
const WITHOUT_TOKIO: &[&str] = &["oci", "layer", "runtime", "builder", "supervisor"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names under `[dependencies]` of a crate's manifest.
fn dependencies(name: &str) -> BTreeSet<String> {
    let folder = if name == "slipway" { root().to_owned() } else { root().join(name) };
    let manifest = read(&folder.join("Cargo.toml"));
    let section = manifest.split("\n[dependencies]\n").nth(1).expect("a [dependencies] section");
    let section = section.split("\n[").next().expect("split gives at least one part");
    let names = section.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    names.filter_map(|line| line.split(['.', ' ', '=']).next()).map(str::to_owned).collect()
}

#[test]
fn crates_use_only_those_below_them() {
    let all: BTreeSet<String> = EDGES.iter().map(|(name, _)| (*name).to_owned()).collect();
    for (name, allowed) in EDGES {
        let used: Vec<String> = dependencies(name).intersection(&all).cloned().collect();
        for edge in used {
            assert!(allowed.contains(&edge.as_str()), "`{name}` may not use `{edge}`");
        }
    }
}

#[test]
fn crates_that_cannot_wait_have_no_tokio() {
    for name in WITHOUT_TOKIO {
        assert!(!dependencies(name).contains("tokio"), "`{name}` has tokio");
    }
}

#[test]
fn every_command_has_its_operation_and_its_test() {
    let stems = |folder: &str| -> BTreeSet<String> {
        let entries = std::fs::read_dir(root().join(folder)).expect("a folder of the house");
        let paths = entries.map(|entry| entry.expect("readable").path());
        let stems = paths.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()));
        stems.filter(|stem| stem != "mod").collect()
    };
    // These have no operation of the engine's: they are about the program itself, or about texts.
    let faces_only = ["version", "completion", "debug"];
    let (commands, operations, tests) = (stems("cli/commands"), stems("engine/src/ops"), stems("tests"));
    for command in commands {
        assert!(tests.contains(&command), "`slipway {command}` has no tests/{command}.rs");
        let face_only = faces_only.contains(&command.as_str());
        assert!(face_only || operations.contains(&command), "`slipway {command}` has no engine/src/ops/{command}.rs");
    }
}

#[test]
fn every_file_says_what_it_owns() {
    let mut files = BTreeMap::new();
    collect(root(), &mut files);
    assert!(files.len() > 50, "the walk finds the house's files");
    for (path, text) in files {
        assert!(text.starts_with("//!"), "{} does not open with `//!`", path.display());
    }
}

fn collect(folder: &Path, files: &mut BTreeMap<PathBuf, String>) {
    for entry in std::fs::read_dir(folder).expect("a folder of the house") {
        let path = entry.expect("readable").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() && !name.starts_with('.') && !matches!(name, "target" | "testdata" | "fuzz") {
            collect(&path, files);
        } else if name.ends_with(".rs") && name != "tests.rs" {
            let text = read(&path);
            files.insert(path, text);
        }
    }
}

#[test]
fn the_architecture_names_files_that_exist() {
    let text = read(&root().join("docs/ARCHITECTURE.md"));
    let spans = text.split('`').skip(1).step_by(2);
    let crates = EDGES.iter().map(|(name, _)| format!("{name}/src"));
    let folders: Vec<String> = crates.chain(["cli/", "tests/", "scripts/", "benches/"].map(str::to_owned)).collect();
    let paths: Vec<&str> =
        spans.filter(|span| folders.iter().any(|folder| span.starts_with(folder.as_str()))).collect();
    assert!(paths.len() > 12, "{paths:?}");
    for path in paths {
        assert!(root().join(path).exists(), "docs/ARCHITECTURE.md names `{path}`, which is not there");
    }
}
