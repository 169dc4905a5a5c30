//! `slipway import`: makes an image of a tar of files.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use engine::ops::import::{ImportError, ImportOptions, import};

use crate::session::{Session, Threads};
use crate::{clock, terminal};

const EXAMPLES: &str = "\
Examples:
  mmdebstrap --variant=minbase bookworm | slipway import - debian:12
  slipway import --change 'CMD [\"/bin/bash\"]' --change 'ENV LANG=C.UTF-8' root.tar.zst base

The instructions that --change takes: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD,
STOPSIGNAL, USER, VOLUME and WORKDIR.";

/// Make an image of a tar of files
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The tar, plain or compressed; `-` is standard input
    #[arg(value_name = "FILE|-")]
    source: std::path::PathBuf,
    /// What to call the image
    #[arg(value_name = "NAME[:TAG]")]
    name: Option<oci::Reference>,
    /// Apply a Dockerfile instruction to the image
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// A note for the image's history
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// What the files are for [default: the machine's platform]
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<oci::Platform>,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let is_stdin = args.source == Path::new("-");
    let name = if is_stdin { "standard input".to_owned() } else { format!("`{}`", args.source.display()) };
    let source: Box<dyn Read + Send> = if is_stdin {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(&args.source).with_context(|| format!("cannot open {name}"))?)
    };
    let engine = session.engine()?;
    let options = ImportOptions {
        name: args.name,
        changes: args.change,
        message: args.message.unwrap_or_else(|| {
            // Where the file lies on this machine is nobody's business.
            let file = args.source.file_name().unwrap_or(args.source.as_os_str());
            format!("Imported from {}", file.display())
        }),
        platform: args.platform.unwrap_or_else(oci::Platform::host),
        now: clock::now(),
    };
    let id = session.wait(Threads::One, import(&engine, source, options, session.cancel()));
    let id = id.map_err(|error| match error.downcast_ref() {
        // What is wrong with these has nothing to do with the archive.
        Some(ImportError::Parse { .. } | ImportError::NotAllowed { .. } | ImportError::Change(_)) => error,
        None => error,
        Some(_) => error.context(format!("cannot import {name}")),
    })?;
    terminal::print_line(&id.to_string())?;
    Ok(ExitCode::SUCCESS)
}
