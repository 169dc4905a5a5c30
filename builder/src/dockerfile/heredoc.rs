//! Which words of a line are heredocs.

use super::expand::{self, ExpandError};
use super::instruction::Heredoc;

/// Returns the heredocs that a line announces, without their bodies.
///
/// A line whose quotes do not match announces none.
pub(super) fn announced(line: &str) -> Result<Vec<Heredoc>, ExpandError> {
    let Ok(words) = expand::raw_words(line) else { return Ok(Vec::new()) };
    words.iter().filter_map(|word| heredoc(word).transpose()).collect()
}

/// Reads `3<<-"NAME"`; `None` when the word is something else.
pub(super) fn heredoc(word: &str) -> Result<Option<Heredoc>, ExpandError> {
    let digits = word.bytes().take_while(u8::is_ascii_digit).count();
    let Some(rest) = word[digits..].strip_prefix("<<") else { return Ok(None) };
    let (chomp, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let delimiter = rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0C']);
    if delimiter.is_empty() || delimiter.contains('<') {
        return Ok(None);
    }
    let mut names = expand::literal_words(delimiter, false)?;
    let quoted = expand::literal_words(delimiter, true)?;
    let (Some(name), true) = (names.pop(), names.is_empty()) else { return Ok(None) };
    let quotes = |text: &str| text.bytes().filter(|byte| matches!(byte, b'\'' | b'"')).count();
    let file_descriptor = match digits {
        0 => 0,
        digits => word[..digits].parse().unwrap_or(u64::MAX),
    };
    Ok(Some(Heredoc {
        expand: quotes(&name) == quoted.first().map_or(0, |quoted| quotes(quoted)),
        name,
        file_descriptor,
        chomp,
        content: Vec::new(),
    }))
}
