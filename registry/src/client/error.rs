//! Why a request, a pull, a push or a login did not succeed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use oci::{Digest, ManifestError, Platform};
use serde_json::Value;

use super::CredentialError;

/// What a registry said went wrong (distribution-spec, "Error Codes").
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerError {
    /// The first code, such as `MANIFEST_UNKNOWN`; empty when the answer was not in the form of the specification.
    pub code: String,
    /// All messages, joined; clipped, and without control characters.
    pub message: String,
}

impl ServerError {
    /// Tells whether the server said nothing of use.
    pub fn is_empty(&self) -> bool {
        self.code.is_empty() && self.message.is_empty()
    }
}

impl ServerError {
    /// Reads the body of an error: the form of the specification, those of token servers, or a line of text.
    pub(super) fn parse(body: &[u8]) -> Self {
        let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let Ok(json) = serde_json::from_slice::<Value>(body) else {
            let text = String::from_utf8_lossy(body);
            let text = text.trim();
            // A page of HTML from some proxy says nothing in a message.
            return Self {
                code: String::new(),
                message: if text.starts_with('<') { String::new() } else { clip(text) },
            };
        };
        let errors = json.get("errors").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        if let Some(first) = errors.first() {
            let messages: Vec<String> =
                errors.iter().map(|error| text(error, "message")).filter(|text| !text.is_empty()).collect();
            return Self { code: clip(&text(first, "code")), message: clip(&messages.join("; ")) };
        }
        let message = ["error_description", "details", "message", "error"].iter().map(|name| text(&json, name));
        Self {
            code: String::new(),
            message: clip(&message.into_iter().find(|text| !text.is_empty()).unwrap_or_default()),
        }
    }
}

/// Keeps what a server says short, and away from the terminal's controls.
fn clip(text: &str) -> String {
    const MAX: usize = 300;
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX + 1).collect();
    if plain.chars().count() <= MAX { plain } else { plain.chars().take(MAX).chain(['…']).collect() }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code.is_empty(), self.message.is_empty()) {
            (true, true) => f.write_str("no reason given"),
            (true, false) => f.write_str(&self.message),
            (false, true) => f.write_str(&self.code),
            (false, false) => write!(f, "{} ({})", self.message, self.code),
        }
    }
}

/// What the network said, in one line: the links of its chain of errors that mean something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Cause(String);

impl Cause {
    pub(super) fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        let mut links: Vec<String> = Vec::new();
        for error in std::iter::successors(Some(error), |error| error.source()) {
            let text = error.to_string();
            // Wrappers say that a request was not sent, or repeat what follows.
            let wrapper = ["error sending request", "client error", "error trying to connect", "builder error"];
            let empty = wrapper.iter().any(|start| text.starts_with(start)) && error.source().is_some();
            if !empty && !links.iter().any(|link| link.contains(&text)) {
                links.push(text);
            }
        }
        Self(links.join(": "))
    }
}

/// Why a registry did not give what was asked for.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum RequestError {
    #[error("cannot connect to registry `{registry}`")]
    Unreachable { registry: String, source: Cause },
    #[error("registry `{registry}` speaks plain HTTP, not HTTPS")]
    PlainHttp { registry: String, source: Cause },
    #[error("the certificate of registry `{registry}` is not trusted")]
    Certificate { registry: String, source: Cause },
    #[error("the TLS of this machine cannot be set up")]
    TlsSetup { source: Cause },
    #[error("proxy `{proxy}` is not a valid address")]
    Proxy { proxy: String, source: Cause },
    #[error("certificate to trust for registries is not valid PEM")]
    BadRoot { source: Cause },
    #[error("the connection to registry `{registry}` broke")]
    Broken { registry: String, source: Cause },
    #[error("registry `{registry}` hung up after {done} of {total} bytes of blob {digest}")]
    HungUp { registry: String, digest: Digest, done: u64, total: u64 },
    #[error("registry `{registry}` sent nothing for {} s", after.as_secs_f32())]
    Stalled { registry: String, after: Duration },
    #[error("registry `{registry}` {}{}{}", wants(*had_credentials), named("for", repository), because(said))]
    Unauthorized {
        registry: String,
        repository: Option<String>,
        /// Whether credentials were sent and refused, rather than none known.
        had_credentials: bool,
        said: ServerError,
        source: Option<Arc<CredentialError>>,
    },
    #[error("registry `{registry}` denies access{}{}", named("to", repository), because(said))]
    Denied { registry: String, repository: Option<String>, said: ServerError },
    #[error("registry `{registry}` does not have `{what}`{}", because(said))]
    NotFound {
        registry: String,
        /// The path below `/v2/`.
        what: String,
        said: ServerError,
    },
    #[error("registry `{registry}` says that there were too many requests{}", because(said))]
    TooManyRequests { registry: String, retry_after: Option<Duration>, said: ServerError },
    #[error("registry `{registry}` answered {status} to {request}{}", because(said))]
    Status { registry: String, request: String, status: u16, retry_after: Option<Duration>, said: ServerError },
    #[error("registry `{registry}` sends credentials to `{realm}`, which is neither HTTPS nor the registry itself")]
    UntrustedRealm { registry: String, realm: String },
    #[error("token server `{realm}` of registry `{registry}` gave no usable token: {what}")]
    Token { registry: String, realm: String, what: String },
    #[error("registry `{registry}` redirects {what}")]
    Redirect { registry: String, what: String },
    #[error("registry `{registry}` broke the protocol: {what}")]
    Protocol { registry: String, what: String },
}

