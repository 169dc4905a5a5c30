//! Create, start, run, kill, pause, delete, exec: the operations on bundles.

use super::config::{self, Config};
use super::record::{Folder, Record, State, Status, state_text, state_with};
use super::{BundleError, console, hooks};
use crate::cgroups::Cgroups;
use crate::child::message::LONGEST;
use crate::container::{Container, ContainerConfig, Extras, Rootfs, launch_in, receive};
use crate::network::Network;
use crate::owner::start_time;
use crate::start_error::{StartError, Warning, failed_start};
use crate::stdio::Stdio;
use crate::{ExecConfig, ExitStatus};
use oci_spec::runtime::{Hooks, LinuxResources, Process, Spec};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The folder in which states are.
#[derive(Clone, Debug)]
pub struct Bundles {
    root: PathBuf,
}

/// How a container is created.
#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    /// The folder with `config.json`.
    pub bundle: PathBuf,
    /// Where the number of the first process is written.
    pub pid_file: Option<PathBuf>,
    /// Who gets the terminal.
    pub console_socket: Option<PathBuf>,
    /// How many descriptors from 3 on the program gets, too.
    pub preserve_fds: u32,
    /// Move the root instead of exchanging it.
    pub no_pivot: bool,
    /// Leave the program in the session keyring of this process.
    pub no_new_keyring: bool,
    /// The time, as RFC 3339.
    pub now: String,
}

/// How a program is run in a container.
#[derive(Clone, Debug, Default)]
pub struct ExecOptions {
    /// Where the number of the process is written.
    pub pid_file: Option<PathBuf>,
    /// Who gets the terminal.
    pub console_socket: Option<PathBuf>,
    /// How many descriptors from 3 on the program gets, too.
    pub preserve_fds: u32,
    /// Whether a paused container is good enough.
    pub ignore_paused: bool,
}

/// A container that this process waits for, and then deletes.
#[derive(Debug)]
pub struct Foreground {
    folder: Folder,
    record: Record,
    hooks: Option<Hooks>,
    /// Its process; the terminal is there when no socket took it.
    pub container: Container,
}

impl Bundles {
    /// Takes the folder, which need not be there.
    pub fn new(root: &Path) -> Bundles {
        Bundles { root: root.to_owned() }
    }

    /// Makes a container of a bundle, whose program waits to be started.
    pub fn create(&self, id: &str, options: &CreateOptions) -> Result<Vec<Warning>, BundleError> {
        let (folder, config, record) = self.prepare(id, options)?;
        if is_terminal(&config.spec) != options.console_socket.is_some() {
            let what = match options.console_socket {
                Some(_) => "a console socket is given, and the process wants no terminal",
                None => "the process wants a terminal, and no console socket is given",
            };
            return Err(undo(&folder, BundleError::Console { what }));
        }
        let made = listen(&folder).and_then(|socket| self.make(&folder, &config, &record, options, Some(socket)));
        let (container, record) = made.map_err(|error| undo(&folder, error))?;
        drop(record);
        Ok(container.leave().1)
    }

    /// Makes a container and starts it at once.
    pub fn run(&self, id: &str, options: &CreateOptions) -> Result<Foreground, BundleError> {
        let (folder, config, record) = self.prepare(id, options)?;
        let made = self.make(&folder, &config, &record, options, None);
        let (container, record) = made.map_err(|error| undo(&folder, error))?;
        let hooks = config.spec.hooks().clone();
        let foreground = Foreground { folder, record, hooks, container };
        match foreground.poststart() {
            Ok(()) => Ok(foreground),
            Err(error) => {
                // It is killed; what is left of it goes away, too.
                let _ = foreground.wait(false);
                Err(error)
            }
        }
    }

