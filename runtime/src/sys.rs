//! Raw system calls for the child between clone and exec: no allocation, no locks, no errno.
//!
//! Everything takes what the kernel takes, file descriptors as numbers and texts as [`CStr`], and gives
//! back the kernel's number or its error. The caller's memory is the only state.

use std::ffi::CStr;
use syscalls::{Sysno, syscall};

/// What a system call gives: a number, or the error's number.
pub(crate) type Result<T> = std::result::Result<T, i32>;

/// A file descriptor as a number, so that it crosses a clone without being closed twice.
pub(crate) type Fd = i32;

/// The current folder, or the root of absolute paths.
pub(crate) const AT_FDCWD: Fd = libc::AT_FDCWD;

pub(crate) const FSOPEN_CLOEXEC: u32 = 1;
pub(crate) const FSMOUNT_CLOEXEC: u32 = 1;
const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;
pub(crate) const OPEN_TREE_CLONE: u32 = 1;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 4;
const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;

pub(crate) const MOUNT_ATTR_RDONLY: u64 = 0x1;
pub(crate) const MOUNT_ATTR_NOSUID: u64 = 0x2;
pub(crate) const MOUNT_ATTR_NODEV: u64 = 0x4;
pub(crate) const MOUNT_ATTR_NOEXEC: u64 = 0x8;
pub(crate) const MOUNT_ATTR_NOATIME: u64 = 0x10;
pub(crate) const MOUNT_ATTR_STRICTATIME: u64 = 0x20;
pub(crate) const MOUNT_ATTR_ATIME_MASK: u64 = 0x70;
pub(crate) const MOUNT_ATTR_NODIRATIME: u64 = 0x80;
pub(crate) const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
pub(crate) const MOUNT_ATTR_NOSYMFOLLOW: u64 = 0x0020_0000;

pub(crate) const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
pub(crate) const RESOLVE_NO_SYMLINKS: u64 = 0x04;
pub(crate) const RESOLVE_IN_ROOT: u64 = 0x10;

/// Requests for `ioctl`; libc gives them another type on each platform.
pub(crate) const TIOCSPTLCK: u32 = 0x4004_5431;
pub(crate) const TIOCGPTPEER: u32 = 0x5441;
pub(crate) const TIOCSCTTY: u32 = 0x540e;
pub(crate) const TIOCSWINSZ: u32 = 0x5414;
pub(crate) const SIOCADDRT: u32 = 0x890b;
pub(crate) const SIOCGIFFLAGS: u32 = 0x8913;
pub(crate) const SIOCSIFFLAGS: u32 = 0x8914;
pub(crate) const SIOCSIFADDR: u32 = 0x8916;
pub(crate) const SIOCSIFNETMASK: u32 = 0x891c;

/// Turns what the kernel returned into this module's result.
fn done(result: std::result::Result<usize, syscalls::Errno>) -> Result<usize> {
    result.map_err(syscalls::Errno::into_raw)
}

/// A system call with any arguments; each is a number or a pointer that outlives the call.
macro_rules! call {
    // SAFETY: every use passes pointers to live values of the size that the call expects.
    ($number:ident $(, $argument:expr)*) => { done(unsafe { syscall!(Sysno::$number $(, $argument)*) }) };
}

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// Opens `path` below `root`; `resolve` says how far links may lead.
pub(crate) fn openat2(root: Fd, path: *const u8, flags: i32, mode: u32, resolve: u64) -> Result<Fd> {
    let how = OpenHow { flags: flags as u32 as u64, mode: u64::from(mode), resolve };
    loop {
        // EAGAIN: something was renamed while the kernel walked; it asks to be called again.
        match call!(openat2, root, path, &raw const how, size_of::<OpenHow>()) {
            Ok(fd) => return Ok(fd as Fd),
            Err(libc::EAGAIN) => {}
            Err(error) => return Err(error),
        }
    }
}

pub(crate) fn open(path: &CStr, flags: i32) -> Result<Fd> {
    call!(openat, AT_FDCWD, path.as_ptr(), flags, 0).map(|fd| fd as Fd)
}

