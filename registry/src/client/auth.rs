//! [`fetch`]: tokens from token servers (distribution-spec, "Token Authentication"; Docker's "oauth2" variant).

use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use serde_json::Value;
use tokio::time::Instant;

use super::endpoint::is_loopback;
use super::registry::{Registry, basic, secret};
use super::request::{Body, Client, Request, Response};
use super::{Credential, RequestError};

/// How long a token's server may be verbose.
const MAX_ANSWER: usize = 1 << 20;
/// How long a token holds whose server does not say, and the least that is believed.
const SHORTEST_LIFE: Duration = Duration::from_secs(60);
/// How long before its end a token is no longer used.
const MARGIN: Duration = Duration::from_secs(10);
/// What we call ourselves to token servers.
const CLIENT_ID: &str = "slipway";

/// A token, ready to be sent.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) header: HeaderValue,
    pub(super) expires: Instant,
}

/// What a token server gave.
pub(super) struct Granted {
    pub(super) token: Token,
    /// A token that is good for more tokens, when [`TokenRequest::lasting`] asked for one.
    pub(super) refresh: Option<String>,
}

/// What is asked of a token server.
pub(super) struct TokenRequest<'a> {
    pub(super) realm: &'a str,
    pub(super) service: Option<&'a str>,
    pub(super) scopes: &'a [String],
    /// Whether a refresh token is wanted, to keep instead of a password.
    pub(super) lasting: bool,
}

/// Gets a token, with credentials if there are any. Whoever needs it tries again.
///
/// Credentials go to the realm only over HTTPS, or to the very host of a registry that is itself spoken to in plain
/// HTTP. Otherwise a registry could have them sent in the open to wherever it names (CVE-2026-33540).
pub(super) async fn fetch(
    client: &Client,
    registry: &Registry,
    request: &TokenRequest<'_>,
    credential: Option<&Credential>,
) -> Result<Granted, RequestError> {
    let realm = parse_realm(registry, request.realm)?;
    if credential.is_some() && !is_trusted(registry, &realm) {
        return Err(RequestError::UntrustedRealm { registry: registry.name.clone(), realm: show(&realm) });
    }
    let (sent, authorization) = match credential {
        Some(Credential::Identity { token }) => (refresh_request(&realm, request, token), None),
        Some(Credential::Password { username, password }) => {
            let header = basic(username, password);
            (get_request(&realm, request, Some(username)), header)
        }
        Some(Credential::Bearer { .. }) | None => (get_request(&realm, request, None), None),
    };
    let mut response = client.follow(registry.behalf(), &sent, authorization.as_ref(), &mut |_| {}).await?;
    if !response.status.is_success() {
        return Err(refusal(registry, &realm, credential.is_some(), response).await);
    }
    let unusable = |what: &str| RequestError::Token {
        registry: registry.name.clone(),
        realm: show(&realm),
        what: what.to_owned(),
    };
    let body = response.bytes(MAX_ANSWER).await?.ok_or_else(|| unusable("its answer is too long"))?;
    let answer: Value = serde_json::from_slice(&body).map_err(|_| unusable("its answer is not JSON"))?;
    let text = |name: &str| answer.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let token = text("token").or_else(|| text("access_token")).ok_or_else(|| unusable("its answer has no token"))?;
    let header = secret(&format!("Bearer {token}")).ok_or_else(|| unusable("the token has control characters"))?;
    let life = answer.get("expires_in").and_then(|value| value.as_u64().or_else(|| value.as_str()?.parse().ok()));
    // A day is as good as forever here, and cannot overflow.
    let life = Duration::from_secs(life.unwrap_or(0).min(86_400)).max(SHORTEST_LIFE);
    Ok(Granted {
        token: Token { header, expires: Instant::now() + life - MARGIN },
        refresh: text("refresh_token").map(str::to_owned),
    })
}

fn get_request(realm: &Url, request: &TokenRequest<'_>, account: Option<&str>) -> Request {
    let mut url = realm.clone();
    {
        let mut query = url.query_pairs_mut();
        if let Some(service) = request.service {
            query.append_pair("service", service);
        }
        for scope in request.scopes {
            query.append_pair("scope", scope);
        }
        if let Some(account) = account {
            query.append_pair("account", account);
        }
        if request.lasting {
            query.append_pair("offline_token", "true");
        }
        query.append_pair("client_id", CLIENT_ID);
    }
    Request::new(Method::GET, url)
}

fn refresh_request(realm: &Url, request: &TokenRequest<'_>, token: &str) -> Request {
    let mut form = Url::parse("form:").expect("a constant that is a URL");
    form.query_pairs_mut()
        .append_pair("grant_type", "refresh_token")
        .append_pair("service", request.service.unwrap_or_default())
        .append_pair("client_id", CLIENT_ID)
        .append_pair("scope", &request.scopes.join(" "))
        .append_pair("refresh_token", token);
    let body = form.query().unwrap_or_default().to_owned();
    let mut request = Request::new(Method::POST, realm.clone())
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Body::Bytes(body.into()));
    request.confidential = true;
    request
}

async fn refusal(registry: &Registry, realm: &Url, had_credentials: bool, response: Response) -> RequestError {
    let status = response.status;
    let retry_after = response.retry_after();
    let said = response.said().await;
    let name = registry.name.clone();
    match status {
        StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            RequestError::Unauthorized { registry: name, repository: None, had_credentials, said, source: None }
        }
        StatusCode::TOO_MANY_REQUESTS => RequestError::TooManyRequests { registry: name, retry_after, said },
        other => RequestError::Status {
            registry: name,
            request: format!("a token request at {}", show(realm)),
            status: other.as_u16(),
            retry_after,
            said,
        },
    }
}

fn parse_realm(registry: &Registry, realm: &str) -> Result<Url, RequestError> {
    let unusable = |what: &str| RequestError::Token {
        registry: registry.name.clone(),
        realm: realm.chars().filter(|c| !c.is_control()).take(200).collect(),
        what: what.to_owned(),
    };
    // Some registries name a path of their own.
    let url = registry.endpoint.base.join(realm).map_err(|_| unusable("the realm is not a URL"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(unusable("the realm is not HTTP"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(unusable("the realm names a user"));
    }
    Ok(url)
}

fn is_trusted(registry: &Registry, realm: &Url) -> bool {
    let base = &registry.endpoint.base;
    realm.scheme() == "https"
        || (base.scheme() == "http"
            && (realm.host_str() == base.host_str() || (is_loopback(base) && is_loopback(realm))))
}

/// Shows a realm without its query.
fn show(realm: &Url) -> String {
    let mut url = realm.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}