    /// Reads the bundle and takes the name.
    fn prepare(&self, id: &str, options: &CreateOptions) -> Result<(Folder, Config, Record), BundleError> {
        let config = config::load(&options.bundle)?;
        let folder = Folder::make(&self.root, id)?;
        let record = Record {
            oci_version: config.spec.version().clone(),
            id: id.to_owned(),
            pid: 0,
            started: 0,
            bundle: config.bundle.clone(),
            rootfs: config.rootfs.clone(),
            created: options.now.clone(),
            annotations: config.spec.annotations().clone().unwrap_or_default().into_iter().collect(),
            owner: rustix::process::getuid().as_raw(),
            cgroups: Vec::new(),
        };
        Ok((folder, config, record))
    }

    /// Makes the container, and writes down what it is.
    fn make(
        &self,
        folder: &Folder,
        config: &Config,
        record: &Record,
        options: &CreateOptions,
        start: Option<OwnedFd>,
    ) -> Result<(Container, Record), BundleError> {
        folder.write("config.json", &config.bytes)?;
        let mut warnings = Vec::new();
        let linux = config.spec.linux().as_ref();
        let resources = linux.and_then(|linux| linux.resources().as_ref());
        let path = cgroup_path(linux.and_then(|linux| linux.cgroups_path().as_deref()), &folder.id);
        let cgroups = Cgroups::create_at(&path, resources, &mut warnings)?;
        let hooks = config.spec.hooks().as_ref();
        // What a hook of this namespace had to say is the better error.
        let failed_hook = RefCell::new(None);
        let run_hooks = |pid: u32| {
            let state = state_with(record, Status::Creating, pid);
            let prestart = hooks.and_then(|hooks| hooks.prestart().as_ref());
            let ran = hooks::run(prestart, &config.bundle, &state).and_then(|()| {
                hooks::run(hooks.and_then(|hooks| hooks.create_runtime().as_ref()), &config.bundle, &state)
            });
            ran.map_err(|error| {
                let what = error.to_string();
                *failed_hook.borrow_mut() = Some(error);
                StartError::BadSpec { what }
            })
        };
        let mut extras = Extras {
            start,
            kept: options.preserve_fds,
            no_pivot: options.no_pivot,
            keep_keyring: options.no_new_keyring,
            states: Some((state_text(record, Status::Creating), state_text(record, Status::Created))),
            hooks: Some(Box::new(run_hooks)),
            listener: Some(Box::new(|pid, listener| hand_listener_over(&config.spec, record, pid, listener))),
        };
        let stdio =
            if is_terminal(&config.spec) { Stdio::Terminal { size: size(&config.spec) } } else { Stdio::inherit() };
        let configuration = ContainerConfig {
            id: folder.id.clone(),
            spec: config.spec.clone(),
            rootfs: Rootfs::Folder(config.rootfs.clone()),
            stdio,
            network: Network::none(),
            cgroup_parent: None,
            die_with_parent: false,
        };
        let launched = launch_in(configuration, &mut extras, cgroups, warnings, None);
        let started = launched.and_then(|launched| launched.ready(&mut extras));
        drop(extras);
        let container = started.map_err(|error| failed_hook.take().unwrap_or(BundleError::Start(error)))?;
        let record = Record {
            pid: container.pid(),
            started: start_time(container.pid()).unwrap_or(0),
            cgroups: container.cgroup_folders().paths().to_vec(),
            ..record.clone()
        };
        if let (Some(socket), Some(terminal)) = (&options.console_socket, container.terminal()) {
            console::send_terminal(socket, terminal)?;
        }
        folder.write_record(&record)?;
        if let Some(path) = &options.pid_file {
            write_pid(path, record.pid)?;
        }
        Ok((container, record))
    }

