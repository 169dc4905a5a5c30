//! The same bundles under Debian's runc and under ours: each case of `testdata/oci` gives the same.
//!
//! ```text
//! run               what the shell of the container runs; its output is compared
//! spec              changes of the spec, as RFC 7396 has it
//! keep_args         the spec says what runs
//! mounts            further mounts
//! replace_mounts    mounts in place of others, by their target; null removes one
//! namespaces        paths of namespaces, by their type
//! extra_namespaces  further namespaces
//! host_namespaces   write the names of this machine's namespaces to /tmp/ns-TYPE
//! chown             who owns the root and the folder of the host
//! show              a file of the folder of the host to compare, too
//! expect            what ours gives, and why that is not what runc gives
//! ```

use super::{Bundle, merge, needs_root_and, spec, support};
use serde_json::Value;
use std::collections::BTreeSet;
use std::os::unix::fs::lchown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

/// Somebody whose namespaces are joined.
struct Other {
    unshare: Child,
    pid: String,
}

impl Other {
    fn new() -> Other {
        let unshare = Command::new("unshare")
            .args(["--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc", "sh", "-c"])
            .arg("hostname joined; exec sleep 600")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let children = format!("/proc/{0}/task/{0}/children", unshare.id());
        let mut other = Other { unshare, pid: String::new() };
        for _ in 0..500 {
            let pid = std::fs::read_to_string(&children).unwrap_or_default().trim().to_owned();
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if name.trim() == "sleep" {
                other.pid = pid;
                return other;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("there is no process to join");
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.unshare.kill().unwrap();
        self.unshare.wait().unwrap();
    }
}

/// What came of a case under one runtime.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    /// Whether the runtime said that it failed.
    error: bool,
    /// The exit code of the program.
    code: Option<i32>,
    output: String,
}

fn run(runtime: &str, case: &Value, other: &Other) -> (Outcome, String) {
    let bundle = Bundle::new();
    let text = case.to_string().replace("${TMP}", bundle.host().to_str().unwrap());
    let namespace =
        |text: String, word: &str, name: &str| text.replace(word, &format!("/proc/{}/ns/{name}", other.pid));
    let names = [("${NETNS}", "net"), ("${PIDNS}", "pid"), ("${IPCNS}", "ipc"), ("${UTSNS}", "uts")];
    let text = names.iter().fold(text, |text, (word, name)| namespace(text, word, name));
    let case: Value = serde_json::from_str(&text).unwrap();

    if case["host_namespaces"] == true {
        for name in ["pid", "net", "ipc", "uts", "cgroup", "user"] {
            let link = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
            std::fs::write(bundle.root().join(format!("tmp/ns-{name}")), link.to_str().unwrap()).unwrap();
        }
    }
    if let Some(owner) = case["chown"].as_u64() {
        chown(&bundle.root(), owner as u32);
        chown(&bundle.host(), owner as u32);
    }
    bundle.write(&spec_of(&case));
    let output = bundle.run(runtime, &["run", "--bundle", ".", &bundle.id]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let error =
        !output.status.success() && ["level=error", "level=fatal", "error:"].iter().any(|word| stderr.contains(word));
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    if let Some(name) = case["show"].as_str() {
        text.push_str("--\n");
        text.push_str(&std::fs::read_to_string(bundle.host().join(name)).unwrap_or_default());
    }
    for left in std::fs::read_dir(bundle.path("states")).into_iter().flatten().flatten() {
        text.push_str(&format!("left behind: {}\n", left.file_name().display()));
    }
    let text = text.replace(bundle.folder.path().to_str().unwrap(), "FOLDER").replace(&bundle.id, "ID");
    let code = if error { None } else { output.status.code() };
    (Outcome { error, code, output: comparable(&text) }, stderr)
}

fn chown(path: &Path, owner: u32) {
    lchown(path, Some(owner), Some(owner)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        std::fs::read_dir(path).unwrap().for_each(|entry| chown(&entry.unwrap().path(), owner));
    }
}

fn spec_of(case: &Value) -> Value {
    let mut spec = spec(&["/bin/sh", "-c", case["run"].as_str().unwrap()]);
    let args = spec["process"]["args"].clone();
    merge(&mut spec, &case["spec"].as_object().cloned().unwrap_or_default().into());
    if case["keep_args"] != true {
        spec["process"]["args"] = args;
    }
    let mounts = spec["mounts"].as_array().unwrap().iter().map(|mount| {
        let target = mount["destination"].as_str().unwrap();
        case["replace_mounts"].get(target).unwrap_or(mount).clone()
    });
    let further = case["mounts"].as_array().into_iter().flatten().cloned();
    spec["mounts"] = mounts.chain(further).filter(|mount| !mount.is_null()).collect();
    for namespace in spec["linux"]["namespaces"].as_array_mut().unwrap() {
        if let Some(path) = case["namespaces"].get(namespace["type"].as_str().unwrap()) {
            namespace["path"] = path.clone();
        }
        // The spec may have come with nothing but the mount namespace.
    }
    let further = case["extra_namespaces"].as_array().into_iter().flatten().cloned();
    spec["linux"]["namespaces"].as_array_mut().unwrap().extend(further);
    spec
}

/// Leaves out what is no difference: numbers of mounts and their order, and where ours is the stricter one.
fn comparable(text: &str) -> String {
    let mut lines = Vec::new();
    let mut mounts = BTreeSet::new();
    for line in text.lines() {
        match mount(line) {
            Some(mount) => drop(mounts.insert(mount)),
            None => lines.push(line.to_owned()),
        }
    }
    lines.extend(mounts);
    lines.join("\n")
}

/// Reads a line of mountinfo: what is where, how, and from what.
fn mount(line: &str) -> Option<String> {
    let (place, what) = line.split_once(" - ")?;
    let mut place = place.split(' ');
    place.next()?.parse::<u32>().ok()?;
    let (root, target) = (place.nth(2)?, place.next()?);
    let options: Vec<_> = place.map(|word| word.split(':').next().unwrap_or_default()).collect();
    let (kind, rest) = what.split_once(' ')?;
    let masked = ["/proc/", "/sys/firmware", "/srv"].iter().any(|path| target.starts_with(path)) && kind == "tmpfs";
    Some(match (target, kind) {
        // Which of the two is read-only is told by the other row; the size of an empty folder does not matter.
        ("/sys", "sysfs") => format!("{target} {options:?} sysfs"),
        ("/sys/fs/cgroup", "tmpfs") => format!("{target} tmpfs"),
        // The name of what is mounted is anybody's choice.
        (_, "cgroup") => format!("{target} {root} {options:?} {:?}", rest.split(' ').nth(1)),
        _ if masked && root == "/" => format!("{target} is masked, {}", &options[0][..2]),
        _ => format!("{target} {root} {options:?} {kind} {rest}"),
    })
}

#[test]
fn every_bundle_gives_the_same_under_runc_and_under_ours() {
    needs_root_and!("runc");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/oci");
    let mut cases: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() > 80, "{} cases", cases.len());
    let (other, queue, failures) = (Other::new(), Mutex::new(cases), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let Some(path) = queue.lock().unwrap().pop() else { return };
            let name = path.file_stem().unwrap().to_str().unwrap();
            let case: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
            let (ours, stderr) = run("slipway", &case, &other);
            let expected = match case.get("expect") {
                Some(expect) => Outcome {
                    error: expect["error"] == true,
                    code: ours.code,
                    output: comparable(expect["stdout"].as_str().unwrap()),
                },
                None => run("runc", &case, &other).0,
            };
            if ours != expected {
                failures.lock().unwrap().push(format!("{name}\nexpected {expected:#?}\nours {ours:#?}\n{stderr}"));
            }
        }
    };
    std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(work))));
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} differ\n{}", failures.len(), failures.join("\n"));
}
