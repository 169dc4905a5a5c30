//! From the instructions of stages to steps and image configs: variables are expanded, images resolved, triggers fired.

mod circles;
mod lint;
mod origin;
mod run;
mod transfer;

use std::collections::{BTreeMap, BTreeSet};

use oci::Platform;

use self::circles::taken_from;
use crate::dockerfile::expand;
use crate::dockerfile::{self, BuildArg, Escape, Instruction, KeyValue, Span, Statement, Warning};
use crate::error::{BuildError, Diagnostic};
use crate::events::{BuildEvent, BuildEvents, Surroundings};
use crate::executor::Security;
use crate::fault::Fault;
use crate::files::path::clean;
use crate::graph::{Graph, MakeFolderOperation, SourceStep, Step, StepIndex, StepKind};
use crate::image_state::ImageState;
use crate::lint::Linter;
use crate::outline::Asked;
use crate::plan::{From, Plan, Stage};
use crate::ports;
use crate::request::BuildRequest;
use crate::source::ImageSource;

/// What evaluating needs to know.
pub(crate) struct Evaluation<'a> {
    pub(crate) request: &'a BuildRequest,
    pub(crate) plan: &'a Plan<'a>,
    pub(crate) escape: Escape,
    pub(crate) images: &'a dyn ImageSource,
    pub(crate) events: &'a dyn BuildEvents,
    pub(crate) lint: &'a Linter,
    /// Whether only questions are answered: then images that cannot be had are taken as empty, and none is looked at for
    /// its files.
    pub(crate) only_asking: bool,
    /// Makes an error of a fault and its place.
    pub(crate) locate: &'a dyn Fn(Fault, Option<&Span>) -> Diagnostic,
}

/// Evaluates the stages that one platform's image needs.
pub(crate) struct Evaluator<'a> {
    context: &'a Evaluation<'a>,
    platform: &'a Platform,
    graph: &'a mut Graph,
    /// What `FROM` lines may use, and bare `ARG`s take over.
    globals: BTreeMap<String, String>,
    stages: BTreeMap<usize, Option<ImageState>>,
    used_args: BTreeSet<String>,
    images: BTreeMap<String, (SourceStep, oci::ImageConfig)>,
    several: bool,
    /// The stages whose base image could not be had.
    pub(crate) unknown: BTreeSet<usize>,
    /// The stages that have said where they work.
    with_workdir: BTreeSet<usize>,
    ignore: lint::LazyIgnore,
    /// What the stages that were evaluated ask their caller for.
    pub(crate) asked: Vec<Asked>,
}

/// Where an evaluation failed.
type Result<T, E = Box<BuildError>> = std::result::Result<T, E>;

/// The names of build arguments that every build may be given, and that are never unused.
const BUILTIN_ARGS: &[&str] = &["BUILDKIT_", "BUILDX_", "SOURCE_DATE_EPOCH"];

