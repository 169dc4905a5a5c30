//! Directives: the `# key=value` lines that may only stand at the top of a file.

use super::instruction::{Directive, Directives, Escape};

/// The keys there are; any other ends the directives.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Key {
    Syntax,
    Escape,
    Check,
}

impl Key {
    fn name(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::Escape => "escape",
            Self::Check => "check",
        }
    }
}

/// Reads directives line by line, until the first line that is none.
#[derive(Default)]
pub(super) struct DirectiveLines {
    seen: Vec<Key>,
    ended: bool,
}

/// A directive as it was read.
pub(super) struct FoundDirective {
    key: Key,
    value: String,
}

impl FoundDirective {
    /// Returns the escape character that the directive sets, if it is that one.
    pub(super) fn escape(&self) -> Option<Result<Escape, String>> {
        (self.key == Key::Escape).then(|| match self.value.as_str() {
            "\\" => Ok(Escape::Backslash),
            "`" => Ok(Escape::Backtick),
            other => Err(format!("invalid escape token '{other}' does not match ` or \\")),
        })
    }
}

impl DirectiveLines {
    /// Stops looking for directives.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    /// Reads a line without blanks before it; an error is a directive that was there before.
    pub(super) fn line(&mut self, line: &[u8]) -> Result<Option<FoundDirective>, String> {
        self.line_after(line, b"#")
    }

    fn line_after(&mut self, line: &[u8], comment: &[u8]) -> Result<Option<FoundDirective>, String> {
        if self.ended {
            return Ok(None);
        }
        let Some(found) = line.strip_prefix(comment).and_then(directive) else {
            self.ended = true;
            return Ok(None);
        };
        if self.seen.contains(&found.key) {
            return Err(format!("only one {} parser directive can be used", found.key.name()));
        }
        self.seen.push(found.key);
        Ok(Some(found))
    }
}

fn directive(text: &[u8]) -> Option<FoundDirective> {
    let text = String::from_utf8_lossy(text);
    let (key, value) = text.trim_start().split_once('=')?;
    let blank = |c: char| matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0C');
    let key = key.trim_end_matches(blank);
    let key = match key.to_ascii_lowercase().as_str() {
        "syntax" => Key::Syntax,
        "escape" => Key::Escape,
        "check" => Key::Check,
        _ => return None,
    };
    let value = value.trim_matches(blank);
    (!value.is_empty()).then(|| FoundDirective { key, value: value.to_owned() })
}

/// Finds `syntax` and `check` the way frontends are chosen: a `#!` line may come first, and `syntax` may also
/// stand in a `//` comment or a JSON object.
pub(super) fn detect(text: &[u8], escape: Escape) -> Directives {
    let text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text);
    let skip_first = text.starts_with(b"#!");
    let find = |key: Key, comment: &[u8]| {
        let mut lines = DirectiveLines::default();
        for (index, line) in text.split(|&byte| byte == b'\n').enumerate().skip(usize::from(skip_first)) {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            match lines.line_after(line, comment) {
                Ok(Some(found)) if found.key == key => {
                    let line = u32::try_from(index + 1).unwrap_or(u32::MAX);
                    return Some(Directive { value: found.value, line });
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        None
    };
    let syntax = find(Key::Syntax, b"#").or_else(|| find(Key::Syntax, b"//")).or_else(|| json_syntax(text));
    Directives { syntax, check: find(Key::Check, b"#"), escape }
}

fn json_syntax(text: &[u8]) -> Option<Directive> {
    if text.trim_ascii_start().first() != Some(&b'{') {
        return None;
    }
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(text).ok()?;
    let value = object.get("syntax")?.as_str()?.to_owned();
    Some(Directive { value, line: 1 })
}
