//! Variables and quotes: what a word of a Dockerfile means in an environment.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::instruction::Escape;

/// Where variables are looked up.
pub trait Lookup {
    /// Returns the value, or `None` when the variable is not set.
    fn lookup(&self, name: &str) -> Option<&str>;
}

impl Lookup for BTreeMap<String, String> {
    fn lookup(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

impl Lookup for HashMap<String, String> {
    fn lookup(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

/// The last of a name wins.
impl Lookup for [(String, String)] {
    fn lookup(&self, name: &str) -> Option<&str> {
        self.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// The last of a name wins.
impl Lookup for Vec<(String, String)> {
    fn lookup(&self, name: &str) -> Option<&str> {
        self.as_slice().lookup(name)
    }
}

/// A text after expansion, with the names it used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expanded {
    /// The text.
    pub text: String,
    /// The variables that were set.
    pub used: BTreeSet<String>,
    /// The variables that were looked up and not set.
    pub unset: BTreeSet<String>,
}

/// Why a text cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to process `{text}`: {reason}")]
pub struct ExpandError {
    /// The text.
    pub text: String,
    /// What is wrong with it, as BuildKit words it.
    pub reason: String,
}

/// Expands variables and removes quotes; the result is one word, whatever blanks it has.
pub fn word(text: &str, variables: &dyn Lookup, escape: Escape) -> Result<String, ExpandError> {
    word_with_names(text, variables, escape).map(|expanded| expanded.text)
}

/// [`word`], telling also which variables were used and which were not set.
pub fn word_with_names(text: &str, variables: &dyn Lookup, escape: Escape) -> Result<Expanded, ExpandError> {
    Lexer::new(text, variables, Mode::plain(escape)).expand()
}

/// Expands variables, splits at blanks that are not quoted, and removes quotes.
///
/// A value that is not quoted is split too; words that come out empty are dropped.
pub fn words(text: &str, variables: &dyn Lookup, escape: Escape) -> Result<Vec<String>, ExpandError> {
    words_with_names(text, variables, escape).map(|(words, _)| words)
}

/// [`words`], telling also which variables were used and which were not set; the text is that before splitting.
pub fn words_with_names(
    text: &str,
    variables: &dyn Lookup,
    escape: Escape,
) -> Result<(Vec<String>, Expanded), ExpandError> {
    Lexer::new(text, variables, Mode::plain(escape)).split()
}

/// Expands the variables of a heredoc's body: quotes stay, and `\` is the escape in every file.
pub fn content(text: &str, variables: &dyn Lookup) -> Result<Expanded, ExpandError> {
    let mode = Mode { quotes: Quotes::Ordinary, ..Mode::plain(Escape::Backslash) };
    Lexer::new(text, variables, mode).expand()
}

/// Splits a line as [`words`] does but leaves quotes, escapes and variables as they stand.
pub(super) fn raw_words(text: &str) -> Result<Vec<String>, ExpandError> {
    let mode = Mode { escape: '\\', quotes: Quotes::Kept, keep_escapes: true, keep_unset: true };
    Lexer::new(text, &NoVariables, mode).split().map(|(words, _)| words)
}

/// Splits a text and leaves variables as they stand, with or without its quotes.
pub(super) fn literal_words(text: &str, keep_quotes: bool) -> Result<Vec<String>, ExpandError> {
    let quotes = if keep_quotes { Quotes::Kept } else { Quotes::Removed };
    let mode = Mode { escape: '\\', quotes, keep_escapes: false, keep_unset: true };
    Lexer::new(text, &NoVariables, mode).split().map(|(words, _)| words)
}

/// An environment without variables.
struct NoVariables;

impl Lookup for NoVariables {
    fn lookup(&self, _: &str) -> Option<&str> {
        None
    }
}

/// More than any image needs; less than a file of doubling variables would take.
const LONGEST_RESULT: usize = 16 << 20;
/// How deep `${a:-${b:-…}}` may go.
const DEEPEST_NESTING: usize = 64;

/// What quotes do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quotes {
    /// They quote, and are not in the result.
    Removed,
    /// They quote, and are in the result.
    Kept,
    /// They are characters as any other.
    Ordinary,
}

#[derive(Clone, Copy)]
struct Mode {
    escape: char,
    quotes: Quotes,
    /// Whether escape characters are in the result.
    keep_escapes: bool,
    /// Whether a variable that is not set stays as it was written.
    keep_unset: bool,
}

impl Mode {
    fn plain(escape: Escape) -> Self {
        Self { escape: escape.char(), quotes: Quotes::Removed, keep_escapes: false, keep_unset: false }
    }
}

/// Splits a result into words as it grows.
#[derive(Default)]
struct Splitter {
    done: Vec<String>,
    current: String,
}

impl Splitter {
    fn split(&mut self, text: &str) {
        for c in text.chars() {
            if !c.is_whitespace() {
                self.current.push(c);
            } else if !self.current.is_empty() {
                self.done.push(std::mem::take(&mut self.current));
            }
        }
    }

    fn finish(mut self) -> Vec<String> {
        if !self.current.is_empty() {
            self.done.push(self.current);
        }
        self.done
    }
}

struct Lexer<'a> {
    text: &'a str,
    position: usize,
    variables: &'a dyn Lookup,
    mode: Mode,
    depth: usize,
    used: BTreeSet<String>,
    unset: BTreeSet<String>,
}

impl<'a> Lexer<'a> {
    fn new(text: &'a str, variables: &'a dyn Lookup, mode: Mode) -> Self {
        // A byte order mark at the front is not text.
        let position = if text.starts_with('\u{FEFF}') { '\u{FEFF}'.len_utf8() } else { 0 };
        Self { text, position, variables, mode, depth: 0, used: BTreeSet::new(), unset: BTreeSet::new() }
    }

    fn expand(mut self) -> Result<Expanded, ExpandError> {
        let text = self.until(None, self.mode.keep_escapes, None).map_err(|reason| self.error(reason))?;
        Ok(Expanded { text, used: self.used, unset: self.unset })
    }

    fn split(mut self) -> Result<(Vec<String>, Expanded), ExpandError> {
        let mut splitter = Splitter::default();
        let keep_escapes = self.mode.keep_escapes;
        let text = self.until(None, keep_escapes, Some(&mut splitter)).map_err(|reason| self.error(reason))?;
        Ok((splitter.finish(), Expanded { text, used: self.used, unset: self.unset }))
    }

    fn error(&self, reason: String) -> ExpandError {
        const SHOWN: usize = 200;
        let mut text: String = self.text.chars().take(SHOWN).collect();
        if text.len() < self.text.len() {
            text.push('…');
        }
        ExpandError { text, reason }
    }

    fn peek(&self) -> Option<char> {
        self.text[self.position..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.position += c.len_utf8();
        Some(c)
    }

    fn at_end(&self) -> bool {
        self.position == self.text.len()
    }

    /// Reads up to a character that is not quoted, and past it; without one to the end of the text.
    fn until(
        &mut self,
        stop: Option<char>,
        keep_escapes: bool,
        mut words: Option<&mut Splitter>,
    ) -> Result<String, String> {
        let outer = std::mem::replace(&mut self.mode.keep_escapes, keep_escapes);
        let mut result = String::new();
        while let Some(c) = self.peek() {
            let before = result.len();
            let mut splits = false;
            if Some(c) == stop {
                self.next();
                self.mode.keep_escapes = outer;
                return Ok(result);
            }
            match c {
                '$' => {
                    self.dollar(&mut result)?;
                    splits = true;
                }
                '<' => self.angle(&mut result),
                '\'' if self.mode.quotes != Quotes::Ordinary => self.single_quoted(&mut result)?,
                '"' if self.mode.quotes != Quotes::Ordinary => self.double_quoted(&mut result)?,
                c if c == self.mode.escape => {
                    self.next();
                    if keep_escapes {
                        result.push(c);
                    }
                    // At the end of the text it escapes nothing, and is dropped.
                    result.extend(self.next());
                }
                c => {
                    self.next();
                    result.push(c);
                    splits = true;
                }
            }
            if let Some(words) = words.as_deref_mut() {
                match splits {
                    true => words.split(&result[before..]),
                    false => words.current.push_str(&result[before..]),
                }
            }
            if result.len() > LONGEST_RESULT {
                return Err(format!("the result is longer than {} MiB", LONGEST_RESULT >> 20));
            }
        }
        match stop {
            Some(stop) => Err(format!("unexpected end of statement while looking for matching {stop}")),
            None => Ok(result),
        }
    }

    /// Reads `<`, or `<<` with the blanks after it, which do not end the word of a heredoc.
    fn angle(&mut self, result: &mut String) {
        let start = self.position;
        self.next();
        if self.peek() == Some('<') {
            self.next();
            while matches!(self.peek(), Some('\t' | '\r' | ' ')) {
                self.next();
            }
        }
        result.push_str(&self.text[start..self.position]);
    }

    fn single_quoted(&mut self, result: &mut String) -> Result<(), String> {
        let start = self.position;
        let length = self.text[start + 1..]
            .find('\'')
            .ok_or("unexpected end of statement while looking for matching single-quote")?;
        self.position = start + 1 + length + 1;
        result.push_str(match self.mode.quotes {
            Quotes::Kept => &self.text[start..self.position],
            Quotes::Removed | Quotes::Ordinary => &self.text[start + 1..self.position - 1],
        });
        Ok(())
    }

    fn double_quoted(&mut self, result: &mut String) -> Result<(), String> {
        let kept = self.mode.quotes == Quotes::Kept;
        self.next();
        if kept {
            result.push('"');
        }
        loop {
            match self.peek() {
                None => return Err("unexpected end of statement while looking for matching double-quote".to_owned()),
                Some('"') => {
                    self.next();
                    if kept {
                        result.push('"');
                    }
                    return Ok(());
                }
                Some('$') => self.dollar(result)?,
                Some(c) if c == self.mode.escape => {
                    self.next();
                    if self.mode.keep_escapes {
                        result.push(c);
                    }
                    match self.peek() {
                        None => {}
                        Some(escaped) if matches!(escaped, '"' | '$') || escaped == c => {
                            self.next();
                            result.push(escaped);
                        }
                        // The escape of anything else is a character of its own.
                        Some(_) => result.push(c),
                    }
                }
                Some(c) => {
                    self.next();
                    result.push(c);
                }
            }
        }
    }

    /// Looks a variable up, and notes that.
    fn value(&mut self, name: &str) -> Option<&'a str> {
        let value = self.variables.lookup(name);
        match value {
            Some(_) => &mut self.used,
            None => &mut self.unset,
        }
        .insert(name.to_owned());
        value
    }

    /// Reads `$name`, `${…}` or a lone `$`.
    fn dollar(&mut self, result: &mut String) -> Result<(), String> {
        self.next();
        if self.peek() == Some('{') {
            self.next();
            if self.depth == DEEPEST_NESTING {
                return Err(format!("substitutions are nested more than {DEEPEST_NESTING} deep"));
            }
            self.depth += 1;
            self.braces(result)?;
            self.depth -= 1;
            return Ok(());
        }
        match self.name() {
            "" => result.push('$'),
            name => match self.value(name) {
                Some(value) => result.push_str(value),
                None if self.mode.keep_unset => {
                    result.push('$');
                    result.push_str(name);
                }
                None => {}
            },
        }
        Ok(())
    }

    /// Reads a name, the digits of a positional parameter, or a special parameter.
    fn name(&mut self) -> &'a str {
        let rest = &self.text[self.position..];
        let first = rest.chars().next();
        let length = match first {
            Some(c) if c.is_ascii_digit() => rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len()),
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => 1,
            _ => rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len()),
        };
        self.position += length;
        &rest[..length]
    }

