//! `slipway history ls`, `logs`, `inspect`, `rm`, `open`: the builds that were made here.

use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use engine::builds::{BuildRecord, BuildStatus, StepOutcome, StepRecord};
use engine::{Engine, past, timeline};
use jiff::Timestamp;

use super::super::ListFormat;
use crate::progress::Lines;
use crate::session::Session;
use crate::{clock, failure, table, terminal, units};

/// How the whole of a build is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum InspectFormat {
    /// For people.
    Pretty,
    /// The record, as JSON.
    Json,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum What {
    /// List the builds
    #[command(visible_alias = "list")]
    Ls {
        /// Print a table, or one JSON object per line
        #[arg(long, value_name = "FORMAT")]
        format: Option<ListFormat>,
        /// Print only IDs
        #[arg(short, long)]
        quiet: bool,
    },
    /// Print what the steps of a build printed
    Logs {
        /// The build: its ID or the beginning of it; ^0 is the last one, ^1 the one before
        #[arg(value_name = "BUILD", default_value = "^0")]
        build: String,
        /// Only this step, and just what it printed: its number, its stage, or a part of its instruction
        #[arg(value_name = "STEP")]
        step: Option<String>,
    },
    /// Tell what is known of a build
    Inspect {
        /// The build
        #[arg(value_name = "BUILD", default_value = "^0")]
        build: String,
        /// How to print it: pretty or json
        #[arg(long, value_name = "FORMAT", default_value = "pretty", hide_possible_values = true)]
        format: InspectFormat,
    },
    /// Forget builds, with their logs and the files of their failed steps
    Rm {
        /// The builds
        #[arg(value_name = "BUILD", required_unless_present = "all")]
        builds: Vec<String>,
        /// Forget all builds
        #[arg(long, conflicts_with = "builds")]
        all: bool,
    },
    /// Write a page with the timeline of a build, and print its path
    Open {
        /// The build
        #[arg(value_name = "BUILD", default_value = "^0")]
        build: String,
        /// Write the page there; `-` is standard output
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Do not show it in a browser, even on a desktop
        #[arg(long)]
        no_browser: bool,
    },
}

