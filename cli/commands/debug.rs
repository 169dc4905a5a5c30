//! `slipway debug`: what slipway makes of a file, for people who write tools.

use std::io::{self, Read};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use builder::ignore::Ignore;
use builder::{Diagnostic, dockerfile};

use crate::failure::Failure;
use crate::session::Session;
use crate::terminal;

/// Show what slipway makes of a file
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
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

pub(crate) fn run(args: Args, _: &Session) -> anyhow::Result<ExitCode> {
    match args.what {
        What::Dockerfile { file } => print_dockerfile(&file)?,
        What::Dockerignore { file, paths } => print_ignored(&file, &paths)?,
    }
    Ok(ExitCode::SUCCESS)
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
