//! A logical line taken apart: the word, its flags and its arguments, by the rules of each word.

use std::ops::Range;

use super::instruction::Escape;
use super::json_form::{self, JsonForm};

/// A piece of a logical line, and the bytes of that line it was read from.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) text: String,
    pub(super) range: Range<usize>,
}

/// A line taken apart.
pub(super) struct Frame {
    pub(super) word: Part,
    pub(super) flags: Vec<Part>,
    pub(super) arguments: Vec<Part>,
    pub(super) json: bool,
    /// Of `ONBUILD`.
    pub(super) trigger: Option<Box<Frame>>,
}

/// What is wrong with a line, and where in it.
pub(super) struct Problem {
    pub(super) message: String,
    pub(super) range: Option<Range<usize>>,
}

impl Frame {
    /// Tells whether the word is this one (in lower case).
    pub(super) fn is(&self, word: &str) -> bool {
        self.word.text.eq_ignore_ascii_case(word)
    }

    /// Tells whether `<<NAME` in the line is a heredoc.
    pub(super) fn takes_heredocs(&self) -> bool {
        let inner = match &self.trigger {
            Some(trigger) if self.is("onbuild") => trigger,
            _ => self,
        };
        !inner.json && ["add", "copy", "run"].iter().any(|word| inner.is(word))
    }
}

/// Deep chains of `ONBUILD` are refused later anyway; this keeps them off the stack.
const DEEPEST_TRIGGER: usize = 8;

/// Takes a line apart.
pub(super) fn frame(line: &str, escape: Escape) -> Result<Frame, Problem> {
    frame_at(line, 0, escape, 0)
}

fn frame_at(line: &str, offset: usize, escape: Escape, depth: usize) -> Result<Frame, Problem> {
    let (line, offset) = trimmed(line, offset);
    let word_end = line.find(is_separator).unwrap_or(line.len());
    let word = Part { text: line[..word_end].to_owned(), range: offset..offset + word_end };
    let rest_start = word_end + (line.len() - word_end - line[word_end..].trim_start_matches(is_separator).len());
    let (flags, rest_start) = flags(line, rest_start, offset, escape);
    let (rest, at) = trimmed(&line[rest_start..], offset + rest_start);
    let mut frame = Frame { word, flags, arguments: Vec::new(), json: false, trigger: None };
    let plain = |text: &str| match text {
        "" => Vec::new(),
        text => vec![Part { text: text.to_owned(), range: at..at + text.len() }],
    };
    match frame.word.text.to_ascii_lowercase().as_str() {
        "add" | "copy" | "volume" => match json(rest, at)? {
            Some(arguments) => (frame.json, frame.arguments) = (true, arguments),
            None => frame.arguments = separated(rest, at),
        },
        "cmd" | "entrypoint" | "run" | "shell" => match json(rest, at)? {
            Some(arguments) => (frame.json, frame.arguments) = (true, arguments),
            None => frame.arguments = plain(rest),
        },
        "healthcheck" => {
            let kind_end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            frame.arguments = plain(&rest[..kind_end]);
            let (command, at) = trimmed(&rest[kind_end..], at + kind_end);
            match json(command, at)? {
                Some(arguments) => {
                    frame.json = true;
                    frame.arguments.extend(arguments);
                }
                None if command.is_empty() => {}
                None => frame.arguments.push(Part { text: command.to_owned(), range: at..at + command.len() }),
            }
        }
        "arg" => frame.arguments = quoted_words(rest, at, escape),
        "env" => frame.arguments = pairs(rest, at, "ENV", escape)?,
        "label" => frame.arguments = pairs(rest, at, "LABEL", escape)?,
        "expose" | "from" => frame.arguments = separated(rest, at),
        "maintainer" | "stopsignal" | "user" | "workdir" => frame.arguments = plain(rest),
        "onbuild" if !rest.is_empty() => {
            if depth == DEEPEST_TRIGGER {
                let message = "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".to_owned();
                return Err(Problem { message, range: Some(at..at + rest.len()) });
            }
            frame.trigger = Some(Box::new(frame_at(rest, at, escape, depth + 1)?));
        }
        "onbuild" => {}
        // The typed layer refuses what is unknown, so that all words are checked the same way; a trigger's word is
        // looked at only where it fires.
        _ => frame.arguments.push(Part { text: String::new(), range: at..at }),
    }
    Ok(frame)
}

/// Blanks that separate words; not Unicode's, and not a line feed, which cannot be in a line.
fn is_separator(c: char) -> bool {
    matches!(c, '\t' | '\x0B' | '\x0C' | '\r' | ' ')
}

/// Blanks around flags: ASCII's. Flags are read by bytes in BuildKit, so that no other blank ends them.
fn is_blank(c: char) -> bool {
    is_separator(c) || c == '\n'
}

