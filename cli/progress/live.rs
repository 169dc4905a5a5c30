//! A build on a terminal: each step with its running time, what it prints last, and what is pulled.
//!
//! ```text
//! [+] Building 3.2s (4/7)
//!  => [1/4] FROM debian:12                                         0.0s
//!  => CACHED [2/4] RUN apt-get install -y gcc                      0.0s
//!  => [3/4] RUN make                                               2.1s
//!  => => cc -O2 -c parse.c
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

use super::View;
use super::steps::{Lines, Step, Steps};
use crate::{table, terminal, units};

const TICK: Duration = Duration::from_millis(100);
/// How many lines of its output a running step shows.
const TAIL: usize = 6;

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
    steps: Steps,
    lines: HashMap<(StepId, bool), Lines>,
    transfers: BTreeMap<Digest, Transfer>,
    over: bool,
    /// How many lines of the screen are ours.
    drawn: usize,
}

struct Transfer {
    text: String,
    done: u64,
    total: u64,
}

impl Live {
    /// Starts to draw.
    pub(crate) fn start() -> Self {
        let state = State {
            began: Instant::now(),
            steps: Steps::default(),
            lines: HashMap::new(),
            transfers: BTreeMap::new(),
            over: false,
            drawn: 0,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), wake: Condvar::new() });
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
    fn draw(&mut self) {
        let (columns, rows) = (terminal::columns(), terminal::rows());
        let lines = self.compose(columns, rows.saturating_sub(2));
        // Back to our first line, then each line anew, and nothing below.
        let mut text = if self.drawn > 0 { format!("\x1b[{}A\r", self.drawn) } else { String::new() };
        for line in &lines {
            text.push_str(line);
            text.push_str("\x1b[K\n");
        }
        text.push_str("\x1b[J");
        self.drawn = lines.len();
        terminal::write(&text);
    }

    fn compose(&self, columns: usize, rows: usize) -> Vec<String> {
        let (ended, all) = self.steps.count();
        let took = units::took(self.began.elapsed());
        let word = if self.over { " FINISHED" } else { "" };
        let mut blocks: Vec<(bool, Vec<String>)> = Vec::new();
        for step in self.steps.all.iter().filter(|step| step.started.is_some() || step.ended.is_some()) {
            blocks.push((step.ended.is_some(), self.block(step, columns)));
        }
        // When the screen is too small, steps that are over go first, then older output.
        let mut total: usize = blocks.iter().map(|(_, lines)| lines.len()).sum();
        let room = rows.saturating_sub(1);
        let mut dropped = 0;
        while !self.over && total > room {
            let Some(at) = blocks.iter().position(|(over, _)| *over) else { break };
            total -= blocks.remove(at).1.len();
            dropped += 1;
        }
        let mut lines: Vec<String> = blocks.into_iter().flat_map(|(_, lines)| lines).collect();
        if !self.over {
            for transfer in self.transfers.values() {
                let size = format!("{}/{}", units::size(transfer.done), units::size(transfer.total));
                lines.push(table::shorten(&format!(" => => {} {size}", transfer.text), columns));
            }
            lines.truncate(room);
        }
        let more = if dropped > 0 { format!(", {dropped} not shown") } else { String::new() };
        lines.insert(0, table::shorten(&format!("[+] Building {took} ({ended}/{all}{more}){word}"), columns));
        lines
    }

    fn block(&self, step: &Step, columns: usize) -> Vec<String> {
        let (word, time, color) = match (&step.ended, step.started) {
            (Some((Outcome::Cached, took)), _) => ("CACHED ", *took, "36"),
            (Some((Outcome::Failed { .. }, took)), _) => ("ERROR ", *took, "31"),
            (Some((Outcome::Cancelled, took)), _) => ("CANCELED ", *took, "33"),
            (Some((Outcome::Done, took)), _) => ("", *took, "34"),
            (None, Some(started)) => ("", started.elapsed(), ""),
            (None, None) => ("", Duration::ZERO, ""),
        };
        let time = units::took(time);
        let width = columns.saturating_sub(time.len() + 2);
        let text = table::shorten(&format!(" => {word}{}", step.name), width);
        let line = format!("{} {time}", table::pad(&text, width));
        let paint = |text: String, code: &str| {
            if code.is_empty() || !terminal::has_color() { text } else { format!("\x1b[{code}m{text}\x1b[0m") }
        };
        let mut lines = vec![paint(line, color)];
        if step.ended.is_none() || matches!(step.ended, Some((Outcome::Failed { .. }, _))) {
            let tail = step.tail.iter().map(|line| paint(table::shorten(&format!(" => => {line}"), columns), "2"));
            lines.extend(tail);
        }
        lines
    }
}

impl View for Live {
    fn finish(&self) {
        self.shared.lock().over = true;
        self.shared.wake.notify_all();
        let drawing = self.drawing.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(drawing) = drawing else { return };
        // If it panicked, there is one picture less.
        let _: std::thread::Result<()> = drawing.join();
        if let Some(warnings) = self.shared.lock().steps.warnings() {
            terminal::note(&format!("\n{warnings}"));
        }
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
            BuildEvent::Made { .. } => {}
            BuildEvent::Missed { .. } => {}
            BuildEvent::StepFinished { id, outcome, took } => {
                for key in [(id, false), (id, true)] {
                    if let Some(rest) = state.lines.remove(&key).and_then(|mut lines| lines.rest()) {
                        state.steps.get(id).tail.push(rest);
                    }
                }
                state.steps.get(id).ended = Some((outcome, took));
            }
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

    fn state() -> State {
        let mut steps = Steps::default();
        let names = ["[1/3] FROM debian:12", "[2/3] RUN make", "[3/3] COPY . ."];
        let planned = names.iter().enumerate().map(|(number, name)| PlannedStep {
            id: StepId(number),
            name: (*name).into(),
            needs: Vec::new(),
            below: None,
            lines: None,
            surroundings: None,
            mounts: Vec::new(),
        });
        steps.plan(&planned.collect::<Vec<_>>());
        steps.get(StepId(0)).ended = Some((Outcome::Cached, Duration::ZERO));
        let failed = Outcome::Failed { message: "no".into() };
        steps.get(StepId(1)).ended = Some((failed, Duration::from_millis(2100)));
        steps.get(StepId(1)).tail.push("cc: error: a line that is longer than the terminal is wide".into());
        State { began: Instant::now(), steps, lines: HashMap::new(), transfers: BTreeMap::new(), over: true, drawn: 0 }
    }

    #[test]
    fn a_build_fits_its_terminal() {
        insta::assert_snapshot!(state().compose(40, 20).join("\n"), @r"
        [+] Building 0.0s (2/3) FINISHED
         => CACHED [1/3] FROM debian:12    0.0s
         => ERROR [2/3] RUN make           2.1s
         => => cc: error: a line that is longer…
        ");
    }

    #[test]
    fn steps_that_are_over_make_room_on_a_small_screen() {
        let mut state = state();
        state.over = false;
        state.steps.get(StepId(2)).started = Some(Instant::now());
        let lines = state.compose(40, 2);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains("2 not shown") && lines[1].contains("COPY"), "{lines:?}");
    }
}
