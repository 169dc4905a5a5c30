//! A plain user's own world, in which they are root: a user namespace, and a network namespace for all their bridges.
//!
//! ```text
//! command -- setns --> user namespace <-- holds -- keeper, in the network namespace where the user's bridges are
//!    '-- fork, exec --> supervisor -- clone --> container
//!
//! FOLDER/lock      held by whoever enters, and by the keeper when it ends
//!        users     held together by everybody who is in there
//!        keeper    the keeper: its number, when it started, and what is to be told of this world
//!        uplink    the program that leads from there to the machine's network
//!        network/  who has which address
//! ```
//!
//! All containers of a user are in one world: who is in another one could neither signal them nor join them. The keeper is
//! forked by the first command, and ends when the last container and the last command have.

use crate::network::uplink;
use crate::owner::start_time;
use crate::start_error::StartError;
use crate::sys;
use crate::user_namespace::IdMaps;
use oci::IdRange;
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, flock};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

/// Why a plain user has no world.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum WorldError {
    #[error("cannot use `{}`", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("`{}` is not a folder of yours alone", path.display())]
    NotOurs { path: PathBuf },
    #[error("this machine lets plain users make no user namespaces")]
    NoNamespace(#[source] io::Error),
    #[error("cannot map users")]
    Map(#[source] StartError),
    #[error("cannot enter the user namespace of your containers")]
    Enter(#[source] io::Error),
}

/// The world that this process is in.
#[derive(Debug)]
pub struct World {
    folder: PathBuf,
    notice: Option<String>,
    network: OwnedFd,
    keeper: OwnedFd,
    /// Keeps the keeper.
    _user: OwnedFd,
}

static WORLD: OnceLock<World> = OnceLock::new();

/// The world that this process has entered, if it is a plain user's.
pub fn world() -> Option<&'static World> {
    WORLD.get()
}

impl World {
    /// What this world cannot do, in a sentence for the user.
    pub fn notice(&self) -> Option<&str> {
        self.notice.as_deref()
    }

    /// Where addresses are kept.
    pub fn network_state(&self) -> PathBuf {
        self.folder.join("network")
    }

    /// A handle of the keeper, which is readable when it was killed: then nobody who comes later finds this world.
    pub fn keeper(&self) -> BorrowedFd<'_> {
        self.keeper.as_fd()
    }

    /// The namespace that the bridges are in.
    pub(crate) fn network(&self) -> &OwnedFd {
        &self.network
    }

    /// Leads from the bridges to the machine's network, unless something does already; says why that cannot be.
    pub fn connect(&self) -> Result<(), uplink::UplinkError> {
        let lock = lock(&self.folder.join("lock"), FlockOperation::LockExclusive);
        let _lock = lock.map_err(uplink::UplinkError::Start)?;
        uplink::ensure(&self.folder, &self.network)
    }
}

/// Whether this process is in a user namespace that is not the machine's own.
///
/// Even root is not allowed everything there: to make device nodes, or to set `trusted` attributes.
pub fn is_confined() -> bool {
    static CONFINED: OnceLock<bool> = OnceLock::new();
    *CONFINED.get_or_init(|| outside_root().is_some())
}

/// Whether nobody here may leave a group, as in the world of a user without further numbers.
pub(crate) fn keeps_groups() -> bool {
    is_confined() && std::fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text.trim() == "deny")
}

/// Whether a group's number means somebody here.
pub(crate) fn has_group(group: u32) -> bool {
    let text = std::fs::read_to_string("/proc/self/gid_map").unwrap_or_default();
    IdRange::parse_all(&text).iter().any(|range| range.outside_of(group).is_some())
}

/// Who root is outside, when this is not the machine's own user namespace.
fn outside_root() -> Option<u32> {
    let text = std::fs::read_to_string("/proc/self/uid_map").ok()?;
    match IdRange::parse_all(&text).first()? {
        &IdRange::EVERYBODY => None,
        range => Some(range.outside_of(0).unwrap_or(u32::MAX)),
    }
}

