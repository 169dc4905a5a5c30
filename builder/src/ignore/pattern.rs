//! One pattern of a list: how it is matched, by the rules of moby's patternmatcher.

use super::glob::{self, BadPattern, decode};
use super::program::Program;

/// A pattern, cleaned and without its `!`.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    text: Vec<u8>,
    how: How,
}

/// The cheapest way that gives the right answer.
#[derive(Debug, Clone)]
enum How {
    /// The pattern is the path.
    Exact,
    /// `x**`: the path starts with what is before the stars.
    Prefix,
    /// `**x`: the path ends with what is after the stars; `**/x` is also `x`.
    Suffix,
    Program(Program),
}

impl Pattern {
    /// Takes a pattern apart.
    pub(super) fn parse(text: &[u8]) -> Result<Self, BadPattern> {
        glob::check(text)?;
        Ok(Self { text: text.to_vec(), how: translate(text)? })
    }

    /// Returns the pattern as text.
    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    /// Tells whether a path matches, as a whole.
    pub(super) fn matches(&self, path: &[u8]) -> bool {
        match &self.how {
            How::Exact => path == self.text,
            How::Prefix => path.starts_with(&self.text[..self.text.len() - 2]),
            How::Suffix => {
                let suffix = &self.text[2..];
                path.ends_with(suffix) || suffix.strip_prefix(b"/") == Some(path)
            }
            How::Program(program) => program.matches(path),
        }
    }

    /// Tells whether a path below a folder could match. May say yes where none can.
    pub(super) fn may_match_below(&self, folder: &[u8]) -> bool {
        let folder = [folder, b"/"].concat();
        match &self.how {
            How::Exact => self.text.starts_with(&folder),
            How::Prefix => {
                let prefix = &self.text[..self.text.len() - 2];
                prefix.starts_with(&folder) || folder.starts_with(prefix)
            }
            How::Suffix => true,
            How::Program(program) => program.may_match_below(&folder),
        }
    }
}

/// Chooses how to match, and writes the regular expression that moby would compile.
///
/// It is written out as text because its meaning for odd patterns (a `*` in a class, an escaped letter) is that of
/// the text.
fn translate(pattern: &[u8]) -> Result<How, BadPattern> {
    let mut chars = Characters(pattern.strip_prefix("\u{FEFF}".as_bytes()).unwrap_or(pattern));
    let mut expression = "^".to_owned();
    let mut how = How::Exact;
    let mut needs_program = false;
    let mut first = true;
    while let Some(c) = chars.next() {
        match c {
            '*' if chars.peek() == Some('*') => {
                chars.next();
                if chars.peek() == Some('/') {
                    chars.next();
                }
                if chars.peek().is_some() {
                    expression.push_str("(.*/)?");
                    needs_program = true;
                } else if matches!(how, How::Exact) && !needs_program {
                    how = How::Prefix;
                } else {
                    expression.push_str(".*");
                    needs_program = true;
                }
                if first {
                    (how, needs_program) = (How::Suffix, false);
                }
            }
            '*' => {
                expression.push_str("[^/]*");
                needs_program = true;
            }
            '?' => {
                expression.push_str("[^/]");
                needs_program = true;
            }
            // Of the special characters `|`, `{` and `}` keep their meaning; that was hardly meant, but is what is.
            '.' | '+' | '(' | ')' | '$' => expression.extend(['\\', c]),
            '\\' => {
                expression.push('\\');
                if let Some(escaped) = chars.next() {
                    expression.push(escaped);
                    needs_program = true;
                }
            }
            '[' | ']' => {
                expression.push(c);
                needs_program = true;
            }
            c => expression.push(c),
        }
        first = false;
    }
    if needs_program {
        expression.push('$');
        how = How::Program(Program::compile(&expression)?);
    }
    Ok(how)
}

/// The characters of bytes that need not be UTF-8.
struct Characters<'a>(&'a [u8]);

impl Characters<'_> {
    fn peek(&self) -> Option<char> {
        decode(self.0).map(|(c, _)| c)
    }

    fn next(&mut self) -> Option<char> {
        let (c, length) = decode(self.0)?;
        self.0 = &self.0[length..];
        Some(c)
    }
}
