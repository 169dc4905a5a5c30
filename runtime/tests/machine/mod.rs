//! A root filesystem of busybox alone, and ways to run things in it.

#![expect(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "a test may panic and speak")]

use runtime::network::Network;
use runtime::{
    Container, ContainerConfig, ExitStatus, Rootfs, SpecOptions, StartError, Stdio, Warning, default_spec, start,
};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const BUSYBOX: &str = "/bin/busybox";

const APPLETS: [&str; 31] = [
    "sh", "cat", "df", "echo", "grep", "head", "hostname", "id", "ip", "ls", "mknod", "mount", "nc", "ps", "pwd",
    "sleep", "stat", "stty", "tail", "tee", "touch", "true", "tty", "umask", "unshare", "wc", "wget", "kill", "httpd",
    "nslookup", "printf",
];

/// Whether tests that need root can run: they are skipped aloud, and fail where CI is set.
pub(crate) fn is_root() -> bool {
    let able = rustix::process::geteuid().is_root() && Path::new(BUSYBOX).exists();
    if !able {
        assert!(std::env::var_os("CI").is_none(), "this test needs root and {BUSYBOX}");
        eprintln!("skipped: this test needs root and {BUSYBOX}");
    }
    able
}

/// What came of a container.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) warnings: Vec<Warning>,
    /// Where its changes are.
    pub(crate) upper: PathBuf,
}

/// A root filesystem.
pub(crate) struct Root {
    folder: tempfile::TempDir,
    count: AtomicU32,
    name: String,
}

impl Root {
    pub(crate) fn new() -> Root {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let folder = tempfile::Builder::new().prefix("runtime-test").tempdir().unwrap();
        let root = folder.path().join("root");
        for name in ["bin", "etc", "tmp", "srv"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        std::fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        let name = format!("test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Root { folder, count: AtomicU32::new(0), name }
    }

    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.folder.path().join("root").join(inside)
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub(crate) fn write(&self, inside: &str, text: &str) {
        self.write_at(&self.path(inside), text);
    }

    #[expect(clippy::disallowed_methods, reason = "a file of a test")]
    pub(crate) fn write_at(&self, path: &Path, text: &str) {
        std::fs::write(path, text).unwrap();
    }

    /// A folder with an empty `upper` and `work`.
    pub(crate) fn fresh(&self) -> PathBuf {
        let folder = self.state().join(self.count.fetch_add(1, Ordering::Relaxed).to_string());
        std::fs::create_dir_all(folder.join("upper")).unwrap();
        std::fs::create_dir_all(folder.join("work")).unwrap();
        folder
    }

    pub(crate) fn options(&self, args: &[&str]) -> SpecOptions {
        SpecOptions {
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            hostname: "box".to_owned(),
            ..SpecOptions::default()
        }
    }

    fn config(&self, options: SpecOptions, stdio: Stdio, rootfs: Rootfs, network: Network) -> ContainerConfig {
        ContainerConfig {
            id: format!("{}-{}", self.name, self.count.fetch_add(1, Ordering::Relaxed)),
            spec: default_spec(&options).unwrap(),
            rootfs,
            stdio,
            network,
            cgroup_parent: None,
            die_with_parent: true,
        }
    }

    fn overlay(&self) -> (PathBuf, Rootfs) {
        let folder = self.fresh();
        let upper = folder.join("upper");
        let rootfs = Rootfs::Overlay {
            lower: vec![self.path("")],
            upper: upper.clone(),
            work: folder.join("work"),
            volatile: true,
        };
        (upper, rootfs)
    }

    pub(crate) fn start(&self, options: SpecOptions, stdio: Stdio) -> Result<Container, StartError> {
        self.start_in(options, stdio, Network::none())
    }

    pub(crate) fn config_of(&self, options: SpecOptions, stdio: Stdio) -> ContainerConfig {
        let (_, rootfs) = self.overlay();
        self.config(options, stdio, rootfs, Network::none())
    }

    pub(crate) fn start_in(
        &self,
        options: SpecOptions,
        stdio: Stdio,
        network: Network,
    ) -> Result<Container, StartError> {
        let (_, rootfs) = self.overlay();
        start(self.config(options, stdio, rootfs, network))
    }

    pub(crate) fn sh(&self, script: &str) -> Outcome {
        self.run(self.options(&["sh", "-c", script]))
    }

    pub(crate) fn run(&self, options: SpecOptions) -> Outcome {
        self.run_in(options, Network::none())
    }

    pub(crate) fn run_in(&self, options: SpecOptions, network: Network) -> Outcome {
        let (upper, rootfs) = self.overlay();
        finish(start(self.config(options, Stdio::pipes(), rootfs, network)).unwrap(), upper)
    }

    pub(crate) fn run_on(&self, options: SpecOptions, rootfs: Rootfs) -> Outcome {
        finish(start(self.config(options, Stdio::pipes(), rootfs, Network::none())).unwrap(), PathBuf::new())
    }

    /// How many processes have this root, or are about to.
    pub(crate) fn processes(&self) -> usize {
        let folder = self.folder.path().to_str().unwrap();
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let mounts = entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("mountinfo")).ok());
        mounts.filter(|mounts| mounts.contains(folder)).count()
    }

