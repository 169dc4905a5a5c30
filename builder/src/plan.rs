//! [`Plan`]: the stages of a Dockerfile, and finding one by what the user calls it.

use std::ops::Range;

use crate::dockerfile::{Dockerfile, FromStage, Instruction, Statement};
use crate::fault::Fault;

/// The stages of a Dockerfile.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    /// What stands before the first `FROM`: `ARG`s that `FROM` lines may use.
    pub(crate) global: &'a [Statement],
    /// The stages, in order; never empty.
    pub(crate) stages: Vec<Stage<'a>>,
}

/// From one `FROM` to the next.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    /// Its place in the file, from 0.
    pub(crate) index: usize,
    /// The `FROM`.
    pub(crate) from: &'a FromStage,
    /// The `FROM` with its place.
    pub(crate) statement: &'a Statement,
    /// What follows it.
    pub(crate) statements: &'a [Statement],
}

/// What `--from` means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    /// A stage that comes before.
    Stage(usize),
    /// A stage that comes later, or this one.
    Later(usize),
    /// A number that no stage has.
    NoSuchIndex,
    /// No stage: an image.
    Other,
}

impl<'a> Plan<'a> {
    /// Splits a Dockerfile into its stages.
    pub(crate) fn of(dockerfile: &'a Dockerfile) -> Result<Self, Fault> {
        let statements = &dockerfile.statements;
        let starts: Vec<usize> =
            (0..statements.len()).filter(|at| matches!(statements[*at].instruction, Instruction::From(_))).collect();
        let Some(first) = starts.first() else {
            return Err(Fault::new("dockerfile contains no stages to build").hint("a stage begins with `FROM image`"));
        };
        let ends = starts.iter().skip(1).copied().chain([statements.len()]);
        let ranges: Vec<Range<usize>> = starts.iter().zip(ends).map(|(start, end)| *start..end).collect();
        let mut stages = Vec::new();
        for (index, range) in ranges.into_iter().enumerate() {
            let statement = &statements[range.start];
            if let Instruction::From(from) = &statement.instruction {
                stages.push(Stage { index, from, statement, statements: &statements[range.start + 1..range.end] });
            }
        }
        Ok(Self { global: &statements[..*first], stages })
    }

    /// Finds the stage to build.
    ///
    /// A number finds a stage without a name only: BuildKit knows a stage that has a name by that name alone.
    pub(crate) fn target(&self, target: Option<&str>) -> Result<usize, Fault> {
        let Some(target) = target.filter(|target| !target.is_empty()) else { return Ok(self.stages.len() - 1) };
        let unnamed = |index: &usize| self.stages.get(*index).is_some_and(|stage| stage.from.name.is_none());
        if let Some(index) = self.named(target, self.stages.len()).or_else(|| target.parse().ok().filter(unnamed)) {
            return Ok(index);
        }
        let names: Vec<&str> = self.stages.iter().filter_map(|stage| stage.from.name.as_deref()).collect();
        let fault = Fault::new(format!("target stage \"{target}\" could not be found"));
        Err(match (nearest(&target.to_lowercase(), &names), names.is_empty()) {
            (Some(name), _) => fault.hint(format!("did you mean `{name}`?")),
            (None, false) => fault.hint(format!("the stages are {}", names.join(", "))),
            (None, true) => fault.hint("no stage of this Dockerfile has a name"),
        })
    }

    /// Finds the last stage of a name before the stage `before`.
    pub(crate) fn named(&self, name: &str, before: usize) -> Option<usize> {
        let name = name.to_lowercase();
        self.stages[..before]
            .iter()
            .rev()
            .find(|stage| stage.from.name.as_deref() == Some(&name))
            .map(|stage| stage.index)
    }

    /// Finds the stage that the `FROM` of the stage `here` names. BuildKit keeps names in lower case, and here, other than
    /// in `--from`, they have to be written like that.
    pub(crate) fn base(&self, name: &str, here: usize) -> Option<usize> {
        self.named(name, here).filter(|_| name == name.to_lowercase())
    }

    /// Finds what `--from` means in the stage `here`.
    pub(crate) fn from(&self, name: &str, here: usize) -> From {
        if let Ok(index) = name.parse::<i64>() {
            return match usize::try_from(index).ok().filter(|index| *index < self.stages.len()) {
                Some(index) if index < here => From::Stage(index),
                Some(index) => From::Later(index),
                None => From::NoSuchIndex,
            };
        }
        match self.named(name, here) {
            Some(index) => From::Stage(index),
            None => self.named(name, self.stages.len()).map_or(From::Other, From::Later),
        }
    }

    /// Returns what messages call a stage.
    pub(crate) fn name(&self, index: usize) -> String {
        self.stages[index].from.name.clone().unwrap_or_else(|| format!("stage-{index}"))
    }
}

/// Returns the candidate that was probably meant.
pub(crate) fn nearest<'a>(typed: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let limit = (typed.chars().count() / 3).max(1);
    let distances = candidates.iter().map(|candidate| (distance(typed, candidate), *candidate));
    distances.filter(|(distance, _)| *distance <= limit + 1).min().map(|(_, candidate)| candidate)
}

/// Counts the edits between two words; two neighbors that changed places are one.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_that_was_meant_is_found() {
        assert_eq!(nearest("bulid", &["build", "test"]), Some("build"));
        assert_eq!(nearest("xyz", &["build", "test"]), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
