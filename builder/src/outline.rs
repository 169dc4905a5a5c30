//! [`Outline`] and [`Target`]: what a Dockerfile can be asked for, and what it can be given.

use std::collections::{BTreeMap, BTreeSet};

use crate::dockerfile::{BuildArg, Escape, Instruction, MountKind, Span, Statement, expand};
use crate::evaluate::{Evaluator, StageWalk};
use crate::plan::Plan;

/// What a target can be given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// The stage's name, if it has one.
    pub name: Option<String>,
    /// What the comment above it says.
    pub description: Option<String>,
    /// The arguments that it and all that it needs use, in the order of the file.
    pub arguments: Vec<Argument>,
    /// The secrets, in the order of the file.
    pub secrets: Vec<SecretUse>,
    /// The SSH agents, in the order of the file.
    pub ssh: Vec<SecretUse>,
}

/// A build argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    /// Its name.
    pub name: String,
    /// What the comment above it says.
    pub description: Option<String>,
    /// Its value in this build.
    pub value: Option<String>,
    /// Where it is declared.
    pub span: Span,
}

/// The use of a secret or an SSH agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretUse {
    /// Its ID.
    pub id: String,
    /// Whether a build without it fails.
    pub required: bool,
    /// Where it is used.
    pub span: Span,
}

/// A stage that can be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Whether it is built when none is named.
    pub is_default: bool,
    /// What the comment above it says.
    pub description: Option<String>,
    /// What it starts from, unexpanded.
    pub base: String,
    /// Its platform, unexpanded.
    pub platform: Option<String>,
    /// Where it begins.
    pub span: Span,
}

/// What an instruction asks its caller for.
#[derive(Debug)]
pub(crate) enum Asked {
    Argument(Argument),
    /// An argument that takes over the global one of its name.
    Global(String),
    Secret(SecretUse),
    Ssh(SecretUse),
}

impl Evaluator<'_> {
    /// Notes what an instruction asks for.
    pub(crate) fn ask(&mut self, walk: &StageWalk, statement: &Statement, escape: Escape) {
        match &statement.instruction {
            Instruction::Arg(arguments) => {
                for argument in arguments {
                    let given = self.given(&argument.name);
                    let default = || {
                        let text = argument.default.as_ref()?;
                        expand::word(text, &walk.state.env, escape).ok()
                    };
                    let is_global = given.is_none() && argument.default.is_none();
                    let asked = if is_global && self.globals().contains_key(&argument.name) {
                        Asked::Global(argument.name.clone())
                    } else {
                        Asked::Argument(declared(argument, given.cloned().or_else(default), statement))
                    };
                    self.asked.push(asked);
                }
            }
            Instruction::Run(run) => {
                for flag in &run.mounts {
                    let mount = flag.resolve(&mut |text| expand::word(text, &walk.state.env, escape));
                    let Ok(mount) = mount else { continue };
                    let id = mount.id.clone().or(mount.source.clone());
                    let used = |id: String| SecretUse { id, required: mount.required, span: statement.span.clone() };
                    match mount.kind {
                        MountKind::Secret => {
                            let target = mount.target.as_deref().unwrap_or_default();
                            let name = || target.rsplit('/').next().unwrap_or_default().to_owned();
                            self.asked.push(Asked::Secret(used(id.unwrap_or_else(name))));
                        }
                        MountKind::Ssh => {
                            self.asked.push(Asked::Ssh(used(id.unwrap_or_else(|| "default".to_owned()))));
                        }
                        MountKind::Bind | MountKind::Cache | MountKind::Tmpfs => {}
                    }
                }
            }
            _ => {}
        }
    }
}

fn declared(argument: &BuildArg, value: Option<String>, statement: &Statement) -> Argument {
    Argument {
        name: argument.name.clone(),
        description: description(&statement.comments, &argument.name),
        value,
        span: statement.span.clone(),
    }
}

/// Returns what a comment of the form `# NAME what it is for` says.
fn description(comments: &[String], name: &str) -> Option<String> {
    comments.iter().find_map(|comment| Some(comment.strip_prefix(name)?.strip_prefix(' ')?.to_owned()))
}

/// Sums up what the stages that were evaluated ask for.
pub(crate) fn of(evaluator: &Evaluator<'_>, plan: &Plan<'_>, target: usize) -> Outline {
    let stage = &plan.stages[target];
    let name = stage.from.name.clone();
    let description = name.as_ref().and_then(|name| description(&stage.statement.comments, name));
    let mut outline = Outline { name, description, ..Outline::default() };
    let mut globals: BTreeSet<String> = BTreeSet::new();
    for index in evaluator.evaluated() {
        let from = plan.stages[index].from;
        for text in std::iter::once(&from.base).chain(&from.platform) {
            globals.extend(evaluator.expand_from(text).map(|expanded| expanded.used).unwrap_or_default());
        }
    }
    let mut arguments: BTreeMap<(u32, String), Argument> = BTreeMap::new();
    let mut add = |argument: Argument| {
        arguments.insert((argument.span.first_line, argument.name.clone()), argument);
    };
    for asked in &evaluator.asked {
        match asked {
            Asked::Argument(argument) => add(argument.clone()),
            Asked::Global(name) => {
                globals.insert(name.clone());
            }
            Asked::Secret(secret) if outline.secrets.iter().all(|other| other.id != secret.id) => {
                outline.secrets.push(secret.clone());
            }
            Asked::Ssh(agent) if outline.ssh.iter().all(|other| other.id != agent.id) => {
                outline.ssh.push(agent.clone());
            }
            Asked::Secret(_) | Asked::Ssh(_) => {}
        }
    }
    // The last first: a default may use those before it.
    for statement in plan.global.iter().rev() {
        let Instruction::Arg(list) = &statement.instruction else { continue };
        for argument in list.iter().rev().filter(|argument| globals.contains(&argument.name)).collect::<Vec<_>>() {
            if let Some(default) = &argument.default {
                globals.extend(evaluator.expand_from(default).map(|expanded| expanded.used).unwrap_or_default());
            }
            add(declared(argument, evaluator.globals().get(&argument.name).cloned(), statement));
        }
    }
    outline.arguments = arguments.into_values().collect();
    outline.secrets.sort_by_key(|secret| secret.span.first_line);
    outline.ssh.sort_by_key(|agent| agent.span.first_line);
    outline
}

/// Lists the stages.
pub(crate) fn targets(plan: &Plan<'_>) -> Vec<Target> {
    let stages = plan.stages.iter().map(|stage| {
        let name = stage.from.name.clone();
        Target {
            description: name.as_ref().and_then(|name| description(&stage.statement.comments, name)),
            name,
            is_default: stage.index + 1 == plan.stages.len(),
            base: stage.from.base.clone(),
            platform: stage.from.platform.clone(),
            span: stage.statement.span.clone(),
        }
    });
    stages.collect()
}
