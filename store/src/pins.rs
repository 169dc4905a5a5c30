//! What a process relies on, so that pruning beside it leaves that alone.
//!
//! A pin is a shared lock on one byte of a file, at a place that the digest gives; pruning takes the byte for itself
//! before it removes what the digest names. The kernel drops the locks of a process that dies. Whoever wants to use
//! something pins it first and looks then: either it is there and stays, or it is gone and made again.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use oci::Digest;

use crate::file_error::During;
use crate::{FileError, Layout};

/// How many files the locks are spread over: the kernel keeps those of one file in a list.
const FILES: usize = 16;

/// The pins of an open store.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    files: [Option<File>; FILES],
    pinned: HashSet<(usize, i64)>,
}

impl Pins {
    /// Pins a digest, waiting while somebody removes it.
    pub(crate) fn pin(&self, layout: &Layout, digest: &Digest) -> Result<(), FileError> {
        let (number, offset) = place(digest);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.pinned.contains(&(number, offset)) {
            return Ok(());
        }
        let path = layout.pins(number);
        let file = match &mut held.files[number] {
            Some(file) => file,
            none => none.insert(open(&path)?),
        };
        lock(file, libc::F_OFD_SETLKW, libc::F_RDLCK, offset).during("lock", &path)?;
        held.pinned.insert((number, offset));
        Ok(())
    }

    /// Lets go of everything, when that is more than a few.
    pub(crate) fn release(&self, more_than: usize) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.pinned.len() > more_than {
            *held = Held::default();
        }
    }
}

/// Digests that nobody has pinned or can pin, until this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    files: [Option<File>; FILES],
}

impl Taken {
    /// Takes digests for removing what they name, and tells whether all could be had: not when somebody relies on one,
    /// be it this process.
    pub(crate) fn take<'a>(
        &mut self,
        layout: &Layout,
        digests: impl IntoIterator<Item = &'a Digest>,
    ) -> Result<bool, FileError> {
        for digest in digests {
            let (number, offset) = place(digest);
            let path = layout.pins(number);
            let file = match &mut self.files[number] {
                Some(file) => file,
                none => none.insert(open(&path)?),
            };
            match lock(file, libc::F_OFD_SETLK, libc::F_WRLCK, offset) {
                Ok(()) => {}
                Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => return Ok(false),
                Err(error) => return Err(FileError::new("lock", &path, error)),
            }
        }
        Ok(true)
    }
}

/// Returns which file, and which byte of it, stand for a digest. Two digests that share a byte are merely kept together.
fn place(digest: &Digest) -> (usize, i64) {
    let number = |hex: &str| u64::from_str_radix(hex, 16).expect("a digest is hex");
    let hex = digest.hex();
    let file = usize::try_from(number(&hex[..1])).expect("one digit");
    (file, i64::try_from(number(&hex[1..16])).expect("60 bits"))
}

fn open(path: &Path) -> Result<File, FileError> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path).during("open", path)
}

fn lock(file: &File, command: libc::c_int, kind: libc::c_int, offset: i64) -> std::io::Result<()> {
    let request = libc::flock {
        l_type: i16::try_from(kind).expect("a small constant"),
        l_whence: i16::try_from(libc::SEEK_SET).expect("a small constant"),
        l_start: offset,
        l_len: 1,
        l_pid: 0,
    };
    loop {
        // SAFETY: the descriptor is open, and `request` is a whole `flock` that outlives the call.
        if unsafe { libc::fcntl(file.as_raw_fd(), command, &raw const request) } == 0 {
            return Ok(());
        }
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pinned_cannot_be_taken_and_what_is_taken_waits() {
        let folder = tempfile::tempdir().expect("tempdir");
        let layout = Layout::new(folder.path());
        std::fs::create_dir(layout.locks()).expect("made");
        let (one, other) = (Digest::sha256(b"1"), Digest::sha256(b"2"));
        let pins = Pins::default();
        pins.pin(&layout, &one).expect("pinned");
        pins.pin(&layout, &one).expect("pinned again");
        let can_take = |digests: &[&Digest]| Taken::default().take(&layout, digests.iter().copied()).expect("asked");
        assert!(!can_take(&[&other, &one]), "one of them is in use");
        let mut taken = Taken::default();
        assert!(taken.take(&layout, [&other]).expect("asked"), "free");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| pins.pin(&layout, &other));
            drop(taken);
            waiting.join().expect("ran").expect("pinned after all");
        });
        pins.release(5);
        assert!(!can_take(&[&one]), "few are kept");
        pins.release(1);
        assert!(can_take(&[&one, &other]));
    }
}