/// Enters a plain user's world, and makes it if there is none; root stays where it is.
///
/// A process that was started in there finds out that it is. Call this while there is one thread. `places` gives the folders
/// of a user where the world's files may be: they are where there is a world, else in the first of them.
///
/// # Errors
///
/// When there can be none; then nothing has changed.
pub fn enter(places: impl FnOnce(u32) -> Vec<PathBuf>) -> Result<(), WorldError> {
    let own = rustix::process::geteuid();
    let inside = match (own.is_root(), outside_root()) {
        (true, None) => return Ok(()),
        (true, Some(user)) => Some(user),
        (false, _) => None,
    };
    let mut places = places(inside.unwrap_or(own.as_raw())).into_iter();
    let Some(first) = places.next() else { return Ok(()) };
    let has_world = |folder: &PathBuf| is_ours(folder).unwrap_or(false) && Keeper::find(folder).is_some();
    let folder = if has_world(&first) { first } else { places.find(has_world).unwrap_or(first) };
    if inside.is_some() && !folder.join("keeper").exists() {
        // Root of a world that is not ours.
        return Ok(());
    }
    make_folder(&folder)?;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| WorldError::File { path, source }
    };
    let (lock_path, users) = (folder.join("lock"), folder.join("users"));
    let _lock = lock(&lock_path, FlockOperation::LockExclusive).map_err(failed(&lock_path))?;
    let user = lock(&users, FlockOperation::LockShared).map_err(failed(&users))?;
    let keeper = match (Keeper::find(&folder), inside) {
        (Some(keeper), None) => {
            keeper.join().map_err(WorldError::Enter)?;
            keeper
        }
        (None, None) => {
            let keeper = Keeper::start(&folder)?;
            keeper.join().map_err(WorldError::Enter)?;
            keeper
        }
        (Some(keeper), Some(_)) if keeper.is_ours() => keeper,
        (_, Some(_)) => return Ok(()),
    };
    let path = format!("/proc/{}/ns/net", keeper.pid);
    let network = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let network = network.map_err(|error| WorldError::Enter(error.into()))?;
    // Nobody else is here to set it first.
    let _ = WORLD.set(World { folder, notice: keeper.notice, network, keeper: keeper.handle, _user: user });
    Ok(())
}

/// Makes the folder, and sees to it that nobody else can put anything there.
fn make_folder(folder: &Path) -> Result<(), WorldError> {
    let failed = |source| WorldError::File { path: folder.to_owned(), source };
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    if is_ours(folder).map_err(failed)? { Ok(()) } else { Err(WorldError::NotOurs { path: folder.to_owned() }) }
}

/// Whether it is a folder of this user's, to which nobody else can add anything.
fn is_ours(folder: &Path) -> io::Result<bool> {
    let found = std::fs::symlink_metadata(folder)?;
    Ok(found.is_dir() && found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o022 == 0)
}

fn lock(path: &Path, how: FlockOperation) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?;
    flock(&file, how)?;
    Ok(file)
}

/// The process that keeps a world.
struct Keeper {
    pid: u32,
    handle: OwnedFd,
    notice: Option<String>,
}

impl Keeper {
    /// Finds the one that lives. The caller has the lock.
    fn find(folder: &Path) -> Option<Keeper> {
        let text = std::fs::read_to_string(folder.join("keeper")).ok()?;
        let (first, notice) = text.split_once('\n')?;
        let (pid, start) = first.split_once(' ')?;
        let (pid, start) = (pid.parse().ok()?, start.parse().ok()?);
        let handle = pidfd_open(Pid::from_raw(i32::try_from(pid).ok()?)?, PidfdFlags::empty()).ok()?;
        // The number may be another process's by now.
        (start_time(pid) == Some(start)).then_some(())?;
        Some(Keeper { pid, handle, notice: Some(notice.to_owned()).filter(|notice| !notice.is_empty()) })
    }

