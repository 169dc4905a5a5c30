//! Gives a container another name.

use jiff::Timestamp;
use supervisor::ContainerError;

use crate::Engine;
use crate::containers;

/// Gives a container another name.
///
/// # Errors
///
/// When there is no such container, or the name is taken or is none.
pub async fn rename(engine: &Engine, name: String, new: String, now: Timestamp) -> Result<(), ContainerError> {
    let all = containers::all(engine);
    store::blocking::run(move || {
        let mut container = all.find(&name)?;
        let old = format!("/{}", container.record.name);
        container.rename(&new)?;
        container.emit("rename", now, &[("oldName", &old)]);
        Ok(())
    })
    .await
}
