//! [`Place`]: from what went wrong to an error with the lines of the Dockerfile.

use std::sync::Arc;

use crate::dockerfile::{self, Dockerfile, ParseError, Span};
use crate::error::{BuildError, Diagnostic};
use crate::fault::{Fault, StepError};
use crate::lint::Linter;
use crate::remote::without_credentials;
use crate::request::BuildRequest;

/// The Dockerfile, for messages.
pub(crate) struct Place<'a> {
    file: &'a str,
    text: Arc<str>,
}

impl<'a> Place<'a> {
    pub(crate) fn of(request: &'a BuildRequest) -> Self {
        let text = without_credentials(&String::from_utf8_lossy(&request.dockerfile.bytes)).into();
        Self { file: &request.dockerfile.name, text }
    }

    /// Parses the Dockerfile, and begins to lint it.
    pub(crate) fn read(&self, request: &BuildRequest) -> Result<(Dockerfile, Linter), BuildError> {
        let parsed = dockerfile::parse(&request.dockerfile.bytes).map_err(|error| self.parse_error(error))?;
        let at = |line: u32| Span { first_line: line, last_line: line, bytes: 0..0 };
        check_syntax(&parsed).map_err(|(fault, line)| self.error(fault, Some(&at(line))))?;
        let lint = Linter::new(&parsed, &request.build_args);
        let lint = lint.map_err(|(fault, line)| self.error(fault, line.map(at).as_ref()))?;
        Ok((parsed, lint))
    }

    pub(crate) fn diagnostic(&self, fault: Fault, span: Option<&Span>) -> Diagnostic {
        Diagnostic {
            message: fault.message,
            file: self.file.to_owned(),
            text: self.text.clone(),
            lines: span.map(|span| span.first_line as usize..=span.last_line as usize),
            bytes: None,
            causes: fault.causes,
            log: Vec::new(),
            hint: fault.hint,
        }
    }

    pub(crate) fn error(&self, fault: Fault, span: Option<&Span>) -> BuildError {
        BuildError::Refused(Box::new(self.diagnostic(fault, span)))
    }

    fn parse_error(&self, error: ParseError) -> BuildError {
        let suggestion = error.suggestion.map(|word| format!("did you mean `{word}`?"));
        let fault = Fault { hint: suggestion.or(error.hint), ..Fault::new(error.message) };
        let span = (error.span.first_line > 0).then_some(&error.span);
        self.error(fault, span)
    }

    pub(crate) fn step_error(&self, error: StepError, span: Option<&Span>) -> BuildError {
        match error {
            StepError::Cancelled => BuildError::Cancelled,
            StepError::Fault(fault) => self.error(fault, span),
            StepError::Process { command, exit_code, out_of_memory, log } => {
                let command = crate::go::quote(&shorten(command));
                let message = format!("process {command} did not complete successfully: exit code: {exit_code}");
                let mut fault = Fault::new(message);
                if out_of_memory {
                    fault = fault.hint("the kernel killed it because memory ran out");
                } else if exit_code == 127 {
                    fault = fault.hint("127 means that a command was not found: is it installed in this stage?");
                }
                let diagnostic = Box::new(Diagnostic { log, ..self.diagnostic(fault, span) });
                BuildError::ProcessFailed { diagnostic, exit_code }
            }
        }
    }
}

/// Cuts a command that would fill the screen; its lines are shown below anyway.
fn shorten(mut command: String) -> String {
    const LONGEST: usize = 2000;
    if let Some((end, _)) = command.char_indices().nth(LONGEST) {
        command.truncate(end);
        command.push('…');
    }
    command
}

/// Refuses a `# syntax=` that is not the language built in here. The one that is never needs a registry.
fn check_syntax(dockerfile: &Dockerfile) -> Result<(), (Fault, u32)> {
    let Some(syntax) = &dockerfile.directives.syntax else { return Ok(()) };
    let image = syntax.value.split_whitespace().next().unwrap_or_default();
    let name = image.strip_prefix("docker.io/").unwrap_or(image);
    let name = name.split(['@', ':']).next().unwrap_or_default();
    if ["docker/dockerfile", "docker/dockerfile-upstream"].contains(&name) {
        return Ok(());
    }
    let fault = Fault::new(format!("syntax `{image}` is not supported"));
    Err((
        fault.hint("only the language of docker/dockerfile is built in; take the directive out to use it"),
        syntax.line,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_command_that_fills_the_screen_is_cut() {
        assert_eq!(shorten("make".into()), "make");
        let cut = shorten("é".repeat(1 << 20));
        assert_eq!((cut.chars().count(), cut.ends_with("é…")), (2001, true));
    }
}
