//! A build on a terminal: what runs and what it prints last, what waits for what, what is pulled, and in the end where the
//! time went.
//!
//! ```text
//! [+] Building 3.2s (4/7) · 1 running · 1 cached
//!  => [build 1/3] FROM debian:12                                   0.0s
//!  => CACHED [build 2/3] RUN apt-get install -y gcc                0.0s
//!  => [build 3/3] RUN make                                         2.1s
//!  => => cc -O2 -c parse.c
//!  .. [stage-1 2/2] COPY --from=build /app /  waits for [build 3/3]
//! ```
//!
//! Drawn ten times a second by a thread of its own, over what it drew before.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use builder::{BuildEvent, BuildEvents, Outcome, StepId};
use oci::{Descriptor, Digest};
use registry::client::{BlobState, RequestError, TransferEvents};
use unicode_width::UnicodeWidthStr;

use super::View;
use super::steps::{Lines, Step, Steps};
use crate::{table, terminal, units};

const TICK: Duration = Duration::from_millis(100);
/// How many lines of its output a running step shows, when there is room.
const TAIL: usize = 6;
/// How many blobs that are on their way are shown.
const TRANSFERS: usize = 6;
/// Of a build with more steps, the end does not show each one that was cached.
const MANY: usize = 40;
/// Only of a build that took so long somebody wants to know where the time went.
const LONG: Duration = Duration::from_secs(1);

/// The live view.
pub(crate) struct Live {
    shared: Arc<Shared>,
    drawing: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

struct State {
    began: Instant,
    /// How long the build took, once it is over.
    took: Option<Duration>,
    steps: Steps,
    lines: HashMap<(StepId, bool), Lines>,
    transfers: BTreeMap<Digest, Transfer>,
    over: bool,
    /// Whether something else has the terminal.
    paused: bool,
    /// How wide each line of the screen is that is ours.
    drawn: Vec<usize>,
}

struct Transfer {
    text: String,
    done: u64,
    total: u64,
}

impl Live {
    /// Starts to draw.
    pub(crate) fn start() -> Self {
        let shared = Arc::new(Shared { state: Mutex::new(State::new()), wake: Condvar::new() });
        let drawer = shared.clone();
        let drawing = std::thread::spawn(move || {
            let mut state = drawer.lock();
            while !state.over {
                state.draw();
                let waited = drawer.wake.wait_timeout(state, TICK);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            state.draw();
        });
        Self { shared, drawing: Mutex::new(Some(drawing)) }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            took: None,
            steps: Steps::default(),
            lines: HashMap::new(),
            transfers: BTreeMap::new(),
            over: false,
            paused: false,
            drawn: Vec::new(),
        }
    }

    fn draw(&mut self) {
        if self.paused {
            return;
        }
        let (columns, rows) = (terminal::columns(), terminal::rows());
        let lines = self.compose(columns, rows.saturating_sub(2));
        // In one piece, so that nobody sees half a picture: back to our first line, each line anew, and nothing below.
        let mut text = "\x1b[?2026h".to_owned();
        let above = rows_taken(&self.drawn, columns).min(rows.saturating_sub(1));
        if above > 0 {
            text.push_str(&format!("\x1b[{above}A\r"));
        }
        for line in &lines {
            text.push_str(line);
            text.push_str("\x1b[K\n");
        }
        text.push_str("\x1b[J\x1b[?2026l");
        self.drawn = lines.iter().map(|line| terminal::printable(line).width()).collect();
        terminal::write(&text);
    }

    fn compose(&self, columns: usize, rows: usize) -> Vec<String> {
        let room = if self.over { usize::MAX } else { rows.saturating_sub(1) };
        let mut lines = vec![String::new()];
        let hidden =
            if self.over { self.compose_end(columns, &mut lines) } else { self.fit(columns, room, &mut lines) };
        lines[0] = table::shorten(&self.title(hidden), columns);
        lines
    }

