//! [`Session`]: requests about one repository, authorized and tried again.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use oci::RepositoryName;
use reqwest::{StatusCode, Url};

use super::endpoint::same_origin;
use super::registry::Registry;
use super::request::{Client, Request, Response, Sent};
use super::{ClientOptions, RequestError};

/// How often one request is authorized anew.
const MAX_TURNS: u32 = 2;

/// What may be done in a repository, in the words of token scopes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Pull,
    PullPush,
}

/// Requests about one repository, or about the registry as a whole.
#[derive(Clone)]
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) registry: Arc<Registry>,
    repository: Option<RepositoryName>,
    scopes: Vec<String>,
}

impl Session {
    /// Finds the registry, and starts working in one of its repositories.
    pub(super) async fn open(
        client: &Client,
        registry: &str,
        repository: &RepositoryName,
        access: Access,
    ) -> Result<Self, RequestError> {
        let registry = client.registry(registry).await?;
        let actions = match access {
            Access::Pull => "pull",
            Access::PullPush => "pull,push",
        };
        Ok(Self {
            client: client.clone(),
            registry,
            repository: Some(repository.clone()),
            scopes: vec![scope(repository, actions)],
        })
    }

    /// Works with a registry as a whole.
    pub(super) fn whole(client: &Client, registry: Arc<Registry>) -> Self {
        Self { client: client.clone(), registry, repository: None, scopes: Vec::new() }
    }

    /// Returns the URL of something in the repository: `blobs/DIGEST`, `manifests/TAG`.
    pub(super) fn url(&self, path: &str) -> Url {
        let mut url = self.registry.endpoint.base.clone();
        // The words of repository, tag and digest need no escaping.
        let repository = self.repository.as_ref().map(|name| format!("{}/", name.as_str())).unwrap_or_default();
        url.set_path(&format!("/v2/{repository}{path}"));
        url
    }

    /// Sends a request once, apart from authorizing it.
    pub(super) async fn attempt(&self, request: &Request, sent: Sent<'_>) -> Result<Response, RequestError> {
        let behalf = self.registry.behalf();
        let own = |url: &Url| same_origin(url, &self.registry.endpoint.base);
        if !own(&request.url) {
            return self.client.follow(behalf, request, None, sent).await;
        }
        let repository = self.repository.as_ref();
        let mut scopes = self.scopes.clone();
        scopes.extend(request.scopes.iter().cloned());
        let mut turns = 0;
        loop {
            let authorization = self.registry.authorization(&self.client, repository, &scopes).await?;
            let header = authorization.as_ref().map(|authorization| &authorization.header);
            let response = self.client.follow(behalf, request, header, sent).await?;
            if response.status != StatusCode::UNAUTHORIZED || !own(&response.url) || turns == MAX_TURNS {
                return Ok(response);
            }
            turns += 1;
            let sent = authorization.as_ref();
            if !self.registry.learn(&self.client, repository, &response, &mut scopes, sent).await {
                return Ok(response);
            }
            response.drain().await;
        }
    }

    /// Sends a request, again and again as long as that may help. The answer may be any that is final.
    pub(super) async fn send(&self, request: &Request) -> Result<Response, RequestError> {
        let mut backoff = Backoff::new(self.client.options());
        loop {
            let error = match self.attempt(request, &mut |_| {}).await {
                Ok(response) if !is_transient(response.status) => return Ok(response),
                Ok(response) => self.refusal(request, response).await,
                Err(error) => error,
            };
            match backoff.next(&error) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return Err(error),
            }
        }
    }

    /// Takes an answer that is a success, and makes an error of any other.
    pub(super) async fn expect_success(&self, request: &Request, response: Response) -> Result<Response, RequestError> {
        if response.status.is_success() { Ok(response) } else { Err(self.refusal(request, response).await) }
    }

    /// Makes an error of an answer.
    pub(super) async fn refusal(&self, request: &Request, response: Response) -> RequestError {
        let registry = self.registry.name.clone();
        let repository = self.repository.as_ref().map(|name| name.as_str().to_owned());
        let status = response.status;
        let retry_after = response.retry_after();
        let said = response.said().await;
        match status {
            StatusCode::UNAUTHORIZED => {
                let source = None;
                let error = RequestError::Unauthorized { registry, repository, had_credentials: false, said, source };
                self.registry.explain(error, self.repository.as_ref())
            }
            StatusCode::FORBIDDEN => RequestError::Denied { registry, repository, said },
            StatusCode::NOT_FOUND => {
                let path = request.url.path();
                let what = path.strip_prefix("/v2/").unwrap_or(path).to_owned();
                RequestError::NotFound { registry, what, said }
            }
            StatusCode::TOO_MANY_REQUESTS => RequestError::TooManyRequests { registry, retry_after, said },
            other => {
                RequestError::Status { registry, request: request.label(), status: other.as_u16(), retry_after, said }
            }
        }
    }

    /// Returns an error about what the registry should not have sent.
    pub(super) fn protocol(&self, what: impl Into<String>) -> RequestError {
        RequestError::Protocol { registry: self.registry.name.clone(), what: what.into() }
    }
}

/// Writes a token scope.
pub(super) fn scope(repository: &RepositoryName, actions: &str) -> String {
    format!("repository:{}:{actions}", repository.as_str())
}

fn is_transient(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// How long to wait before trying again, and when to give up.
pub(super) struct Backoff {
    /// Without progress between them.
    failures: u32,
    /// With or without.
    total: u32,
    retries: u32,
    first: Duration,
    longest: Duration,
}

impl Backoff {
    pub(super) fn new(options: &ClientOptions) -> Self {
        Self {
            failures: 0,
            total: 0,
            retries: options.retries,
            first: options.first_wait,
            longest: options.longest_wait,
        }
    }

    /// Notes that something got better since the last failure.
    ///
    /// That does not count forever: a server that sends a byte per connection would keep us for years.
    pub(super) fn progress(&mut self) {
        self.failures = 0;
    }

    /// Returns how long to wait after this error, or `None` when trying again is of no use.
    pub(super) fn next(&mut self, error: &RequestError) -> Option<Duration> {
        let asked = error.retry_after().unwrap_or_default();
        if !error.is_transient() || asked > self.longest {
            return None;
        }
        if self.failures >= self.retries || self.total >= self.retries.saturating_mul(20) {
            return None;
        }
        let doubled = self.first.saturating_mul(1 << self.failures.min(16)).min(self.longest);
        self.failures += 1;
        self.total += 1;
        // Many clients that broke off together must not come back together.
        let jitter = f64::from(random()) / f64::from(u32::MAX);
        Some(doubled.mul_f64(0.5 + jitter / 2.0).max(asked))
    }
}

/// Returns a number that differs from call to call and from process to process. Not for secrets.
fn random() -> u32 {
    RandomState::new().build_hasher().finish() as u32
}
