//! The least that a container can cost: runs a program again and again in new namespaces on a root of its own, without
//! anything else that makes a container. `benches/life.py` sets a build's step against it.
//!
//! `cargo run -p runtime --example bare --release -- ROOT TIMES PROGRAM`

use std::error::Error;
use std::ffi::CString;
use std::io;

/// As a step has them, but for the network namespace, which the steps of a build share.
const NAMESPACES: i32 = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [root, times, program] = arguments.as_slice() else { return Err("usage: bare ROOT TIMES PROGRAM".into()) };
    let (root, program) = (CString::new(root.as_str())?, CString::new(program.as_str())?);
    for _ in 0..times.parse::<usize>()? {
        // SAFETY: this process has one thread. The child gets a copy of its memory.
        let child = unsafe { libc::syscall(libc::SYS_clone, NAMESPACES | libc::SIGCHLD, 0, 0, 0, 0) };
        match i32::try_from(child)? {
            -1 => return Err(io::Error::last_os_error().into()),
            0 => {
                let why = become_program(&root, &program);
                return Err(why.into());
            }
            child => {
                let mut status = 0;
                // SAFETY: it is our child, and the number is on this stack.
                let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
                if waited != child || status != 0 {
                    return Err(format!("the program ended with status {status}").into());
                }
            }
        }
    }
    Ok(())
}

/// Changes the root and runs the program; comes back when that fails.
fn become_program(root: &CString, program: &CString) -> io::Error {
    let none = std::ptr::null();
    let (slash, here) = (c"/".as_ptr(), c".".as_ptr());
    let arguments = [program.as_ptr(), none];
    // SAFETY: all texts end with a zero and live until the program runs.
    unsafe {
        let done = libc::mount(none, slash, none, libc::MS_REC | libc::MS_PRIVATE, none.cast()) == 0
            && libc::mount(root.as_ptr(), root.as_ptr(), none, libc::MS_BIND, none.cast()) == 0
            && libc::chdir(root.as_ptr()) == 0
            && libc::syscall(libc::SYS_pivot_root, here, here) == 0
            && libc::umount2(here, libc::MNT_DETACH) == 0;
        if done {
            libc::execv(program.as_ptr(), arguments.as_ptr());
        }
    }
    io::Error::last_os_error()
}
