//! What a Dockerfile says: the typed instructions, each with its place in the file.
//!
//! Text that BuildKit expands later is held as it was written; `expand` turns
//! it into values once the stage's environment is known.

use std::ops::Range;
use std::time::Duration;

use super::mount::MountFlag;
use super::rule::Rule;

/// A parsed Dockerfile.
#[derive(Debug, Clone)]
pub struct Dockerfile {
    /// The directives at the top of the file.
    pub directives: Directives,
    /// The instructions in the order of the file; never empty.
    pub statements: Vec<Statement>,
    /// What a linter says about the text alone.
    pub warnings: Vec<Warning>,
}

/// The `# key=value` lines at the top of a Dockerfile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directives {
    /// `# syntax=IMAGE`, also in its `//` and JSON forms.
    pub syntax: Option<Directive>,
    /// `# check=skip=RULE,…;error=true`.
    pub check: Option<Directive>,
    /// `# escape=`: the character that escapes and that continues lines.
    pub escape: Escape,
}

/// One directive that names something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    /// The whole value.
    pub value: String,
    /// The line it is on, counted from 1.
    pub line: u32,
}

/// The character that escapes the next one and continues a line at its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Escape {
    /// `\`, unless a directive says otherwise.
    #[default]
    Backslash,
    /// `` ` ``, for Windows paths.
    Backtick,
}

impl Escape {
    /// Returns the character.
    pub fn char(self) -> char {
        match self {
            Self::Backslash => '\\',
            Self::Backtick => '`',
        }
    }

    pub(crate) fn byte(self) -> u8 {
        match self {
            Self::Backslash => b'\\',
            Self::Backtick => b'`',
        }
    }
}

/// Where something stands in a Dockerfile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Span {
    /// The first line, counted from 1.
    pub first_line: u32,
    /// The last line, heredoc bodies and their terminators included.
    pub last_line: u32,
    /// The bytes of the file, without the last line's end.
    pub bytes: Range<usize>,
}

/// An instruction with its place in the file and the text it was read from.
#[derive(Debug, Clone)]
pub struct Statement {
    /// What it says.
    pub instruction: Instruction,
    /// The first word as written, `run` or `RUN`.
    pub word: String,
    /// Where it stands.
    pub span: Span,
    /// One line: continued lines joined, comments dropped, blanks around it trimmed; without heredoc bodies.
    pub text: String,
    /// The comments right above it, for `--call=outline` and the lint of descriptions.
    pub comments: Vec<String>,
    /// The flags as written (`--from=x`), quotes removed.
    pub flags: Vec<Word>,
    /// The arguments before they were typed; for `ENV` and `LABEL` name, value and separator in turns.
    pub arguments: Vec<Word>,
    /// Whether the arguments were a JSON array.
    pub json: bool,
    /// The heredocs in order, bodies included.
    pub heredocs: Vec<Heredoc>,
    /// For `ONBUILD`: the trigger, split but not typed.
    pub trigger: Option<Box<Trigger>>,
}

/// The split trigger of an `ONBUILD`, which is typed only where it fires.
#[derive(Debug, Clone)]
pub struct Trigger {
    /// Its first word as written.
    pub word: String,
    /// Its flags.
    pub flags: Vec<Word>,
    /// Its arguments.
    pub arguments: Vec<Word>,
    /// Whether the arguments were a JSON array.
    pub json: bool,
    /// The trigger of a trigger; typing refuses it.
    pub trigger: Option<Box<Trigger>>,
}

/// A flag or an argument and where it stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Word {
    /// The text, unexpanded.
    pub text: String,
    /// The bytes of the file it was read from.
    pub bytes: Range<usize>,
}

/// A heredoc of `RUN`, `COPY` or `ADD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The delimiter without quotes; the file name for `COPY` and `ADD`.
    pub name: String,
    /// The number before `<<`, 0 when there is none.
    pub file_descriptor: u64,
    /// Whether variables are expanded: no part of the delimiter was quoted.
    pub expand: bool,
    /// Whether it was `<<-`: leading tabs go (see [`Heredoc::chomped`]).
    pub chomp: bool,
    /// The body as it stands in the file, line ends included.
    pub content: Vec<u8>,
}

impl Heredoc {
    /// Returns the body, without leading tabs when it was `<<-`.
    pub fn chomped(&self) -> Vec<u8> {
        if !self.chomp {
            return self.content.clone();
        }
        let mut chomped = Vec::with_capacity(self.content.len());
        for line in self.content.split_inclusive(|&byte| byte == b'\n') {
            let tabs = line.iter().take_while(|&&byte| byte == b'\t').count();
            chomped.extend_from_slice(&line[tabs..]);
        }
        chomped
    }
}

/// What an instruction says, one variant a word.
#[derive(Debug, Clone)]
pub enum Instruction {
    /// `ADD`.
    Add(AddFiles),
    /// `ARG`.
    Arg(Vec<BuildArg>),
    /// `CMD`.
    Cmd(CommandLine),
    /// `COPY`.
    Copy(CopyFiles),
    /// `ENTRYPOINT`.
    Entrypoint(CommandLine),
    /// `ENV`.
    Env(Vec<KeyValue>),
    /// `EXPOSE`: ports, sorted, not yet expanded.
    Expose(Vec<String>),
    /// `FROM`.
    From(FromStage),
    /// `HEALTHCHECK`.
    Healthcheck(Healthcheck),
    /// `LABEL`.
    Label(Vec<KeyValue>),
    /// `MAINTAINER`.
    Maintainer(String),
    /// `ONBUILD`: the trigger's text with its heredocs, to be parsed by
    /// [`parse_trigger`](super::parse_trigger) where it fires.
    Onbuild(String),
    /// `RUN`.
    Run(RunCommand),
    /// `SHELL`; never empty.
    Shell(Vec<String>),
    /// `STOPSIGNAL`.
    StopSignal(String),
    /// `USER`.
    User(String),
    /// `VOLUME`; never empty, no empty strings.
    Volume(Vec<String>),
    /// `WORKDIR`.
    Workdir(String),
}

