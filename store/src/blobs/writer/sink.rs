//! [`Sink`]: how a blob's bytes reach the disk: small blobs through the page cache, large ones around it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::buffer::ALIGNMENT;

/// From which offset on a large blob goes around the page cache, in bytes. Smaller ones are likely to be read soon.
const AROUND_CACHE: u64 = 32 * 1024 * 1024;
/// After how many bytes the kernel is told to begin writing them to the disk.
const WRITEBACK: u64 = 8 * 1024 * 1024;

/// The state of writing one file from its start, or from where an earlier writer stopped.
///
/// A blob is synced before anybody may rely on it, so it passes through the disk in any case. Direct writes spare
/// the copy into the page cache, which costs more than the hash, and leave the cache to those who read.
#[derive(Clone, Debug)]
pub(super) struct Sink {
    offset: u64,
    /// Bytes that the kernel was told to begin writing.
    pushed: u64,
    cache: Cache,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cache {
    Through,
    /// Around the cache as soon as the offset allows.
    Around {
        direct: bool,
    },
}

impl Sink {
    /// Starts at an offset, which is where the file ends.
    pub(super) fn at(offset: u64) -> Self {
        Self { offset, pushed: offset, cache: Cache::Through }
    }

    /// Writes around the page cache from [`AROUND_CACHE`] on, where the file system can.
    pub(super) fn go_around_cache(&mut self) {
        self.cache = Cache::Around { direct: false };
    }

    /// Appends bytes to the file.
    pub(super) fn write(&mut self, mut file: &File, bytes: &[u8]) -> io::Result<()> {
        let fits = self.offset.is_multiple_of(ALIGNMENT as u64)
            && bytes.len().is_multiple_of(ALIGNMENT)
            && bytes.as_ptr().addr().is_multiple_of(ALIGNMENT);
        if let Cache::Around { direct } = self.cache {
            let wanted = fits && self.offset >= AROUND_CACHE;
            if wanted != direct {
                self.cache = if set_direct(file, wanted) { Cache::Around { direct: wanted } } else { Cache::Through };
            }
        }
        match file.write_all(bytes) {
            // Some file systems take the flag and then refuse the write; nothing of it was written.
            Err(error) if self.is_direct() && error.raw_os_error() == Some(libc::EINVAL) => {
                set_direct(file, false);
                self.cache = Cache::Through;
                file.write_all(bytes)?;
            }
            result => result?,
        }
        self.offset += bytes.len() as u64;
        if self.is_direct() {
            self.pushed = self.offset;
        } else {
            self.start_writeback(file);
        }
        Ok(())
    }

    /// Leaves the file as whoever reads it expects it.
    pub(super) fn finish(&mut self, file: &File) {
        if self.is_direct() {
            set_direct(file, false);
        }
    }

    fn is_direct(&self) -> bool {
        self.cache == Cache::Around { direct: true }
    }

    /// Has the kernel begin to write to the disk, so that little is left for the sync at the end.
    fn start_writeback(&mut self, file: &File) {
        let length = self.offset - self.pushed;
        if length < WRITEBACK {
            return;
        }
        let (Ok(offset), Ok(length)) = (i64::try_from(self.pushed), i64::try_from(length)) else { return };
        // Only a hint: the sync at the end reports what goes wrong.
        // SAFETY: takes a file descriptor that is open, and numbers.
        let _ = unsafe { libc::sync_file_range(file.as_raw_fd(), offset, length, libc::SYNC_FILE_RANGE_WRITE) };
        self.pushed = self.offset;
    }
}

/// Switches direct writes on or off; tells whether the file system did as asked.
fn set_direct(file: &File, direct: bool) -> bool {
    let Ok(flags) = fcntl_getfl(file) else { return false };
    fcntl_setfl(file, if direct { flags | OFlags::DIRECT } else { flags - OFlags::DIRECT }).is_ok()
}
