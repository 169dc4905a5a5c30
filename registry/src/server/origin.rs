//! [`Origin`]: where a client sees this server, when a proxy that we trust stands between.
//!
//! Locations are paths, which are right behind any proxy that does not change them. Only a proxy whose address is
//! listed as trusted is believed when it says that it is reached by another name or below a prefix; from anybody
//! else, such headers could lead other clients astray.

use std::net::IpAddr;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use ipnet::IpNet;

/// What comes before the path in the URLs that a client is given; mostly nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin(String);

impl Origin {
    /// Reads what the peer says of itself, if it is trusted.
    pub(crate) fn of(peer: IpAddr, trusted: &[IpNet], headers: &HeaderMap) -> Self {
        let peer = peer.to_canonical();
        if !trusted.iter().any(|net| net.contains(&peer)) {
            return Self::default();
        }
        let prefix = said(headers, "x-forwarded-prefix").filter(|prefix| is_prefix(prefix)).unwrap_or_default();
        let prefix = prefix.trim_end_matches('/');
        let scheme = said(headers, "x-forwarded-proto").filter(|scheme| matches!(*scheme, "http" | "https"));
        let host = said(headers, "x-forwarded-host").filter(|host| is_host(host));
        let (Some(scheme), Some(host)) = (scheme, host) else { return Self(prefix.to_owned()) };
        let usual = if scheme == "https" { "443" } else { "80" };
        let port = said(headers, "x-forwarded-port").filter(|port| port.parse::<u16>().is_ok() && *port != usual);
        match port.filter(|_| !has_port(host)) {
            Some(port) => Self(format!("{scheme}://{host}:{port}{prefix}")),
            None => Self(format!("{scheme}://{host}{prefix}")),
        }
    }

    /// Makes the URLs in an answer those that the client can reach.
    pub(crate) fn apply(&self, answer: &mut Response<Body>) {
        if self.0.is_empty() {
            return;
        }
        for (name, before) in [(header::LOCATION, ""), (header::LINK, "<")] {
            let Some(value) = answer.headers().get(&name).and_then(|value| value.to_str().ok()) else { continue };
            let Some(path) = value.strip_prefix(before).filter(|path| path.starts_with("/v2/")) else { continue };
            // Both parts are header values, so their sum is one.
            if let Ok(value) = HeaderValue::from_str(&format!("{before}{}{path}", self.0)) {
                answer.headers_mut().insert(name, value);
            }
        }
    }
}

/// Returns the first of the values, which is what the client used; later ones are those of proxies between.
fn said<'a>(headers: &'a HeaderMap, name: &'static str) -> Option<&'a str> {
    let value = headers.get(HeaderName::from_static(name))?.to_str().ok()?;
    value.split(',').next().map(str::trim)
}

fn is_host(text: &str) -> bool {
    let host = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    !text.is_empty() && text.len() <= 255 && text.bytes().all(host)
}

fn has_port(host: &str) -> bool {
    host.rsplit_once(']').map_or(host, |(_, rest)| rest).contains(':')
}

fn is_prefix(text: &str) -> bool {
    let path = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'-' | b'_' | b'~');
    // `//host` would be another server.
    text.starts_with('/') && !text.starts_with("//") && text.len() <= 255 && text.bytes().all(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(peer: &str, said: &[(&'static str, &str)]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in said {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"));
        }
        let trusted = ["10.0.0.0/8".parse().expect("a net"), "fd00::/8".parse().expect("a net")];
        Origin::of(peer.parse().expect("an address"), &trusted, &headers).0
    }

    #[test]
    fn only_a_trusted_proxy_says_where_we_are() {
        let (proto, host, port, prefix) =
            ("x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-forwarded-prefix");
        let all = [(proto, "https"), (host, "reg.example"), (port, "8443"), (prefix, "/r/")];
        assert_eq!(origin("10.1.2.3", &all), "https://reg.example:8443/r");
        assert_eq!(origin("::ffff:10.1.2.3", &all), "https://reg.example:8443/r");
        assert_eq!(origin("fd00::1", &all[..2]), "https://reg.example");
        assert_eq!(origin("192.0.2.1", &all), "");
        assert_eq!(origin("10.1.2.3", &[]), "");
        assert_eq!(origin("10.1.2.3", &[(proto, "https")]), "");
        assert_eq!(origin("10.1.2.3", &[(proto, "https"), (host, "a:1"), (port, "2")]), "https://a:1");
        assert_eq!(origin("10.1.2.3", &[(proto, "https"), (host, "[::1]"), (port, "2")]), "https://[::1]:2");
        assert_eq!(origin("10.1.2.3", &[(proto, "https"), (host, "a"), (port, "443")]), "https://a");
        assert_eq!(origin("10.1.2.3", &[(proto, "https, http"), (host, "a, b")]), "https://a");
    }

    #[test]
    fn what_is_no_host_or_prefix_is_not_repeated() {
        let proto = ("x-forwarded-proto", "https");
        for host in ["", "a b", "a/b", "a\"", "user@host"] {
            assert_eq!(origin("10.0.0.1", &[proto, ("x-forwarded-host", host)]), "", "{host}");
        }
        for prefix in ["relative", "//elsewhere", "/a b", "/<x>"] {
            assert_eq!(origin("10.0.0.1", &[("x-forwarded-prefix", prefix)]), "", "{prefix}");
        }
        assert_eq!(origin("10.0.0.1", &[("x-forwarded-proto", "gopher"), ("x-forwarded-host", "a")]), "");
    }

    #[test]
    fn locations_and_links_are_moved_and_other_urls_are_not() {
        let origin = Origin("https://a/p".into());
        let mut answer = Response::new(Body::empty());
        answer.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/v2/x/blobs/y"));
        answer.headers_mut().insert(header::LINK, HeaderValue::from_static("</v2/x?n=1>; rel=\"next\""));
        origin.apply(&mut answer);
        assert_eq!(answer.headers()[header::LOCATION], "https://a/p/v2/x/blobs/y");
        assert_eq!(answer.headers()[header::LINK], "<https://a/p/v2/x?n=1>; rel=\"next\"");
        answer.headers_mut().insert(header::LOCATION, HeaderValue::from_static("https://bucket/v2/x"));
        origin.apply(&mut answer);
        assert_eq!(answer.headers()[header::LOCATION], "https://bucket/v2/x");
    }
}
