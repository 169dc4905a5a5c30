//! Lines of a file: physical ones, and logical ones with their continuations joined.

use std::ops::Range;

use super::directives::DirectiveLines;
use super::instruction::{Escape, Heredoc, ParseError, Span};

/// The longest physical line, without its end. BuildKit's limit, kept so that both accept the same files.
const LONGEST_LINE: usize = 65_535;

/// A line of the file as it stands there.
#[derive(Clone, Copy)]
struct Physical<'a> {
    /// With its line end.
    bytes: &'a [u8],
    /// Where it starts in the file.
    start: usize,
}

/// Reads logical lines and heredoc bodies from a file.
pub(super) struct Lines<'a> {
    text: &'a [u8],
    position: usize,
    /// The number of the last line read, counted from 1.
    number: u32,
    directives: DirectiveLines,
    escape: Escape,
    comments: Vec<String>,
}

/// An instruction's line: continued lines joined, comments and blank lines left out.
pub(super) struct Logical {
    /// The text, not trimmed at its end. Bytes that are not UTF-8 are U+FFFD.
    pub(super) text: String,
    /// The first and last line so far, and the bytes they take.
    pub(super) span: Span,
    /// The comments right above.
    pub(super) comments: Vec<String>,
    /// The first blank line inside, with a continuation before it.
    pub(super) blank_line: Option<u32>,
    /// Ascending; from one to the next the offsets run in step.
    pieces: Vec<Piece>,
}

/// Where a part of a logical line comes from.
struct Piece {
    /// The offset in the logical line.
    logical: usize,
    /// The offset in the file.
    source: usize,
    /// The line of the file.
    line: u32,
}

impl Logical {
    /// Returns the bytes of the file that a part of the text was read from.
    pub(super) fn place(&self, part: Range<usize>) -> Range<usize> {
        let start = self.place_of(part.start);
        if part.end <= part.start {
            return start..start;
        }
        start..(self.place_of(part.end - 1) + 1).max(start).min(self.span.bytes.end.max(start))
    }

    /// Returns the span of a part that is not empty.
    pub(super) fn narrow(&self, part: Range<usize>) -> Span {
        let line = |offset| self.piece(offset).map_or(self.span.first_line, |piece| piece.line);
        Span { first_line: line(part.start), last_line: line(part.end.saturating_sub(1)), bytes: self.place(part) }
    }

    fn place_of(&self, offset: usize) -> usize {
        match self.piece(offset) {
            Some(piece) => (piece.source + (offset - piece.logical)).min(self.span.bytes.end),
            None => self.span.bytes.start,
        }
    }

    fn piece(&self, offset: usize) -> Option<&Piece> {
        let after = self.pieces.partition_point(|piece| piece.logical <= offset);
        self.pieces.get(after.checked_sub(1)?)
    }

    /// Appends bytes that start at `source` in the file.
    fn push(&mut self, bytes: &[u8], source: usize, line: u32) {
        let mut at = source;
        for chunk in bytes.utf8_chunks() {
            if !chunk.valid().is_empty() {
                self.pieces.push(Piece { logical: self.text.len(), source: at, line });
                self.text.push_str(chunk.valid());
                at += chunk.valid().len();
            }
            for _ in chunk.invalid() {
                self.pieces.push(Piece { logical: self.text.len(), source: at, line });
                self.text.push(char::REPLACEMENT_CHARACTER);
                at += 1;
            }
        }
    }
}