    /// Cgroups and mounts of this root that are still there.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let folder = self.folder.path().to_str().unwrap();
        left.extend(mounts.lines().filter(|line| line.contains(folder)).map(str::to_owned));
        let found = command("find").arg("/sys/fs/cgroup").arg("-name").arg(format!("slipway-{}-*", self.name)).output();
        left.extend(String::from_utf8(found.unwrap().stdout).unwrap().lines().map(str::to_owned));
        left
    }
}

fn finish(mut container: Container, upper: PathBuf) -> Outcome {
    let warnings = container.warnings().to_vec();
    let mut errors = container.take_stderr().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        errors.read_to_string(&mut text).unwrap();
        text
    });
    let mut stdout = String::new();
    container.take_stdout().unwrap().read_to_string(&mut stdout).unwrap();
    let stderr = reader.join().unwrap();
    Outcome { status: container.wait().unwrap(), stdout, stderr, warnings, upper }
}

/// A program of this machine.
#[expect(clippy::disallowed_methods, reason = "tests compare with the machine's own tools")]
pub(crate) fn command(program: &str) -> Command {
    Command::new(program)
}

/// Waits for something that happens soon.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "not within ten seconds: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Another process that has started a container.
pub(crate) struct Helper {
    child: Child,
}

/// Where the helper finds what to start; set, this test program only does that.
const HELPER: &str = "RUNTIME_TEST_HELPER";

/// Starts this test program again, with a container in it.
pub(crate) fn helper(root: &Root, args: &[&str]) -> Helper {
    let own = std::env::current_exe().unwrap();
    let text = format!("{}\n{}\n{}", root.path("").display(), root.name, args.join("\n"));
    let child = command(own.to_str().unwrap())
        .args(["--exact", "the_helper_of_another_test", "--nocapture", "--include-ignored"])
        .env(HELPER, text)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    Helper { child }
}

impl Helper {
    pub(crate) fn container_pid(&mut self) -> u32 {
        let output = BufReader::new(self.child.stdout.take().unwrap());
        let line = output.lines().map(Result::unwrap).find(|line| line.contains("container ")).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// The helper's own life: starts a container, says its number, waits.
pub(crate) fn be_the_helper() {
    let Ok(text) = std::env::var(HELPER) else { return };
    let mut lines = text.lines();
    let (lower, name) = (PathBuf::from(lines.next().unwrap()), lines.next().unwrap().to_owned());
    let state = lower.parent().unwrap().join(format!("state/helper-{}", std::process::id()));
    let (upper, work) = (state.join("upper"), state.join("work"));
    std::fs::create_dir_all(&upper).unwrap();
    std::fs::create_dir_all(&work).unwrap();
    let options = SpecOptions { args: lines.map(str::to_owned).collect(), ..SpecOptions::default() };
    let container = start(ContainerConfig {
        id: format!("{name}-helper-{}", std::process::id()),
        spec: default_spec(&options).unwrap(),
        rootfs: Rootfs::Overlay { lower: vec![lower], upper, work, volatile: true },
        stdio: Stdio::null(),
        network: Network::none(),
        cgroup_parent: None,
        die_with_parent: true,
    })
    .unwrap();
    println!("container {}", container.pid());
    container.wait().unwrap();
}
