//! The exec form: arguments as a JSON array of strings.

use std::ops::Range;

use super::frame::Part;

/// What a text is that might be an exec form.
pub(super) enum JsonForm {
    /// An array of strings.
    Strings(Vec<Part>),
    /// An array with something else in it, which is an error.
    NotStrings,
    /// Anything else, which is taken for the shell form.
    NotJson,
}

/// Reads a text as an exec form; `offset` is where it stands in its line.
pub(super) fn read(text: &str, offset: usize) -> JsonForm {
    let trimmed = text.trim_start();
    if !trimmed.starts_with('[') {
        return JsonForm::NotJson;
    }
    if let Some(strings) = strings(trimmed, offset + (text.len() - trimmed.len())) {
        return JsonForm::Strings(strings);
    }
    match serde_json::from_str::<Vec<serde::de::IgnoredAny>>(trimmed) {
        Ok(values) if !values.is_empty() => JsonForm::NotStrings,
        Ok(_) | Err(_) => JsonForm::NotJson,
    }
}

fn strings(text: &str, offset: usize) -> Option<Vec<Part>> {
    let mut reader = Reader { text: text.as_bytes(), position: 1 };
    let mut found = Vec::new();
    reader.blanks();
    if !reader.take(b']') {
        loop {
            reader.blanks();
            let (string, range) = reader.string(text)?;
            found.push(Part { text: string, range: offset + range.start..offset + range.end });
            reader.blanks();
            if reader.take(b']') {
                break;
            }
            if !reader.take(b',') {
                return None;
            }
        }
    }
    reader.blanks();
    (reader.position == text.len()).then_some(found)
}

struct Reader<'a> {
    text: &'a [u8],
    position: usize,
}

impl Reader<'_> {
    fn blanks(&mut self) {
        while matches!(self.text.get(self.position), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.position += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.text.get(self.position) == Some(&byte);
        self.position += usize::from(found);
        found
    }

    /// Reads a string with its quotes.
    fn string(&mut self, text: &str) -> Option<(String, Range<usize>)> {
        let start = self.position;
        if !self.take(b'"') {
            return None;
        }
        let mut string = String::new();
        loop {
            let rest = text.get(self.position..)?;
            let plain = rest.find(|c: char| c == '"' || c == '\\' || c < ' ')?;
            string.push_str(&rest[..plain]);
            self.position += plain;
            match self.text[self.position] {
                b'"' => {
                    self.position += 1;
                    return Some((string, start..self.position));
                }
                b'\\' => {
                    self.position += 1;
                    string.push(self.escaped()?);
                }
                _ => return None,
            }
        }
    }

    fn escaped(&mut self) -> Option<char> {
        let byte = *self.text.get(self.position)?;
        self.position += 1;
        Some(match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{C}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let first = self.hex4()?;
                if (0xD800..0xDC00).contains(&first) && self.text[self.position..].starts_with(b"\\u") {
                    let after_first = self.position;
                    self.position += 2;
                    let second = self.hex4()?;
                    if (0xDC00..0xE000).contains(&second) {
                        let code = 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
                        return char::from_u32(code);
                    }
                    self.position = after_first;
                }
                // Half of a surrogate pair stands for nothing; Go writes U+FFFD.
                char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            _ => return None,
        })
    }

    fn hex4(&mut self) -> Option<u32> {
        let digits = self.text.get(self.position..self.position + 4)?;
        self.position += 4;
        digits.iter().try_fold(0, |code, &digit| Some(code * 16 + char::from(digit).to_digit(16)?))
    }
}