    /// Reads what follows `${`.
    fn braces(&mut self, result: &mut String) -> Result<(), String> {
        const UNTERMINATED: &str = "syntax error: missing '}'";
        match self.peek() {
            None => return Err(UNTERMINATED.to_owned()),
            Some('{' | '}' | ':') => return Err("syntax error: bad substitution".to_owned()),
            Some(_) => {}
        }
        let name = self.name();
        let start = self.position;
        match self.next().ok_or(UNTERMINATED)? {
            '}' => match self.value(name) {
                Some(value) => result.push_str(value),
                None if self.mode.keep_unset => result.extend(["${", name, "}"]),
                None => {}
            },
            '/' => self.replacement(name, result)?,
            c @ (':' | '+' | '-' | '?' | '#' | '%') => {
                let empty_is_unset = c == ':';
                let operator = if empty_is_unset { self.next().ok_or(UNTERMINATED)? } else { c };
                let written = &self.text[start..self.position];
                let trims = matches!(operator, '#' | '%');
                if trims && empty_is_unset {
                    return Err(format!("unsupported modifier ({written}) in substitution"));
                }
                let word = self.until(Some('}'), trims, None).map_err(|reason| self.or_missing(reason, '}'))?;
                let value = self.value(name);
                if value.is_none() && self.mode.keep_unset {
                    result.extend(["${", name, written, &word, "}"]);
                    return Ok(());
                }
                result.push_str(&substitute(name, value, operator, empty_is_unset, &word, written)?);
            }
            c => return Err(format!("unsupported modifier ({c}) in substitution")),
        }
        Ok(())
    }

