//! Who has which address: one file each, of whoever is preparing a container, then of the interface that has it.
//!
//! ```text
//! STATE/ADDRESS            on the default network
//! STATE/BRIDGE/ADDRESS     on another
//!
//!   interface sv0012ab0001 17     the host's end of the pair, by name and number
//!   container 3f5e…               its ID
//!   name web                      what it answers to, its own name first
//!   name db
//! ```
//!
//! The file is locked while a process owns the address. Once the pair of interfaces is there, the address belongs to
//! that: it is free when the interface is gone, which the kernel removes together with the container's namespace,
//! whoever was killed.

use super::NetworkError;
use super::range::Range;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// An address that nobody else gets while this lives, or the interface that was told to it.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) address: IpAddr,
    path: PathBuf,
    lock: OwnedFd,
    /// Whether the file stays when this goes.
    kept: bool,
}

/// What a lease says about the container that has the address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Holder {
    /// The host's end of the pair, by name and number.
    pub interface: Option<(String, u32)>,
    /// What people call the network.
    pub network: String,
    /// The container's ID.
    pub container: String,
    /// What it answers to, its own name first.
    pub names: Vec<String>,
}

impl Lease {
    /// Tells who has the address from now on.
    pub(super) fn hand_over(&self, holder: &Holder) -> Result<(), NetworkError> {
        let text = holder.text();
        let written = rustix::fs::ftruncate(&self.lock, 0)
            .and_then(|()| rustix::io::pwrite(&self.lock, text.as_bytes(), 0))
            .map_err(|source| NetworkError::State { path: self.path.clone(), source: source.into() })?;
        debug_assert_eq!(written, text.len());
        Ok(())
    }

    /// Leaves the address to the interface that has it.
    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // While it is locked; a file that stays is free all the same.
        if !self.kept && is_same(&self.lock, &self.path) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Holder {
    fn text(&self) -> String {
        let mut text = String::new();
        if let Some((name, index)) = &self.interface {
            writeln!(text, "interface {name} {index}").expect("a String takes everything");
        }
        writeln!(text, "network {}\ncontainer {}", self.network, self.container).expect("a String takes everything");
        for name in &self.names {
            writeln!(text, "name {name}").expect("a String takes everything");
        }
        text
    }

    fn parse(text: &str) -> Holder {
        let mut holder = Holder::default();
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("interface", rest)) => {
                    holder.interface =
                        rest.split_once(' ').and_then(|(name, index)| Some((name.to_owned(), index.parse().ok()?)));
                }
                Some(("network", name)) => holder.network = name.to_owned(),
                Some(("container", id)) => holder.container = id.to_owned(),
                Some(("name", name)) => holder.names.push(name.to_owned()),
                _ => {}
            }
        }
        holder
    }

    /// Whether the interface is there.
    pub(super) fn is_alive(&self) -> bool {
        self.interface.as_ref().is_some_and(|(name, index)| super::links::index(name) == Some(*index))
    }
}

/// Takes the address that is wanted, or a free one.
pub(super) fn take(state: &Path, range: &Range, wanted: Option<IpAddr>) -> Result<Lease, NetworkError> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    std::fs::create_dir_all(state).map_err(|source| NetworkError::State { path: state.to_path_buf(), source })?;
    let one = |address: IpAddr| {
        let path = state.join(address.to_string());
        match try_lock(&path) {
            Ok(Some(lock)) if read(&lock).is_alive() => Ok(None),
            Ok(lock) => Ok(lock.map(|lock| Lease { address, path, lock, kept: false })),
            Err(error) => Err(NetworkError::State { path, source: error.into() }),
        }
    };
    if let Some(address) = wanted {
        return one(address)?.ok_or(NetworkError::AddressTaken { address });
    }
    let capacity = range.capacity();
    // Processes start at different places, and no address is used again at once.
    let start = std::process::id().wrapping_mul(251).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
    for step in 0..capacity.min(1 << 20) {
        let address = range.address(u128::from(start).wrapping_add(step) % capacity);
        if range.is_free_for_containers(address)
            && let Some(lease) = one(address)?
        {
            return Ok(lease);
        }
    }
    Err(NetworkError::NoAddress)
}

fn read(file: &OwnedFd) -> Holder {
    let mut bytes = vec![0; 16 << 10];
    let length = rustix::io::pread(file, &mut bytes[..], 0).unwrap_or(0);
    Holder::parse(&String::from_utf8_lossy(&bytes[..length]))
}

/// Returns the addresses of a network that interfaces have.
pub(super) fn held(state: &Path) -> Vec<(IpAddr, Holder)> {
    let addresses = std::fs::read_dir(state).into_iter().flatten().flatten().filter_map(|entry| {
        let address = entry.file_name().to_str()?.parse().ok()?;
        let holder = Holder::parse(&std::fs::read_to_string(entry.path()).ok()?);
        holder.is_alive().then_some((address, holder))
    });
    addresses.collect()
}

