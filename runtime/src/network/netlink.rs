//! Just enough netlink: messages with nested attributes, and one socket that sends and hears the answer.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

pub(super) const NLM_F_REQUEST: u16 = 0x1;
pub(super) const NLM_F_ACK: u16 = 0x4;
pub(super) const NLM_F_EXCL: u16 = 0x200;
pub(super) const NLM_F_CREATE: u16 = 0x400;
pub(super) const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NESTED: u16 = 0x8000;
const HEADER: usize = 16;

/// Messages, one after the other.
#[derive(Debug, Default)]
pub(super) struct Messages {
    bytes: Vec<u8>,
    start: usize,
    expected: usize,
}

impl Messages {
    /// Begins a message with its fixed part.
    pub(super) fn begin(&mut self, kind: u16, flags: u16, fixed: &[u8]) -> &mut Self {
        self.start = self.bytes.len();
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend([0; 8]);
        self.bytes.extend(fixed);
        self.expected += usize::from(flags & NLM_F_ACK != 0);
        self.end_message()
    }

    /// Adds an attribute.
    pub(super) fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.bytes.extend((value.len() as u16 + 4).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.end_message()
    }

    /// Adds an attribute that is a text with a zero at its end.
    pub(super) fn text(&mut self, kind: u16, text: &str) -> &mut Self {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// Adds a number as nftables wants it.
    pub(super) fn big_endian(&mut self, kind: u16, number: u32) -> &mut Self {
        self.attribute(kind, &number.to_be_bytes())
    }

    /// Adds an attribute of attributes.
    pub(super) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.nest_with(kind | NESTED, &[], fill)
    }

    /// Adds an attribute that begins with a fixed part, attributes following.
    pub(super) fn nest_with(&mut self, kind: u16, fixed: &[u8], fill: impl FnOnce(&mut Self)) -> &mut Self {
        let at = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(fixed);
        fill(self);
        let length = (self.bytes.len() - at) as u16;
        self.bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        self.end_message()
    }

    /// Pads to four bytes, and writes the message's length.
    fn end_message(&mut self) -> &mut Self {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
        let length = (self.bytes.len() - self.start) as u32;
        self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
        self
    }
}

/// Speaks to one family of the kernel.
#[derive(Debug)]
pub(super) struct Socket {
    socket: OwnedFd,
}

impl Socket {
    /// Opens a socket; without a protocol it is the one of interfaces and routes, number 0.
    pub(super) fn new(protocol: Option<rustix::net::Protocol>) -> io::Result<Socket> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        Ok(Socket { socket })
    }

    /// Sends messages and waits for what each that asked for it is answered; the first error is returned.
    pub(super) fn send(&self, messages: &Messages) -> io::Result<()> {
        self.exchange(messages, |_, _| {})
    }

    /// As [`Socket::send`], and shows every other answer: its kind, and what follows its header.
    pub(super) fn exchange(&self, messages: &Messages, mut show: impl FnMut(u16, &[u8])) -> io::Result<()> {
        rustix::net::send(&self.socket, &messages.bytes, rustix::net::SendFlags::empty())?;
        let mut left = messages.expected;
        let mut buffer = vec![0; 32 * 1024];
        while left > 0 {
            let length = loop {
                match rustix::net::recv(self.socket.as_fd(), buffer.as_mut_slice(), rustix::net::RecvFlags::empty()) {
                    Err(rustix::io::Errno::INTR) => {}
                    other => break other?.0,
                }
            };
            for (kind, body) in split(&buffer[..length]) {
                match kind {
                    NLMSG_ERROR | NLMSG_DONE => {
                        let error = body.get(..4).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes);
                        if error != 0 {
                            return Err(io::Error::from_raw_os_error(-error));
                        }
                        left -= 1;
                    }
                    _ => show(kind, body),
                }
                if left == 0 {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Splits what was received into kinds and bodies; what is cut off is left out.
fn split(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// Splits attributes into kinds and values.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut messages = Messages::default();
        messages.begin(16, NLM_F_ACK, &[1, 2, 3, 4]).text(3, "eth0").nest(18, |inner| {
            inner.big_endian(1, 7);
        });
        messages.begin(20, 0, &[]);
        let parts: Vec<_> = split(&messages.bytes).collect();
        assert_eq!(parts.iter().map(|part| part.0).collect::<Vec<_>>(), [16, 20]);
        let found: Vec<_> = attributes(&parts[0].1[4..]).collect();
        assert_eq!(found[0], (3, &b"eth0\0"[..]));
        assert_eq!(attributes(found[1].1).collect::<Vec<_>>(), [(1, &[0, 0, 0, 7][..])]);
        assert_eq!(messages.expected, 1);
    }

    #[test]
    fn what_is_cut_off_ends_without_a_panic() {
        for length in 0..20 {
            let mut bytes = vec![0xff; length];
            if length > 4 {
                bytes[..4].copy_from_slice(&3u32.to_ne_bytes());
            }
            assert_eq!(split(&bytes).count(), 0);
            assert!(attributes(&bytes[..length.min(3)]).count() == 0);
        }
    }
}
