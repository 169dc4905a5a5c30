//! What `slipway build --verify` prints.

use std::fmt::Write as _;

use engine::verify::files::{Change, FileDifference};
use engine::verify::{StepDifference, Verification};

use crate::terminal::printable;

/// Describes in words what two builds came to.
pub(crate) fn describe(verification: &Verification, dockerfile: &str) -> String {
    let mut text = String::new();
    for step in &verification.steps {
        let _ = write_step(&mut text, step, dockerfile);
    }
    for image in &verification.images {
        let of = if verification.images.len() > 1 { format!(" of {}", image.platform) } else { String::new() };
        if !image.config.is_empty() {
            let _ = writeln!(text, "config{of}");
        }
        for field in &image.config {
            let [one, other] = &field.values;
            let _ = writeln!(text, "  {}", printable(&format!("{}: {one}, then {other}", field.field)));
        }
        let [one, other] = &image.manifests;
        if one == other {
            let _ = writeln!(text, "identical{of}: {one} both times");
        } else {
            let _ = writeln!(text, "different{of}: {one}, then {other}");
        }
    }
    if verification.reproducible && !verification.steps.is_empty() {
        text.push_str("What differs stays in other stages: nothing of it is in the image.\n");
    }
    text
}

/// Names what makes the image differ, in one line.
pub(crate) fn summary(verification: &Verification) -> String {
    let causes: Vec<&StepDifference> = verification.steps.iter().filter(|step| step.follows.is_empty()).collect();
    let files: usize = causes.iter().map(|step| step.files.len() + step.more).sum();
    let count = |number: usize, word: &str| format!("{number} {word}{}", if number == 1 { "" } else { "s" });
    match causes.as_slice() {
        [] => "the image is not reproducible: its config differs".into(),
        _ => {
            let steps = count(causes.len(), "step");
            let after = match verification.steps.len() - causes.len() {
                0 => String::new(),
                more => format!("; {} after that", count(more, "step")),
            };
            format!("the image is not reproducible: {steps} made {} differently{after}", count(files, "file"))
        }
    }
}

fn write_step(text: &mut String, step: &StepDifference, dockerfile: &str) -> std::fmt::Result {
    let place = match step.lines {
        Some([first, last]) if first != last => format!("{dockerfile}:{first}-{last}: "),
        Some([first, _]) => format!("{dockerfile}:{first}: "),
        None => String::new(),
    };
    writeln!(text, "{}", printable(&format!("{place}{}", step.step)))?;
    if !step.follows.is_empty() {
        writeln!(text, "  {}", printable(&format!("perhaps only because of {}", step.follows.join(", "))))?;
    }
    if step.files.is_empty() {
        writeln!(text, "  other layers")?;
    }
    for file in &step.files {
        writeln!(text, "  {}", printable(&format!("{}: {}", file.path, changes(file))))?;
    }
    if step.more > 0 {
        writeln!(text, "  and {} more", step.more)?;
    }
    let mut hints: Vec<&str> = step.files.iter().filter_map(|file| file.hint).collect();
    hints.dedup();
    let mut told: Vec<&str> = Vec::new();
    for hint in hints {
        if !told.contains(&hint) {
            let name = step.files.iter().find(|file| file.hint == Some(hint)).map_or("", |file| file.path.as_str());
            writeln!(text, "  hint: {}", printable(&format!("{name}: {hint}")))?;
            told.push(hint);
        }
    }
    Ok(())
}

fn changes(file: &FileDifference) -> String {
    let words = file.changes.iter().map(|change| match change {
        Change::OnlyIn { build: 1 } => "made by the first build only".to_owned(),
        Change::OnlyIn { .. } => "made by the second build only".to_owned(),
        Change::Kind { values: [one, other] } => format!("{one}, then {other}"),
        Change::Mode { values: [one, other] } => format!("mode {one}, then {other}"),
        Change::Owner { values: [one, other] } => format!("owner {one}, then {other}"),
        Change::Mtime { values: [one, other] } => format!("mtime {one}, then {other}"),
        Change::Target { values: [one, other] } => format!("leads to {one}, then {other}"),
        Change::Device { values: [one, other] } => format!("device {one}, then {other}"),
        Change::Size { values: [one, other] } => format!("size {one}, then {other}"),
        Change::Content { offset } => format!("content from byte {offset} on"),
        Change::Xattr { name } => format!("attribute {name}"),
    });
    words.collect::<Vec<_>>().join("; ")
}
