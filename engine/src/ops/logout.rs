//! Forgets who somebody is on a registry.

use registry::client::LoginError;

use crate::Client;

/// Forgets the credential for a registry, and tells whether there was one.
///
/// # Errors
///
/// When the credential file cannot be changed.
pub async fn logout(client: &Client, server: &str) -> Result<bool, LoginError> {
    registry::client::logout(client, server).await
}
