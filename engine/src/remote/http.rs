//! One URL over HTTP: redirects followed by hand, an answer that stands still given up, nothing taken for whole that is
//! not.

use std::io::{self, Write};

use builder::{Cancel, HttpAnswer, HttpContent, HttpRequest, RemoteError};
use registry::client::{Client, RequestError};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::header::{CONTENT_DISPOSITION, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, LOCATION};
use reqwest::{Response, StatusCode, Url};

use crate::image_source::cancelled;

/// How many redirects are followed.
const MAX_REDIRECTS: usize = 10;

/// Why a URL could not be fetched.
#[derive(Debug, thiserror::Error)]
enum HttpError {
    #[error("it is not a URL of a web server")]
    Url,
    #[error(transparent)]
    Client(RequestError),
    #[error("the server cannot be reached: {0}")]
    Connect(String),
    #[error("the server did not answer the request: {0}")]
    Send(String),
    #[error("the server answered {0}")]
    Status(StatusCode),
    #[error("the server leads on more than {MAX_REDIRECTS} times")]
    Redirects,
    #[error("the server leads to what is no URL of a web server")]
    Location,
    #[error("the server leads from HTTPS to plain HTTP")]
    Downgrade,
    #[error("it is larger than the {0} bytes that may be fetched")]
    TooLarge(u64),
    #[error("the transfer broke off after {received} bytes: {why}")]
    BrokenOff { received: u64, why: String },
    #[error("the server sent nothing for {0} s")]
    Stalled(u64),
    #[error("what was fetched cannot be written")]
    Write(#[source] io::Error),
    #[error("cancelled")]
    Cancelled,
}

impl HttpError {
    fn is_transient(&self) -> bool {
        match self {
            Self::Status(status) => matches!(status.as_u16(), 408 | 429 | 502 | 503 | 504),
            Self::Send(_) | Self::BrokenOff { .. } => true,
            Self::Url
            | Self::Client(_)
            | Self::Connect(_)
            | Self::Redirects
            | Self::Location
            | Self::Downgrade
            | Self::TooLarge(_)
            | Self::Stalled(_)
            | Self::Write(_)
            | Self::Cancelled => false,
        }
    }

    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Status(StatusCode::NOT_FOUND | StatusCode::GONE) => Some("check the address; nothing is there now"),
            Self::Status(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Some(
                "the server wants to know who asks; fetch it in a RUN step with `--mount=type=secret` for the password",
            ),
            Self::Connect(_) => Some("check the name of the server, and that this machine can reach it"),
            Self::Downgrade => Some("with `--checksum` it would not matter who is in between"),
            _ => None,
        }
    }
}

/// Fetches a URL into `body`.
pub(crate) async fn fetch(
    client: &Client,
    request: &HttpRequest<'_>,
    body: &mut dyn Write,
    cancel: &Cancel,
) -> Result<HttpAnswer, RemoteError> {
    let result = tokio::select! {
        result = follow(client, request, body) => result,
        () = cancelled(cancel) => Err(HttpError::Cancelled),
    };
    result.map_err(|error| RemoteError {
        message: format!("cannot fetch `{}`", builder::remote::without_credentials(request.url)),
        hint: error.hint().map(str::to_owned),
        transient: error.is_transient(),
        source: Some(Box::new(error)),
    })
}

async fn follow(client: &Client, request: &HttpRequest<'_>, body: &mut dyn Write) -> Result<HttpAnswer, HttpError> {
    let mut url = Url::parse(request.url).ok().filter(is_web).ok_or(HttpError::Url)?;
    let inactivity = client.options().inactivity;
    let stalled = || HttpError::Stalled(inactivity.as_secs());
    let mut conditions = HeaderMap::new();
    let mut condition = |name: HeaderName, value: Option<&str>| {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
            conditions.insert(name, value);
        }
    };
    condition(IF_NONE_MATCH, request.etag);
    // Where there is a tag, it is the one that counts.
    condition(IF_MODIFIED_SINCE, request.last_modified.filter(|_| request.etag.is_none()));
    let mut authorization = None;
    for hop in 0..=MAX_REDIRECTS {
        let http = client.http_for(&url).map_err(HttpError::Client)?;
        let mut built = http.get(url.clone()).headers(conditions.clone());
        if let Some(value) = &authorization {
            built = built.header(AUTHORIZATION, value);
        }
        let built = built.build().map_err(|error| HttpError::Send(root(&error)))?;
        if hop == 0 {
            // What the URL itself says about who asks.
            authorization = built.headers().get(AUTHORIZATION).cloned();
        }
        let sent = tokio::time::timeout(inactivity, http.execute(built)).await.map_err(|_| stalled())?;
        let response = sent.map_err(|error| match error.is_connect() {
            true => HttpError::Connect(root(&error)),
            false => HttpError::Send(root(&error)),
        })?;
        let status = response.status();
        if let (true, Some(location)) = (leads_on(status), response.headers().get(LOCATION)) {
            let next = location.to_str().ok().and_then(|location| url.join(location).ok()).filter(is_web);
            let next = next.ok_or(HttpError::Location)?;
            if url.scheme() == "https" && next.scheme() == "http" && !request.verified {
                return Err(HttpError::Downgrade);
            }
            if url.origin() != next.origin() {
                authorization = None;
            }
            url = next;
            continue;
        }
        return match status {
            StatusCode::NOT_MODIFIED => Ok(HttpAnswer::NotModified),
            StatusCode::OK => receive(response, request.limit, inactivity, body).await,
            _ => Err(HttpError::Status(status)),
        };
    }
    Err(HttpError::Redirects)
}

