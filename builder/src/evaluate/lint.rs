//! Lint rules that need to know variables, stages and images.

use std::collections::BTreeSet;

use oci::Platform;

use super::{Evaluator, StageWalk};
use crate::dockerfile::expand::{self, Expanded};
use crate::dockerfile::{AddFiles, CopyFiles, Escape, Instruction, Rule, Statement, Transfer, suggest};
use crate::ignore::Ignore;
use crate::plan::Stage;

/// What the names of secrets have in them, as whole words between underscores.
const SECRET_WORDS: [&str; 10] =
    ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];

/// What makes such a name a harmless one.
const HARMLESS_WORDS: [&str; 3] = ["public", "file", "version"];

/// Arguments that never become variables.
const NO_VARIABLES: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

impl Evaluator<'_> {
    /// Looks at all `FROM` lines, also those of stages that are not built.
    pub(crate) fn lint_stages(&self) {
        let plan = self.context.plan;
        // What images are named when nobody gives arguments.
        let mut defaults = self.globals.clone();
        for statement in plan.global {
            let Instruction::Arg(arguments) = &statement.instruction else { continue };
            for argument in arguments {
                defaults.remove(&argument.name);
                let default = argument.default.as_ref();
                let value = default.and_then(|text| expand::word(text, &defaults, self.context.escape).ok());
                defaults.extend(value.map(|value| (argument.name.clone(), value)));
            }
        }
        for stage in &plan.stages {
            self.lint_from(stage);
            let base = expand::word(&stage.from.base, &defaults, self.context.escape).unwrap_or_default();
            if base.parse::<oci::Reference>().is_err() {
                let message =
                    format!("Default value for ARG {} results in empty or invalid base image name", stage.from.base);
                self.context.lint.report(Rule::InvalidDefaultArgInFrom, &stage.statement.span, message);
            }
        }
    }

    fn lint_from(&self, stage: &Stage<'_>) {
        let (lint, span) = (self.context.lint, &stage.statement.span);
        if let Ok(expanded) = self.expand_from(&stage.from.base) {
            self.lint_from_arguments(stage, &expanded);
        }
        let Some(text) = &stage.from.platform else { return };
        let Ok(expanded) = self.expand_from(text) else { return };
        self.lint_from_arguments(stage, &expanded);
        let is_only =
            |name: &str| expanded.used.len() == 1 && expanded.used.contains(name) && expanded.unset.is_empty();
        if is_only("TARGETPLATFORM") && self.globals.get("TARGETPLATFORM") == Some(&expanded.text) {
            let message =
                format!("Setting platform to predefined {text} in FROM is redundant as this is the default behavior");
            lint.report(Rule::RedundantTargetPlatform, span, message);
        }
        if expanded.used.is_empty()
            && expanded.unset.is_empty()
            && let Ok(platform) = expanded.text.parse::<Platform>()
        {
            // A stage that is named after its platform means it.
            let name = stage.from.name.as_deref().unwrap_or_default();
            if !name.contains(&platform.os) && !name.contains(&platform.architecture) {
                let message = format!("FROM --platform flag should not use constant value {:?}", expanded.text);
                lint.report(Rule::FromPlatformFlagConstDisallowed, span, message);
            }
        }
    }

    /// Expands a word of a `FROM`, with the names that it uses.
    pub(crate) fn expand_from(&self, text: &str) -> Result<Expanded, expand::ExpandError> {
        expand::word_with_names(text, &self.globals, self.context.escape)
    }

    fn lint_from_arguments(&self, stage: &Stage<'_>, expanded: &Expanded) {
        let declared = self.context.plan.global.iter().filter_map(|statement| match &statement.instruction {
            Instruction::Arg(arguments) => Some(arguments.iter().map(|argument| argument.name.as_str())),
            _ => None,
        });
        let known: BTreeSet<&str> = declared.flatten().chain(self.globals.keys().map(String::as_str)).collect();
        for name in expanded.unset.iter().filter(|name| !known.contains(name.as_str())) {
            let mut message = format!("FROM argument '{name}' is not declared");
            if let Some(meant) = suggest::closest(name, known.iter().copied()) {
                message.push_str(&format!(" (did you mean {meant}?)"));
            }
            self.context.lint.report(Rule::UndefinedArgInFrom, &stage.statement.span, message);
        }
    }

    /// Checks that a base image is of the platform it is wanted for.
    pub(super) fn lint_platform(&self, base: &str, wanted: &Platform, actual: &Platform, statement: &Statement) {
        if (&wanted.os, &wanted.architecture) != (&actual.os, &actual.architecture) && !actual.os.is_empty() {
            let wanted = wanted.to_string();
            let message = format!(
                "Base image {base} was pulled with platform {:?}, expected {wanted:?} for current build",
                actual.to_string()
            );
            self.context.lint.report(Rule::InvalidBaseImagePlatform, &statement.span, message);
        }
    }

    /// Looks at an instruction before it changes anything.
    pub(super) fn lint_instruction(&mut self, walk: &StageWalk, statement: &Statement, escape: Escape) {
        let lint = self.context.lint;
        let span = &statement.span;
        match &statement.instruction {
            Instruction::Arg(arguments) => {
                for argument in arguments {
                    self.lint_secret("ARG", &argument.name, statement);
                    let is_given = self.context.request.build_args.contains_key(&argument.name);
                    if let Some(default) = argument.default.as_ref().filter(|_| !is_given) {
                        self.lint_words(walk, statement, [default], escape);
                    }
                }
            }
            Instruction::Env(pairs) => {
                for pair in pairs {
                    self.lint_secret("ENV", &pair.key, statement);
                }
                self.lint_words(walk, statement, pairs.iter().flat_map(|pair| [&pair.key, &pair.value]), escape);
            }
            Instruction::Label(pairs) => {
                self.lint_words(walk, statement, pairs.iter().flat_map(|pair| [&pair.key, &pair.value]), escape);
            }
            Instruction::Workdir(path) => {
                self.lint_words(walk, statement, [path], escape);
                let expanded = expand::word(path, &walk.state.env, escape).unwrap_or_default();
                if self.with_workdir.insert(walk.index) && !expanded.starts_with('/') {
                    let message =
                        format!("Relative workdir {expanded:?} can have unexpected results if the base image changes");
                    lint.report(Rule::WorkdirRelativePath, span, message);
                }
            }
            Instruction::User(word) | Instruction::StopSignal(word) => {
                self.lint_words(walk, statement, [word], escape);
            }
            Instruction::Volume(volumes) => self.lint_words(walk, statement, volumes, escape),
            Instruction::Expose(words) => {
                let words = words.iter().filter_map(|word| expand::words(word, &walk.state.env, escape).ok());
                words.flatten().for_each(|port| self.lint_port(&port, statement));
            }
            Instruction::Run(run) => {
                self.lint_words(walk, statement, run.mounts.iter().map(|mount| &mount.text), escape);
            }
            Instruction::Copy(CopyFiles { transfer, from, .. }) => {
                self.lint_transfer(walk, statement, transfer, escape);
                if from.is_none() {
                    self.lint_ignored(walk, statement, transfer, "Copy", escape);
                }
            }
            Instruction::Add(AddFiles { transfer, .. }) => {
                self.lint_transfer(walk, statement, transfer, escape);
                self.lint_ignored(walk, statement, transfer, "Add", escape);
            }
            Instruction::From(_)
            | Instruction::Cmd(_)
            | Instruction::Entrypoint(_)
            | Instruction::Shell(_)
            | Instruction::Healthcheck(_)
            | Instruction::Maintainer(_)
            | Instruction::Onbuild(_) => {}
        }
    }

    fn lint_transfer(&self, walk: &StageWalk, statement: &Statement, transfer: &Transfer, escape: Escape) {
        let Transfer { sources, inline_files, destination, chown, chmod, exclude, link: _ } = transfer;
        let flags = chown.iter().chain(chmod).chain(exclude);
        self.lint_words(walk, statement, flags.chain(sources).chain([destination]), escape);
        for file in inline_files.iter().filter(|file| file.expand) {
            if let Ok(text) = std::str::from_utf8(&file.content)
                && let Ok(expanded) = expand::content(text, &walk.state.env)
            {
                self.lint_unset(walk, statement, &expanded);
            }
        }
    }

    /// Checks that words use variables that there are.
    fn lint_words<'w>(
        &self,
        walk: &StageWalk,
        statement: &Statement,
        words: impl IntoIterator<Item = &'w String>,
        escape: Escape,
    ) {
        for word in words.into_iter().filter(|word| word.contains('$')) {
            // What cannot be expanded is refused when it is.
            if let Ok(expanded) = expand::word_with_names(word, &walk.state.env, escape) {
                self.lint_unset(walk, statement, &expanded);
            }
        }
    }

    fn lint_unset(&self, walk: &StageWalk, statement: &Statement, expanded: &Expanded) {
        if self.unknown.contains(&walk.index) {
            // The base image may set anything.
            return;
        }
        let is_declared = |name: &str| walk.state.args.iter().any(|(declared, _)| declared == name);
        for name in expanded.unset.iter().filter(|name| !is_declared(name) && !NO_VARIABLES.contains(&name.as_str())) {
            let known = walk.state.env.names();
            let mut message = format!("Usage of undefined variable '${name}'");
            if let Some(meant) = suggest::closest(name, known) {
                message.push_str(&format!(" (did you mean ${meant}?)"));
            }
            self.context.lint.report(Rule::UndefinedVar, &statement.span, message);
        }
    }

    fn lint_secret(&self, word: &str, name: &str, statement: &Statement) {
        if is_secret(name) {
            let message = format!("Do not use ARG or ENV instructions for sensitive data ({word} {name:?})");
            self.context.lint.report(Rule::SecretsUsedInArgOrEnv, &statement.span, message);
        }
    }

    fn lint_port(&self, port: &str, statement: &Statement) {
        let (ports, protocol) = port.split_once('/').unwrap_or((port, ""));
        if protocol != protocol.to_lowercase() {
            let message = format!("Defined protocol '{port}' in EXPOSE instruction should be lowercase");
            self.context.lint.report(Rule::ExposeProtoCasing, &statement.span, message);
        }
        if ports.contains(':') {
            let message =
                format!("EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'");
            self.context.lint.report(Rule::ExposeInvalidFormat, &statement.span, message);
        }
    }

    /// Checks that what is copied by name is not ignored. With exceptions in the list nobody can tell beforehand.
    fn lint_ignored(&self, walk: &StageWalk, statement: &Statement, transfer: &Transfer, word: &str, escape: Escape) {
        let Some(ignore) = self.ignore.get_or_init(|| self.context.request.ignore()) else { return };
        if ignore.has_exceptions() {
            return;
        }
        for source in &transfer.sources {
            let Ok(source) = expand::word(source, &walk.state.env, escape) else { continue };
            let path = crate::files::path::clean(source.as_bytes());
            let is_ignored = if path.is_empty() { ignore.has_all_of_the_root() } else { ignore.excludes(&path) };
            // A URL is no path, and what it looks like says nothing.
            if is_ignored && !source.contains("://") {
                let path = String::from_utf8_lossy(&path);
                let path = if path.is_empty() { ".".into() } else { path };
                let message = format!("Attempting to {word} file {path:?} that is excluded by .dockerignore");
                self.context.lint.report(Rule::CopyIgnoredFile, &statement.span, message);
            }
        }
    }
}

/// Reads a context's list of what is ignored, for the lint alone: what is wrong with it is told when it is used.
pub(super) type LazyIgnore = std::cell::OnceCell<Option<Ignore>>;

fn is_secret(name: &str) -> bool {
    let lower = name.to_lowercase();
    let has = |words: &[&str]| lower.split('_').any(|word| words.contains(&word));
    has(&SECRET_WORDS) && !has(&HARMLESS_WORDS)
}

#[cfg(test)]
mod tests {
    use super::is_secret;

    #[test]
    fn names_of_secrets_are_known_by_their_words() {
        for name in ["API_KEY", "apikey", "DATABASE_PASSWORD", "GITHUB_TOKEN", "AUTH", "secret_message"] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["MONKEY", "KEYBOARD", "AUTHOR", "PUBLIC_KEY", "KEY_FILE", "TOKEN_VERSION", "PATH"] {
            assert!(!is_secret(name), "{name}");
        }
    }
}
