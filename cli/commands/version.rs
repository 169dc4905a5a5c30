//! `slipway version`: what this binary is.

use std::process::ExitCode;

use crate::terminal;

/// Show the version of slipway
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print one JSON object instead
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<super::ListFormat>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let version = env!("CARGO_PKG_VERSION");
    let (os, architecture) = (std::env::consts::OS, oci::Platform::host().architecture);
    let text = match args.format {
        Some(super::ListFormat::Json) => {
            serde_json::json!({ "Version": version, "Os": os, "Arch": architecture }).to_string()
        }
        Some(super::ListFormat::Table) | None => format!("slipway version {version}, {os}/{architecture}"),
    };
    terminal::print_line(&text)?;
    Ok(ExitCode::SUCCESS)
}