    /// Starts the program of a container that was created.
    pub fn start(&self, id: &str) -> Result<(), BundleError> {
        let folder = Folder::find(&self.root, id)?;
        let _lock = folder.lock()?;
        let record = folder.record()?;
        let (Some(record), Status::Created) = (record.clone(), folder.status(record.as_ref())) else {
            return Err(wrong(&folder, record.as_ref(), "started"));
        };
        let spec = folder.spec()?;
        let socket = connect_start(&folder)?;
        // From now on it is no longer waiting, whatever comes of it.
        let _ = std::fs::remove_file(folder.socket());
        rustix::net::send(&socket, b"G", SendFlags::NOSIGNAL)
            .map_err(|error| BundleError::File { path: folder.socket(), source: error.into() })?;
        let mut exec_is_next = false;
        loop {
            let mut bytes = [0u8; LONGEST];
            let (length, received) = receive(&socket, &mut bytes)
                .map_err(|error| BundleError::File { path: folder.socket(), source: error.into() })?;
            match (bytes[..length].first(), received) {
                (None, _) if exec_is_next => break,
                (None, _) => return Err(failed_start(&spec, None).into()),
                (Some(b'X'), _) => exec_is_next = true,
                (Some(b'L'), Some(listener)) => hand_listener_over(&spec, &record, record.pid, listener)?,
                (Some(_), _) => return Err(failed_start(&spec, Some(&bytes[..length])).into()),
            }
        }
        poststart(spec.hooks().as_ref(), &record, || self.kill_and_wait(&record))
    }

    /// What is known of a container.
    pub fn state(&self, id: &str) -> Result<State, BundleError> {
        Folder::find(&self.root, id)?.state()
    }

