//! Notes that requests to a bucket are sent again: whoever watches a server learns why it is slow before it fails.

use std::fmt::{self, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::terminal;

/// A bucket that is not to be reached fails many requests at once: not each is worth a line.
const ONE_IN: Duration = Duration::from_secs(1);

/// Prints what the client of buckets says of retries, and nothing else.
#[derive(Default)]
struct Retries {
    noted: Mutex<Option<Instant>>,
}

/// Begins to note them, once in a process.
pub(crate) fn note() {
    // Should somebody listen already, they are told there.
    let _ = tracing::subscriber::set_global_default(Retries::default());
}

impl Subscriber for Retries {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target() == "object_store::client::retry"
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }

    fn event(&self, event: &Event<'_>) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.is_some_and(|noted| noted.elapsed() < ONE_IN) {
            return;
        }
        *noted = Some(Instant::now());
        let mut message = Message::default();
        event.record(&mut message);
        terminal::note(&terminal::printable(&format!("a request to the bucket is sent again: {}", message.0)));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// What an event says.
#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // Writing to a text does not fail.
            let _ = write!(self.0, "{value:?}");
        }
    }
}
