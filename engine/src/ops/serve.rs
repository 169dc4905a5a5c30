//! Serves images as a registry.

use std::future::Future;
use std::net::SocketAddr;

use registry::server::{Events, ServeError, ServeEvent, ServeOptions, Server};
use store::Store;

/// Serves the repositories of a store until `shutdown` is ready; requests under way may end then.
///
/// `listening` is told the address, with the port that the system chose.
///
/// # Errors
///
/// When the address cannot be listened on.
pub async fn serve(
    store: Store,
    addr: SocketAddr,
    listening: impl FnOnce(SocketAddr),
    events: impl Fn(ServeEvent) + Send + Sync + 'static,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    // Builds may prune beside a server, which may be there for ever. Without that they merely do not.
    let _ = store.pin_claims();
    let options = ServeOptions { events: Events::to(events), ..ServeOptions::new(store, addr) };
    let server = Server::bind(options).await?;
    listening(server.local_addr());
    server.run(shutdown).await;
    Ok(())
}
