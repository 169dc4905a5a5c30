//! What commands about networks and volumes share: filters, lists, and doing the same to several names.

use std::future::Future;
use std::process::ExitCode;

use serde::Serialize;
use serde_json::Value;

use crate::session::{Session, Threads};
use crate::template::{self, Format};
use crate::{failure, terminal};

/// Splits a filter, `NAME=VALUE` or `NAME!=VALUE`.
pub(crate) fn filter(text: &str) -> anyhow::Result<(String, String)> {
    let Some((name, value)) = text.split_once('=') else {
        anyhow::bail!(
            "invalid argument \"{text}\" for \"-f, --filter\" flag: bad format of filter (expected name=value)"
        )
    };
    Ok((name.to_ascii_lowercase(), value.to_owned()))
}

/// Prints what is known of several things: as one array, as docker indents it, or what a template makes of each; what
/// fails does not stop the others.
pub(crate) fn inspect_each<F: Future<Output = anyhow::Result<Value>>>(
    session: &Session,
    format: Option<&Format>,
    all: impl Iterator<Item = F>,
) -> anyhow::Result<ExitCode> {
    let (mut found, mut failures) = (Vec::new(), Failures::default());
    for one in all {
        match session.wait(Threads::One, one) {
            Ok(value) => found.push(value),
            Err(error) => failures.add(error),
        }
    }
    match format {
        Some(Format::Json) => found.iter().try_for_each(|object| terminal::print_json(&object.to_string()))?,
        Some(Format::Text(template) | Format::TableOf(template)) => {
            for object in &found {
                terminal::print_line(&template::render(template, object)?)?;
            }
        }
        Some(Format::Table) | None => {
            let mut text = Vec::new();
            let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
            Value::Array(found).serialize(&mut serde_json::Serializer::with_formatter(&mut text, formatter))?;
            terminal::print_json(&String::from_utf8_lossy(&text))?;
        }
    }
    failures.end()
}

/// Does something to each name and prints those with which it was done; what fails does not stop the others. What
/// `is_forgiven` is as good as done.
pub(crate) fn do_each<T, E: Into<anyhow::Error>, F: Future<Output = Result<T, E>>>(
    session: &Session,
    names: &[String],
    is_forgiven: impl Fn(&E) -> bool,
    work: impl Fn(String) -> F,
) -> anyhow::Result<ExitCode> {
    let mut failures = Failures::default();
    for name in names {
        let done = async { Ok::<_, anyhow::Error>(work(name.clone()).await) };
        match session.wait(Threads::One, done)? {
            Ok(_) => terminal::print_line(name)?,
            Err(error) if is_forgiven(&error) => {}
            Err(error) => failures.add(error.into()),
        }
    }
    failures.end()
}

/// What failed; the last one is the command's own failure.
#[derive(Default)]
struct Failures {
    last: Option<anyhow::Error>,
}

impl Failures {
    fn add(&mut self, error: anyhow::Error) {
        if let Some(error) = self.last.replace(error) {
            failure::note_error(&error);
        }
    }

    fn end(self) -> anyhow::Result<ExitCode> {
        self.last.map_or(Ok(ExitCode::SUCCESS), Err)
    }
}
