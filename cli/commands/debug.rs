//! `slipway debug`: a shell in a step of a past build; and what slipway makes of a file, for people who write tools.

use std::io::{self, Read};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use builder::ignore::Ignore;
use builder::{Diagnostic, dockerfile};
use engine::ops::debug::{DebugError, DebugOptions, Opened, debug};
use engine::shell::OpenShellError;

use super::build::secret_source;
use crate::failure::Failure;
use crate::session::{Session, Threads};
use crate::{shell, terminal};

const NOTES: &str = "\
Examples:
  slipway debug                         A shell where the last build failed, or in its last step
  slipway debug 3fa9 4                  A shell in step 4 of a build, after it was done
  slipway debug ^1 test                 In the last step of the stage `test` of the build before
  slipway debug ^0 'RUN make' ls -l     One command, in the step whose instruction has these words

The shell has the step's variables, user, folder, caches and network; what is written there goes away with
it. `slipway history` lists the builds; `slipway history logs BUILD` numbers their steps.";

/// Open a shell in a step of a past build, or show what slipway makes of a file
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, after_help = NOTES)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: Option<What>,
    /// The build: its ID or the beginning of it; ^0 is the last one, ^1 the one before
    #[arg(value_name = "BUILD", default_value = "^0")]
    build: String,
    /// The step: its number, its stage, or a part of its instruction [default: the one that failed, or the last]
    #[arg(value_name = "STEP")]
    step: Option<String>,
    /// What to run in place of a shell
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
    /// Be this user in place of the step's
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// A secret that the step mounts: secrets are not remembered
    #[arg(long = "secret", value_name = "id=ID[,src=FILE|,env=NAME]")]
    secrets: Vec<String>,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Print how a Dockerfile is parsed, as JSON
    Dockerfile {
        /// The Dockerfile; `-` is standard input
        file: std::path::PathBuf,
    },
    /// Tell which paths a .dockerignore excludes
    Dockerignore {
        /// The .dockerignore
        file: std::path::PathBuf,
        /// Paths relative to the build context
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<String>,
    },
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    match &args.what {
        Some(What::Dockerfile { file }) => print_dockerfile(file)?,
        Some(What::Dockerignore { file, paths }) => print_ignored(file, paths)?,
        None => return open_shell(args, session),
    }
    Ok(ExitCode::SUCCESS)
}

fn open_shell(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let secrets = args.secrets.iter().map(|text| secret_source(text).context("--secret"));
    let options = DebugOptions {
        build: args.build,
        step: args.step,
        command: args.command,
        user: args.user,
        secrets: secrets.collect::<Result<_, _>>()?,
    };
    let engine = session.engine()?;
    let ends = |opened: &Opened| {
        let name = opened.name.lines().next().unwrap_or_default();
        terminal::note(&terminal::printable(&format!("build {}, step {}: {name}", opened.build, opened.number)));
        for note in &opened.notes {
            terminal::note(&terminal::printable(&format!("note: {note}")));
        }
        shell::ends(true)
    };
    let code = session.wait(Threads::One, debug(&engine, options, ends, session.cancel())).map_err(advise)?;
    Ok(ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1)))
}

fn advise(error: anyhow::Error) -> anyhow::Error {
    let hint = match error.downcast_ref::<DebugError>() {
        Some(DebugError::Gone { .. } | DebugError::NothingMade { .. }) => "build it once more, and they are there",
        Some(DebugError::Shell(OpenShellError::NoShell { .. })) => {
            "name a program that they have after the step, or install busybox-static on this machine"
        }
        _ => return error,
    };
    Failure::new(error).hint(hint).into()
}

fn print_dockerfile(file: &Path) -> anyhow::Result<()> {
    let bytes = read(file)?;
    let dockerfile = dockerfile::parse(&bytes).map_err(|error| {
        let diagnostic = Diagnostic {
            message: error.message.clone(),
            file: file.display().to_string(),
            text: String::from_utf8_lossy(&bytes).into(),
            lines: Some(error.span.first_line as usize..=error.span.last_line as usize),
            hint: error.hint.clone(),
            ..Diagnostic::default()
        };
        Failure::new(error).rendered(diagnostic.render(terminal::has_color()))
    })?;
    terminal::print_json(&dockerfile::debug_json(&dockerfile).to_string())?;
    Ok(())
}

/// Prints an object per path, in the order in which they were asked for.
fn print_ignored(file: &Path, paths: &[String]) -> anyhow::Result<()> {
    let ignore = Ignore::parse(&read(file)?).with_context(|| format!("cannot use `{}`", file.display()))?;
    for path in paths {
        let excluded = ignore.excludes(path.as_bytes());
        terminal::print_json(&serde_json::json!({ "path": path, "excluded": excluded }).to_string())?;
    }
    Ok(())
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if file == Path::new("-") {
        io::stdin().read_to_end(&mut bytes).context("cannot read standard input")?;
    } else {
        bytes = std::fs::read(file).with_context(|| format!("cannot read `{}`", file.display()))?;
    }
    Ok(bytes)
}
