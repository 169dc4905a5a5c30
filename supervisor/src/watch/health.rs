//! Health checks: a command in the container every now and then, as docker does them.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use jiff::Timestamp;

use crate::containers::Container;
use crate::record::{Health, Record};

/// Runs the checks of one container.
pub(super) struct Checker {}

/// What came of a check.
pub(super) struct Outcome {}

impl Checker {
    pub(super) fn of(_record: &Record) -> Option<Self> {
        None
    }
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    pub(super) fn next_moment(&self) -> Instant {
        Instant::now()
    }
    pub(super) fn turn(&mut self, _: &Container, _: u32, _: fn() -> Timestamp) -> Option<Outcome> {
        None
    }
}

impl Outcome {
    pub(super) fn apply(self, _: &mut Health) -> Option<String> {
        None
    }
}
