//! A past build as a page for a browser: a bar per step in lanes by stage, each with its log, its cache verdict and the
//! files of its layer.
//!
//! The page needs nothing but itself. All text of a build is escaped where it is written (`Page::text`), and the page's
//! policy lets only its own script and style run: a log is text, whatever it says.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use layer::{EntryKind, tar};
use oci::Digest;
use store::builds::{BuildRecord, BuildStatus, StepOutcome, StepRecord};
use store::{BuildId, Store};

const STYLE: &str = include_str!("timeline/page.css");
const SCRIPT: &str = include_str!("timeline/page.js");

/// So much of each log is in the page: its end, mostly what matters.
const LOG: u64 = 64 << 10;
/// So much of all logs.
const LOGS: u64 = 16 << 20;
/// So many files of a layer are named, the largest first.
const FILES: usize = 500;
/// So many of all layers.
const ALL_FILES: usize = 30_000;

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum TimelineError {
    #[error("cannot read a log of the build")]
    Log(#[source] io::Error),
    #[error(transparent)]
    File(#[from] store::FileError),
}

/// Writes a page to its place, whole or not at all; only its owner can read it.
///
/// # Errors
///
/// When the disk does not take it.
pub fn write(path: &Path, page: &str) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    // A leftover of a process that had our number, or somebody's trap: the name is made anew.
    let _: io::Result<()> = fs::remove_file(&temporary);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let written = file.write_all(page.as_bytes()).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The error is what counts.
        let _: io::Result<()> = fs::remove_file(&temporary);
    }
    written
}

/// Draws a build.
///
/// # Errors
///
/// When a log cannot be read. Layers that are gone are merely not listed.
pub fn page(store: &Store, build: &BuildRecord) -> Result<String, TimelineError> {
    let mut page = Page { html: String::new() };
    let name = if build.asked.tags.is_empty() { build.asked.context.clone() } else { build.asked.tags.join(", ") };
    page.head(build, &name);
    page.facts(build, &name);
    page.lanes(build);
    page.raw(concat!(
        "<div class=\"tools\" hidden><input id=\"filter\" type=\"search\" placeholder=\"Filter steps and logs\" ",
        "aria-label=\"Filter steps and logs\"><span id=\"count\" role=\"status\"></span>",
        "<button id=\"open\" type=\"button\">Open all</button><button id=\"close\" type=\"button\">Close all</button></div>\n",
    ));
    let mut room = Room { log: LOGS, files: ALL_FILES };
    for (stage, steps) in stages(build) {
        page.raw("<h2>");
        page.text(if stage.is_empty() { "Steps" } else { stage });
        page.raw("</h2>\n");
        for step in steps {
            page.step(store, build, step, &mut room)?;
        }
    }
    page.warnings(build);
    page.raw("<footer>Written by slipway. The page contacts nobody.</footer>\n<script>");
    page.raw(SCRIPT);
    page.raw("</script>\n</body>\n</html>\n");
    Ok(page.html)
}

/// How much more the page may hold.
struct Room {
    log: u64,
    files: usize,
}

/// Returns the steps by stage, in the order in which stages begin.
fn stages(build: &BuildRecord) -> Vec<(&str, Vec<&StepRecord>)> {
    let mut stages: Vec<(&str, Vec<&StepRecord>)> = Vec::new();
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for step in &build.steps {
        let at = *places.entry(step.stage()).or_insert_with(|| {
            stages.push((step.stage(), Vec::new()));
            stages.len() - 1
        });
        stages[at].1.push(step);
    }
    stages
}

struct Page {
    html: String,
}

impl Page {
    /// Adds markup of our own.
    fn raw(&mut self, html: &str) {
        self.html.push_str(html);
    }

