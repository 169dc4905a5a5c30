//! [`Events`]: what happens to containers, one line of JSON after another, for whoever listens.
//!
//! There is no daemon that could tell, so whoever does something appends it to a file. When the file has grown, it becomes
//! `events.1`, and what was there before is forgotten.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::record::Record;

/// So many bytes of events are kept, and as many of older ones.
const MOST: u64 = 8 << 20;

/// Something that happened, as docker tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The action, in docker's old place.
    pub status: String,
    /// The ID of what it happened to, in docker's old place.
    pub id: String,
    /// The image, in docker's old place.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub from: String,
    /// `container`, `network`, `volume` or `image`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// `create`, `start`, `die`…
    #[serde(rename = "Action")]
    pub action: String,
    /// What it happened to.
    #[serde(rename = "Actor")]
    pub actor: Actor,
    /// `local`.
    pub scope: String,
    /// When, in seconds.
    pub time: i64,
    /// When, in nanoseconds.
    #[serde(rename = "timeNano")]
    pub time_nano: i64,
}

/// What something happened to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// Its ID.
    #[serde(rename = "ID")]
    pub id: String,
    /// What is known of it.
    #[serde(rename = "Attributes")]
    pub attributes: BTreeMap<String, String>,
}

impl Event {
    /// Describes what happened to something.
    pub fn new(kind: &str, action: &str, id: &str, now: Timestamp, attributes: BTreeMap<String, String>) -> Self {
        Self {
            status: action.into(),
            id: id.into(),
            from: attributes.get("image").cloned().unwrap_or_default(),
            kind: kind.into(),
            action: action.into(),
            actor: Actor { id: id.into(), attributes },
            scope: "local".into(),
            time: now.as_second(),
            time_nano: i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX),
        }
    }

    /// Describes what happened to a container.
    pub fn of_container(record: &Record, action: &str, now: Timestamp, further: &[(&str, &str)]) -> Self {
        let mut attributes = record.config.labels.clone();
        attributes.insert("image".into(), record.config.image.clone());
        attributes.insert("name".into(), record.name.clone());
        attributes.extend(further.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Self::new("container", action, &record.id, now, attributes)
    }
}

/// Where events are written and read.
#[derive(Clone, Debug)]
pub struct Events {
    path: PathBuf,
}

impl Events {
    /// Uses a file.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    fn older(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".1");
        name.into()
    }

    /// Writes an event down. That it cannot be written does not stop what it tells of.
    pub fn emit(&self, event: &Event) {
        let _: io::Result<()> = self.append(event);
    }

    fn append(&self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
        // One write, so that lines of several processes do not mix.
        file.write_all(&line)?;
        if file.metadata()?.len() > MOST {
            fs::rename(&self.path, self.older())?;
        }
        Ok(())
    }

    /// Reads what has happened and not been read yet.
    pub fn follow(&self) -> Follow {
        Follow { events: self.clone(), reader: None, partial: Vec::new(), inode: 0, begun: false }
    }
}

/// A reader of events that goes on where it was.
#[derive(Debug)]
pub struct Follow {
    events: Events,
    reader: Option<BufReader<fs::File>>,
    partial: Vec<u8>,
    inode: u64,
    begun: bool,
}

impl Follow {
    /// Starts with what happens from now on.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn skip_past(&mut self) -> io::Result<()> {
        self.begun = true;
        if self.open()?
            && let Some(reader) = &mut self.reader
        {
            reader.seek(SeekFrom::End(0))?;
        }
        Ok(())
    }

    /// Returns all events that have been written since the last call.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn read(&mut self) -> io::Result<Vec<Event>> {
        let mut events = Vec::new();
        if !self.begun {
            self.begun = true;
            if let Ok(file) = fs::File::open(self.events.older()) {
                read_lines(&mut BufReader::new(file), &mut Vec::new(), &mut events)?;
            }
        }
        if let Some(reader) = &mut self.reader {
            read_lines(reader, &mut self.partial, &mut events)?;
        }
        // Another file may have taken its place; then the old one has been read to its end.
        if self.open()? {
            self.partial.clear();
            if let Some(reader) = &mut self.reader {
                read_lines(reader, &mut self.partial, &mut events)?;
            }
        }
        Ok(events)
    }

    /// Opens the file that is there now; says whether it is another one than before.
    fn open(&mut self) -> io::Result<bool> {
        let file = match fs::File::open(&self.events.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        let inode = file.metadata()?.ino();
        if self.reader.is_some() && inode == self.inode {
            return Ok(false);
        }
        self.inode = inode;
        self.reader = Some(BufReader::new(file));
        Ok(true)
    }
}

/// Reads whole lines; what is not an event is passed over.
fn read_lines(reader: &mut impl BufRead, partial: &mut Vec<u8>, events: &mut Vec<Event>) -> io::Result<()> {
    const LONGEST: u64 = 1 << 20;
    while reader.by_ref().take(LONGEST).read_until(b'\n', partial)? > 0 {
        if partial.last() != Some(&b'\n') && partial.len() < 1 << 20 {
            return Ok(());
        }
        events.extend(serde_json::from_slice::<Event>(partial));
        partial.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(action: &str) -> Event {
        Event::new("container", action, "c", Timestamp::UNIX_EPOCH, BTreeMap::new())
    }

    #[test]
    fn what_happens_is_read_once_and_across_files() {
        let folder = tempfile::tempdir().expect("tempdir");
        let events = Events::new(&folder.path().join("events"));
        let mut all = events.follow();
        assert_eq!(all.read().expect("nothing yet"), []);
        events.emit(&event("create"));
        let mut new = events.follow();
        new.skip_past().expect("there");
        events.emit(&event("start"));
        let actions = |events: Vec<Event>| events.into_iter().map(|event| event.action).collect::<Vec<_>>();
        assert_eq!(actions(all.read().expect("read")), ["create", "start"]);
        assert_eq!(actions(new.read().expect("read")), ["start"]);
        events.emit(&event("die"));
        fs::rename(&events.path, events.older()).expect("moved");
        events.emit(&event("destroy"));
        assert_eq!(actions(all.read().expect("read")), ["die", "destroy"]);
        assert_eq!(all.read().expect("read"), []);
    }
}