    /// Every container, by name.
    pub fn list(&self) -> Result<Vec<State>, BundleError> {
        let entries = match std::fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(BundleError::File { path: self.root.clone(), source }),
        };
        let mut states = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|source| BundleError::File { path: self.root.clone(), source })?;
            let Some(id) = entry.file_name().to_str().map(str::to_owned) else { continue };
            match Folder::find(&self.root, &id).and_then(|folder| folder.state()) {
                Ok(state) => states.push(state),
                // It was deleted meanwhile, or is no container's.
                Err(BundleError::NoContainer { .. } | BundleError::Start(_)) => {}
                Err(error) => return Err(error),
            }
        }
        states.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(states)
    }

    /// The processes of a container.
    pub fn processes(&self, id: &str) -> Result<Vec<u32>, BundleError> {
        let folder = Folder::find(&self.root, id)?;
        match folder.record()? {
            Some(record) if !record.cgroups.is_empty() => Ok(record.cgroups().processes()),
            Some(record) if record.is_alive() => Ok(vec![record.pid]),
            _ => Ok(Vec::new()),
        }
    }

    /// Sends a signal to the first process, or to all.
    pub fn kill(&self, id: &str, signal: i32, all: bool) -> Result<(), BundleError> {
        let folder = Folder::find(&self.root, id)?;
        let record = folder.record()?;
        let status = folder.status(record.as_ref());
        let Some(record) = record else { return Err(wrong(&folder, None, "killed")) };
        let failed = |source| BundleError::Signal { what: format!("send signal {signal} to container `{id}`"), source };
        if all {
            return record.cgroups().signal(signal).map_err(failed);
        }
        if status == Status::Stopped {
            return Err(wrong(&folder, Some(&record), "killed"));
        }
        signal_first(&record, signal).map_err(failed)?;
        // What is frozen dies only when it goes on.
        if status == Status::Paused && signal == libc::SIGKILL {
            record.cgroups().freeze(false).map_err(failed)?;
        }
        Ok(())
    }

    /// Stops all processes of a container, or lets them go on.
    pub fn pause(&self, id: &str, paused: bool) -> Result<(), BundleError> {
        let folder = Folder::find(&self.root, id)?;
        let _lock = folder.lock()?;
        let record = folder.record()?;
        let (fits, verb) = match (folder.status(record.as_ref()), paused) {
            (Status::Running | Status::Created, true) => (true, "paused"),
            (Status::Paused, false) => (true, "resumed"),
            (_, true) => (false, "paused"),
            (_, false) => (false, "resumed"),
        };
        match record {
            Some(record) if fits => record.cgroups().freeze(paused).map_err(|source| BundleError::Signal {
                what: format!("{} container `{id}`", if paused { "pause" } else { "resume" }),
                source,
            }),
            record => Err(wrong(&folder, record.as_ref(), verb)),
        }
    }

    /// Gives a container other limits.
    pub fn update(&self, id: &str, resources: &LinuxResources) -> Result<Vec<Warning>, BundleError> {
        let folder = Folder::find(&self.root, id)?;
        let _lock = folder.lock()?;
        let record = folder.record()?;
        match (folder.status(record.as_ref()), record) {
            (Status::Running | Status::Created | Status::Paused, Some(record)) => {
                Ok(record.cgroups().limit(resources)?)
            }
            (_, record) => Err(wrong(&folder, record.as_ref(), "updated")),
        }
    }

    /// Removes all that is left of a container that has ended; with `force`, ends it first, and is content with none.
    pub fn delete(&self, id: &str, force: bool) -> Result<(), BundleError> {
        let folder = match Folder::find(&self.root, id) {
            Err(BundleError::NoContainer { .. }) if force => return Ok(()),
            other => other?,
        };
        let _lock = match folder.lock() {
            Err(BundleError::NoContainer { .. }) if force => return Ok(()),
            other => other?,
        };
        let record = folder.record()?;
        let status = folder.status(record.as_ref());
        let Some(record) = record else {
            if !force {
                return Err(wrong(&folder, None, "deleted"));
            }
            return folder.remove();
        };
        match status {
            Status::Stopped => {}
            // It never ran.
            Status::Created => self.kill_and_wait(&record)?,
            _ if force => self.kill_and_wait(&record)?,
            _ => return Err(wrong(&folder, Some(&record), "deleted")),
        }
        let spec = folder.spec()?;
        finish(&folder, &record, spec.hooks().as_ref())
    }

    /// Kills every process, and waits until they are gone.
    fn kill_and_wait(&self, record: &Record) -> Result<(), BundleError> {
        let failed = |source| BundleError::Signal { what: format!("kill container `{}`", record.id), source };
        let cgroups = record.cgroups();
        if cgroups.is_frozen() {
            // It is dying then, and does not get far.
            let _ = signal_first(record, libc::SIGKILL);
            cgroups.freeze(false).map_err(failed)?;
        }
        for _ in 0..KILL_TRIES {
            if record.is_alive() {
                signal_first(record, libc::SIGKILL).map_err(failed)?;
            }
            if cgroups.exist() && !cgroups.processes().is_empty() {
                cgroups.signal(libc::SIGKILL).map_err(failed)?;
            } else if !record.is_alive() {
                return Ok(());
            }
            std::thread::sleep(KILL_PAUSE);
        }
        Err(failed(io::Error::from(io::ErrorKind::TimedOut)))
    }

    /// The process of `config.json`, to run something like it.
    pub fn process(&self, id: &str) -> Result<Process, BundleError> {
        let spec = Folder::find(&self.root, id)?.spec()?;
        let process = spec.process().clone();
        Ok(process.ok_or_else(|| StartError::BadSpec { what: "the spec has no `process`".to_owned() })?)
    }

    /// Runs one more program in a container.
    pub fn exec(&self, id: &str, process: Process, options: &ExecOptions) -> Result<Container, BundleError> {
        let folder = Folder::find(&self.root, id)?;
        let record = folder.record()?;
        let fits = match folder.status(record.as_ref()) {
            Status::Running | Status::Created => true,
            Status::Paused => options.ignore_paused,
            Status::Creating | Status::Stopped => false,
        };
        let (Some(record), true) = (record.clone(), fits) else {
            return Err(wrong(&folder, record.as_ref(), "joined"));
        };
        let spec = folder.spec()?;
        let mut process = process;
        config::set_home(&mut process, &PathBuf::from(format!("/proc/{}/root", record.pid)));
        let terminal = process.terminal().unwrap_or(false);
        let size = process.console_size().map(|size| crate::Size {
            rows: u16::try_from(size.height()).unwrap_or(u16::MAX),
            columns: u16::try_from(size.width()).unwrap_or(u16::MAX),
        });
        let container = crate::exec(ExecConfig {
            pid: record.pid,
            started: Some(record.started),
            spec: &spec,
            process,
            stdio: if terminal { Stdio::Terminal { size } } else { Stdio::inherit() },
            die_with_parent: false,
            kept: options.preserve_fds,
        })?;
        if let (Some(socket), Some(terminal)) = (&options.console_socket, container.terminal()) {
            console::send_terminal(socket, terminal)?;
        }
        if let Some(path) = &options.pid_file {
            write_pid(path, container.pid())?;
        }
        Ok(container)
    }
}