impl Instruction {
    /// Returns the word in upper case.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Add(_) => "ADD",
            Self::Arg(_) => "ARG",
            Self::Cmd(_) => "CMD",
            Self::Copy(_) => "COPY",
            Self::Entrypoint(_) => "ENTRYPOINT",
            Self::Env(_) => "ENV",
            Self::Expose(_) => "EXPOSE",
            Self::From(_) => "FROM",
            Self::Healthcheck(_) => "HEALTHCHECK",
            Self::Label(_) => "LABEL",
            Self::Maintainer(_) => "MAINTAINER",
            Self::Onbuild(_) => "ONBUILD",
            Self::Run(_) => "RUN",
            Self::Shell(_) => "SHELL",
            Self::StopSignal(_) => "STOPSIGNAL",
            Self::User(_) => "USER",
            Self::Volume(_) => "VOLUME",
            Self::Workdir(_) => "WORKDIR",
        }
    }
}

/// `FROM [--platform=P] BASE [AS NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FromStage {
    /// The base, an image or a stage, unexpanded.
    pub base: String,
    /// The stage's name in lower case.
    pub name: Option<String>,
    /// `--platform`, unexpanded.
    pub platform: Option<String>,
}

/// One name of an `ARG`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildArg {
    /// The name, unexpanded.
    pub name: String,
    /// The default, unexpanded; `None` without a `=`, which is not the same as empty.
    pub default: Option<String>,
}

/// One pair of an `ENV` or a `LABEL`, unexpanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The name.
    pub key: String,
    /// The value, quotes included.
    pub value: String,
    /// Whether it was written as `KEY the rest of the line`.
    pub legacy: bool,
}

/// A command in one of its two forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandLine {
    /// Text for the shell; empty when nothing was written.
    Shell(String),
    /// The arguments themselves; empty for `[]`.
    Exec(Vec<String>),
}

/// `RUN`.
#[derive(Debug, Clone)]
pub struct RunCommand {
    /// What to run. With heredocs it is the shell form that contains `<<NAME`.
    pub command: CommandLine,
    /// The heredocs, bodies included. They are never expanded by the builder.
    pub heredocs: Vec<Heredoc>,
    /// `--mount`s in order.
    pub mounts: Vec<MountFlag>,
    /// `--network`; `None` when it was not written.
    pub network: Option<RunNetwork>,
    /// `--security`; `None` when it was not written.
    pub security: Option<RunSecurity>,
    /// `--device`s in order.
    pub devices: Vec<Device>,
}

/// The network of a `RUN`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunNetwork {
    /// The build's.
    Default,
    /// Only loopback.
    None,
    /// The machine's.
    Host,
}

/// How much a `RUN` may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunSecurity {
    /// As every container.
    Sandbox,
    /// All capabilities, no filters.
    Insecure,
}

/// `RUN --device`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// The CDI name.
    pub name: String,
    /// Whether its absence is an error.
    pub required: bool,
}

/// What `COPY` and `ADD` have in common. All text is unexpanded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transfer {
    /// The sources that are paths (or URLs, for `ADD`).
    pub sources: Vec<String>,
    /// The sources that are heredocs.
    pub inline_files: Vec<InlineFile>,
    /// The destination.
    pub destination: String,
    /// `--chown`.
    pub chown: Option<String>,
    /// `--chmod`.
    pub chmod: Option<String>,
    /// `--link`.
    pub link: bool,
    /// `--exclude` patterns in order.
    pub exclude: Vec<String>,
}

/// A file written into the Dockerfile as a heredoc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InlineFile {
    /// Its name: the heredoc's delimiter.
    pub name: String,
    /// Its content, leading tabs already gone for `<<-`.
    pub content: Vec<u8>,
    /// Whether variables in the content are expanded ([`expand::content`](super::expand::content)).
    pub expand: bool,
}

/// `COPY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyFiles {
    /// What goes where.
    pub transfer: Transfer,
    /// `--from`.
    pub from: Option<String>,
    /// `--parents`.
    pub parents: bool,
}

/// `ADD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddFiles {
    /// What goes where.
    pub transfer: Transfer,
    /// `--checksum`, unexpanded.
    pub checksum: Option<String>,
    /// `--keep-git-dir`.
    pub keep_git_dir: Option<bool>,
    /// `--unpack`.
    pub unpack: Option<bool>,
}

/// `HEALTHCHECK`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Healthcheck {
    /// `HEALTHCHECK NONE`: the base's check is off.
    None,
    /// `HEALTHCHECK [flags] CMD …`. A zero duration and zero retries mean "inherit".
    Command {
        /// What to run.
        command: CommandLine,
        /// `--interval`.
        interval: Duration,
        /// `--timeout`.
        timeout: Duration,
        /// `--start-period`.
        start_period: Duration,
        /// `--start-interval`.
        start_interval: Duration,
        /// `--retries`.
        retries: u32,
    },
}

/// A lint finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// BuildKit's name of the rule.
    pub rule: Rule,
    /// What is wrong, as BuildKit words it.
    pub message: String,
    /// Where.
    pub span: Span,
}

/// Why a text is not a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ParseError {
    /// What is wrong, as BuildKit words it where it has words for it.
    pub message: String,
    /// Where.
    pub span: Span,
    /// The word that was probably meant.
    pub suggestion: Option<String>,
    /// What to do, where that is known.
    pub hint: Option<String>,
}
