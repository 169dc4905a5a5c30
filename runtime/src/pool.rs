//! [`Pool`]: what a container of a build leaves for the next one: its network namespace and its cgroup.
//!
//! Making both costs the kernel more than all the rest of a container, and removing them as much again. The next
//! container finds them as new, because only those come here
//!
//! - whose processes are all gone: the pool gets them when the first process was reaped, and a PID namespace ends with it;
//! - whose processes could change neither: without `CAP_NET_ADMIN` and `CAP_SYS_ADMIN`, with a PID namespace of their own,
//!   and with cgroups that they see read-only;
//! - that are quiet: a network without sockets or waiting ports, a cgroup that killed nobody.
//!
//! Two containers never have the same one at the same time. All that else makes a container (mounts, PIDs, IPC, names)
//! is new for each.

use crate::cgroups::Cgroups;
use crate::network::{Mode, Namespace};
use oci_spec::runtime::{Capability, LinuxNamespaceType, LinuxResources, Spec};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;

/// What ended containers left for the next ones. Dropping it removes all that.
#[derive(Debug, Default)]
pub struct Pool {
    networks: Mutex<Vec<(Mode, Namespace)>>,
    /// Those that are being made for the first containers; none for what was taken.
    expected: Mutex<Vec<(Mode, Option<Making>)>>,
    cgroups: Mutex<Vec<(CgroupKey, Cgroups)>>,
    unmounting: Mutex<Option<Unmounting>>,
}

/// A thread that makes a network namespace; none when it cannot.
type Making = JoinHandle<Option<Namespace>>;

/// The thread that unmounts what ended containers had mounted, beside the next ones.
#[derive(Debug)]
struct Unmounting {
    thread: mpsc::Sender<OwnedFd>,
    /// How many mount namespaces it has still to do with, and who is told.
    open: Arc<(Mutex<usize>, Condvar)>,
}

/// What a cgroup was made for: another container with the same may have it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CgroupKey {
    pub(crate) resources: Option<LinuxResources>,
    pub(crate) parent: Option<String>,
}

impl Pool {
    /// An empty one.
    pub fn new() -> Arc<Pool> {
        Arc::default()
    }

    pub(crate) fn network(&self, mode: &Mode) -> Option<Namespace> {
        if let Some(namespace) = take(&mut lock(&self.networks), |known| known == mode) {
            return Some(namespace);
        }
        let expected =
            lock(&self.expected).iter_mut().find(|(known, _)| known == mode).and_then(|(_, made)| made.take());
        // One that panicked made none.
        expected.and_then(|made| made.join().ok().flatten())
    }

    /// Has a network made by a thread, once for each mode.
    pub(crate) fn expect_network(&self, mode: Mode, make: fn(&Mode) -> Option<Namespace>) {
        let mut expected = lock(&self.expected);
        if !expected.iter().any(|(known, _)| *known == mode) {
            let wanted = mode.clone();
            let made = std::thread::Builder::new().name("networks".into()).spawn(move || make(&wanted)).ok();
            expected.push((mode, made));
        }
    }

    pub(crate) fn keep_network(&self, mode: Mode, namespace: Namespace) {
        lock(&self.networks).push((mode, namespace));
    }

    pub(crate) fn cgroups(&self, key: &CgroupKey) -> Option<Cgroups> {
        take(&mut lock(&self.cgroups), |known| known == key)
    }

    pub(crate) fn keep_cgroups(&self, key: CgroupKey, cgroups: Cgroups) {
        lock(&self.cgroups).push((key, cgroups));
    }

    /// Has the mounts of a namespace unmounted in which no process is left.
    pub(crate) fn unmount(&self, mounts: Option<OwnedFd>) {
        let Some(mounts) = mounts else { return };
        let mut unmounting = lock(&self.unmounting);
        if unmounting.is_none() {
            *unmounting = Unmounting::start().ok();
        }
        // Without a thread they are unmounted here, by being dropped.
        let Some(unmounting) = &*unmounting else { return };
        *lock(&unmounting.open.0) += 1;
        if unmounting.thread.send(mounts).is_err() {
            *lock(&unmounting.open.0) -= 1;
        }
    }

    /// Waits until nothing is mounted any more that was to be unmounted.
    pub fn await_unmounted(&self) {
        let Some(open) = lock(&self.unmounting).as_ref().map(|unmounting| unmounting.open.clone()) else { return };
        let mut left = lock(&open.0);
        while *left > 0 {
            left = open.1.wait(left).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Unmounting {
    /// It ends with the pool.
    fn start() -> io::Result<Unmounting> {
        let (thread, mounts) = mpsc::channel::<OwnedFd>();
        let open = Arc::new((Mutex::new(0), Condvar::new()));
        let told = open.clone();
        std::thread::Builder::new().name("unmount".into()).spawn(move || {
            for one in mounts {
                drop(one);
                *lock(&told.0) -= 1;
                told.1.notify_all();
            }
        })?;
        Ok(Unmounting { thread, open })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take<K, T>(kept: &mut Vec<(K, T)>, fits: impl Fn(&K) -> bool) -> Option<T> {
    let place = kept.iter().position(|(key, _)| fits(key))?;
    Some(kept.swap_remove(place).1)
}

/// Whether the processes of this container leave nothing behind in its network namespace and cgroup.
pub(crate) fn leaves_no_trace(spec: &Spec) -> bool {
    let linux = spec.linux().as_ref();
    let namespaces = linux.and_then(|linux| linux.namespaces().as_ref());
    let own_pids = namespaces.into_iter().flatten().any(|one| one.typ() == LinuxNamespaceType::Pid);
    let sysctls = linux.and_then(|linux| linux.sysctl().as_ref()).is_some_and(|sysctls| !sysctls.is_empty());
    let bounding = spec.process().as_ref().and_then(|process| process.capabilities().as_ref()?.bounding().as_ref());
    // Without a bounding set nothing is known to be out of reach.
    let powerful =
        bounding.is_none_or(|set| [Capability::NetAdmin, Capability::SysAdmin].iter().any(|one| set.contains(one)));
    own_pids && !sysctls && !powerful
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SpecOptions, default_spec};

    #[test]
    fn only_a_container_without_power_over_its_surroundings_leaves_them_to_others() {
        let spec = |privileged| {
            default_spec(&SpecOptions { args: vec!["x".into()], privileged, ..SpecOptions::default() }).unwrap()
        };
        assert!(leaves_no_trace(&spec(false)));
        assert!(!leaves_no_trace(&spec(true)));
        let mut spec = spec(false);
        let mut linux = spec.linux().clone().unwrap();
        linux.set_sysctl(Some([("net.ipv4.ip_forward".to_owned(), "1".to_owned())].into()));
        spec.set_linux(Some(linux));
        assert!(!leaves_no_trace(&spec));
    }
}