/// How long the kernel may take to end every process.
const KILL_TRIES: u32 = 1000;
const KILL_PAUSE: Duration = Duration::from_millis(10);

impl Foreground {
    fn poststart(&self) -> Result<(), BundleError> {
        poststart(self.hooks.as_ref(), &self.record, || {
            self.container
                .kill(libc::SIGKILL)
                .map_err(|source| BundleError::Signal { what: "kill the container".to_owned(), source })
        })
    }

    /// Lets the container live on without this process.
    pub fn detach(self) -> Vec<Warning> {
        self.container.leave().1
    }

    /// Waits until the container has ended, and removes all that is left of it.
    pub fn wait(self, keep: bool) -> Result<ExitStatus, BundleError> {
        let Foreground { folder, record, hooks, container } = self;
        let status = container.wait_borrowed();
        // A process that a container with the host's PIDs left behind would keep its cgroup.
        let (_, _) = container.leave();
        if !keep {
            record.cgroups().signal(libc::SIGKILL).ok();
            finish(&folder, &record, hooks.as_ref())?;
        }
        Ok(status?)
    }
}

/// Removes what is left of a container whose processes have ended, and tells the hooks.
fn finish(folder: &Folder, record: &Record, hooks: Option<&Hooks>) -> Result<(), BundleError> {
    record.cgroups().remove();
    folder.remove()?;
    let poststop = hooks.and_then(|hooks| hooks.poststop().as_ref());
    // The container is gone whatever they do, so the others are run nevertheless.
    let state = state_with(record, Status::Stopped, 0);
    for hook in poststop.into_iter().flatten() {
        let _ = hooks::run(Some(&vec![hook.clone()]), &record.bundle, &state);
    }
    Ok(())
}

/// Runs the hooks that follow the start; when one fails, the container is killed.
fn poststart(
    hooks: Option<&Hooks>,
    record: &Record,
    kill: impl FnOnce() -> Result<(), BundleError>,
) -> Result<(), BundleError> {
    let list = hooks.and_then(|hooks| hooks.poststart().as_ref());
    if list.is_none_or(Vec::is_empty) {
        return Ok(());
    }
    let ran = hooks::run(list, &record.bundle, &state_with(record, Status::Running, record.pid));
    if ran.is_err() {
        kill()?;
    }
    ran
}

/// Forgets a container that did not come to be.
fn undo(folder: &Folder, error: BundleError) -> BundleError {
    // The first error is the one to tell.
    let _ = folder.remove();
    error
}

fn wrong(folder: &Folder, record: Option<&Record>, verb: &'static str) -> BundleError {
    BundleError::WrongStatus { id: folder.id.clone(), status: folder.status(record), verb }
}

fn is_terminal(spec: &Spec) -> bool {
    spec.process().as_ref().and_then(Process::terminal).unwrap_or(false)
}

fn size(spec: &Spec) -> Option<crate::Size> {
    let size = spec.process().as_ref()?.console_size()?;
    Some(crate::Size { rows: u16::try_from(size.height()).ok()?, columns: u16::try_from(size.width()).ok()? })
}

