//! `slipway events`: what happens to containers.

use std::process::ExitCode;

use engine::ops;
use engine::ops::events::EventsOptions;
use jiff::Timestamp;

use crate::session::{Session, Threads};
use crate::template::{self, Format};
use crate::{clock, terminal, units};

/// Tell what happens to containers
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only what matches: container, event, image, label, network, type, volume
    #[arg(short, long, value_name = "NAME=VALUE")]
    filter: Vec<String>,
    /// Print JSON, or what a Go template makes of each
    #[arg(long, value_name = "FORMAT", value_parser = template::format)]
    format: Option<Format>,
    /// Also what has happened from then on
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only what happens until then
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let now = clock::now();
    let moment = |text: &Option<String>| text.as_deref().map(|text| units::parse_moment(text, now)).transpose();
    let mut options = EventsOptions {
        since: moment(&args.since).map_err(anyhow::Error::msg)?,
        until: moment(&args.until).map_err(anyhow::Error::msg)?,
        ..EventsOptions::default()
    };
    for filter in &args.filter {
        let (name, value) = filter.split_once('=').ok_or_else(|| anyhow::anyhow!("invalid filter `{filter}`"))?;
        options.filters.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let engine = session.engine()?;
    let events = ops::events::events(&engine, options, clock::now, |event| {
        let value = serde_json::to_value(&event)?;
        match &args.format {
            Some(Format::Json) => terminal::print_json(&value.to_string()),
            Some(Format::Text(template) | Format::TableOf(template)) => {
                let text = template::render(template, &value).map_err(std::io::Error::other)?;
                terminal::print_line(&text)
            }
            Some(Format::Table) | None => {
                let attributes = event.actor.attributes.iter().map(|(name, value)| format!("{name}={value}"));
                let attributes = attributes.collect::<Vec<_>>().join(", ");
                let time = Timestamp::from_nanosecond(event.time_nano.into()).unwrap_or_default();
                let time = format!("{}.{:09}Z", time.strftime("%Y-%m-%dT%H:%M:%S"), time.subsec_nanosecond());
                let line = format!("{time} {} {} {} ({attributes})", event.kind, event.action, event.actor.id);
                terminal::print_line(&terminal::printable(&line))
            }
        }
    });
    session.wait_or_drop(Threads::One, events)?;
    Ok(ExitCode::SUCCESS)
}