fn trimmed(text: &str, offset: usize) -> (&str, usize) {
    let start = text.trim_start();
    (start.trim_end(), offset + (text.len() - start.len()))
}

fn json(text: &str, offset: usize) -> Result<Option<Vec<Part>>, Problem> {
    match json_form::read(text, offset) {
        JsonForm::Strings(strings) => Ok(Some(strings)),
        JsonForm::NotJson => Ok(None),
        JsonForm::NotStrings => Err(Problem {
            message: "when using JSON array syntax, arrays must be comprised of strings only".to_owned(),
            range: Some(offset..offset + text.len()),
        }),
    }
}

fn separated(text: &str, offset: usize) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut position = 0;
    while position < text.len() {
        let end = text[position..].find(is_separator).map_or(text.len(), |length| position + length);
        parts.push(Part { text: text[position..end].to_owned(), range: offset + position..offset + end });
        position = text.len() - text[end..].trim_start_matches(is_separator).len();
    }
    parts
}

/// Reads the `--` words at the front; returns them without quotes, and where the rest starts.
fn flags(line: &str, start: usize, offset: usize, escape: Escape) -> (Vec<Part>, usize) {
    let mut flags = Vec::new();
    let mut position = start;
    loop {
        position = line.len() - line[position..].trim_start_matches(is_blank).len();
        if !line[position..].starts_with("--") {
            return (flags, position);
        }
        let word_start = position;
        let mut text = String::new();
        let mut was_quoted = false;
        let mut quote = None;
        let mut chars = line[position..].char_indices();
        let mut end = line.len();
        while let Some((index, c)) = chars.next() {
            match quote {
                None if is_blank(c) => {
                    end = position + index;
                    break;
                }
                None if matches!(c, '\'' | '"') => (quote, was_quoted) = (Some(c), true),
                Some(open) if c == open => quote = None,
                // Inside single quotes too, unlike a shell. At the end of the line it means nothing.
                _ if c == escape.char() => text.extend(chars.next().map(|(_, c)| c)),
                _ => text.push(c),
            }
        }
        position = end;
        if text == "--" {
            return (flags, position);
        }
        if was_quoted || !text.is_empty() {
            flags.push(Part { text, range: offset + word_start..offset + end });
        }
    }
}

/// Splits at blanks that are neither quoted nor escaped. Quotes and escapes stay for the expansion.
fn quoted_words(text: &str, offset: usize, escape: Escape) -> Vec<Part> {
    let mut words = Vec::new();
    let mut position = 0;
    loop {
        position = text.len() - text[position..].trim_start().len();
        if position == text.len() {
            return words;
        }
        let start = position;
        let mut word = String::new();
        let mut quote = None;
        let mut end = text.len();
        let mut chars = text[position..].char_indices();
        while let Some((index, c)) = chars.next() {
            if c == escape.char() && quote != Some('\'') {
                if let Some((_, escaped)) = chars.next() {
                    word.push(c);
                    word.push(escaped);
                }
                continue;
            }
            match quote {
                None if c.is_whitespace() => {
                    end = position + index;
                    break;
                }
                None if matches!(c, '\'' | '"') => quote = Some(c),
                Some(open) if c == open => quote = None,
                _ => {}
            }
            word.push(c);
        }
        position = end;
        if !word.is_empty() {
            words.push(Part { text: word, range: offset + start..offset + end });
        }
    }
}

/// Reads `name=value …`, or the old `name the rest`, as name, value and separator in turns.
fn pairs(text: &str, offset: usize, name: &str, escape: Escape) -> Result<Vec<Part>, Problem> {
    let words = quoted_words(text, offset, escape);
    let Some(first) = words.first() else { return Ok(Vec::new()) };
    if !first.text.contains('=') {
        let Some(end) = text.find(is_separator) else {
            let message = format!("{name} must have two arguments");
            return Err(Problem { message, range: Some(first.range.clone()) });
        };
        let value = text[end..].trim_start_matches(is_separator);
        let value_start = offset + text.len() - value.len();
        return Ok(vec![
            Part { text: text[..end].to_owned(), range: offset..offset + end },
            Part { text: value.to_owned(), range: value_start..value_start + value.len() },
            Part { text: String::new(), range: offset + end..offset + end },
        ]);
    }
    let mut parts = Vec::with_capacity(words.len() * 3);
    for word in words {
        let Some((key, value)) = word.text.split_once('=') else {
            let message = format!("Syntax error - can't find = in {:?}. Must be of the form: name=value", word.text);
            return Err(Problem { message, range: Some(word.range) });
        };
        let equals = (word.range.start + key.len()).min(word.range.end);
        parts.push(Part { text: key.to_owned(), range: word.range.start..equals });
        parts.push(Part { text: value.to_owned(), range: (equals + 1).min(word.range.end)..word.range.end });
        parts.push(Part { text: "=".to_owned(), range: equals..(equals + 1).min(word.range.end) });
    }
    Ok(parts)
}
