//! `--ssh`: the agents that a build may use, and how a step reaches one.
//!
//! A step never sees the socket of the agent itself, but one of its own that leads there and is gone with the step: so it
//! has the owner and mode that the step asks for. Key files are given to an agent of OpenSSH that lives as long as the
//! build.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal};

use crate::machine::PrivateFolder;
use crate::remote::Environment;

/// One `--ssh ID[=SOCKET|KEY,…]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshSource {
    /// How `RUN --mount=type=ssh` calls it.
    pub id: String,
    /// The socket of an agent, or keys; the user's own agent when there are none.
    pub paths: Vec<PathBuf>,
}

/// Why an agent cannot be offered.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum SshError {
    #[error("`--ssh {id}` means the SSH agent of the environment, and there is none")]
    NoAgent { id: String },
    #[error("`--ssh {id}`: cannot read `{}`", path.display())]
    Read { id: String, path: PathBuf, source: io::Error },
    #[error("`--ssh {id}`: an agent's socket stands alone, without other sockets or keys")]
    SeveralSockets { id: String },
    #[error("`--ssh {id}` is there twice")]
    Twice { id: String },
    #[error("`--ssh {id}` names keys, and the program `ssh-agent` that would hold them is not installed")]
    NoProgram { id: String },
    #[error("`--ssh {id}`: the program `ssh-agent` cannot be run")]
    Run { id: String, source: io::Error },
    #[error("`--ssh {id}`: the keys cannot be used{said}")]
    Keys { id: String, said: String },
}

impl SshError {
    /// Returns what a user can do.
    pub(crate) fn advice(&self) -> Option<&'static str> {
        match self {
            Self::NoAgent { .. } => {
                Some("start one with `eval $(ssh-agent)` and `ssh-add`, so that SSH_AUTH_SOCK is set")
            }
            Self::NoProgram { .. } => Some("install OpenSSH's client; on Debian: `apt-get install openssh-client`"),
            Self::Keys { .. } => {
                Some("a key with a passphrase must be in an agent: `ssh-add KEY`, and then `--ssh default`")
            }
            Self::Read { .. } | Self::SeveralSockets { .. } | Self::Twice { .. } | Self::Run { .. } => None,
        }
    }
}

/// The agents of a build, until this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Agents {
    /// Their sockets, by ID.
    pub(crate) sockets: BTreeMap<String, PathBuf>,
    /// Those that hold keys for us alone.
    own: Vec<KeyAgent>,
}

impl Agents {
    /// Finds or starts the agents that are wanted.
    pub(crate) fn open(sources: &[SshSource], environment: &Environment) -> Result<Self, SshError> {
        let mut agents = Self::default();
        for SshSource { id, paths } in sources {
            let socket = match paths.as_slice() {
                [] => {
                    let socket = environment.get("SSH_AUTH_SOCK").filter(|path| !path.is_empty());
                    PathBuf::from(socket.ok_or_else(|| SshError::NoAgent { id: id.clone() })?)
                }
                paths => {
                    let is_socket = |path: &PathBuf| match fs::metadata(path) {
                        Ok(metadata) => Ok(metadata.file_type().is_socket()),
                        Err(source) => Err(SshError::Read { id: id.clone(), path: path.clone(), source }),
                    };
                    let sockets = paths.iter().map(is_socket).collect::<Result<Vec<_>, _>>()?;
                    match (sockets.contains(&true), paths) {
                        (true, [socket]) => socket.clone(),
                        (true, _) => return Err(SshError::SeveralSockets { id: id.clone() }),
                        (false, keys) => {
                            let agent = KeyAgent::start(id, keys, environment)?;
                            let socket = agent.socket.clone();
                            agents.own.push(agent);
                            socket
                        }
                    }
                }
            };
            if agents.sockets.insert(id.clone(), socket).is_some() {
                return Err(SshError::Twice { id: id.clone() });
            }
        }
        Ok(agents)
    }
}

/// An `ssh-agent` of ours. It ends with the process that it was started around, which ends with us, however that may be.
#[derive(Debug)]
struct KeyAgent {
    /// Reads until we are gone.
    waiting: Child,
    agent: Option<Pid>,
    socket: PathBuf,
    _folder: PrivateFolder,
}

/// Adds the keys, tells which process the agent is, and waits until standard input ends.
const HOLD: &str = "ssh-add -q -- \"$@\" </dev/null && echo \"$SSH_AGENT_PID\" && exec cat";

