//! Serves images as a registry.

use std::future::Future;
use std::net::SocketAddr;

use registry::server::{ServeError, ServeOptions, Server};

/// Serves the repositories of a store until `shutdown` is ready; requests under way may end then.
///
/// `listening` is told the address, with the port that the system chose.
///
/// # Errors
///
/// When the address cannot be listened on, or the certificate cannot be used.
pub async fn serve(
    options: ServeOptions,
    listening: impl FnOnce(SocketAddr),
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    // Builds may prune beside a server, which may be there for ever. Without that they merely do not.
    let _ = options.store.pin_claims();
    let server = Server::bind(options).await?;
    listening(server.local_addr());
    server.run(shutdown).await;
    Ok(())
}