impl<'a> Lines<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self {
            text,
            position: 0,
            number: 0,
            directives: DirectiveLines::default(),
            escape: Escape::default(),
            comments: Vec::new(),
        }
    }

    pub(super) fn escape(&self) -> Escape {
        self.escape
    }

    /// Returns where the reader stands: the last line read.
    pub(super) fn here(&self) -> Span {
        let line = self.number.max(1);
        Span { first_line: line, last_line: line, bytes: self.position..self.position }
    }

    /// Returns the next line that is neither blank, a comment nor a directive, with what continues it.
    pub(super) fn next_logical(&mut self) -> Result<Option<Logical>, ParseError> {
        loop {
            let Some(line) = self.next_physical()? else { return Ok(None) };
            let Some((bytes, start)) = self.first_line(line)? else { continue };
            let (kept, mut continued) = self.without_continuation(bytes);
            let mut logical = Logical {
                text: String::new(),
                span: Span { first_line: self.number, last_line: self.number, bytes: start..start + bytes.len() },
                comments: std::mem::take(&mut self.comments),
                blank_line: None,
                pieces: Vec::new(),
            };
            logical.push(kept, start, self.number);
            while continued {
                let Some(line) = self.next_physical()? else { break };
                continued = self.continuation(line, &mut logical);
            }
            return Ok(Some(logical));
        }
    }

    /// Takes what matters of a line that may start an instruction.
    fn first_line(&mut self, line: Physical<'a>) -> Result<Option<(&'a [u8], usize)>, ParseError> {
        let mut bytes = line.bytes;
        if self.number == 1 {
            bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
        }
        let whole = trim_line_end(bytes);
        let bytes = trim_start(whole);
        let start = line.start + (trim_line_end(line.bytes).len() - bytes.len());
        match self.directives.line(bytes) {
            Ok(None) => {}
            Ok(Some(directive)) => {
                if let Some(escape) = directive.escape() {
                    self.escape = escape.map_err(|message| self.refuse(message, start, bytes.len()))?;
                }
                return Ok(None);
            }
            Err(message) => return Err(self.refuse(message, start, bytes.len())),
        }
        if bytes.first() == Some(&b'#') {
            let comment = String::from_utf8_lossy(&bytes[1..]);
            match comment.trim() {
                "" => self.comments.clear(),
                text => self.comments.push(text.to_owned()),
            }
            return Ok(None);
        }
        Ok((!bytes.is_empty()).then_some((bytes, start)))
    }

    /// Appends a line after a continued one; returns whether it is continued as well.
    fn continuation(&mut self, line: Physical<'a>, logical: &mut Logical) -> bool {
        self.directives.end();
        let bytes = trim_line_end(line.bytes);
        let content = trim_start(bytes);
        if content.first() == Some(&b'#') {
            return true;
        }
        logical.span.last_line = self.number;
        logical.span.bytes.end = line.start + bytes.len();
        if content.is_empty() {
            logical.blank_line.get_or_insert(self.number);
            return true;
        }
        let (kept, continued) = self.without_continuation(bytes);
        logical.push(kept, line.start, self.number);
        continued
    }

    /// Cuts the escape character, and blanks after it, from a line's end; returns whether there was one.
    ///
    /// An escaped escape character is none, but the third of three is not looked at.
    fn without_continuation(&self, line: &'a [u8]) -> (&'a [u8], bool) {
        let escape = self.escape.byte();
        let blanks = line.iter().rev().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        match &line[..line.len() - blanks] {
            [kept @ .., last] if *last == escape && kept.last() != Some(&escape) => (kept, true),
            _ => (line, false),
        }
    }

    /// Reads the body of a heredoc up to its terminator; returns false when the file ends before.
    pub(super) fn heredoc_body(&mut self, heredoc: &mut Heredoc, span: &mut Span) -> Result<bool, ParseError> {
        while let Some(line) = self.next_physical()? {
            let text = trim_line_end(line.bytes);
            span.last_line = self.number;
            span.bytes.end = line.start + text.len();
            let tabs = if heredoc.chomp { text.iter().take_while(|&&byte| byte == b'\t').count() } else { 0 };
            if &text[tabs..] == heredoc.name.as_bytes() {
                return Ok(true);
            }
            heredoc.content.extend_from_slice(line.bytes);
        }
        Ok(false)
    }

    fn next_physical(&mut self) -> Result<Option<Physical<'a>>, ParseError> {
        let rest = &self.text[self.position..];
        if rest.is_empty() {
            return Ok(None);
        }
        let start = self.position;
        self.number += 1;
        let window = &rest[..rest.len().min(LONGEST_LINE + 1)];
        let (end, length) = match memchr::memchr(b'\n', window) {
            Some(newline) => (newline + 1, newline),
            None => (window.len(), window.len()),
        };
        if length > LONGEST_LINE {
            let message = format!("dockerfile line greater than max allowed size of {LONGEST_LINE}");
            return Err(self.refuse(message, start, 0));
        }
        self.position += end;
        Ok(Some(Physical { bytes: &rest[..end], start }))
    }

    fn refuse(&self, message: String, start: usize, length: usize) -> ParseError {
        ParseError {
            message,
            span: Span { first_line: self.number, last_line: self.number, bytes: start..start + length },
            suggestion: None,
            hint: None,
        }
    }
}

fn trim_line_end(line: &[u8]) -> &[u8] {
    let ends = line.iter().rev().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    &line[..line.len() - ends]
}

/// Cuts blanks, Unicode's included, from the front of bytes that need not be UTF-8.
fn trim_start(line: &[u8]) -> &[u8] {
    if line.first().is_some_and(|byte| (0x21..0x7F).contains(byte)) {
        return line;
    }
    let Some(chunk) = line.utf8_chunks().next() else { return line };
    let blanks = chunk.valid().len() - chunk.valid().trim_start().len();
    &line[blanks..]
}
