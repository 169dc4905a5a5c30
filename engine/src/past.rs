//! Finding a past build, and a step in it, by what people call them.

use store::builds::{BuildRecord, StepOutcome, StepRecord};
use store::{BuildId, FileError, Store};

/// Why there is no such build or step.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum PastError {
    #[error("no build is remembered")]
    None,
    #[error("no such build: `{text}`")]
    NoBuild { text: String },
    #[error("`{text}` may be any of the builds {}", .builds.join(", "))]
    ManyBuilds { text: String, builds: Vec<String> },
    #[error("build {build} has no step `{text}`; it has 1 to {last}")]
    NoStep { build: String, text: String, last: usize },
    #[error("build {build} has no step")]
    NoSteps { build: String },
    #[error("`{text}` may be any of these steps: {}", .steps.join("; "))]
    ManySteps { text: String, steps: Vec<String> },
    #[error(transparent)]
    File(#[from] FileError),
}

/// Finds a build by its ID or the beginning of it; `^0` is the last one, `^1` the one before.
///
/// # Errors
///
/// When there is none, or there are several.
pub fn build(store: &Store, text: &str) -> Result<BuildRecord, PastError> {
    let missing = || PastError::NoBuild { text: text.to_owned() };
    if let Some(back) = text.strip_prefix('^') {
        let back: usize = if back.is_empty() { 0 } else { back.parse().map_err(|_| missing())? };
        let all = store.builds().list()?;
        if all.is_empty() {
            return Err(PastError::None);
        }
        return all.into_iter().nth(back).ok_or_else(missing);
    }
    if let Ok(id) = text.parse::<BuildId>()
        && let Some(record) = store.builds().get(&id)?
    {
        return Ok(record);
    }
    let mut found: Vec<BuildId> = store.builds().ids()?;
    found.retain(|id| !text.is_empty() && id.as_str().starts_with(text));
    found.sort();
    match found.as_slice() {
        [] => Err(missing()),
        [id] => store.builds().get(id)?.ok_or_else(missing),
        many => {
            let builds = many.iter().take(5).map(ToString::to_string).collect();
            Err(PastError::ManyBuilds { text: text.to_owned(), builds })
        }
    }
}

/// Finds a step by its number, the name of a stage (its last step that was worked on), or a part of its instruction.
/// Without text it is the one that failed, else the last one that was worked on.
///
/// # Errors
///
/// When there is none, or there are several.
pub fn step<'a>(build: &'a BuildRecord, text: Option<&str>) -> Result<&'a StepRecord, PastError> {
    let worked_on = |step: &&StepRecord| step.outcome.is_some();
    let Some(text) = text else {
        let failed = build.steps.iter().find(|step| step.outcome == Some(StepOutcome::Failed));
        let last = || build.steps.iter().rev().find(worked_on);
        return failed.or_else(last).ok_or_else(|| PastError::NoSteps { build: build.id.clone() });
    };
    let missing = || PastError::NoStep { build: build.id.clone(), text: text.to_owned(), last: build.steps.len() };
    if let Ok(number) = text.trim_start_matches('#').parse::<usize>() {
        return number.checked_sub(1).and_then(|at| build.steps.get(at)).ok_or_else(missing);
    }
    let of_stage = build.steps.iter().filter(|step| {
        let stage = step.stage();
        stage == text || stage.rsplit_once(' ').is_some_and(|(_, stage)| stage == text)
    });
    let of_stage: Vec<&StepRecord> = of_stage.collect();
    if let Some(last) = of_stage.iter().rev().find(|step| worked_on(step)).or(of_stage.last()) {
        return Ok(last);
    }
    let wanted = text.to_lowercase();
    let found: Vec<&StepRecord> =
        build.steps.iter().filter(|step| step.plan.name.to_lowercase().contains(&wanted)).collect();
    match found.as_slice() {
        [] => Err(missing()),
        [step] => Ok(step),
        many => {
            let line = |step: &&StepRecord| {
                let name = step.plan.name.lines().next().unwrap_or_default();
                format!("{} {name}", step.number)
            };
            Err(PastError::ManySteps { text: text.to_owned(), steps: many.iter().take(5).map(line).collect() })
        }
    }
}

#[cfg(test)]
mod tests {
    use store::builds::{Asked, Entry, StepPlan};

    use super::*;

    fn record() -> (tempfile::TempDir, Store, BuildRecord) {
        let folder = tempfile::tempdir().expect("tempdir");
        let store = Store::open(&folder.path().join("home")).expect("opened");
        for (number, id) in ["abc1", "abd2"].iter().enumerate() {
            let asked = Asked {
                at: jiff::Timestamp::from_second(number as i64).expect("valid"),
                context: ".".into(),
                dockerfile: "Dockerfile".into(),
                tags: Vec::new(),
                target: None,
                platforms: Vec::new(),
            };
            let writer = store.builds().begin(&id.parse().expect("valid"), asked, b"").expect("begun");
            let names = ["[build 1/2] FROM a", "[build 2/2] RUN make", "[linux/arm64 test 1/2] RUN make check"];
            let plans = names.iter().enumerate();
            let steps = plans.map(|(id, name)| StepPlan { id, name: (*name).into(), ..StepPlan::default() });
            writer.add(Entry::Planned { steps: steps.collect() });
            let ended = |step, outcome| Entry::Ended { step, at: 1.0, outcome, error: None };
            writer.add(ended(0, StepOutcome::Cached));
            writer.add(ended(1, StepOutcome::Failed));
            writer.flush();
        }
        let newest = build(&store, "^").expect("there");
        (folder, store, newest)
    }

    #[test]
    fn builds_go_by_their_beginnings_and_by_age() {
        let (_folder, store, _) = record();
        for (text, found) in [("abc", "abc1"), ("abd2", "abd2"), ("^0", "abd2"), ("^1", "abc1")] {
            assert_eq!(build(&store, text).expect(text).id, found);
        }
        for (text, message) in [
            ("ab", "`ab` may be any of the builds abc1, abd2"),
            ("x", "no such build: `x`"),
            ("", "no such build: ``"),
            ("../abc1", "no such build: `../abc1`"),
            ("^7", "no such build: `^7`"),
        ] {
            assert_eq!(build(&store, text).expect_err(text).to_string(), message);
        }
    }

    #[test]
    fn steps_go_by_number_stage_and_instruction() {
        let (_folder, _store, record) = record();
        for (text, number) in [
            (None, 2),
            (Some("1"), 1),
            (Some("#3"), 3),
            (Some("build"), 2),
            (Some("test"), 3),
            (Some("make check"), 3),
            (Some("from a"), 1),
        ] {
            assert_eq!(step(&record, text).expect("found").number, number, "{text:?}");
        }
        for (text, message) in [
            ("9", "build abd2 has no step `9`; it has 1 to 3"),
            ("0", "build abd2 has no step `0`; it has 1 to 3"),
            (
                "run make",
                "`run make` may be any of these steps: 2 [build 2/2] RUN make; 3 [linux/arm64 test 1/2] RUN make check",
            ),
        ] {
            assert_eq!(step(&record, Some(text)).expect_err(text).to_string(), message);
        }
    }
}
