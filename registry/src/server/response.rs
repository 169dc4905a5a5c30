//! Answers that more than one endpoint gives, and the headers that go with content.

use axum::body::Body;
use axum::http::header::{self, HeaderName};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};
use bytes::Bytes;
use oci::Digest;

/// The digest of what is answered with, or of what was stored.
pub(crate) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// The name of an upload, which old clients want beside its location.
pub(crate) const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");
/// The subject of a manifest, saying that it will be among the subject's referrers.
pub(crate) const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
/// A tag that now names the manifest.
pub(crate) const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");
/// Which filters a list of referrers went through.
pub(crate) const OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// The registry whose content is answered with, for clients that take this one for its mirror.
pub(crate) const OCI_NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");

/// Answers with a status and nothing else.
pub(crate) fn empty(status: StatusCode) -> Response<Body> {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = status;
    if status != StatusCode::NO_CONTENT {
        set(&mut answer, header::CONTENT_LENGTH, "0");
    }
    answer
}

/// Answers with content that has a digest.
pub(crate) fn content(body: Body, media_type: &str, length: u64, digest: &Digest) -> Response<Body> {
    let mut answer = Response::new(body);
    set(&mut answer, header::CONTENT_TYPE, media_type);
    set(&mut answer, header::CONTENT_LENGTH, &length.to_string());
    set(&mut answer, CONTENT_DIGEST, &digest.to_string());
    set(&mut answer, header::ETAG, &etag(digest));
    answer
}

/// Answers with JSON.
pub(crate) fn json(media_type: &'static str, value: &impl serde::Serialize) -> Response<Body> {
    let mut answer = Response::new(Body::from(bytes(value)));
    set(&mut answer, header::CONTENT_TYPE, media_type);
    answer
}

/// Returns what JSON is sent as.
pub(crate) fn bytes(value: &impl serde::Serialize) -> Bytes {
    serde_json::to_vec(value).expect("its maps have text for keys").into()
}

/// Says that something was stored, and where.
pub(crate) fn created(location: &str, digest: &Digest) -> Response<Body> {
    let mut answer = empty(StatusCode::CREATED);
    set(&mut answer, header::LOCATION, location);
    set(&mut answer, CONTENT_DIGEST, &digest.to_string());
    answer
}

/// Sets a header; a value that cannot be in one is left out.
pub(crate) fn set(answer: &mut Response<Body>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
}

/// How much clients may be told in warnings at once (distribution-spec, "Warnings").
const WARNINGS: usize = 4096;

/// Tells the user of a client something that changes nothing (distribution-spec, "Warnings").
pub(crate) fn warn(answer: &mut Response<Body>, text: &str) {
    let text: String =
        text.chars().filter(|letter| matches!(letter, ' '..='~') && !matches!(letter, '"' | '\\')).collect();
    let before: usize = answer.headers().get_all(header::WARNING).iter().map(HeaderValue::len).sum();
    let value = format!("299 - \"{text}\"");
    if before + value.len() > WARNINGS {
        return;
    }
    if let Ok(value) = HeaderValue::from_str(&value) {
        answer.headers_mut().append(header::WARNING, value);
    }
}

/// Names where a list goes on (RFC 8288).
pub(crate) fn set_next(answer: &mut Response<Body>, url: &str) {
    set(answer, header::LINK, &format!("<{url}>; rel=\"next\""));
}

/// Returns the entity tag of content: its digest, which is as strong as one can be.
pub(crate) fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// Tells whether the client already has this content (RFC 9110, section 13.1.2).
pub(crate) fn not_modified(headers: &HeaderMap, digest: &Digest) -> bool {
    let ours = etag(digest);
    let theirs = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    theirs
        .flat_map(|value| value.split(','))
        .map(|tag| tag.trim().trim_start_matches("W/"))
        .any(|tag| tag == "*" || tag == ours)
}

/// What a client wants to hold before something is replaced (RFC 9110, sections 13.1.1 and 13.1.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// It is one of these; any for `*`.
    Is(Vec<String>),
    /// It is none of these; there is nothing for `*`.
    IsNot(Vec<String>),
}

impl Condition {
    /// Reads the condition, if there is one.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let tags = |name: HeaderName| -> Option<Vec<String>> {
            let mut values = headers.get_all(name).iter().peekable();
            values.peek()?;
            let text = values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
            Some(text.map(|tag| tag.trim().to_owned()).collect())
        };
        tags(header::IF_MATCH).map(Self::Is).or_else(|| tags(header::IF_NONE_MATCH).map(Self::IsNot))
    }

    /// Tells whether it holds for what is there.
    pub(crate) fn holds(&self, current: Option<&Digest>) -> bool {
        let among =
            |tags: &[String]| current.is_some_and(|digest| tags.iter().any(|tag| tag == "*" || *tag == etag(digest)));
        match self {
            Self::Is(tags) => among(tags),
            Self::IsNot(tags) => !among(tags),
        }
    }
}

/// Says that the client already has this content.
pub(crate) fn not_modified_answer(digest: &Digest) -> Response<Body> {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::NOT_MODIFIED;
    set(&mut answer, header::ETAG, &etag(digest));
    set(&mut answer, CONTENT_DIGEST, &digest.to_string());
    answer
}

/// Writes text so that it can stand in the parameters of a URL.
pub(crate) fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut url, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' => url.push(byte.into()),
            _ => url.push_str(&format!("%{byte:02X}")),
        }
        url
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_quoted_text_and_have_an_end() {
        let mut answer = empty(StatusCode::CREATED);
        warn(&mut answer, "a \"b\"\r\nc");
        assert_eq!(answer.headers()[header::WARNING], "299 - \"a bc\"");
        for _ in 0..100 {
            warn(&mut answer, &"x".repeat(100));
        }
        let all: usize = answer.headers().get_all(header::WARNING).iter().map(HeaderValue::len).sum();
        assert!((4000..=WARNINGS).contains(&all));
    }

    #[test]
    fn a_condition_is_about_what_a_tag_names_now() {
        let (one, two) = (Digest::sha256(b"1"), Digest::sha256(b"2"));
        let condition = |name: HeaderName, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_str(value).expect("a header"));
            Condition::of(&headers).expect("a condition")
        };
        let is = condition(header::IF_MATCH, &format!("\"x\", {}", etag(&one)));
        assert!(is.holds(Some(&one)) && !is.holds(Some(&two)) && !is.holds(None));
        let any = condition(header::IF_MATCH, "*");
        assert!(any.holds(Some(&two)) && !any.holds(None));
        let new = condition(header::IF_NONE_MATCH, "*");
        assert!(new.holds(None) && !new.holds(Some(&one)));
        assert_eq!(Condition::of(&HeaderMap::new()), None);
    }
}
