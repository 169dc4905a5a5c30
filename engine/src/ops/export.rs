//! Writes all files of a container as a tar.

use std::io::Write;

use layer::{PackError, PackOptions, Tree, TreeError};
use supervisor::ContainerError;

use crate::Engine;
use crate::containers::{self, StartError};

/// Why files were not written.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum ExportError {
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error("cannot read the container's image")]
    Image(#[from] StartError),
    #[error("cannot read the container's files")]
    Tree(#[from] TreeError),
    #[error("cannot write the tar")]
    Pack(#[from] PackError),
    #[error("cannot write the tar")]
    Write(#[source] std::io::Error),
}

/// Writes all files of a container, as it sees them but for what is mounted.
///
/// # Errors
///
/// When there is no such container, or the tar cannot be written.
pub async fn export(engine: &Engine, name: String, mut sink: impl Write + Send + 'static) -> Result<(), ExportError> {
    let (all, store) = (containers::all(engine), engine.store().clone());
    containers::on_thread(move || {
        let container = all.find(&name)?;
        let layers = std::iter::once(container.upper()).chain(containers::lower(&store, &container)?).collect();
        layer::pack_tree(&Tree::of_layers(layers)?, &mut sink, &PackOptions::default())?;
        sink.flush().map_err(ExportError::Write)
    })
    .await
}
