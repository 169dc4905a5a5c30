//! Docker's default profile, as a table of our own: what every container may call, and what a capability adds.

use super::arch;
use oci_spec::runtime::{
    Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator, LinuxSyscall,
};

/// Allowed with any arguments: first those of x86-64 in the order of their numbers, then those of x86 alone.
const ALLOWED: &str = "
read write open close stat fstat lstat poll lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask
rt_sigreturn ioctl pread64 pwrite64 readv writev access pipe select sched_yield mremap msync mincore madvise
shmget shmat shmctl dup dup2 pause nanosleep getitimer alarm setitimer getpid sendfile connect accept sendto
recvfrom sendmsg recvmsg shutdown bind listen getsockname getpeername socketpair setsockopt getsockopt fork
vfork execve exit wait4 kill uname semget semop semctl shmdt msgget msgsnd msgrcv msgctl fcntl flock fsync
fdatasync truncate ftruncate getdents getcwd chdir fchdir rename mkdir rmdir creat link unlink symlink readlink
chmod fchmod chown fchown lchown umask gettimeofday getrlimit getrusage sysinfo times getuid getgid setuid
setgid geteuid getegid setpgid getppid getpgrp setsid setreuid setregid getgroups setgroups setresuid getresuid
setresgid getresgid getpgid setfsuid setfsgid getsid capget capset rt_sigpending rt_sigtimedwait rt_sigqueueinfo
rt_sigsuspend sigaltstack utime mknod statfs fstatfs getpriority setpriority sched_setparam sched_getparam
sched_setscheduler sched_getscheduler sched_get_priority_max sched_get_priority_min sched_rr_get_interval mlock
munlock mlockall munlockall prctl adjtimex setrlimit sync gettid readahead setxattr lsetxattr fsetxattr getxattr
lgetxattr fgetxattr listxattr llistxattr flistxattr removexattr lremovexattr fremovexattr tkill time futex
sched_setaffinity sched_getaffinity set_thread_area io_setup io_destroy io_getevents io_submit io_cancel
get_thread_area epoll_create epoll_ctl_old epoll_wait_old remap_file_pages getdents64 set_tid_address
restart_syscall semtimedop fadvise64 timer_create timer_settime timer_gettime timer_getoverrun timer_delete
clock_gettime clock_getres clock_nanosleep exit_group epoll_wait epoll_ctl tgkill utimes mq_open mq_unlink
mq_timedsend mq_timedreceive mq_notify mq_getsetattr waitid ioprio_set ioprio_get inotify_init inotify_add_watch
inotify_rm_watch openat mkdirat mknodat fchownat futimesat newfstatat unlinkat renameat linkat symlinkat
readlinkat fchmodat faccessat pselect6 ppoll set_robust_list get_robust_list splice tee sync_file_range vmsplice
utimensat epoll_pwait signalfd timerfd_create eventfd fallocate timerfd_settime timerfd_gettime accept4
signalfd4 eventfd2 epoll_create1 dup3 pipe2 inotify_init1 preadv pwritev rt_tgsigqueueinfo recvmmsg
fanotify_mark prlimit64 name_to_handle_at clock_adjtime syncfs sendmmsg getcpu sched_setattr sched_getattr
renameat2 seccomp getrandom memfd_create execveat membarrier mlock2 copy_file_range preadv2 pwritev2
pkey_mprotect pkey_alloc pkey_free statx io_pgetevents rseq uretprobe pidfd_send_signal pidfd_open close_range
openat2 faccessat2 epoll_pwait2 landlock_create_ruleset landlock_add_rule landlock_restrict_self memfd_secret
process_mrelease futex_waitv cachestat fchmodat2 map_shadow_stack futex_wake futex_wait futex_requeue statmount
listmount mseal setxattrat getxattrat listxattrat removexattrat