    /// Adds text that somebody else wrote; nothing in it is markup, or draws over its surroundings.
    fn text(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '<' => self.html.push_str("&lt;"),
                '>' => self.html.push_str("&gt;"),
                '&' => self.html.push_str("&amp;"),
                '"' => self.html.push_str("&quot;"),
                '\'' => self.html.push_str("&#39;"),
                '\n' | '\t' => self.html.push(c),
                '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {}
                c if c.is_control() => {}
                c => self.html.push(c),
            }
        }
    }

    fn head(&mut self, build: &BuildRecord, name: &str) {
        let hash = |text: &str| {
            let hex = Digest::sha256(text.as_bytes()).hex().to_owned();
            let bytes = (0..hex.len() / 2).filter_map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).ok());
            format!("'sha256-{}'", BASE64_STANDARD.encode(bytes.collect::<Vec<u8>>()))
        };
        self.raw("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
        let policy = format!(
            "default-src 'none'; style-src {}; script-src {}; base-uri 'none'; form-action 'none'",
            hash(STYLE),
            hash(SCRIPT)
        );
        self.raw(&format!("<meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n"));
        self.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
        self.raw("<meta name=\"referrer\" content=\"no-referrer\">\n<title>");
        self.text(&format!("Build {} · {name}", build.id));
        self.raw("</title>\n<style>");
        self.raw(STYLE);
        self.raw("</style>\n</head>\n<body>\n");
    }

    fn facts(&mut self, build: &BuildRecord, name: &str) {
        let state = match build.status {
            BuildStatus::Completed => "done",
            BuildStatus::Error => "failed",
            BuildStatus::Canceled | BuildStatus::Interrupted => "canceled",
            BuildStatus::Running => "open",
        };
        self.raw("<h1>");
        self.text(name);
        self.raw(&format!("</h1>\n<p class=\"facts\"><span class=\"state {state}\">{}</span> ", build.status.as_str()));
        let (cached, _, all) = build.count();
        self.raw(&format!("in <b>{}</b>, {cached} of {all} steps from the cache</p>\n", took(build.seconds)));
        self.raw("<p class=\"facts\">Build <b>");
        self.text(&build.id);
        self.raw("</b> of <code>");
        self.text(&build.asked.dockerfile);
        self.raw("</code> with <code>");
        self.text(&build.asked.context);
        self.raw("</code>");
        if let Some(target) = &build.asked.target {
            self.raw(", target <code>");
            self.text(target);
            self.raw("</code>");
        }
        self.raw(", ");
        self.text(&build.asked.at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string());
        self.raw("</p>\n");
        for image in &build.images {
            self.raw("<p class=\"facts\">");
            self.text(&image.platform);
            self.raw(" <code>");
            self.text(&image.id.to_string());
            self.raw("</code></p>\n");
        }
        if let Some(error) = &build.error {
            self.raw("<p class=\"error\">");
            self.text(error);
            self.raw("</p>\n");
        }
    }

    /// Draws a lane per stage, so that one sees what ran beside what.
    fn lanes(&mut self, build: &BuildRecord) {
        self.raw("<div class=\"lanes\">\n<div class=\"lane\"><span>stage</span><svg class=\"axis\" height=\"14\" aria-hidden=\"true\">");
        for (part, anchor) in [(0.0, "start"), (0.25, "middle"), (0.5, "middle"), (0.75, "middle"), (1.0, "end")] {
            let text = took(build.seconds * part);
            self.raw(&format!("<text x=\"{}%\" y=\"11\" text-anchor=\"{anchor}\">{text}</text>", part * 100.0));
        }
        self.raw("</svg></div>\n");
        for (stage, steps) in stages(build) {
            self.raw("<div class=\"lane\"><span>");
            self.text(if stage.is_empty() { "image" } else { stage });
            self.raw("</span><svg height=\"18\">");
            for part in [0, 25, 50, 75, 100] {
                self.raw(&format!("<line class=\"grid\" x1=\"{part}%\" x2=\"{part}%\" y1=\"0\" y2=\"18\"/>"));
            }
            for step in steps {
                let Some((x, width)) = place(build, step) else { continue };
                let state = state(step).0;
                self.raw(&format!("<a href=\"#s{}\" aria-label=\"", step.number));
                let label = format!("step {}: {}, {}", step.number, first_line(step), took(step.took()));
                self.text(&label);
                self.raw(&format!(
                    "\"><rect class=\"{state}\" x=\"{x:.3}%\" width=\"{width:.3}%\" y=\"3\" height=\"12\" rx=\"2\"/><title>"
                ));
                self.text(&label);
                self.raw("</title></a>");
            }
            self.raw("</svg></div>\n");
        }
        self.raw("</div>\n");
    }

    fn step(
        &mut self,
        store: &Store,
        build: &BuildRecord,
        step: &StepRecord,
        room: &mut Room,
    ) -> Result<(), TimelineError> {
        let (class, word) = state(step);
        let number = step.number;
        let open = if class == "failed" { " open" } else { "" };
        self.raw(&format!(
            "<details class=\"step\" id=\"s{number}\"{open}><summary><span class=\"num\">{number}</span>"
        ));
        self.raw(&format!("<span class=\"state {class}\">{word}</span><span class=\"name\">"));
        // The stage stands above.
        let name = step.plan.name.split_once("] ").map_or(step.plan.name.as_str(), |(_, name)| name);
        self.text(name);
        self.raw("</span><svg height=\"12\" aria-hidden=\"true\"><rect class=\"track\" width=\"100%\" height=\"12\" rx=\"2\"/>");
        if let Some((x, width)) = place(build, step) {
            self.raw(&format!("<rect class=\"{class}\" x=\"{x:.3}%\" width=\"{width:.3}%\" height=\"12\" rx=\"2\"/>"));
        }
        let time = if step.ended.is_some() { took(step.took()) } else { "–".into() };
        self.raw(&format!("</svg><span class=\"time\">{time}</span></summary>\n<div class=\"body\">\n"));
        if let Some(error) = &step.error {
            self.raw("<p class=\"error\">");
            self.text(error);
            self.raw("</p>\n");
        }
        self.raw("<dl>");
        self.fact("Cache", &verdict(step));
        if let (Some(started), true) = (step.started, step.ended.is_some()) {
            self.fact("When", &format!("from {} for {}", took(started), took(step.took())));
        }
        if let Some((first, last)) = step.plan.lines {
            let lines = if first == last { format!("line {first}") } else { format!("lines {first} to {last}") };
            self.fact("Dockerfile", &lines);
        }
        self.needs(build, step);
        let stack = build.results.get(&step.plan.id).filter(|_| step.outcome.is_some());
        for layer in stack.iter().flat_map(|stack| &stack.layers) {
            self.fact("Layer", &format!("{} · {}", layer.diff_id.0, size(layer.blob.size)));
        }
        self.raw("</dl>\n");
        self.log(store, build, step, room)?;
        for layer in stack.iter().flat_map(|stack| &stack.layers) {
            // Only what was built here is a plain tar; a base image's files are not this build's.
            if layer.blob.digest == layer.diff_id.0 && !name.starts_with("FROM ") {
                self.files(store, &layer.blob.digest, room);
            }
        }
        self.raw("</div></details>\n");
        Ok(())
    }

    fn fact(&mut self, title: &str, text: &str) {
        self.raw(&format!("<dt>{title}</dt><dd>"));
        self.text(text);
        self.raw("</dd>");
    }

    fn needs(&mut self, build: &BuildRecord, step: &StepRecord) {
        let needed: Vec<&StepRecord> = step.plan.needs.iter().filter_map(|need| build.step_of(*need)).collect();
        if needed.is_empty() {
            return;
        }
        self.raw("<dt>Takes from</dt><dd>");
        for (at, need) in needed.iter().enumerate() {
            self.raw(if at > 0 { ", " } else { "" });
            self.raw(&format!("<a href=\"#s{}\">", need.number));
            self.text(first_line(need));
            self.raw("</a>");
        }
        self.raw("</dd>");
    }

    fn log(
        &mut self,
        store: &Store,
        build: &BuildRecord,
        step: &StepRecord,
        room: &mut Room,
    ) -> Result<(), TimelineError> {
        let Ok(id) = build.id.parse::<BuildId>() else { return Ok(()) };
        let Some(mut file) = store.builds().open_log(&id, step.number)? else { return Ok(()) };
        let length = file.seek(SeekFrom::End(0)).map_err(TimelineError::Log)?;
        let shown = length.min(LOG).min(room.log);
        room.log -= shown;
        file.seek(SeekFrom::Start(length - shown)).map_err(TimelineError::Log)?;
        let mut bytes = Vec::new();
        file.take(shown).read_to_end(&mut bytes).map_err(TimelineError::Log)?;
        if shown < length {
            self.raw("<p class=\"facts\">The last ");
            self.text(&format!("{} of {}; the whole log: ", size(shown), size(length)));
            self.raw("<code>");
            self.text(&format!("slipway history logs {id} {}", step.number));
            self.raw("</code></p>\n");
        }
        self.raw(&format!("<pre tabindex=\"0\" role=\"region\" aria-label=\"Log of step {}\">", step.number));
        self.text(&without_sequences(&String::from_utf8_lossy(&bytes)));
        self.raw("</pre>\n");
        Ok(())
    }

    /// Lists the files of a layer, if it is still here.
    fn files(&mut self, store: &Store, digest: &Digest, room: &mut Room) {
        let Some((mut files, removed)) = list(store, digest) else { return };
        let (count, bytes): (usize, u64) = (files.len(), files.iter().map(|(size, _)| size).sum());
        files.sort_by(|one, other| other.0.cmp(&one.0).then_with(|| one.1.cmp(&other.1)));
        let shown = count.min(FILES).min(room.files);
        room.files -= shown;
        let gone = if removed > 0 { format!(", and {removed} removed") } else { String::new() };
        self.raw(&format!("<details><summary>{count} files and folders, {}{gone}</summary><table>", size(bytes)));
        for (bytes, path) in &files[..shown] {
            self.raw(&format!("<tr><td>{}</td><td><code>", size(*bytes)));
            self.text(&String::from_utf8_lossy(path));
            self.raw("</code></td></tr>");
        }
        self.raw("</table>");
        if shown < count {
            self.raw(&format!("<p class=\"facts\">and {} smaller ones</p>", count - shown));
        }
        self.raw("</details>\n");
    }

    fn warnings(&mut self, build: &BuildRecord) {
        if build.warnings.is_empty() {
            return;
        }
        self.raw("<h2>Warnings</h2>\n<ul>");
        for warning in &build.warnings {
            self.raw("<li>");
            self.text(warning);
            self.raw("</li>");
        }
        self.raw("</ul>\n");
    }
}