/// Where the cgroup is: `slice:prefix:name` is how systemd's driver names it.
fn cgroup_path(path: Option<&Path>, id: &str) -> PathBuf {
    let Some(path) = path.filter(|path| !path.as_os_str().is_empty()) else { return PathBuf::from(id) };
    match path.to_str().map(|text| text.split(':').collect::<Vec<_>>()).as_deref() {
        Some([slice, prefix, name]) => {
            let slice = if slice.is_empty() { "system.slice" } else { slice };
            let scope = if prefix.is_empty() { format!("{name}.scope") } else { format!("{prefix}-{name}.scope") };
            Path::new("/").join(slice).join(scope)
        }
        _ => path.to_owned(),
    }
}

fn signal_first(record: &Record, signal: i32) -> io::Result<()> {
    let pid = i32::try_from(record.pid).ok().and_then(rustix::process::Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    let handle = match rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
        // It has just ended.
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        other => other?,
    };
    // Its number may have become another's before the handle was opened.
    if !record.is_alive() {
        return Ok(());
    }
    crate::container::send_signal(handle.as_fd(), signal)
}

fn write_pid(path: &Path, pid: u32) -> Result<(), BundleError> {
    let failed = |source| BundleError::File { path: path.to_owned(), source };
    let name = path.file_name().ok_or_else(|| failed(io::Error::from(io::ErrorKind::InvalidInput)))?;
    let temporary = path.with_file_name(format!(".{}", name.to_string_lossy()));
    let written = std::fs::File::create(&temporary)
        .and_then(|mut file| io::Write::write_all(&mut file, pid.to_string().as_bytes()))
        .and_then(|()| std::fs::rename(&temporary, path));
    written.map_err(failed)
}

/// Makes the socket at which the program waits.
fn listen(folder: &Folder) -> Result<OwnedFd, BundleError> {
    let (_folder, path) = folder.short_socket()?;
    let failed = |error: rustix::io::Errno| BundleError::File { path: folder.socket(), source: error.into() };
    let address = SocketAddrUnix::new(&path).map_err(failed)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let socket = socket.map_err(failed)?;
    rustix::net::bind(&socket, &address).map_err(failed)?;
    rustix::net::listen(&socket, 8).map_err(failed)?;
    Ok(socket)
}

fn connect_start(folder: &Folder) -> Result<OwnedFd, BundleError> {
    let (_folder, path) = folder.short_socket()?;
    let failed = |error: rustix::io::Errno| BundleError::File { path: folder.socket(), source: error.into() };
    let address = SocketAddrUnix::new(&path).map_err(failed)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let socket = socket.map_err(failed)?;
    rustix::net::connect(&socket, &address).map_err(failed)?;
    Ok(socket)
}

/// Sends the listener of a seccomp filter, with what it is about, to the agent that the spec names.
fn hand_listener_over(spec: &Spec, record: &Record, pid: u32, listener: OwnedFd) -> Result<(), StartError> {
    let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let path = seccomp.and_then(|seccomp| seccomp.listener_path().as_ref());
    let path = path.ok_or_else(|| StartError::BadSpec { what: "SCMP_ACT_NOTIFY needs `listenerPath`".to_owned() })?;
    let state: serde_json::Value = serde_json::from_slice(&state_with(record, Status::Creating, pid))
        .expect("the state is JSON that was just made");
    let text = serde_json::json!({
        "ociVersion": record.oci_version,
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": seccomp.and_then(|seccomp| seccomp.listener_metadata().clone()).unwrap_or_default(),
        "state": state,
    });
    let sent = console::connect(path).map_err(|error| match error {
        BundleError::File { source, .. } => source,
        other => io::Error::other(other.to_string()),
    });
    sent.and_then(|socket| console::send(socket.as_fd(), text.to_string().as_bytes(), listener.as_fd()))
        .map_err(|source| StartError::Setup { what: format!("seccomp agent `{}`", path.display()), source })
}
