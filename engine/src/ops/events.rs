//! Tells what happens to containers.

use std::io;
use std::time::Duration;

use jiff::Timestamp;
use supervisor::events::Event;

use crate::Engine;
use crate::containers;

/// What to tell.
#[derive(Clone, Debug, Default)]
pub struct EventsOptions {
    /// Also what has happened from then on.
    pub since: Option<Timestamp>,
    /// Only what happens until then.
    pub until: Option<Timestamp>,
    /// Only those for which one of the values of each name holds.
    pub filters: Vec<(String, String)>,
}

/// Why events were not told.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum EventsError {
    #[error("invalid filter '{filter}'")]
    Filter { filter: String },
    #[error("cannot read the events")]
    Read(#[source] io::Error),
}

/// The filters that there are.
const FILTERS: [&str; 9] = ["container", "event", "image", "label", "network", "scope", "type", "volume", "daemon"];

/// How often is looked for more.
const PAUSE: Duration = Duration::from_millis(50);

/// Tells what happens, for ever or until the time that was asked for.
///
/// # Errors
///
/// When there is no such filter, or nobody can be told.
pub async fn events(
    engine: &Engine,
    options: EventsOptions,
    now: fn() -> Timestamp,
    mut each: impl FnMut(Event) -> io::Result<()>,
) -> Result<(), EventsError> {
    if let Some((filter, _)) = options.filters.iter().find(|(name, _)| !FILTERS.contains(&name.as_str())) {
        return Err(EventsError::Filter { filter: filter.clone() });
    }
    let mut follow = containers::all(engine).events().follow();
    if options.since.is_none() && options.until.is_none_or(|until| until > now()) {
        follow.skip_past().map_err(EventsError::Read)?;
    }
    let nanos = |time: Timestamp| i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX);
    loop {
        let over = options.until.is_some_and(|until| until <= now());
        for event in follow.read().map_err(EventsError::Read)? {
            let in_time = options.since.is_none_or(|since| event.time_nano >= nanos(since))
                && options.until.is_none_or(|until| event.time_nano <= nanos(until));
            if in_time && matches(&event, &options.filters) {
                each(event).map_err(EventsError::Read)?;
            }
        }
        if over {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn matches(event: &Event, filters: &[(String, String)]) -> bool {
    let attribute = |name: &str| event.actor.attributes.get(name).map_or("", String::as_str);
    let holds = |name: &str, value: &str| match name {
        "container" | "network" | "volume" => {
            let is_it = event.actor.id.starts_with(value) || attribute("name") == value.trim_start_matches('/');
            event.kind == name && !value.is_empty() && is_it
        }
        // `exec_start: sh` is an `exec_start`, and `health_status: healthy` a `health_status`.
        "event" => event.action == value || event.action.split(':').next() == Some(value),
        "image" => attribute("image") == value || attribute("image").strip_suffix(":latest") == Some(value),
        "label" => match value.split_once('=') {
            Some((name, value)) => attribute(name) == value,
            None => event.actor.attributes.contains_key(value),
        },
        "scope" => event.scope == value,
        "type" => event.kind == value,
        _ => false,
    };
    let mut names: Vec<&str> = filters.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().all(|name| filters.iter().any(|(other, value)| other == name && holds(name, value)))
}
