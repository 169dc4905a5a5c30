//! Tells what a container changed in its files.

use layer::{Tree, TreeError};
use supervisor::ContainerError;

use crate::Engine;
use crate::containers::{self, StartError};

/// What happened to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It was not there.
    Added,
    /// It is not as it was.
    Changed,
    /// It is gone.
    Deleted,
}

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What happened.
    pub kind: ChangeKind,
    /// To what; absolute.
    pub path: String,
}

/// Why changes were not found.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum DiffError {
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error("cannot read the container's image")]
    Image(#[from] StartError),
    #[error("cannot read the container's files")]
    Tree(#[from] TreeError),
    #[error("cannot find what the container changed")]
    Diff(#[from] layer::DiffError),
}

/// Tells what a container changed, by path.
///
/// # Errors
///
/// When there is no such container, or its files cannot be read.
pub async fn diff(engine: &Engine, name: String) -> Result<Vec<Change>, DiffError> {
    let (all, store) = (containers::all(engine), engine.store().clone());
    store::blocking::run(move || {
        let container = all.find(&name)?;
        let lower = Tree::of_layers(containers::lower(&store, &container)?)?;
        let mut changes = Vec::new();
        for entry in layer::diff(&container.upper(), &lower)? {
            let text = String::from_utf8_lossy(&entry.path);
            let text = text.trim_end_matches('/');
            let (folder, last) = text.rsplit_once('/').unwrap_or(("", text));
            let (kind, path) = match last.strip_prefix(".wh.") {
                Some(removed) => (ChangeKind::Deleted, format!("{folder}/{removed}")),
                None if lower.lookup(text, layer::Follow::No)?.is_some() => (ChangeKind::Changed, text.to_owned()),
                None => (ChangeKind::Added, text.to_owned()),
            };
            // What is only there to be mounted on is not the container's doing.
            let path = format!("/{}", path.trim_start_matches('/'));
            if path != "/" {
                changes.push(Change { kind, path });
            }
        }
        changes.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(changes)
    })
    .await
}
