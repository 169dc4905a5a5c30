//! Reading that stops when the user wants to stop.

use std::io::{self, Read};

use crate::Cancel;

/// A source that fails once an operation is cancelled, so that whoever reads it cleans up and ends.
#[derive(Debug)]
pub struct Interruptible<R> {
    inner: R,
    cancel: Cancel,
}

impl<R: Read> Interruptible<R> {
    /// Reads from `inner` until `cancel` is cancelled.
    pub fn new(inner: R, cancel: &Cancel) -> Self {
        Self { inner, cancel: cancel.clone() }
    }
}

impl<R: Read> Read for Interruptible<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        // Not `Interrupted`: readers try again after that.
        if self.cancel.is_cancelled() { Err(io::Error::other("cancelled")) } else { Ok(count) }
    }
}
