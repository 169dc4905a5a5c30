//! `slipway logs`: what a container printed.

use std::io::{self, Write};
use std::process::ExitCode;

use engine::containers::LogStream;
use engine::ops;
use engine::ops::logs::LogsOptions;

use crate::session::{Session, Threads};
use crate::{clock, units};

/// Show what a container printed
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or ID of a container
    container: String,
    /// Go on until the container ends
    #[arg(short, long)]
    follow: bool,
    /// Only from then on: a time, or how long ago, such as 10m
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only until then
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only the last lines; `all` shows every one
    #[arg(short = 'n', long, value_name = "NUMBER", default_value = "all", allow_hyphen_values = true)]
    tail: String,
    /// Begin each line with its time
    #[arg(short, long)]
    timestamps: bool,
    /// For docker's sake: there are no further details
    #[arg(long, hide = true)]
    details: bool,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let now = clock::now();
    let moment = |text: &Option<String>| text.as_deref().map(|text| units::parse_moment(text, now)).transpose();
    let options = LogsOptions {
        follow: args.follow,
        tail: args.tail.parse().ok(),
        since: moment(&args.since).map_err(anyhow::Error::msg)?,
        until: moment(&args.until).map_err(anyhow::Error::msg)?,
    };
    let all = ["all", "-1"].contains(&args.tail.as_str());
    anyhow::ensure!(all || options.tail.is_some(), "--tail `{}` is not a number of lines", args.tail);
    let engine = session.engine()?;
    let (mut stdout, mut stderr) = (io::stdout().lock(), io::stderr().lock());
    let logs = ops::logs::logs(&engine, args.container, options, clock::now, |line| {
        let sink: &mut dyn Write = match line.stream {
            LogStream::Stdout => &mut stdout,
            LogStream::Stderr => &mut stderr,
        };
        if args.timestamps {
            // Always with nine digits, so that lines line up.
            let time = line.time;
            write!(sink, "{}.{:09}Z ", time.strftime("%Y-%m-%dT%H:%M:%S"), time.subsec_nanosecond())?;
        }
        sink.write_all(&line.text)?;
        sink.flush()
    });
    session.wait_or_drop(Threads::One, logs)?;
    Ok(ExitCode::SUCCESS)
}