pub(crate) fn close(fd: Fd) {
    // Nothing can be done about a failing close of what was only read.
    let _ = call!(close, fd);
}

pub(crate) fn write(fd: Fd, bytes: &[u8]) -> Result<usize> {
    call!(write, fd, bytes.as_ptr(), bytes.len())
}

pub(crate) fn read(fd: Fd, bytes: &mut [u8]) -> Result<usize> {
    loop {
        match call!(read, fd, bytes.as_mut_ptr(), bytes.len()) {
            Err(libc::EINTR) => {}
            other => return other,
        }
    }
}

pub(crate) fn fsopen(kind: &CStr) -> Result<Fd> {
    call!(fsopen, kind.as_ptr(), FSOPEN_CLOEXEC).map(|fd| fd as Fd)
}

pub(crate) fn fsconfig_flag(fs: Fd, key: &CStr) -> Result<()> {
    call!(fsconfig, fs, FSCONFIG_SET_FLAG, key.as_ptr(), 0, 0).map(drop)
}

pub(crate) fn fsconfig_string(fs: Fd, key: &CStr, value: &CStr) -> Result<()> {
    call!(fsconfig, fs, FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr(), 0).map(drop)
}

pub(crate) fn fsconfig_create(fs: Fd) -> Result<()> {
    call!(fsconfig, fs, FSCONFIG_CMD_CREATE, 0, 0, 0).map(drop)
}

pub(crate) fn fsmount(fs: Fd, attributes: u64) -> Result<Fd> {
    call!(fsmount, fs, FSMOUNT_CLOEXEC, attributes).map(|fd| fd as Fd)
}

/// A detached copy of the mount at `path` below `root` (or of `root` itself when `path` is empty).
pub(crate) fn open_tree(root: Fd, path: &CStr, recursive: bool) -> Result<Fd> {
    let mut flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as u32;
    if recursive {
        flags |= libc::AT_RECURSIVE as u32;
    }
    if path.is_empty() {
        flags |= libc::AT_EMPTY_PATH as u32;
    }
    call!(open_tree, root, path.as_ptr(), flags).map(|fd| fd as Fd)
}

/// Attaches a detached mount on what `target` is.
pub(crate) fn move_mount(mount: Fd, target: Fd) -> Result<()> {
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    call!(move_mount, mount, c"".as_ptr(), target, c"".as_ptr(), flags).map(drop)
}

/// What changes about a mount.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MountAttributes {
    pub(crate) set: u64,
    pub(crate) clear: u64,
    pub(crate) propagation: u64,
    pub(crate) userns: u64,
}

pub(crate) fn mount_setattr(mount: Fd, attributes: &MountAttributes, recursive: bool) -> Result<()> {
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    call!(mount_setattr, mount, c"".as_ptr(), flags, attributes as *const MountAttributes, size_of::<MountAttributes>())
        .map(drop)
}

/// The call from before the mount API.
pub(crate) fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: u64, data: Option<&CStr>) -> Result<()> {
    let data = data.map_or(std::ptr::null(), CStr::as_ptr);
    call!(mount, source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data).map(drop)
}

pub(crate) fn umount_detached(path: &CStr) -> Result<()> {
    call!(umount2, path.as_ptr(), libc::MNT_DETACH).map(drop)
}

pub(crate) fn pivot_root(new: &CStr, old: &CStr) -> Result<()> {
    call!(pivot_root, new.as_ptr(), old.as_ptr()).map(drop)
}

pub(crate) fn chdir(path: &CStr) -> Result<()> {
    call!(chdir, path.as_ptr()).map(drop)
}

pub(crate) fn fchdir(fd: Fd) -> Result<()> {
    call!(fchdir, fd).map(drop)
}

pub(crate) fn getcwd(buffer: &mut [u8]) -> Result<usize> {
    call!(getcwd, buffer.as_mut_ptr(), buffer.len())
}

pub(crate) fn mkdirat(folder: Fd, name: *const u8, mode: u32) -> Result<()> {
    call!(mkdirat, folder, name, mode).map(drop)
}

