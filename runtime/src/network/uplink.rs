//! The way from a plain user's bridges to the machine's network: the program pasta, or else slirp4netns.

use crate::owner::start_time;
use crate::sys;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Why there is no way out.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum UplinkError {
    #[error("neither pasta (package `passt`) nor slirp4netns is installed")]
    NotInstalled,
    #[error("you may not open `/dev/net/tun`: {0}")]
    NoTun(io::Error),
    #[error("cannot start pasta or slirp4netns: {0}")]
    Start(io::Error),
    #[error("{program} does not work here: {said}")]
    Failed { program: &'static str, said: String },
}

/// How long such a program may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Starts a program that leads out of a network namespace, unless one does already. The caller has the world's lock.
pub(crate) fn ensure(folder: &Path, namespace: &OwnedFd) -> Result<(), UplinkError> {
    if find(folder).is_some() {
        return Ok(());
    }
    let tun = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    tun.map_err(UplinkError::NoTun)?;
    let mount_point = folder.join("namespace");
    File::create(&mount_point).map_err(UplinkError::Start)?;
    let place = mount_point.to_string_lossy().into_owned();
    // Its number comes through the pipe: a distribution's rules may keep pasta from writing files in our folder.
    let mut pasta: Vec<&str> = vec!["--config-net", "--quiet", "--netns", &place, "--pid", "/proc/self/fd/1"];
    // This machine's loopback is its own, and ports are published by us.
    pasta.extend(["--no-map-gw", "-t", "none", "-u", "none", "-T", "none", "-U", "none"]);
    let number = run("pasta", &pasta, namespace, &mount_point, Ready::WhenItEnds).or_else(|lacking| {
        let network = ["--configure", "--mtu=65520", "--disable-host-loopback", "--ready-fd=1", "--netns-type=path"];
        let arguments: Vec<&str> = network.into_iter().chain([place.as_str(), "tap0"]).collect();
        let ran = run("slirp4netns", &arguments, namespace, &mount_point, Ready::WhenItSaysSo);
        ran.map_err(|error| if matches!(error, UplinkError::NotInstalled) { lacking } else { error })
    })?;
    let text = format!("{number} {}", start_time(number).unwrap_or(0));
    let written =
        File::create(folder.join("uplink")).and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()));
    written.map_err(UplinkError::Start)
}

/// How a program tells that it is ready.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ready {
    /// It writes the number under which it goes on in the background, and ends.
    WhenItEnds,
    /// It writes something.
    WhenItSaysSo,
}

/// Runs a program until it is ready; gives the number of the process that goes on.
fn run(
    program: &'static str,
    arguments: &[&str],
    namespace: &OwnedFd,
    mount_point: &Path,
    ready: Ready,
) -> Result<u32, UplinkError> {
    let source = CString::new(format!("/proc/self/fd/{}", namespace.as_raw_fd())).expect("a number");
    let target = CString::new(mount_point.as_os_str().as_bytes()).map_err(|error| UplinkError::Start(error.into()))?;
    #[expect(clippy::disallowed_methods, reason = "only a process outside can connect a plain user's namespace")]
    let mut command = Command::new(program);
    // Nobody reads what it says later on, and a pipe without a reader would end it.
    let errors = rustix::fs::memfd_create("uplink", rustix::fs::MemfdFlags::CLOEXEC);
    let mut errors = File::from(errors.map_err(|error| UplinkError::Start(error.into()))?);
    let to_errors = errors.try_clone().map_err(UplinkError::Start)?;
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(to_errors).process_group(0);
    let enter = move || {
        // A supervisor holds signals back that are to end this program.
        sys::unblock_signals();
        // It may not look at the namespaces of the keeper, but it may open a file.
        let mounted =
            sys::unshare(libc::CLONE_NEWNS).and_then(|()| sys::mount(&source, &target, c"", libc::MS_BIND, None));
        mounted.map_err(io::Error::from_raw_os_error)
    };
    // SAFETY: it does system calls alone.
    unsafe { command.pre_exec(enter) };
    let mut child = match command.spawn() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(UplinkError::NotInstalled),
        other => other.map_err(UplinkError::Start)?,
    };
    let (said, says) = std::sync::mpsc::channel();
    let mut output = child.stdout.take();
    // It may never write anything, and never end.
    let reader = std::thread::Builder::new().name("uplink".into()).spawn(move || {
        let mut bytes = [0; 32];
        let read = output.as_mut().map_or(Ok(0), |output| output.read(&mut bytes));
        // Nobody waits when it took too long.
        let _ = said.send(bytes.get(..read.unwrap_or(0)).map(<[u8]>::to_vec).unwrap_or_default());
    });
    reader.map_err(UplinkError::Start)?;
    let end = Instant::now() + PATIENCE;
    let pause = Duration::from_millis(2);
    loop {
        match child.try_wait().map_err(UplinkError::Start)? {
            Some(status) if status.success() && ready == Ready::WhenItEnds => {
                let number =
                    says.recv_timeout(PATIENCE).ok().and_then(|text| str::from_utf8(&text).ok()?.trim().parse().ok());
                return number
                    .ok_or_else(|| UplinkError::Failed { program, said: "it does not tell its number".to_owned() });
            }
            Some(_) => {
                let mut text = String::new();
                // What it wrote moved the place that we have in common.
                let _ = errors.rewind().and_then(|()| errors.take(4096).read_to_string(&mut text));
                // What it could not tell the system's log is nobody's affair.
                let mut lines = text.lines().filter(|line| !line.contains("syslog"));
                let said = lines.next_back().unwrap_or("it says nothing").trim().to_owned();
                return Err(UplinkError::Failed { program, said });
            }
            None if ready == Ready::WhenItSaysSo && says.try_recv().is_ok_and(|text| !text.is_empty()) => {
                return Ok(child.id());
            }
            None if Instant::now() > end => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(UplinkError::Failed { program, said: "it does not become ready".to_owned() });
            }
            None => std::thread::sleep(pause),
        }
    }
}

/// The program that leads out, if it lives.
fn find(folder: &Path) -> Option<Pid> {
    let text = std::fs::read_to_string(folder.join("uplink")).ok()?;
    let (pid, start) = text.split_once(' ')?;
    let (pid, start) = (pid.parse().ok()?, start.trim().parse().ok()?);
    (start_time(pid) == Some(start)).then(|| Pid::from_raw(i32::try_from(pid).ok()?)).flatten()
}

/// Ends the program, if there is one.
pub(crate) fn end(folder: &Path) {
    if let Some(pid) = find(folder) {
        // It fails when it is gone, which is what is wanted.
        let _ = kill_process(pid, Signal::TERM);
    }
    for name in ["uplink", "namespace"] {
        let _ = std::fs::remove_file(folder.join(name));
    }
}
