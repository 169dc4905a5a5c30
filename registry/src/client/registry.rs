//! [`Registry`]: one registry as we know it, found by asking `/v2/`: how to reach it, and how to authenticate.
//!
//! ```text
//! GET /v2/  ── 200 ──────────────────────► no Authorization, until a 401 says otherwise
//!     │
//!    401 WWW-Authenticate: Basic ────────► Authorization: Basic, when a password is known
//!     │
//!    401 WWW-Authenticate: Bearer realm ─► token from the realm, with credentials or without,
//!                                          kept per set of scopes until it expires
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oci::RepositoryName;
use reqwest::header::HeaderValue;
use reqwest::{Method, StatusCode};
use tokio::time::Instant;

use super::auth::{self, Token};
use super::challenge::{self, Challenge};
use super::endpoint::{self, Endpoint};
use super::request::{Behalf, Client, Request, Response};
use super::{Credential, CredentialError, RequestError};

/// What is known about a registry.
pub(super) struct Registry {
    pub(super) name: String,
    pub(super) endpoint: Endpoint,
    /// How to authenticate, once the registry has said so.
    scheme: Mutex<Option<Challenge>>,
    /// By the scopes, sorted.
    tokens: Mutex<HashMap<Vec<String>, Token>>,
    /// By repository, because podman's files may differ there.
    credentials: Mutex<HashMap<String, Known>>,
    /// A credential that is being tried (login), instead of those on file.
    fixed: Option<Credential>,
}

/// What the credential files say. An error there only matters when the registry does ask.
pub(super) type Known = Result<Option<Credential>, Arc<CredentialError>>;

/// What is sent to authenticate, and what it was made from.
pub(super) struct Authorization {
    pub(super) header: HeaderValue,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Basic,
    /// A token from the cache, which may have been revoked.
    OldToken,
    /// A token that was made for this request.
    NewToken,
    /// A token from the credential file.
    GivenToken,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is one assignment, so what a panic left behind is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    /// Asks `/v2/` in each way that is allowed, and takes the first that answers in HTTP.
    pub(super) async fn connect(client: &Client, name: &str, fixed: Option<Credential>) -> Result<Self, RequestError> {
        let candidates = endpoint::candidates(name, &client.options().insecure)
            .ok_or_else(|| RequestError::Protocol { registry: name.into(), what: "its name is not a host".into() })?;
        let mut again = true;
        loop {
            let mut first_error = None;
            for endpoint in &candidates {
                match ping(client, name, endpoint).await {
                    Ok(Some(Pinged(scheme))) => return Ok(Self::new(name, endpoint.clone(), scheme, fixed)),
                    Ok(None) => {}
                    Err(error) => first_error = first_error.or(Some(error)),
                }
            }
            let error = first_error.unwrap_or_else(|| RequestError::Protocol {
                registry: name.into(),
                what: "it does not speak the protocol of its port".into(),
            });
            // Nobody there is an answer; a connection that broke may be chance.
            let chance = matches!(error, RequestError::Broken { .. } | RequestError::Stalled { .. });
            if !chance || !std::mem::take(&mut again) {
                return Err(error);
            }
            tokio::time::sleep(client.options().first_wait).await;
        }
    }

    fn new(name: &str, endpoint: Endpoint, scheme: Option<Challenge>, fixed: Option<Credential>) -> Self {
        Self {
            name: name.to_owned(),
            endpoint,
            scheme: Mutex::new(scheme),
            tokens: Mutex::default(),
            credentials: Mutex::default(),
            fixed,
        }
    }

