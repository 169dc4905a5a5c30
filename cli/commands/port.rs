//! `slipway port`: where the ports of a container are published.

use std::process::ExitCode;

use engine::containers::config::PortBinding;
use engine::ops;

use crate::session::{Session, Threads};
use crate::{clock, terminal};

const EXAMPLES: &str = "\
Examples:
  slipway port web                  80/tcp -> 0.0.0.0:8080
  slipway port web 80               0.0.0.0:8080";

/// Show where the ports of a container are published
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Name or ID of a container
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// Only this port of the container
    #[arg(value_name = "PORT[/PROTOCOL]")]
    port: Option<String>,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let wanted = args.port.as_deref().map(port).transpose()?;
    let engine = session.engine()?;
    let ports = session.wait(Threads::One, ops::port::port(&engine, args.container.clone(), clock::now()))?;
    let Some(wanted) = wanted else {
        for (port, bindings) in &ports {
            for binding in bindings {
                terminal::print_line(&format!("{port} -> {}", address(binding)))?;
            }
        }
        return Ok(ExitCode::SUCCESS);
    };
    let found = ports.iter().find(|(port, _)| *port == wanted);
    let Some((_, bindings)) = found else {
        anyhow::bail!("no public port '{wanted}' published for {}", args.container)
    };
    for binding in bindings {
        terminal::print_line(&address(binding))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads `80` or `80/tcp`.
fn port(text: &str) -> anyhow::Result<String> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    anyhow::ensure!(number.parse::<u16>().is_ok_and(|number| number > 0), "invalid port `{text}`");
    Ok(format!("{number}/{}", protocol.to_lowercase()))
}

fn address(binding: &PortBinding) -> String {
    match binding.host_ip.contains(':') {
        true => format!("[{}]:{}", binding.host_ip, binding.host_port),
        false => format!("{}:{}", binding.host_ip, binding.host_port),
    }
}
