//! How `slipway build` is remembered, and what an error says of that.

use std::sync::Arc;

use engine::Engine;
use engine::builds::{BuildId, BuildLimits, StepOutcome};
use engine::ops::build::BuildOpError;
use engine::recorder::Recording;

use crate::failure::Failure;
use crate::progress::View;
use crate::{shell, terminal, units};

/// Says how much is remembered: `BUILDS[,SIZE[,FAILED]]`.
const VARIABLE: &str = "SLIPWAY_HISTORY";

/// Returns how this build is remembered; `None` for not at all.
pub(super) fn recording(context: &str, shell_in: Option<Arc<dyn View>>) -> anyhow::Result<Option<Recording>> {
    let limits = match std::env::var(VARIABLE) {
        Ok(text) if !text.is_empty() => limits(&text)?,
        _ => BuildLimits::default(),
    };
    let mut recording = Recording::new(context);
    recording.limits = limits;
    if let Some(view) = shell_in {
        if !shell::is_possible() {
            let error = anyhow::anyhow!("--shell-on-error needs a terminal");
            let hint = "without one, the failed step is kept: `slipway debug` opens a shell in it later";
            return Err(Failure::new(error).hint(hint).into());
        }
        recording.shell_on_error = Some(Arc::new(shell::OnError(view)));
    } else if limits.builds == 0 {
        return Ok(None);
    }
    Ok(Some(recording))
}

fn limits(text: &str) -> anyhow::Result<BuildLimits> {
    let bad = || anyhow::anyhow!("${VARIABLE} `{text}` is not of the form BUILDS[,SIZE[,FAILED]], such as `100,1g,3`");
    let mut limits = BuildLimits::default();
    let mut words = text.split(',').map(str::trim);
    limits.builds = words.next().unwrap_or_default().parse().map_err(|_| bad())?;
    if let Some(size) = words.next() {
        limits.bytes = units::parse_size(size).map_err(|_| bad())?;
    }
    if let Some(kept) = words.next() {
        limits.kept = kept.parse().map_err(|_| bad())?;
    }
    anyhow::ensure!(words.next().is_none(), bad());
    Ok(limits)
}

/// Says below an error of a step where its whole log is, and how to look at its files.
pub(super) fn point(error: anyhow::Error, engine: &Engine, id: Option<&BuildId>) -> anyhow::Error {
    let failed_step = matches!(
        error.downcast_ref::<Failure>().and_then(Failure::cause),
        Some(BuildOpError::Build(builder::BuildError::ProcessFailed { .. }))
    );
    let Some(id) = id.filter(|_| failed_step) else { return error };
    // Without a record there is nothing to point at.
    let Ok(Some(record)) = engine.store().builds().get(id) else { return error };
    let Some(step) = record.steps.iter().find(|step| step.outcome == Some(StepOutcome::Failed)) else { return error };
    let paint = |word: &str| if terminal::has_color() { format!("\x1b[1;36m{word}\x1b[0m") } else { word.to_owned() };
    let number = step.number;
    let mut text = String::new();
    if step.log_bytes > 0 {
        let log = engine.store().builds().log(id, number);
        text.push_str(&format!("{} {} (`slipway history logs {id} {number}`)", paint("log:"), log.display()));
    }
    if step.kept.is_some() {
        let line = format!("{} `slipway debug {id} {number}` opens a shell in this step", paint("shell:"));
        text = [text, line].into_iter().filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n");
    }
    match error.downcast::<Failure>() {
        Ok(failure) if !text.is_empty() => failure.and_rendered(&text).into(),
        Ok(failure) => failure.into(),
        Err(error) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_from_left_to_right() {
        let default = BuildLimits::default();
        assert_eq!(limits("7").unwrap(), BuildLimits { builds: 7, ..default });
        assert_eq!(limits("7,2m").unwrap(), BuildLimits { builds: 7, bytes: 2 << 20, ..default });
        assert_eq!(limits("7, 1, 0").unwrap(), BuildLimits { builds: 7, bytes: 1, kept: 0 });
        for text in ["", "x", "1,x", "1,1,x", "1,1,1,1", "-1"] {
            assert!(limits(text).is_err(), "{text}");
        }
    }
}