    pub(super) fn behalf(&self) -> Behalf<'_> {
        Behalf { registry: &self.name, endpoint: &self.endpoint }
    }

    /// Returns what to send with a request that needs these scopes; `None` when nobody has asked, or nothing is known.
    pub(super) async fn authorization(
        &self,
        client: &Client,
        repository: Option<&RepositoryName>,
        scopes: &[String],
    ) -> Result<Option<Authorization>, RequestError> {
        let Some(scheme) = lock(&self.scheme).clone() else { return Ok(None) };
        let credential = self.credential(client, repository).await.unwrap_or_default();
        if let Some(Credential::Bearer { token }) = &credential {
            return Ok(
                secret(&format!("Bearer {token}")).map(|header| Authorization { header, kind: Kind::GivenToken })
            );
        }
        match scheme {
            Challenge::Basic => Ok(match &credential {
                Some(Credential::Password { username, password }) => {
                    basic(username, password).map(|header| Authorization { header, kind: Kind::Basic })
                }
                Some(Credential::Identity { .. } | Credential::Bearer { .. }) | None => None,
            }),
            Challenge::Bearer { realm, service, .. } => {
                let mut key = scopes.to_vec();
                key.sort();
                if let Some(token) = lock(&self.tokens).get(&key).filter(|token| Instant::now() < token.expires) {
                    return Ok(Some(Authorization { header: token.header.clone(), kind: Kind::OldToken }));
                }
                let request = auth::TokenRequest { realm: &realm, service: service.as_deref(), scopes, lasting: false };
                let granted = auth::fetch(client, self, &request, credential.as_ref())
                    .await
                    .map_err(|error| self.explain(error, repository))?;
                let header = granted.token.header.clone();
                lock(&self.tokens).insert(key, granted.token);
                Ok(Some(Authorization { header, kind: Kind::NewToken }))
            }
        }
    }

    /// Learns from a 401, and tells whether sending the request once more may help.
    pub(super) async fn learn(
        &self,
        client: &Client,
        repository: Option<&RepositoryName>,
        response: &Response,
        scopes: &mut Vec<String>,
        sent: Option<&Authorization>,
    ) -> bool {
        let Some(challenge) = preferred(challenge::parse(&response.headers)) else { return false };
        let sent = sent.map(|authorization| authorization.kind);
        let again = match &challenge {
            Challenge::Basic => {
                let password = self.credential(client, repository).await;
                sent != Some(Kind::Basic) && matches!(password, Ok(Some(Credential::Password { .. })))
            }
            Challenge::Bearer { scope, .. } => {
                let mut key = scopes.clone();
                key.sort();
                let more: Vec<String> =
                    scope.iter().flat_map(|text| text.split_whitespace()).map(str::to_owned).collect();
                let before = scopes.len();
                for scope in more {
                    if !scopes.contains(&scope) {
                        scopes.push(scope);
                    }
                }
                match sent {
                    None | Some(Kind::Basic) => true,
                    Some(Kind::OldToken) => {
                        lock(&self.tokens).remove(&key);
                        true
                    }
                    Some(Kind::NewToken) => scopes.len() > before,
                    Some(Kind::GivenToken) => false,
                }
            }
        };
        *lock(&self.scheme) = Some(challenge);
        again
    }

    /// Returns who to be, as the files and helpers say.
    pub(super) async fn credential(&self, client: &Client, repository: Option<&RepositoryName>) -> Known {
        if let Some(fixed) = &self.fixed {
            return Ok(Some(fixed.clone()));
        }
        let key = repository.map(RepositoryName::as_str).unwrap_or_default().to_owned();
        if let Some(known) = lock(&self.credentials).get(&key) {
            return known.clone();
        }
        let (credentials, name, repository) =
            (client.options().credentials.clone(), self.name.clone(), repository.cloned());
        let found = store::blocking::run(move || credentials.get(&name, repository.as_ref())).await;
        let known = found.map_err(Arc::new);
        lock(&self.credentials).insert(key, known.clone());
        known
    }

    /// Adds to a refusal what went wrong with the credentials, if something did.
    pub(super) fn explain(&self, mut error: RequestError, repository: Option<&RepositoryName>) -> RequestError {
        if let RequestError::Unauthorized { repository: named, had_credentials, source, .. } = &mut error {
            let key = repository.map(RepositoryName::as_str).unwrap_or_default();
            *named = repository.map(|name| name.as_str().to_owned());
            match lock(&self.credentials).get(key) {
                Some(Ok(known)) => *had_credentials = known.is_some(),
                Some(Err(error)) => *source = Some(error.clone()),
                None => *had_credentials = self.fixed.is_some(),
            }
        }
        error
    }

    /// Tries a credential on the token server, if there is one, and returns the refresh token that it may give.
    pub(super) async fn log_in(
        &self,
        client: &Client,
        credential: &Credential,
    ) -> Result<Option<String>, RequestError> {
        let Some(Challenge::Bearer { realm, service, .. }) = lock(&self.scheme).clone() else { return Ok(None) };
        let request = auth::TokenRequest { realm: &realm, service: service.as_deref(), scopes: &[], lasting: true };
        let granted = auth::fetch(client, self, &request, Some(credential)).await;
        let granted = granted.map_err(|error| self.explain(error, None))?;
        lock(&self.tokens).insert(Vec::new(), granted.token);
        Ok(granted.refresh)
    }
}

/// Takes a token rather than a password, when a server offers both: that is what docker does.
fn preferred(challenges: Vec<Challenge>) -> Option<Challenge> {
    let bearer = challenges.iter().position(|challenge| matches!(challenge, Challenge::Bearer { .. }));
    challenges.into_iter().nth(bearer.unwrap_or(0))
}

/// Makes the header of a user name and password.
pub(super) fn basic(username: &str, password: &str) -> Option<HeaderValue> {
    secret(&format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
}

/// Makes a header that is never shown.
pub(super) fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// How a registry said that it wants to be authenticated to, if it did.
struct Pinged(Option<Challenge>);

/// Asks `/v2/` once; `None` when the answer shows that the port wants TLS.
async fn ping(client: &Client, name: &str, endpoint: &Endpoint) -> Result<Option<Pinged>, RequestError> {
    let request = Request::new(Method::GET, endpoint.base.clone());
    let mut response = client.follow(Behalf { registry: name, endpoint }, &request, None, &mut |_| {}).await?;
    let scheme = match response.status {
        StatusCode::UNAUTHORIZED => preferred(challenge::parse(&response.headers)),
        _ => None,
    };
    if response.status == StatusCode::BAD_REQUEST && endpoint.base.scheme() == "http" {
        // Go's servers and nginx say so in the body.
        let body = response.bytes(4096).await?.unwrap_or_default();
        let body = String::from_utf8_lossy(&body);
        if body.contains("HTTPS server") || body.contains("HTTPS port") {
            return Ok(None);
        }
    } else {
        response.drain().await;
    }
    Ok(Some(Pinged(scheme)))
}