    fn title(&self, hidden: usize) -> String {
        let (ended, all) = self.steps.count();
        let took = units::took(self.took.unwrap_or_else(|| self.began.elapsed()));
        let count = |wanted: &dyn Fn(&Step) -> bool| self.steps.all.iter().filter(|step| wanted(step)).count();
        let mut title = format!("[+] Building {took} ({ended}/{all})");
        let mut add = |count: usize, word: &str| {
            if count > 0 {
                title.push_str(&format!(" · {count} {word}"));
            }
        };
        if !self.over {
            add(count(&|step| step.started.is_some() && step.ended.is_none()), "running");
        }
        add(count(&|step| matches!(step.ended, Some((Outcome::Cached, _)))), "cached");
        add(hidden, "not shown");
        if self.over {
            title.push_str(" FINISHED");
        }
        title
    }

    /// Composes a picture that fits, and returns how many steps are not in it. What runs comes first, with the last lines
    /// that it printed; then what is fetched, what ended last, and what waits.
    fn fit(&self, columns: usize, room: usize, lines: &mut Vec<String>) -> usize {
        let all = &self.steps.all;
        let running: Vec<usize> = (0..all.len()).filter(|at| is_running(&all[*at])).collect();
        let transfers = self.transfers.len().min(TRANSFERS);
        let tails = |most: usize| running.iter().map(|at| all[*at].tail.len().min(most)).sum::<usize>();
        let need = |most: usize| running.len() + tails(most) + transfers;
        let tail = (1..=TAIL).rev().find(|most| need(*most) <= room).unwrap_or(0);
        let mut shown: Vec<usize> = running.iter().copied().take(room).collect();
        let mut left = room.saturating_sub(need(tail));
        let ended = (0..all.len()).rev().filter(|at| all[*at].ended.is_some());
        // Where there is little room, what waits gets a third of it.
        let waiting: Vec<usize> = (0..all.len()).filter(|at| is_waiting(&all[*at])).collect();
        let for_waiting = waiting.len().min(left.div_ceil(3));
        let before = shown.len();
        shown.extend(ended.take(left - for_waiting));
        left -= shown.len() - before;
        shown.extend(waiting.into_iter().take(left));
        shown.sort_unstable();
        for step in shown.iter().map(|at| &all[*at]) {
            if is_waiting(step) {
                lines.push(self.waiting(step, columns));
                continue;
            }
            lines.push(line(step, columns));
            if is_running(step) {
                let from = step.tail.len().saturating_sub(tail);
                let tail = step.tail[from..].iter();
                lines.extend(tail.map(|line| paint(table::shorten(&format!(" => => {line}"), columns), "2")));
            }
        }
        for transfer in self.transfers.values().take(transfers) {
            let size = match transfer.total {
                0 => String::new(),
                total => format!(" {}/{}", units::size(transfer.done), units::size(total)),
            };
            lines.push(table::shorten(&format!(" => => {}{size}", transfer.text), columns));
        }
        lines.truncate(room + 1);
        all.len() - shown.len()
    }

    /// Composes the last picture, and returns how many steps are not in it.
    fn compose_end(&self, columns: usize, lines: &mut Vec<String>) -> usize {
        let all = &self.steps.all;
        let folds = |step: &Step| all.len() > MANY && matches!(step.ended, Some((Outcome::Cached, _)));
        // What never began is not worth a line: the error says why.
        let shown = all.iter().filter(|step| step.started.is_some() || step.ended.is_some());
        lines.extend(shown.clone().filter(|step| !folds(step)).map(|step| line(step, columns)));
        let folded = shown.filter(|step| folds(step)).count();
        if folded > 0 {
            lines.push(paint(table::shorten(&format!(" => CACHED {folded} steps"), columns), "36"));
        }
        folded
    }

