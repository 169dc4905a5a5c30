//! [`Login`]: who a URL says that asks. It is taken out of the URL, because programs that fetch show theirs to everybody.

use builder::git::percent_decode;

/// The user and password of a URL.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Login {
    /// The addresses that it is for.
    pub(super) scope: String,
    pub(super) user: String,
    pub(super) password: Option<String>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("scope", &self.scope).finish_non_exhaustive()
    }
}

/// Takes the login out of an HTTP URL. What follows the first line of a user or password is nobody's.
pub(super) fn split(remote: &str) -> (String, Option<Login>) {
    let whole = || (remote.to_owned(), None);
    let Some((scheme, rest)) = remote.split_once("://") else { return whole() };
    let scheme = scheme.to_ascii_lowercase();
    if !matches!(scheme.as_str(), "http" | "https") {
        return whole();
    }
    let end = rest.find('/').unwrap_or(rest.len());
    let Some((login, host)) = rest[..end].rsplit_once('@') else { return whole() };
    let (user, password) = login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)));
    let plain = |text: &str| {
        let text = percent_decode(text).unwrap_or_else(|_| text.to_owned());
        text.split(char::is_control).next().unwrap_or_default().to_owned()
    };
    let scope = format!("{scheme}://{host}/");
    let login = Login { scope, user: plain(user), password: password.map(plain) };
    (format!("{scheme}://{host}{}", &rest[end..]), Some(login))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_taken_out_of_its_url() {
        let login = |user: &str, password: Option<&str>| {
            Some(Login { scope: "https://host:1/".into(), user: user.into(), password: password.map(str::to_owned) })
        };
        for (remote, url, expected) in [
            ("https://u:p%40:x@host:1/a@b.git", "https://host:1/a@b.git", login("u", Some("p@:x"))),
            ("HTTPS://token@host:1", "https://host:1", login("token", None)),
            ("https://u:p%0aq@host:1/", "https://host:1/", login("u", Some("p"))),
            ("https://host/a@b.git", "https://host/a@b.git", None),
            ("ssh://git@host/a", "ssh://git@host/a", None),
            ("git@host:a", "git@host:a", None),
        ] {
            assert_eq!(split(remote), (url.to_owned(), expected), "{remote}");
        }
    }
}