    /// Reads what follows `${name/`.
    fn replacement(&mut self, name: &str, result: &mut String) -> Result<(), String> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let pattern = self.until(Some('/'), true, None).map_err(|reason| match self.at_end() {
            true => "syntax error: missing '/' in ${}".to_owned(),
            false => reason,
        })?;
        let replacement = self.until(Some('}'), true, None).map_err(|reason| self.or_missing(reason, '}'))?;
        let value = self.value(name);
        if value.is_none() && self.mode.keep_unset {
            result.extend(["${", name, "/", &pattern, "/", &replacement, "}"]);
            return Ok(());
        }
        let parsed = Pattern::parse(&pattern)?;
        result.push_str(&parsed.replace(value.unwrap_or_default(), &replacement, all)?);
        Ok(())
    }

    fn or_missing(&self, reason: String, what: char) -> String {
        if self.at_end() { format!("syntax error: missing '{what}'") } else { reason }
    }
}

/// Returns what `${name<operator>word}` stands for.
fn substitute(
    name: &str,
    value: Option<&str>,
    operator: char,
    empty_is_unset: bool,
    word: &str,
    written: &str,
) -> Result<String, String> {
    let present = value.filter(|value| !(empty_is_unset && value.is_empty()));
    Ok(match (operator, present) {
        ('-', Some(value)) => value.to_owned(),
        ('-', None) => word.to_owned(),
        ('+', Some(_)) => word.to_owned(),
        ('+', None) => String::new(),
        ('?', Some(value)) => value.to_owned(),
        ('?', None) => {
            let problem = match value {
                _ if !word.is_empty() => word,
                None => "is not allowed to be unset",
                Some(_) => "is not allowed to be empty",
            };
            return Err(format!("{name}: {problem}"));
        }
        (side @ ('#' | '%'), _) => {
            // Twice the operator takes the longest match away.
            let (pattern, longest) = match word.strip_prefix(side) {
                Some(pattern) => (pattern, true),
                None => (word, false),
            };
            let parsed = Pattern::parse(pattern)?;
            let value = value.unwrap_or_default();
            if side == '#' { parsed.trim_start(value, longest)? } else { parsed.trim_end(value, longest)? }
        }
        _ => return Err(format!("unsupported modifier ({written}) in substitution")),
    })
}

