//! Serves images as a registry.

use std::future::Future;
use std::net::SocketAddr;

use registry::server::{ServeError, ServeOptions, Server};

/// Serves a registry until `shutdown` is ready; requests under way may end then.
///
/// `listening` is told the address, with the port that the system chose.
///
/// # Errors
///
/// When the address cannot be listened on, the certificate cannot be used, or the storage does not answer.
pub async fn serve(
    options: ServeOptions,
    listening: impl FnOnce(SocketAddr),
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let storage = options.storage.clone();
    let server = Server::bind(options).await?;
    // Not before: who cannot serve changes nothing.
    storage.note_immutable().await?;
    listening(server.local_addr());
    server.run(shutdown).await;
    Ok(())
}
