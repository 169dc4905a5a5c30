//! podman and containerd with our runtime in place of runc.

use super::super::support::{self, eventually, needs};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;

/// A folder with the runtime under the name that takes runc's command line.
fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::Builder::new().prefix("slipway-engine-").tempdir().unwrap();
    let runtime = folder.path().join("slipway-oci");
    symlink(support::SLIPWAY, &runtime).unwrap();
    (folder, runtime)
}

fn joined<'a>(front: &[&'a str], rest: &[&'a str]) -> Vec<&'a str> {
    [front, rest].concat()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn podman_runs_joins_pauses_and_stops_containers() {
    if !needs::root() || !needs::tools(&["podman", "conmon"]) {
        return;
    }
    let (folder, runtime) = folder();
    let path = |name: &str| folder.path().join(name);
    let podman = |arguments: &[&str]| {
        let mut command = Command::new("podman");
        command.arg("--root").arg(path("root")).arg("--runroot").arg(path("run")).arg("--tmpdir").arg(path("tmp"));
        command.arg("--runtime").arg(&runtime);
        command.args(["--cgroup-manager", "cgroupfs", "--storage-driver", "vfs", "--events-backend", "file"]);
        command.args(arguments).stdin(Stdio::null()).output().unwrap()
    };
    let good = |arguments: &[&str]| {
        let output = podman(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    good(&["import", support::path(support::busybox_tar()), "busybox"]);
    const RUN: &[&str] = &["run", "--rm", "--network", "none"];
    let status = good(&joined(RUN, &["busybox", "grep", "-E", "^Seccomp:|CapEff", "/proc/self/status"]));
    assert!(status.contains("Seccomp:\t2") && status.contains("CapEff:\t00000000"), "{status}");
    let limits = ["--memory", "64m", "--pids-limit", "20", "busybox", "cat", "/sys/fs/cgroup/pids/pids.max"];
    assert_eq!(good(&joined(RUN, &limits)), "20\n");
    let mapped = good(&joined(RUN, &["--uidmap", "0:100000:65536", "busybox", "cat", "/proc/self/uid_map"]));
    assert_eq!(mapped.split_whitespace().collect::<Vec<_>>(), ["0", "100000", "65536"]);
    assert!(good(&joined(RUN, &["--tty", "busybox", "tty"])).contains("/dev/pts/0"));
    let output = podman(&joined(RUN, &["busybox", "nothere"]));
    assert_eq!(output.status.code(), Some(127), "{}", text(&output));

    good(&["run", "--detach", "--name", "box", "--network", "none", "busybox", "sleep", "1000"]);
    let output = podman(&["exec", "box", "sh", "-c", "echo inside; exit 5"]);
    assert_eq!((output.status.code(), text(&output).contains("inside")), (Some(5), true), "{}", text(&output));
    assert_eq!(podman(&["exec", "box", "nothere"]).status.code(), Some(127));
    good(&["pause", "box"]);
    assert_eq!(good(&["inspect", "--format", "{{.State.Status}}", "box"]), "paused\n");
    good(&["unpause", "box"]);
    good(&["stop", "--time", "0", "box"]);
    good(&["rm", "box"]);
}

/// A containerd of the test's own.
struct Containerd {
    child: Child,
    folder: TempDir,
    runtime: PathBuf,
}

impl Containerd {
    fn start() -> Containerd {
        let (folder, runtime) = folder();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let off = ["grpc.v1.cri", "snapshotter.v1.btrfs", "snapshotter.v1.zfs", "snapshotter.v1.devmapper"];
        let off: Vec<_> = off.iter().map(|name| format!("\"io.containerd.{name}\"")).collect();
        let config = format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\ndisabled_plugins = [{}]\n[grpc]\naddress = \"{}\"\n[ttrpc]\naddress = \"{}\"\n",
            path("root"),
            path("state"),
            off.join(", "),
            path("c.sock"),
            path("t.sock")
        );
        std::fs::write(path("config.toml"), config).unwrap();
        let log = std::fs::File::create(path("log")).unwrap();
        let child = Command::new("containerd")
            .arg("--config")
            .arg(path("config.toml"))
            .stderr(log)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let containerd = Containerd { child, folder, runtime };
        eventually(20, "containerd answers", || containerd.ctr(&["version"]).status.success());
        containerd
    }

    fn ctr(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.folder.path().join("c.sock")).args(arguments);
        command.stdin(Stdio::null()).output().unwrap()
    }

    fn good(&self, arguments: &[&str]) -> String {
        let output = self.ctr(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // Whatever the test left behind goes first, lest a shim outlive it.
        for task in String::from_utf8_lossy(&self.ctr(&["task", "ls", "-q"]).stdout).lines() {
            self.ctr(&["task", "rm", "--force", task]);
        }
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        for line in mounts.lines().filter(|line| line.contains(self.folder.path().to_str().unwrap())) {
            Command::new("umount").arg(line.split(' ').nth(1).unwrap()).status().unwrap();
        }
    }
}

#[test]
fn containerd_runs_joins_pauses_and_kills_containers() {
    if !needs::root() || !needs::tools(&["containerd", "ctr"]) {
        return;
    }
    let env = support::TestEnv::with_busybox();
    let archive = env.path("busybox.tar");
    env.slipway(["save", "-o", support::path(&archive), "busybox"]).success();
    let containerd = Containerd::start();
    containerd.good(&["image", "import", support::path(&archive)]);
    let images = containerd.good(&["image", "ls", "-q"]);
    let image = images.lines().next().unwrap();
    let runtime = support::path(&containerd.runtime);
    let front = ["run", "--runc-binary", runtime];
    let status = containerd.good(&joined(&front, &["--rm", image, "one", "grep", "CapEff", "/proc/self/status"]));
    assert_eq!(status, "CapEff:\t00000000a80425fb\n");
    let output = containerd.ctr(&joined(&front, &["--rm", image, "two", "sh", "-c", "exit 6"]));
    assert_eq!(output.status.code(), Some(6), "{}", text(&output));
    let output = containerd.ctr(&joined(&front, &["--rm", image, "three", "nothere"]));
    assert!(text(&output).contains("executable file not found"), "{}", text(&output));

    containerd.good(&joined(&front, &["--detach", image, "box", "sleep", "1000"]));
    let output = containerd.ctr(&["task", "exec", "--exec-id", "e", "box", "sh", "-c", "echo inside; exit 4"]);
    assert_eq!((output.status.code(), text(&output).contains("inside")), (Some(4), true), "{}", text(&output));
    containerd.good(&["task", "pause", "box"]);
    assert!(containerd.good(&["task", "ls"]).contains("PAUSED"));
    containerd.good(&["task", "resume", "box"]);
    containerd.good(&["task", "kill", "--signal", "KILL", "box"]);
    eventually(10, "it stops", || containerd.good(&["task", "ls"]).contains("STOPPED"));
    // It gives the exit code of the program.
    containerd.ctr(&["task", "rm", "box"]);
    containerd.good(&["container", "rm", "box"]);
    assert!(containerd.good(&["task", "ls", "-q"]).is_empty());
}