pub(crate) fn mknodat(folder: Fd, name: *const u8, mode: u32, device: u64) -> Result<()> {
    call!(mknodat, folder, name, mode, device).map(drop)
}

pub(crate) fn symlinkat(target: &CStr, folder: Fd, name: *const u8) -> Result<()> {
    call!(symlinkat, target.as_ptr(), folder, name).map(drop)
}

pub(crate) fn readlinkat(folder: Fd, name: *const u8, buffer: &mut [u8]) -> Result<usize> {
    call!(readlinkat, folder, name, buffer.as_mut_ptr(), buffer.len())
}

pub(crate) fn fchownat(folder: Fd, name: *const u8, uid: u32, gid: u32) -> Result<()> {
    call!(fchownat, folder, name, uid, gid, libc::AT_SYMLINK_NOFOLLOW).map(drop)
}

pub(crate) fn fchown(fd: Fd, uid: u32, gid: u32) -> Result<()> {
    call!(fchown, fd, uid, gid).map(drop)
}

/// What kind of file it is, its number, and when it changed; by `statx`.
pub(crate) fn stat(fd: Fd) -> Result<libc::statx> {
    // SAFETY: all zeros is a valid `statx`.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    call!(statx, fd, c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_BASIC_STATS, &raw mut stat)?;
    Ok(stat)
}

/// The magic number of the filesystem that `fd` is on.
pub(crate) fn filesystem(fd: Fd) -> Result<i64> {
    // SAFETY: all zeros is a valid `statfs`.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    call!(fstatfs, fd, &raw mut stat)?;
    Ok(stat.f_type as i64)
}

pub(crate) fn unshare(flags: i32) -> Result<()> {
    call!(unshare, flags).map(drop)
}

/// Joins a namespace by a descriptor of it.
pub(crate) fn setns(namespace: Fd, kind: i32) -> Result<()> {
    call!(setns, namespace, kind).map(drop)
}

pub(crate) fn setsid() -> Result<()> {
    call!(setsid).map(drop)
}

pub(crate) fn sethostname(name: &[u8]) -> Result<()> {
    call!(sethostname, name.as_ptr(), name.len()).map(drop)
}

pub(crate) fn setdomainname(name: &[u8]) -> Result<()> {
    call!(setdomainname, name.as_ptr(), name.len()).map(drop)
}

pub(crate) fn prctl(option: i32, a: u64, b: u64) -> Result<usize> {
    call!(prctl, option, a, b, 0, 0)
}

pub(crate) fn umask(mask: u32) {
    // umask cannot fail.
    let _ = call!(umask, mask);
}

pub(crate) fn setgroups(groups: &[u32]) -> Result<()> {
    call!(setgroups, groups.len(), groups.as_ptr()).map(drop)
}

pub(crate) fn setresgid(gid: u32) -> Result<()> {
    call!(setresgid, gid, gid, gid).map(drop)
}

pub(crate) fn setresuid(uid: u32) -> Result<()> {
    call!(setresuid, uid, uid, uid).map(drop)
}

/// Effective, permitted and inheritable capabilities as bits.
pub(crate) fn capset(effective: u64, permitted: u64, inheritable: u64) -> Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let header = Header { version: 0x2008_0522, pid: 0 };
    let data = [
        effective as u32,
        permitted as u32,
        inheritable as u32,
        (effective >> 32) as u32,
        (permitted >> 32) as u32,
        (inheritable >> 32) as u32,
    ];
    call!(capset, &raw const header, data.as_ptr()).map(drop)
}

pub(crate) fn join_new_keyring() -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: u32 = 1;
    call!(keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0).map(drop)
}

/// Installs a seccomp filter; gives its listener when the flags ask for one.
pub(crate) fn seccomp(filter: &[libc::sock_filter], flags: u32) -> Result<usize> {
    const SECCOMP_SET_MODE_FILTER: u32 = 1;
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    call!(seccomp, SECCOMP_SET_MODE_FILTER, flags, &raw const program)
}

