//! [`login`] and [`logout`]: credentials tried before they are kept, and forgotten.

use std::sync::Arc;

use reqwest::{Method, StatusCode};

use super::credentials::StoredIn;
use super::endpoint;
use super::registry::Registry;
use super::request::Request;
use super::session::Session;
use super::{Client, Credential, LoginError, RequestError};

/// A login that the registry accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedIn {
    /// The registry.
    pub registry: String,
    /// Where the credential was filed.
    pub stored_in: StoredIn,
    /// Whether a token took the place of the password.
    pub token: bool,
}

/// Tries a user name and password on a registry, and files them when it accepts them.
///
/// A token server may give a refresh token in exchange; then that is filed, and the password is nowhere.
pub async fn login(client: &Client, registry: &str, username: &str, password: &str) -> Result<LoggedIn, LoginError> {
    let name = registry_name(registry)?;
    let password = Credential::Password { username: username.to_owned(), password: password.to_owned() };
    let found = Registry::connect(client, &name, Some(password.clone())).await.map_err(refused)?;
    let refresh = found.log_in(client, &password).await.map_err(refused)?;
    let session = Session::whole(client, Arc::new(found));
    let request = Request::new(Method::GET, session.url(""));
    let response = session.send(&request).await.map_err(refused)?;
    // Some registries have nothing at `/v2/`, which says nothing about the password.
    if response.status != StatusCode::NOT_FOUND {
        session.expect_success(&request, response).await.map_err(refused)?;
    }

    let token = refresh.is_some();
    let credential = refresh.map_or(password, |token| Credential::Identity { token });
    let (credentials, filed_under) = (client.options().credentials.clone(), name.clone());
    let stored_in = store::blocking::run(move || credentials.store(&filed_under, &credential)).await?;
    client.forget(&name);
    Ok(LoggedIn { registry: name, stored_in, token })
}

/// Forgets the credential for a registry, and tells whether there was one. The registry is not asked.
pub async fn logout(client: &Client, registry: &str) -> Result<bool, LoginError> {
    let name = registry_name(registry)?;
    let credentials = client.options().credentials.clone();
    client.forget(&name);
    Ok(store::blocking::run(move || credentials.erase(&name)).await?)
}

/// Takes what users type for a registry: a host, with or without a scheme and docker's `/v1/`.
fn registry_name(text: &str) -> Result<String, LoginError> {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
    let (host, path) = host.split_once('/').unwrap_or((host, ""));
    let bad = || LoginError::Registry { text: text.to_owned() };
    if host.is_empty() || host.contains(['@', '?', '#', ' ', '\\']) || !matches!(path, "" | "v1" | "v1/" | "v2" | "v2/")
    {
        return Err(bad());
    }
    if matches!(host, "index.docker.io" | "registry-1.docker.io") {
        return Ok(oci::reference::DEFAULT_REGISTRY.into());
    }
    endpoint::candidates(host, &[]).ok_or_else(bad)?;
    Ok(host.to_owned())
}

fn refused(error: RequestError) -> LoginError {
    match error {
        RequestError::Unauthorized { registry, said, .. } | RequestError::Denied { registry, said, .. } => {
            LoginError::Refused { registry, said }
        }
        other => LoginError::Request(other),
    }
}
