//! Flags of an instruction, checked against those that the word takes.

use std::ops::Range;

use super::frame::Part;
use super::suggest;

/// Why an instruction is refused, and where in its line.
#[derive(Debug, Default)]
pub(super) struct Refusal {
    pub(super) message: String,
    pub(super) range: Option<Range<usize>>,
    pub(super) suggestion: Option<String>,
    pub(super) hint: Option<String>,
}

impl From<String> for Refusal {
    fn from(message: String) -> Self {
        Self { message, ..Self::default() }
    }
}

impl From<&str> for Refusal {
    fn from(message: &str) -> Self {
        Self::from(message.to_owned())
    }
}

/// What a flag takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// Nothing, `true` or `false`.
    Truth,
    /// One value.
    Value,
    /// A value each time.
    Values,
}

/// The flags of one instruction.
pub(super) struct Flags<'a>(Vec<Flag<'a>>);

struct Flag<'a> {
    name: &'static str,
    value: &'a str,
    part: &'a Part,
}

impl<'a> Flags<'a> {
    /// Checks flags against those allowed.
    pub(super) fn check(parts: &'a [Part], allowed: &[(&'static str, Takes)]) -> Result<Self, Refusal> {
        let mut flags = Self(Vec::with_capacity(parts.len()));
        for part in parts {
            let (written, value) = match part.text.split_once('=') {
                Some((written, value)) => (written, Some(value)),
                None => (part.text.as_str(), None),
            };
            let refuse = |message| Err(Refusal { range: Some(part.range.clone()), ..Refusal::from(message) });
            let bare = written.strip_prefix("--").unwrap_or(written);
            let Some(&(name, takes)) = allowed.iter().find(|(name, _)| *name == bare) else {
                let suggestion = suggest::closest(bare, allowed.iter().map(|(name, _)| *name)).map(str::to_owned);
                let message = format!("unknown flag: {written}");
                return Err(Refusal { message, range: Some(part.range.clone()), suggestion, hint: None });
            };
            if takes != Takes::Values && flags.0.iter().any(|flag| flag.name == name) {
                return refuse(format!("duplicate flag specified: {written}"));
            }
            let value = match (takes, value) {
                (Takes::Truth, None) => "true",
                (Takes::Truth, Some("")) | (Takes::Value | Takes::Values, None) => {
                    return refuse(format!("missing a value on flag: {written}"));
                }
                (Takes::Truth, Some(value)) if value.eq_ignore_ascii_case("true") => "true",
                (Takes::Truth, Some(value)) if value.eq_ignore_ascii_case("false") => "false",
                (Takes::Truth, Some(value)) => {
                    return refuse(format!("expecting boolean value for flag {written}, not: {value}"));
                }
                (Takes::Value | Takes::Values, Some(value)) => value,
            };
            flags.0.push(Flag { name, value, part });
        }
        Ok(flags)
    }

    /// Returns a value; an empty one is as good as none.
    pub(super) fn value(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|flag| flag.name == name).map(|flag| flag.value).filter(|value| !value.is_empty())
    }

    /// Returns a value as an owned text.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.value(name).map(str::to_owned)
    }

    /// Returns where a flag stands.
    pub(super) fn range(&self, name: &str) -> Option<Range<usize>> {
        self.0.iter().find(|flag| flag.name == name).map(|flag| flag.part.range.clone())
    }

    /// Returns a switch; `None` when it was not written.
    pub(super) fn truth(&self, name: &str) -> Option<bool> {
        self.value(name).map(|value| value == "true")
    }

    /// Returns all values of a flag that may stand several times, each with its place.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = (&'a str, Range<usize>)> {
        self.0.iter().filter(move |flag| flag.name == name).map(|flag| (flag.value, flag.part.range.clone()))
    }
}
