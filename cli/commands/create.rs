//! `slipway create`: a container of an image, without starting it.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use engine::ops;
use engine::ops::create::CreateError;

use super::run::ENGINE_ERROR;
use crate::failure::{Failure, Interrupted};
use crate::flags::container::{self, ContainerArgs};
use crate::progress::{self, OfRun};
use crate::session::{Session, Threads};
use crate::terminal;

/// Make a container of an image, without starting it
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    #[command(flatten)]
    container: ContainerArgs,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    make(&args.container, session).map_err(|error| match error {
        error if error.is::<Failure>() || error.is::<Interrupted>() => error,
        error => {
            // Only `run` has exit codes of its own.
            let code = if error.is::<CreateError>() { 1 } else { ENGINE_ERROR };
            explain(error, code).into()
        }
    })
}

fn make(args: &ContainerArgs, session: &Session) -> anyhow::Result<ExitCode> {
    let mut options = container::parse(args)?;
    options.config.attach_stdin = args.interactive;
    options.config.stdin_once = args.interactive;
    options.config.attach_stdout = true;
    options.config.attach_stderr = true;
    let cidfile = CidFile::begin(args.cidfile.as_deref())?;
    let insecure = args.insecure()?;
    let engine = session.engine_for(&insecure.iter().map(String::as_str).collect::<Vec<_>>())?;
    let view = progress::of_transfer(session.progress());
    let events = OfRun::new(view.clone(), cidfile, || {});
    let create = ops::create::create(&engine, options, &events, session.cancel());
    let result = session.wait(Threads::One, create);
    view.finish();
    terminal::print_line(result?.id())?;
    Ok(ExitCode::SUCCESS)
}

/// Gives an error its exit code, and advice.
pub(crate) fn explain(error: anyhow::Error, code: u8) -> Failure {
    let texts: Vec<String> = error.chain().map(ToString::to_string).collect();
    let says = |text: &str| texts.iter().any(|message| message.contains(text));
    let failure = Failure::new(error).code(code);
    match code {
        ENGINE_ERROR if says("cannot set the network up") => {
            failure.hint("--network host and --network none need no bridge")
        }
        ENGINE_ERROR if !rustix::process::geteuid().is_root() && says("cannot start the container") => {
            failure.hint(crate::rootless::advice())
        }
        127 => failure.hint("the program must be in the image; `slipway run --entrypoint sh …` lets you look around"),
        _ => failure,
    }
}

/// The file of `--cidfile`, which must not be there before.
pub(crate) struct CidFile(Option<PathBuf>);

impl CidFile {
    /// Refuses a file that is there, before anything is made.
    pub(crate) fn begin(path: Option<&Path>) -> anyhow::Result<Self> {
        if let Some(path) = path
            && path.exists()
        {
            anyhow::bail!(
                "container ID file found, make sure the other container isn't running or delete {}",
                path.display()
            );
        }
        Ok(Self(path.map(Path::to_owned)))
    }

    /// Writes the ID.
    pub(crate) fn write(&self, id: &str) -> anyhow::Result<()> {
        let Some(path) = &self.0 else { return Ok(()) };
        let written = File::create_new(path).and_then(|mut file| file.write_all(id.as_bytes()));
        written.with_context(|| format!("cannot write `{}`", path.display()))
    }
}