impl KeyAgent {
    fn start(id: &str, keys: &[PathBuf], environment: &Environment) -> Result<Self, SshError> {
        let id = id.to_owned();
        let folder = PrivateFolder::new().map_err(|source| SshError::Run { id: id.clone(), source })?;
        let socket = folder.path().join(SOCKET);
        #[expect(clippy::disallowed_methods, reason = "keys are held by OpenSSH's own agent")]
        let mut command = Command::new("ssh-agent");
        command.arg("-a").arg(&socket).args(["sh", "-c", HOLD, "sh"]).args(keys).env_clear();
        command.envs(environment.variables(true).map(|(name, value)| (name, value))).env("LC_ALL", "C");
        // Nobody is asked for a passphrase.
        command.env("SSH_ASKPASS", "/bin/false").env("SSH_ASKPASS_REQUIRE", "force");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let waiting = command.spawn().map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => SshError::NoProgram { id: id.clone() },
            _ => SshError::Run { id: id.clone(), source },
        })?;
        let mut agent = Self { waiting, agent: None, socket, _folder: folder };
        let mut line = String::new();
        if let Some(stdout) = agent.waiting.stdout.take() {
            let read = BufReader::new(stdout.take(64)).read_line(&mut line);
            read.map_err(|source| SshError::Run { id: id.clone(), source })?;
        }
        match line.trim().parse().ok().and_then(Pid::from_raw) {
            Some(pid) => agent.agent = Some(pid),
            None => {
                let said = agent.waiting.stderr.take().map(said).unwrap_or_default();
                return Err(SshError::Keys { id, said });
            }
        }
        Ok(agent)
    }
}

/// Reads what a program complained about, as the end of a message.
fn said(stderr: impl Read) -> String {
    let mut bytes = Vec::new();
    // Less of it is as good.
    let _ = stderr.take(4096).read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().map(str::trim).filter(|line| line.chars().any(char::is_alphanumeric));
    let text = lines.collect::<Vec<_>>().join("; ");
    let text: String = text.chars().filter(|c| !c.is_control()).take(400).collect();
    if text.is_empty() { text } else { format!(": {text}") }
}

impl Drop for KeyAgent {
    fn drop(&mut self) {
        drop(self.waiting.stdin.take());
        if let Some(agent) = self.agent {
            // It may be gone already.
            let _ = rustix::process::kill_process(agent, Signal::TERM);
        }
        let _ = self.waiting.wait();
    }
}

/// How sockets are called in folders of their own.
const SOCKET: &str = "agent";

/// So many connections of a step are open at once; further ones are closed. Each costs two threads and four files.
const MOST_OPEN: usize = 64;

/// A socket that leads to an agent, until this is dropped.
#[derive(Debug)]
pub(crate) struct Forwarded {
    /// Where it is.
    pub(crate) path: PathBuf,
    listener: Arc<UnixListener>,
    open: Arc<Mutex<Open>>,
    _folder: PrivateFolder,
}

/// The connections.
#[derive(Debug, Default)]
struct Open {
    /// Both ends of those that are open, to be broken off.
    ends: BTreeMap<u64, [UnixStream; 2]>,
    count: u64,
    /// Whether there are to be no more.
    closed: bool,
}

impl Forwarded {
    /// Listens on behalf of an agent.
    pub(crate) fn start(agent: &Path, mode: u32, uid: u32, gid: u32) -> io::Result<Self> {
        // Somebody must be there, or else the step learns of it much later and in other words.
        drop(UnixStream::connect(agent)?);
        let folder = PrivateFolder::new()?;
        let path = folder.path().join(SOCKET);
        let listener = Arc::new(UnixListener::bind(&path)?);
        std::os::unix::fs::chown(&path, Some(uid), Some(gid))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        let forwarded = Self { path, listener: listener.clone(), open: Arc::default(), _folder: folder };
        let (open, agent) = (forwarded.open.clone(), agent.to_owned());
        std::thread::Builder::new().name("ssh".into()).spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                // What cannot be connected is closed, and whoever asked sees that.
                let _ = connect(client, &agent, &open);
            }
        })?;
        Ok(forwarded)
    }
}

