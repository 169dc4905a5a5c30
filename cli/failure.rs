//! What is printed when something goes wrong, and the exit code.

use std::fmt;
use std::io;
use std::process::ExitCode;

use engine::advice::advice;

use crate::terminal;

/// The user asked us to stop. The exit code is 128 and the signal, as for any program that a signal ends.
#[derive(Debug)]
pub(crate) struct Interrupted {
    /// SIGINT or SIGTERM.
    pub(crate) signal: i32,
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// An error that brings its exit code, its advice, or a drawing of itself.
#[derive(Debug)]
pub(crate) struct Failure {
    error: anyhow::Error,
    code: u8,
    hint: Option<String>,
    rendered: Option<String>,
}

impl Failure {
    /// Wraps an error; the exit code is 1.
    pub(crate) fn new(error: impl Into<anyhow::Error>) -> Self {
        Self { error: error.into(), code: 1, hint: None, rendered: None }
    }

    /// Sets the exit code.
    pub(crate) fn code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    /// Says what the user can do next.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Returns the error that it wraps, if it is of this kind.
    pub(crate) fn cause<E: std::error::Error + Send + Sync + 'static>(&self) -> Option<&E> {
        self.error.downcast_ref()
    }

    /// Adds text below the drawing; nothing when there is none.
    pub(crate) fn and_rendered(self, text: &str) -> Self {
        Self { rendered: self.rendered.map(|rendered| format!("{}\n{text}", rendered.trim_end())), ..self }
    }

    /// Prints this text in place of the chain of messages.
    pub(crate) fn rendered(self, text: String) -> Self {
        Self { rendered: Some(text), ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

/// Prints what is wrong with the arguments, or the help that was asked for.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    // When the message cannot be written there is nobody to tell.
    let _: io::Result<()> = error.print();
    let wrong = error.use_stderr();
    // A first argument that is not a flag is the command; docker gives 125 for wrong arguments of `run`.
    let command = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    match (wrong, command.as_deref()) {
        (false, _) => ExitCode::SUCCESS,
        (true, Some("run")) => ExitCode::from(125),
        (true, _) => ExitCode::from(2),
    }
}

/// Prints an error, what caused it and what to do, and returns the exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if let Some(Interrupted { signal }) = error.downcast_ref() {
        return ExitCode::from(128 + u8::try_from(*signal).unwrap_or(2));
    }
    // `slipway images | head -1` is no error.
    if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    let failure = error.downcast_ref::<Failure>();
    let text = match failure.and_then(|failure| failure.rendered.clone()) {
        Some(text) => text,
        None => describe(error, failure.and_then(|failure| failure.hint.clone()), terminal::has_color()),
    };
    terminal::note(text.trim_end());
    ExitCode::from(failure.map_or(1, |failure| failure.code))
}

/// Prints an error that does not end the command.
pub(crate) fn note_error(error: &anyhow::Error) {
    terminal::note(&describe(error, None, terminal::has_color()));
}

fn describe(error: &anyhow::Error, hint: Option<String>, color: bool) -> String {
    let paint = |code: &str, word: &str| if color { format!("\x1b[{code}m{word}\x1b[0m") } else { word.to_owned() };
    // Paths of archives, answers of registries and words of images are in here.
    let safe = |text: &str| text.lines().map(terminal::printable).collect::<Vec<_>>().join("\n");
    let mut text = format!("{} {}", paint("1;31", "error:"), safe(&error.to_string()));
    let mut said = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        // Some libraries repeat their source in their own message.
        if said.ends_with(&cause) {
            continue;
        }
        text.push_str(&format!("\n{} {}", paint("1", "caused by:"), safe(&cause)));
        said = cause;
    }
    if let Some(hint) = hint.or_else(|| hint_for(error)) {
        text.push_str(&format!("\n{} {}", paint("1;36", "hint:"), safe(&hint)));
    }
    text
}

/// Finds advice for errors that any command may meet.
fn hint_for(error: &anyhow::Error) -> Option<String> {
    // The store says it better, with the path.
    if error.chain().any(|cause| cause.to_string().contains("free some")) {
        return None;
    }
    let io = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    if let Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) = io {
        return Some("free some space, or keep the store elsewhere with --home".into());
    }
    // A failure stands for the error that it wraps, which its chain leaves out.
    let error = error.downcast_ref::<Failure>().map_or(error, |failure| &failure.error);
    advice(error.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_tells_its_causes_and_what_to_do() {
        let cause = io::Error::from_raw_os_error(28);
        let error = anyhow::Error::new(cause).context("cannot write blob");
        insta::assert_snapshot!(describe(&error, None, false), @r"
        error: cannot write blob
        caused by: No space left on device (os error 28)
        hint: free some space, or keep the store elsewhere with --home
        ");
    }

    #[test]
    fn what_others_say_cannot_draw_on_the_terminal() {
        let error = anyhow::anyhow!("\x1b[2Jdenied\nsays \x1b]0;x\x07it").context("no `\x1b[1m`");
        assert_eq!(describe(&error, None, false), "error: no ``\ncaused by: denied\nsays it");
    }

    #[test]
    fn a_failure_brings_its_own_advice() {
        let error = anyhow::Error::new(Failure::new(anyhow::anyhow!("no")).hint("say yes"));
        let failure = error.downcast_ref::<Failure>().and_then(|failure| failure.hint.clone());
        assert_eq!(describe(&error, failure, false), "error: no\nhint: say yes");
    }
}
