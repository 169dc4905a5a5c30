//! The answers to `--call`: text as buildx prints it, JSON as BuildKit does, and SARIF for other tools.

use std::process::ExitCode;

use builder::dockerfile::{Rule, Span, Warning};
use builder::{Argument, BuildRequest, Checked, Diagnostic, Outline, SecretUse, Target};
use engine::Engine;
use serde_json::{Value, json};

use crate::flags::call::{Call, Format, Question};
use crate::session::{Session, Threads};
use crate::{failure::Failure, table, terminal};

/// Answers a question about a Dockerfile.
pub(super) fn answer(
    call: Call,
    request: BuildRequest,
    engine: &Engine,
    session: &Session,
) -> anyhow::Result<ExitCode> {
    let text = String::from_utf8_lossy(&request.dockerfile.bytes).into_owned();
    let file = File { name: request.dockerfile.name.clone(), text };
    match call.question {
        Question::Build => unreachable!("a build is no question"),
        Question::Check => {
            let checked = session.wait(Threads::Many, async {
                Ok::<_, std::convert::Infallible>(engine::call::check(engine, request, session.cancel()).await)
            })?;
            print_findings(call, &file, &checked)?;
            let clean = checked.warnings.is_empty() && checked.error.is_none();
            Ok(if clean || call.ignore_status { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Question::Outline => {
            let outline = session.wait(Threads::Many, engine::call::outline(engine, request, session.cancel()));
            let outline = outline.map_err(drawn)?;
            match call.format {
                Format::Json => print_json(&outline_json(&outline, &file))?,
                Format::Text | Format::Sarif => print_text(&outline_text(&outline))?,
            }
            Ok(ExitCode::SUCCESS)
        }
        Question::Targets => {
            let targets = builder::targets(&request).map_err(|error| drawn(error.into()))?;
            match call.format {
                Format::Json => print_json(&targets_json(&targets, &file))?,
                Format::Text | Format::Sarif => print_text(&targets_text(&targets))?,
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The Dockerfile, for excerpts.
struct File {
    name: String,
    text: String,
}

/// Draws an error that has a place in the Dockerfile.
fn drawn(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<builder::BuildError>() {
        Some(build) if build.diagnostic().is_some() => {
            let text = build.render(terminal::has_color());
            Failure::new(error).rendered(text).into()
        }
        _ => error,
    }
}

fn print_text(text: &str) -> anyhow::Result<()> {
    text.lines().try_for_each(terminal::print_line)?;
    Ok(())
}

fn print_json(value: &Value) -> anyhow::Result<()> {
    terminal::print_json(&serde_json::to_string_pretty(value)?)?;
    Ok(())
}

fn print_findings(call: Call, file: &File, checked: &Checked) -> anyhow::Result<()> {
    for stage in &checked.unknown {
        terminal::note(&format!(
            "the base image of `{stage}` could not be had: which variables it sets is not known, so their use is not checked"
        ));
    }
    match call.format {
        Format::Text => {
            print_text(&findings_text(file, &checked.warnings))?;
            if let Some(error) = &checked.error {
                terminal::note(&error.render(terminal::has_color()));
            }
            Ok(())
        }
        Format::Json => print_json(&findings_json(file, checked)),
        Format::Sarif => print_json(&findings_sarif(file, checked)),
    }
}

fn findings_text(file: &File, warnings: &[Warning]) -> String {
    let mut text = match warnings.len() {
        0 => "Check complete, no warnings found.\n".to_owned(),
        1 => "Check complete, 1 warning has been found!\n".to_owned(),
        count => format!("Check complete, {count} warnings have been found!\n"),
    };
    for warning in warnings {
        let rule = warning.rule;
        let url = rule.url().map(|url| format!(" - {url}")).unwrap_or_default();
        text.push_str(&format!("\nWARNING: {}{url}\n{}\n", rule.name(), terminal::printable(&warning.message)));
        text.push_str(&excerpt(file, &warning.span));
    }
    text
}

/// Shows some lines with two around them.
fn excerpt(file: &File, span: &Span) -> String {
    const AROUND: usize = 2;
    let (first, last) = (span.first_line as usize, span.last_line as usize);
    let rule = "-".repeat(20);
    let mut text = format!("{}:{first}\n{rule}\n", terminal::printable(&file.name));
    let shown = first.saturating_sub(AROUND).max(1)..=last + AROUND;
    for (number, line) in file.text.lines().enumerate().map(|(index, line)| (index + 1, line)) {
        if shown.contains(&number) {
            let mark = if (first..=last).contains(&number) { ">>>" } else { "   " };
            text.push_str(format!(" {number:3} | {mark} {}", terminal::printable(line)).trim_end());
            text.push('\n');
        }
    }
    text + &rule + "\n"
}

fn location(first: usize, last: usize) -> Value {
    json!({ "ranges": [{ "start": { "line": first }, "end": { "line": last } }] })
}

fn at(span: &Span) -> Value {
    location(span.first_line as usize, span.last_line as usize)
}

fn lines(error: &Diagnostic) -> (usize, usize) {
    error.lines.as_ref().map_or((1, 1), |lines| (*lines.start(), *lines.end()))
}

/// Leaves out what is not known.
fn object(members: impl IntoIterator<Item = (&'static str, Option<Value>)>) -> Value {
    let known = members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(known.collect())
}

fn findings_json(file: &File, checked: &Checked) -> Value {
    let warnings: Vec<Value> = checked
        .warnings
        .iter()
        .map(|warning| {
            object([
                ("ruleName", Some(json!(warning.rule.name()))),
                ("description", Some(json!(warning.rule.description()))),
                ("url", warning.rule.url().map(Value::from)),
                ("detail", Some(json!(warning.message))),
                ("location", Some(at(&warning.span))),
            ])
        })
        .collect();
    let error = checked.error.as_ref().map(|error| {
        let (first, last) = lines(error);
        json!({ "message": error.message, "location": location(first, last) })
    });
    object([
        ("warnings", Some(Value::Array(warnings))),
        (
            "sources",
            Some(
                json!([{ "filename": file.name, "language": "Dockerfile", "data": engine::call::base64(&file.text) }]),
            ),
        ),
        ("buildError", error),
    ])
}

fn findings_sarif(file: &File, checked: &Checked) -> Value {
    let result = |rule: &str, level: &str, message: &str, (first, last): (usize, usize)| {
        let place = json!({
            "artifactLocation": { "uri": file.name },
            "region": { "startLine": first, "endLine": last },
        });
        json!({
            "ruleId": rule,
            "level": level,
            "message": { "text": message },
            "locations": [{ "physicalLocation": place }],
        })
    };
    let found = checked.warnings.iter().map(|warning| {
        let lines = (warning.span.first_line as usize, warning.span.last_line as usize);
        result(warning.rule.name(), "warning", &warning.message, lines)
    });
    let error = checked.error.iter().map(|error| result("BuildError", "error", &error.message, lines(error)));
    let rules = Rule::ALL.into_iter().map(|rule| {
        object([
            ("id", Some(json!(rule.name()))),
            ("shortDescription", Some(json!({ "text": rule.description() }))),
            ("helpUri", rule.url().map(Value::from)),
        ])
    });
    let rules: Vec<Value> = rules
        .chain([json!({ "id": "BuildError", "shortDescription": { "text": "The Dockerfile cannot be built" } })])
        .collect();
    let results: Vec<Value> = found.chain(error).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": { "name": "slipway", "version": env!("CARGO_PKG_VERSION"), "rules": rules } },
            "results": results,
        }],
    })
}

fn outline_text(outline: &Outline) -> String {
    let mut parts = Vec::new();
    if outline.name.is_some() || outline.description.is_some() {
        let name = outline.name.as_deref().unwrap_or("(default)");
        let mut head = format!("TARGET:      {name}\n");
        if let Some(description) = &outline.description {
            head.push_str(&format!("DESCRIPTION: {description}\n"));
        }
        parts.push(head.lines().map(terminal::printable).collect::<Vec<_>>().join("\n"));
    }
    if !outline.arguments.is_empty() {
        let rows: Vec<Vec<String>> = outline
            .arguments
            .iter()
            .map(|argument| {
                let text = |text: &Option<String>| text.clone().unwrap_or_default();
                vec![argument.name.clone(), text(&argument.value), text(&argument.description)]
            })
            .collect();
        parts.push(table::render(&["BUILD ARG", "VALUE", "DESCRIPTION"], &rows));
    }
    for (heading, uses) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        if !uses.is_empty() {
            let required = |used: &SecretUse| if used.required { "true".to_owned() } else { String::new() };
            let rows: Vec<Vec<String>> = uses.iter().map(|used| vec![used.id.clone(), required(used)]).collect();
            parts.push(table::render(&[heading, "REQUIRED"], &rows));
        }
    }
    parts.iter().map(|part| part.trim_end()).collect::<Vec<_>>().join("\n\n")
}

fn outline_json(outline: &Outline, file: &File) -> Value {
    let argument = |argument: &Argument| {
        object([
            ("name", Some(json!(argument.name))),
            ("description", argument.description.clone().map(Value::from)),
            ("value", argument.value.clone().map(Value::from)),
            ("location", Some(at(&argument.span))),
        ])
    };
    let used = |used: &SecretUse| {
        object([
            ("name", Some(json!(used.id))),
            ("required", used.required.then_some(Value::Bool(true))),
            ("location", Some(at(&used.span))),
        ])
    };
    let list = |items: Vec<Value>| (!items.is_empty()).then_some(Value::Array(items));
    object([
        ("name", outline.name.clone().map(Value::from)),
        ("description", outline.description.clone().map(Value::from)),
        ("args", list(outline.arguments.iter().map(argument).collect())),
        ("secrets", list(outline.secrets.iter().map(used).collect())),
        ("ssh", list(outline.ssh.iter().map(used).collect())),
        ("sources", Some(json!([engine::call::base64(&file.text)]))),
    ])
}

fn targets_text(targets: &[Target]) -> String {
    let rows: Vec<Vec<String>> = targets
        .iter()
        .map(|target| {
            let name = match (&target.name, target.is_default) {
                (None, true) => "(default)".to_owned(),
                (None, false) => String::new(),
                (Some(name), true) => format!("{name} (default)"),
                (Some(name), false) => name.clone(),
            };
            vec![name, target.description.clone().unwrap_or_default()]
        })
        .collect();
    table::render(&["TARGET", "DESCRIPTION"], &rows)
}

fn targets_json(targets: &[Target], file: &File) -> Value {
    let target = |target: &Target| {
        object([
            ("name", target.name.clone().map(Value::from)),
            ("default", target.is_default.then_some(Value::Bool(true))),
            ("description", target.description.clone().map(Value::from)),
            ("base", Some(json!(target.base))),
            ("platform", target.platform.clone().map(Value::from)),
            ("location", Some(at(&target.span))),
        ])
    };
    let targets: Vec<Value> = targets.iter().map(target).collect();
    json!({ "targets": targets, "sources": [engine::call::base64(&file.text)] })
}
