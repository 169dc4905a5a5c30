//! Hands descriptors to whoever listens on a socket: terminals, and listeners of seccomp filters.

use super::BundleError;
use rustix::net::{AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketType};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Connects to a socket that a user named.
pub(super) fn connect(path: &Path) -> Result<OwnedFd, BundleError> {
    let failed = |source: io::Error| BundleError::File { path: path.to_owned(), source };
    let address = SocketAddrUnix::new(path).map_err(|error| failed(error.into()))?;
    let flags = rustix::net::SocketFlags::CLOEXEC;
    let connected = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .and_then(|socket| rustix::net::connect(&socket, &address).map(|()| socket));
    connected.map_err(|error| failed(error.into()))
}

/// Sends a descriptor, with a text.
pub(super) fn send(socket: BorrowedFd<'_>, text: &[u8], fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::other("there is no room for a descriptor"));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(text)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Sends a terminal's master, named as runc names it.
pub(super) fn send_terminal(path: &Path, terminal: impl AsFd) -> Result<(), BundleError> {
    let socket = connect(path)?;
    send(socket.as_fd(), b"/dev/ptmx", terminal.as_fd())
        .map_err(|source| BundleError::File { path: path.to_owned(), source })
}
