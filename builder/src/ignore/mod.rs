//! `.dockerignore` and `--exclude`: which paths a list of patterns takes out.
//!
//! The rules are those of moby's patternmatcher, oddities included: a pattern
//! is anchored at the root, takes out what is below a folder that it matches,
//! and the last pattern that matches wins; `!` puts back in.
//!
//! | File | Owns |
//! | --- | --- |
//! | [`glob`] | wildcards of `COPY` sources, and which patterns are well formed |
//! | `pattern` | one pattern, and whether a path matches it |

pub mod glob;

mod pattern;
mod program;

#[cfg(test)]
mod tests;

use pattern::Pattern;

/// A list of exclusion patterns; the last that matches wins.
#[derive(Debug, Clone, Default)]
pub struct Ignore {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone)]
struct Rule {
    pattern: Pattern,
    /// Whether it was written with a `!`.
    exception: bool,
    line: Option<u32>,
}

/// Why a list of patterns is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum IgnoreError {
    #[error("illegal exclusion pattern: \"!\"")]
    EmptyException { line: Option<u32> },
    #[error("syntax error in pattern `{pattern}`")]
    BadPattern { pattern: String, line: Option<u32> },
}

impl IgnoreError {
    /// Returns the line it is on, counted from 1, where the patterns came from a file.
    pub fn line(&self) -> Option<u32> {
        match self {
            Self::EmptyException { line } | Self::BadPattern { line, .. } => *line,
        }
    }
}

/// What a folder and its ancestors matched, passed down a walk.
#[derive(Debug, Clone, Default)]
pub struct Matched {
    /// A bit a rule; empty above the root.
    rules: Box<[u64]>,
    /// The rule that decided, the last that matched.
    decided: Option<usize>,
}

impl Matched {
    fn has(&self, rule: usize) -> bool {
        self.rules.get(rule / 64).is_some_and(|bits| bits >> (rule % 64) & 1 == 1)
    }

    /// Returns what is known of a path without its own match: nothing but its parent's.
    fn child(rules: usize) -> Self {
        Self { rules: vec![0; rules.div_ceil(64)].into(), decided: None }
    }
}

/// Why a path is in or out, for `slipway debug dockerignore`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it is out.
    pub excluded: bool,
    /// The pattern that decided, cleaned, with its `!`; `None` when none matched.
    pub pattern: Option<String>,
    /// The line of that pattern.
    pub line: Option<u32>,
}

