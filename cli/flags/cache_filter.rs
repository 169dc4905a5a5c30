//! `--filter` of `du` and `prune`: which entries of the build cache are meant.

use std::time::SystemTime;

use anyhow::Context as _;
use engine::CacheEntry;
use jiff::{SignedDuration, Timestamp};

/// Filters: of several with one name, one must hold; of those with different names, all.
#[derive(Clone, Debug, Default)]
pub(crate) struct CacheFilter {
    ids: Vec<String>,
    parents: Vec<String>,
    kinds: Vec<String>,
    words: Vec<String>,
    in_use: Option<bool>,
    shared: Option<bool>,
    /// Only what was last used before this.
    pub(crate) before: Option<SystemTime>,
}

const KINDS: [&str; 4] = ["regular", "internal", "source.local", "exec.cachemount"];

/// Reads filters, each of which may be several between commas. What is not understood is refused: it must not come to
/// mean everything.
pub(crate) fn parse(texts: &[String], now: Timestamp) -> anyhow::Result<CacheFilter> {
    let mut filter = CacheFilter::default();
    for text in texts {
        for (name, value) in super::fields(text)? {
            filter.add(&name, value.as_deref(), now).with_context(|| format!("--filter `{text}`"))?;
        }
    }
    Ok(filter)
}

impl CacheFilter {
    fn add(&mut self, name: &str, value: Option<&str>, now: Timestamp) -> anyhow::Result<()> {
        let yes = || match value {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => anyhow::bail!("`{other}` is neither true nor false"),
        };
        let text = || {
            let value = value.filter(|value| !value.is_empty());
            value.map(str::to_owned).with_context(|| format!("`{name}` needs a value"))
        };
        match name {
            "id" => self.ids.push(text()?),
            "parent" | "parents" => self.parents.push(text()?),
            "description" | "description~" => self.words.push(text()?),
            "type" => {
                let kind = text()?;
                anyhow::ensure!(KINDS.contains(&kind.as_str()), "`{kind}` is none of {}", KINDS.join(", "));
                self.kinds.push(kind);
            }
            "inuse" => self.in_use = Some(yes()?),
            "shared" => self.shared = Some(yes()?),
            "private" => self.shared = Some(!yes()?),
            "until" | "unused-for" => self.before = Some(before(&text()?, now)?.into()),
            _ => anyhow::bail!("there are id, parent, type, description, until, inuse, shared and private"),
        }
        Ok(())
    }

    /// Tells whether an entry is meant.
    pub(crate) fn accepts(&self, entry: &CacheEntry) -> bool {
        let any =
            |wanted: &[String], holds: &dyn Fn(&str) -> bool| wanted.is_empty() || wanted.iter().any(|w| holds(w));
        any(&self.ids, &|id| entry.id.starts_with(id))
            && any(&self.parents, &|id| entry.parent.as_ref().is_some_and(|parent| parent.starts_with(id)))
            && any(&self.kinds, &|kind| entry.kind.as_str() == kind)
            && any(&self.words, &|word| entry.about.contains(word))
            && self.in_use.is_none_or(|in_use| entry.in_use == in_use)
            && self.shared.is_none_or(|shared| entry.shared == shared)
            && self.before.is_none_or(|before| entry.last_used < before)
    }

    /// Tells whether a type was asked for.
    pub(crate) fn names_kind(&self, kind: &str) -> bool {
        self.kinds.iter().any(|wanted| wanted == kind)
    }
}

/// Reads `24h`, `1h30m`, a moment, or seconds since 1970.
pub(crate) fn before(text: &str, now: Timestamp) -> anyhow::Result<Timestamp> {
    if let Ok(age) = text.parse::<SignedDuration>() {
        anyhow::ensure!(!age.is_negative(), "`{text}` is in the future");
        return now.checked_sub(age).with_context(|| format!("`{text}` is before all time"));
    }
    if let Some(moment) = text.parse().ok().and_then(|seconds| Timestamp::from_second(seconds).ok()) {
        return Ok(moment);
    }
    let moment: Timestamp =
        text.parse().map_err(|_| anyhow::anyhow!("`{text}` is neither an age such as `24h` nor a moment"))?;
    Ok(moment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_is_refused() {
        let now: Timestamp = "2026-11-20T12:00:00Z".parse().expect("valid");
        let parse = |text: &str| parse(&[text.to_owned()], now);
        let moment = |text: &str| SystemTime::from(text.parse::<Timestamp>().expect("valid"));
        assert_eq!(parse("until=24h").expect("valid").before, Some(moment("2026-11-19T12:00:00Z")));
        assert_eq!(parse("until=1h30m").expect("valid").before, Some(moment("2026-11-20T10:30:00Z")));
        assert_eq!(parse("until=2026-01-01T00:00:00Z").expect("valid").before, Some(moment("2026-01-01T00:00:00Z")));
        assert!(parse("until=0,type=regular").expect("valid").before.is_some());
        for bad in ["until", "until=", "until=soon", "until=-1h", "type=x", "colour=red", "inuse=maybe", "id=", ""] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