    fn waiting(&self, step: &Step, columns: usize) -> String {
        let needed = self.steps.waits_for(step);
        let mut text = format!(" .. {}", step.name);
        if let Some((first, others)) = needed.split_first() {
            let more = if others.is_empty() { String::new() } else { format!(" and {} more", others.len()) };
            let waits = format!("  waits for {}{more}", place(&first.name));
            text = table::shorten(&text, columns.saturating_sub(waits.width()).max(columns / 3));
            text.push_str(&waits);
        }
        paint(table::shorten(&text, columns), "2")
    }

    /// Tells where the time went: the steps that took most of it.
    fn summary(&self, columns: usize) -> Option<String> {
        let took = self.took?;
        let done = |step: &&Step| matches!(step.ended, Some((Outcome::Done | Outcome::Failed { .. }, _)));
        let mut worked: Vec<&Step> = self.steps.all.iter().filter(done).collect();
        if took < LONG || worked.len() < 2 {
            return None;
        }
        worked.sort_by_key(|step| std::cmp::Reverse(time(step)));
        let bytes: u64 = worked.iter().map(|step| step.bytes).sum();
        let mut text = format!("Where {} went:", units::took(took));
        for step in worked.iter().take(3).filter(|step| time(step).as_secs_f64() > took.as_secs_f64() / 100.0) {
            let share = time(step).as_secs_f64() / took.as_secs_f64() * 100.0;
            let line = format!("  {:>8} {share:>3.0}%  {}", units::took(time(step)), step.name);
            text.push_str(&format!("\n{}", table::shorten(&line, columns)));
        }
        let cached = self.steps.all.iter().filter(|step| matches!(step.ended, Some((Outcome::Cached, _)))).count();
        let all = self.steps.all.len();
        text.push_str(&format!("\n  {cached} of {all} steps from the cache, {} of new layers", units::size(bytes)));
        Some(text)
    }
}

fn is_running(step: &Step) -> bool {
    step.started.is_some() && step.ended.is_none()
}

fn is_waiting(step: &Step) -> bool {
    step.started.is_none() && step.ended.is_none()
}

fn time(step: &Step) -> Duration {
    match (&step.ended, step.started) {
        (Some((_, took)), _) => *took,
        (None, Some(started)) => started.elapsed(),
        (None, None) => Duration::ZERO,
    }
}

/// Returns what stands in brackets before an instruction: `[build 3/5]`.
fn place(name: &str) -> &str {
    name.find(']').map_or(name, |end| &name[..=end])
}

/// Returns how many rows lines take on a terminal that may have become narrower since they were drawn, and so wraps them.
fn rows_taken(widths: &[usize], columns: usize) -> usize {
    widths.iter().map(|width| width.div_ceil(columns.max(1)).max(1)).sum()
}

fn paint(text: String, code: &str) -> String {
    if code.is_empty() || !terminal::has_color() { text } else { format!("\x1b[{code}m{text}\x1b[0m") }
}

/// The line of a step that has begun: how it stands, its name, what it made and how long it took.
fn line(step: &Step, columns: usize) -> String {
    let (word, color) = match &step.ended {
        Some((Outcome::Cached, _)) => ("CACHED ", "36"),
        Some((Outcome::Failed { .. }, _)) => ("ERROR ", "31"),
        Some((Outcome::Cancelled, _)) => ("CANCELED ", "33"),
        Some((Outcome::Done, _)) => ("", "34"),
        None => ("", ""),
    };
    let made = match step.ended {
        Some((Outcome::Done, _)) if step.bytes > 0 && columns >= 60 => format!("{}  ", units::size(step.bytes)),
        _ => String::new(),
    };
    let right = format!("{made}{:>5}", units::took(time(step)));
    let width = columns.saturating_sub(right.width() + 1);
    let text = table::shorten(&format!(" => {word}{}", step.name), width);
    paint(format!("{} {right}", table::pad(&text, width)), color)
}

impl View for Live {
    fn finish(&self) {
        {
            let mut state = self.shared.lock();
            state.over = true;
            state.took = Some(state.began.elapsed());
        }
        self.shared.wake.notify_all();
        let drawing = self.drawing.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(drawing) = drawing else { return };
        // If it panicked, there is one picture less.
        let _: std::thread::Result<()> = drawing.join();
        let state = self.shared.lock();
        if let Some(summary) = state.summary(terminal::columns()) {
            terminal::note(&format!("\n{summary}"));
        }
        if let Some(warnings) = state.steps.warnings() {
            terminal::note(&format!("\n{warnings}"));
        }
    }

