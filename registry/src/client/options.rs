//! [`ClientOptions`]: what the face decides about a client.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;

use super::CredentialStore;

/// How to go through proxies; the face reads these from `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`.
#[derive(Clone, Debug, Default)]
pub struct ProxySettings {
    /// The proxy for plain HTTP.
    pub http: Option<String>,
    /// The proxy for HTTPS.
    pub https: Option<String>,
    /// Hosts that are reached directly, between commas. Loopback addresses always are.
    pub none_for: Option<String>,
}

/// What a [`super::Client`] is made of.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Who to be.
    pub credentials: CredentialStore,
    /// Registries (`host`, `host:port`, `address/bits`) whose certificate is not checked, and that may speak plain
    /// HTTP. Loopback ones always may.
    pub insecure: Vec<String>,
    /// Certificate authorities to trust beside the system's, in PEM.
    pub roots: Vec<Vec<u8>>,
    /// Files with further ones, which are read when the first certificate is to be checked. One that cannot be read says
    /// nothing.
    pub root_files: Vec<PathBuf>,
    /// How to go through proxies.
    pub proxies: ProxySettings,
    /// What to call ourselves.
    pub user_agent: String,
    /// Tells the time to a registry of the same home (see [`crate::home`]); without, blobs are sent to it as to others.
    pub clock: Option<fn() -> Timestamp>,
    /// How many blobs of an image move at once.
    pub parallel: usize,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long nothing may move before a request counts as broken; whole transfers have no limit.
    pub inactivity: Duration,
    /// How often something is tried again, without any byte having moved, before it is given up.
    pub retries: u32,
    /// How long to wait before the first retry; doubles each time, up to [`Self::longest_wait`].
    pub first_wait: Duration,
    /// The longest wait, also for registries that ask to wait (`Retry-After`): a longer one fails at once.
    pub longest_wait: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            credentials: CredentialStore::none(),
            insecure: Vec::new(),
            roots: Vec::new(),
            root_files: Vec::new(),
            proxies: ProxySettings::default(),
            user_agent: concat!("slipway/", env!("CARGO_PKG_VERSION")).into(),
            clock: None,
            parallel: 4,
            connect_timeout: Duration::from_secs(15),
            inactivity: Duration::from_secs(60),
            retries: 5,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(60),
        }
    }
}
