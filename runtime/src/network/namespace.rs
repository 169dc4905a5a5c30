//! A network namespace that is made before its container, and that another may use afterwards.

use super::attachment::{Attachment, Joined};
use super::resolver::NAME_SERVER;
use super::{NetworkError, failed, links, netlink::Socket, nft, table};
use rustix::fs::{Mode, OFlags};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

/// A namespace whose interfaces are up. It ends when this is dropped and no process is in it any more.
#[derive(Debug)]
pub(crate) struct Namespace {
    /// What a process joins it by.
    pub(super) handle: OwnedFd,
    /// The namespace's `/proc/net/sockstat`.
    sockets: OwnedFd,
    /// Its interfaces, from `eth0` on.
    pub(super) attachments: Vec<Attachment>,
    /// Where its processes' questions about names arrive.
    pub(super) names: Option<(UdpSocket, TcpListener)>,
}

impl Namespace {
    /// Makes a namespace with a loopback interface, and with one for each place that was taken on a network.
    pub(super) fn new(places: Vec<Joined>, resolves: bool) -> Result<Namespace, NetworkError> {
        let outside = super::route_socket()?;
        // Only a thread of its own may change its namespace and end. It takes the namespace's files along.
        on_own_thread(move || {
            let step = |what| move |error: rustix::io::Errno| failed(what)(error.into());
            crate::sys::unshare(libc::CLONE_NEWNET)
                .map_err(|error| failed("make a network namespace")(io::Error::from_raw_os_error(error)))?;
            let open = |path: &str| rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
            let handle = open("/proc/thread-self/ns/net").map_err(step("open a network namespace"))?;
            let sockets = open("/proc/thread-self/net/sockstat").map_err(step("open a network namespace"))?;
            let inside = super::route_socket()?;
            links::up(&inside, LOOPBACK).map_err(failed("bring the loopback interface up"))?;
            let mut attachments = Vec::new();
            for (number, place) in places.into_iter().enumerate() {
                let end = links::End::Namespace(handle.as_raw_fd());
                let attachment = place.create(&outside, end, &format!("eth{number}"))?;
                configure(&inside, &attachment, &attachments)?;
                attachments.push(attachment);
            }
            let names = resolves.then(open_names).transpose().map_err(failed("listen for questions about names"))?;
            Ok(Namespace { handle, sockets, attachments, names })
        })
    }

    /// Whether nothing is left of whoever used it: no socket, and no port that is blocked for a while by a connection
    /// that was closed.
    pub(super) fn is_quiet(&self) -> bool {
        let mut bytes = [0; 1024];
        let Ok(length) = rustix::io::pread(&self.sockets, &mut bytes[..], 0) else { return false };
        is_quiet(&String::from_utf8_lossy(&bytes[..length]))
    }
}

/// The loopback interface's number in every namespace.
pub(super) const LOOPBACK: u32 = 1;

/// Gives an interface of this thread's namespace its addresses, and leads to the world through it if none of the others
/// does.
fn configure(inside: &Socket, new: &Attachment, others: &[Attachment]) -> Result<(), NetworkError> {
    let index = links::index_in(inside, &new.inner).map_err(failed("find the container's interface"))?;
    let ranges = [Some(new.ipv4()), new.ipv6()];
    for (address, range) in ranges.into_iter().flatten() {
        links::add_address(inside, index, address, range.net).map_err(failed("give the container an address"))?;
    }
    links::up(inside, index).map_err(failed("bring the container's interface up"))?;
    for (address, range) in ranges.into_iter().flatten() {
        let leads_out = |other: &Attachment| !other.internal && (address.is_ipv4() || other.ipv6().is_some());
        if !new.internal && !others.iter().any(leads_out) {
            links::default_route(inside, index, range.gateway).map_err(failed("lead the container to the world"))?;
        }
    }
    Ok(())
}

/// Does the same with an interface that joins others: what leads to the world already goes on to do so.
pub(super) fn configure_further(inside: &Socket, new: &Attachment) -> Result<(), NetworkError> {
    configure(inside, new, &[])
}

/// Runs work in somebody's network namespace.
pub(super) fn inside<T: Send>(
    namespace: &OwnedFd,
    work: impl FnOnce() -> Result<T, NetworkError> + Send,
) -> Result<T, NetworkError> {
    let handle = namespace.as_raw_fd();
    on_own_thread(move || {
        crate::sys::setns(handle, libc::CLONE_NEWNET)
            .map_err(|error| failed("enter a network namespace")(io::Error::from_raw_os_error(error)))?;
        work()
    })
}

/// Opens the sockets that questions about names arrive at, beside port 53, which stays free.
fn open_names() -> io::Result<(UdpSocket, TcpListener)> {
    let address = SocketAddr::from((IpAddr::V4(NAME_SERVER), 0));
    let udp = UdpSocket::bind(address)?;
    let tcp = TcpListener::bind(address)?;
    let ports = (udp.local_addr()?.port(), tcp.local_addr()?.port());
    table::redirect_names(&nft::socket()?, NAME_SERVER, ports.0, ports.1)?;
    Ok((udp, tcp))
}

/// Reads `/proc/net/sockstat`; what is not understood counts as noise.
fn is_quiet(text: &str) -> bool {
    let number = |line: &str, name: &str| -> Option<u64> {
        let mut words = text.lines().find_map(|text| text.strip_prefix(line))?.split_whitespace();
        words.find(|word| *word == name)?;
        words.next()?.parse().ok()
    };
    number("sockets:", "used") == Some(0) && number("TCP:", "tw") == Some(0)
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> Result<T, NetworkError> + Send) -> Result<T, NetworkError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("network".into()).spawn_scoped(scope, work);
        let thread = thread.map_err(failed("start a thread"))?;
        thread.join().unwrap_or_else(|_| Err(failed("use a thread")(io::Error::other("it panicked"))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: &str = "sockets: used 0\nTCP: inuse 0 orphan 3 tw 0 alloc 9 mem 1\nUDP: inuse 0 mem 0\n";

    #[test]
    fn a_namespace_is_quiet_without_sockets_of_its_own_and_blocked_ports() {
        assert!(is_quiet(QUIET));
        for (from, to) in [("used 0", "used 1"), ("tw 0", "tw 2"), ("tw 0", "tw"), ("sockets", "x")] {
            assert!(!is_quiet(&QUIET.replace(from, to)), "{to}");
        }
    }
}