/// Sets a limit; gives the old one.
pub(crate) fn prlimit(resource: u32, new: Option<&libc::rlimit64>) -> Result<libc::rlimit64> {
    let mut old = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    let new = new.map_or(std::ptr::null(), |limit| limit as *const libc::rlimit64);
    call!(prlimit64, 0, resource, new, &raw mut old)?;
    Ok(old)
}

/// Makes `to` what `from` is; unlike it, `to` stays open at exec.
pub(crate) fn dup3(from: Fd, to: Fd) -> Result<()> {
    call!(dup3, from, to, 0).map(drop)
}

/// Closes the descriptors from `first` to `last`; there may be none.
pub(crate) fn close_range(first: u32, last: u32) -> Result<()> {
    if first > last { Ok(()) } else { call!(close_range, first, last, 0).map(drop) }
}

/// Clears `O_NONBLOCK` and the other flags of an open file.
pub(crate) fn set_blocking(fd: Fd) -> Result<()> {
    call!(fcntl, fd, libc::F_SETFL, 0).map(drop)
}

pub(crate) fn ioctl(fd: Fd, request: u32, argument: usize) -> Result<usize> {
    call!(ioctl, fd, request, argument)
}

pub(crate) fn socket(family: i32, kind: i32, protocol: i32) -> Result<Fd> {
    call!(socket, family, kind | libc::SOCK_CLOEXEC, protocol).map(|fd| fd as Fd)
}

pub(crate) fn sendmsg(fd: Fd, message: &libc::msghdr) -> Result<usize> {
    call!(sendmsg, fd, message as *const libc::msghdr, libc::MSG_NOSIGNAL)
}

/// Takes the next connection of a listening socket.
pub(crate) fn accept(fd: Fd) -> Result<Fd> {
    loop {
        match call!(accept4, fd, 0, 0, libc::SOCK_CLOEXEC) {
            Ok(fd) => return Ok(fd as Fd),
            Err(libc::EINTR | libc::ECONNABORTED) => {}
            Err(error) => return Err(error),
        }
    }
}

/// A file without a name, in memory.
pub(crate) fn memory_file(name: &CStr) -> Result<Fd> {
    call!(memfd_create, name.as_ptr(), libc::MFD_CLOEXEC).map(|fd| fd as Fd)
}

/// Goes back to the beginning of a file.
pub(crate) fn rewind(fd: Fd) -> Result<()> {
    call!(lseek, fd, 0, libc::SEEK_SET).map(drop)
}

/// Waits for any signal.
pub(crate) fn pause() {
    let _ = call!(ppoll, 0, 0, 0, 0, 8);
}

