//! What end-to-end tests share: a home of their own, a base image, a registry, and what they need of the machine.

#![expect(clippy::disallowed_methods, reason = "tests start programs and write fixtures")]

pub mod moto;
pub mod web;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The binary under test.
pub const SLIPWAY: &str = env!("CARGO_BIN_EXE_slipway");

/// A home of its own for `slipway`, and a folder for a test's files; both go away with it.
pub struct TestEnv {
    folder: TempDir,
}

impl TestEnv {
    /// Makes an empty home.
    pub fn new() -> Self {
        Self { folder: tempfile::Builder::new().prefix("slipway-test-").tempdir().expect("temporary folder") }
    }

    /// Makes a home that holds [`busybox_tar`] as `busybox`.
    pub fn with_busybox() -> Self {
        let env = Self::new();
        env.slipway(["import", "--change", "CMD [\"sh\"]", path(busybox_tar()), "busybox"]).success();
        env
    }

    /// Returns the folder for the test's own files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns the store's folder.
    pub fn home(&self) -> PathBuf {
        self.path("home")
    }

    /// Writes a file below the test's folder, with the folders above it.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("below the test's folder")).expect("create folders");
        std::fs::write(&path, content).expect("write a fixture");
        path
    }

    /// Writes a build context that has just a Dockerfile; gives its folder.
    pub fn context(&self, name: &str, dockerfile: &str) -> PathBuf {
        self.write(&format!("{name}/Dockerfile"), dockerfile);
        self.path(name)
    }

    /// Prepares `slipway` in this home, with nothing of the caller's environment that would change its behavior.
    pub fn command<I: IntoIterator<Item: AsRef<OsStr>>>(&self, arguments: I) -> Command {
        let mut command = Command::new(SLIPWAY);
        command.args(arguments).stdin(Stdio::null());
        command
            .env("SLIPWAY_HOME", self.home())
            .env("HOME", self.folder.path())
            .env("DOCKER_CONFIG", self.path("docker"));
        for name in [
            "SOURCE_DATE_EPOCH",
            "NO_COLOR",
            "BUILDKIT_PROGRESS",
            "SLIPWAY_CACHE_LIMIT",
            "SLIPWAY_PROGRESS",
            "SLIPWAY_HISTORY",
            "XDG_DATA_HOME",
            "XDG_RUNTIME_DIR",
        ] {
            command.env_remove(name);
        }
        command
    }

    /// Runs `slipway` to its end.
    pub fn slipway<I: IntoIterator<Item: AsRef<OsStr>>>(&self, arguments: I) -> Ran {
        run(&mut self.command(arguments))
    }

    /// Starts `slipway serve` on a free loopback port.
    pub fn registry(&self) -> Registry {
        Registry::start(self, &self.path("registry"))
    }
}

impl TestEnv {
    /// Makes a home that holds `busybox`, when containers can be run here.
    pub fn for_containers() -> Option<Self> {
        needs::root().then(Self::with_busybox)
    }

    /// Starts a container in the background that runs a shell script without a network; gives its ID.
    pub fn start(&self, name: &str, flags: &[&str], script: &str) -> String {
        let flags =
            [&["run", "-d", "--network=none", "--name", name], flags, &["busybox", "sh", "-c", script]].concat();
        self.slipway(flags).success().trim().to_owned()
    }

    /// Returns what a template makes of a container.
    pub fn look(&self, container: &str, template: &str) -> String {
        self.slipway(["inspect", "--type=container", "-f", template, container]).success().trim_end().to_owned()
    }
}

impl Drop for TestEnv {
    fn drop(&mut self) {
        // Containers outlive commands; they shall not outlive the test.
        let entries = std::fs::read_dir(self.home().join("containers")).into_iter().flatten().flatten();
        let names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        if !names.is_empty() {
            self.slipway(["rm", "-f"].into_iter().chain(names.iter().map(String::as_str)));
        }
    }
}

/// What came of a command.
pub struct Ran {
    line: String,
    output: Output,
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Ran {
    let line = format!("{command:?}");
    let output = command.output().unwrap_or_else(|error| panic!("{line} did not start: {error}"));
    Ran { line, output }
}

impl Ran {
    /// Returns what it wrote to standard output.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    /// Returns what it wrote to standard error.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    /// Returns the exit code; a signal counts as 128 and its number, as a shell says.
    pub fn code(&self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        let status = self.output.status;
        status.code().unwrap_or_else(|| 128 + status.signal().expect("a code or a signal"))
    }

    /// Asserts exit code 0; gives standard output.
    #[track_caller]
    pub fn success(self) -> String {
        assert_eq!(self.code(), 0, "{}\n{}{}", self.line, self.stdout(), self.stderr());
        self.stdout()
    }

    /// Asserts an exit code; gives standard error.
    #[track_caller]
    pub fn failure(self, code: i32) -> String {
        assert_eq!(self.code(), code, "{}\n{}{}", self.line, self.stdout(), self.stderr());
        assert!(!self.stderr().contains("panicked"), "{}", self.stderr());
        self.stderr()
    }
}

/// A `slipway serve` that ends with the test.
pub struct Registry {
    child: Child,
    /// `127.0.0.1:PORT`.
    pub address: String,
}

impl Registry {
    /// Starts a registry on a folder that may have been served before.
    pub fn start(env: &TestEnv, root: &Path) -> Self {
        Self::start_with(env, ["--root", path(root)])
    }

