//! Lint rules that need nothing but the text.

use std::collections::{HashMap, HashSet};

use super::instruction::{CommandLine, Instruction, Statement, Warning};
use super::rule::Rule;

/// Returns the findings in a parsed file.
pub(super) fn warnings(statements: &[Statement]) -> Vec<Warning> {
    let mut warnings = Vec::new();
    casing(statements, &mut warnings);
    stages(statements, &mut warnings);
    for statement in statements {
        match &statement.instruction {
            Instruction::Maintainer(_) => warnings.push(warning(
                Rule::MaintainerDeprecated,
                statement,
                "Maintainer instruction is deprecated in favor of using label".to_owned(),
            )),
            Instruction::Env(pairs) | Instruction::Label(pairs) if pairs.iter().any(|pair| pair.legacy) => {
                let word = &statement.word;
                let message =
                    format!("\"{word} key=value\" should be used instead of legacy \"{word} key value\" format");
                warnings.push(warning(Rule::LegacyKeyValueFormat, statement, message));
            }
            Instruction::From(from) => {
                let names: Vec<&str> = from.name.iter().map(String::as_str).collect();
                description(statement, "FROM", &names, &mut warnings);
            }
            Instruction::Arg(arguments) => {
                let names: Vec<&str> = arguments.iter().map(|argument| argument.name.as_str()).collect();
                description(statement, "ARG", &names, &mut warnings);
            }
            _ => {}
        }
    }
    warnings
}

/// Checks that a comment right above what it may describe begins with its name.
fn description(statement: &Statement, word: &str, names: &[&str], warnings: &mut Vec<Warning>) {
    let Some(comment) = statement.comments.last() else { return };
    let described = comment.split(' ').next().unwrap_or_default();
    let Some(first) = names.first().filter(|_| !names.contains(&described)) else { return };
    let example = if names.len() > 1 { "<arg_key>" } else { first };
    let message = format!("Comment for {word} should follow the format: `# {example} <description>`");
    warnings.push(warning(Rule::InvalidDefinitionDescription, statement, message));
}

fn warning(rule: Rule, statement: &Statement, message: String) -> Warning {
    Warning { rule, message, span: statement.span.clone() }
}

fn is_lower(word: &str) -> bool {
    word == word.to_lowercase()
}

fn is_upper(word: &str) -> bool {
    word == word.to_uppercase()
}

/// Checks that all words are written in the case that most are.
fn casing(statements: &[Statement], warnings: &mut Vec<Warning>) {
    let first = statements.iter().position(|statement| matches!(statement.instruction, Instruction::From(_)));
    // The ARGs before the first FROM are not looked at.
    let statements = &statements[first.unwrap_or(statements.len())..];
    let lower = statements.iter().filter(|statement| is_lower(&statement.word)).count();
    let upper = statements.iter().filter(|statement| is_upper(&statement.word)).count();
    let (majority, fits): (_, fn(&str) -> bool) =
        if lower > upper { ("lowercase", is_lower) } else { ("uppercase", is_upper) };
    for statement in statements.iter().filter(|statement| !fits(&statement.word)) {
        let message =
            format!("Command '{}' should match the case of the command majority ({majority})", statement.word);
        warnings.push(warning(Rule::ConsistentInstructionCasing, statement, message));
    }
}

/// Checks the names of stages, and what only makes sense once in a stage.
fn stages(statements: &[Statement], warnings: &mut Vec<Warning>) {
    let mut names = HashSet::new();
    // Stages that have a SHELL, of their own or from the stage they start from.
    let mut with_shell = HashMap::new();
    let mut name = String::new();
    let mut has_shell = false;
    let mut once: HashMap<&str, &Statement> = HashMap::new();
    for statement in statements {
        match &statement.instruction {
            Instruction::From(from) => {
                stage_casing(statement, warnings);
                once.clear();
                has_shell = with_shell.get(&from.base.to_lowercase()).copied().unwrap_or(false);
                name = from.name.clone().unwrap_or_default();
                with_shell.insert(name.clone(), has_shell);
                if matches!(name.as_str(), "scratch" | "context") {
                    let message = format!("Stage name should not use the same name as reserved stage {name:?}");
                    warnings.push(warning(Rule::ReservedStageName, statement, message));
                }
                if !name.is_empty() && !names.insert(name.clone()) {
                    let message = format!("Duplicate stage name {name:?}, stage names should be unique");
                    warnings.push(warning(Rule::DuplicateStageName, statement, message));
                }
            }
            Instruction::Shell(_) => {
                has_shell = true;
                with_shell.insert(name.clone(), true);
            }
            Instruction::Cmd(command) | Instruction::Entrypoint(command)
                if !has_shell && matches!(command, CommandLine::Shell(_)) =>
            {
                let message = format!(
                    "JSON arguments recommended for {} to prevent unintended behavior related to OS signals",
                    statement.word
                );
                warnings.push(warning(Rule::JSONArgsRecommended, statement, message));
            }
            _ => {}
        }
        if matches!(
            statement.instruction,
            Instruction::Cmd(_) | Instruction::Entrypoint(_) | Instruction::Healthcheck(_)
        ) && let Some(ignored) = once.insert(statement.instruction.name(), statement)
        {
            let message = format!(
                "Multiple {} instructions should not be used in the same stage because only the last one will be used",
                statement.word
            );
            warnings.push(warning(Rule::MultipleInstructionsDisallowed, ignored, message));
        }
    }
}

fn stage_casing(statement: &Statement, warnings: &mut Vec<Warning>) {
    let [_, keyword, name] = statement.arguments.as_slice() else { return };
    if !is_lower(&name.text) {
        let message = format!("Stage name '{}' should be lowercase", name.text);
        warnings.push(warning(Rule::StageNameCasing, statement, message));
    }
    let word = &statement.word;
    let fits = match (is_lower(word), is_upper(word)) {
        (true, _) => is_lower(&keyword.text),
        (_, true) => is_upper(&keyword.text),
        // A word in mixed case is found by another rule.
        (false, false) => true,
    };
    if !fits {
        let message = format!("'{}' and '{word}' keywords' casing do not match", keyword.text);
        warnings.push(warning(Rule::FromAsCasing, statement, message));
    }
}