fn connect(client: UnixStream, agent: &Path, open: &Arc<Mutex<Open>>) -> io::Result<()> {
    if lock(open).ends.len() >= MOST_OPEN {
        return Ok(());
    }
    let agent = UnixStream::connect(agent)?;
    let (client_end, agent_end) = (client.try_clone()?, agent.try_clone()?);
    let ends = [client.try_clone()?, agent.try_clone()?];
    let number = {
        let mut open = lock(open);
        if open.closed {
            return Ok(());
        }
        open.count += 1;
        let number = open.count;
        open.ends.insert(number, ends);
        number
    };
    let copy = |from: &UnixStream, to: &UnixStream| {
        // However this direction ended, the other end is to know.
        let _ = io::copy(&mut &*from, &mut &*to);
        let _ = to.shutdown(Shutdown::Write);
    };
    let held = open.clone();
    let spawned = std::thread::Builder::new().name("ssh".into()).spawn(move || {
        let back = std::thread::Builder::new().name("ssh".into()).spawn(move || copy(&agent_end, &client_end));
        if let Ok(back) = back {
            copy(&client, &agent);
            // It only copies bytes.
            let _ = back.join();
        }
        lock(&held).ends.remove(&number);
    });
    spawned.map(drop).inspect_err(|_| drop(lock(open).ends.remove(&number)))
}

fn lock(open: &Mutex<Open>) -> MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        // Wakes the thread that waits for connections, which then ends.
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
        let mut open = lock(&self.open);
        open.closed = true;
        for stream in std::mem::take(&mut open.ends).into_values().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn r7_a_step_talks_to_the_agent_until_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent");
        let agent = UnixListener::bind(&socket).unwrap();
        let echo = std::thread::spawn(move || {
            // The first connection only looks whether somebody is there.
            drop(agent.accept().unwrap());
            let (stream, _) = agent.accept().unwrap();
            io::copy(&mut &stream, &mut &stream).unwrap()
        });
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        let forwarded = Forwarded::start(&socket, 0o640, uid, gid).unwrap();
        let path = forwarded.path.clone();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"question").unwrap();
        let mut answer = [0; 8];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"question");
        drop(forwarded);
        assert!(!path.exists());
        assert_eq!(client.read(&mut answer).unwrap(), 0);
        assert_eq!(echo.join().unwrap(), 8);
        assert!(Forwarded::start(&folder.path().join("none"), 0o600, uid, gid).is_err());
    }

    #[test]
    fn a_step_may_connect_as_often_as_it_likes_but_not_hold_on_to_all() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent");
        let agent = UnixListener::bind(&socket).unwrap();
        std::thread::spawn(move || {
            for stream in agent.incoming().flatten() {
                // Answers, and waits for the other side to go.
                std::thread::spawn(move || io::copy(&mut &stream, &mut &stream));
            }
        });
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let forwarded = Forwarded::start(&socket, 0o666, uid, gid).unwrap();
        let around = forwarded.path.parent().unwrap();
        assert_eq!(fs::metadata(around).unwrap().permissions().mode() & 0o7777, 0o700);
        let ask = || {
            let mut client = UnixStream::connect(&forwarded.path).unwrap();
            let mut answer = [0; 1];
            let answered = client.write_all(b"x").and_then(|()| client.read_exact(&mut answer));
            answered.is_ok().then_some(client)
        };
        let held: Vec<_> = (0..MOST_OPEN).map(|_| ask().expect("room")).collect();
        assert!(ask().is_none());
        for client in held {
            client.shutdown(Shutdown::Write).unwrap();
            // Both directions have ended once there is nothing more to read.
            assert_eq!((&client).read(&mut [0; 1]).unwrap(), 0);
        }
        while !lock(&forwarded.open).ends.is_empty() {
            std::thread::yield_now();
        }
        for _ in 0..2 * MOST_OPEN {
            while ask().is_none() {
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn agents_that_cannot_be_offered_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent");
        let _agent = UnixListener::bind(&socket).unwrap();
        let open = |paths: &[&Path]| {
            let source = SshSource { id: "x".into(), paths: paths.iter().map(|path| path.to_path_buf()).collect() };
            Agents::open(std::slice::from_ref(&source), &Environment::default())
                .map(|agents| agents.sockets.into_values().collect())
        };
        assert!(matches!(open(&[]), Err(SshError::NoAgent { .. })));
        assert!(matches!(open(&[&folder.path().join("none")]), Err(SshError::Read { .. })));
        assert!(matches!(open(&[&socket, &socket]), Err(SshError::SeveralSockets { .. })));
        let found: Vec<PathBuf> = open(&[&socket]).unwrap();
        assert_eq!(found, [socket]);
    }
}
