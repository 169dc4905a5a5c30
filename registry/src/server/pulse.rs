//! [`Pulse`]: whether a connection still serves anybody.
//!
//! A connection may be silent while we work on what it asked for, and may take its time with an answer. But when
//! nothing is worked on and no answer gets on, nobody may be there, and whoever waits for its place should have it:
//! whatever it said before, in whichever version of HTTP.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::time::Instant;

/// What is written with fewer bytes than this at once is no part of an answer that gets on, but talk about the
/// connection, which HTTP/2 goes on with beside answers that do not.
const TALK: usize = 256;

/// Tells how long a connection has been still. Clones are of the same connection.
#[derive(Clone, Debug)]
pub(crate) struct Pulse(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// How many requests, or parts of answers, are being worked on.
    working: usize,
    /// When it last did anything.
    last: Instant,
}

impl Pulse {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(State { working: 0, last: Instant::now() })))
    }

    /// Says that it just did something.
    pub(crate) fn beat(&self) {
        self.change(|_| {});
    }

    /// Says that the peer took so many bytes.
    pub(crate) fn written(&self, count: usize) {
        if count >= TALK {
            self.beat();
        }
    }

    /// Says that something is worked on, until what is returned is dropped.
    pub(crate) fn work(&self) -> Working {
        self.change(|state| state.working += 1);
        Working(self.clone())
    }

    /// Waits until it has been still for so long.
    pub(crate) async fn still(&self, patience: Duration) {
        loop {
            let wake = {
                let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                // When work ends, that is at least as late as now.
                (if state.working > 0 { Instant::now() } else { state.last }) + patience
            };
            if wake <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(wake).await;
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        state.last = Instant::now();
    }
}

/// Something that is worked on.
#[derive(Debug)]
pub(crate) struct Working(Pulse);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.change(|state| state.working -= 1);
    }
}

/// The body of an answer: while the peer waits for it, and not it for the peer, it is worked on.
pub(crate) struct Answer {
    body: Body,
    pulse: Pulse,
    working: Option<Working>,
}

impl Answer {
    pub(crate) fn new(body: Body, pulse: Pulse) -> Self {
        Self { body, pulse, working: None }
    }
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match polled {
            Poll::Ready(_) => self.working = None,
            Poll::Pending if self.working.is_none() => self.working = Some(self.pulse.work()),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