/// Returns where a step's bar begins and how long it is, in hundredths of the build; never too short to be seen.
fn place(build: &BuildRecord, step: &StepRecord) -> Option<(f64, f64)> {
    const SHORTEST: f64 = 0.3;
    let started = step.started?;
    let whole = build.seconds.max(1e-6);
    let ended = step.ended.unwrap_or(build.seconds);
    let x = (started / whole * 100.0).clamp(0.0, 100.0 - SHORTEST);
    Some((x, ((ended - started) / whole * 100.0).clamp(SHORTEST, (100.0 - x).max(SHORTEST))))
}

/// Returns the class of a step and the word for it.
fn state(step: &StepRecord) -> (&'static str, &'static str) {
    match step.outcome {
        Some(StepOutcome::Done) => ("done", "done"),
        Some(StepOutcome::Cached) => ("cached", "cached"),
        Some(StepOutcome::Failed) => ("failed", "failed"),
        Some(StepOutcome::Canceled) => ("canceled", "canceled"),
        None if step.started.is_some() => ("open", "unfinished"),
        None => ("open", "not begun"),
    }
}

fn verdict(step: &StepRecord) -> String {
    match (step.outcome, &step.miss) {
        (Some(StepOutcome::Cached), _) => "hit: it was done before".into(),
        (_, Some(why)) => format!("miss: {why}"),
        (None, None) => "not asked".into(),
        // An image's layers are there or are pulled; the build cache has no part in it.
        _ if step.plan.name.contains("] FROM ") => "not used: an image".into(),
        (Some(_), None) => "miss".into(),
    }
}

