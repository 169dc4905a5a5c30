//! What goes over a container's socket: frames like docker's for streams, with a few kinds more.
//!
//! ```text
//! kind, 0, 0, 0, length (big endian)   then so many bytes
//!
//! first, from the client   A attach: {"stdin","stdout","stderr"}    W wait: {"condition"}    L look at the state again
//! then, from the client    0 input   E input ended   S size: rows and columns, two bytes each
//! from the supervisor      1 output  2 errors        R report of the start   X exited
//! ```
//!
//! Before all that, the command that has started the supervisor gives it the claim, as a descriptor that comes with one byte.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;

use runtime::Size;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};

/// What the container reads.
pub const STDIN: u8 = 0;
/// What the container printed.
pub const STDOUT: u8 = 1;
/// What the container printed as errors.
pub const STDERR: u8 = 2;
/// The client wants streams.
pub const ATTACH: u8 = b'A';
/// The client wants to know how it ends.
pub const WAIT: u8 = b'W';
/// The state has changed.
pub const LOOK: u8 = b'L';
/// The input has ended.
pub const STDIN_END: u8 = b'E';
/// The terminal has another size.
pub const SIZE: u8 = b'S';
/// Whether it started.
pub const REPORT: u8 = b'R';
/// How it ended.
pub const EXITED: u8 = b'X';

/// The longest content of a frame.
pub const LONGEST: usize = 64 << 10;

const HEADER: usize = 8;

/// Which streams a client wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachRequest {
    /// It feeds the input.
    pub stdin: bool,
    /// It shows the output.
    pub stdout: bool,
    /// It shows the errors.
    pub stderr: bool,
}

/// What a client waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WaitCondition {
    /// That it does not run, and will not be started again by itself.
    #[default]
    NotRunning,
    /// That it ends the next time.
    NextExit,
    /// That it is removed.
    Removed,
}

/// Whether a container started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Why it did not: a sentence, then what caused it, and so on.
    pub error: Vec<String>,
    /// What docker's exit code is for that: 125, 126 or 127.
    pub code: i32,
    /// What could not be had although it was asked for.
    pub warnings: Vec<String>,
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Exited {
    /// What a shell would show.
    pub code: i32,
    /// The kernel killed something because memory ran out.
    pub oom_killed: bool,
    /// Why it could not be started again.
    pub error: String,
}

/// Returns the content of a frame for a terminal's size.
pub fn size(size: Size) -> [u8; 4] {
    let ([a, b], [c, d]) = (size.rows.to_be_bytes(), size.columns.to_be_bytes());
    [a, b, c, d]
}

/// Appends a frame to bytes that go out.
pub fn push(out: &mut Vec<u8>, kind: u8, content: &[u8]) {
    for piece in content.chunks(LONGEST) {
        push_one(out, kind, piece);
    }
    if content.is_empty() {
        push_one(out, kind, content);
    }
}

fn push_one(out: &mut Vec<u8>, kind: u8, content: &[u8]) {
    let length = u32::try_from(content.len()).expect("pieces are short");
    out.extend([kind, 0, 0, 0]);
    out.extend(length.to_be_bytes());
    out.extend(content);
}

/// Writes a frame.
///
/// # Errors
///
/// When the other side is gone.
pub fn write(sink: &mut impl Write, kind: u8, content: &[u8]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(HEADER + content.len());
    push(&mut bytes, kind, content);
    sink.write_all(&bytes)
}

/// Reads a frame; none at the end.
///
/// # Errors
///
/// When what comes is not one.
pub fn read(source: &mut impl Read) -> io::Result<Option<(u8, Vec<u8>)>> {
    let mut header = [0; HEADER];
    let mut filled = 0;
    while filled < HEADER {
        match source.read(&mut header[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Whoever ends with bytes unread makes the other side see this in place of an end.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset && filled == 0 => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    let length = length(&header)?;
    let mut content = vec![0; length];
    source.read_exact(&mut content)?;
    Ok(Some((header[0], content)))
}

fn length(header: &[u8; HEADER]) -> io::Result<usize> {
    let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
    if length > LONGEST { Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is too long")) } else { Ok(length) }
}

/// Takes the first frame out of bytes that have come in; none when it is not there as a whole.
///
/// # Errors
///
/// When what came is not one.
pub fn take(bytes: &mut Vec<u8>) -> io::Result<Option<(u8, Vec<u8>)>> {
    let Some(header) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
    let length = length(header)?;
    if bytes.len() < HEADER + length {
        return Ok(None);
    }
    let kind = header[0];
    let content = bytes[HEADER..HEADER + length].to_vec();
    bytes.drain(..HEADER + length);
    Ok(Some((kind, content)))
}

/// Gives the claim to the supervisor.
pub(crate) fn give_claim(stream: &UnixStream, claim: &File) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let claims = [claim.as_fd()];
    if !control.push(SendAncillaryMessage::ScmRights(&claims)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    rustix::net::sendmsg(stream, &[IoSlice::new(b"C")], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Waits for the claim; none when the command has no use for a supervisor.
pub(crate) fn take_claim(stream: &UnixStream) -> io::Result<Option<File>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    loop {
        match rustix::net::recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => break,
        }
    }
    let claim = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut claims) => claims.next(),
        _ => None,
    });
    Ok(claim.map(File::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in() {
        let mut bytes = Vec::new();
        push(&mut bytes, STDOUT, b"one");
        push(&mut bytes, STDIN_END, b"");
        let mut reader = bytes.as_slice();
        assert_eq!(read(&mut reader).expect("whole"), Some((STDOUT, b"one".to_vec())));
        assert_eq!(read(&mut reader).expect("whole"), Some((STDIN_END, Vec::new())));
        assert_eq!(read(&mut reader).expect("the end"), None);
        let last = bytes.pop();
        assert_eq!(take(&mut bytes).expect("whole"), Some((STDOUT, b"one".to_vec())));
        assert_eq!(take(&mut bytes).expect("a part"), None);
        bytes.extend(last);
        assert_eq!(take(&mut bytes).expect("whole"), Some((STDIN_END, Vec::new())));
        assert!(bytes.is_empty());
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused() {
        let mut bytes = vec![1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
        assert!(read(&mut bytes.as_slice()).is_err());
        assert!(take(&mut bytes).is_err());
    }
}
