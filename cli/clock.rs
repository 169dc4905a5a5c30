//! The one place that asks what time it is; everybody else is told.

use jiff::Timestamp;

/// Returns the time now.
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}
