//! Opens the place to mount on, making what is missing, without ever leaving the root.
//!
//! The image may be hostile: `/etc/resolv.conf` may lead to `../../../host`, `/proc` may be a link. Every
//! lookup is `openat2` with `RESOLVE_IN_ROOT`, everything made is made by one name below an open folder.

use super::message::Outbox;
use crate::plan::Make;
use crate::sys::{self, Fd};
use std::mem::MaybeUninit;

const LONGEST: usize = 4096;

/// How many links may be followed on the way, as in the kernel.
const MOST_LINKS: usize = 40;

/// A path with a zero at its end, in a buffer that never grows. There are so many that clearing each takes time.
struct PathBuffer {
    /// Invariant: `length` bytes, and the zero after them, are written.
    bytes: [MaybeUninit<u8>; LONGEST],
    length: usize,
}

impl PathBuffer {
    const fn new() -> PathBuffer {
        let mut bytes = [const { MaybeUninit::uninit() }; LONGEST];
        bytes[0] = MaybeUninit::new(0);
        PathBuffer { bytes, length: 0 }
    }

    fn push(&mut self, part: &[u8]) -> Result<(), i32> {
        let end = self.length + part.len();
        if end >= LONGEST {
            return Err(libc::ENAMETOOLONG);
        }
        self.bytes[self.length..end].write_copy_of_slice(part);
        self.bytes[end] = MaybeUninit::new(0);
        self.length = end;
        Ok(())
    }

    fn set(&mut self, path: &[u8]) -> Result<(), i32> {
        self.length = 0;
        self.push(path)
    }

    fn as_slice(&self) -> &[u8] {
        // SAFETY: these are written.
        unsafe { self.bytes[..self.length].assume_init_ref() }
    }

    fn as_ptr(&self) -> *const u8 {
        self.bytes.as_ptr().cast()
    }
}

/// Opens what `path` is inside `root`, without making anything.
pub(super) fn open(root: Fd, path: &[u8], flags: i32, resolve: u64) -> Result<Fd, i32> {
    let mut buffer = PathBuffer::new();
    buffer.set(path)?;
    sys::openat2(
        root,
        buffer.as_ptr(),
        flags | libc::O_CLOEXEC,
        0,
        resolve | sys::RESOLVE_IN_ROOT | sys::RESOLVE_NO_MAGICLINKS,
    )
}

/// Opens what `path` is inside `root`; what is missing on the way is made.
pub(super) fn open_or_make(root: Fd, path: &[u8], make: Make, no_links: bool, outbox: &Outbox) -> Result<Fd, i32> {
    let resolve = if no_links { sys::RESOLVE_NO_SYMLINKS } else { 0 };
    let mut current = PathBuffer::new();
    current.set(path)?;
    let (mut links, mut turns) = (0, 0);
    loop {
        match open(root, current.as_slice(), libc::O_PATH, resolve) {
            Err(libc::ENOENT) => {}
            other => return other,
        }
        let folder = |start| open(root, parent_of(&current, start), libc::O_PATH | libc::O_DIRECTORY, resolve);
        let last = current.as_slice().iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
        // Mostly all but the last is there.
        let (parent, start, end) = match folder(last) {
            Ok(parent) if last < current.length => (parent, last, current.length),
            other => {
                if let Ok(parent) = other {
                    sys::close(parent);
                }
                let Some((start, end)) = first_missing(root, current.as_slice(), resolve)? else {
                    // It came to be meanwhile; somebody who keeps on doing that does not keep us.
                    turns += 1;
                    if turns > MOST_LINKS {
                        return Err(libc::EAGAIN);
                    }
                    continue;
                };
                (folder(start)?, start, end)
            }
        };
        let made = make_or_follow(parent, &mut current, start, end, make, outbox);
        sys::close(parent);
        if let Made::Link = made? {
            links += 1;
            if links > MOST_LINKS || no_links {
                return Err(libc::ELOOP);
            }
        }
    }
}

/// The folder that the component at `start` is in.
fn parent_of(path: &PathBuffer, start: usize) -> &[u8] {
    if start == 0 { b"." } else { &path.as_slice()[..start - 1] }
}

/// Returns where the first component is that cannot be opened for not being there, if there is one.
fn first_missing(root: Fd, path: &[u8], resolve: u64) -> Result<Option<(usize, usize)>, i32> {
    let mut start = 0;
    while start < path.len() {
        let end = path[start..].iter().position(|&byte| byte == b'/').map_or(path.len(), |length| start + length);
        if end > start {
            match open(root, &path[..end], libc::O_PATH, resolve) {
                Ok(fd) => sys::close(fd),
                Err(libc::ENOENT) => return Ok(Some((start, end))),
                Err(error) => return Err(error),
            }
        }
        start = end + 1;
    }
    Ok(None)
}

enum Made {
    New,
    Link,
}

/// Makes the component at `start..end` below `parent`; if it is a dangling link, rewrites the path instead.
fn make_or_follow(
    parent: Fd,
    path: &mut PathBuffer,
    start: usize,
    end: usize,
    make: Make,
    outbox: &Outbox,
) -> Result<Made, i32> {
    let mut name = PathBuffer::new();
    name.set(&path.as_slice()[start..end])?;
    let mut link = [0u8; LONGEST];
    match sys::readlinkat(parent, name.as_ptr(), &mut link) {
        Ok(length) => {
            let mut followed = PathBuffer::new();
            if link.first() != Some(&b'/') {
                followed.push(&path.as_slice()[..start])?;
            }
            followed.push(&link[..length])?;
            followed.push(&path.as_slice()[end..])?;
            path.set(followed.as_slice())?;
            return Ok(Made::Link);
        }
        Err(libc::ENOENT) => {}
        Err(error) => return Err(error),
    }
    let before = sys::stat(parent)?;
    let folder = end < path.length || make == Make::Folder;
    let made = if folder {
        sys::mkdirat(parent, name.as_ptr(), 0o755)
    } else {
        sys::mknodat(parent, name.as_ptr(), libc::S_IFREG | 0o644, 0)
    };
    match made {
        Ok(()) => {
            let device = (before.stx_dev_major, before.stx_dev_minor);
            if outbox.root_device.is_none_or(|root| root == device)
                && let Ok(place) = place_of(parent, name.as_slice())
            {
                outbox.made(place.as_slice(), folder, before.stx_mtime.tv_sec, before.stx_mtime.tv_nsec);
            }
        }
        Err(libc::EEXIST) => {}
        Err(error) => return Err(error),
    }
    Ok(Made::New)
}

/// Returns the path of `name` in `folder` without links, as this mount namespace has it.
fn place_of(folder: Fd, name: &[u8]) -> Result<PathBuffer, i32> {
    let mut digits = [0u8; 12];
    let mut start = digits.len();
    let mut rest = folder as u32;
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    let mut link = PathBuffer::new();
    link.push(b"/proc/self/fd/")?;
    link.push(&digits[start..])?;
    let mut found = [0u8; LONGEST];
    let length = sys::readlinkat(sys::AT_FDCWD, link.as_ptr(), &mut found)?;
    let mut place = PathBuffer::new();
    place.push(&found[..length])?;
    place.push(b"/")?;
    place.push(name)?;
    Ok(place)
}