    /// Starts one. The caller has the lock.
    fn start(folder: &Path) -> Result<Keeper, WorldError> {
        // One of a keeper that was killed would be taken for ours, and leads out of a namespace that nobody is in.
        uplink::end(folder);
        let alone = IdMaps::of_user_alone();
        let (pid, notice) = match subordinate_maps() {
            Err(lacking) => (fork_keeper(folder, &alone)?, Some(lacking)),
            Ok(maps) => match fork_keeper(folder, &maps) {
                Err(WorldError::Map(error)) => {
                    let reason = error_text(&error);
                    (fork_keeper(folder, &alone)?, Some(reason))
                }
                other => (other?, None),
            },
        };
        let path = folder.join("keeper");
        let failed = |source| WorldError::File { path: path.clone(), source };
        let handle = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| failed(error.into()))?;
        let pid = pid.as_raw_nonzero().get().unsigned_abs();
        let start = start_time(pid).unwrap_or(0);
        let notice = notice.map(|lacking| {
            format!(
                "only your own user is mapped, so all files of images become yours, and programs can be root alone: \
                 {lacking}"
            )
        });
        let text = format!("{pid} {start}\n{}", notice.as_deref().unwrap_or_default().replace('\n', " "));
        // Read under the lock that we have: nobody sees half of it.
        File::create(&path).and_then(|mut file| file.write_all(text.as_bytes())).map_err(failed)?;
        Ok(Keeper { pid, handle, notice })
    }

    /// Enters its user namespace, and a mount namespace of one's own.
    fn join(&self) -> io::Result<()> {
        let entered = sys::setns(self.handle.as_raw_fd(), libc::CLONE_NEWUSER);
        entered.and_then(|()| sys::unshare(libc::CLONE_NEWNS)).map_err(io::Error::from_raw_os_error)
    }

    /// Whether this process is in its user namespace.
    fn is_ours(&self) -> bool {
        let link = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/user")).ok();
        link("self").is_some_and(|own| link(&self.pid.to_string()) == Some(own))
    }
}

fn error_text(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// The user, and the numbers that `/etc/subuid` and `/etc/subgid` give to them; or what is missing.
fn subordinate_maps() -> Result<IdMaps, String> {
    let user = rustix::process::getuid().as_raw();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = name_of(&passwd, user);
    let ranges = |path: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let ranges = subordinate_ranges(&text, name, user);
        let lacking = || format!("`{path}` has no line such as `{}:100000:65536`", name.unwrap_or("you"));
        if ranges.is_empty() { Err(lacking()) } else { Ok(ranges) }
    };
    let (users, groups) = (ranges("/etc/subuid")?, ranges("/etc/subgid")?);
    Ok(IdMaps::with_subordinates(&users, &groups))
}

fn name_of(passwd: &str, user: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(user)).then_some(name)
    })
}

/// The ranges of a user, by name or number: the first number outside, and how many.
fn subordinate_ranges(text: &str, name: Option<&str>, user: u32) -> Vec<(u32, u32)> {
    let number = user.to_string();
    let range = |line: &str| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let (first, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        ((Some(owner) == name || owner == number) && count > 0).then_some((first, count))
    };
    text.lines().filter_map(range).collect()
}

/// Makes the process that keeps a world with these users.
fn fork_keeper(folder: &Path, maps: &IdMaps) -> Result<Pid, WorldError> {
    let broken = |source: io::Error| WorldError::NoNamespace(source);
    let (mut said, say) = io::pipe().map_err(broken)?;
    let (hear, mut tell) = io::pipe().map_err(broken)?;
    // SAFETY: this process has one thread, so the child may do whatever it could.
    match unsafe { libc::fork() } {
        -1 => Err(broken(io::Error::last_os_error())),
        0 => {
            drop((said, tell));
            let code = i32::from(keep(folder, hear, say).is_err());
            // SAFETY: it ends this process at once: what its parent has to clean up is not its affair.
            unsafe { libc::_exit(code) }
        }
        pid => {
            drop((hear, say));
            let pid = Pid::from_raw(pid).expect("fork gave it");
            let made = (|| {
                expect(&mut said)?;
                maps.give_to(pid.as_raw_nonzero().get().unsigned_abs()).map_err(WorldError::Map)?;
                tell.write_all(b"g").map_err(broken)?;
                expect(&mut said)
            })();
            made.map(|()| pid).inspect_err(|_| {
                // It ends by itself, too, when nobody talks to it any more.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
            })
        }
    }
}

