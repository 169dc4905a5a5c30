//! Runs this program from a place where nobody can write to it.
//!
//! A process on its way into a container is, until exec, this program. Should a container trick it into executing itself
//! there, it could open `/proc/PID/exe` and overwrite the host's program (CVE-2019-5736). Links that lead there are
//! refused, but a running container can change them between the look and the exec. So who joins a running container
//! starts anew from a view of its own program that is read-only, and that nobody can mount otherwise.

use crate::sys;
use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags};
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

/// Starts this program anew, with the same arguments, from a view that cannot be written to. Returns when it runs from one
/// already, or when this process could not write to its program anyhow.
///
/// Call it while there is one thread.
pub fn restart_sealed(arguments: &[OsString]) -> io::Result<()> {
    let own = rustix::fs::open("/proc/self/exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    if rustix::fs::fstatvfs(&own)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(());
    }
    let view = match read_only_view(&own) {
        // Who made a mount namespace since it was started runs from a mount of another one.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => read_only_view(&found_again(&own)?)?,
        // A plain user's container has no more rights over the program than that user.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let writable =
                rustix::fs::accessat(CWD, "/proc/self/exe", rustix::fs::Access::WRITE_OK, rustix::fs::AtFlags::EACCESS);
            return match writable {
                Ok(()) | Err(rustix::io::Errno::TXTBSY) => Err(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    "a container could overwrite this program: install it where only root can write",
                )),
                Err(_) => Ok(()),
            };
        }
        other => other?,
    };
    let texts = |list: &mut dyn Iterator<Item = Vec<u8>>| -> Vec<CString> {
        list.map(|text| CString::new(text).expect("what exec gave has no zero byte")).collect()
    };
    let arguments = texts(&mut arguments.iter().map(|argument| argument.clone().into_vec()));
    let environment = texts(&mut std::env::vars_os().map(|(name, value)| {
        let mut variable = name.into_vec();
        variable.push(b'=');
        variable.extend(value.into_vec());
        variable
    }));
    let pointers = |texts: &[CString]| -> Vec<*const u8> {
        texts.iter().map(|text| text.as_ptr().cast()).chain([std::ptr::null()]).collect()
    };
    let error = sys::execveat(view.as_raw_fd(), pointers(&arguments).as_ptr(), pointers(&environment).as_ptr());
    Err(io::Error::from_raw_os_error(error))
}

/// Finds this program at its path in this mount namespace.
fn found_again(own: &OwnedFd) -> io::Result<OwnedFd> {
    let path = std::fs::read_link("/proc/self/exe")?;
    let found = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let (ours, theirs) = (rustix::fs::fstat(own)?, rustix::fs::fstat(&found)?);
    if (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino) {
        return Ok(found);
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "this program has been replaced; start it anew"))
}

/// A mount of the program alone, read-only, in no mount namespace.
fn read_only_view(program: &OwnedFd) -> io::Result<OwnedFd> {
    let made = || {
        let view = sys::open_tree(program.as_fd().as_raw_fd(), c"", false)?;
        // SAFETY: the kernel has just made it.
        let view = unsafe { OwnedFd::from_raw_fd(view) };
        let sealed = sys::MountAttributes { set: sys::MOUNT_ATTR_RDONLY, ..Default::default() };
        sys::mount_setattr(view.as_raw_fd(), &sealed, false)?;
        Ok(view)
    };
    made().map_err(io::Error::from_raw_os_error)
}
