//! Words that several flags share: `NAME=VALUE`, `HOST:IP`, limits, and lists of `key=value`.

pub(crate) mod annotations;
pub(crate) mod attest;
pub(crate) mod cache;
pub(crate) mod cache_filter;
pub(crate) mod call;
pub(crate) mod container;
pub(crate) mod explain;
pub(crate) mod mounts;
pub(crate) mod network;
pub(crate) mod outputs;
pub(crate) mod reproducible;
pub(crate) mod storage;

use std::net::IpAddr;

use anyhow::Context;
use builder::Ulimit;

/// Splits `NAME=VALUE`; a lone name takes the value of our own environment, and is left out when there is none.
pub(crate) fn variable(text: &str) -> anyhow::Result<Option<(String, String)>> {
    match text.split_once('=') {
        Some(("", _)) => anyhow::bail!("`{text}` has no name before the `=`"),
        Some((name, value)) => Ok(Some((name.into(), value.into()))),
        None if text.is_empty() => anyhow::bail!("a variable needs a name"),
        None => Ok(std::env::var(text).ok().map(|value| (text.into(), value))),
    }
}

/// Reads labels and options: `NAME=VALUE`, or a lone name, whose value is empty.
pub(crate) fn pairs(texts: &[String]) -> std::collections::BTreeMap<String, String> {
    let pair = |text: &String| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        (name.to_owned(), value.to_owned())
    };
    texts.iter().map(pair).collect()
}

/// Splits `HOST:IP`, or `HOST:host-gateway` for the machine itself.
pub(crate) fn host_of_build(text: &str) -> anyhow::Result<(String, String)> {
    match text.split_once(['=', ':']) {
        Some((name, address @ "host-gateway")) if !name.is_empty() => Ok((name.into(), address.into())),
        _ => host(text).map(|(name, address)| (name, address.to_string())),
    }
}

/// Splits `HOST:IP`; docker also takes `HOST=IP` and brackets around an IPv6 address.
pub(crate) fn host(text: &str) -> anyhow::Result<(String, IpAddr)> {
    let bad = || format!("`{text}` is not of the form HOST:IP");
    let (name, address) = text.split_once(['=', ':']).with_context(bad)?;
    let address = address.trim_start_matches('[').trim_end_matches(']');
    anyhow::ensure!(!name.is_empty(), bad());
    // Docker's word for the machine itself, as its bridge calls it.
    anyhow::ensure!(address != "host-gateway", "`{text}`: host-gateway is not supported yet; give an address");
    Ok((name.into(), address.parse().with_context(bad)?))
}

/// Reads `NAME=SOFT[:HARD]`; -1 is no limit.
pub(crate) fn ulimit(text: &str) -> anyhow::Result<Ulimit> {
    const NAMES: [&str; 15] = [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let bad = || format!("`{text}` is not of the form NAME=SOFT[:HARD]");
    let (name, limits) = text.split_once('=').with_context(bad)?;
    anyhow::ensure!(NAMES.contains(&name), "unknown limit `{name}`; the limits are {}", NAMES.join(", "));
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let (soft, hard): (i64, i64) = (soft.parse().with_context(bad)?, hard.parse().with_context(bad)?);
    anyhow::ensure!(hard == -1 || (soft != -1 && soft <= hard), "`{text}`: the soft limit is above the hard one");
    Ok(Ulimit { name: name.into(), soft, hard })
}

/// Splits a list like `type=bind,source=/a,readonly`: fields between commas, quoted when they hold commas themselves.
pub(crate) fn fields(text: &str) -> anyhow::Result<Vec<(String, Option<String>)>> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let (field, after) = field(rest).with_context(|| format!("`{text}`"))?;
        match field.split_once('=') {
            Some((key, value)) => fields.push((key.to_ascii_lowercase(), Some(value.to_owned()))),
            None => fields.push((field.to_ascii_lowercase(), None)),
        }
        match after {
            Some(after) => rest = after,
            None => return Ok(fields),
        }
    }
}

/// Reads one field of a CSV line: `""` within quotes is a quote.
fn field(text: &str) -> anyhow::Result<(String, Option<&str>)> {
    let Some(quoted) = text.strip_prefix('"') else {
        return Ok(match text.split_once(',') {
            Some((field, after)) => (field.to_owned(), Some(after)),
            None => (text.to_owned(), None),
        });
    };
    let mut field = String::new();
    let mut rest = quoted;
    loop {
        let (part, after) = rest.split_once('"').context("a quote is never closed")?;
        field.push_str(part);
        match after.chars().next() {
            Some('"') => {
                field.push('"');
                rest = &after[1..];
            }
            Some(',') => return Ok((field, Some(&after[1..]))),
            None => return Ok((field, None)),
            Some(_) => anyhow::bail!("a quote is followed by something other than a comma"),
        }
    }
}

/// Reads `true`, `1`, or nothing as true.
pub(crate) fn boolean(key: &str, value: Option<&str>) -> anyhow::Result<bool> {
    match value {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(other) => anyhow::bail!("`{key}={other}` is neither true nor false"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_csv() {
        let read = |text: &str| fields(text).map_err(|error| error.to_string());
        let pair = |key: &str, value: Option<&str>| (key.to_owned(), value.map(str::to_owned));
        assert_eq!(read("type=oci,DEST=a"), Ok(vec![pair("type", Some("oci")), pair("dest", Some("a"))]));
        let quoted = r#"type=bind,"src=/a,b",readonly"#;
        assert_eq!(
            read(quoted),
            Ok(vec![pair("type", Some("bind")), pair("src", Some("/a,b")), pair("readonly", None)])
        );
        assert!(read("\"a").is_err());
        assert!(read("\"a\"b").is_err());
    }

    #[test]
    fn limits_are_checked() {
        let limit = |text: &str| ulimit(text).map(|limit| (limit.soft, limit.hard)).map_err(|error| error.to_string());
        assert_eq!(limit("nofile=1024"), Ok((1024, 1024)));
        assert_eq!(limit("nofile=1024:2048"), Ok((1024, 2048)));
        assert_eq!(limit("core=0:-1"), Ok((0, -1)));
        for text in ["nofile", "nofile=x", "files=1", "nofile=2:1", "nofile=-1:5"] {
            assert!(limit(text).is_err(), "{text}");
        }
    }

    #[test]
    fn hosts_have_addresses() {
        assert_eq!(host("db:10.0.0.1").ok(), Some(("db".into(), "10.0.0.1".parse().unwrap())));
        assert_eq!(host("db=[::1]").ok(), Some(("db".into(), "::1".parse().unwrap())));
        assert!(host("db").is_err() && host(":1.2.3.4").is_err() && host("db:nowhere").is_err());
    }
}
