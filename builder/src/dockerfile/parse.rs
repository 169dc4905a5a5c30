//! The way from bytes to a [`Dockerfile`]: line by line, so that the first mistake in the file is the one told.

use super::flags::Refusal;
use super::frame::{self, Frame, Part};
use super::instruction::{Dockerfile, Heredoc, Instruction, ParseError, Span, Statement, Trigger, Warning, Word};
use super::lines::{Lines, Logical};
use super::rule::Rule;
use super::{directives, heredoc, lint, typed};

/// A line taken apart, with what was read along with it.
struct Framed {
    logical: Logical,
    frame: Frame,
    heredocs: Vec<Heredoc>,
}

pub(super) fn parse(text: &[u8]) -> Result<Dockerfile, ParseError> {
    let mut lines = Lines::new(text);
    let mut warnings = Vec::new();
    let mut statements = Vec::new();
    let mut in_stage = false;
    while let Some(line) = next_framed(&mut lines)? {
        if let Some(blank) = line.logical.blank_line {
            let span = Span { first_line: blank, last_line: blank, bytes: line.logical.span.bytes.clone() };
            let message = "Empty continuation line".to_owned();
            warnings.push(Warning { rule: Rule::NoEmptyContinuation, message, span });
        }
        let statement = statement(line)?;
        in_stage |= matches!(statement.instruction, Instruction::From(_));
        if !in_stage && !matches!(statement.instruction, Instruction::Arg(_)) {
            return Err(ParseError {
                message: "no build stage in current context".to_owned(),
                span: statement.span,
                suggestion: None,
                hint: Some("only ARG may stand before the first FROM".to_owned()),
            });
        }
        statements.push(statement);
    }
    if statements.is_empty() {
        return Err(ParseError {
            message: "file with no instructions".to_owned(),
            span: lines.here(),
            suggestion: None,
            hint: Some("a Dockerfile starts with FROM <image> or FROM scratch".to_owned()),
        });
    }
    warnings.extend(lint::warnings(&statements));
    warnings.sort_by_key(|warning| warning.span.first_line);
    Ok(Dockerfile { directives: directives::detect(text, lines.escape()), statements, warnings })
}

pub(super) fn parse_trigger(text: &str) -> Result<Statement, ParseError> {
    let mut lines = Lines::new(text.as_bytes());
    let single = |span| ParseError {
        message: "onbuild trigger should be a single expression".to_owned(),
        span,
        suggestion: None,
        hint: None,
    };
    let Some(first) = next_framed(&mut lines)? else { return Err(single(lines.here())) };
    if let Some(second) = next_framed(&mut lines)? {
        return Err(single(second.logical.span));
    }
    statement(first)
}

fn next_framed(lines: &mut Lines<'_>) -> Result<Option<Framed>, ParseError> {
    let Some(mut logical) = lines.next_logical()? else { return Ok(None) };
    let frame = frame::frame(&logical.text, lines.escape()).map_err(|problem| {
        let refusal = Refusal { range: problem.range, ..problem.message.into() };
        refuse(refusal, &logical)
    })?;
    let mut heredocs = Vec::new();
    if frame.takes_heredocs() && logical.text.contains("<<") {
        heredocs = heredoc::announced(&logical.text).map_err(|error| refuse(error.to_string().into(), &logical))?;
        for heredoc in &mut heredocs {
            if !lines.heredoc_body(heredoc, &mut logical.span)? {
                let hint = format!("no line is {:?} alone", heredoc.name);
                let refusal = Refusal { hint: Some(hint), ..Refusal::from("unterminated heredoc") };
                return Err(ParseError { span: logical.span.clone(), ..refuse(refusal, &logical) });
            }
        }
    }
    Ok(Some(Framed { logical, frame, heredocs }))
}

fn statement(line: Framed) -> Result<Statement, ParseError> {
    let Framed { mut logical, frame, heredocs } = line;
    let instruction =
        typed::instruction(&frame, &heredocs, &logical.text).map_err(|refusal| refuse(refusal, &logical))?;
    let comments = std::mem::take(&mut logical.comments);
    let trigger = placed(frame, &logical);
    Ok(Statement {
        instruction,
        word: trigger.word,
        text: logical.text.trim().to_owned(),
        comments,
        flags: trigger.flags,
        arguments: trigger.arguments,
        json: trigger.json,
        heredocs,
        trigger: trigger.trigger,
        span: logical.span,
    })
}

/// Says of every part where in the file it stands.
fn placed(frame: Frame, logical: &Logical) -> Trigger {
    let words = |parts: Vec<Part>| {
        parts.into_iter().map(|part| Word { bytes: logical.place(part.range), text: part.text }).collect()
    };
    Trigger {
        word: frame.word.text,
        flags: words(frame.flags),
        arguments: words(frame.arguments),
        json: frame.json,
        trigger: frame.trigger.map(|trigger| Box::new(placed(*trigger, logical))),
    }
}

fn refuse(refusal: Refusal, logical: &Logical) -> ParseError {
    let mut span = logical.span.clone();
    if let Some(range) = refusal.range.filter(|range| !range.is_empty()) {
        span = logical.narrow(range);
    }
    ParseError { message: refusal.message, span, suggestion: refusal.suggestion, hint: refusal.hint }
}
