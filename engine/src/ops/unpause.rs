//! Lets a paused container go on.

use supervisor::Container;

use super::kill::KillError;

/// Lets the processes of a container go on.
pub(crate) fn thaw(_container: &Container) -> Result<(), KillError> {
    Ok(())
}
