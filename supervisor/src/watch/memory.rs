//! Memory that a watcher does not need while it waits.

use std::ffi::{c_int, c_void};

/// Gives back the pages of the program that have been used so far: nearly all of them were for the start of a container.
/// What is used again comes back from the file, which is in memory for all watchers together.
pub(super) fn forget_program() {
    // SAFETY: the function takes what it is called with.
    unsafe { libc::dl_iterate_phdr(Some(forget_object), std::ptr::null_mut()) };
}

/// Called with the program; libraries would come after it.
extern "C" fn forget_object(object: *mut libc::dl_phdr_info, _: usize, _: *mut c_void) -> c_int {
    // SAFETY: the caller gives an object that is loaded, with its headers.
    let (start, headers) = unsafe {
        let object = &*object;
        (object.dlpi_addr, std::slice::from_raw_parts(object.dlpi_phdr, usize::from(object.dlpi_phnum)))
    };
    // SAFETY: it only asks.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.unsigned_abs();
    for header in headers {
        // What may be written to could have been, also what is read-only by now.
        if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0 {
            let first = (start + header.p_vaddr) / page * page;
            let length = start + header.p_vaddr + header.p_memsz - first;
            // SAFETY: it is a private mapping of a file that is as it was mapped: reading a page again gives the same.
            let forgotten = unsafe { libc::madvise(first as *mut c_void, length as usize, libc::MADV_DONTNEED) };
            debug_assert_eq!(forgotten, 0);
        }
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Something that is in the program, and not changed.
    static TEXT: &str = "read again";

    #[test]
    fn the_program_goes_on_after_it_was_forgotten() {
        forget_program();
        assert_eq!(TEXT, ["read", "again"].join(" "));
    }
}