/// Waits for a child of this process by a handle of it; gives 0, or its exit code, or 128 and its signal.
pub(crate) fn wait(pidfd: Fd) -> Result<i32> {
    // SAFETY: all zeros is a valid `siginfo_t`.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    loop {
        match call!(waitid, libc::P_PIDFD, pidfd, &raw mut info, libc::WEXITED, 0) {
            Ok(_) => break,
            Err(libc::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
    // SAFETY: the kernel has filled in what it fills in for a child that ended.
    let status = unsafe { info.si_status() };
    Ok(if info.si_code == libc::CLD_EXITED { status } else { 128 + status })
}

/// Sends a signal by a handle of a process.
pub(crate) fn kill(pidfd: Fd, signal: i32) -> Result<()> {
    call!(pidfd_send_signal, pidfd, signal, 0, 0).map(drop)
}

/// The number of this process, as its own PID namespace has it.
pub(crate) fn getpid() -> u32 {
    call!(getpid).map_or(0, |pid| pid as u32)
}

pub(crate) fn chroot(path: &CStr) -> Result<()> {
    call!(chroot, path.as_ptr()).map(drop)
}

/// Whether the effective user may execute a file; the real one is the same here.
pub(crate) fn is_executable(path: &CStr) -> Result<()> {
    call!(faccessat, AT_FDCWD, path.as_ptr(), libc::X_OK).map(drop)
}

pub(crate) fn personality(persona: u64) -> Result<()> {
    call!(personality, persona).map(drop)
}

/// Sets how urgent reading and writing is, for this process.
pub(crate) fn ioprio_set(priority: i32) -> Result<()> {
    const WHO_PROCESS: i32 = 1;
    call!(ioprio_set, WHO_PROCESS, 0, priority).map(drop)
}

/// How the kernel shares processors, as it takes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SchedulerAttributes {
    pub(crate) size: u32,
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
}

pub(crate) fn sched_setattr(attributes: &SchedulerAttributes) -> Result<()> {
    call!(sched_setattr, 0, attributes as *const SchedulerAttributes, 0).map(drop)
}

/// Waits until a descriptor can be read; gives whether it can within this many milliseconds.
pub(crate) fn wait_readable(fd: Fd, milliseconds: Option<u64>) -> Result<bool> {
    let mut one = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // The kernel writes back what is left, so a signal does not start the time anew.
    let mut left =
        milliseconds.map(|all| libc::timespec { tv_sec: (all / 1000) as _, tv_nsec: (all % 1000 * 1_000_000) as _ });
    loop {
        let pointer = left.as_mut().map_or(std::ptr::null_mut(), |left| left as *mut libc::timespec);
        match call!(ppoll, &raw mut one, 1, pointer, 0, 8) {
            Ok(ready) => return Ok(ready > 0),
            Err(libc::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Lets every signal do what it does by default, and lets all of them through.
pub(crate) fn reset_signal_handlers() {
    // The kernel's own struct: handler, flags, restorer, mask.
    let default = [0u64; 4];
    for signal in 1..=64 {
        // KILL and STOP refuse; both already do what they do by default.
        let _ = call!(rt_sigaction, signal, default.as_ptr(), 0, 8);
    }
}

/// Lets all signals through.
pub(crate) fn unblock_signals() {
    let none = 0u64;
    let _ = call!(rt_sigprocmask, libc::SIG_SETMASK, &raw const none, 0, 8);
}

/// Holds back the signals that ask a program to end.
pub(crate) fn hold_ending_signals() {
    let held = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM]
        .iter()
        .fold(0u64, |set, signal| set | 1 << (signal - 1));
    let _ = call!(rt_sigprocmask, libc::SIG_BLOCK, &raw const held, 0, 8);
}

/// Replaces the program. Returns only with an error.
pub(crate) fn execve(path: *const u8, argv: *const *const u8, environment: *const *const u8) -> i32 {
    match call!(execve, path, argv, environment) {
        Ok(_) => 0,
        Err(error) => error,
    }
}

/// Replaces the program by an open file. Returns only with an error.
pub(crate) fn execveat(file: Fd, argv: *const *const u8, environment: *const *const u8) -> i32 {
    match call!(execveat, file, c"".as_ptr(), argv, environment, libc::AT_EMPTY_PATH) {
        Ok(_) => 0,
        Err(error) => error,
    }
}

/// Ends this process.
pub(crate) fn exit(code: i32) -> ! {
    loop {
        let _ = call!(exit_group, code);
    }
}

/// What `clone3` is to make.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CloneArguments {
    pub(crate) flags: u64,
    pub(crate) pidfd: u64,
    pub(crate) child_tid: u64,
    pub(crate) parent_tid: u64,
    pub(crate) exit_signal: u64,
    pub(crate) stack: u64,
    pub(crate) stack_size: u64,
    pub(crate) tls: u64,
    pub(crate) set_tid: u64,
    pub(crate) set_tid_size: u64,
    pub(crate) cgroup: u64,
}

/// Makes a child with a copy of this memory. Gives 0 in the child.
///
/// # Safety
///
/// Other threads do not exist in the child, though the locks they held do: until exec the child may
/// only do raw system calls on memory that this thread owns. No `CLONE_VM`.
pub(crate) unsafe fn clone3(arguments: &CloneArguments) -> Result<i32> {
    call!(clone3, arguments as *const CloneArguments, size_of::<CloneArguments>()).map(|pid| pid as i32)
}

/// Looks at one descriptor without waiting.
pub(crate) fn poll(one: &mut libc::pollfd) -> Result<usize> {
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    call!(ppoll, one as *mut libc::pollfd, 1, &raw const now, 0, 8)
}
