//! `slipway oci`: bundles under runc and under ours give the same, and what drives runc drives ours.

mod engines;
mod escapes;
mod lifecycle;
mod oracle;
mod profile;

use serde_json::{Value, json};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::support;
use tempfile::TempDir;

/// The programs in the root of a bundle, all of them busybox.
const APPLETS: &[&str] = &[
    "cat", "chmod", "cut", "dd", "echo", "env", "grep", "head", "hostname", "id", "ip", "kill", "ln", "ls", "mkdir",
    "mknod", "mount", "pwd", "readlink", "rm", "rmdir", "sed", "seq", "sh", "sleep", "sort", "stat", "stty", "tail",
    "test", "touch", "tr", "true", "tty", "umount", "uname", "unshare", "wc",
];

/// What docker gives every container.
const CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Ends the test early where it cannot run.
macro_rules! needs_root_and {
    ($($program:expr),*) => {
        if !support::needs::root() || !support::needs::tools(&["busybox" $(, $program)*]) {
            return;
        }
    };
}
use needs_root_and;

/// A bundle, a folder of the host for it, and a folder of states; all go away with it.
struct Bundle {
    folder: TempDir,
    id: String,
}

impl Bundle {
    fn new() -> Bundle {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let folder = tempfile::Builder::new().prefix("slipway-oci-").tempdir().unwrap();
        let id = format!("test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let bundle = Bundle { folder, id };
        let root = bundle.root();
        for name in ["bin", "etc/folder", "tmp", "srv", "dev", "proc", "sys", "root"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        std::fs::write(root.join("etc/motd"), "hello\n").unwrap();
        std::fs::write(root.join("etc/folder/inner"), "i\n").unwrap();
        symlink("motd", root.join("etc/link")).unwrap();
        std::fs::write(root.join("srv/f"), "").unwrap();
        std::fs::create_dir_all(bundle.host().join("folder")).unwrap();
        std::fs::write(bundle.host().join("file"), "x\n").unwrap();
        let open = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        open(&root.join("tmp"), 0o1777);
        open(bundle.folder.path(), 0o755);
        bundle
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn root(&self) -> PathBuf {
        self.path("bundle/rootfs")
    }

    fn host(&self) -> PathBuf {
        self.path("host")
    }

    fn write(&self, spec: &Value) {
        std::fs::write(self.path("bundle/config.json"), spec.to_string()).unwrap();
    }

    /// Prepares a runtime's command, with this bundle's states.
    fn command(&self, runtime: &str, arguments: &[&str]) -> Command {
        let mut command = if runtime == "slipway" {
            let mut command = Command::new(support::SLIPWAY);
            command.arg("oci");
            command
        } else {
            Command::new(runtime)
        };
        command.arg("--root").arg(self.path("states")).args(arguments).stdin(Stdio::null());
        command.current_dir(self.path("bundle"));
        command
    }

    /// Runs a command to its end. A container that stays keeps its output open, so files take it.
    fn run(&self, runtime: &str, arguments: &[&str]) -> Output {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let (out, err) = (self.path(&format!("out-{count}")), self.path(&format!("err-{count}")));
        let file = |path: &Path| std::fs::File::create(path).unwrap();
        let mut command = self.command(runtime, arguments);
        let status = command.stdout(file(&out)).stderr(file(&err)).status().unwrap();
        Output { status, stdout: std::fs::read(&out).unwrap(), stderr: std::fs::read(&err).unwrap() }
    }

    /// Runs a verb of ours that must succeed; gives its output.
    fn ours(&self, arguments: &[&str]) -> String {
        let output = self.run("slipway", arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a verb of ours that must fail; gives its error.
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run("slipway", arguments);
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn state(&self) -> Value {
        serde_json::from_str(&self.ours(&["state", &self.id])).unwrap()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        // Most tests have done it.
        let _ = self.run("slipway", &["delete", "--force", &self.id]);
    }
}

/// A spec as podman and containerd write them.
fn spec(args: &[&str]) -> Value {
    let mount = |target: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": source, "options": options});
    let namespaces: Vec<Value> =
        ["pid", "network", "ipc", "uts", "mount", "cgroup"].iter().map(|kind| json!({"type": kind})).collect();
    json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs", "readonly": false},
        "hostname": "box",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/bin:/usr/bin", "HOME=/root"],
            "cwd": "/",
            "capabilities": {"bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES},
            "noNewPrivileges": false
        },
        "mounts": [
            mount("/proc", "proc", "proc", &[]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"])
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": namespaces,
            "maskedPaths": [
                "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}

/// RFC 7396: objects are merged, null removes, all else replaces.
fn merge(into: &mut Value, change: &Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (name, value) in change {
                match value {
                    Value::Null => drop(into.remove(name)),
                    value => merge(into.entry(name.clone()).or_insert(Value::Null), value),
                }
            }
        }
        (into, change) => *into = change.clone(),
    }
}
