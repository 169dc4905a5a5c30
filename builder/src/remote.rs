//! [`Remote`]: how `ADD` fetches URLs and git repositories. The engine fills it in with an HTTP client and the git
//! program.

use std::io::Write;
use std::path::Path;

use crate::cancel::Cancel;
use crate::git::GitSource;

/// Fetches what a Dockerfile names elsewhere.
///
/// # Contract
///
/// - Everything returns soon after `cancel` is cancelled, with any error.
/// - No message holds a credential of a URL.
/// - A body that the server did not send whole is an error.
/// - A checkout has the files of the commit, with the modes that git knows (0644, 0755, folders 0755), and runs nothing
///   that the repository brings along.
/// - All of it is called from several threads at once.
pub trait Remote: Send + Sync {
    /// Fetches what a URL names into `body`, unless it is still what `request` knows.
    ///
    /// # Errors
    ///
    /// When it cannot be had.
    fn http(&self, request: &HttpRequest<'_>, body: &mut dyn Write, cancel: &Cancel)
    -> Result<HttpAnswer, RemoteError>;

    /// Finds the commit that a source means now. One that names a commit is not looked up.
    ///
    /// # Errors
    ///
    /// When the repository cannot be read, or has no such reference.
    fn git_commit(&self, source: &GitSource, cancel: &Cancel) -> Result<GitCommit, RemoteError>;

    /// Puts the files of a commit into an empty folder; `.git` with them when the source wants it. All get the time
    /// `mtime`, or that of the commit when it is `None`. Returns the time of the commit, in seconds since 1970.
    ///
    /// # Errors
    ///
    /// When the commit cannot be had, or the folder cannot be written.
    fn git_checkout(
        &self,
        source: &GitSource,
        commit: &GitCommit,
        mtime: Option<jiff::Timestamp>,
        folder: &Path,
        cancel: &Cancel,
    ) -> Result<i64, RemoteError>;
}

/// What to fetch, and what is known of it.
#[derive(Clone, Copy, Debug)]
pub struct HttpRequest<'a> {
    /// The URL, `http` or `https`.
    pub url: &'a str,
    /// The `ETag` of what is here already.
    pub etag: Option<&'a str>,
    /// Its `Last-Modified`, as the server wrote it.
    pub last_modified: Option<&'a str>,
    /// Whether the content will be compared with a digest, so that nobody in between can change it.
    pub verified: bool,
    /// How many bytes are too many.
    pub limit: u64,
}

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpAnswer {
    /// It is still the same.
    NotModified,
    /// The content was sent.
    Content(HttpContent),
}

/// What a server said about the content it sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpContent {
    /// The `filename` of `Content-Disposition`, as it was sent.
    pub file_name: Option<String>,
    /// `ETag`.
    pub etag: Option<String>,
    /// `Last-Modified`, as it was sent.
    pub last_modified: Option<String>,
    /// `Last-Modified` in seconds since 1970, if it is a date.
    pub modified: Option<i64>,
}

/// The commit that a source means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitCommit {
    /// Its name, all of it: 40 or 64 hexadecimal characters.
    pub id: String,
    /// The full name of the reference that led to it: `refs/heads/main`.
    pub reference: Option<String>,
}

/// Why something could not be fetched; the source's whole chain is shown.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct RemoteError {
    /// What went wrong: ``cannot fetch `https://example.com/a` ``.
    pub message: String,
    /// What the user can do.
    pub hint: Option<String>,
    /// Whether trying again may help.
    pub transient: bool,
    /// Why.
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// For builds that fetch nothing: whatever is asked for is refused.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoRemote;

impl NoRemote {
    fn refuse<T>() -> Result<T, RemoteError> {
        Err(RemoteError { message: "nothing can be fetched here".into(), hint: None, transient: false, source: None })
    }
}

impl Remote for NoRemote {
    fn http(&self, _: &HttpRequest<'_>, _: &mut dyn Write, _: &Cancel) -> Result<HttpAnswer, RemoteError> {
        Self::refuse()
    }

    fn git_commit(&self, _: &GitSource, _: &Cancel) -> Result<GitCommit, RemoteError> {
        Self::refuse()
    }

    fn git_checkout(
        &self,
        _: &GitSource,
        _: &GitCommit,
        _: Option<jiff::Timestamp>,
        _: &Path,
        _: &Cancel,
    ) -> Result<i64, RemoteError> {
        Self::refuse()
    }
}

/// Hides the credentials of every URL in a text. The text keeps its length, so places in it stay right.
///
/// What stands before the `@` of an HTTP URL is hidden whole, because it may be a token; of other URLs, what follows the
/// first `:` there.
pub fn without_credentials(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let mut from = 0;
    while let Some(found) = text[from..].find("://") {
        let scheme_end = from + found;
        let start = scheme_end + 3;
        let rest = &text[start..];
        let end = rest.find(|c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '"' | '\'' | '`' | '<' | '>'));
        let authority = &rest[..end.unwrap_or(rest.len())];
        if let Some(at) = authority.rfind('@') {
            let before = text[..scheme_end].to_ascii_lowercase();
            let is_http = before.ends_with("http") || before.ends_with("https");
            let hidden = if is_http { Some(0) } else { authority[..at].find(':').map(|colon| colon + 1) };
            if let Some(hidden) = hidden {
                bytes[start + hidden..start + at].fill(b'*');
            }
        }
        from = start;
    }
    // Whole characters were replaced by as many ASCII ones as they had bytes.
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_of_urls_are_hidden_in_place() {
        for (text, shown) in [
            ("ADD https://user:pass@host/x /", "ADD https://*********@host/x /"),
            ("https://token@host", "https://*****@host"),
            ("https://a@b@host/", "https://***@host/"),
            ("ssh://git@host/x.git", "ssh://git@host/x.git"),
            ("ssh://git:pw@host/x.git", "ssh://git:**@host/x.git"),
            ("https://host/a@b", "https://host/a@b"),
            ("https://host?mail=a@b", "https://host?mail=a@b"),
            ("https://ü:é@h http://x:y@z", "https://*****@h http://***@z"),
            ("git@host:x.git", "git@host:x.git"),
            ("://", "://"),
        ] {
            assert_eq!(without_credentials(text), shown);
            assert_eq!(shown.len(), text.len());
        }
    }
}
