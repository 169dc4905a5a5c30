//! [`Tls`]: the certificate and key that a server shows, read again when their files change.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Where the certificate and its key are, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate first, then those that lead to the root.
    pub cert: PathBuf,
    /// The key of the first certificate.
    pub key: PathBuf,
}

/// Why TLS cannot be offered with some files.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum TlsError {
    #[error("cannot read `{path}`")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("`{path}` has no certificate in PEM")]
    NoCertificate { path: PathBuf },
    #[error("`{path}` has no private key in PEM")]
    NoKey { path: PathBuf },
    #[error("`{path}` is not PEM")]
    Pem { path: PathBuf, source: pem::Error },
    #[error("the certificate `{cert}` cannot be used with the key `{key}`")]
    Pair { cert: PathBuf, key: PathBuf, source: tokio_rustls::rustls::Error },
}

/// What tells one state of a file from the next, without reading it.
type Stamp = Option<(SystemTime, u64, u64)>;

/// A certificate with its key, as it is used for connections from now on.
#[derive(Debug)]
pub(crate) struct Tls {
    files: TlsFiles,
    current: RwLock<Current>,
}

#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    stamps: [Stamp; 2],
}

impl Tls {
    /// Reads the files.
    pub(crate) fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let stamps = stamps(&files);
        let config = read(&files)?;
        Ok(Self { files, current: RwLock::new(Current { config, stamps }) })
    }

    /// Returns what shakes hands with the next client.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        TlsAcceptor::from(current.config.clone())
    }

    /// Reads the files again, if they changed or `always`, and tells whether it did. What is there stays in use
    /// while they cannot be used: a renewal may have replaced only one of the two yet.
    pub(crate) fn reload(&self, always: bool) -> Result<bool, TlsError> {
        let stamps = stamps(&self.files);
        let changed = self.current.read().unwrap_or_else(PoisonError::into_inner).stamps != stamps;
        if !changed && !always {
            return Ok(false);
        }
        let config = read(&self.files);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        // A pair that is of no use is tried again when it changed again, not all the time.
        current.stamps = stamps;
        current.config = config?;
        Ok(true)
    }
}

fn stamps(files: &TlsFiles) -> [Stamp; 2] {
    use std::os::unix::fs::MetadataExt;
    [&files.cert, &files.key].map(|path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
    })
}

fn read(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let TlsFiles { cert, key } = files;
    let text = bytes(cert)?;
    let chain = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|source| TlsError::Pem { path: cert.clone(), source })?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { path: cert.clone() });
    }
    let private = PrivateKeyDer::from_pem_slice(&bytes(key)?).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsError::NoKey { path: key.clone() },
        source => TlsError::Pem { path: key.clone(), source },
    })?;
    let pair = |source| TlsError::Pair { cert: cert.clone(), key: key.clone(), source };
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(pair)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(pair)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn bytes(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}
