//! [`parse`]: what `WWW-Authenticate` asks for (RFC 9110, section 11.6.1).

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// One way to authenticate that a server offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A user name and password with each request.
    Basic,
    /// A token from somewhere else (distribution-spec, "Token Authentication").
    Bearer {
        /// Where tokens are had.
        realm: String,
        /// Whom the token is for.
        service: Option<String>,
        /// What the token must allow: scopes between spaces.
        scope: Option<String>,
    },
}

/// Reads all challenges that we can meet; others (`Negotiate`, …) are left out.
pub(super) fn parse(headers: &HeaderMap) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    for value in headers.get_all(WWW_AUTHENTICATE) {
        let text = String::from_utf8_lossy(value.as_bytes());
        challenges.extend(offers(&text).into_iter().filter_map(understand));
    }
    challenges
}

/// A scheme and its parameters.
type Offer = (String, Vec<(String, String)>);

fn understand((scheme, parameters): Offer) -> Option<Challenge> {
    let get = |wanted: &str| {
        let found = parameters.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
    };
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(Challenge::Bearer { realm: get("realm")?, service: get("service"), scope: get("scope") });
    }
    None
}

/// Splits a header's value: `Basic realm="a, b", Bearer realm="…",scope="…"`.
///
/// A comma stands between parameters as well as between challenges: a word that no `=` follows starts a challenge.
/// Whatever the server sends, this ends, because each turn takes at least one character.
fn offers(text: &str) -> Vec<Offer> {
    let mut offers: Vec<Offer> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([',', ' ', '\t']);
        let end = rest.find([',', ' ', '\t', '=', '"']).unwrap_or(rest.len());
        if rest.is_empty() {
            return offers;
        }
        if end == 0 {
            // Neither a word nor a separator: skip what makes no sense.
            let mut characters = rest.chars();
            characters.next();
            rest = characters.as_str();
            continue;
        }
        let (word, after) = rest.split_at(end);
        let Some(value) = after.trim_start_matches([' ', '\t']).strip_prefix('=') else {
            offers.push((word.to_owned(), Vec::new()));
            rest = after;
            continue;
        };
        let value = value.trim_start_matches([' ', '\t']);
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let end = value.find([',', ' ', '\t']).unwrap_or(value.len());
                (value[..end].to_owned(), &value[end..])
            }
        };
        rest = after;
        if let Some((_, parameters)) = offers.last_mut() {
            parameters.push((word.to_owned(), value));
        }
    }
}

/// Reads up to the closing quote; one that is missing is taken to stand at the end.
fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenges(values: &[&str]) -> Vec<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().expect("a header value"));
        }
        parse(&headers)
    }

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer { realm: realm.into(), service: service.map(Into::into), scope: scope.map(Into::into) }
    }

    #[test]
    fn what_registries_send_is_understood() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/debian:pull""#;
        let expected =
            bearer("https://auth.docker.io/token", Some("registry.docker.io"), Some("repository:library/debian:pull"));
        for (text, expected) in [
            (hub, vec![expected.clone()]),
            (r#"Basic realm="Registry, \"the\" one""#, vec![Challenge::Basic]),
            (
                r#"bearer REALM = "https://a/t" , scope="a:b:pull,push""#,
                vec![bearer("https://a/t", None, Some("a:b:pull,push"))],
            ),
            (
                r#"Basic realm="a",Bearer realm="https://a/t""#,
                vec![Challenge::Basic, bearer("https://a/t", None, None)],
            ),
            (r#"Negotiate, Basic realm=x"#, vec![Challenge::Basic]),
            (r#"Negotiate YWJj==, Bearer realm=https://a/t?x=y"#, vec![bearer("https://a/t?x=y", None, None)]),
            (r#"Bearer service="no realm""#, vec![]),
            (r#"Bearer realm="never closed"#, vec![bearer("never closed", None, None)]),
            ("", vec![]),
            (r#",,= "=",;"#, vec![]),
        ] {
            assert_eq!(challenges(&[text]), expected, "{text}");
        }
        assert_eq!(challenges(&["Basic", hub]), [Challenge::Basic, expected]);
    }
}
