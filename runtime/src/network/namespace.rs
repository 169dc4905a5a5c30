//! A network namespace that is made before its container, and that another may use afterwards.

use super::{Bridge, Lease, NetworkError, failed, links, route_socket};
use crate::child::net::{InterfacePlan, NetworkPlan, configure};
use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// A namespace whose interfaces are up. It ends when this is dropped and no process is in it any more.
#[derive(Debug)]
pub(crate) struct Namespace {
    /// What a process joins it by.
    pub(super) handle: OwnedFd,
    /// The namespace's `/proc/net/sockstat`.
    sockets: OwnedFd,
    /// The bridge and the address there, if it is on it.
    pub(super) place: Option<(Bridge, Lease)>,
}

impl Namespace {
    /// Makes a namespace with a loopback interface, and with `eth0` when it has a place on the bridge.
    pub(super) fn new(place: Option<(Bridge, Lease)>) -> Result<Namespace, NetworkError> {
        // Only a thread of its own may change its namespace and end. It takes the namespace's files along.
        let (handle, sockets) = on_own_thread(|| {
            crate::sys::unshare(libc::CLONE_NEWNET).map_err(io::Error::from_raw_os_error)?;
            let open = |path: &str| rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
            Ok((open("/proc/thread-self/ns/net")?, open("/proc/thread-self/net/sockstat")?))
        })
        .map_err(failed("make a network namespace"))?;
        let mut interface = None;
        if let Some((bridge, lease)) = &place {
            let end = links::End::Namespace(handle.as_raw_fd());
            links::create_pair(&route_socket()?, bridge.index, bridge.mtu, end, lease.address)
                .map_err(failed("make a pair of interfaces"))?;
            let (mask, gateway) = (bridge.subnet.mask(), bridge.subnet.gateway());
            interface = Some(InterfacePlan { address: lease.address, mask, gateway });
        }
        let joined = handle.as_raw_fd();
        on_own_thread(move || {
            crate::sys::setns(joined, libc::CLONE_NEWNET).map_err(io::Error::from_raw_os_error)?;
            let plan = NetworkPlan { loopback: true, interface, join: None };
            configure(&plan).map_err(|failure| io::Error::from_raw_os_error(failure.errno))
        })
        .map_err(failed("bring the interfaces up"))?;
        Ok(Namespace { handle, sockets, place })
    }

    /// Whether nothing is left of whoever used it: no socket, and no port that is blocked for a while by a connection
    /// that was closed.
    pub(super) fn is_quiet(&self) -> bool {
        let mut bytes = [0; 1024];
        let Ok(length) = rustix::io::pread(&self.sockets, &mut bytes[..], 0) else { return false };
        is_quiet(&String::from_utf8_lossy(&bytes[..length]))
    }
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

fn on_own_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("network".into()).spawn_scoped(scope, work)?;
        thread.join().map_err(|_| io::Error::other("the thread panicked"))?
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