/// Locks the file, unless somebody has it.
fn try_lock(path: &Path) -> rustix::io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        Err(error) => return Err(error),
    }
    // Its last owner may have removed it between the two calls: then this lock is one of nothing.
    Ok(is_same(&file, path).then_some(file))
}

fn is_same(file: &OwnedFd, path: &Path) -> bool {
    let (ours, named) = (rustix::fs::fstat(file), rustix::fs::stat(path));
    ours.is_ok_and(|ours| named.is_ok_and(|named| (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino)))
}

/// Removes the files of addresses that nobody has any more. Gives how many.
pub(super) fn sweep(state: &Path) -> usize {
    let mut removed = 0;
    for entry in std::fs::read_dir(state).into_iter().flatten().flatten() {
        let is_address = entry.file_name().to_str().is_some_and(|name| name.parse::<IpAddr>().is_ok());
        if is_address
            && let Ok(Some(lock)) = try_lock(&entry.path())
            && !read(&lock).is_alive()
        {
            removed += usize::from(std::fs::remove_file(entry.path()).is_ok());
        }
    }
    removed
}

/// Whether the address is somebody's: it is locked, or an interface has it.
pub(super) fn is_held(state: &Path, address: IpAddr) -> bool {
    let path = state.join(address.to_string());
    let Ok(file) = rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty()) else {
        return false;
    };
    flock(&file, FlockOperation::NonBlockingLockShared).is_err() || read(&file).is_alive()
}

/// Takes an address from a container that has it, and gives its interface.
pub(super) fn revoke(state: &Path, container: &str) -> Vec<Holder> {
    let theirs: Vec<_> = held(state).into_iter().filter(|(_, holder)| holder.container == container).collect();
    for (address, _) in &theirs {
        // What stays is free once the interface is gone.
        let _ = std::fs::remove_file(state.join(address.to_string()));
    }
    theirs.into_iter().map(|(_, holder)| holder).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Range {
        Range::of("192.168.1.0/29".parse().unwrap())
    }

    #[test]
    fn an_address_is_had_by_one_at_a_time() {
        let state = tempfile::tempdir().unwrap();
        let state = state.path().join("new/folder");
        let mut leases: Vec<_> = (0..5).map(|_| take(&state, &small(), None).unwrap()).collect();
        let mut addresses: Vec<_> = leases.iter().map(|lease| lease.address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.len(), 5);
        assert!(matches!(take(&state, &small(), None), Err(NetworkError::NoAddress)));
        let freed = leases.pop().unwrap().address;
        let another = leases[0].address;
        assert!(
            matches!(take(&state, &small(), Some(another)), Err(NetworkError::AddressTaken { address }) if address == another)
        );
        assert_eq!(take(&state, &small(), None).unwrap().address, freed);
        drop(leases);
        assert_eq!(std::fs::read_dir(&state).unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_a_dead_owner_left_is_free_and_swept() {
        let state = tempfile::tempdir().unwrap();
        for name in ["192.168.1.2", "192.168.1.3", "other"] {
            std::fs::File::create(state.path().join(name)).unwrap();
        }
        let lease = take(state.path(), &small(), None).unwrap();
        let left = sweep(state.path());
        assert!((1..=2).contains(&left), "{left}");
        assert!(lease.path.exists() && state.path().join("other").exists());
        assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 2);
    }

    #[test]
    fn an_address_belongs_to_its_interface_as_long_as_that_is_there() {
        let state = tempfile::tempdir().unwrap();
        let lo = Some(("lo".to_owned(), super::super::links::index("lo").unwrap()));
        let holder = Holder {
            interface: lo,
            network: "n".into(),
            container: "c1".into(),
            names: vec!["web".into(), "db".into()],
        };
        let lease = take(state.path(), &small(), Some("192.168.1.4".parse().unwrap())).unwrap();
        let address = lease.address;
        lease.hand_over(&holder).unwrap();
        lease.keep();
        assert_eq!(held(state.path()), [(address, holder.clone())]);
        assert!(is_held(state.path(), address) && sweep(state.path()) == 0);
        assert!(take(state.path(), &small(), Some(address)).is_err());
        assert_eq!(revoke(state.path(), "c2"), []);
        assert_eq!(revoke(state.path(), "c1"), vec![holder.clone()]);
        let gone = Holder { interface: Some(("lo".into(), 4_000_000)), ..holder };
        let lease = take(state.path(), &small(), Some(address)).unwrap();
        lease.hand_over(&gone).unwrap();
        lease.keep();
        assert!(!is_held(state.path(), address) && held(state.path()).is_empty());
        assert_eq!(sweep(state.path()), 1);
    }
}