impl RequestError {
    /// Says what an error of the network means to a user.
    pub(super) fn classify(registry: &str, error: &reqwest::Error) -> Self {
        let registry = registry.to_owned();
        // The outermost error is reqwest's own, which shows the URL, and that may hold secrets.
        let inner = std::error::Error::source(error);
        let source = inner.map_or_else(|| Cause("no details".into()), Cause::of);
        let texts: Vec<String> =
            std::iter::successors(inner, |error| error.source()).map(ToString::to_string).collect();
        if texts.iter().any(|text| text.contains("InvalidContentType")) {
            return Self::PlainHttp { registry, source };
        }
        if texts.iter().any(|text| text.contains("invalid peer certificate")) {
            return Self::Certificate { registry, source };
        }
        if error.is_connect() { Self::Unreachable { registry, source } } else { Self::Broken { registry, source } }
    }

    /// Tells whether trying again may help.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Broken { .. }
            | Self::HungUp { .. }
            | Self::Stalled { .. }
            | Self::TooManyRequests { .. } => true,
            // A conflict passes when the server says when: it may still be at a request whose connection broke.
            Self::Status { status: 409, retry_after, .. } => retry_after.is_some(),
            Self::Status { status, .. } => matches!(status, 408 | 500 | 502 | 503 | 504),
            Self::PlainHttp { .. }
            | Self::Certificate { .. }
            | Self::TlsSetup { .. }
            | Self::Proxy { .. }
            | Self::BadRoot { .. }
            | Self::Unauthorized { .. }
            | Self::Denied { .. }
            | Self::NotFound { .. }
            | Self::UntrustedRealm { .. }
            | Self::Token { .. }
            | Self::Redirect { .. }
            | Self::Protocol { .. } => false,
        }
    }

    /// Returns how long the server asks to wait.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooManyRequests { retry_after, .. } | Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

fn named(link: &str, repository: &Option<String>) -> String {
    repository.as_ref().map(|name| format!(" {link} repository `{name}`")).unwrap_or_default()
}

fn wants(had_credentials: bool) -> &'static str {
    if had_credentials { "does not accept the login that is known" } else { "wants a login" }
}

fn because(said: &ServerError) -> String {
    if said.is_empty() { String::new() } else { format!(": {said}") }
}

/// Why an image was not pulled. Nothing of it is tagged then; whole blobs stay for the next try.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum PullError {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("`{reference}` was not found on registry `{registry}`{}", because(said))]
    NotFound { reference: String, registry: String, said: ServerError },
    #[error("manifest of `{reference}` is larger than {limit} bytes")]
    ManifestTooLarge { reference: String, limit: u64 },
    #[error("manifest of `{reference}` cannot be used")]
    Manifest { reference: String, source: ManifestError },
    #[error("registry `{registry}` sent a manifest that hashes to {actual}, expected {expected}")]
    ManifestDigest { registry: String, expected: Digest, actual: Digest },
    #[error("manifest {digest} is {actual} bytes long, expected {expected}")]
    ManifestSize { digest: Digest, expected: u64, actual: u64 },
    #[error("indexes are nested more than {limit} deep")]
    TooDeep { limit: usize },
    #[error("index names more than {limit} manifests")]
    TooMany { limit: usize },
    #[error("`{reference}` has no image for {wanted}, only for {}", offered.join(", "))]
    NoPlatform { reference: String, wanted: Box<Platform>, offered: Vec<String> },
    #[error("`{reference}` is not an image, but `{media_type}`")]
    NotAnImage { reference: String, media_type: String },
    #[error("config {digest} is {size} bytes long, more than {limit}")]
    ConfigTooLarge { digest: Digest, size: u64, limit: u64 },
    #[error("config {digest} is not an image config")]
    Config { digest: Digest, source: serde_json::Error },
    #[error("config {config} names {diff_ids} layers, but the manifest has {layers}")]
    LayerCount { config: Digest, diff_ids: usize, layers: usize },
    #[error("registry `{registry}` sent blob {expected} with bytes that hash to {actual}")]
    BlobDigest { registry: String, expected: Digest, actual: Digest },
    #[error("registry `{registry}` sent {actual} bytes for blob {digest}, which is {expected} long")]
    BlobSize { registry: String, digest: Digest, expected: u64, actual: u64 },
    #[error("cannot keep blob {digest}")]
    Store { digest: Digest, source: store::BlobError },
    #[error("cannot tag `{reference}`")]
    Tag { reference: String, source: Box<store::ImageError> },
}

/// Why an image was not pushed. The registry may have kept blobs, but its tag is as before.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum PushError {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("cannot read blob {digest}")]
    Store { digest: Digest, source: store::BlobError },
    #[error("blob {digest} is not in the store, nor on registry `{registry}`")]
    Missing { registry: String, digest: Digest },
    #[error("manifest {digest} cannot be used")]
    Manifest { digest: Digest, source: ManifestError },
    #[error("indexes are nested more than {limit} deep")]
    TooDeep { limit: usize },
    #[error("`{reference}` names a digest, but the image is {actual}")]
    OtherDigest { reference: String, actual: Digest },
    #[error("registry `{registry}` stored the manifest as {actual}, but sent it was as {expected}")]
    StoredAs { registry: String, expected: Digest, actual: Digest },
}

/// Why a login or logout did not succeed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum LoginError {
    #[error("`{text}` is not the host of a registry")]
    Registry { text: String },
    #[error("registry `{registry}` refuses the username or password{}", because(said))]
    Refused { registry: String, said: ServerError },
    #[error(transparent)]
    Request(RequestError),
    #[error("cannot change the stored credentials")]
    Credentials(#[from] CredentialError),
}