    fn pause(&self) {
        let mut state = self.shared.lock();
        state.draw();
        state.paused = true;
    }

    fn resume(&self) {
        let mut state = self.shared.lock();
        state.paused = false;
        // What stands on the screen now is somebody else's.
        state.drawn.clear();
    }
}

impl BuildEvents for Live {
    fn event(&self, event: BuildEvent<'_>) {
        let mut state = self.shared.lock();
        match event {
            BuildEvent::Planned { steps } => state.steps.plan(&steps),
            BuildEvent::StepStarted { id } => state.steps.get(id).started = Some(Instant::now()),
            BuildEvent::Output { id, stream, bytes } => {
                let key = (id, stream == builder::Stream::Stderr);
                let lines = state.lines.entry(key).or_default().push(bytes);
                let tail = &mut state.steps.get(id).tail;
                tail.extend(lines);
                let much = tail.len().saturating_sub(TAIL);
                tail.drain(..much);
            }
            BuildEvent::Made { id, layers, .. } => {
                state.steps.made(id, layers.iter().map(|(_, blob)| blob.size).sum());
            }
            BuildEvent::StepFinished { id, outcome, took } => {
                for key in [(id, false), (id, true)] {
                    state.lines.remove(&key);
                }
                let step = state.steps.get(id);
                // The error shows the last lines of the one that failed.
                step.tail = Vec::new();
                step.ended = Some((outcome, took));
            }
            BuildEvent::Missed { .. } => {}
            BuildEvent::Warning { message, lines } => state.steps.warn(&message, lines.as_ref()),
        }
    }
}

impl TransferEvents for Live {
    fn started(&self, _: &Descriptor) {}

    fn state(&self, digest: &Digest, state: &BlobState) {
        let mut shared = self.shared.lock();
        if state.is_final() {
            shared.transfers.remove(digest);
        } else if let Some(transfer) = shared.transfers.get_mut(digest) {
            transfer.text = terminal::printable(&format!("{}: {state}", digest.short()));
        }
    }

    fn progress(&self, digest: &Digest, done: u64, total: u64) {
        let mut shared = self.shared.lock();
        let transfer = shared.transfers.entry(digest.clone()).or_insert_with(|| Transfer {
            text: digest.short().to_owned(),
            done,
            total,
        });
        (transfer.done, transfer.total) = (done, total);
    }

    fn retry(&self, digest: &Digest, wait: Duration, error: &RequestError) {
        let text = super::retrying(digest, wait, error);
        self.shared.lock().transfers.insert(digest.clone(), Transfer { text, done: 0, total: 0 });
    }
}

#[cfg(test)]
mod tests {
    use builder::PlannedStep;

    use super::*;

    fn planned(number: usize, name: &str, needs: &[usize]) -> PlannedStep {
        PlannedStep {
            id: StepId(number),
            name: name.into(),
            needs: needs.iter().copied().map(StepId).collect(),
            below: None,
            lines: None,
            surroundings: None,
            mounts: Vec::new(),
        }
    }

    fn state() -> State {
        let mut state = State::new();
        state.steps.plan(&[
            planned(0, "[1/3] FROM debian:12", &[]),
            planned(1, "[2/3] RUN make", &[0]),
            planned(2, "[3/3] COPY --from=somewhere far away", &[1]),
        ]);
        state.steps.get(StepId(0)).ended = Some((Outcome::Cached, Duration::ZERO));
        state.took = Some(Duration::ZERO);
        state
    }