/// A pattern of a substitution: `*`, `?`, `\` escapes, and nothing else.
struct Pattern(Vec<Token>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    /// Any characters but a line feed.
    Star,
    /// One character but a line feed.
    Any,
    Literal(char),
}

/// Which of several matches is meant.
#[derive(Clone, Copy)]
enum Prefer {
    Longest,
    Shortest,
}

/// Bounds the work of one match: tokens times characters.
const LARGEST_MATCH: usize = 1 << 27;
const NO_MATCH: usize = usize::MAX;

impl Pattern {
    fn parse(text: &str) -> Result<Self, String> {
        let mut tokens = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' => Token::Star,
                '?' => Token::Any,
                '\\' => match chars.peek() {
                    // These must be escaped in `${}`, and are nothing special here.
                    Some('}' | '/') => continue,
                    Some(&c @ ('*' | '?' | '\\')) => {
                        chars.next();
                        Token::Literal(c)
                    }
                    other => {
                        let escape = other.map_or("\\".to_owned(), |c| format!("\\{c}"));
                        return Err(format!("invalid pattern ({text}) in substitution: invalid escape '{escape}'"));
                    }
                },
                c => Token::Literal(c),
            });
        }
        Ok(Self(tokens))
    }

    /// Returns where a match that starts at each offset ends, `NO_MATCH` where there is none.
    fn ends(&self, value: &[char], prefer: Prefer) -> Result<Vec<usize>, String> {
        let tokens = &self.0;
        if tokens.len().saturating_mul(value.len()) > LARGEST_MATCH {
            return Err("the pattern and the value are too long".to_owned());
        }
        let better = |a: usize, b: usize| match (a, b) {
            (NO_MATCH, other) | (other, NO_MATCH) => other,
            (a, b) => match prefer {
                Prefer::Longest => a.max(b),
                Prefer::Shortest => a.min(b),
            },
        };
        // `row[t]` is where the tokens from `t` on end when they start at the current offset.
        let mut row = vec![NO_MATCH; tokens.len() + 1];
        let mut next = row.clone();
        let mut ends = vec![NO_MATCH; value.len() + 1];
        for offset in (0..=value.len()).rev() {
            std::mem::swap(&mut row, &mut next);
            row[tokens.len()] = offset;
            let c = value.get(offset).copied();
            for (index, token) in tokens.iter().enumerate().rev() {
                row[index] = match (token, c) {
                    (Token::Star, Some(c)) if c != '\n' => better(row[index + 1], next[index]),
                    (Token::Star, _) => row[index + 1],
                    (Token::Any, Some(c)) if c != '\n' => next[index + 1],
                    (Token::Literal(literal), Some(c)) if *literal == c => next[index + 1],
                    (Token::Any | Token::Literal(_), _) => NO_MATCH,
                };
            }
            ends[offset] = row[0];
        }
        Ok(ends)
    }

    fn trim_start(&self, value: &str, longest: bool) -> Result<String, String> {
        let chars: Vec<char> = value.chars().collect();
        let end = self.ends(&chars, if longest { Prefer::Longest } else { Prefer::Shortest })?[0];
        Ok(chars[if end == NO_MATCH { 0 } else { end }..].iter().collect())
    }

    fn trim_end(&self, value: &str, longest: bool) -> Result<String, String> {
        let reversed = Self(self.0.iter().rev().copied().collect());
        let backwards: String = value.chars().rev().collect();
        Ok(reversed.trim_start(&backwards, longest)?.chars().rev().collect())
    }

    /// Replaces the first match, or all of them from the left; each is as long as it can be.
    fn replace(&self, value: &str, replacement: &str, all: bool) -> Result<String, String> {
        let chars: Vec<char> = value.chars().collect();
        let ends = self.ends(&chars, Prefer::Longest)?;
        let mut result = String::new();
        let mut copied = 0;
        let mut start = 0;
        while let Some(found) = (start..ends.len()).find(|&offset| ends[offset] != NO_MATCH) {
            let end = ends[found];
            result.extend(&chars[copied..found]);
            // An empty match right after another is part of that one.
            if end > copied || found == 0 {
                result.push_str(replacement);
            }
            copied = end;
            start = end.max(found + 1);
            if !all {
                break;
            }
            if result.len() > LONGEST_RESULT {
                return Err(format!("the result is longer than {} MiB", LONGEST_RESULT >> 20));
            }
        }
        result.extend(&chars[copied..]);
        Ok(result)
    }
}