/// Reads that a step of the keeper's is done, or its error's number.
fn expect(said: &mut impl Read) -> Result<(), WorldError> {
    let mut bytes = [0; 4];
    let read = said.read_exact(&mut bytes).map(|()| i32::from_ne_bytes(bytes));
    match read {
        Ok(0) => Ok(()),
        Ok(number) => Err(WorldError::NoNamespace(io::Error::from_raw_os_error(number))),
        Err(error) => Err(WorldError::NoNamespace(error)),
    }
}

/// How long a world stays when nobody is in it.
const LINGER: Duration = Duration::from_millis(500);

/// Is the keeper, in a process of its own.
fn keep(folder: &Path, mut hear: impl Read + AsFd, mut say: impl Write + AsFd) -> io::Result<()> {
    let mut step = |result: Result<(), i32>| {
        say.write_all(&result.err().unwrap_or(0).to_ne_bytes())?;
        result.map_err(io::Error::from_raw_os_error)
    };
    rustix::process::setsid()?;
    // With this process all containers would end: it ends by itself when there is none.
    sys::hold_ending_signals();
    step(sys::unshare(libc::CLONE_NEWUSER))?;
    hear.read_exact(&mut [0])?;
    let number = |error: io::Error| error.raw_os_error().unwrap_or(libc::EIO);
    step(sys::unshare(libc::CLONE_NEWNET).and_then(|()| crate::network::raise_loopback().map_err(number)))?;
    rustix::process::chdir("/")?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    // The locks of whoever forked this are not its own.
    sys::close_range(3, u32::MAX).map_err(io::Error::from_raw_os_error)?;
    sys::prctl(libc::PR_SET_NAME, c"slipway-keeper".as_ptr() as u64, 0).map_err(io::Error::from_raw_os_error)?;
    let open = |name: &str| {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::openat(CWD, folder.join(name), flags, Mode::RUSR | Mode::WUSR)
    };
    let (users, lock) = (open("users")?, open("lock")?);
    loop {
        flock(&users, FlockOperation::LockExclusive)?;
        flock(&users, FlockOperation::Unlock)?;
        // The next command may come at once, or this one may be starting anew.
        std::thread::sleep(LINGER);
        // Nobody can be entering who has not both.
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            if flock(&users, FlockOperation::NonBlockingLockExclusive).is_ok() {
                break;
            }
            flock(&lock, FlockOperation::Unlock)?;
        }
    }
    uplink::end(folder);
    Ok(rustix::fs::unlinkat(CWD, folder.join("keeper"), AtFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_by_number() {
        let text = "other:1:2\nme:100000:65536\n1001:300000:10\nme:7:0\nme:x:1\n# me:1:1\n";
        assert_eq!(subordinate_ranges(text, Some("me"), 1001), [(100_000, 65_536), (300_000, 10)]);
        assert_eq!(subordinate_ranges(text, None, 1001), [(300_000, 10)]);
        assert_eq!(name_of("root:x:0:0::/:/bin/sh\nme:x:1001:1001::/:/bin/sh\n", 1001), Some("me"));
        assert_eq!(name_of("short\nme:x:1001", 7), None);
    }

    #[test]
    fn the_folder_is_ours_alone() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let temporary = tempfile::tempdir().unwrap();
        let (folder, link) = (temporary.path().join("world"), temporary.path().join("link"));
        make_folder(&folder).unwrap();
        make_folder(&folder).unwrap();
        symlink(&folder, &link).unwrap();
        assert!(matches!(make_folder(&link), Err(WorldError::NotOurs { .. })));
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(make_folder(&folder), Err(WorldError::NotOurs { .. })));
    }
}