    #[test]
    fn a_build_that_is_over_fits_its_terminal() {
        let mut state = state();
        let failed = Outcome::Failed { message: "no".into() };
        state.steps.get(StepId(1)).ended = Some((failed, Duration::from_millis(2100)));
        state.over = true;
        insta::assert_snapshot!(state.compose(40, 20).join("\n"), @r"
        [+] Building 0.0s (2/3) · 1 cached FINI…
         => CACHED [1/3] FROM debian:12     0.0s
         => ERROR [2/3] RUN make            2.1s
        ");
    }

    #[test]
    fn what_runs_shows_its_output_and_what_waits_says_for_what() {
        let mut state = state();
        state.steps.get(StepId(1)).started = Some(Instant::now());
        state.steps.get(StepId(1)).tail = vec!["one".into(), "a line that is longer than the terminal is wide".into()];
        insta::assert_snapshot!(state.compose(40, 20).join("\n"), @r"
        [+] Building 0.0s (1/3) · 1 running · 1…
         => CACHED [1/3] FROM debian:12     0.0s
         => [2/3] RUN make                  0.0s
         => => one
         => => a line that is longer than the t…
         .. [3/3] COPY --from=…  waits for [2/3]
        ");
    }

    #[test]
    fn a_small_screen_shows_what_runs_first() {
        let mut state = state();
        state.steps.get(StepId(1)).started = Some(Instant::now());
        state.steps.get(StepId(1)).tail = vec!["one".into(), "two".into()];
        for rows in 1..12 {
            assert!(state.compose(40, rows).len() <= rows.max(1), "{rows}");
        }
        let lines = state.compose(80, 3);
        assert!(lines[0].contains("2 not shown") && lines[1].contains("make") && lines[2].contains("two"), "{lines:?}");
    }

    #[test]
    fn many_steps_fit_and_the_cached_ones_are_folded_in_the_end() {
        let mut state = State::new();
        let steps: Vec<PlannedStep> = (0..1000).map(|number| planned(number, "[1/1] RUN x", &[])).collect();
        state.steps.plan(&steps);
        for number in 0..1000 {
            let step = state.steps.get(StepId(number));
            match number {
                0..900 => step.ended = Some((Outcome::Cached, Duration::ZERO)),
                900..960 => step.started = Some(Instant::now()),
                _ => {}
            }
        }
        assert_eq!(state.compose(80, 24).len(), 24);
        (state.over, state.took) = (true, Some(Duration::ZERO));
        let lines = state.compose(80, 24);
        assert!(lines.len() == 62 && lines[61].contains("CACHED 900 steps"), "{}", lines.len());
    }

    #[test]
    fn lines_that_a_narrower_terminal_wraps_take_more_rows() {
        assert_eq!(rows_taken(&[80, 10, 0], 80), 3);
        assert_eq!(rows_taken(&[80, 10, 0], 40), 4);
        assert_eq!(rows_taken(&[80, 10, 0], 30), 5);
    }

    #[test]
    fn the_longest_steps_are_named_in_the_end() {
        let mut state = state();
        for (number, seconds) in [(1, 6), (2, 3)] {
            state.steps.get(StepId(number)).ended = Some((Outcome::Done, Duration::from_secs(seconds)));
        }
        state.steps.made(StepId(1), 2_000_000);
        state.took = Some(Duration::from_secs(10));
        insta::assert_snapshot!(state.summary(80).expect("it took long"), @r"
        Where 10.0s went:
              6.0s  60%  [2/3] RUN make
              3.0s  30%  [3/3] COPY --from=somewhere far away
          1 of 3 steps from the cache, 2MB of new layers
        ");
    }
}
