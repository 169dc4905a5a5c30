//! Stores, images and listeners for the tests.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use oci::{Descriptor, DiffId, Digest, ImageConfig, Index, Manifest, Platform, Reference, media_type};
use store::Store;
use tempfile::TempDir;

use crate::client::{BlobState, Client, ClientOptions, CredentialStore, RequestError, TransferEvents};

/// A store in a folder of its own.
pub(super) struct Kept {
    pub(super) store: Store,
    _home: TempDir,
}

pub(super) fn store() -> Kept {
    let home = TempDir::new().unwrap();
    Kept { store: Store::open(home.path()).unwrap(), _home: home }
}

/// A client that is quick to give up.
pub(super) fn options() -> ClientOptions {
    ClientOptions {
        first_wait: Duration::from_millis(5),
        longest_wait: Duration::from_secs(3),
        inactivity: Duration::from_secs(20),
        retries: 3,
        credentials: CredentialStore::none(),
        ..ClientOptions::default()
    }
}

pub(super) fn client() -> Client {
    Client::new(options())
}

pub(super) fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

pub(super) const NOW: Timestamp = Timestamp::UNIX_EPOCH;

/// Bytes that do not repeat, the same for the same seed.
pub(super) fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// An image's parts, as a registry would hold them.
pub(super) struct Parts {
    pub(super) layers: Vec<Vec<u8>>,
    pub(super) config: Vec<u8>,
    pub(super) manifest: Vec<u8>,
}

impl Parts {
    /// Makes an image of layers whose bytes mean nothing; the client does not look into them.
    pub(super) fn new(platform: &Platform, layers: Vec<Vec<u8>>) -> Self {
        let mut config = ImageConfig { os: platform.os.clone(), ..ImageConfig::default() };
        config.architecture.clone_from(&platform.architecture);
        config.rootfs.diff_ids = layers.iter().map(|layer| DiffId(Digest::sha256(layer))).collect();
        Self::with_config(serde_json::to_vec(&config).unwrap(), layers)
    }

    pub(super) fn with_config(config: Vec<u8>, layers: Vec<Vec<u8>>) -> Self {
        let describe = |layer: &Vec<u8>| Descriptor::of(media_type::OCI_LAYER_GZIP, layer);
        let manifest =
            Manifest::new(Descriptor::of(media_type::OCI_CONFIG, &config), layers.iter().map(describe).collect());
        Self { manifest: serde_json::to_vec(&manifest).unwrap(), layers, config }
    }

    pub(super) fn descriptor(&self) -> Descriptor {
        Descriptor::of(media_type::OCI_MANIFEST, &self.manifest)
    }

    /// Puts everything into a store.
    pub(super) fn keep(&self, store: &Store) -> Descriptor {
        for blob in self.layers.iter().chain([&self.config, &self.manifest]) {
            store.blobs().put(blob).unwrap();
        }
        self.descriptor()
    }
}

pub(super) fn amd64() -> Platform {
    Platform::linux("amd64")
}

pub(super) fn arm64() -> Platform {
    Platform::linux("arm64")
}

/// An index of images, and its bytes.
pub(super) fn index(images: &[(&Parts, Platform)]) -> (Descriptor, Vec<u8>) {
    let describe =
        |(parts, platform): &(&Parts, Platform)| Descriptor { platform: Some(platform.clone()), ..parts.descriptor() };
    let bytes = serde_json::to_vec(&Index::new(images.iter().map(describe).collect())).unwrap();
    (Descriptor::of(media_type::OCI_INDEX, &bytes), bytes)
}

/// Writes down what it hears.
#[derive(Default)]
pub(super) struct Log(Mutex<Vec<(Digest, String)>>, AtomicU64);

impl Log {
    /// Returns the states of a blob, in order.
    pub(super) fn of(&self, blob: &[u8]) -> Vec<String> {
        let digest = Digest::sha256(blob);
        self.0.lock().unwrap().iter().filter(|(other, _)| *other == digest).map(|(_, text)| text.clone()).collect()
    }

    /// Returns how far the blob is that came farthest, in bytes.
    pub(super) fn farthest(&self) -> u64 {
        self.1.load(Ordering::SeqCst)
    }

    fn add(&self, digest: &Digest, text: String) {
        self.0.lock().unwrap().push((digest.clone(), text));
    }
}

impl TransferEvents for Log {
    fn started(&self, _: &Descriptor) {}

    fn state(&self, digest: &Digest, state: &BlobState) {
        self.add(digest, state.to_string());
    }

    fn progress(&self, digest: &Digest, done: u64, total: u64) {
        assert!(done <= total, "{digest}: {done} of {total}");
        self.1.fetch_max(done, Ordering::SeqCst);
    }

    fn retry(&self, digest: &Digest, _: Duration, error: &RequestError) {
        self.add(digest, format!("retry: {error}"));
    }
}

/// Shows an error with its causes, as a face would.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}

/// Writes a file that the test is about.
#[expect(clippy::disallowed_methods, reason = "a test that crashes needs no whole file")]
pub(super) fn write(path: impl AsRef<std::path::Path>, bytes: impl AsRef<[u8]>) {
    std::fs::write(path, bytes).unwrap();
}
