//! What all views of a build keep: its steps, in the order of the Dockerfile, and its warnings.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use builder::{Outcome, PlannedStep, StepId};

use crate::terminal;

/// A step as far as it has come.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// What `#` it has, from 1.
    pub(crate) number: usize,
    /// As BuildKit shows it.
    pub(crate) name: String,
    /// When it began.
    pub(crate) started: Option<Instant>,
    /// How it ended, and how long it took.
    pub(crate) ended: Option<(Outcome, Duration)>,
    /// The last lines that it printed, for views that show them.
    pub(crate) tail: Vec<String>,
    /// The steps that it takes from.
    pub(crate) needs: Vec<StepId>,
    /// The size of the layers that it made.
    pub(crate) bytes: u64,
}

impl Step {
    fn new(number: usize, name: String, needs: Vec<StepId>) -> Self {
        Self { number, name, started: None, ended: None, tail: Vec::new(), needs, bytes: 0 }
    }
}

/// All steps of a build.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    /// In the order of the Dockerfile.
    pub(crate) all: Vec<Step>,
    index: HashMap<StepId, usize>,
    warnings: Vec<String>,
}

impl Steps {
    /// Adds steps that are planned.
    pub(crate) fn plan(&mut self, steps: &[PlannedStep]) {
        for step in steps {
            let number = self.all.len() + 1;
            self.index.insert(step.id, self.all.len());
            // Some names have several lines: a heredoc.
            let name = terminal::printable(step.name.split('\n').next().unwrap_or_default());
            self.all.push(Step::new(number, name, step.needs.clone()));
        }
    }

    /// Finds a step; one that was not planned gets its number now.
    pub(crate) fn get(&mut self, id: StepId) -> &mut Step {
        let next = self.all.len();
        let at = *self.index.entry(id).or_insert(next);
        if at == next {
            let name = format!("step {}", id.0);
            self.all.push(Step::new(next + 1, name, Vec::new()));
        }
        &mut self.all[at]
    }

    /// Notes what a step made. What an image brings is not made by its `FROM`, and some steps are not shown.
    pub(crate) fn made(&mut self, id: StepId, bytes: u64) {
        if let Some(step) = self.index.get(&id).map(|at| &mut self.all[*at])
            && !step.name.contains("] FROM ")
        {
            step.bytes = bytes;
        }
    }

    /// Returns the steps that one waits for.
    pub(crate) fn waits_for(&self, step: &Step) -> Vec<&Step> {
        let needed = step.needs.iter().filter_map(|need| self.all.get(*self.index.get(need)?));
        needed.filter(|need| need.ended.is_none()).collect()
    }

    /// Counts the steps that ended, and all.
    pub(crate) fn count(&self) -> (usize, usize) {
        (self.all.iter().filter(|step| step.ended.is_some()).count(), self.all.len())
    }

    /// Keeps a warning for the end; the same one is kept once.
    pub(crate) fn warn(&mut self, message: &str, lines: Option<&RangeInclusive<usize>>) {
        let text = match lines {
            Some(lines) => format!("{message} (line {})", lines.start()),
            None => message.to_owned(),
        };
        let text = terminal::printable(&text);
        if !self.warnings.contains(&text) {
            self.warnings.push(text);
        }
    }

    /// Returns the text that is shown at the end for the warnings, if there are any.
    pub(crate) fn warnings(&self) -> Option<String> {
        let count = self.warnings.len();
        let title = match count {
            0 => return None,
            1 => "1 warning:".to_owned(),
            _ => format!("{count} warnings:"),
        };
        Some(
            std::iter::once(title)
                .chain(self.warnings.iter().map(|text| format!(" - {text}")))
                .collect::<Vec<_>>()
                .join("\n"),
        )
    }
}

/// Bytes that a step printed, cut into lines; the last one may wait for its end.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    pending: Vec<u8>,
}

impl Lines {
    /// Takes bytes, and returns the lines that are whole now, without what would draw on a terminal. A carriage return starts the line anew, as on a terminal.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        /// A line without an end is shown in pieces.
        const LONGEST: usize = 16 << 10;
        let mut lines = Vec::new();
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.pending.extend_from_slice(part);
            if part.ends_with(b"\n") || self.pending.len() > LONGEST {
                lines.push(self.take());
            }
        }
        lines
    }

    /// Returns what waits for an end, when there is any.
    pub(crate) fn rest(&mut self) -> Option<String> {
        (!self.pending.is_empty()).then(|| self.take())
    }

    fn take(&mut self) -> String {
        let line = std::mem::take(&mut self.pending);
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let start = line.iter().rposition(|&byte| byte == b'\r').map_or(0, |at| at + 1);
        terminal::printable(&String::from_utf8_lossy(&line[start..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_lines_wherever_they_are_cut() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(b"a\nb"), ["a"]);
        assert_eq!(lines.push(b"c\r\n10%\r20%\r"), ["bc"]);
        assert_eq!(lines.push(b"done\n"), ["done"]);
        assert_eq!(lines.rest(), None);
        lines.push(b"end");
        assert_eq!(lines.rest().as_deref(), Some("end"));
    }

    #[test]
    fn names_output_and_warnings_cannot_draw_on_the_terminal() {
        let mut steps = Steps::default();
        let name = "RUN echo \x1b[2Jx\nmore".into();
        steps.plan(&[PlannedStep {
            id: StepId(0),
            name,
            needs: Vec::new(),
            below: None,
            lines: None,
            surroundings: None,
            mounts: Vec::new(),
        }]);
        assert_eq!(steps.get(StepId(0)).name, "RUN echo x");
        steps.warn("\x1b]0;title\x07odd", None);
        assert_eq!(steps.warnings().as_deref(), Some("1 warning:\n - odd"));
        assert_eq!(Lines::default().push(b"\x1b[31mred\x1b[0m\x07\n"), ["red"]);
    }

    #[test]
    fn the_same_warning_is_shown_once() {
        let mut steps = Steps::default();
        steps.warn("odd", Some(&(3..=3)));
        steps.warn("odd", Some(&(3..=3)));
        assert_eq!(steps.warnings().as_deref(), Some("1 warning:\n - odd (line 3)"));
    }
}
