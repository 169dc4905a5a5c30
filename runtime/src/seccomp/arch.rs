//! What depends on the processor: architectures, and the numbers of system calls.
//!
//! x86-64 only so far; another processor needs another body of this file.

use oci_spec::runtime::Arch;
use std::collections::HashMap;
use std::sync::LazyLock;
use syscalls::{x86, x86_64};

/// The architectures of docker's profile on this machine.
pub(super) const DEFAULT: [Arch; 3] = [Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32];

/// The architecture of this machine.
pub(super) const NATIVE: Arch = Arch::ScmpArchX86_64;

/// `AUDIT_ARCH_X86_64` and `AUDIT_ARCH_I386`: how the kernel tells which table a number is from.
const AUDIT_X86_64: u32 = 0xc000_003e;
const AUDIT_I386: u32 = 0x4000_0003;

/// The bit that marks a number of the x32 table.
const X32: u32 = 0x4000_0000;

/// Where the numbers of an architecture are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Table {
    /// What the kernel calls the architecture.
    pub(super) audit: u32,
    /// Which names have which numbers.
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    X86_64,
    X86,
    X32,
}

/// The numbers that x32 has of its own; every other is that of x86-64.
const X32_OWN: [(&str, u32); 36] = [
    ("rt_sigaction", 512),
    ("rt_sigreturn", 513),
    ("ioctl", 514),
    ("readv", 515),
    ("writev", 516),
    ("recvfrom", 517),
    ("sendmsg", 518),
    ("recvmsg", 519),
    ("execve", 520),
    ("ptrace", 521),
    ("rt_sigpending", 522),
    ("rt_sigtimedwait", 523),
    ("rt_sigqueueinfo", 524),
    ("sigaltstack", 525),
    ("timer_create", 526),
    ("mq_notify", 527),
    ("kexec_load", 528),
    ("waitid", 529),
    ("set_robust_list", 530),
    ("get_robust_list", 531),
    ("vmsplice", 532),
    ("move_pages", 533),
    ("preadv", 534),
    ("pwritev", 535),
    ("rt_tgsigqueueinfo", 536),
    ("recvmmsg", 537),
    ("sendmmsg", 538),
    ("process_vm_readv", 539),
    ("process_vm_writev", 540),
    ("setsockopt", 541),
    ("getsockopt", 542),
    ("io_setup", 543),
    ("io_submit", 544),
    ("execveat", 545),
    ("preadv2", 546),
    ("pwritev2", 547),
];

/// The crate's own look-up compares with every name, which takes milliseconds for a whole profile.
static X86_64_NUMBERS: LazyLock<HashMap<&str, u32>> =
    LazyLock::new(|| x86_64::Sysno::iter().map(|call| (call.name(), call as u32)).collect());
static X86_NUMBERS: LazyLock<HashMap<&str, u32>> =
    LazyLock::new(|| x86::Sysno::iter().map(|call| (call.name(), call as u32)).collect());

impl Table {
    /// The table of an architecture, if this processor can run it.
    pub(super) fn of(arch: Arch) -> Option<Table> {
        match arch {
            Arch::ScmpArchNative | Arch::ScmpArchX86_64 => Some(Table { audit: AUDIT_X86_64, kind: Kind::X86_64 }),
            Arch::ScmpArchX86 => Some(Table { audit: AUDIT_I386, kind: Kind::X86 }),
            Arch::ScmpArchX32 => Some(Table { audit: AUDIT_X86_64, kind: Kind::X32 }),
            _ => None,
        }
    }

    /// The number of a system call, if this architecture has it.
    pub(super) fn number(self, name: &str) -> Option<u32> {
        match self.kind {
            Kind::X86_64 => X86_64_NUMBERS.get(name).copied(),
            Kind::X86 => X86_NUMBERS.get(name).copied(),
            Kind::X32 => {
                let own = X32_OWN.iter().find(|(own, _)| *own == name).map(|(_, number)| *number);
                own.or_else(|| X86_64_NUMBERS.get(name).copied()).map(|number| X32 | number)
            }
        }
    }

    /// The first number of the table.
    pub(super) fn first(self) -> u32 {
        if self.kind == Kind::X32 { X32 } else { 0 }
    }
}