    /// Starts a registry with flags.
    pub fn start_with<'a>(env: &TestEnv, flags: impl IntoIterator<Item = &'a str>) -> Self {
        let mut command = env.command(["serve", "--addr", "127.0.0.1:0"]);
        command.args(flags);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start the registry");
        let (sender, receiver) = std::sync::mpsc::channel();
        let outputs: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stdout.take().expect("piped")), Box::new(child.stderr.take().expect("piped"))];
        for output in outputs {
            let sender = sender.clone();
            // Reads to the end, so that the registry never blocks on a full pipe.
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    let _ = sender.send(line);
                }
            });
        }
        // Without this one, a registry that ends at once is not waited for.
        drop(sender);
        let (end, mut said) = (Instant::now() + Duration::from_secs(120), Vec::new());
        let address = loop {
            match receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => match line.strip_prefix("Listening on ") {
                    Some(address) => break address.to_owned(),
                    None => said.push(line),
                },
                Err(error) => panic!("the registry tells no address, but {said:?}: {error}"),
            }
        };
        Self { child, address }
    }

    /// Ends it as a crash would.
    pub fn kill(mut self) {
        self.child.kill().expect("kill the registry");
        self.child.wait().expect("wait for the registry");
    }

    /// Asks it to stop, and waits for it; gives the exit code.
    pub fn stop(mut self) -> i32 {
        terminate(self.child.id());
        self.child.wait().expect("wait for the registry").code().unwrap_or(-1)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends SIGTERM to a process that this test started.
pub fn terminate(pid: u32) {
    send(pid, rustix::process::Signal::TERM);
}

/// Sends a signal to a process that this test started.
pub fn send(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a process ID")).expect("not 0");
    rustix::process::kill_process(pid, signal).expect("send a signal");
}

/// Waits until a condition holds, for at most `seconds`.
#[track_caller]
pub fn eventually(seconds: u64, what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(seconds);
    while !holds() {
        assert!(Instant::now() < end, "not within {seconds} s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Returns a path as text, for argument lists.
pub fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// Returns a root file system of Debian's static busybox as a tar; made once per test run.
pub fn busybox_tar() -> &'static Path {
    static TAR: OnceLock<PathBuf> = OnceLock::new();
    TAR.get_or_init(|| {
        let folder = shared_folder();
        let root = folder.join("busybox");
        for name in ["bin", "etc", "home", "root", "tmp", "usr/bin", "usr/sbin", "var/tmp", "proc", "sys", "dev"] {
            std::fs::create_dir_all(root.join(name)).expect("create folders");
        }
        let mode = |name: &str, mode| {
            std::fs::set_permissions(root.join(name), std::fs::Permissions::from_mode(mode)).expect("chmod");
        };
        mode("tmp", 0o1777);
        mode("root", 0o700);
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
        let applets = Command::new("/bin/busybox").arg("--list").output().expect("run busybox").stdout;
        for applet in String::from_utf8(applets).expect("UTF-8").lines().filter(|name| *name != "busybox") {
            std::fs::hard_link(root.join("bin/busybox"), root.join("bin").join(applet)).expect("link");
        }
        let passwd = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/false\n";
        std::fs::write(root.join("etc/passwd"), passwd).expect("write");
        std::fs::write(root.join("etc/group"), "root:x:0:root\nwww-data:x:33:\n").expect("write");
        let tar = folder.join("busybox.tar");
        let mut command = Command::new("tar");
        command.arg("-C").arg(&root).args([
            "--sort=name",
            "--mtime=@1700000000",
            "--owner=0",
            "--group=0",
            "--numeric-owner",
            "-cf",
        ]);
        run(command.arg(&tar).arg(".")).success();
        tar
    })
}

/// A folder that all tests of one run share; the next run replaces it.
fn shared_folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("shared-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("create the shared folder");
        folder
    })
}

/// What a test needs of the machine. Locally, what lacks is a printed skip; with `CI` set, it is a failure.
pub mod needs {
    use std::path::{Path, PathBuf};

    fn lacks(what: &str) -> bool {
        assert!(std::env::var_os("CI").is_none(), "in CI nothing may skip itself, but this machine lacks {what}");
        eprintln!("skipped: this machine lacks {what}");
        true
    }

    /// Tells whether to go on with a test that needs root.
    pub fn root() -> bool {
        rustix::process::geteuid().is_root() || !lacks("root")
    }

    /// Tells whether to go on with a test that needs these programs.
    pub fn tools(names: &[&str]) -> bool {
        let paths: Vec<PathBuf> = std::env::split_paths("/usr/sbin:/usr/bin:/sbin:/bin").collect();
        let lacking = names.iter().find(|name| !paths.iter().any(|folder| folder.join(name).exists()));
        lacking.is_none_or(|name| !lacks(name))
    }

    /// Tells whether to go on with a test that leads out of a plain user's networks.
    pub fn tun() -> bool {
        Path::new("/dev/net/tun").exists() || !lacks("/dev/net/tun")
    }

    /// Returns a minimal Debian root file system as a tar (`make test` makes it), or `None` to skip.
    pub fn debian_tar() -> Option<PathBuf> {
        let tar = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/debian-bookworm.tar");
        (tar.exists() || !lacks("target/debian-bookworm.tar (scripts/debian-base makes it)")).then_some(tar)
    }
}

/// Tells whether a process lives; one that nobody has waited for yet does not.
pub fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}
