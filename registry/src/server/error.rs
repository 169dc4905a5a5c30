//! [`RequestError`]: why a request is refused, and the one table from there to status and code.

use axum::body::Body;
use axum::http::header::{self, HeaderName};
use axum::http::{HeaderValue, Response, StatusCode};
use oci::digest::DigestError;
use oci::reference::ReferenceError;
use oci::{Digest, ManifestError};

use super::routes::Action;
use crate::storage::{ObjectError, PutManifestError, StorageError, UploadError};

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("there is nothing at this path")]
    NoEndpoint,
    #[error("this path does not know the method; it knows {allowed}")]
    Method { allowed: &'static str },
    #[error("this registry does not let anyone {action}")]
    NotPermitted { action: Action },
    #[error("`{text}` is not a repository name")]
    BadName { text: String, source: ReferenceError },
    #[error("`{text}` is not a tag")]
    BadTag { text: String, source: ReferenceError },
    #[error("not a digest")]
    BadDigest { source: DigestError },
    #[error("the parameter `digest` is missing")]
    NoDigest,
    #[error("the parameters cannot be read")]
    BadQuery,
    #[error("`n={text}` is not a number of entries")]
    BadPageSize { text: String },
    #[error("repository `{name}` is not known")]
    UnknownRepository { name: String },
    #[error("blob {digest} is not in this repository")]
    UnknownBlob { digest: Digest },
    #[error("manifest `{reference}` is not in this repository")]
    UnknownManifest { reference: String },
    #[error("the manifest names {digest}, which is not in this repository")]
    MissingReference { digest: Digest },
    #[error("the manifest is not acceptable")]
    BadManifest { source: ManifestError },
    #[error("tag `{tag}` names something else by now")]
    TagMoved { tag: String },
    #[error("tag `{tag}` never names anything but {digest}")]
    TagImmutable { tag: String, digest: Digest },
    #[error("`{text}` is not a moment, such as 2026-11-20T10:00Z")]
    BadMoment { text: String },
    #[error("the manifest is longer than {limit} bytes")]
    ManifestTooLarge { limit: usize },
    #[error("the bytes hash to {actual}, expected {expected}")]
    DigestMismatch { expected: Digest, actual: Digest },
    #[error("the range `{text}` is not `START-END`")]
    BadContentRange { text: String },
    #[error("the next byte of this upload is {size}, not {start}")]
    OutOfOrder { start: u64, size: u64, location: String },
    #[error("{declared} bytes were announced, {actual} came")]
    SizeMismatch { declared: u64, actual: u64 },
    #[error("this upload is not known")]
    UnknownUpload,
    #[error("another request is writing to this upload")]
    UploadBusy,
    #[error("the range does not overlap the {size} bytes of the blob")]
    RangeOutside { size: u64 },
    #[error("nothing more was sent for too long")]
    SlowBody,
    #[error("too many long manifests are being sent at this moment")]
    TooManyManifests,
    #[error("the body ended too early")]
    BrokenBody,
    #[error("the registry has no space left")]
    NoSpace,
    #[error("the registry's storage does not answer")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the registry could not read or write what it keeps")]
    Storage(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl RequestError {
    /// Decides what the client is told: status, and the code of distribution-spec, "Error Codes".
    fn answer(&self) -> (StatusCode, &'static str) {
        match self {
            Self::NoEndpoint => (StatusCode::NOT_FOUND, "UNSUPPORTED"),
            Self::Method { .. } | Self::NotPermitted { .. } => (StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED"),
            Self::BadName { .. } => (StatusCode::BAD_REQUEST, "NAME_INVALID"),
            Self::BadTag { .. } => (StatusCode::BAD_REQUEST, "TAG_INVALID"),
            Self::BadDigest { .. } | Self::NoDigest | Self::DigestMismatch { .. } => {
                (StatusCode::BAD_REQUEST, "DIGEST_INVALID")
            }
            Self::BadQuery => (StatusCode::BAD_REQUEST, "UNSUPPORTED"),
            Self::BadPageSize { .. } => (StatusCode::BAD_REQUEST, "PAGINATION_NUMBER_INVALID"),
            Self::UnknownRepository { .. } => (StatusCode::NOT_FOUND, "NAME_UNKNOWN"),
            Self::UnknownBlob { .. } => (StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
            Self::UnknownManifest { .. } => (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
            Self::MissingReference { .. } => (StatusCode::NOT_FOUND, "MANIFEST_BLOB_UNKNOWN"),
            Self::BadManifest { .. } => (StatusCode::BAD_REQUEST, "MANIFEST_INVALID"),
            Self::TagImmutable { .. } => (StatusCode::CONFLICT, "DENIED"),
            Self::BadMoment { .. } => (StatusCode::BAD_REQUEST, "UNSUPPORTED"),
            Self::TagMoved { .. } => (StatusCode::PRECONDITION_FAILED, "DENIED"),
            Self::ManifestTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID"),
            Self::SizeMismatch { .. } => (StatusCode::BAD_REQUEST, "SIZE_INVALID"),
            Self::BadContentRange { .. } => (StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID"),
            Self::OutOfOrder { .. } => (StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID"),
            Self::UnknownUpload => (StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN"),
            Self::UploadBusy => (StatusCode::CONFLICT, "BLOB_UPLOAD_INVALID"),
            Self::RangeOutside { .. } => (StatusCode::RANGE_NOT_SATISFIABLE, "RANGE_INVALID"),
            Self::SlowBody => (StatusCode::REQUEST_TIMEOUT, "BLOB_UPLOAD_INVALID"),
            Self::BrokenBody => (StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID"),
            Self::NoSpace => (StatusCode::INSUFFICIENT_STORAGE, "INSUFFICIENT_STORAGE"),
            Self::TooManyManifests | Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"),
            Self::Storage(_) => (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN"),
        }
    }

    /// Tells whether it is the registry's fault.
    pub(crate) fn is_ours(&self) -> bool {
        self.answer().0.is_server_error()
    }

    /// Writes the answer. What is our own fault is not explained: a client has no business with our paths.
    pub(crate) fn response(&self) -> Response<Body> {
        let (status, code) = self.answer();
        let detail = if self.is_ours() { String::new() } else { causes(self) };
        let error = serde_json::json!({ "code": code, "message": self.to_string(), "detail": detail });
        let body = serde_json::json!({ "errors": [error] }).to_string();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in self.headers() {
            // Made of digits and parsed names, so always a header value; without it the answer is still right.
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
        response
    }

    fn headers(&self) -> Vec<(HeaderName, String)> {
        match self {
            Self::Method { allowed } => vec![(header::ALLOW, (*allowed).to_owned())],
            Self::OutOfOrder { size, location, .. } => {
                vec![(header::LOCATION, location.clone()), (header::RANGE, upload_range(*size))]
            }
            Self::RangeOutside { size } => vec![(header::CONTENT_RANGE, format!("bytes */{size}"))],
            Self::UploadBusy | Self::NoSpace | Self::TooManyManifests | Self::Unavailable(_) => {
                vec![(header::RETRY_AFTER, "1".to_owned())]
            }
            _ => Vec::new(),
        }
    }
}

/// Says which bytes of an upload are here. The last byte is named, so nothing and one byte look the same.
pub(crate) fn upload_range(size: u64) -> String {
    format!("0-{}", size.saturating_sub(1))
}

fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

impl From<DigestError> for RequestError {
    fn from(source: DigestError) -> Self {
        Self::BadDigest { source }
    }
}

impl From<std::io::Error> for RequestError {
    fn from(error: std::io::Error) -> Self {
        Self::Storage(error.into())
    }
}

impl From<StorageError> for RequestError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Object(ObjectError::NoSpace) => Self::NoSpace,
            StorageError::Object(ObjectError::Busy { .. }) => Self::UploadBusy,
            StorageError::Object(ObjectError::Unavailable { .. }) | StorageError::Contended { .. } => {
                Self::Unavailable(error.into())
            }
            StorageError::Object(
                ObjectError::Denied { .. } | ObjectError::Failed { .. } | ObjectError::Damaged { .. },
            )
            | StorageError::DamagedRecord { .. } => Self::Storage(error.into()),
        }
    }
}

impl From<UploadError> for RequestError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Unknown => Self::UnknownUpload,
            UploadError::Busy => Self::UploadBusy,
            UploadError::DigestMismatch { expected, actual } => Self::DigestMismatch { expected, actual },
            UploadError::Storage(error) => error.into(),
        }
    }
}

impl From<PutManifestError> for RequestError {
    fn from(error: PutManifestError) -> Self {
        match error {
            PutManifestError::MissingReference { digest } => Self::MissingReference { digest },
            PutManifestError::TagMoved { tag } => Self::TagMoved { tag: tag.to_string() },
            PutManifestError::TagImmutable { tag, digest } => Self::TagImmutable { tag: tag.to_string(), digest },
            PutManifestError::Storage(error) => error.into(),
        }
    }
}
