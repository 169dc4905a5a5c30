//! `slipway completion`: a script that teaches a shell our commands and flags.

use std::process::ExitCode;

use clap::CommandFactory;

use crate::terminal;

const EXAMPLES: &str = "\
Examples:
  slipway completion bash > /etc/bash_completion.d/slipway
  slipway completion zsh > \"${fpath[1]}/_slipway\"
  slipway completion fish > ~/.config/fish/completions/slipway.fish";

/// Print a script that completes commands and flags in a shell
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// For which shell
    shell: clap_complete::Shell,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::args::Cli::command(), "slipway", &mut script);
    terminal::print_bytes(&script)?;
    Ok(ExitCode::SUCCESS)
}