/// Returns what an error comes from in the end: what lies between says only that a request failed, and names the URL.
fn root(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

fn is_web(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https") && url.has_host()
}

fn leads_on(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

async fn receive(
    mut response: Response,
    limit: u64,
    inactivity: std::time::Duration,
    body: &mut dyn Write,
) -> Result<HttpAnswer, HttpError> {
    if response.content_length().is_some_and(|length| length > limit) {
        return Err(HttpError::TooLarge(limit));
    }
    let content = describe(response.headers());
    let mut received = 0;
    loop {
        let chunk = tokio::time::timeout(inactivity, response.chunk()).await;
        let chunk = chunk.map_err(|_| HttpError::Stalled(inactivity.as_secs()))?;
        let chunk = chunk.map_err(|error| HttpError::BrokenOff { received, why: root(&error) })?;
        let Some(chunk) = chunk else { return Ok(HttpAnswer::Content(content)) };
        received += chunk.len() as u64;
        if received > limit {
            return Err(HttpError::TooLarge(limit));
        }
        body.write_all(&chunk).map_err(HttpError::Write)?;
    }
}

fn describe(headers: &HeaderMap) -> HttpContent {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    // Names of files are mostly UTF-8, which `to_str` does not take.
    let disposition = headers.get(CONTENT_DISPOSITION).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let last_modified = text(LAST_MODIFIED);
    HttpContent {
        file_name: disposition.and_then(|value| file_name(&value)),
        etag: text(ETAG),
        modified: last_modified.as_deref().and_then(http_date),
        last_modified,
    }
}

/// Reads `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(text: &str) -> Option<i64> {
    let parser = jiff::fmt::rfc2822::DateTimeParser::new().relaxed_weekday(true);
    parser.parse_timestamp(text.trim()).ok().map(jiff::Timestamp::as_second)
}

/// Returns the file name of a `Content-Disposition` ([RFC 6266](https://www.rfc-editor.org/rfc/rfc6266)); the extended
/// form wins.
fn file_name(value: &str) -> Option<String> {
    let mut plain = None;
    let mut rest = value.split_once(';')?.1;
    loop {
        let (name, after) = rest.split_once('=')?;
        let (name, after) = (name.trim().to_ascii_lowercase(), after.trim_start());
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let end = after.find(';').unwrap_or(after.len());
                (after[..end].trim().to_owned(), &after[end..])
            }
        };
        match name.as_str() {
            "filename*" => {
                let (charset, coded) = value.split_once('\'')?;
                let coded = coded.split_once('\'')?.1;
                if charset.eq_ignore_ascii_case("utf-8")
                    && let Some(decoded) = percent_decode(coded)
                {
                    return Some(decoded);
                }
            }
            "filename" => plain = Some(value),
            _ => {}
        }
        match next.trim_start().strip_prefix(';') {
            Some(next) if !next.trim().is_empty() => rest = next,
            _ => return plain,
        }
        if !rest.contains('=') {
            return plain;
        }
    }
}

/// Reads up to the closing quote; returns what was quoted and what comes after.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let hex = std::str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(hex, 16).ok()?);
            rest = &rest[2..];
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c24_names_and_times_are_read_from_headers() {
        for (value, expected) in [
            ("attachment; filename=plain.txt", Some("plain.txt")),
            ("attachment; filename=\"with; quote \\\" .txt\"; x=y", Some("with; quote \" .txt")),
            ("attachment; filename=\"old\"; filename*=UTF-8''%e2%82%ac%20new", Some("€ new")),
            ("attachment; filename*=latin1''x; filename=old", Some("old")),
            ("attachment; filename=../../x", Some("../../x")),
            ("inline", None),
            ("attachment; filename=\"open", None),
            ("attachment; size=3;", None),
        ] {
            assert_eq!(file_name(value).as_deref(), expected, "{value}");
        }
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(http_date("yesterday"), None);
    }
}
