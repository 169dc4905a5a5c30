//! Dockerfile text to typed instructions, as BuildKit reads it.
//!
//! ```text
//! bytes ── lines ──> logical lines     continuations joined; comments and directives taken out
//!       ── frame ──> word, flags, arguments, JSON form; then heredoc bodies
//!       ── typed ──> Instruction       one variant a word, flags checked
//! text ── expand ──> values            variables and quotes, once the environment is known
//! ```
//!
//! Nothing here knows stages, images or files: that is the plan's work.

mod instruction;
mod mount;
mod rule;

pub mod expand;

mod parse;

mod directives;
mod lines;

mod flags;
mod frame;
mod heredoc;
mod json_form;
mod typed;

mod debug;
mod lint;
pub(crate) mod suggest;

#[cfg(test)]
mod tests;

pub use instruction::*;
pub use mount::{Mount, MountError, MountFlag, MountKind, Sharing};
pub use rule::Rule;

/// Parses a Dockerfile.
///
/// Accepts and refuses what BuildKit does. Bytes that are not UTF-8 become
/// U+FFFD, except in heredoc bodies, which are kept.
pub fn parse(text: &[u8]) -> Result<Dockerfile, ParseError> {
    parse::parse(text)
}

/// Parses the text of an `ONBUILD` trigger, which must be one instruction.
///
/// The escape character is always `\`, whatever the file that declared it said.
pub fn parse_trigger(text: &str) -> Result<Statement, ParseError> {
    parse::parse_trigger(text)
}

/// Returns a parse as JSON, in the form in which BuildKit's parser was recorded.
///
/// `instructions`: `cmd`, `args`, `flags`, `json`, `heredocs`, `line`, and `sub` for `ONBUILD`; `escape` when it is
/// not a backslash; `warnings` for blank lines within an instruction.
pub fn debug_json(dockerfile: &Dockerfile) -> serde_json::Value {
    debug::debug_json(dockerfile)
}
