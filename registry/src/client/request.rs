//! [`Client`]: one request and its answer, watched for standstill, with redirects followed by hand.
//!
//! Redirects are ours to follow because the registry's `Authorization` must never reach another host, and an HTTPS
//! request must not become plain HTTP. Inactivity is ours to watch because a timeout on the whole would kill large
//! blobs, and a request is not inactive while its body is on the way.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Method, StatusCode, Url, redirect};
use tokio::time::{Instant, MissedTickBehavior};

use super::endpoint::{Endpoint, is_loopback, same_origin};
use super::error::{Cause, ServerError};
use super::registry::Registry;
use super::upload::FilePart;
use super::{ClientOptions, RequestError};

/// How many redirects are followed for one request.
const MAX_REDIRECTS: usize = 10;
/// How much of an error's body is read.
const MAX_ERROR_BODY: usize = 64 << 10;
/// How often a request on its way is looked after.
const TICK: Duration = Duration::from_millis(100);

/// A client for any registry. Clones are the same client, with the same connections and tokens.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    options: ClientOptions,
    /// Made when first needed, because reading the system's certificates takes time and may fail.
    checked: OnceLock<reqwest::Client>,
    unchecked: OnceLock<reqwest::Client>,
    registries: Mutex<HashMap<String, Arc<Registry>>>,
}

/// A request that can be sent any number of times.
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
    /// For how many inactivity times the answer may stay out once all is sent.
    pub(super) patience: u32,
    /// What a token must allow beyond what the session asks for.
    pub(super) scopes: Vec<String>,
    /// Whether the body is a secret, and must not follow a redirect to another host.
    pub(super) confidential: bool,
}

/// What a request carries.
pub(super) enum Body {
    None,
    Bytes(Bytes),
    File(FilePart),
}

impl Request {
    pub(super) fn new(method: Method, url: Url) -> Self {
        Self {
            method,
            url,
            headers: HeaderMap::new(),
            body: Body::None,
            patience: 1,
            scopes: Vec::new(),
            confidential: false,
        }
    }

    pub(super) fn header(mut self, name: HeaderName, value: &str) -> Self {
        // What cannot stand in a header comes from a registry (a media type); it is left out, and the registry says so.
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.append(name, value);
        }
        self
    }

    pub(super) fn body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }

    /// Names the request in messages, without its query: that may hold secrets.
    pub(super) fn label(&self) -> String {
        format!("{} {}", self.method, self.url.path())
    }
}

/// Hears how many bytes of a request's body have left.
pub(super) type Sent<'a> = &'a mut (dyn FnMut(u64) + Send);

/// On whose behalf a request is sent.
#[derive(Clone, Copy)]
pub(super) struct Behalf<'a> {
    /// The registry's name as users know it.
    pub(super) registry: &'a str,
    pub(super) endpoint: &'a Endpoint,
}

impl Client {
    /// Makes a client. Connects to nothing, and reads no files, yet.
    pub fn new(options: ClientOptions) -> Self {
        Self(Arc::new(Inner {
            options,
            checked: OnceLock::new(),
            unchecked: OnceLock::new(),
            registries: Mutex::default(),
        }))
    }

    /// Returns what the client was made of.
    pub fn options(&self) -> &ClientOptions {
        &self.0.options
    }

    /// Finds out how to talk to a registry, once.
    pub(super) async fn registry(&self, name: &str) -> Result<Arc<Registry>, RequestError> {
        let known = || self.0.registries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(registry) = known().get(name) {
            return Ok(registry.clone());
        }
        let registry = Arc::new(Registry::connect(self, name, None).await?);
        // Another task may have been faster: its tokens are worth keeping.
        Ok(known().entry(name.to_owned()).or_insert(registry).clone())
    }

