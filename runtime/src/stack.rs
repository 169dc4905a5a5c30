//! [`Stack`]: what a child stands on that shares its parent's memory.
//!
//! A child with a copy of the memory costs both sides: the kernel copies the tables of all pages, and then every page that
//! either of them writes to. That is more than all the rest of a short container's start.

use crate::sys::{self, CloneArguments};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use std::ffi::c_void;

/// Whether this machine can give a child a stack of its own.
pub(crate) const POSSIBLE: bool = cfg!(target_arch = "x86_64");

/// The child keeps a few paths on it. Only what it touches takes memory.
const SIZE: usize = 256 << 10;
/// What is below it cannot be written to.
const GUARD: usize = 4 << 10;

/// Memory for the stack of one child, until this is dropped.
#[derive(Debug)]
pub(crate) struct Stack {
    start: *mut c_void,
}

impl Stack {
    pub(crate) fn new() -> rustix::io::Result<Stack> {
        // SAFETY: new memory, wherever the kernel likes.
        let start = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                GUARD + SIZE,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::STACK,
            )?
        };
        let stack = Stack { start };
        // SAFETY: the first page of what is ours, and in use by nobody.
        unsafe { mprotect(start, GUARD, MprotectFlags::empty())? };
        Ok(stack)
    }

    /// Makes a child that shares this memory and runs `entry(argument)` on this stack. Gives its number to the parent; in the
    /// child nothing returns.
    ///
    /// # Safety
    ///
    /// Until the child has execed or ended, the stack stays, and so does all that it reads; nobody else writes there. Locks
    /// may be held by threads that the child does not know of, so it takes none and allocates nothing.
    pub(crate) unsafe fn clone3(
        &self,
        arguments: &mut CloneArguments,
        entry: extern "C" fn(*const c_void) -> !,
        argument: *const c_void,
    ) -> sys::Result<i32> {
        arguments.flags |= libc::CLONE_VM as u64;
        (arguments.stack, arguments.stack_size) = (self.start as u64 + GUARD as u64, SIZE as u64);
        // SAFETY: as the caller promises.
        unsafe { clone3_on_stack(arguments, entry, argument) }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: nobody stands on it any more. It is all that was mapped.
        let unmapped = unsafe { munmap(self.start, GUARD + SIZE) };
        debug_assert!(unmapped.is_ok());
    }
}

/// The child has the same registers as the parent, but for the result and the stack, which is empty.
#[cfg(target_arch = "x86_64")]
unsafe fn clone3_on_stack(
    arguments: &CloneArguments,
    entry: extern "C" fn(*const c_void) -> !,
    argument: *const c_void,
) -> sys::Result<i32> {
    let result: i64;
    // SAFETY: the parent changes no registers but those named here; the child never gets to the end.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") arguments,
            in("rsi") size_of::<CloneArguments>(),
            in("r12") argument,
            in("r13") entry,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    if result < 0 { Err(-result as i32) } else { Ok(result as i32) }
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn clone3_on_stack(
    _: &CloneArguments,
    _: extern "C" fn(*const c_void) -> !,
    _: *const c_void,
) -> sys::Result<i32> {
    Err(libc::ENOSYS)
}
