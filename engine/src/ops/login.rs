//! Remembers who somebody is on a registry.

use registry::client::{LoggedIn, LoginError};

use crate::Client;

/// Tries a user name and password on a registry, and keeps them when it accepts them.
///
/// # Errors
///
/// When the registry refuses them or cannot be reached, or they cannot be kept.
pub async fn login(client: &Client, server: &str, username: &str, password: &str) -> Result<LoggedIn, LoginError> {
    registry::client::login(client, server, username, password).await
}