    /// Forgets what was found out about a registry: who to be there has changed.
    pub(super) fn forget(&self, name: &str) {
        self.0.registries.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// Returns the HTTP client underneath, for a URL that is no registry's: it goes through the same proxies, trusts the
    /// same certificates, and follows no redirect.
    ///
    /// # Errors
    ///
    /// When the certificates or proxies cannot be used.
    pub fn http_for(&self, url: &Url) -> Result<reqwest::Client, RequestError> {
        // Without TLS there is no certificate to check, and reading the system's takes time.
        self.http(url.scheme() != "http").cloned()
    }

    fn http(&self, checked: bool) -> Result<&reqwest::Client, RequestError> {
        let slot = if checked { &self.0.checked } else { &self.0.unchecked };
        if let Some(client) = slot.get() {
            return Ok(client);
        }
        let options = self.options();
        let mut builder = reqwest::Client::builder()
            .user_agent(&options.user_agent)
            .redirect(redirect::Policy::none())
            .connect_timeout(options.connect_timeout)
            .tcp_nodelay(true)
            .http2_adaptive_window(true)
            .no_proxy();
        if checked {
            let mut roots = Vec::new();
            let files: Vec<Vec<u8>> = options.root_files.iter().filter_map(|path| std::fs::read(path).ok()).collect();
            for pem in options.roots.iter().chain(&files) {
                let parsed = reqwest::Certificate::from_pem_bundle(pem);
                roots.extend(parsed.map_err(|error| RequestError::BadRoot { source: Cause::of(&error) })?);
            }
            builder = builder.tls_certs_merge(roots);
        } else {
            builder = builder.tls_danger_accept_invalid_certs(true);
        }
        let direct = ["localhost,127.0.0.0/8,::1", options.proxies.none_for.as_deref().unwrap_or_default()].join(",");
        let proxies = [
            options.proxies.http.as_ref().map(|url| (url, reqwest::Proxy::http(url))),
            options.proxies.https.as_ref().map(|url| (url, reqwest::Proxy::https(url))),
        ];
        for (url, proxy) in proxies.into_iter().flatten() {
            let bad = |error| RequestError::Proxy { proxy: hide_password(url), source: Cause::of(&error) };
            builder = builder.proxy(proxy.map_err(bad)?.no_proxy(reqwest::NoProxy::from_string(&direct)));
        }
        let client = builder.build().map_err(|error| RequestError::TlsSetup { source: Cause::of(&error) })?;
        Ok(slot.get_or_init(|| client))
    }

    /// Sends a request and follows where the answer leads. Retries nothing.
    ///
    /// `authorization` goes to the origin of the request's URL only, and once it has been dropped it stays so.
    pub(super) async fn follow(
        &self,
        behalf: Behalf<'_>,
        request: &Request,
        mut authorization: Option<&HeaderValue>,
        sent: Sent<'_>,
    ) -> Result<Response, RequestError> {
        let mut url = request.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.exchange(behalf, request, url.clone(), authorization, sent).await?;
            let Some(next) = target(behalf, request, &response)? else { return Ok(response) };
            response.drain().await;
            if !same_origin(&url, &next) {
                authorization = None;
            }
            url = next;
        }
        let what = format!("more than {MAX_REDIRECTS} times");
        Err(RequestError::Redirect { registry: behalf.registry.into(), what })
    }

    async fn exchange(
        &self,
        behalf: Behalf<'_>,
        request: &Request,
        url: Url,
        authorization: Option<&HeaderValue>,
        sent: Sent<'_>,
    ) -> Result<Response, RequestError> {
        let own = url.host_str() == behalf.endpoint.base.host_str();
        let unchecked = url.scheme() == "http" || is_loopback(&url) || (own && behalf.endpoint.any_certificate);
        let mut builder =
            self.http(!unchecked)?.request(request.method.clone(), url.clone()).headers(request.headers.clone());
        if let Some(value) = authorization {
            builder = builder.header(AUTHORIZATION, value);
        }
        let counter = Arc::new(AtomicU64::new(0));
        let mut total = 0;
        match &request.body {
            Body::None => {
                if matches!(request.method, Method::POST | Method::PUT | Method::PATCH) {
                    builder = builder.header(CONTENT_LENGTH, 0);
                }
            }
            Body::Bytes(bytes) => builder = builder.body(bytes.clone()),
            Body::File(part) => {
                total = part.len();
                builder = builder.header(CONTENT_LENGTH, total).body(reqwest::Body::wrap_stream(part.stream(&counter)));
            }
        }
        let answer = self.watch(behalf.registry, builder.send(), &counter, total, request.patience, sent).await?;
        let inner = answer.map_err(|error| RequestError::classify(behalf.registry, &error))?;
        Ok(Response {
            registry: behalf.registry.to_owned(),
            status: inner.status(),
            headers: inner.headers().clone(),
            url,
            inactivity: self.options().inactivity,
            inner,
        })
    }

