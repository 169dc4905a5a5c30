//! Makes sure that the program is one of the container's, before it runs.
//!
//! Until exec, `/proc/self/exe` of the child is the starter's own program on the host. An image whose program, or
//! whose script's interpreter, leads there by a magic link of procfs would run the host's file, and could then open
//! it for writing (CVE-2019-5736).

use crate::sys::{self, Fd};
use std::ffi::CString;

/// As many scripts that are each the next one's interpreter as the kernel follows.
const MOST_INTERPRETERS: usize = 5;

/// The kernel reads this much of a script's first line.
const FIRST_LINE: usize = 256;

/// Fails if a candidate, or what would interpret it, is reached through a magic link.
pub(super) fn check(candidates: &[CString]) -> Result<(), i32> {
    for candidate in candidates {
        let mut path: [u8; FIRST_LINE];
        let mut pointer: *const u8 = candidate.as_ptr().cast();
        for _ in 0..=MOST_INTERPRETERS {
            let file = match sys::openat2(
                sys::AT_FDCWD,
                pointer,
                libc::O_PATH | libc::O_CLOEXEC,
                0,
                sys::RESOLVE_NO_MAGICLINKS,
            ) {
                Ok(file) => file,
                Err(libc::ELOOP) => return Err(libc::ELOOP),
                // Exec will say what is wrong.
                Err(_) => break,
            };
            sys::close(file);
            let Some(interpreter) = interpreter(pointer) else { break };
            path = interpreter;
            pointer = path.as_ptr();
        }
    }
    Ok(())
}

/// Returns the path after `#!`, with zeros behind it.
fn interpreter(path: *const u8) -> Option<[u8; FIRST_LINE]> {
    // Neither waits for the writer of a named pipe nor takes a terminal.
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    let file = sys::openat2(sys::AT_FDCWD, path, flags, 0, sys::RESOLVE_NO_MAGICLINKS).ok()?;
    let line = first_line(file);
    sys::close(file);
    let line = line?;
    let mut start = 2;
    while start < line.len() && matches!(line[start], b' ' | b'\t') {
        start += 1;
    }
    let mut interpreter = [0; FIRST_LINE];
    let mut length = 0;
    while start + length < line.len() && !matches!(line[start + length], b' ' | b'\t' | b'\n' | 0) {
        interpreter[length] = line[start + length];
        length += 1;
    }
    (length > 0).then_some(interpreter)
}

fn first_line(file: Fd) -> Option<[u8; FIRST_LINE]> {
    if sys::stat(file).ok()?.stx_mode as u32 & libc::S_IFMT != libc::S_IFREG {
        return None;
    }
    let mut line = [0; FIRST_LINE];
    // One byte stays zero, so that a path always ends.
    let length = sys::read(file, &mut line[..FIRST_LINE - 1]).ok()?;
    (length > 2 && line[0] == b'#' && line[1] == b'!').then_some(line)
}