impl Ignore {
    /// Reads the text of a `.dockerignore`.
    pub fn parse(text: &[u8]) -> Result<Self, IgnoreError> {
        let text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text);
        let mut ignore = Self::default();
        for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
            // Only at the very front of a line; after a blank it is a pattern.
            if line.first() == Some(&b'#') {
                continue;
            }
            let number = u32::try_from(index + 1).unwrap_or(u32::MAX);
            let line = trim(line);
            let (exception, path) = match line.strip_prefix(b"!") {
                Some(rest) => (true, trim(rest)),
                None => (false, line),
            };
            let mut pattern = if exception { b"!".to_vec() } else { Vec::new() };
            if !path.is_empty() {
                let clean = glob::clean(path);
                pattern.extend(match clean.as_slice() {
                    [b'/', rest @ ..] if !rest.is_empty() => rest,
                    whole => whole,
                });
            }
            ignore.push(&pattern, Some(number))?;
        }
        Ok(ignore)
    }

    /// Takes patterns that are not lines of a file, such as `COPY --exclude`.
    pub fn from_patterns<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, IgnoreError> {
        let mut ignore = Self::default();
        for pattern in patterns {
            ignore.push(pattern.as_bytes(), None)?;
        }
        Ok(ignore)
    }

    fn push(&mut self, text: &[u8], line: Option<u32>) -> Result<(), IgnoreError> {
        let text = trim(text);
        if text.is_empty() {
            return Ok(());
        }
        let clean = glob::clean(text);
        let (exception, clean) = match clean.strip_prefix(b"!") {
            Some(b"") => return Err(IgnoreError::EmptyException { line }),
            Some(rest) => (true, rest),
            None => (false, clean.as_slice()),
        };
        let pattern = Pattern::parse(clean).map_err(|glob::BadPattern| IgnoreError::BadPattern {
            pattern: String::from_utf8_lossy(clean).into_owned(),
            line,
        })?;
        self.rules.push(Rule { pattern, exception, line });
        Ok(())
    }

    /// Tells whether there is no pattern at all.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Tells whether there is a pattern that puts something back in.
    pub fn has_exceptions(&self) -> bool {
        self.rules.iter().any(|rule| rule.exception)
    }

    /// Tells whether one pattern alone takes out all that there is.
    pub fn has_all_of_the_root(&self) -> bool {
        let is_all = |rule: &Rule| matches!(rule.pattern.text(), b"*" | b"**" | b"**/*");
        self.rules.iter().any(|rule| !rule.exception && is_all(rule))
    }

    /// Tells whether a path (relative, `/`-separated, clean) is excluded.
    ///
    /// In a walk, [`step`](Self::step) does not match the parents again.
    pub fn excludes(&self, path: &[u8]) -> bool {
        self.matched(path).0
    }

    /// Tells why a path is in or out.
    pub fn verdict(&self, path: &[u8]) -> Verdict {
        let (excluded, matched) = self.matched(path);
        let rule = matched.decided.map(|rule| &self.rules[rule]);
        let pattern = rule.map(|rule| {
            let text = String::from_utf8_lossy(rule.pattern.text());
            if rule.exception { format!("!{text}") } else { text.into_owned() }
        });
        Verdict { excluded, pattern, line: rule.and_then(|rule| rule.line) }
    }

    /// Evaluates a path and its parents, from the root down.
    fn matched(&self, path: &[u8]) -> (bool, Matched) {
        let mut matched = self.root();
        for (index, _) in path.iter().enumerate().filter(|&(index, byte)| index > 0 && *byte == b'/') {
            matched = self.step(&matched, &path[..index]).1;
        }
        self.step(&matched, path)
    }

    /// Returns the state a walk starts with; the root itself is never excluded.
    pub fn root(&self) -> Matched {
        Matched::default()
    }

    /// Evaluates one path of a walk: whether it is excluded and, for a folder, the parent state of what is in it.
    ///
    /// `path` is the whole path from the root of the walk.
    pub fn step(&self, parent: &Matched, path: &[u8]) -> (bool, Matched) {
        let mut excluded = false;
        let mut matched = Matched::child(self.rules.len());
        // "Everything" cannot be said by naming the root.
        if matches!(path, b"" | b".") {
            return (false, matched);
        }
        for (index, rule) in self.rules.iter().enumerate() {
            // A rule that would change nothing is not looked at, and does not count as matched for what is below.
            if parent.has(index) || (rule.exception == excluded && rule.pattern.matches(path)) {
                matched.rules[index / 64] |= 1 << (index % 64);
                matched.decided = Some(index);
                excluded = !rule.exception;
            }
        }
        (excluded, matched)
    }

    /// Tells whether something below an excluded folder could be included again, so that it must be walked.
    ///
    /// `matched` is what [`step`](Self::step) returned for the folder. May say yes where nothing is found.
    pub fn may_include_below(&self, folder: &[u8], matched: &Matched) -> bool {
        // What decided for the folder decides for all below it, unless a later rule says otherwise.
        let later = matched.decided.map_or(0, |decided| decided + 1);
        self.rules[later..].iter().any(|rule| rule.exception && rule.pattern.may_match_below(folder))
    }
}

/// Cuts blanks, Unicode's included, from both ends of bytes that need not be UTF-8.
fn trim(mut text: &[u8]) -> &[u8] {
    if let Some(chunk) = text.utf8_chunks().next() {
        text = &text[chunk.valid().len() - chunk.valid().trim_start().len()..];
    }
    // A character has at most four bytes; the shortest valid end is the last one.
    while let Some(length) = (1..=text.len().min(4)).find(|&length| {
        let last = std::str::from_utf8(&text[text.len() - length..]);
        last.is_ok_and(|last| last.chars().all(char::is_whitespace))
    }) {
        text = &text[..text.len() - length];
    }
    text
}
