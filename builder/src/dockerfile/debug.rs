//! A parse as JSON, in the form in which BuildKit's parser was recorded.

use serde_json::{Map, Value, json};

use super::instruction::{Dockerfile, Escape, Heredoc, Statement, Trigger, Word};
use super::rule::Rule;

pub(super) fn debug_json(dockerfile: &Dockerfile) -> Value {
    let mut record = Map::new();
    let instructions = dockerfile.statements.iter().map(statement).collect();
    record.insert("instructions".to_owned(), Value::Array(instructions));
    if dockerfile.directives.escape != Escape::default() {
        record.insert("escape".to_owned(), Value::from(dockerfile.directives.escape.char().to_string()));
    }
    let blank_lines: Vec<Value> = dockerfile
        .statements
        .iter()
        .filter(|statement| {
            dockerfile.warnings.iter().any(|warning| {
                warning.rule == Rule::NoEmptyContinuation
                    && (statement.span.first_line..=statement.span.last_line).contains(&warning.span.first_line)
            })
        })
        .map(|statement| Value::from(format!("Empty continuation line found in: {}", statement.text)))
        .collect();
    if !blank_lines.is_empty() {
        record.insert("warnings".to_owned(), Value::Array(blank_lines));
    }
    Value::Object(record)
}

fn statement(statement: &Statement) -> Value {
    let Statement { word, flags, arguments, json, heredocs, trigger, span, .. } = statement;
    node(word, arguments, flags, *json, heredocs, span.first_line, trigger.as_deref())
}

fn node(
    word: &str,
    arguments: &[Word],
    flags: &[Word],
    json: bool,
    heredocs: &[Heredoc],
    line: u32,
    trigger: Option<&Trigger>,
) -> Value {
    let texts = |words: &[Word]| match words {
        [] => Value::Null,
        words => words.iter().map(|word| word.text.as_str()).collect(),
    };
    let mut record = Map::new();
    let mut set = |key: &str, value: Value| record.insert(key.to_owned(), value);
    set("cmd", word.into());
    set("args", texts(arguments));
    if !flags.is_empty() {
        set("flags", texts(flags));
    }
    if json {
        set("json", true.into());
    }
    if !heredocs.is_empty() {
        set("heredocs", heredocs.iter().map(heredoc).collect());
    }
    set("line", line.into());
    if let Some(Trigger { word, flags, arguments, json, trigger }) = trigger {
        // A trigger has no line of its own.
        set("sub", node(word, arguments, flags, *json, &[], 0, trigger.as_deref()));
    }
    Value::Object(record)
}

fn heredoc(heredoc: &Heredoc) -> Value {
    json!({
        "Name": heredoc.name,
        "FileDescriptor": heredoc.file_descriptor,
        "Expand": heredoc.expand,
        "Chomp": heredoc.chomp,
        "Content": String::from_utf8_lossy(&heredoc.content),
    })
}