    /// Waits for an answer as long as bytes leave, and a while longer.
    async fn watch<T>(
        &self,
        registry: &str,
        answer: impl Future<Output = T>,
        counter: &AtomicU64,
        total: u64,
        patience: u32,
        sent: Sent<'_>,
    ) -> Result<T, RequestError> {
        tokio::pin!(answer);
        let inactivity = self.options().inactivity;
        let mut ticks = tokio::time::interval(TICK.min(inactivity / 4).max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = 0;
        let mut moved = Instant::now();
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => {
                    sent(counter.load(Ordering::Relaxed));
                    return Ok(answer);
                }
                _ = ticks.tick() => {}
            }
            let now = counter.load(Ordering::Relaxed);
            if now != seen {
                seen = now;
                moved = Instant::now();
                sent(now);
            }
            let after = if seen >= total { inactivity * patience } else { inactivity };
            if moved.elapsed() >= after {
                return Err(RequestError::Stalled { registry: registry.to_owned(), after });
            }
        }
    }
}

/// Returns where a redirect leads, or `None` when the answer is none.
fn target(behalf: Behalf<'_>, request: &Request, response: &Response) -> Result<Option<Url>, RequestError> {
    let reads = matches!(request.method, Method::GET | Method::HEAD);
    let leads = match response.status {
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
        // The others would turn a write into a read.
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => reads,
        _ => false,
    };
    let Some(location) = response.header(&LOCATION).filter(|_| leads) else { return Ok(None) };
    let refuse = |what: &str| RequestError::Redirect { registry: behalf.registry.into(), what: what.into() };
    let next = response.url.join(location).map_err(|_| refuse("to what is not a URL"))?;
    if !matches!(next.scheme(), "http" | "https") {
        return Err(refuse("to what is not HTTP"));
    }
    if response.url.scheme() == "https" && next.scheme() == "http" && !behalf.endpoint.any_certificate {
        return Err(refuse("from HTTPS to plain HTTP"));
    }
    if request.confidential && !same_origin(&response.url, &next) {
        return Err(refuse("a secret to another host"));
    }
    Ok(Some(next))
}

fn hide_password(url: &str) -> String {
    match Url::parse(url) {
        Ok(mut url) if url.password().is_some() => {
            // A URL with a password has a host, so this cannot fail.
            let _ = url.set_password(Some("***"));
            url.into()
        }
        _ => url.to_owned(),
    }
}

/// An answer whose body has not been read yet.
pub(super) struct Response {
    registry: String,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// Where it came from, after redirects.
    pub(super) url: Url,
    inactivity: Duration,
    inner: reqwest::Response,
}

impl Response {
    /// Returns a header as text, if there is one and it is text.
    pub(super) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns how long the body says it is.
    pub(super) fn content_length(&self) -> Option<u64> {
        self.header(&CONTENT_LENGTH)?.trim().parse().ok()
    }

    /// Returns how long the server asks to wait, when it says so in seconds.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        // A date would need the clock of the day; registries send seconds.
        let seconds: f64 = self.header(&RETRY_AFTER)?.trim().parse().ok()?;
        Duration::try_from_secs_f64(seconds).ok()
    }

    /// Returns the next bytes of the body.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, RequestError> {
        match tokio::time::timeout(self.inactivity, self.inner.chunk()).await {
            Ok(chunk) => chunk.map_err(|error| RequestError::classify(&self.registry, &error)),
            Err(_) => Err(RequestError::Stalled { registry: self.registry.clone(), after: self.inactivity }),
        }
    }

    /// Returns the whole body, or `None` when it is longer than `limit`.
    pub(super) async fn bytes(&mut self, limit: usize) -> Result<Option<Bytes>, RequestError> {
        let mut whole = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            if whole.len() + chunk.len() > limit {
                return Ok(None);
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(Some(whole.freeze()))
    }

    /// Reads a body that does not matter, so that the connection can be used again.
    pub(super) async fn drain(mut self) {
        // A connection that breaks here is not used again, and that is all.
        let _ = self.bytes(MAX_ERROR_BODY).await;
    }

    /// Reads what the server says is wrong; an answer without a readable body says nothing.
    pub(super) async fn said(mut self) -> ServerError {
        match self.bytes(MAX_ERROR_BODY).await {
            Ok(Some(body)) => ServerError::parse(&body),
            Ok(None) | Err(_) => ServerError::default(),
        }
    }
}
