//! [`Cancel`]: tells a build, and everything it waits for, to stop.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A handle that stops a build from another thread; clones are the same handle.
#[derive(Clone, Default)]
pub struct Cancel(Arc<Shared>);

type Callback = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Shared {
    cancelled: AtomicBool,
    callbacks: Mutex<(u64, BTreeMap<u64, Callback>)>,
}

impl Cancel {
    /// Returns a handle that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels: wakes everything that registered with [`Cancel::on_cancel`]. Doing so twice changes nothing.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::SeqCst);
        let callbacks = std::mem::take(&mut self.lock().1);
        for callback in callbacks.into_values() {
            callback();
        }
    }

    /// Tells whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::SeqCst)
    }

    /// Calls `callback` when this is cancelled, from the thread that cancels; at once if it already is. Dropping what is
    /// returned forgets the callback.
    ///
    /// The callback must be quick and must not touch this handle: kill a process, write to an eventfd.
    #[must_use = "dropping it forgets the callback"]
    pub fn on_cancel(&self, callback: impl FnOnce() + Send + 'static) -> CancelGuard {
        let mut callbacks = self.lock();
        let key = callbacks.0;
        callbacks.0 += 1;
        if self.is_cancelled() {
            drop(callbacks);
            callback();
        } else {
            callbacks.1.insert(key, Box::new(callback));
        }
        CancelGuard { cancel: self.clone(), key }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (u64, BTreeMap<u64, Callback>)> {
        self.0.callbacks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Cancel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cancel").field("cancelled", &self.is_cancelled()).finish_non_exhaustive()
    }
}

/// Keeps a callback of [`Cancel::on_cancel`] registered.
#[derive(Debug)]
pub struct CancelGuard {
    cancel: Cancel,
    key: u64,
}

impl Drop for CancelGuard {
    fn drop(&mut self) {
        self.cancel.lock().1.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn callbacks_are_called_once_and_only_while_registered() {
        let cancel = Cancel::new();
        let calls = Arc::new(AtomicUsize::new(0));
        let count = |calls: &Arc<AtomicUsize>| {
            let calls = calls.clone();
            move || {
                calls.fetch_add(1, Ordering::SeqCst);
            }
        };
        let kept = cancel.on_cancel(count(&calls));
        drop(cancel.on_cancel(count(&calls)));
        assert!(!cancel.is_cancelled());
        cancel.cancel();
        cancel.clone().cancel();
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        let _late = cancel.on_cancel(count(&calls));
        assert_eq!(calls.load(Ordering::SeqCst), 2);
        drop(kept);
    }
}
