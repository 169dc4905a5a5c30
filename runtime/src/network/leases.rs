//! Who has which address: one file each, locked as long as its owner lives, so that a crash gives it back.

use super::NetworkError;
use super::subnet::Subnet;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// An address that nobody else gets while this lives.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) address: Ipv4Addr,
    path: PathBuf,
    _lock: OwnedFd,
}

impl Drop for Lease {
    fn drop(&mut self) {
        // While it is locked; a file that stays is free all the same.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Takes a free address.
pub(super) fn take(state: &Path, subnet: Subnet) -> Result<Lease, NetworkError> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    std::fs::create_dir_all(state).map_err(|source| NetworkError::State { path: state.to_path_buf(), source })?;
    let capacity = subnet.capacity();
    // Processes start at different places, and no address is used again at once.
    let start = std::process::id().wrapping_mul(251).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
    for step in 0..capacity {
        let address = subnet.address(start.wrapping_add(step) % capacity);
        let path = state.join(address.to_string());
        match try_lock(&path) {
            Ok(Some(lock)) => return Ok(Lease { address, path, _lock: lock }),
            Ok(None) => {}
            Err(error) => return Err(NetworkError::State { path, source: error.into() }),
        }
    }
    Err(NetworkError::NoAddress)
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
    let (ours, named) = (rustix::fs::fstat(&file)?, rustix::fs::stat(path));
    let same = named.is_ok_and(|named| (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino));
    Ok(same.then_some(file))
}

/// Removes the files of owners that are gone. Gives how many.
pub(super) fn sweep(state: &Path) -> usize {
    let mut removed = 0;
    for entry in std::fs::read_dir(state).into_iter().flatten().flatten() {
        let is_address = entry.file_name().to_str().is_some_and(|name| name.parse::<Ipv4Addr>().is_ok());
        if is_address && let Ok(Some(_lock)) = try_lock(&entry.path()) {
            removed += usize::from(std::fs::remove_file(entry.path()).is_ok());
        }
    }
    removed
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Subnet = Subnet { network: Ipv4Addr::new(192, 168, 1, 0), prefix: 29 };

    #[test]
    fn an_address_is_had_by_one_at_a_time() {
        let state = tempfile::tempdir().unwrap();
        let state = state.path().join("new/folder");
        let mut leases: Vec<_> = (0..5).map(|_| take(&state, SMALL).unwrap()).collect();
        let mut addresses: Vec<_> = leases.iter().map(|lease| lease.address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.len(), 5);
        assert!(matches!(take(&state, SMALL), Err(NetworkError::NoAddress)));
        let freed = leases.pop().unwrap().address;
        assert_eq!(take(&state, SMALL).unwrap().address, freed);
        drop(leases);
        assert_eq!(std::fs::read_dir(&state).unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_a_dead_owner_left_is_free_and_swept() {
        let state = tempfile::tempdir().unwrap();
        for name in ["192.168.1.2", "192.168.1.3", "other"] {
            std::fs::File::create(state.path().join(name)).unwrap();
        }
        let lease = take(state.path(), SMALL).unwrap();
        let left = sweep(state.path());
        assert!((1..=2).contains(&left), "{left}");
        assert!(lease.path.exists() && state.path().join("other").exists());
        assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 2);
    }
}