pub(crate) fn run(what: What, session: &Session) -> anyhow::Result<ExitCode> {
    let engine = session.engine()?;
    match what {
        What::Ls { format, quiet } => list(&engine, format, quiet)?,
        What::Logs { build, step } => logs(&engine, &build, step.as_deref())?,
        What::Inspect { build, format } => inspect(&engine, &build, format)?,
        What::Rm { builds, all } => return remove(&engine, &builds, all),
        What::Open { build, output, no_browser } => open(&engine, &build, output.as_deref(), no_browser)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A line of the list.
#[derive(serde::Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    #[serde(rename = "ID")]
    id: String,
    name: String,
    status: String,
    created_at: String,
    created_since: String,
    duration: String,
    cached_steps: usize,
    total_steps: usize,
    error: Option<String>,
}

/// Prints the builds, the newest first.
pub(crate) fn list(engine: &Engine, format: Option<ListFormat>, quiet: bool) -> anyhow::Result<()> {
    let now = clock::now();
    let rows: Vec<Row> = engine.store().builds().list()?.iter().map(|build| row(build, now)).collect();
    if quiet {
        return rows.iter().try_for_each(|row| Ok(terminal::print_line(&row.id)?));
    }
    if format == Some(ListFormat::Json) {
        return rows.iter().try_for_each(|row| Ok(terminal::print_json(&serde_json::to_string(row)?)?));
    }
    let rows = rows.into_iter().map(|row| {
        let cached = format!("{}/{}", row.cached_steps, row.total_steps);
        vec![row.id, table::shorten(&row.name, 40), row.status, row.created_since, row.duration, cached]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    terminal::print_line(&table::render(&["BUILD ID", "NAME", "STATUS", "CREATED", "DURATION", "CACHED"], &rows))?;
    Ok(())
}

fn row(build: &BuildRecord, now: Timestamp) -> Row {
    let (cached, _, total) = build.count();
    let running = build.status == BuildStatus::Running;
    let seconds = if running { now.duration_since(build.asked.at).as_secs_f64() } else { build.seconds };
    Row {
        id: build.id.clone(),
        name: name(build),
        status: build.status.as_str().into(),
        created_at: build.asked.at.to_string(),
        created_since: units::ago(Some(&build.asked.at.to_string()), now),
        duration: took(seconds) + if running { "+" } else { "" },
        cached_steps: cached,
        total_steps: total,
        error: build.error.clone(),
    }
}

/// Returns what people call a build: its tags, or else its context and stage.
fn name(build: &BuildRecord) -> String {
    if !build.asked.tags.is_empty() {
        return build.asked.tags.join(", ");
    }
    let context = Path::new(&build.asked.context);
    let last = context.file_name().map_or_else(|| build.asked.context.clone(), |name| name.to_string_lossy().into());
    match &build.asked.target {
        Some(target) => format!("{last} ({target})"),
        None => last,
    }
}

fn took(seconds: f64) -> String {
    let time = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    if seconds < 1.0 { format!("{:.0}ms", seconds * 1000.0) } else { units::took(time) }
}

fn logs(engine: &Engine, build: &str, step: Option<&str>) -> anyhow::Result<()> {
    let build = past::build(engine.store(), build)?;
    let id = build.id.parse()?;
    if let Some(text) = step {
        let step = past::step(&build, Some(text))?;
        let Some(mut log) = engine.store().builds().open_log(&id, step.number)? else { return Ok(()) };
        // A person's terminal gets text; a program gets the very bytes.
        if io::stdout().is_terminal() {
            return print_lines(&mut log, "");
        }
        let mut out = io::stdout().lock();
        io::copy(&mut log, &mut out)?;
        return Ok(out.flush()?);
    }
    for step in &build.steps {
        let number = step.number;
        terminal::print_line(&terminal::printable(&format!("#{number} {}", first_line(step))))?;
        if let Some(mut log) = engine.store().builds().open_log(&id, number)? {
            print_lines(&mut log, &format!("#{number} "))?;
        }
        let end = match step.outcome {
            Some(StepOutcome::Done) => format!("DONE {}", took(step.took())),
            Some(StepOutcome::Cached) => "CACHED".into(),
            Some(StepOutcome::Failed) => format!("ERROR: {}", step.error.as_deref().unwrap_or("failed")),
            Some(StepOutcome::Canceled) => "CANCELED".into(),
            None if step.started.is_none() => "NOT STARTED".into(),
            None if build.status == BuildStatus::Running => "RUNNING".into(),
            None => "INTERRUPTED".into(),
        };
        terminal::print_line(&terminal::printable(&format!("#{number} {end}")))?;
        if step.number < build.steps.len() {
            terminal::print_line("")?;
        }
    }
    Ok(())
}

/// Prints a log as text, in pieces: it may be long.
fn print_lines(log: &mut impl Read, before: &str) -> anyhow::Result<()> {
    let mut lines = Lines::default();
    let mut buffer = vec![0; 64 << 10];
    let mut out = io::stdout().lock();
    loop {
        let count = log.read(&mut buffer).context("cannot read the log")?;
        let whole = if count == 0 { lines.rest().into_iter().collect() } else { lines.push(&buffer[..count]) };
        for line in whole {
            writeln!(out, "{before}{line}")?;
        }
        if count == 0 {
            return Ok(out.flush()?);
        }
    }
}

fn first_line(step: &StepRecord) -> &str {
    step.plan.name.lines().next().unwrap_or_default()
}

fn inspect(engine: &Engine, build: &str, format: InspectFormat) -> anyhow::Result<()> {
    let build = past::build(engine.store(), build)?;
    if format == InspectFormat::Json {
        return Ok(terminal::print_json(&serde_json::to_string_pretty(&build)?)?);
    }
    let (cached, ended, all) = build.count();
    let mut lines = vec![("Build", build.id.clone()), ("Name", name(&build)), ("Status", build.status.as_str().into())];
    lines.extend(build.error.clone().map(|error| ("Error", error)));
    lines.push(("Context", build.asked.context.clone()));
    lines.push(("Dockerfile", build.asked.dockerfile.clone()));
    lines.extend(build.asked.target.clone().map(|target| ("Target", target)));
    lines.push(("Created", build.asked.at.to_string()));
    lines.push(("Duration", took(build.seconds)));
    lines.push(("Steps", format!("{all}, of which {ended} ended and {cached} came from the cache")));
    lines.extend(build.images.iter().map(|image| ("Image", format!("{} {}", image.platform, image.id))));
    lines.extend(build.warnings.iter().map(|warning| ("Warning", warning.clone())));
    for (title, text) in lines {
        terminal::print_line(&format!("{:<12}{}", format!("{title}:"), terminal::printable(&text)))?;
    }
    let rows = build.steps.iter().map(|step| {
        let state = match step.outcome {
            Some(StepOutcome::Done) => "done",
            Some(StepOutcome::Cached) => "cached",
            Some(StepOutcome::Failed) => "failed",
            Some(StepOutcome::Canceled) => "canceled",
            None if step.started.is_some() => "unfinished",
            None => "not started",
        };
        let at = step.started.map(took).unwrap_or_default();
        let time = if step.ended.is_some() { took(step.took()) } else { String::new() };
        let size: u64 =
            build.results.get(&step.plan.id).map_or(0, |stack| stack.layers.iter().map(|layer| layer.blob.size).sum());
        let size = if step.outcome.is_some() && size > 0 { units::size(size) } else { String::new() };
        vec![step.number.to_string(), table::shorten(first_line(step), 60), state.into(), at, time, size]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    terminal::print_line("")?;
    terminal::print_line(&table::render(&["#", "STEP", "STATE", "AT", "TOOK", "LAYERS"], &rows))?;
    Ok(())
}

fn remove(engine: &Engine, builds: &[String], all: bool) -> anyhow::Result<ExitCode> {
    let store = engine.store();
    if all {
        for id in store.builds().ids()? {
            if store.builds().remove(&id)? {
                terminal::print_line(id.as_str())?;
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut code = ExitCode::SUCCESS;
    let one = |text: &String| -> anyhow::Result<String> {
        let id = past::build(store, text)?.id;
        anyhow::ensure!(store.builds().remove(&id.parse()?)?, "build {id} is still running");
        Ok(id)
    };
    // Found before any is removed, because `^1` means another one afterwards.
    let ids: Vec<anyhow::Result<String>> = builds.iter().map(|text| Ok(past::build(store, text)?.id)).collect();
    for id in ids {
        match id.and_then(|id| one(&id)) {
            Ok(id) => terminal::print_line(&id)?,
            Err(error) => {
                failure::note_error(&error);
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

fn open(engine: &Engine, build: &str, output: Option<&Path>, no_browser: bool) -> anyhow::Result<()> {
    let build = past::build(engine.store(), build)?;
    let page = timeline::page(engine.store(), &build)?;
    if output == Some(Path::new("-")) {
        return Ok(terminal::print_bytes(page.as_bytes())?);
    }
    let path = match output {
        Some(path) => std::path::absolute(path)?,
        None => engine.store().layout().build_page(&build.id.parse()?),
    };
    timeline::write(&path, &page).with_context(|| format!("cannot write `{}`", path.display()))?;
    terminal::print_line(&path.display().to_string())?;
    let desktop = ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some());
    if desktop && !no_browser && io::stdout().is_terminal() {
        browse(&path);
    }
    Ok(())
}

/// Shows a page in the person's browser, if there is one; the path is printed anyhow.
#[expect(clippy::disallowed_methods, reason = "a browser is the person's own, and nothing needs it")]
fn browse(page: &Path) {
    let mut command = std::process::Command::new("xdg-open");
    command.arg(page).stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    // Without xdg-open there is the path.
    let _: io::Result<std::process::Child> = command.stderr(std::process::Stdio::null()).spawn();
}