/// Arguments that reach `RUN` without being declared, and change no cache key.
const PROXY_ARGS: &[&str] = &["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

impl<'a> Evaluator<'a> {
    /// Evaluates the global `ARG`s.
    pub(crate) fn new(
        context: &'a Evaluation<'a>,
        platform: &'a Platform,
        several: bool,
        graph: &'a mut Graph,
    ) -> Result<Self> {
        let mut globals = BTreeMap::new();
        for (prefix, platform) in [("BUILD", &context.request.build_platform), ("TARGET", platform)] {
            globals.insert(format!("{prefix}PLATFORM"), platform.to_string());
            globals.insert(format!("{prefix}OS"), platform.os.clone());
            globals.insert(format!("{prefix}OSVERSION"), platform.os_version.clone().unwrap_or_default());
            globals.insert(format!("{prefix}ARCH"), platform.architecture.clone());
            globals.insert(format!("{prefix}VARIANT"), platform.variant.clone().unwrap_or_default());
        }
        let target = context.request.target.clone().filter(|target| !target.is_empty());
        globals.insert("TARGETSTAGE".into(), target.unwrap_or_else(|| "default".into()));
        for (name, value) in &mut globals {
            if let Some(given) = context.request.build_args.get(name) {
                value.clone_from(given);
            }
        }
        let mut evaluator = Self {
            context,
            platform,
            graph,
            globals,
            stages: BTreeMap::new(),
            used_args: BTreeSet::new(),
            images: BTreeMap::new(),
            several,
            unknown: BTreeSet::new(),
            with_workdir: BTreeSet::new(),
            ignore: lint::LazyIgnore::default(),
            asked: Vec::new(),
        };
        for statement in context.plan.global {
            if let Instruction::Arg(arguments) = &statement.instruction {
                for argument in arguments {
                    evaluator.global_arg(argument, statement)?;
                }
            }
        }
        if let Some(epoch) = context.request.source_date_epoch.or(context.request.reproducible) {
            evaluator.globals.entry("SOURCE_DATE_EPOCH".into()).or_insert_with(|| epoch.to_string());
        }
        evaluator.refuse_circles()?;
        Ok(evaluator)
    }

    fn global_arg(&mut self, argument: &BuildArg, statement: &Statement) -> Result<()> {
        let given = self.context.request.build_args.get(&argument.name).cloned();
        self.used_args.insert(argument.name.clone());
        let value = match (given, &argument.default) {
            (Some(given), _) => Some(given),
            (None, Some(default)) => {
                Some(self.at(statement, expand::word(default, &self.globals, self.context.escape))?)
            }
            (None, None) => None,
        };
        if let Some(value) = value {
            if argument.name == "SOURCE_DATE_EPOCH" {
                self.at(statement, parse_epoch(&value))?;
            }
            self.globals.insert(argument.name.clone(), value);
        }
        Ok(())
    }

    /// Returns the epoch that the Dockerfile's own `ARG SOURCE_DATE_EPOCH` says.
    pub(crate) fn epoch(&self) -> Option<i64> {
        self.globals.get("SOURCE_DATE_EPOCH").and_then(|text| parse_epoch(text).ok().flatten())
    }

    /// Returns what global arguments stand for.
    pub(crate) fn globals(&self) -> &BTreeMap<String, String> {
        &self.globals
    }

    /// Returns what the caller gives for an argument.
    pub(crate) fn given(&self, name: &str) -> Option<&String> {
        self.context.request.build_args.get(name)
    }

    /// Returns the stages that were evaluated, in order.
    pub(crate) fn evaluated(&self) -> impl Iterator<Item = usize> {
        self.stages.keys().copied()
    }

    /// Returns what the lint rules found so far.
    pub(crate) fn findings(&self) -> Vec<Warning> {
        self.context.lint.found()
    }

    /// Evaluates a stage and all that it needs, and returns the image that it makes.
    ///
    /// What it needs comes first, the lowest stage first: stages may stand on each other by the thousand, calls may not.
    pub(crate) fn stage(&mut self, index: usize) -> Result<ImageState> {
        let mut needed = BTreeSet::new();
        let mut open = vec![index];
        while let Some(stage) = open.pop() {
            if !self.stages.contains_key(&stage) && needed.insert(stage) {
                open.extend(self.stages_needed(stage));
            }
        }
        needed.into_iter().filter(|stage| *stage != index).try_for_each(|stage| self.one_stage(stage).map(drop))?;
        self.one_stage(index)
    }

    /// Returns the earlier stages that a stage's own lines name.
    fn stages_needed(&self, index: usize) -> Vec<usize> {
        let stage = &self.context.plan.stages[index];
        if stage.from.name.as_ref().is_some_and(|name| self.is_replaced(name)) {
            return Vec::new();
        }
        // What cannot be expanded is told when the stage is evaluated.
        let base = expand::word(&stage.from.base, &self.globals, self.context.escape).unwrap_or_default();
        let base = if base == "scratch" { None } else { self.context.plan.base(&base, index) };
        base.into_iter().chain(self.stages_copied_from(stage.statements, index)).collect()
    }

    fn one_stage(&mut self, index: usize) -> Result<ImageState> {
        match self.stages.get(&index) {
            Some(Some(state)) => return Ok(state.clone()),
            Some(None) => {
                let stage = &self.context.plan.stages[index];
                let fault = Fault::new(format!("stage `{}` depends on itself", self.context.plan.name(index)));
                return Err(self.fault(fault, Some(&stage.statement.span)));
            }
            None => {}
        }
        self.stages.insert(index, None);
        let state = self.evaluate_stage(index)?;
        self.stages.insert(index, Some(state.clone()));
        Ok(state)
    }

    /// Checks what the `FROM` and `--from` of all stages name, also of those that are not built: like BuildKit, a build
    /// refuses a Dockerfile of which some stage could never be built.
    pub(crate) fn check_stages(&self) -> Result<()> {
        let plan = self.context.plan;
        for stage in &plan.stages {
            let (base, _) = self.base_of(stage)?;
            let is_replaced = stage.from.name.as_ref().is_some_and(|name| self.is_replaced(name));
            if !is_replaced && plan.base(&base, stage.index).is_none() {
                self.check_name(&base, stage.statement)?;
            }
            for statement in stage.statements {
                let names = taken_from(statement);
                let mut others = names.filter(|name| plan.from(name, stage.index) == From::Other);
                others.try_for_each(|name| self.check_name(name, statement))?;
            }
        }
        Ok(())
    }

    /// Checks that a name of no stage can be one of an image.
    fn check_name(&self, name: &str, statement: &Statement) -> Result<()> {
        if name == "scratch" || self.is_replaced(name) {
            return Ok(());
        }
        self.reference(name, statement).map(drop)
    }

    /// Expands what a `FROM` says: the base, and `--platform`.
    fn base_of(&self, stage: &Stage<'_>) -> Result<(String, Option<Platform>)> {
        let Stage { from, statement, .. } = *stage;
        let word = |text: &str| self.at(statement, expand::word(text, &self.globals, self.context.escape));
        let base = word(&from.base)?;
        if base.is_empty() {
            let fault = Fault::new(format!("base name ({}) should not be blank", from.base));
            let fault = fault.hint("an `ARG` before the first FROM gives it a default");
            return Err(self.fault(fault, Some(&statement.span)));
        }
        let platform =
            from.platform.as_deref().map(word).transpose()?.map(|text| {
                self.at(statement, text.parse::<Platform>().map_err(|error| Fault::new(error.to_string())))
            });
        Ok((base, platform.transpose()?))
    }

    fn evaluate_stage(&mut self, index: usize) -> Result<ImageState> {
        let stage = &self.context.plan.stages[index];
        let (base, platform) = self.base_of(stage)?;
        let platform = platform.as_ref().unwrap_or(self.platform);
        if let Some(name) = &stage.from.name
            && let Some(state) = self.replacement(name, platform, stage.statement)?
        {
            return Ok(state);
        }
        let mut triggers = Vec::new();
        let earlier = self.context.plan.base(&base, index);
        let replaced = if earlier.is_none() { self.replacement(&base, platform, stage.statement)? } else { None };
        let state = if base == "scratch" {
            ImageState::scratch(self.platform)
        } else if let Some(mut state) = replaced {
            triggers = std::mem::take(&mut state.config.on_build);
            state
        } else if let Some(earlier) = earlier {
            let mut state = ImageState::of_stage(&self.stage(earlier)?);
            triggers = std::mem::take(&mut state.config.on_build);
            if self.unknown.contains(&earlier) {
                self.unknown.insert(index);
            }
            if self.with_workdir.contains(&earlier) {
                self.with_workdir.insert(index);
            }
            state
        } else {
            let found = self.image(&base, platform, stage.statement);
            if found.is_err() && self.context.only_asking {
                self.unknown.insert(index);
                return self.rest_of_stage(index, ImageState::scratch(self.platform), &base, Vec::new());
            }
            let (source, config) = found?;
            self.lint_platform(&base, platform, &config.platform(), stage.statement);
            let layers = source.layers.len();
            let name = format!("[{}1/{}] FROM {base}", self.label(index), self.total(index));
            let top = self.graph.add(Step {
                kind: StepKind::Source(source),
                name,
                span: Some(stage.statement.span.clone()),
                ignore_cache: false,
            });
            let mut state = ImageState::of_image(self.platform, &config, layers, top);
            self.graph.surround(top, || state.surroundings(self.context.request.network));
            triggers = std::mem::take(&mut state.config.on_build);
            state
        };
        self.rest_of_stage(index, state, &base, triggers)
    }

    /// Evaluates what comes after a `FROM`: the triggers of what it names, then the stage's own instructions.
    fn rest_of_stage(
        &mut self,
        index: usize,
        state: ImageState,
        base: &str,
        triggers: Vec<String>,
    ) -> Result<ImageState> {
        let stage = &self.context.plan.stages[index];
        let is_image = base != "scratch" && self.context.plan.base(base, index).is_none();
        let (number, total) = (usize::from(is_image), self.total(index));
        let mut walk = StageWalk { index, state, number, total, trigger: false };
        for text in triggers {
            let mut statement = dockerfile::parse_trigger(&text).map_err(|error| {
                let fault = Fault {
                    hint: error.hint.or(error.suggestion),
                    ..Fault::new(format!("ONBUILD {text}: {}", error.message))
                };
                self.fault(fault, Some(&stage.statement.span))
            })?;
            // Its place is the `FROM` that fires it.
            statement.span = stage.statement.span.clone();
            for needed in self.stages_copied_from(std::slice::from_ref(&statement), index) {
                self.stage(needed)?;
            }
            walk.trigger = true;
            self.instruction(&mut walk, &statement, Escape::Backslash)?;
        }
        walk.trigger = false;
        for statement in stage.statements {
            self.instruction(&mut walk, statement, self.context.escape)?;
        }
        Ok(walk.state)
    }

    /// Returns the stages that instructions take files from, whose steps must come first.
    fn stages_copied_from(&self, statements: &[Statement], here: usize) -> Vec<usize> {
        let names = statements.iter().flat_map(taken_from);
        let stages = names.filter(|name| !self.is_replaced(name)).map(|name| self.context.plan.from(name, here));
        stages.filter_map(|from| if let From::Stage(index) = from { Some(index) } else { None }).collect()
    }

    fn instruction(&mut self, walk: &mut StageWalk, statement: &Statement, escape: Escape) -> Result<()> {
        self.lint_instruction(walk, statement, escape);
        if self.context.only_asking {
            self.ask(walk, statement, escape);
        }
        let word = |text: &str| expand::word(text, &walk.state.env, escape);
        match &statement.instruction {
            Instruction::Arg(arguments) => self.arguments(walk, arguments, statement, escape)?,
            Instruction::Env(pairs) => {
                let pairs = self.at(statement, expand_pairs(pairs, &word))?;
                walk.state.set_env(&pairs);
            }
            Instruction::Label(pairs) => {
                let pairs = self.at(statement, expand_pairs(pairs, &word))?;
                walk.state.set_labels(&pairs);
            }
            Instruction::Cmd(command) => walk.state.set_cmd(command),
            Instruction::Entrypoint(command) => walk.state.set_entrypoint(command),
            Instruction::Shell(shell) => {
                walk.state.note(format!("SHELL {}", crate::go::list(shell)));
                walk.state.config.shell = shell.clone();
            }
            Instruction::Expose(words) => {
                let mut found = Vec::new();
                for text in words {
                    for port in self.at(statement, expand::words(text, &walk.state.env, escape))? {
                        found.extend(self.at(statement, ports::parse(&port))?);
                    }
                }
                walk.state.expose(found);
            }
            Instruction::Volume(volumes) => {
                let volumes: std::result::Result<Vec<_>, _> = volumes.iter().map(|text| word(text)).collect();
                let volumes = self.at(statement, volumes)?;
                self.at(statement, walk.state.add_volumes(volumes))?;
            }
            Instruction::User(user) => {
                let user = self.at(statement, word(user))?;
                walk.state.note(format!("USER {user}"));
                walk.state.config.user = user;
            }
            Instruction::StopSignal(signal) => {
                let signal = self.at(statement, word(signal))?;
                self.at(statement, ports::check_signal(&signal))?;
                walk.state.note(format!("STOPSIGNAL {signal}"));
                walk.state.config.stop_signal = Some(signal);
            }
            Instruction::Healthcheck(check) => walk.state.set_healthcheck(check),
            Instruction::Maintainer(author) => {
                walk.state.note(format!("MAINTAINER {author}"));
                walk.state.author = Some(author.clone());
            }
            Instruction::Onbuild(text) => walk.state.config.on_build.push(text.clone()),
            Instruction::Workdir(path) => {
                let path = self.at(statement, word(path))?;
                self.workdir(walk, &path, statement);
            }
            Instruction::Run(run) => self.run(walk, run, statement, escape)?,
            Instruction::Copy(copy) => self.copy(walk, copy, statement, escape)?,
            Instruction::Add(add) => self.add(walk, add, statement, escape)?,
            Instruction::From(_) => unreachable!("a stage ends where the next FROM begins"),
        }
        Ok(())
    }

    fn arguments(
        &mut self,
        walk: &mut StageWalk,
        arguments: &[BuildArg],
        statement: &Statement,
        escape: Escape,
    ) -> Result<()> {
        let mut said = Vec::new();
        for argument in arguments {
            // Each may use those before it.
            let name = self.at(statement, expand::word(&argument.name, &walk.state.env, escape))?;
            self.used_args.insert(name.clone());
            let value = match (self.context.request.build_args.get(&name), &argument.default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => Some(self.at(statement, expand::word(default, &walk.state.env, escape))?),
                (None, None) => self.globals.get(&name).cloned(),
            };
            if let Some(value) = &value {
                walk.state.env.set(&name, value);
            }
            said.push(value.as_ref().map_or_else(|| name.clone(), |value| format!("{name}={value}")));
            walk.state.args.push((name, value));
        }
        walk.state.note(format!("ARG {}", said.join(" ")));
        Ok(())
    }

    fn workdir(&mut self, walk: &mut StageWalk, path: &str, statement: &Statement) {
        let wanted = if path.starts_with('/') {
            path.to_owned()
        } else {
            absolute(&format!("{}/{path}", walk.state.working_dir()))
        };
        walk.state.config.working_dir.clone_from(&wanted);
        let name = self.step_name(walk, &format!("WORKDIR {wanted}"));
        let created_by = format!("WORKDIR {wanted}");
        if wanted == "/" {
            return walk.state.note(created_by);
        }
        let operation = MakeFolderOperation {
            base: walk.state.top,
            path: absolute(&wanted),
            owner: walk.state.config.user.clone(),
        };
        let step = self.push(walk, StepKind::MakeFolder(operation), name, statement);
        walk.state.note_step(created_by, step);
    }

    fn push(&mut self, walk: &StageWalk, kind: StepKind, name: String, statement: &Statement) -> StepIndex {
        let request = self.context.request;
        let stage = &self.context.plan.stages[walk.index];
        let named = |filter: &String| stage.from.name.as_deref() == Some(&filter.to_lowercase());
        let ignore_cache = request.no_cache || request.isolated || request.no_cache_filter.iter().any(named);
        let (network, security) = match &kind {
            StepKind::Exec(exec) => (exec.network, exec.security),
            _ => (request.network, Security::Sandbox),
        };
        let step = self.graph.add(Step { kind, name, span: Some(statement.span.clone()), ignore_cache });
        self.graph.surround(step, || Surroundings { security, ..walk.state.surroundings(network) });
        step
    }

    fn step_name(&self, walk: &mut StageWalk, text: &str) -> String {
        if walk.trigger {
            return format!("[{}ONBUILD] {text}", self.label(walk.index));
        }
        walk.number += 1;
        format!("[{}{}/{}] {text}", self.label(walk.index), walk.number, walk.total)
    }

    /// Returns the stage's name and a blank, when there is more than one stage.
    fn label(&self, index: usize) -> String {
        let platform = if self.several { format!("{} ", self.platform) } else { String::new() };
        if self.context.plan.stages.len() == 1 {
            return platform;
        }
        format!("{platform}{} ", self.context.plan.name(index))
    }

    /// Counts the steps of a stage that people see.
    fn total(&self, index: usize) -> usize {
        let stage = &self.context.plan.stages[index];
        let is_step = |statement: &&Statement| {
            matches!(
                statement.instruction,
                Instruction::Run(_) | Instruction::Copy(_) | Instruction::Add(_) | Instruction::Workdir(_)
            )
        };
        let own = stage.from.base != "scratch" && self.context.plan.base(&stage.from.base, index).is_none();
        usize::from(own) + stage.statements.iter().filter(is_step).count()
    }

    /// Warns of build arguments that nothing asked for.
    pub(crate) fn warn_of_unused_args(&self) {
        let is_used = |name: &&String| {
            self.used_args.contains(*name)
                || self.globals.contains_key(*name)
                || BUILTIN_ARGS.iter().any(|prefix| name.starts_with(prefix))
                || PROXY_ARGS.contains(&name.to_uppercase().as_str())
        };
        let unused: Vec<&str> =
            self.context.request.build_args.keys().filter(|name| !is_used(name)).map(String::as_str).collect();
        if !unused.is_empty() {
            let message = format!("one or more build-args [{}] were not consumed", unused.join(" "));
            self.context.events.event(BuildEvent::Warning { message, lines: None });
        }
    }

    fn at<T, E: Into<Fault>>(&self, statement: &Statement, result: std::result::Result<T, E>) -> Result<T> {
        result.map_err(|error| self.fault(error.into(), Some(&statement.span)))
    }

    fn fault(&self, fault: Fault, span: Option<&Span>) -> Box<BuildError> {
        Box::new(BuildError::Refused(Box::new((self.context.locate)(fault, span))))
    }
}

/// A stage on its way.
pub(crate) struct StageWalk {
    index: usize,
    pub(crate) state: ImageState,
    /// The number of the last step that people see.
    number: usize,
    /// How many they see in all.
    total: usize,
    /// Whether the instruction comes from an `ONBUILD`.
    trigger: bool,
}

/// Parses `SOURCE_DATE_EPOCH`; empty text is none.
pub(crate) fn parse_epoch(text: &str) -> std::result::Result<Option<i64>, Fault> {
    if text.is_empty() {
        return Ok(None);
    }
    let invalid =
        || Fault::new(format!("invalid SOURCE_DATE_EPOCH: {text}")).hint("it is a number of seconds since 1970");
    let seconds = text.parse().map_err(|_| invalid())?;
    jiff::Timestamp::from_second(seconds).map_err(|_| invalid())?;
    Ok(Some(seconds))
}

type Expand<'a> = dyn Fn(&str) -> std::result::Result<String, expand::ExpandError> + 'a;

fn expand_pairs(
    pairs: &[KeyValue],
    word: &Expand<'_>,
) -> std::result::Result<Vec<(String, String)>, expand::ExpandError> {
    pairs.iter().map(|pair| Ok((word(&pair.key)?, word(&pair.value)?))).collect()
}

/// Returns the name of the file that a heredoc makes, which lies in a folder of its own: `<</a` and `<<../a` are called
/// `a`. One that would lie in a folder below that, or leads elsewhere, is refused.
fn file_name(name: &str) -> std::result::Result<String, Fault> {
    let cleaned = absolute(name).split_off(1);
    if cleaned.is_empty() || cleaned.contains(['/', '\0']) {
        let fault = Fault::new(format!("the heredoc `<<{name}` makes a file of its name, and that is no file name"));
        return Err(fault.hint("name it with a plain word, such as `<<EOF`"));
    }
    Ok(cleaned)
}

fn absolute(path: &str) -> String {
    format!("/{}", String::from_utf8_lossy(&clean(path.as_bytes())))
}