waitpid socketcall ipc sigreturn sigprocmask _llseek _newselect ugetrlimit mmap2 truncate64 ftruncate64 stat64
lstat64 fstat64 lchown32 getuid32 getgid32 geteuid32 getegid32 setreuid32 setregid32 getgroups32 setgroups32
fchown32 setresuid32 getresuid32 setresgid32 getresgid32 chown32 setuid32 setgid32 setfsuid32 setfsgid32 fcntl64
sendfile64 statfs64 fstatfs64 fadvise64_64 fstatat64 clock_gettime64 clock_adjtime64 clock_getres_time64
clock_nanosleep_time64 timer_gettime64 timer_settime64 timerfd_gettime64 timerfd_settime64 utimensat_time64
pselect6_time64 ppoll_time64 io_pgetevents_time64 recvmmsg_time64 mq_timedsend_time64 mq_timedreceive_time64
semtimedop_time64 rt_sigtimedwait_time64 futex_time64 sched_rr_get_interval_time64
";

/// Allowed to whoever has the capability.
const BY_CAPABILITY: [(Capability, &str); 14] = [
    (Capability::DacReadSearch, "open_by_handle_at"),
    (
        Capability::SysAdmin,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr \
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl \
         quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    (Capability::SysBoot, "reboot"),
    (Capability::SysChroot, "chroot"),
    (Capability::SysModule, "delete_module init_module finit_module"),
    (Capability::SysPacct, "acct"),
    (Capability::SysPtrace, "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    (Capability::SysRawio, "iopl ioperm"),
    (Capability::SysTime, "settimeofday stime clock_settime clock_settime64"),
    (Capability::SysTtyConfig, "vhangup"),
    (Capability::SysNice, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    (Capability::Syslog, "syslog"),
    (Capability::Bpf, "bpf"),
    (Capability::Perfmon, "perf_event_open"),
];

/// Flags of `clone` that make a namespace.
const NAMESPACE_FLAGS: u64 = 0x7e02_0000;

/// Socket families without a namespace of their own, which reach the kernel's crypto or the host: refused.
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;

/// The personalities that only change how addresses or times look: Linux, BSD-like uname, and asking.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn rule(names: Vec<String>, args: &[LinuxSeccompArg]) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names);
    rule.set_action(LinuxSeccompAction::ScmpActAllow);
    if !args.is_empty() {
        rule.set_args(Some(args.to_vec()));
    }
    rule
}

fn arg(op: LinuxSeccompOperator, value: u64) -> LinuxSeccompArg {
    LinuxSeccompArgBuilder::default().index(0usize).op(op).value(value).value_two(0u64).build().expect("all is set")
}

/// Docker's default profile for a container with these capabilities.
pub(crate) fn default_profile(granted: &Capabilities) -> LinuxSeccomp {
    use LinuxSeccompOperator::{ScmpCmpEq, ScmpCmpGt, ScmpCmpLt, ScmpCmpMaskedEq};
    let mut rules = vec![
        rule(words(ALLOWED), &[]),
        // Since Linux 4.8 a tracer cannot get around a filter.
        rule(words("process_vm_readv process_vm_writev ptrace"), &[]),
        rule(words("arch_prctl modify_ldt"), &[]),
        rule(words("socket"), &[arg(ScmpCmpLt, AF_ALG)]),
        rule(words("socket"), &[arg(ScmpCmpEq, AF_ALG + 1)]),
        rule(words("socket"), &[arg(ScmpCmpGt, AF_VSOCK)]),
    ];
    for personality in PERSONALITIES {
        rules.push(rule(words("personality"), &[arg(ScmpCmpEq, personality)]));
    }
    for (capability, names) in BY_CAPABILITY {
        if granted.contains(&capability) {
            rules.push(rule(words(names), &[]));
        }
    }
    if !granted.contains(&Capability::SysAdmin) {
        rules.push(rule(words("clone"), &[arg(ScmpCmpMaskedEq, NAMESPACE_FLAGS)]));
        // The arguments of clone3 are in memory, where a filter cannot look. ENOSYS makes libc use clone.
        let mut clone3 = rule(words("clone3"), &[]);
        clone3.set_action(LinuxSeccompAction::ScmpActErrno);
        clone3.set_errno_ret(Some(libc::ENOSYS as u32));
        rules.push(clone3);
    }
    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(LinuxSeccompAction::ScmpActErrno);
    profile.set_default_errno_ret(Some(libc::EPERM as u32));
    profile.set_architectures(Some(arch::DEFAULT.to_vec()));
    profile.set_syscalls(Some(rules));
    profile
}
