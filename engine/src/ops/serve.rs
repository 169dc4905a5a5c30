//! Serves images as a registry.

use std::future::Future;
use std::net::SocketAddr;

use jiff::Timestamp;
use registry::server::{ServeError, ServeOptions, Server};
use registry::storage::objects::disk::{Disk, DiskOptions};
use registry::storage::{ObjectError, Storage, StorageOptions};
use store::Layout;

/// Opens what a registry keeps below a home. Blocks.
///
/// # Errors
///
/// When the folder cannot be made or read.
pub fn open(home: &std::path::Path, clock: fn() -> Timestamp) -> Result<Storage, ObjectError> {
    let disk = Disk::open(&Layout::new(home).registry(), DiskOptions::new(clock))?;
    Ok(Storage::new(disk.backend(), StorageOptions::default()))
}

/// Serves a registry until `shutdown` is ready; requests under way may end then.
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
    let server = Server::bind(options).await?;
    listening(server.local_addr());
    server.run(shutdown).await;
    Ok(())
}