fn first_line(step: &StepRecord) -> &str {
    step.plan.name.lines().next().unwrap_or_default()
}

/// What a layer holds: sizes and paths, and how many paths it removes.
type Held = (Vec<(u64, Vec<u8>)>, usize);

/// Reads what a layer holds; `None` when it cannot be read.
fn list(store: &Store, digest: &Digest) -> Option<Held> {
    let file = store.blobs().open(digest).ok()?.file;
    let mut reader = tar::Reader::new(io::BufReader::with_capacity(256 << 10, file));
    let (mut files, mut removed) = (Vec::new(), 0);
    while let Some(entry) = reader.next_entry().ok()? {
        let name = entry.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        if name.starts_with(layer::entry::WHITEOUT_PREFIX) {
            removed += 1;
            continue;
        }
        let size = entry.size();
        let mut path = entry.path;
        if matches!(entry.kind, EntryKind::Directory) {
            path.push(b'/');
        }
        files.push((size, path));
    }
    Some((files, removed))
}

/// Takes escape sequences out of a log, and what a carriage return went back over.
fn without_sequences(log: &str) -> String {
    let mut text = String::with_capacity(log.len());
    for line in log.split_inclusive('\n') {
        let end = if line.ends_with('\n') { "\n" } else { "" };
        let line = line.trim_end_matches(['\n', '\r']);
        let line = line.rsplit('\r').next().unwrap_or_default();
        let mut chars = line.chars().peekable();
        while let Some(c) = chars.next() {
            match (c, chars.peek()) {
                ('\x1b', Some('[')) => {
                    chars.next();
                    while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
                }
                ('\x1b', Some(']' | 'P' | 'X' | '^' | '_')) => {
                    while chars.next_if(|&c| c != '\x07' && c != '\x1b').is_some() {}
                    if chars.next() == Some('\x1b') {
                        chars.next_if_eq(&'\\');
                    }
                }
                (c, _) => text.push(c),
            }
        }
        text.push_str(end);
    }
    text
}

fn took(seconds: f64) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = match seconds {
        seconds if seconds < 1.0 => write!(text, "{:.0} ms", seconds * 1000.0),
        seconds if seconds < 60.0 => write!(text, "{seconds:.1} s"),
        seconds => write!(text, "{:.0} m {:.0} s", (seconds / 60.0).floor(), seconds % 60.0),
    };
    text
}

fn size(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
    let value = bytes as f64;
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", value / 1e6),
        _ => format!("{:.2} GB", value / 1e9),
    }
}

#[cfg(test)]
mod tests;
