//! [`BuildError`]: why there is no image, with the lines of the Dockerfile that are to blame.

use std::ops::RangeInclusive;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

/// Why a build did not make an image.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum BuildError {
    #[error("the build was cancelled")]
    Cancelled,
    #[error("{}", .0.message)]
    Refused(Box<Diagnostic>),
    #[error("{}", .diagnostic.message)]
    ProcessFailed { diagnostic: Box<Diagnostic>, exit_code: i32 },
}

impl BuildError {
    /// Returns what is known about the place of the error.
    pub fn diagnostic(&self) -> Option<&Diagnostic> {
        match self {
            Self::Cancelled => None,
            Self::Refused(diagnostic) | Self::ProcessFailed { diagnostic, .. } => Some(diagnostic),
        }
    }

    /// Draws the error with the lines of the Dockerfile around it, as rustc does; several lines without a newline at the
    /// end. What the process printed last stands before the line that begins with `error: `.
    pub fn render(&self, color: bool) -> String {
        match self.diagnostic() {
            Some(diagnostic) => diagnostic.render(color),
            None => format!("error: {self}"),
        }
    }
}

/// A message with its place in the Dockerfile.
#[derive(Clone, Debug, Default)]
pub struct Diagnostic {
    /// What went wrong: lower case, no full stop.
    pub message: String,
    /// The Dockerfile, as messages call it.
    pub file: String,
    /// Its text, from which the lines are shown; shared, not copied.
    pub text: Arc<str>,
    /// The lines to blame, from 1; `None` when no line is.
    pub lines: Option<RangeInclusive<usize>>,
    /// The bytes to underline, within `text`; the lines when `None`.
    pub bytes: Option<std::ops::Range<usize>>,
    /// What led to it, outermost first.
    pub causes: Vec<String>,
    /// The last lines that the step printed.
    pub log: Vec<String>,
    /// What the user can do.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// Draws the message with the lines of the Dockerfile around it.
    pub fn render(&self, color: bool) -> String {
        let mut title = String::new();
        for line in &self.log {
            title.push_str(" > ");
            title.push_str(&printable(line));
            title.push('\n');
        }
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let primary = Level::ERROR.primary_title(self.message.as_str());
        let mut group = match self.blamed() {
            Some(bytes) => {
                let around = self.around(&bytes).into_iter().map(|line| AnnotationKind::Visible.span(line));
                let annotations = std::iter::once(AnnotationKind::Primary.span(bytes)).chain(around);
                Group::with_title(primary)
                    .element(Snippet::source(&*self.text).path(self.file.as_str()).annotations(annotations))
            }
            None => Group::with_title(primary),
        };
        for cause in &self.causes {
            group = group.element(Level::NOTE.with_name("caused by").message(cause.as_str()));
        }
        if let Some(hint) = &self.hint {
            group = group.element(Level::HELP.with_name("hint").message(hint.as_str()));
        }
        title + &renderer.render(&[group])
    }

    /// Returns a place in each of the lines that stand around the blamed ones.
    fn around(&self, blamed: &std::ops::Range<usize>) -> Vec<std::ops::Range<usize>> {
        const LINES: usize = 2;
        let before = self.text[..blamed.start].match_indices('\n').rev().take(LINES).map(|(at, _)| at..at);
        let after = self.text[blamed.end..].match_indices('\n').take(LINES).map(|(at, _)| blamed.end + at + 1);
        let after = after.filter(|at| *at < self.text.len()).map(|at| at..at);
        before.chain(after).collect()
    }

    /// Returns the bytes to underline, on the boundaries of characters and without the line's end.
    fn blamed(&self) -> Option<std::ops::Range<usize>> {
        let bytes = match (&self.bytes, &self.lines) {
            (Some(bytes), _) => bytes.clone(),
            (None, Some(lines)) => {
                let mut starts =
                    std::iter::once(0).chain(memchr::memchr_iter(b'\n', self.text.as_bytes()).map(|at| at + 1));
                let start = starts.clone().nth(lines.start().checked_sub(1)?)?;
                let end = starts.nth(*lines.end()).map_or(self.text.len(), |next| next - 1);
                start..end
            }
            (None, None) => return None,
        };
        let valid = bytes.start <= bytes.end
            && bytes.end <= self.text.len()
            && self.text.is_char_boundary(bytes.start)
            && self.text.is_char_boundary(bytes.end);
        valid.then_some(bytes)
    }
}

/// Keeps control characters of a log from reaching a terminal through an error.
fn printable(line: &str) -> String {
    line.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}
